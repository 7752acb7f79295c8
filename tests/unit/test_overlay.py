"""The copy-on-write view, without FUSE: what it reads, where it keeps what was written, and when it is spoiled."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.devices.overlay_child import BLOCK, Overlay
from recovery.extent import Extent, Extents

#: The range begins and ends off every boundary.
OFFSET, LENGTH = 1536, 30 * BLOCK + 700


class Bench:
    """A source, a scratch file, and a view of the source's middle."""

    def __init__(self, folder: Path, limit_bytes: int = 1 << 20, source_bytes: int = OFFSET + LENGTH + 512) -> None:
        self.content = random.Random(5).randbytes(source_bytes)
        self.source_path = folder / "source"
        self.source_path.write_bytes(self.content)
        self.source = os.open(self.source_path, os.O_RDONLY)
        self.scratch = os.open(folder / "scratch", os.O_RDWR | os.O_CREAT)
        self.view = Overlay(self.source, OFFSET, LENGTH, self.scratch, limit_bytes)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.scratch)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(20))
def test_it_reads_what_was_written_over_what_the_source_holds(seed: int, bench: Bench) -> None:
    chance = random.Random(seed)
    expected = bytearray(bench.content[OFFSET : OFFSET + LENGTH])
    for _ in range(60):
        offset = chance.randrange(LENGTH)
        length = min(chance.choice([1, 511, 512, BLOCK, 3 * BLOCK + 5]), LENGTH - offset)
        if chance.randrange(2):
            data = chance.randbytes(length)
            expected[offset : offset + length] = data
            bench.view.write(offset, data)
        else:
            assert bench.view.read(offset, length) == expected[offset : offset + length]
    assert bench.view.read(0, LENGTH) == expected
    assert bench.source_path.read_bytes() == bench.content
    assert bench.view.report.failure == ""


def test_a_read_beyond_the_end_is_short(bench: Bench) -> None:
    assert bench.view.read(LENGTH - 10, 100) == bench.content[OFFSET + LENGTH - 10 : OFFSET + LENGTH]
    assert bench.view.read(LENGTH, 100) == b""


def test_it_tells_what_was_written_zeros_too(bench: Bench) -> None:
    bench.view.write(3 * BLOCK + 5, b"x")
    bench.view.write(4 * BLOCK, bytes(BLOCK))
    bench.view.write(LENGTH - 1, b"x")
    assert bench.view.report.written == ((3 * BLOCK, 2 * BLOCK), (30 * BLOCK, 700))


def test_only_blocks_that_were_changed_take_scratch(bench: Bench) -> None:
    for offset in (0, 10, BLOCK, 5 * BLOCK - 1):
        bench.view.write(offset, b"xx")
    assert bench.view.report.changed_bytes == 4 * BLOCK


def test_what_of_the_source_was_read_is_told(bench: Bench) -> None:
    bench.view.write(2 * BLOCK, bytes(BLOCK))
    bench.view.read(BLOCK + 7, 2 * BLOCK)
    bench.view.write(7 * BLOCK + 1, b"x")
    read = Extents(bench.view.report.read)
    assert read == Extents([(BLOCK + 7, BLOCK - 7), (3 * BLOCK, 7), (7 * BLOCK, BLOCK)])


def test_many_reads_are_told_too(bench: Bench) -> None:
    for _ in range(50):
        for offset in range(0, LENGTH - 64, 64):
            bench.view.read(offset, 8)
    assert len(bench.view.report.read) == len(range(0, LENGTH - 64, 64))
    assert not Extents(bench.view.report.read).covers(Extent(8, 1))


def test_a_view_that_is_full_refuses_and_stays_spoiled(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit_bytes=3 * BLOCK)
    for number in range(3):
        bench.view.write(number * BLOCK, bytes(BLOCK))
    bench.view.write(0, b"again")
    assert bench.view.report.failure == ""
    with pytest.raises(OSError, match="No space left"):
        bench.view.write(9 * BLOCK, b"one too many")
    bench.view.write(0, b"and again")
    assert "more than the 12.0 KiB" in bench.view.report.failure
    assert os.fstat(bench.scratch).st_size <= 3 * BLOCK
    bench.close()


def test_a_source_that_cannot_be_read_spoils_the_view(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source_bytes=OFFSET + 4 * BLOCK)
    assert bench.view.read(0, 4 * BLOCK) == bench.content[OFFSET:]
    assert bench.view.report.failure == ""
    with pytest.raises(OSError, match="Input/output error"):
        bench.view.read(3 * BLOCK, 2 * BLOCK)
    assert "the source ends before" in bench.view.report.failure
    bench.close()
