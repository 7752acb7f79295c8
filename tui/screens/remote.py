"""Remote help: on, with what the other person has to type, or off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from recovery.errors import RecoveryError
from tui.keyboard import Seat, seat
from tui.modals import Question
from tui.remote import RemoteHelp, addresses, remote_help, switch_off, switch_on
from tui.screens.base import PlainScreen

_OFF = (
    "Remote help is off. Nobody can reach this machine over the network.\n\n"
    "When it is on, a person whom you tell the password can log in from another computer in the same network, and "
    "see and do all that you can see and do here, the disks of this machine included. A job that runs is seen by "
    "both of you.\n\n"
    "It is over when you switch it off, or when the machine is restarted."
)

_LOOK_SECONDS = 5.0


class RemoteScreen(PlainScreen[None]):
    """Off until it is asked for."""

    TITLE = "Remote help"
    HELP = (
        "Remote help starts a server for SSH, the usual way of working on another computer. Nothing listens before "
        "you switch it on.\n\n"
        "The other person opens a terminal (on Windows: PowerShell) and types the command that is shown, then the "
        "password, with its dashes. The password is made anew each time. Read it only to somebody you know.\n\n"
        "The first time, the other computer asks whether this machine is the right one, and shows a fingerprint: a "
        "long word by which this machine is known. It must be the same as the one shown here.\n\n"
        "Switching it off ends all connections. A capture or restore that was started goes on."
    )
    DEFAULT_CSS = """
    RemoteScreen #state { height: 1fr; }
    RemoteScreen #state Static { height: auto; }
    """

    def body(self) -> Iterable[Any]:
        """What holds now."""
        with VerticalScroll(id="state", can_focus=False):
            yield Static("", id="text", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and the switch."""
        yield Button("Back", id="back", compact=True)
        yield Button("Switch on", id="on", compact=True)
        yield Button("Switch off", id="off", compact=True)

    def on_mount(self) -> None:
        """How it is; another screen may switch it, and a cable may be plugged in later."""
        self._said, self._busy = "", False
        self._show(None, ())
        self.query_one("#back").focus()
        self.run_worker(self._look(), exclusive=True, group="look")
        self.set_interval(_LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if not self._busy:
            self.run_worker(self._look(), exclusive=True, group="look")

    async def _look(self) -> None:
        now = await self.recovery.ask(remote_help)
        self._show(now, await self.recovery.ask(addresses) if now else ())

    def _show(self, now: RemoteHelp | None, found: tuple[str, ...]) -> None:
        said = _OFF if now is None else _on(now, found)
        if said == self._said:
            return
        self._said = said
        self.query_one("#text", Static).update(said)
        self.query_one("#on").display = now is None
        self.query_one("#off").display = now is not None
        if self.focused is None or not self.focused.display:
            self.query_one("#back").focus()

    def pressed(self, name: str) -> None:
        """Switch it; off asks first."""
        if not self._busy:
            self.begin(self._switch_on if name == "on" else self._switch_off)

    async def _switch_on(self) -> None:
        self._said = "Starting the server ..."
        self.query_one("#text", Static).update(self._said)
        await self._switch(switch_on)

    async def _switch_off(self) -> None:
        text = "All who are connected are logged out, and the password holds no longer. What runs goes on."
        if seat() is Seat.SSH:
            text += "\n\nYou are connected this way yourself: your screen ends too."
        buttons = [("stay", "Leave it on"), ("off", "Switch it off")]
        if await self.app.push_screen_wait(Question("Switch remote help off?", text, buttons)) != "off":
            return
        await self._switch(switch_off)

    async def _switch(self, how: Callable[[], object]) -> None:
        self._busy = True
        try:
            await self.recovery.ask(how)
        except RecoveryError as error:
            await self.recovery.tell(error)
        finally:
            self._busy = False
        await self._look()


def _on(now: RemoteHelp, found: tuple[str, ...]) -> str:
    lines = ["Remote help is on. On the other computer, this is typed:", ""]
    lines += [f"    ssh root@{address}" for address in found]
    lines += (
        []
        if found
        else ["    This machine has no address in a network yet. Plug in a cable: the address will stand here."]
    )
    if len(found) > 1:
        lines += ["", "Each of these lines is one way; the first is the one to try first."]
    lines += ["", "The password, with its dashes:", "", f"    {now.password}"]
    if now.fingerprint:
        lines += ["", "When it asks whether to go on connecting, this is the fingerprint to compare:", ""]
        lines += [f"    {now.fingerprint}"]
    return "\n".join(lines)
