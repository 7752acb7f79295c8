"""Questions over a screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static


class Question(ModalScreen[str | None]):
    """Asks; gives the id of the button that was pressed, or None for Escape.  The first button has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "decline", "Back"),
        Binding("space", "press", show=False),
        Binding("up", "scroll('scroll_up')", show=False),
        Binding("down", "scroll('scroll_down')", show=False),
        Binding("pageup", "scroll('scroll_page_up')", show=False),
        Binding("pagedown", "scroll('scroll_page_down')", show=False),
    ]

    def __init__(self, title: str, text: str, buttons: Sequence[tuple[str, str]]) -> None:
        """``buttons``: id and label; the first is the one that does no harm."""
        super().__init__()
        self._title, self._text, self._buttons = title, text, buttons

    def compose(self) -> ComposeResult:
        """A frame with the text and the buttons."""
        with Vertical(id="question"):
            yield Static(self._title, id="question-title", markup=False)
            with VerticalScroll(id="question-text", can_focus=False):
                yield Static(self._text, markup=False)
            with Horizontal(classes="buttons"):
                for name, label in self._buttons:
                    yield Button(label, id=name, compact=True)
                yield Static("", id="more", markup=False)

    def on_mount(self) -> None:
        """Harmless first."""
        self.query(Button).first().focus()
        self.call_after_refresh(self._tell_of_more)

    def _tell_of_more(self) -> None:
        longer = self.query_one("#question-text").max_scroll_y > 0
        self.query_one("#more", Static).update("More text: Page Down, Page Up" if longer else "")

    def action_press(self) -> None:
        """Space is as good as Enter."""
        if isinstance(self.focused, Button):
            self.focused.press()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The answer."""
        event.stop()
        self.dismiss(event.button.id)

    def action_scroll(self, how: str) -> None:
        """The text, where it is longer than its frame."""
        getattr(self.query_one("#question-text"), how)(animate=False)

    def action_decline(self) -> None:
        """No answer."""
        self.dismiss(None)


class Note(Question):
    """Says something; one button."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__(title, text, [("close", "Close")])


class Help(Note):
    """What a screen is for, and its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("f1", "decline", "Back", show=False)]

    KEYS = (
        "\n\nKeys: Tab goes to the next part of the screen, Shift+Tab to the one before; the arrows move within a "
        "part; Enter or Space chooses; Esc goes back; F1 shows this help; F10 leaves the program. A mouse works too."
    )

    def __init__(self, title: str, text: str) -> None:
        super().__init__(f"Help: {title}", text.strip() + self.KEYS)
