"""Which disk of an image, the whole of it or one partition, and into which partition."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from rich.text import Text

from recovery.image.fit import misfit_of_partition
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.inventory import DiskReport, PartitionReport, shown
from recovery.units import format_bytes
from tui.images import StoredImage, disk_words
from tui.screens.choice import Choice, ChoiceScreen
from tui.widgets.disk_bar import DiskBar, content_words, segments_of_image

#: The answer that stands for the whole disk.
WHOLE: Final = "whole"

_WORDS = (
    "A disk is divided into partitions: one often holds the system, another your files, a small one starts the "
    "machine. The bar shows them in proportion, the filled part is in use."
)


class ImageDiskScreen(ChoiceScreen):
    """Which disk of an image that holds several; gives its name."""

    TITLE = "Which disk of the image?"
    HELP = (
        "The image holds several disks. They are put back one after the other, each onto a disk of its own.\n\n"
        f"{_WORDS}"
    )

    def __init__(self, image: StoredImage, *, chosen: str = "", done: Collection[str] = ()) -> None:
        """``done``: the disks that were put back already."""
        super().__init__(chosen)
        self._disks = image.manifest.disks if image.manifest else ()
        self._done = done

    def choices(self) -> Sequence[Choice]:
        """Each disk with its bar."""
        glyphs = self.recovery.terminal.glyphs
        found = []
        for disk in self._disks:
            done = "   (was put back just now)" if disk.name in self._done else ""
            bar = DiskBar(segments_of_image(disk), glyphs)
            found.append(Choice(disk.name, f"{disk_words(disk)}{done}", (bar,)))
        return found


class PartScreen(ChoiceScreen):
    """The whole disk, or one partition of it; gives ``WHOLE`` or the partition's number."""

    TITLE = "All of it, or only one partition?"
    HELP = (
        "The whole disk is what is needed when a machine is dead: afterwards it starts as it did before.\n\n"
        "One partition is for a machine that works but for it. It is put into a partition of a disk, whose table of "
        f"partitions stays as it is.\n\n{_WORDS}"
    )

    def __init__(self, record: ImageDisk, *, chosen: str = "") -> None:
        super().__init__(chosen)
        self._record = record

    def choices(self) -> Sequence[Choice]:
        """The whole first."""
        bar = DiskBar(segments_of_image(self._record), self.recovery.terminal.glyphs)
        whole = f"The whole disk {disk_words(self._record)}"
        found = [Choice(WHOLE, whole, (bar, Text("Choose this to bring back a machine.")))]
        for part in self._record.partitions:
            if part.number and part.role != "extended":
                lost = "it was left out of the image." if part.method == "left-out" else None
                found.append(Choice(str(part.number), f"Only {partition_words(part)}", problem=lost))
        return found


class TargetPartitionScreen(ChoiceScreen):
    """Which partition of a disk is overwritten; gives its number."""

    TITLE = "Which partition is overwritten?"
    HELP = (
        "What this partition holds now is lost. The other partitions of the disk stay as they are. It must be at least "
        f"as large as the one that is put into it.\n\n{_WORDS}"
    )

    def __init__(self, report: DiskReport, part: ImagePartition, sector_bytes: int, *, chosen: str = "") -> None:
        """``sector_bytes``: of the disk that was captured."""
        super().__init__(chosen)
        self._report, self._part, self._sector_bytes = report, part, sector_bytes

    def choices(self) -> Sequence[Choice]:
        """Those that are too small too, with the reason."""
        return [
            Choice(
                str(found.entry.number),
                present_words(found),
                problem=misfit_of_partition(self._report.disk, found.entry, self._part.length, self._sector_bytes),
            )
            for found in self._report.partitions
        ]


def partition_words(part: ImagePartition) -> str:
    """A captured partition in a few words."""
    what = content_words(part.content) or "unknown content"
    used = f", {format_bytes(part.used_bytes)} used" if part.method == "map" else ""
    return shown(f"partition {part.number}: {what}, {format_bytes(part.length)}{used}")


def present_words(found: PartitionReport) -> str:
    """A partition of an attached disk in a few words."""
    what = found.system or content_words(found.content)
    used = f", about {format_bytes(found.used_bytes)} used" if found.used_bytes is not None else ""
    return shown(
        f"Partition {found.entry.number}: {what or 'unknown content'}, {format_bytes(found.entry.length)}{used}"
    )
