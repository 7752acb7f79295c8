"""The map of a job's work: what each cell shows of what is in it."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.extent import Extent, Extents
from recovery.work_map import MAX_CELLS, Cell, DiskWork, WorkMap, decode_cells, encode_cells


def cells(work: WorkMap, disk: int = 0) -> str:
    return decode_cells(work.encoded()[disk].cells)


def one_disk(size: int, used: Iterable[tuple[int, int]], count: int) -> WorkMap:
    return WorkMap([DiskWork("sda", size, Extents(used))], count)


def test_it_begins_with_what_is_unused_and_what_is_to_do() -> None:
    work = one_disk(100, [(0, 10), (35, 1), (90, 10)], 10)
    assert cells(work) == "t--t-----t"


def test_a_cell_is_to_do_until_all_that_is_used_in_it_is_done() -> None:
    work = one_disk(100, [(0, 20), (50, 50)], 10)
    work.mark(0, Extents([(0, 15)]), Cell.READ)
    assert cells(work) == "rt---ttttt"
    work.mark(0, Extents([(15, 5), (50, 1)]), Cell.READ)
    assert cells(work) == "rr---ttttt"
    work.mark(0, Extents([(51, 9)]), Cell.READ)
    assert cells(work) == "rr---rtttt"


def test_what_is_known_and_new_in_one_cell_is_written() -> None:
    work = one_disk(30, [(0, 30)], 3)
    work.mark(0, Extents([(0, 30)]), Cell.READ)
    work.mark(0, Extents([(0, 15)]), Cell.KNOWN)
    assert cells(work) == "krr"
    work.mark(0, Extents([(15, 15)]), Cell.WRITTEN)
    assert cells(work) == "kww"


def test_what_is_known_need_not_be_checked_again() -> None:
    work = one_disk(30, [(0, 30)], 3)
    work.mark(0, Extents([(0, 15)]), Cell.KNOWN)
    work.mark(0, Extents([(15, 15)]), Cell.WRITTEN)
    work.mark(0, Extents([(15, 15)]), Cell.CHECKED)
    assert cells(work) == "kcc"


def test_unreadable_is_shown_whatever_else_is_done() -> None:
    work = one_disk(30, [(0, 30)], 3)
    work.mark(0, Extents([(12, 1)]), Cell.UNREADABLE)
    assert cells(work) == "txt"
    for state in (Cell.READ, Cell.WRITTEN, Cell.CHECKED):
        work.mark(0, Extents([(0, 30)]), state)
    assert cells(work) == "cxc"


def test_what_was_written_is_checked_up_to_a_place_over_all_disks() -> None:
    disks = [DiskWork("sda", 40, Extents([(0, 40)])), DiskWork("sdb", 40, Extents([(0, 40)]))]
    work = WorkMap(disks, 8)
    for disk in (0, 1):
        work.mark(disk, Extents([(0, 30)]), Cell.WRITTEN)
    work.check_written_before(work.place(1, 15))
    first, second = cells(work, 0), cells(work, 1)
    assert set(first) == {"c", "t"}
    assert second.startswith("cw")
    work.check_written_before((1 << 32) - 1)
    assert "w" not in cells(work, 1)


def test_versions_grow_only_when_something_else_is_shown() -> None:
    work = one_disk(100, [(0, 100)], 2)
    before = work.version
    work.mark(0, Extents([(0, 49)]), Cell.READ)
    assert work.version == before
    work.mark(0, Extents([(49, 1)]), Cell.READ)
    assert work.version > before
    work.mark(0, Extents(), Cell.READ)


@pytest.mark.parametrize("sizes", [(0,), (1,), (5, 1 << 50), (1 << 40,) * 30, (7,) * 3])
def test_there_are_never_too_many_cells_and_one_for_each_disk(sizes: tuple[int, ...]) -> None:
    work = WorkMap([DiskWork(str(number), size, Extents()) for number, size in enumerate(sizes)])
    counts = [len(decode_cells(disk.cells)) for disk in work.encoded()]
    assert all(counts)
    assert sum(counts) <= MAX_CELLS


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(0, 1 << 30))
def test_a_job_done_in_any_order_and_pieces_ends_with_all_of_it_checked(size: int, count: int, seed: int) -> None:
    generator = random.Random(seed)
    edges = sorted(generator.sample(range(size + 1), min(8, size + 1)))
    used = Extents((low, high - low) for low, high in zip(edges[::2], edges[1::2], strict=False))
    work = WorkMap([DiskWork("sda", size, used)], count)
    step = generator.randint(1, size)
    pieces = [used.clip(Extent(at, step)) for at in range(0, size, step)]
    for state in (Cell.READ, Cell.WRITTEN, Cell.CHECKED):
        generator.shuffle(pieces)
        for piece in pieces:
            work.mark(0, piece, state)
    shown = cells(work)
    cell_bytes = -(-size // max(1, count))
    assert shown == "".join(
        Cell.CHECKED if used.clip(Extent(number * cell_bytes, cell_bytes)) else Cell.UNUSED
        for number in range(len(shown))
    )


@given(st.lists(st.sampled_from(list(Cell)), max_size=300))
def test_cells_are_what_they_were_written_as(letters: list[Cell]) -> None:
    text = "".join(letters)
    assert decode_cells(encode_cells(text.encode())) == text


@pytest.mark.parametrize("text", ["z3", "3", "t99999999", "t2000-2000", "t-5 "])
def test_what_is_no_map_is_refused_without_making_it(text: str) -> None:
    with pytest.raises(ValueError):
        decode_cells(text)
