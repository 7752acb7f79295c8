"""Writing a target: in the order that never makes a cut-off one look whole, and read back to the last byte."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.devices.blockio import TargetWriter
from recovery.errors import Cancelled, DeviceError, RepositoryDamaged
from recovery.extent import Extent, Extents
from recovery.image.target import (
    HEAD_BYTES,
    TargetPlan,
    TargetState,
    Written,
    read_back,
    write_target,
)
from recovery.image.view import LoadedPiece
from recovery.progress import Progress
from recovery.units import KIB, MIB

SIZE = 8 * MIB
SOURCE = random.Random(1).randbytes(SIZE)
OLD = b"\xa5"
PIECE = 256 * KIB

#: The head last, a body with a gap in it, a second copy of the table at the end.
BODY = Extents([(MIB, 2 * MIB), (4 * MIB, 3 * MIB)])
TABLE = ((0, SOURCE[:MIB]), (SIZE - 64 * KIB, SOURCE[-64 * KIB :]))
UNUSED = Extents([(3 * MIB, MIB), (7 * MIB, MIB - 64 * KIB)])


def plan(areas: tuple[Extent, ...] = ()) -> TargetPlan:
    return TargetPlan(body=BODY, table=TABLE, unused=UNUSED, areas=areas, wiped=Extents([(0, HEAD_BYTES)]))


def pieces(damaged: int | None = None, stop_at: int | None = None) -> Iterator[LoadedPiece]:
    for number, offset in enumerate(range(0, SIZE, PIECE)):
        extent = Extent(offset, PIECE)
        used = BODY.clip(extent)
        if not used:
            continue
        if number == stop_at:
            raise Cancelled("stopped as asked")
        data = bytearray(PIECE)
        for run in used:
            data[run.offset - offset : run.end - offset] = SOURCE[run.offset : run.end]
        damage = "gone" if number == damaged else ""
        content = bytes(PIECE) if damage else bytes(data)
        yield LoadedPiece(extent, used, content, hashlib.sha256(content).digest(), damage)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(OLD * SIZE)
    return path


def test_everything_planned_is_written_and_read_back(disk: Path) -> None:
    written = Written()
    with TargetWriter(disk) as target:
        digests = write_target(target, plan(), pieces(), written, Progress(), partial=False)
        assert written.state is TargetState.NOT_VERIFIED
        read_back(target, plan(), digests, written, Progress(), 512)
    assert written.state is TargetState.VERIFIED
    assert written.written_bytes == BODY.total_bytes + sum(len(data) for _, data in TABLE)
    found = disk.read_bytes()
    for extent in plan().written:
        assert found[extent.offset : extent.end] == SOURCE[extent.offset : extent.end]


@pytest.mark.parametrize("offset", [0, 511, MIB, 2 * MIB + 77, 5 * MIB, 7 * MIB - 1, SIZE - 1])
def test_one_wrong_byte_is_found_when_it_is_read_back(offset: int, disk: Path) -> None:
    written = Written()
    with TargetWriter(disk) as target:
        digests = write_target(target, plan(), pieces(), written, Progress(), partial=False)
        target.write(offset, bytes([SOURCE[offset] ^ 1]))
        with pytest.raises(DeviceError, match="does not give back"):
            read_back(target, plan(), digests, written, Progress(), 512)
    assert written.state is TargetState.NOT_VERIFIED


@pytest.mark.parametrize("stop_at", [4, 10, 27])
def test_a_target_that_is_cut_off_has_no_table(stop_at: int, disk: Path) -> None:
    written = Written()
    with TargetWriter(disk) as target, pytest.raises(Cancelled):
        write_target(target, plan(), pieces(stop_at=stop_at), written, Progress(), partial=False)
    assert written.state is TargetState.PARTLY_WRITTEN
    assert disk.read_bytes()[:HEAD_BYTES] == bytes(HEAD_BYTES)


def test_damage_ends_it_unless_partial(disk: Path) -> None:
    with TargetWriter(disk) as target, pytest.raises(RepositoryDamaged, match="gone"):
        write_target(target, plan(), pieces(damaged=20), Written(), Progress(), partial=False)
    written = Written()
    with TargetWriter(disk) as target:
        digests = write_target(target, plan(), pieces(damaged=20), written, Progress(), partial=True)
        read_back(target, plan(), digests, written, Progress(), 512)
    lost = Extent(20 * PIECE, PIECE)
    assert written.damaged == [(lost, "gone")]
    found = disk.read_bytes()
    assert found[lost.offset : lost.end] == bytes(PIECE)
    assert found[lost.end : 7 * MIB] == SOURCE[lost.end : 7 * MIB]


def test_a_partition_is_written_where_it_goes_and_nothing_else_is(disk: Path) -> None:
    """The source's [1 MiB, 3 MiB) goes to 2.5 MiB; its first MiB is written last."""
    shift = 1536 * KIB
    body = Extents([(2 * MIB, MIB)])
    layout = TargetPlan(body=body, shift=shift, table=((MIB + shift, SOURCE[MIB : 2 * MIB]),))
    written = Written()
    with TargetWriter(disk) as target:
        digests = write_target(target, layout, pieces(), written, Progress(), partial=False)
        read_back(target, layout, digests, written, Progress(), 512)
    expected = bytearray(OLD * SIZE)
    expected[MIB + shift : 3 * MIB + shift] = SOURCE[MIB : 3 * MIB]
    assert disk.read_bytes() == expected


areas = st.lists(
    st.tuples(st.integers(0, 2047), st.integers(0, 2048)).map(
        lambda pair: Extent(pair[0] * 4 * KIB, min(pair[1], 2048 - pair[0]) * 4 * KIB)
    ),
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(found=areas)
def test_stale_signatures_are_sought_only_where_nothing_is_written(found: list[Extent]) -> None:
    stale = plan(tuple(area for area in found if area.length)).stale()
    assert not stale.intersect(plan().written)
    assert stale.subtract(UNUSED) == Extents()
    for area in found:
        edge = min(MIB, area.length)
        for place in (Extent(area.offset, edge), Extent(area.end - edge, edge)):
            assert Extents([place]).intersect(UNUSED).subtract(stale) == Extents()


def test_the_copies_of_a_btrfs_superblock_are_stale_places() -> None:
    layout = TargetPlan(body=Extents(), unused=Extents([(0, 300 << 30)]), areas=(Extent(MIB, 299 << 30),))
    for mirror in (64 * KIB, 64 * MIB, 256 << 30):
        assert layout.stale().covers(Extent(MIB + mirror, 4 * KIB))
