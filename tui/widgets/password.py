"""Passwords: lines that can show what they hold, and the keyboard that they are typed on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Button, Input, Static

from tui.keyboard import keyboard_layout
from tui.widgets.tick import Tick

if TYPE_CHECKING:
    from tui.app import RecoveryApp


class PasswordField(Vertical):
    """One line, or several for the same password.  ``Submitted`` is posted when Enter is pressed in the last."""

    DEFAULT_CSS = """
    PasswordField { height: auto; }
    PasswordField > Static { height: auto; }
    PasswordField #keyboard { margin: 1 0 0 0; }
    """

    class Submitted(Message):
        """The password was typed."""

    class Changed(Message):
        """Something was typed; what, stays here."""

    def __init__(self, labels: Sequence[str] = ("Password:",), *, first: str = "", id: str | None = None) -> None:
        """``first``: what the lines hold to begin with, from before."""
        super().__init__(id=id)
        self._labels, self._first = tuple(labels), first

    def compose(self) -> ComposeResult:
        """The lines, what shows them, the keyboard."""
        for number, label in enumerate(self._labels):
            yield Static(label, markup=False)
            yield Input(self._first, password=True, select_on_focus=False, id=f"password-{number}")
        yield Tick("Show what I type", id="show")
        yield from _keyboard()

    @property
    def values(self) -> tuple[str, ...]:
        """What the lines hold, from the first."""
        return tuple(line.value for line in self._lines())

    def focus_first(self) -> None:
        """Typing goes to the first line."""
        next(iter(self._lines())).focus()

    def _lines(self) -> Iterable[Input]:
        return (self.query_one(f"#password-{number}", Input) for number in range(len(self._labels)))

    def on_tick_changed(self, event: Tick.Changed) -> None:
        """Show it, or hide it."""
        event.stop()
        for line in self._lines():
            line.password = not event.tick.on

    def on_input_changed(self, event: Input.Changed) -> None:
        """Nobody else needs to be told what is typed, only that."""
        event.stop()
        self.post_message(self.Changed())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """To the next line, or done."""
        event.stop()
        lines = list(self._lines())
        number = next(number for number, line in enumerate(lines) if line is event.input)
        if number + 1 < len(lines):
            lines[number + 1].focus()
        else:
            self.post_message(self.Submitted())

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Another keyboard layout."""
        event.stop()
        app = cast("RecoveryApp", self.app)
        app.begin(self._choose_keyboard)

    async def _choose_keyboard(self) -> None:
        from tui.screens.keyboard import KeyboardScreen

        await self.app.push_screen_wait(KeyboardScreen())
        said = self.query_one("#keyboard", Static)
        said.update(_keyboard_words())
        self.focus_first()


def _keyboard() -> ComposeResult:
    yield Static(_keyboard_words(), id="keyboard", markup=False)
    yield Button("Try the keys, or change the keyboard layout", id="keyboard-button", compact=True)


def _keyboard_words() -> str:
    layout = keyboard_layout()
    if layout is None:
        return "The keyboard layout is that of the computer you sit at."
    return f"The keyboard layout (which character each key gives) is: {layout}."
