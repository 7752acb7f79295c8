"""A map of the work: each disk cut into cells of equal size, and how far what is used in each has come.

A cell counts the used bytes in it that have not yet been read, stored, checked.  It shows the least advanced of them,
and what is unreadable in any case; of what is stored it shows ``written`` when any of it is new.  Marking a range that
lies in one cell, as nearly every chunk of a large disk does, costs a microsecond.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby, pairwise
from typing import NamedTuple

import msgspec

from recovery.extent import Extent, Extents

#: Over all disks of an operation.
MAX_CELLS = 2048


class Cell(StrEnum):
    """What a cell shows; the letters of its text."""

    UNUSED = "-"
    TO_DO = "t"
    READ = "r"
    KNOWN = "k"
    WRITTEN = "w"
    UNREADABLE = "x"
    CHECKED = "c"


#: Which counts each mark takes from: bytes to be read, to be stored, to be checked.
_STAGES = {Cell.READ: (0,), Cell.KNOWN: (1, 2), Cell.WRITTEN: (1,), Cell.CHECKED: (2,)}
_CODES = {cell: ord(cell) for cell in Cell}


class MappedDisk(msgspec.Struct, frozen=True):
    """A disk of the map.  ``cells``: a letter a cell, each followed by how often it is repeated, if more than once."""

    name: str
    size_bytes: int
    cells: str


class DiskWork(NamedTuple):
    """A disk to be mapped: ``used`` is what is to be done of it."""

    name: str
    size_bytes: int
    used: Extents


class WorkMap:
    """The disks of one operation.  Marked by one thread; any other may take a snapshot."""

    def __init__(self, disks: Sequence[DiskWork], max_cells: int = MAX_CELLS) -> None:
        self._disks = [_DiskCells(disk, count) for disk, count in zip(disks, _shares(disks, max_cells), strict=True)]
        self._first = [0]
        for disk in self._disks:
            self._first.append(self._first[-1] + len(disk.cells))

    @property
    def version(self) -> int:
        """Grows whenever a cell shows something else."""
        return sum(disk.version for disk in self._disks)

    def mark(self, disk: int, extents: Extents, state: Cell) -> None:
        """The used ``extents`` of the disk number ``disk`` have become ``state``; each byte once in each stage."""
        if extents:
            self._disks[disk].mark(extents, state)

    def place(self, disk: int, offset: int) -> int:
        """The number of the cell of that byte, over all disks."""
        return self._first[disk] + offset // self._disks[disk].cell_bytes

    def check_written_before(self, place: int) -> None:
        """What was written in the cells before the one of that number was checked."""
        for disk, (first, end) in zip(self._disks, pairwise(self._first), strict=True):
            if first < place:
                disk.check_written(min(place, end) - first)

    def encoded(self) -> tuple[MappedDisk, ...]:
        """As it is now."""
        return tuple(MappedDisk(disk.name, disk.size_bytes, encode_cells(bytes(disk.cells))) for disk in self._disks)


class _DiskCells:
    def __init__(self, work: DiskWork, count: int) -> None:
        self.name, self.size_bytes, self.version = work.name, work.size_bytes, 1
        self.cell_bytes = max(1, -(-work.size_bytes // max(1, count)))
        count = max(1, -(-work.size_bytes // self.cell_bytes))
        used = array("Q", (work.used.clip(self._extent(number)).total_bytes for number in range(count)))
        self._left = [used, used[:], used[:]]
        self._new = bytearray(count)
        self._lost = bytearray(count)
        self.cells = bytearray(_CODES[Cell.TO_DO if length else Cell.UNUSED] for length in used)

    def _extent(self, number: int) -> Extent:
        return Extent(number * self.cell_bytes, self.cell_bytes)

    def mark(self, extents: Extents, state: Cell) -> None:
        first, last = extents[0].offset // self.cell_bytes, (extents.end - 1) // self.cell_bytes
        last = min(last, len(self.cells) - 1)
        if first == last:
            self._advance(first, extents.total_bytes, state)
            return
        for number in range(first, last + 1):
            length = extents.clip(self._extent(number)).total_bytes
            if length:
                self._advance(number, length, state)

    def _advance(self, number: int, length: int, state: Cell) -> None:
        if state is Cell.UNREADABLE:
            self._lost[number] = 1
            self._show(number)
            return
        if state is Cell.WRITTEN or state is Cell.CHECKED:
            self._new[number] = 1
        done = False
        for stage in _STAGES[state]:
            left = self._left[stage]
            left[number] -= min(length, left[number])
            done = done or not left[number]
        if done:
            self._show(number)

    def check_written(self, end: int) -> None:
        for number in range(end):
            if self.cells[number] == _CODES[Cell.WRITTEN]:
                self._left[2][number] = 0
                self._show(number)

    def _show(self, number: int) -> None:
        to_read, to_store, to_check = (left[number] for left in self._left)
        if self._lost[number]:
            shown = Cell.UNREADABLE
        elif not to_check and self._new[number]:
            shown = Cell.CHECKED
        elif not to_store:
            shown = Cell.WRITTEN if self._new[number] else Cell.KNOWN
        else:
            shown = Cell.TO_DO if to_read else Cell.READ
        if self.cells[number] != _CODES[shown]:
            self.cells[number] = _CODES[shown]
            self.version += 1


def _shares(disks: Sequence[DiskWork], max_cells: int) -> list[int]:
    """Cells for each disk, in proportion to its size."""
    total = sum(disk.size_bytes for disk in disks) or 1
    spare = max(0, max_cells - len(disks))
    return [1 + spare * disk.size_bytes // total for disk in disks]


def encode_cells(cells: bytes) -> str:
    """``b"--ttt"`` as ``-2t3``."""
    runs = ((chr(code), len(list(run))) for code, run in groupby(cells))
    return "".join(f"{letter}{count}" if count > 1 else letter for letter, count in runs)


def decode_cells(text: str, max_cells: int = MAX_CELLS) -> str:
    """A letter a cell.  Raises ValueError for what is no map, or has more than ``max_cells``."""
    found: list[str] = []
    total = at = 0
    while at < len(text):
        letter, at = Cell(text[at]), at + 1
        end = at
        while end < len(text) and text[end].isdecimal() and end - at < 8:
            end += 1
        count = int(text[at:end]) if end > at else 1
        total, at = total + count, end
        if total > max_cells:
            raise ValueError(f"more than {max_cells} cells")
        found.append(letter * count)
    return "".join(found)
