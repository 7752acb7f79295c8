"""A screen of facts that take a moment to find out: read beside the screen's own thread, and read again when asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from recovery.errors import RecoveryError
from tui.screens.base import PlainScreen


class FactsScreen(PlainScreen[None]):
    """Subclasses say how the facts are found (``find``, which may block) and what they are found for (``WAITING``)."""

    WAITING = "Looking ..."
    DEFAULT_CSS = """
    FactsScreen #facts { height: 1fr; }
    FactsScreen #facts Static { height: auto; }
    """

    def find(self) -> list[RenderableType]:
        """The facts, paragraph by paragraph.  Runs in another thread; may raise RecoveryError."""
        raise NotImplementedError

    def body(self) -> Iterable[Any]:
        """Scrolled with the arrows."""
        with VerticalScroll(id="facts"):
            yield Static(self.WAITING, id="text", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and once more."""
        yield Button("Back", id="back", compact=True)
        yield Button("Look again", id="again", compact=True)

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#facts").focus()
        self.look()

    def pressed(self, name: str) -> None:
        """Once more."""
        if name == "again":
            self.query_one("#text", Static).update(self.WAITING)
            self.look()

    def look(self) -> None:
        """Find the facts, and show them."""
        self.run_worker(self._look(), exclusive=True)

    async def _look(self) -> None:
        try:
            facts = await self.recovery.ask(self.find)
        except RecoveryError as error:
            facts = [Text(f"This could not be found out: {error.message}. {error.hint}".strip())]
        self.query_one("#text", Static).update(Group(*facts))


def paragraph(text: str, style: str = "") -> RenderableType:
    """A paragraph with an empty line below."""
    return Text(f"{text}\n", style=style)


def table(rows: Iterable[tuple[str, str]], width: int = 26) -> RenderableType:
    """What it is, and how much; a line each."""
    return Text("\n".join(f"{name:<{width}}{value}" for name, value in rows) + "\n")
