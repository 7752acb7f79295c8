"""The algebra over extents, against sets of integers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.extent import Extent, Extents

SIZE = 120
Pairs = list[tuple[int, int]]
pairs = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 20)), max_size=12)


def bytes_of(extents: Extents | Pairs) -> set[int]:
    return {position for offset, length in extents for position in range(offset, offset + length)}


def assert_normal(extents: Extents) -> None:
    edges = [edge for extent in extents for edge in (extent.offset, extent.end)]
    assert all(a < b for a, b in itertools.pairwise(edges)), extents
    assert extents.total_bytes == len(bytes_of(extents))
    assert extents.end == (edges[-1] if edges else 0)


@given(pairs)
def test_pairs_in_any_order_become_sorted_disjoint_extents(some: Pairs) -> None:
    made = Extents(some)
    assert_normal(made)
    assert bytes_of(made) == bytes_of(some)
    assert made == Extents(iter(sorted(some)))


@given(pairs, pairs)
def test_union_intersection_and_difference_are_those_of_sets(a: Pairs, b: Pairs) -> None:
    x, y = Extents(a), Extents(b)
    for made, expected in (
        (x.union(y), bytes_of(a) | bytes_of(b)),
        (x.intersect(y), bytes_of(a) & bytes_of(b)),
        (x.subtract(y), bytes_of(a) - bytes_of(b)),
    ):
        assert_normal(made)
        assert bytes_of(made) == expected


@given(pairs, st.integers(0, SIZE), st.integers(0, SIZE))
def test_clip_and_invert_stay_within_their_window(some: Pairs, offset: int, length: int) -> None:
    window = set(range(offset, offset + length))
    clipped = Extents(some).clip(Extent(offset, length))
    inverted = Extents(some).invert(Extent(offset, length))
    assert_normal(clipped)
    assert_normal(inverted)
    assert bytes_of(clipped) == bytes_of(some) & window
    assert bytes_of(inverted) == window - bytes_of(some)


@given(pairs, st.integers(0, SIZE), st.integers(0, 20))
def test_covers_says_whether_every_byte_is_inside(some: Pairs, offset: int, length: int) -> None:
    assert Extents(some).covers(Extent(offset, length)) == (set(range(offset, offset + length)) <= bytes_of(some))


@given(pairs, st.sampled_from([1, 2, 8, 10]), st.integers(0, SIZE + 30))
def test_align_widens_to_whole_units_up_to_the_limit(some: Pairs, unit: int, limit: int) -> None:
    made = Extents(some).align(unit, limit)
    assert_normal(made)
    units = {position // unit for position in bytes_of(some)}
    assert bytes_of(made) == {p for u in units for p in range(u * unit, (u + 1) * unit) if p < limit}


@given(pairs, st.integers(-SIZE, SIZE))
def test_shift_moves_every_byte_or_refuses(some: Pairs, by: int) -> None:
    extents = Extents(some)
    if extents and extents[0].offset + by < 0:
        with pytest.raises(ValueError, match="before the start"):
            extents.shift(by)
    else:
        assert bytes_of(extents.shift(by)) == {position + by for position in bytes_of(some)}


@given(pairs)
def test_indexing_agrees_with_iteration(some: Pairs) -> None:
    extents = Extents(some)
    listed = list(extents)
    assert [extents[i] for i in range(len(extents))] == listed
    assert [extents[-1 - i] for i in range(len(extents))] == listed[::-1]
    with pytest.raises(IndexError):
        extents[len(extents)]


def test_offsets_up_to_the_largest_disk_linux_knows_are_exact() -> None:
    last = (1 << 63) - 512
    extents = Extents([(last - 512, 512), (0, 1)])
    assert extents.union(Extents([(last, 511)])).end == last + 511
    assert extents.subtract(Extents([(0, last)])) == Extents()


@pytest.mark.parametrize("pair", [(-1, 2), (1, -2)])
def test_a_negative_extent_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="negative"):
        Extents([pair])
