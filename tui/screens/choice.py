"""A list of a few things, of which one is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.screens.base import StepScreen


@dataclass(frozen=True, slots=True)
class Choice:
    """``shown`` below ``title``; ``problem``: why it cannot be chosen, None when it can."""

    name: str
    title: str
    shown: tuple[RenderableType, ...] = ()
    problem: str | None = None


class ChoiceScreen(StepScreen[str]):
    """Gives the name of what was chosen."""

    DEFAULT_CSS = """
    ChoiceScreen #choices { height: auto; max-height: 1fr; }
    """

    def __init__(self, chosen: str = "") -> None:
        """``chosen``: what was chosen before."""
        super().__init__()
        self._chosen = chosen

    def choices(self) -> Sequence[Choice]:
        """In their order."""
        raise NotImplementedError

    def body(self) -> Iterable[Any]:
        """The list."""
        yield OptionList(
            *(Option(_row(choice), id=choice.name, disabled=choice.problem is not None) for choice in self.choices()),
            id="choices",
            markup=False,
        )

    def on_mount(self) -> None:
        """The pointer at what was chosen before, else at the first that can be."""
        rows = self.query_one("#choices", OptionList)
        usable = [number for number, option in enumerate(rows.options) if not option.disabled]
        before = [number for number in usable if rows.options[number].id == self._chosen]
        rows.highlighted = next(iter((*before, *usable)), None)
        rows.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """This one."""
        event.stop()
        self.answer(event.option.id or "")


def _row(choice: Choice) -> RenderableType:
    parts: list[RenderableType] = [Text(choice.title, style="bold"), *choice.shown]
    if choice.problem:
        parts.append(Text(f"Cannot be chosen: {choice.problem}", style="yellow"))
    return Padding(Group(*parts), (0, 0, 1, 0)) if len(parts) > 1 else Group(*parts)
