"""A disk drawn as a bar of its partitions in proportion, the used part filled, with what lives there below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from recovery.devices.probe import Content
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.inventory import DiskReport, PartitionReport, shown
from recovery.units import format_bytes
from tui.glyphs import Glyphs

#: A segment is never narrower: smaller partitions must be seen too.
_LEAST_CELLS = 2

_KINDS = {
    "swap": "swap",
    "crypto": "encrypted",
    "lvm": "LVM",
    "raid": "RAID",
    "volume": "pool",
}
_FILESYSTEMS = {"vfat": "FAT", "ntfs": "NTFS", "exfat": "exFAT", "xfs": "XFS", "BitLocker": "BitLocker"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the bar: bytes long; ``used_bytes`` None: not known.  ``gap``: no partition; ``number``: of one."""

    name: str
    length: int
    used_bytes: int | None = None
    gap: bool = False
    number: int | None = None


def segments(report: DiskReport, size_bytes: int | None = None) -> list[Segment]:
    """The disk's partitions and the gaps between them, in their order on the disk.

    ``size_bytes``: of another disk, on which they would lie as they do on this one.
    """
    size = report.disk.size_bytes if size_bytes is None else size_bytes
    if report.table is None:
        name = describe(report.system, report.content.type if report.content else "", None)
        whole = Segment(name, report.disk.size_bytes, report.used_bytes, gap=report.content is None)
        return _with_gaps([(0, whole)], size)
    partitions = [part for part in report.partitions if part.entry.role != "extended"]
    return _with_gaps(
        [
            (part.entry.offset, Segment(_name(part), part.entry.length, part.used_bytes, number=part.entry.number))
            for part in partitions
        ],
        size,
    )


def segments_of_image(record: ImageDisk, size_bytes: int | None = None) -> list[Segment]:
    """As ``segments``, of a captured disk."""
    size = record.size_bytes if size_bytes is None else size_bytes
    names = {entry.number: entry.name or "" for entry in record.table.entries} if record.table else {}
    partitions = [part for part in record.partitions if part.role != "extended"]
    if not partitions:
        content = record.content
        name = describe("", content.type, content.label) if content else ""
        return _with_gaps([(0, Segment(name, record.size_bytes, record.used_bytes, gap=content is None))], size)
    return _with_gaps([(part.offset, _captured(part, names.get(part.number, ""))) for part in partitions], size)


def _captured(part: ImagePartition, name: str) -> Segment:
    words = content_words(part.content) or shown(name) or "unknown"
    if part.method == "left-out":
        return Segment(f"left out: {words}", part.length, 0, number=part.number)
    return Segment(words, part.length, part.used_bytes if part.method == "map" else None, number=part.number)


def _with_gaps(placed: Sequence[tuple[int, Segment]], size_bytes: int) -> list[Segment]:
    """The segments at their offsets, and the gaps of a disk of ``size_bytes`` that are large enough to be seen."""
    found: list[Segment] = []
    end = 0
    for offset, segment in sorted(placed, key=lambda pair: pair[0]):
        if offset - end > size_bytes // 200:
            found.append(Segment("", offset - end, gap=True))
        found.append(segment)
        end = max(end, offset + segment.length)
    if size_bytes - end > size_bytes // 200:
        found.append(Segment("", size_bytes - end, gap=True))
    return found


def describe(system: str, kind: str, label: str | None) -> str:
    """What lives there, in a few words: a system, else the filesystem and its label."""
    if system:
        return shown(system)
    word = _FILESYSTEMS.get(kind, _KINDS.get(kind, kind))
    return shown(f"{word} {label}" if label else word)


def content_words(content: Content | None) -> str:
    """What was recognised on a partition, in a few words; empty when nothing was."""
    if content is None:
        return ""
    kind = _KINDS.get(content.kind, content.type)
    return describe("", kind, content.label if content.label != kind else None)


def _name(part: PartitionReport) -> str:
    content = part.content
    if part.system:
        return shown(part.system)
    return content_words(content) or shown(part.entry.name or "") or "unknown"


def widths(lengths: Sequence[int], cells: int) -> list[int]:
    """``cells`` shared out in proportion to ``lengths``; each gets its least share while there is room."""
    least = _LEAST_CELLS if cells >= _LEAST_CELLS * len(lengths) else 1 if cells >= len(lengths) else 0
    if not any(lengths):
        lengths = [1] * len(lengths)  # a disk that does not answer may not even have told its size
    spare, total = cells - least * len(lengths), sum(lengths)
    found, start = [], 0
    for length in lengths:
        end = start + length
        found.append(least + spare * end // total - spare * start // total)
        start = end
    return found


class DiskBar:
    """A rich renderable as wide as it may be: the bar, what its parts hold, and what was too narrow for words."""

    def __init__(self, of: DiskReport | Sequence[Segment], glyphs: Glyphs) -> None:
        self._segments = segments(of) if isinstance(of, DiskReport) else list(of)
        self._glyphs = glyphs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The bar, and the words below it."""
        room = options.max_width - len(self._segments) - 1
        bar, words = Text(self._glyphs.edge, no_wrap=True), Text(" ", no_wrap=True)
        aside: list[str] = []
        number = 0
        for segment, width in zip(
            self._segments, widths([segment.length for segment in self._segments], room), strict=True
        ):
            colour = Style(color=self._glyphs.colours[number % len(self._glyphs.colours)])
            number += not segment.gap
            bar.append(self._fill(segment, width), None if segment.gap else colour)
            bar.append(self._glyphs.edge)
            text = self._words(segment, width)
            if text is None:
                aside.append(f"{segment.number}: {_sized(segment)}")
                text = str(segment.number) if len(str(segment.number)) <= width else ""
            words.append(set_cell_size(text, width + 1))
        yield bar
        yield words
        if aside:
            yield Text("  ".join(aside))

    def _fill(self, segment: Segment, width: int) -> str:
        glyphs = self._glyphs
        if segment.gap:
            return glyphs.gap * width
        if segment.used_bytes is None:
            return glyphs.unknown * width
        used = min(width, -(-width * segment.used_bytes // max(1, segment.length)))
        return glyphs.used * used + glyphs.free * (width - used)

    def _words(self, segment: Segment, width: int) -> str | None:
        """What stands below a segment; None when it is told beside the bar, by its number."""
        name = "free" if segment.gap and not segment.name else segment.name
        fitting = next((text for text in (_sized(segment), name) if cell_len(text) <= width), None)
        if fitting is not None or segment.number is not None:
            return fitting
        return set_cell_size(name, max(0, width)) if width > 2 else ""


def _sized(segment: Segment) -> str:
    name = "free" if segment.gap and not segment.name else segment.name
    return f"{name} {format_bytes(segment.length)}"
