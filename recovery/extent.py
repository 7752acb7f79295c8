"""Half-open byte ranges, and the algebra over sorted lists of them.

``Extents`` is normalised: sorted by offset, disjoint, no two touching, none empty.  It keeps its edges in
one flat array, 16 bytes an extent, so that a badly fragmented disk with millions of them fits in memory.
The edges ``start0 < end0 < start1 < end1 ...`` strictly increase; a position is inside when an odd number
of edges lies at or before it, and union, intersection and difference are one sweep over both arrays.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


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
        """Take ``(offset, length)`` pairs in any order; they may overlap.  Raises ValueError on a negative one."""
        edges = array("q")
        for offset, length in _in_order(extents):
            if offset < 0 or length < 0:
                raise ValueError(f"negative extent ({offset}, {length})")
            if length == 0:
                continue
            if edges and offset <= edges[-1]:
                edges[-1] = max(edges[-1], offset + length)
            else:
                edges.append(offset)
                edges.append(offset + length)
        self._adopt(edges)

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
        return self._sweep(other, lambda a, b: a or b)

    def intersect(self, other: Extents) -> Extents:
        """What is in both."""
        return self._sweep(other, lambda a, b: a and b)

    def subtract(self, other: Extents) -> Extents:
        """What is in this and not in ``other``."""
        return self._sweep(other, lambda a, b: a and not b)

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
        """Widened to multiples of ``alignment``, at most to ``limit``."""
        return Extents(
            (e.offset - e.offset % alignment, min(-(-e.end // alignment) * alignment, limit) - e.offset + e.offset % alignment)
            for e in self
        )

    def _sweep(self, other: Extents, keep: Callable[[bool, bool], bool]) -> Extents:
        a, b = self._edges, other._edges
        out = array("q")
        i = j = 0
        inside = False
        while i < len(a) or j < len(b):
            if j >= len(b) or (i < len(a) and a[i] <= b[j]):
                position = a[i]
            else:
                position = b[j]
            while i < len(a) and a[i] == position:
                i += 1
            while j < len(b) and b[j] == position:
                j += 1
            now = keep(i % 2 == 1, j % 2 == 1)
            if now != inside:
                out.append(position)
                inside = now
        return Extents._of_edges(out)


def _in_order(extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """``extents`` sorted by offset; a list already in order is not copied."""
    last = -1
    if isinstance(extents, Extents):
        yield from extents
        return
    items = extents if isinstance(extents, list) else list(extents)
    for offset, _ in items:
        if offset < last:
            items = sorted(items)
            break
        last = offset
    yield from items
