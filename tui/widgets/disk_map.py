"""The map of a job's work: rows of glyphs for each disk, redrawn only where they changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import RenderResult
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from recovery.inventory import shown
from recovery.units import format_bytes
from recovery.work_map import Cell, MappedDisk, decode_cells


@dataclass(frozen=True, slots=True)
class Look:
    """How a state is drawn, and what it is called."""

    glyph: str
    ascii: str
    style: Style
    word: str


#: What is shown of a glyph that stands for several cells: the first of these that is among them.
LOOKS: dict[Cell, Look] = {
    Cell.UNREADABLE: Look("X", "X", Style(color="red", bold=True), "unreadable"),
    Cell.TO_DO: Look("░", "-", Style(color="white"), "to do"),
    Cell.READ: Look("▒", "~", Style(color="blue"), "read"),
    Cell.WRITTEN: Look("▓", "#", Style(color="green"), "written"),
    Cell.CHECKED: Look("█", "@", Style(color="bright_green"), "checked"),
    Cell.KNOWN: Look("≡", "=", Style(color="cyan"), "known already"),
    Cell.UNUSED: Look("·", ".", Style(color="bright_black"), "unused"),
}
_RANK = {cell.value: number for number, cell in enumerate(LOOKS)}
_BY_LETTER = {cell.value: look for cell, look in LOOKS.items()}
#: As a legend names them: in the order in which they come.
LEGEND = (Cell.UNUSED, Cell.TO_DO, Cell.READ, Cell.KNOWN, Cell.WRITTEN, Cell.CHECKED, Cell.UNREADABLE)


def resampled(cells: str, count: int) -> str:
    """``count`` letters for a row of cells; where several share one, what is most worth knowing."""
    if not cells or count <= 0:
        return ""
    found = []
    for number in range(count):
        first = number * len(cells) // count
        end = max(first + 1, -(-(number + 1) * len(cells) // count) if count < len(cells) else first + 1)
        found.append(min(cells[first:end], key=_RANK.__getitem__))
    return "".join(found)


def legend(states: Collection[Cell], ascii_only: bool) -> Text:
    """What the glyphs of ``states`` mean."""
    text = Text()
    for cell in LEGEND:
        if cell in states:
            look = LOOKS[cell]
            text.append("  " if text else "")
            text.append(look.ascii if ascii_only else look.glyph, look.style)
            text.append(f" {look.word}")
    return text


class DiskMap(Widget):
    """As wide and as high as there is room; a line above each disk says which it is."""

    DEFAULT_CSS = """
    DiskMap { height: 1fr; min-height: 2; }
    """

    def __init__(self, *, ascii_only: bool, seconds: float = 0.5, id: str | None = None) -> None:
        """``seconds``: from one drawing to the next."""
        super().__init__(id=id)
        self._ascii, self._seconds = ascii_only, seconds
        self._disks: tuple[MappedDisk, ...] = ()
        #: What is drawn: a row of words, or one of letters of cells.
        self._rows: list[tuple[bool, str]] = []
        self._stale = False

    def on_mount(self) -> None:
        """Draw now and then."""
        self.set_interval(self._seconds, self._draw)

    def on_resize(self) -> None:
        """The same cells in another number of rows."""
        self._rows = self._arranged()
        self.refresh()

    def show(self, disks: Sequence[MappedDisk]) -> None:
        """From the next drawing on."""
        if tuple(disks) != self._disks:
            self._stale = True
            first = not self._disks
            self._disks = tuple(disks)
            if first:
                self._draw()

    def _draw(self) -> None:
        if not self._stale:
            return
        self._stale = False
        before, self._rows = self._rows, self._arranged()
        if len(before) != len(self._rows):
            self.refresh()
            return
        changed = [
            _difference(number, old[1], new[1])
            for number, (old, new) in enumerate(zip(before, self._rows, strict=True))
            if old != new
        ]
        if changed:
            self.refresh(*changed)

    def _arranged(self) -> list[tuple[bool, str]]:
        width, height = self.size
        if not width or not self._disks:
            return []
        shown_disks = self._disks[: max(1, height // 2)]
        rows: list[tuple[bool, str]] = []
        for number, disk in enumerate(shown_disks):
            own = (height - len(rows)) // (len(shown_disks) - number)
            last = number == len(shown_disks) - 1
            rows.append((True, _title(disk, len(self._disks) - len(shown_disks) if last else 0)))
            try:
                cells = decode_cells(disk.cells)
            except ValueError:
                cells = ""
            count = max(1, own - 1)
            letters = resampled(cells, width * count)
            rows += [(False, letters[at : at + width]) for at in range(0, len(letters), width)]
        return rows

    def render(self) -> RenderResult:
        """By lines."""
        return ""

    def render_line(self, y: int) -> Strip:
        """One row."""
        width = self.size.width
        if y >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        words, text = self._rows[y]
        if words:
            return Strip([Segment(text[:width], self.rich_style)]).extend_cell_length(width, self.rich_style)
        segments: list[Segment] = []
        start = 0
        for at in range(1, len(text) + 1):
            if at == len(text) or text[at] != text[start]:
                look = _BY_LETTER[text[start]]
                glyph = look.ascii if self._ascii else look.glyph
                segments.append(Segment(glyph * (at - start), self.rich_style + look.style))
                start = at
        return Strip(segments).extend_cell_length(width, self.rich_style)


def _title(disk: MappedDisk, more: int) -> str:
    place = ", from its beginning to its end:"
    if more:
        place = "; one more disk is not shown" if more == 1 else f"; {more} more disks are not shown"
    return f"{shown(disk.name)}, {format_bytes(disk.size_bytes)}{place}"


def _difference(row: int, before: str, after: str) -> Region:
    """The smallest part of a row that holds all that changed."""
    if len(before) != len(after):
        return Region(0, row, max(len(before), len(after)), 1)
    first = next(at for at in range(len(after)) if before[at] != after[at])
    last = next(at for at in reversed(range(len(after))) if before[at] != after[at])
    return Region(first, row, last - first + 1, 1)
