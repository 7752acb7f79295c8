"""How a disk is cut, against a naive model that looks at every cell."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recovery.extent import Extents
from recovery.image.layout import HOLE_PIECES, SPARSE_MARK_BYTES, make_layout, zero_id
from recovery.units import KIB, MIB

UNIT = 64 * KIB
SIZES = st.builds(lambda units, rest: units * UNIT + rest, st.integers(0, 1500), st.sampled_from([0, 0, 512, 12345]))
POSITIONS = st.builds(lambda units, rest: units * UNIT + rest, st.integers(0, 1500), st.sampled_from([0, 0, 1, 512]))
RANGES = st.lists(st.tuples(POSITIONS, st.sampled_from([1, 512, 4096, UNIT, 3 * UNIT, 2 * MIB, 20 * MIB])), max_size=8)


def _cells(size: int, chunk: int, grid: list[int]) -> list[tuple[int, int]]:
    """The cells of the grid, which starts anew at each of ``grid``, as (start, end)."""
    starts = sorted({0, *(start for start in grid if 0 < start < size)})
    cells = []
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        cells += [(at, min(at + chunk, end)) for at in range(start, end, chunk)]
    return cells


def _model(size: int, chunk: int, grid: list[int], used: list[tuple[int, int]]) -> list[tuple[int, int, bool]]:
    """Every piece as (start, end, hole), cut one by one."""
    runs: list[tuple[int, int, bool]] = []
    for start, end in _cells(size, chunk, grid):
        hole = not any(offset < end and offset + length > start for offset, length in used)
        if hole and runs and runs[-1][2]:
            start = runs.pop()[0]
        runs.append((start, end, hole))
    pieces, marked = [], False
    for start, end, hole in runs:
        if not hole:
            pieces.append((start, end, False))
            continue
        while start < end:
            if not marked and end - start >= 512 * KIB:
                length, marked = 512 * KIB, True
            else:
                sizes = [32 * MIB, 16 * MIB, 8 * MIB, 4 * MIB, 2 * MIB, 1 * MIB, 512 * KIB]
                length = next((s for s in sizes if s <= end - start), end - start)
            pieces.append((start, start + length, True))
            start += length
    return pieces


@given(SIZES, st.sampled_from([UNIT, 2 * UNIT, MIB, 2 * MIB]), st.lists(POSITIONS, max_size=4), RANGES)
@example(0, MIB, [], [])
@example(UNIT, MIB, [UNIT], [(0, 2 * UNIT)])
@example(96 * MIB, MIB, [MIB, MIB + 512], [(50 * MIB, 1)])
def test_is_cut_as_the_naive_model_cuts_it(size: int, chunk: int, grid: list[int], used: list[tuple[int, int]]) -> None:
    layout = make_layout(size, chunk, grid, Extents(used))
    assert [(p.extent.offset, p.extent.end, p.hole) for p in layout] == _model(size, chunk, grid, used)


@given(SIZES, st.sampled_from([UNIT, MIB]), st.lists(POSITIONS, max_size=4), RANGES)
def test_the_pieces_cover_the_disk_in_order_and_holes_hold_nothing_used(
    size: int, chunk: int, grid: list[int], used: list[tuple[int, int]]
) -> None:
    extents = Extents(used)
    layout = make_layout(size, chunk, grid, extents)
    position = marks = 0
    for number, piece in enumerate(layout):
        assert piece.extent.offset == position
        assert piece.extent.length > 0
        position = piece.extent.end
        inside = extents.clip(piece.extent)
        assert piece.hole == (not inside)
        if piece.hole:
            assert piece.extent.length in HOLE_PIECES or piece.extent.length < SPARSE_MARK_BYTES
            marks += piece.extent.length == SPARSE_MARK_BYTES
        else:
            assert piece.extent.length <= chunk
            assert not any(piece.extent.offset < start < piece.extent.end for start in grid)
        assert layout[number] == piece
        assert layout.index_at(piece.extent.offset) == layout.index_at(piece.extent.end - 1) == number
    assert position == size
    if any(piece.hole and piece.extent.length > SPARSE_MARK_BYTES for piece in layout):
        assert marks >= 1


@given(SIZES, st.lists(POSITIONS, max_size=4), RANGES)
def test_the_same_disk_is_cut_the_same_whatever_order_its_facts_come_in(
    size: int, grid: list[int], used: list[tuple[int, int]]
) -> None:
    one = make_layout(size, MIB, grid, Extents(used))
    other = make_layout(size, MIB, [*reversed(grid), *grid], Extents([*reversed(used), *used]))
    assert list(one) == list(other)


def test_a_partition_that_moved_has_the_same_chunks() -> None:
    used = [(0, 3 * MIB + 7), (9 * MIB, 100)]
    chunks = []
    for start in (MIB, 5 * MIB + 512):
        layout = make_layout(64 * MIB, MIB, [start], Extents((start + offset, length) for offset, length in used))
        chunks.append([(p.extent.offset - start, p.extent.length) for p in layout if not p.hole])
    assert chunks[0] == chunks[1] == [(0, MIB), (MIB, MIB), (2 * MIB, MIB), (3 * MIB, MIB), (9 * MIB, MIB)]


def test_a_large_empty_disk_has_few_pieces() -> None:
    layout = make_layout(1 << 40, 2 * MIB, [MIB], Extents([(0, 512), ((1 << 40) - 512, 512)]))
    assert len(layout) < (1 << 40) // (32 * MIB) + 20
    assert layout[len(layout) - 1].extent.end == 1 << 40


@pytest.mark.parametrize("length", [1, 512, 512 * KIB, MIB, MIB + 1, 32 * MIB])
def test_the_id_of_zeros_is_their_hash(length: int) -> None:
    assert zero_id(length) == hashlib.sha256(bytes(length)).digest()
