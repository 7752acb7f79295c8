"""The keyboard layout, with a line to try the keys in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from textual import events
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from recovery.errors import RecoveryError
from tui.keyboard import LAYOUTS, Layout, Seat, can_be_set, current_layout, keyboard_layout, seat, set_layout
from tui.screens.base import PlainScreen

__all__ = ["KeyboardScreen", "keyboard_layout"]

_ELSEWHERE = {
    Seat.CONSOLE: "This system has a keyboard layout of its own, which this program leaves as it is.",
    Seat.SERIAL: "You are connected through a serial line. The keyboard layout of the computer at its other end "
    "counts; it is changed there.",
    Seat.SSH: "You are connected from another computer. The keyboard layout of that computer counts; it is changed "
    "there.",
    Seat.BROWSER: "You see this in a browser. The keyboard layout of the computer that shows the browser counts; it is "
    "changed there.",
    Seat.WINDOW: "You see this in a window. The keyboard layout of the desktop that shows the window counts; it is "
    "changed there.",
}


class KeyboardScreen(PlainScreen[None]):
    """Choose a layout; it is set at once."""

    TITLE = "Keyboard layout"
    HELP = (
        "The keyboard layout says which character each key gives. When it is not the one that is printed on the keys, "
        "a password may be typed wrongly without anything to be seen.\n\n"
        "Choose a layout with the arrow keys and Enter; a letter jumps to the next layout that begins with it. Then "
        "type into the line below, special characters too: what you see there is what is typed everywhere else.\n\n"
        "Layouts with two scripts start with Latin letters; Alt+Shift switches between the two. The layout lasts until "
        "the machine is restarted."
    )
    DEFAULT_CSS = """
    KeyboardScreen #layouts { height: 1fr; margin: 0 0 1 0; }
    KeyboardScreen #state { height: auto; }
    """

    def body(self) -> Iterable[Any]:
        """The list, where it is ours to set; the line to try."""
        if can_be_set():
            yield Static("", id="state", markup=False)
            yield OptionList(*(Option(layout.name, id=layout.id) for layout in LAYOUTS), id="layouts", markup=False)
        else:
            yield Static(_ELSEWHERE[seat()], classes="text", markup=False)
        yield Static("Try the keys here. What you type is not kept:", markup=False)
        yield Input(id="trial")

    def buttons(self) -> Iterable[Button]:
        """Back is all: a choice holds at once."""
        yield Button("Done", id="back", compact=True)

    def on_mount(self) -> None:
        """The pointer stands on what is set."""
        if not can_be_set():
            self.query_one("#trial").focus()
            return
        layouts = self.query_one("#layouts", OptionList)
        layouts.highlighted = LAYOUTS.index(current_layout())
        layouts.focus()
        self._say(f"The keyboard is {current_layout().name} now. Choose what is printed on its keys:")

    def _say(self, sentence: str) -> None:
        self.query_one("#state", Static).update(sentence)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Set it, beside the screen's own thread."""
        event.stop()
        layout = next(layout for layout in LAYOUTS if layout.id == event.option.id)
        self.run_worker(self._set(layout), exclusive=True)

    async def _set(self, layout: Layout) -> None:
        try:
            await self.recovery.ask(set_layout, layout)
        except RecoveryError as error:
            self._say(f"The keyboard is still {current_layout().name}: {error.message}. {error.hint}")
            return
        self._say(f"The keyboard is {layout.name} now. Try it in the line below.")
        self.query_one("#trial").focus()

    def on_key(self, event: events.Key) -> None:
        """A letter jumps to the next layout that begins with it."""
        letter = event.character or ""
        if not letter.isalpha() or not isinstance(self.focused, OptionList):
            return
        event.stop()
        layouts = self.focused
        start = -1 if layouts.highlighted is None else layouts.highlighted
        for step in range(1, len(LAYOUTS) + 1):
            number = (start + step) % len(LAYOUTS)
            if LAYOUTS[number].name.lower().startswith(letter.lower()):
                layouts.highlighted = number
                return
