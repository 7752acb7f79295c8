"""The clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from textual.suggester import SuggestFromList
from textual.widgets import Button, Input, Static

from recovery.errors import RecoveryError
from tui.clock import editable_now, now, set_time, set_zone, zones
from tui.screens.base import PlainScreen


class ClockScreen(PlainScreen[None]):
    """What time it is; setting it in the live system."""

    TITLE = "Clock"
    HELP = (
        "Every system image keeps the time when it was made, by this clock. When the clock is wrong, the newest "
        "image may not look like the newest.\n\n"
        "UTC is the time of the world, which has no summer time. The time zone says how far the local time is from "
        "it; type Continent/City, such as Europe/Berlin: the rest is suggested, the right arrow key takes it.\n\n"
        "What is set here holds until the machine is switched off. The clock on its main board is left as it is."
    )
    DEFAULT_CSS = """
    ClockScreen #said { height: auto; margin: 1 0 0 0; }
    """

    @property
    def _settable(self) -> bool:
        """In a live system; a recorded one has no clock of its own."""
        return self.recovery.machine.live and not self.recovery.machine.recorded

    def body(self) -> Iterable[Any]:
        """The time, and two lines to change it."""
        yield Static(now(), id="now", classes="text", markup=False)
        if not self._settable:
            yield Static("It is set in the system that runs on this machine, not here.", classes="text")
            return
        yield Static("Date and time, such as 2026-03-01 14:05:", markup=False)
        yield Input(editable_now(), id="time")
        yield Static("Time zone, such as Europe/Berlin:", markup=False)
        yield Input(id="zone")
        yield Static("", id="said", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and set."""
        yield Button("Back", id="back", compact=True)
        if self._settable:
            yield Button("Set the time", id="set-time", compact=True)
            yield Button("Set the time zone", id="set-zone", compact=True)

    def on_mount(self) -> None:
        """It goes on, once a second; seldom where drawing is slow."""
        if self._settable:
            self.run_worker(self._suggest())
        self.set_interval(10 if self.recovery.slow_line else 1, lambda: self.query_one("#now", Static).update(now()))

    async def _suggest(self) -> None:
        known = await self.recovery.ask(zones)
        self.query_one("#zone", Input).suggester = SuggestFromList(known, case_sensitive=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter sets what was typed."""
        event.stop()
        self.pressed("set-time" if event.input.id == "time" else "set-zone")

    def pressed(self, name: str) -> None:
        """Set the one or the other."""
        setter, field = (set_time, "#time") if name == "set-time" else (set_zone, "#zone")
        self.run_worker(self._set(setter, self.query_one(field, Input).value.strip()), exclusive=True)

    async def _set(self, setter: Callable[[str], None], value: str) -> None:
        said = self.query_one("#said", Static)
        try:
            await self.recovery.ask(setter, value)
        except RecoveryError as error:
            said.update(f"Nothing was changed: {error.message}. {error.hint}")
            return
        said.update("The clock was set." if setter is set_time else f"The time zone is {value} now.")
        self.query_one("#now", Static).update(now())
        self.query_one("#time", Input).value = editable_now()
