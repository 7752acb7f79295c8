"""How a disk is cut into pieces: the blobs of its image file, in order.

Chunks have a fixed size, and the grid starts anew at the disk's start and at each partition's start, so that a
partition that moved, or is captured alone, still deduplicates; the chunk before such a start may be short.  A chunk
in which nothing is used is not read.  Runs of such chunks are *holes*, cut into the pieces ``HOLE_PIECES``, largest
first, with a shorter rest: few different zero blobs, and few of them for a large empty disk.

The first hole of at least 512 KiB begins with one piece of exactly that size: restic takes a file for sparse when
it holds a blob of 512 KiB of zeros (its ``zeroChunk``), and then writes no zeros at all with ``--sparse``.

The layout follows from disk size, chunk size, grid and used extents alone; the manifest records the first three,
the domain map the last.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from recovery.extent import Extent, Extents
from recovery.units import KIB, MIB

#: Decided by measurement: docs/decisions/chunk-size.md.
CHUNK_BYTES = 2 * MIB

SPARSE_MARK_BYTES = 512 * KIB
HOLE_PIECES = tuple(SPARSE_MARK_BYTES << shift for shift in range(6, -1, -1))


class Piece(NamedTuple):
    """One blob of an image file: its place on the disk, and whether it is a hole."""

    extent: Extent
    hole: bool


class Layout:
    """The pieces of a disk, in order and without gaps; nine bytes of memory each."""

    __slots__ = ("_holes", "_offsets", "size_bytes")

    def __init__(self, size_bytes: int, offsets: array[int], holes: bytearray) -> None:
        self.size_bytes, self._offsets, self._holes = size_bytes, offsets, holes

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Piece:
        start = self._offsets[index]
        end = self._offsets[index + 1] if index + 1 < len(self._offsets) else self.size_bytes
        return Piece(Extent(start, end - start), bool(self._holes[index]))

    def __iter__(self) -> Iterator[Piece]:
        return (self[index] for index in range(len(self)))

    def index_at(self, offset: int) -> int:
        """Number of the piece that holds the byte ``offset``."""
        return bisect_right(self._offsets, offset) - 1

    def run_within(self, index: int, within: Extent, length: int) -> int:
        """How many pieces from ``index`` on, none of them a hole, are ``length`` bytes long and lie ``within``."""
        start = self._offsets[index]
        if start < within.offset:
            return 0
        hole = self._holes.find(1, index)
        stop = hole if hole >= 0 else len(self)
        if within.end < self.size_bytes:
            stop = min(stop, self.index_at(within.end))

        def shorter(end: int) -> bool:
            """Whether a piece before ``end`` is: no piece that is not a hole is longer than a chunk."""
            reached = self._offsets[end] if end < len(self) else self.size_bytes
            return reached - start < (end - index) * length

        return bisect_left(range(index + 1, max(index, stop) + 1), True, key=shorter)


class TooManyPieces(ValueError):
    """A layout has more pieces than its maker expects."""


def make_layout(
    size_bytes: int, chunk_bytes: int, grid: Sequence[int], used: Extents, max_pieces: int | None = None
) -> Layout:
    """Cut a disk of ``size_bytes``.  ``grid`` holds the offsets where the grid starts anew; 0 is always one.

    Raises TooManyPieces as soon as there are more than ``max_pieces``.
    """
    offsets, holes = array("Q"), bytearray()
    starts = sorted({0, *(start for start in grid if 0 < start < size_bytes)})
    marked = False
    position = 0
    for run in _used_cells(size_bytes, chunk_bytes, starts, used):
        marked = _add_hole(offsets, holes, position, run.offset, marked, max_pieces)
        first = bisect_right(starts, run.offset) - 1
        start, limit = starts[first], run.end
        position = run.offset
        while position < limit:
            _expect_at_most(max_pieces, len(offsets))
            following = starts[first + 1] if first + 1 < len(starts) else size_bytes
            end = min(position + chunk_bytes - (position - start) % chunk_bytes, following, limit)
            offsets.append(position)
            holes.append(0)
            position = end
            if position == following:
                first += 1
                start = following
    _add_hole(offsets, holes, position, size_bytes, marked, max_pieces)
    return Layout(size_bytes, offsets, holes)


def _used_cells(size_bytes: int, chunk_bytes: int, starts: Sequence[int], used: Extents) -> Extents:
    """The chunks of the grid in which something is used."""
    ends = [*starts[1:], size_bytes]
    segments = [Extent(start, end - start) for start, end in zip(starts, ends, strict=True)]
    return Extents(
        (cell.offset + segment.offset, cell.length)
        for segment in segments
        for cell in used.clip(segment).shift(-segment.offset).align(chunk_bytes, segment.length)
    )


def _expect_at_most(max_pieces: int | None, count: int) -> None:
    if max_pieces is not None and count > max_pieces:
        raise TooManyPieces(f"more than {max_pieces} pieces")


def _add_hole(
    offsets: array[int], holes: bytearray, start: int, end: int, marked: bool, max_pieces: int | None
) -> bool:
    """Append the pieces of the hole ``[start, end)``; whether the sparse mark is set by now."""
    if not marked and end - start >= SPARSE_MARK_BYTES:
        offsets.append(start)
        holes.append(1)
        start += SPARSE_MARK_BYTES
        marked = True
    while start < end:
        _expect_at_most(max_pieces, len(offsets))
        length = next((size for size in HOLE_PIECES if size <= end - start), end - start)
        offsets.append(start)
        holes.append(1)
        start += length
    return marked


@lru_cache(maxsize=256)
def zero_id(length: int) -> bytes:
    """SHA-256 of ``length`` zero bytes."""
    digest = hashlib.sha256()
    block = bytes(min(length, MIB))
    for _ in range(length // MIB):
        digest.update(block)
    digest.update(block[: length % MIB])
    return digest.digest()


@lru_cache(maxsize=8)
def zeros(length: int) -> bytes:
    """``length`` zero bytes, the same object again and again."""
    return bytes(length)
