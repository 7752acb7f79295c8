"""The last look before a disk is overwritten: what it holds now, what it will become, and its name to type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual.containers import Horizontal
from textual.widgets import Button, Input, Static

from recovery.devices.disk import Disk
from recovery.errors import ExitCode
from recovery.inventory import DiskReport, shown
from recovery.jobs.watching import Watcher
from recovery.units import format_bytes
from tui.estimates import ROUGHLY, duration, write_seconds
from tui.screens.base import StepScreen
from tui.screens.review import ReviewScreen
from tui.verdicts import keeps_images
from tui.widgets.disk_bar import DiskBar, Segment
from tui.widgets.disk_list import headline
from tui.widgets.tick import Tick


@dataclass(frozen=True, slots=True)
class Overwrite:
    """What will be written over ``target``, which a request names by ``place``.

    ``becoming``: what it will look like; ``source``: what is put there, in words; ``partition``: the only one of the
    target that is overwritten; ``remarks``: what the source lacks, in sentences; ``recorded``: the place only stands
    for the disk, which cannot be told apart by it; ``source_disk``: what is read, where it is known.
    """

    target: DiskReport
    place: Path
    becoming: tuple[Segment, ...]
    source: str
    partition: int | None = None
    remarks: tuple[str, ...] = ()
    recorded: bool = False
    source_disk: Disk | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """``differential``: write only what the target lacks; ``partial``: zeros where the repository is damaged."""

    differential: bool = False
    partial: bool = False


class OverwriteReview(ReviewScreen):
    """Shows the plan of a restore or clone, and wants the short name of the disk typed."""

    TITLE = "Review: this disk will be overwritten"
    START = "Overwrite it"
    WAITING = "Looking at the disk and making the plan. Nothing is written before you agree ..."
    HELP = (
        "'Now' is what the disk holds at this moment, 'Afterwards' what it will hold: its partitions, which are the "
        "parts that it is divided into, in proportion, filled as far as they are used. Compare size, model and serial "
        "number with the label on the disk. What is there now is lost when you agree.\n\n"
        "To agree, type the short name of the disk, which stands there, and press the button beside Cancel. Anything "
        "else writes nothing.\n\n"
        "Boot entries are the list, kept by the machine itself and not by its disk, of what it can start. Where the "
        "plan speaks of them, they are put in order too, so that the machine finds the restored system.\n\n"
        "'Write only what differs' reads the disk first. It is faster when most of it is there already: when earlier "
        "work was stopped, or the same machine is put back to an earlier state."
    )
    DEFAULT_CSS = """
    OverwriteReview #consent { height: 1; margin: 1 0 0 0; }
    OverwriteReview #ask { width: auto; height: 1; }
    OverwriteReview #partial { display: none; }
    """

    def __init__(
        self,
        spawn: Callable[[], Watcher],
        overwrite: Overwrite,
        options: Options,
        keep: Callable[[Options], None],
    ) -> None:
        """``keep`` takes the options when they are changed; what ``spawn`` starts next goes by them."""
        super().__init__(spawn)
        self._overwrite, self._options, self._keep = overwrite, options, keep

    @property
    def short_name(self) -> str:
        """What is typed to agree."""
        return self._overwrite.place.name

    def draw(self, plan: dict[str, Any]) -> Sequence[RenderableType]:
        """Now, afterwards, and what else comes with it."""
        overwrite, glyphs = self._overwrite, self.recovery.terminal.glyphs
        name, number = shown(self.short_name), overwrite.partition
        lost = f"All that {name} holds now will be lost."
        if number is not None:
            lost = f"All that partition {number} of {name} holds now will be lost. Its other partitions stay."
        written_bytes = int(plan.get("written_bytes", 0))
        takes = duration(write_seconds(overwrite.target.disk, written_bytes, overwrite.source_disk))
        breaks = [f"This breaks more than the disk: {sentence}" for sentence in plan.get("breaks", ())]
        changed = _changed_content(plan, overwrite.target)
        images = keeps_images(overwrite.target)
        warnings = [*breaks, *([changed] if changed else []), *([images] if images else []), *overwrite.remarks]
        return [
            Text(headline(overwrite.target), style="bold"),
            Text(lost, style="bold"),  # before what explains it: a small screen may not show all that stands below
            *(Text(shown(sentence), style="bold yellow") for sentence in warnings),
            Text("Now:"),
            DiskBar(overwrite.target, glyphs),
            Text(f"Afterwards, from {overwrite.source}:"),
            DiskBar(overwrite.becoming, glyphs),
            Text(f"{format_bytes(written_bytes)} will be written, then read back and compared."),
            Text(f"Time: {takes}, {ROUGHLY}."),
            *(Text(shown(sentence)) for sentence in plan.get("boot", ())),
        ]

    def objection(self, plan: dict[str, Any]) -> str | None:
        """Another disk answers at this name than the one that was chosen."""
        target, seen = self._overwrite.target.disk, plan.get("target_identity") or {}
        known: dict[str, object] = {"size_bytes": target.size_bytes}
        if not self._overwrite.recorded:
            known |= {"model": target.model, "serial": target.serial, "wwn": target.wwn, "diskseq": target.diskseq}
            known |= {"file_id": target.file_id}
        if all(seen.get(name) == value for name, value in known.items()):
            return None
        return (
            f"The disk that is called {target.path} now is not the one that you chose: disks were plugged in or out "
            "meanwhile. Go back and choose once more."
        )

    def options(self) -> Iterable[Any]:
        """How much is written."""
        yield Tick(
            "Write only what differs: work that was stopped goes on where it stopped",
            on=self._options.differential,
            id="differential",
        )
        yield Tick(
            "Restore what can be had: zeros are written where the repository is damaged",
            on=self._options.partial,
            id="partial",
        )

    def consent(self) -> Iterable[Any]:
        """The name, to be typed."""
        with Horizontal(id="consent"):
            yield Static(f"To agree, type {shown(self.short_name)} here: ", id="ask", markup=False)
            yield Input(compact=True, id="typed")

    def on_mount(self) -> None:
        """One line is enough for a name."""
        self.query_one("#typed").styles.height = 1
        self.query_one("#partial").display = self._options.partial

    def on_tick_changed(self, event: Tick.Changed) -> None:
        """The plan is made anew."""
        event.stop()
        self._options = replace(self._options, **{str(event.tick.id): event.tick.on})
        self._keep(self._options)
        self.restart()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter agrees, if it is the name."""
        event.stop()
        self.agree()

    def on_input_changed(self, event: Input.Changed) -> None:
        """What was said of the name before is over."""
        event.stop()
        self.say("")

    def confirmation(self) -> str | None:
        """The name, if it is the one."""
        typed = self.query_one("#typed", Input).value.strip()
        name = self.short_name
        if typed in (name, shown(name)):
            return typed
        what = f"{shown(typed)} is not its name" if typed else "Nothing was typed"
        self.say(f"Nothing was written: {what}. Type {shown(name)} to overwrite it.")
        self.query_one("#typed").focus()
        return None

    def failed(self, codes: Sequence[int]) -> None:
        """A damaged repository may still give the rest."""
        if ExitCode.REPOSITORY_DAMAGED in codes and not self._options.partial:
            self.query_one("#partial").display = True


