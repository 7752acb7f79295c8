"""What the program and its jobs wrote down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text
from textual.widgets import Button, OptionList, Static
from textual.widgets.option_list import Option

from recovery.errors import RecoveryError
from tui.logs import Log, lines, logs
from tui.screens.base import PlainScreen
from tui.screens.facts import FactsScreen


class LogScreen(FactsScreen):
    """One log, from its end."""

    TITLE = "Log"
    HELP = (
        "What was written down, the newest last. The arrow keys and Page Up and Page Down go through it; Look again "
        "shows what came since. The first lines say in which file it stands, for whoever helps you."
    )
    WAITING = "Reading the log ..."

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def find(self) -> list[RenderableType]:
        """The last lines."""
        files = [Text(f"File: {file}", style="bold") for file in self._log.files]
        return [Text(self._log.name, style="bold"), *files, Text(""), Text("\n".join(lines(self._log)))]


class LogsScreen(PlainScreen[None]):
    """Which log."""

    TITLE = "Logs"
    HELP = (
        "A job is one piece of work: a capture, a restore, a copy of a disk or a check. Each has a log of its own, "
        "until the machine is restarted. This program writes down what went wrong with itself."
    )
    DEFAULT_CSS = "LogsScreen #logs { height: 1fr; }"

    def body(self) -> Iterable[Any]:
        """One of them."""
        yield Static("Which log do you want to read?", classes="text")
        yield OptionList(id="logs", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back."""
        yield Button("Back", id="back", compact=True)

    def on_mount(self) -> None:
        """Read which there are."""
        self.query_one("#logs").focus()
        self._logs: list[Log] = []
        self.run_worker(self._list())

    async def _list(self) -> None:
        try:
            self._logs = await self.recovery.ask(logs)
        except RecoveryError as error:
            self.query_one(".text", Static).update(f"The logs cannot be listed: {error.message}")
            return
        listed = self.query_one("#logs", OptionList)
        listed.add_options(Option(log.name) for log in self._logs)
        listed.highlighted = 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Show it."""
        event.stop()
        self.app.push_screen(LogScreen(self._logs[event.option_index]))
