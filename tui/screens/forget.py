"""What forgetting would remove, before it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import RenderableType
from rich.text import Text
from textual.containers import Horizontal
from textual.widgets import Input, Static

from recovery.cli.forgetting import WORD, in_words
from recovery.image.manifest import TAG
from recovery.inventory import shown
from recovery.units import format_bytes
from tui.screens.review import ReviewScreen


class ForgetReview(ReviewScreen):
    """What goes, what stays, what comes free; wants a word typed."""

    TITLE = "Review: this will be forgotten"
    START = "Forget it"
    WAITING = "Finding out what would be removed and how much space comes free. Nothing is removed before you agree ..."
    HELP = (
        "To forget a snapshot is to remove it from the repository, for ever. What only it used is removed too, and the "
        "space comes free; what other snapshots use as well stays, and each of those stays whole.\n\n"
        "A snapshot is what was saved at one time: a system image, or files. A repository is the folder that holds "
        "them.\n\n"
        "To agree, type the word that stands there and press the button beside Cancel. Anything else removes nothing. "
        "The program restic does the work; in a large repository it can take long."
    )
    DEFAULT_CSS = """
    ForgetReview #consent { height: 1; margin: 1 0 0 0; }
    ForgetReview #ask { width: auto; height: 1; }
    """

    def draw(self, plan: dict[str, Any]) -> Sequence[RenderableType]:
        """Two lists and a size."""
        gone, kept = plan.get("removed", ()), plan.get("kept", ())
        parts: list[RenderableType] = [Text("This is removed, for ever:", style="bold")]
        parts += [Text(f"  {_line(one)}") for one in gone]
        parts.append(Text(f"\nThis stays ({in_words(len(kept))}):", style="bold"))
        parts += [Text(f"  {_line(one)}") for one in reversed(kept)]
        if not kept:
            parts.append(Text("The repository will be empty: nothing that was saved in it is left.", style="yellow"))
        freed = plan.get("freed_bytes")
        known = f"About {format_bytes(freed)} will come free." if isinstance(freed, int) else _UNKNOWN
        return [*parts, Text(f"\n{known}")]

    def consent(self) -> Iterable[Any]:
        """The word, to be typed."""
        with Horizontal(id="consent"):
            yield Static(f"To agree, type {WORD} here: ", id="ask", markup=False)
            yield Input(compact=True, id="typed")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter agrees, if it is the word."""
        event.stop()
        self.agree()

    def on_input_changed(self, event: Input.Changed) -> None:
        """What was said of the word before is over."""
        event.stop()
        self.say("")

    def confirmation(self) -> str | None:
        """The word, if it is the one."""
        typed = self.query_one("#typed", Input).value.strip()
        if typed.lower() == WORD:
            return WORD
        self.say(f"Nothing was removed. Type {WORD} to remove it.")
        self.query_one("#typed").focus()
        return None


_UNKNOWN = "How much space comes free is told when it is done."


def _line(snapshot: dict[str, Any]) -> str:
    when = datetime.fromisoformat(str(snapshot.get("time"))).astimezone()
    kind = "system image" if TAG in (snapshot.get("tags") or ()) else "files"
    paths = " ".join(str(path).removeprefix("/system-image/") for path in snapshot.get("paths", ()))
    return shown(f"{when:%Y-%m-%d %H:%M}  {kind} of {snapshot.get('hostname') or 'an unnamed machine'}: {paths}")
