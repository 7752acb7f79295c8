"""Half-open byte ranges, and the algebra over sorted lists of them.

``Extents`` is normalised: sorted by offset, disjoint, no two touching, none empty.  It keeps its edges in
one flat array, 16 bytes an extent, so that a badly fragmented disk with millions of them fits in memory.
The edges ``start0 < end0 < start1 < end1 ...`` strictly increase; a position is inside when an odd number
of edges lies at or before it, and union, intersection and difference are one sweep over both arrays
(measured: a second for a million extents in each).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_BEYOND = 1 << 63  # behind every edge


class Extent(NamedTuple):
    """The bytes ``[offset, offset + length)``."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind the extent."""
        return self.offset + self.length


class Extents:
    """An immutable, normalised list of extents."""

    __slots__ = ("_edges", "total_bytes")

    def __init__(self, extents: Iterable[tuple[int, int]] = ()) -> None:
        """Take ``(offset, length)`` pairs in any order; they may overlap.  Raises ValueError on a negative one.

        Pairs that come in order are streamed: nothing is kept but the edges.
        """
        edges = array("q")
        late: list[tuple[int, int]] = []
        for offset, length in extents:
            if offset < 0 or length < 0:
                raise ValueError(f"negative extent ({offset}, {length})")
            if length == 0:
                continue
            if not edges or offset > edges[-1]:
                edges.append(offset)
                edges.append(offset + length)
            elif offset >= edges[-2]:
                edges[-1] = max(edges[-1], offset + length)
            else:
                late.append((offset, length))
        self._adopt(edges)
        if late:
            late.sort()
            self._adopt(self.union(Extents(late))._edges)

    def _adopt(self, edges: array[int]) -> None:
        self._edges = edges
        self.total_bytes = sum(edges[1::2]) - sum(edges[0::2])

    @classmethod
    def _of_edges(cls, edges: array[int]) -> Extents:
        made = cls.__new__(cls)
        made._adopt(edges)
        return made

    def __iter__(self) -> Iterator[Extent]:
        edges = iter(self._edges)
        for start in edges:
            yield Extent(start, next(edges) - start)

    def __len__(self) -> int:
        return len(self._edges) // 2

    def __getitem__(self, index: int) -> Extent:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._edges[2 * index]
        return Extent(start, self._edges[2 * index + 1] - start)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self._edges == other._edges

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"({e.offset}, {e.length})" for e, _ in zip(self, range(8), strict=False))
        return f"Extents([{shown}{', ...' if len(self) > 8 else ''}])"

    @property
    def end(self) -> int:
        """The first byte behind the last extent; 0 when empty."""
        return self._edges[-1] if self._edges else 0

    def union(self, other: Extents) -> Extents:
        """What is in either."""
        return self._sweep(other, (False, True, True, True))

    def intersect(self, other: Extents) -> Extents:
        """What is in both."""
        return self._sweep(other, (False, False, False, True))

    def subtract(self, other: Extents) -> Extents:
        """What is in this and not in ``other``."""
        return self._sweep(other, (False, True, False, False))

    def invert(self, within: Extent) -> Extents:
        """What of ``within`` is not in this."""
        return Extents([within]).subtract(self)

    def clip(self, within: Extent) -> Extents:
        """What lies inside ``within``; cost is that of the extents inside, not of the whole list."""
        low, high = within.offset, within.end
        if low >= high:
            return Extents()
        first = bisect_right(self._edges, low)
        last = bisect_left(self._edges, high)
        edges = self._edges[first:last]
        if first % 2:
            edges.insert(0, low)
        if last % 2:
            edges.append(high)
        return Extents._of_edges(edges)

    def shift(self, by: int) -> Extents:
        """Every extent moved by ``by`` bytes.  Raises ValueError when one would begin before zero."""
        if self._edges and self._edges[0] + by < 0:
            raise ValueError("extent moved before the start")
        return Extents._of_edges(array("q", (edge + by for edge in self._edges)))

    def covers(self, extent: Extent) -> bool:
        """Whether every byte of ``extent`` is inside."""
        if extent.length == 0:
            return True
        index = bisect_right(self._edges, extent.offset)
        return index % 2 == 1 and self._edges[index] >= extent.end

    def align(self, alignment: int, limit: int) -> Extents:
        """Widened to multiples of ``alignment``, at most to ``limit``; what lies behind ``limit`` is left out."""
        edges = array("q")
        starts = iter(self._edges)
        for start in starts:
            low = start - start % alignment
            high = min(-(-next(starts) // alignment) * alignment, limit)
            if low >= limit:
                break
            if edges and low <= edges[-1]:
                edges[-1] = high
            else:
                edges.append(low)
                edges.append(high)
        return Extents._of_edges(edges)

    def _sweep(self, other: Extents, keep: tuple[bool, bool, bool, bool]) -> Extents:
        """Walk both edge arrays at once; ``keep`` says for in neither, only this, only ``other``, both what to keep."""
        ours, theirs = iter(self._edges), iter(other._edges)
        a, b = next(ours, _BEYOND), next(theirs, _BEYOND)
        out = array("q")
        state, inside = 0, False
        while a != b or a != _BEYOND:
            position = a if a < b else b
            if a == position:
                state ^= 1
                a = next(ours, _BEYOND)
            if b == position:
                state ^= 2
                b = next(theirs, _BEYOND)
            if keep[state] != inside:
                out.append(position)
                inside = not inside
        return Extents._of_edges(out)
