"""Holes of image files, and runs of chunks in them, against what was made and against a model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.devices import holes
from recovery.devices.blockio import SourceReader, TargetWriter
from recovery.devices.holes import Holes, is_zeros
from recovery.extent import Extent, Extents
from recovery.image.layout import make_layout
from recovery.units import KIB, MIB


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """Data in [1 MiB, 2 MiB) and in the last 64 KiB of 8 MiB."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        os.pwrite(file.fileno(), b"\x01" * MIB, MIB)
        os.pwrite(file.fileno(), b"\x02" * (64 * KIB), 8 * MIB - 64 * KIB)
    return path


def test_a_hole_ends_where_data_begins(sparse: Path) -> None:
    with SourceReader(sparse, 512) as source:
        assert source.hole_end(0) == MIB
        assert source.hole_end(12345) == MIB
        assert source.hole_end(MIB) == MIB
        assert source.hole_end(2 * MIB) == 8 * MIB - 64 * KIB
        assert source.hole_end(8 * MIB) == 8 * MIB


def test_a_hole_at_the_end_reaches_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(3 * MIB)
    with SourceReader(path, 512) as source:
        assert source.hole_end(MIB) == 3 * MIB


def test_holes_of_a_filesystem_that_is_not_known_are_not_believed(
    sparse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "_BELIEVED", frozenset())
    with sparse.open("rb") as file:
        assert Holes(file.fileno()).end_at(0) == 0


def test_what_is_no_regular_file_has_no_holes() -> None:
    with Path("/dev/zero").open("rb") as device:
        assert Holes(device.fileno()).end_at(0) == 0


def test_zeros_written_into_a_hole_leave_it_and_elsewhere_take_the_place_of_what_was_there(sparse: Path) -> None:
    before = sparse.stat().st_blocks
    with TargetWriter(sparse) as target:
        target.write(4 * MIB, bytes(MIB))
        target.write(MIB, bytes(64 * KIB))
        target.write(MIB - 512, b"\x00" * 1024)
        target.write(3 * MIB, bytes(4096) + b"\x07")
    data = sparse.read_bytes()
    assert sparse.stat().st_blocks <= before + 64
    assert data[MIB : MIB + 64 * KIB] == bytes(64 * KIB)
    assert data[MIB + 64 * KIB : 2 * MIB] == b"\x01" * (MIB - 64 * KIB)
    assert data[3 * MIB : 3 * MIB + 4097] == bytes(4096) + b"\x07"
    assert len(data) == 8 * MIB


@pytest.mark.parametrize("length", [1, 64 * KIB, 64 * KIB + 1, 200_000])
def test_one_byte_is_enough_to_be_no_zeros(length: int) -> None:
    data = bytearray(length)
    assert is_zeros(memoryview(data))
    data[-1] = 1
    assert not is_zeros(memoryview(data))


UNIT = 64 * KIB
RANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=6)


@given(st.integers(1, 220), st.lists(st.integers(0, 200), max_size=3), RANGES, st.integers(0, 220), st.integers(0, 90))
def test_a_run_is_what_a_walk_over_the_pieces_finds(
    units: int, grid: list[int], used: list[tuple[int, int]], start: int, length: int
) -> None:
    chunk, within = 4 * UNIT, Extent(start * UNIT + 512, length * UNIT)
    extents = Extents((offset * UNIT, count * UNIT) for offset, count in used)
    layout = make_layout(units * UNIT, chunk, [at * UNIT for at in grid], extents)
    for index in range(len(layout)):
        expected = 0
        for number in range(index, len(layout)):
            extent, hole = layout[number]
            if hole or extent.length != chunk or extent.offset < within.offset or extent.end > within.end:
                break
            expected += 1
        if layout[index].hole:
            continue
        assert layout.run_within(index, within, chunk) == expected