def _changed_content(plan: dict[str, Any], target: DiskReport) -> str:
    """What to say when the disk holds something else than when it was listed."""
    listed = {f"partition {part.entry.number}": part.content for part in target.partitions}
    if target.table is None:
        listed = {"the whole disk": target.content}
    listed_types = {where: content.type for where, content in listed.items() if content is not None}
    holds = {where: kind for where, kind in plan.get("target_holds", {}).items() if kind is not None}
    if holds == listed_types:
        return ""
    words = ", ".join(f"{where}: {kind}" for where, kind in holds.items()) or "nothing that is recognised"
    return shown(f"The disk has changed since it was listed. It holds now: {words}.")


class BreaksScreen(StepScreen[bool]):
    """The target is a part of something larger, which is named."""

    TITLE = "This disk is a part of something larger"
    HELP: ClassVar[str] = (
        "Several disks can be joined: in a RAID array, which keeps the same data on more than one of them; in an LVM "
        "volume group or a storage pool, which makes one large disk of several. Each of the disks is a member.\n\n"
        "When a member is overwritten, what the others hold may be of no use any more. If you are not sure, go back."
    )

    def __init__(self, breaks: Sequence[str]) -> None:
        """``breaks``: what breaks, in sentences."""
        super().__init__()
        self._breaks = breaks

    def body(self) -> Iterable[Any]:
        """What breaks."""
        for sentence in self._breaks:
            yield Static(shown(sentence), classes="text warning", markup=False)
        yield Static("Overwrite it only if you know that this is not needed any more.", classes="text", markup=False)

    def buttons(self) -> Iterable[Button]:
        """The harmless one first."""
        yield Button("Back", id="back", compact=True)
        yield Button("Go on all the same", id="accept", compact=True)

    def on_mount(self) -> None:
        """Harmless first."""
        self.query_one("#back").focus()

    def pressed(self, name: str) -> None:
        """It is meant."""
        self.answer(True)
