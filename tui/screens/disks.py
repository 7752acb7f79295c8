"""Which disks are captured: marks, and for one disk alone its partitions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from textual.widgets import Button, OptionList, Static
from textual.widgets.option_list import Option

from recovery.devices.disk import Disk
from recovery.inventory import DiskReport, PartitionReport, shown
from recovery.surveyor import SILENT
from recovery.units import format_bytes
from tui.glyphs import Glyphs
from tui.screens.base import PlainScreen, StepScreen
from tui.verdicts import is_dying
from tui.whereabouts import is_same
from tui.widgets.disk_bar import describe
from tui.widgets.disk_list import DiskList


@dataclass(frozen=True, slots=True)
class Sources:
    """Disks to be read; ``without``: numbers of partitions that are left out, of a single disk."""

    reports: tuple[DiskReport, ...]
    without: frozenset[int] = frozenset()

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The disks themselves."""
        return tuple(report.disk for report in self.reports)

    @property
    def used_bytes(self) -> int:
        """What may have to be read, as far as the survey knows it: of what is not known all."""
        return sum(_used(report, self.without) for report in self.reports)


#: Types of partitions that a machine is started from: EFI system partitions, and where GRUB lies for a BIOS.
_STARTING = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "21686148-6449-6e6f-744e-656564454649", "0xef")


class DisksScreen(StepScreen[Sources]):
    """Marks on disks."""

    TITLE = "Which disks are to be saved?"
    HELP = (
        "A system image is a copy of whole disks: the system, the programs and the files on them. Mark every disk that "
        "belongs to the machine; Space or Enter turns a mark. Only the parts of a disk that are in use are read, and "
        "nothing is ever written to a disk that is saved.\n\n"
        "Each disk is drawn as a bar of its partitions, the parts it is divided into. Disks on USB are not marked to "
        "begin with: the image is usually kept on one of them.\n\n"
        "'Only some partitions' is for a single disk: parts of it can be left out. What is left out is not in the "
        "image, and cannot be brought back from it."
    )
    DEFAULT_CSS = """
    DisksScreen #list { height: auto; max-height: 1fr; }
    DisksScreen #status { height: auto; }
    """

    def __init__(self, before: Sources | None = None, *, unmarked: bool = False) -> None:
        """``before``: what was chosen; ``unmarked``: only disks that are dying are marked to begin with."""
        super().__init__()
        self._before, self._unmarked = before, unmarked
        self._without = before.without if before is not None else frozenset()
        self._presented = False

    def body(self) -> Iterable[Any]:
        """The disks, and what is marked."""
        yield DiskList(self.recovery.terminal.glyphs, why_not=why_not, several=True, id="list")
        yield Static("Looking at the disks ...", id="status", markup=False)

    def buttons(self) -> Iterable[Button]:
        """On, or parts of a disk."""
        yield Button("Back", id="back", compact=True)
        yield Button("Continue", id="continue", compact=True)
        yield Button("Only some partitions ...", id="partitions", compact=True)

    def on_mount(self) -> None:
        """Follow the disks."""
        self.query_one("#list").focus()
        self.recovery.surveyed.subscribe(self, self._show)
        if self.recovery.reports is not None:
            self._show(self.recovery.reports)
        self._tell()

    def _show(self, reports: tuple[DiskReport, ...]) -> None:
        disks = self.query_one("#list", DiskList)
        disks.show(reports)
        if reports and not self._presented:
            self._presented = True
            disks.mark(self._marks(reports))
            if disks.marked:
                self.query_one("#continue").focus()
        self._tell()

    def _marks(self, reports: tuple[DiskReport, ...]) -> tuple[str, ...]:
        """What was marked before; else what is built into the machine, and holds anything that is recognised."""
        if self._before is not None:
            before = {disk.path: disk for disk in self._before.disks}
            now = [report.disk for report in reports if report.disk.path in before]
            return tuple(disk.path for disk in now if is_same(disk, before[disk.path]))
        if self._unmarked:
            dying = [report for report in reports if is_dying(report) and why_not(report) is None]
            return tuple(report.disk.path for report in dying)
        built_in = [report for report in reports if not report.disk.removable and report.disk.transport != "usb"]
        return tuple(report.disk.path for report in built_in if report.table is not None or report.content is not None)

    def on_disk_list_marked(self, event: DiskList.Marked) -> None:
        """Partitions are those of one disk."""
        event.stop()
        self._tell()

    def _sources(self) -> Sources:
        marked = self.query_one("#list", DiskList).marked
        numbers = {part.entry.number for part in parts_of(marked[0])} if len(marked) == 1 else set()
        return Sources(marked, self._without & numbers)

    def _tell(self) -> None:
        """What is marked, and what is left out."""
        sources = self._sources()
        marked, left_out = sources.reports, sorted(sources.without)
        if self.recovery.reports is None:
            words = "Looking at the disks ..."
        elif not self.recovery.reports:
            words = "No disk was found. Plug one in: it will appear here."
        elif not marked:
            words = "No disk is marked. Space marks the one under the pointer."
        else:
            names = ", ".join(shown(report.disk.name) for report in marked)
            words = f"To be saved: {names}; about {format_bytes(sources.used_bytes)} in use."
        if left_out:
            words += f" Left out: partition{'s' if len(left_out) > 1 else ''} {', '.join(map(str, left_out))}."
        self.query_one("#status", Static).update(words)
        self.query_one("#continue", Button).disabled = not marked
        several = len(marked) != 1 or len(parts_of(marked[0])) < 2
        self.query_one("#partitions", Button).disabled = several

    def pressed(self, name: str) -> None:
        """On, or to the partitions."""
        if name == "partitions":
            self.begin(self._choose_partitions)
        else:
            self.answer(self._sources())

    async def _choose_partitions(self) -> None:
        sources = self._sources()
        without = await self.recovery.push_screen_wait(PartitionsScreen(sources.reports[0], sources.without))
        if without is not None:
            self._without = without
            self._tell()
            self.query_one("#continue").focus()


