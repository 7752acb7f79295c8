"""Tools: what helps a person who knows what they look for, and leaving the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from textual.app import SuspendNotSupported
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.job_words import battery_words
from tui.modals import Note, Question
from tui.screens.base import PlainScreen
from tui.screens.clock import ClockScreen
from tui.screens.health import DisksScreen
from tui.screens.keyboard import KeyboardScreen
from tui.screens.leave import leave_machine
from tui.screens.log import LogsScreen
from tui.screens.network import NetworkScreen
from tui.screens.remote import RemoteScreen
from tui.shell import open_shell


@dataclass(frozen=True, slots=True)
class _Tool:
    """``live_only``: only offered in our live system, where the machine is there for nothing else."""

    name: str
    label: str
    screen: Callable[[], Screen[Any]] | None = None
    live_only: bool = False


_TOOLS = (
    _Tool("disks", "Disks: details, and what they say of their health", DisksScreen),
    _Tool("keyboard", "Keyboard layout", KeyboardScreen),
    _Tool("network", "Network: addresses and connections", NetworkScreen),
    _Tool("remote", "Remote help: let somebody else use this program over the network", RemoteScreen, live_only=True),
    _Tool("logs", "Logs: what the program and its jobs wrote down", LogsScreen),
    _Tool("clock", "Clock: date, time and time zone", ClockScreen),
    _Tool("shell", "Shell: type commands yourself", live_only=True),
    _Tool("reboot", "Restart this machine", live_only=True),
    _Tool("poweroff", "Switch this machine off", live_only=True),
)


class ToolsScreen(PlainScreen[None]):
    """Choose one."""

    TITLE = "Tools"
    HELP = (
        "Looking at disks, the network, logs and the clock changes nothing.\n\n"
        "The shell is where commands are typed, for people who know them; disks are protected against writing there "
        "too until that is taken away on purpose. Remote help is off until you switch it on.\n\n"
        "Before this machine is restarted or switched off you are asked, and told when something still runs."
    )
    DEFAULT_CSS = """
    ToolsScreen #tools { height: auto; max-height: 1fr; margin: 0 0 1 0; }
    ToolsScreen #battery { height: auto; }
    """

    def body(self) -> Iterable[Any]:
        """Those that this machine has."""
        live = self.recovery.machine.live
        tools = [tool for tool in _TOOLS if live or not tool.live_only]
        if self.recovery.machine.recorded:
            tools = [tool for tool in tools if tool.name != "shell"]  # it would be one of another machine
        yield OptionList(*(Option(tool.label, id=tool.name) for tool in tools), id="tools", markup=False)
        yield Static("", id="battery", classes="warning", markup=False)
        if not live:
            yield Static(
                "This program does not run from its own medium here. Restarting, switching off, the shell and remote "
                "help are left to the system that runs on this machine.",
                classes="text",
                markup=False,
            )

    def on_mount(self) -> None:
        """The list first."""
        self.query_one("#tools").focus()
        self.run_worker(self._look_at_battery())

    async def _look_at_battery(self) -> None:
        level = await self.recovery.ask(self.recovery.machine.battery)
        if level is not None:
            self.query_one("#battery", Static).update(battery_words(level))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Show the tool, or do what was asked for."""
        event.stop()
        if not self.on_top:  # Enter was pressed twice
            return
        tool = next(tool for tool in _TOOLS if tool.name == event.option.id)
        if tool.screen is not None:
            self.app.push_screen(tool.screen())
        elif tool.name == "shell":
            self.begin(self._shell)
        elif tool.name == "reboot":
            self.begin(lambda: leave_machine(self.recovery, "reboot"))
        else:
            self.begin(lambda: leave_machine(self.recovery, "poweroff"))

    async def _shell(self) -> None:
        text = (
            "The screen of this program makes way for a shell, where commands are typed. What runs goes on.\n\n"
            "To come back here, type exit and press Enter."
        )
        buttons = [("stay", "Stay here"), ("go", "Open the shell")]
        if await self.app.push_screen_wait(Question("A shell", text, buttons)) != "go":
            return
        try:
            with self.app.suspend():
                open_shell()
        except SuspendNotSupported:
            text = "A shell cannot be shown here. Log in over the network, or use the machine's own screen (Alt+F2)."
            await self.app.push_screen_wait(Note("No shell here", text))
        self.refresh()
