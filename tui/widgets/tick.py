"""A choice that is on or off, told by a mark and not by its colour."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static


class Tick(Static, can_focus=True):
    """``[x] label``; Space, Enter or a click turns it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space,enter", "turn", "Turn on or off", show=False)]
    DEFAULT_CSS = """
    Tick { height: auto; width: 1fr; }
    Tick:focus { text-style: bold reverse; }
    """

    class Changed(Message):
        """It was turned."""

        def __init__(self, tick: Tick) -> None:
            super().__init__()
            self.tick = tick

        @property
        def control(self) -> Tick:
            """Which one."""
            return self.tick

    def __init__(self, label: str, *, on: bool = False, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._label = label
        self.on = on

    def render(self) -> Text:
        """The mark and the words."""
        return Text(f"[{'x' if self.on else ' '}] {self._label}")

    def on_click(self, event: events.Click) -> None:
        """As Space does."""
        event.stop()
        self.action_turn()

    def action_turn(self) -> None:
        """On or off."""
        self.on = not self.on
        self.refresh()
        self.post_message(self.Changed(self))