class PartitionsScreen(PlainScreen[frozenset[int] | None]):
    """Marks on the partitions of a disk; gives the numbers of those that are left out."""

    TITLE = "Which partitions are to be saved?"
    HELP = (
        "A partition is a part of a disk. What is not marked is left out of the image: it cannot be brought back from "
        "it, and a machine may not start without it. Space or Enter turns a mark.\n\n"
        "Leave a partition out when it is large, and its content is kept elsewhere or not needed."
    )
    DEFAULT_CSS = "PartitionsScreen #parts { height: auto; max-height: 1fr; margin: 0 0 1 0; }"

    def __init__(self, report: DiskReport, without: frozenset[int]) -> None:
        super().__init__()
        self._parts = parts_of(report)
        self._left_out = set(without)

    def body(self) -> Iterable[Any]:
        """A line for each."""
        glyphs = self.recovery.terminal.glyphs
        yield OptionList(
            *(Option(self._line(part, glyphs), id=str(part.entry.number)) for part in self._parts),
            id="parts",
            markup=False,
        )
        yield Static("", id="status", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and what is marked."""
        yield Button("Back", id="back", compact=True)
        yield Button("Save the marked ones", id="done", compact=True)

    def on_mount(self) -> None:
        """The list first."""
        self.query_one("#parts").focus()

    def _line(self, part: PartitionReport, glyphs: Glyphs) -> str:
        mark = " " if part.entry.number in self._left_out else glyphs.chosen
        content = part.content
        what = (
            describe(part.system, content.type, content.label) if content is not None else shown(part.entry.name or "")
        )
        used = f", about {format_bytes(part.used_bytes)} in use" if part.used_bytes is not None else ""
        return f"[{mark}] {part.entry.number}: {what or 'unknown'}, {format_bytes(part.entry.length)}{used}"

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Turn the mark."""
        event.stop()
        number = int(event.option.id or 0)
        self._left_out ^= {number}
        part = next(part for part in self._parts if part.entry.number == number)
        event.option_list.replace_option_prompt(str(number), self._line(part, self.recovery.terminal.glyphs))
        needed = [
            str(part.entry.number) for part in self._parts if part.entry.number in self._left_out and _starts(part)
        ]
        which = f"partition {needed[0]}" if len(needed) == 1 else f"partitions {', '.join(needed)}"
        words = f"A machine is started from {which}: without it, the restored machine does not start." if needed else ""
        self.query_one("#status", Static).update(words)

    def on_key(self, event: Any) -> None:
        """Space is as good as Enter."""
        if event.key == "space" and isinstance(self.focused, OptionList):
            event.stop()
            self.focused.action_select()

    def pressed(self, name: str) -> None:
        """Those that are not marked are left out."""
        if len(self._left_out) == len(self._parts):
            self.query_one("#status", Static).update("No partition is marked: there would be nothing to save.")
            return
        self.dismiss(frozenset(self._left_out))


def why_not(report: DiskReport) -> str | None:
    """Why a disk cannot be captured, as far as the survey knows."""
    disk = report.disk
    if disk.boot_medium:
        return "this system was started from it."
    if SILENT in report.findings:
        return "it does not answer. It may be broken, or badly plugged in."
    if disk.in_use:
        return f"it is in use: {shown('; '.join(disk.in_use))}."
    return None


def _starts(part: PartitionReport) -> bool:
    return part.entry.type in _STARTING


def parts_of(report: DiskReport) -> list[PartitionReport]:
    """The partitions that can be left out."""
    return [part for part in report.partitions if part.entry.role != "extended"]


def _used(report: DiskReport, without: frozenset[int]) -> int:
    if report.table is None:
        return report.used_bytes if report.used_bytes is not None else report.disk.size_bytes
    parts = [part for part in parts_of(report) if part.entry.number not in without]
    return sum(_used_of_part(part) for part in parts)


def _used_of_part(part: PartitionReport) -> int:
    if part.content is not None and part.content.kind == "swap":
        return 0
    return part.used_bytes if part.used_bytes is not None else part.entry.length
