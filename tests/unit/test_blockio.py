"""Reading sources and writing targets, with files in place of disks."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.devices.blockio import SourceReader, TargetWriter
from recovery.errors import DestinationFull, DeviceError, ExitCode, Refused
from recovery.extent import Extent, Extents
from recovery.units import KIB, MIB

CONTENT = random.Random(3).randbytes(MIB)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk"
    path.write_bytes(CONTENT)
    return path


offsets = st.integers(0, MIB // 512 - 1).map(lambda sector: 512 * sector)
lengths = st.integers(1, 300).map(lambda sectors: 512 * sectors)


@settings(max_examples=60, deadline=None)
@given(used=st.lists(st.tuples(offsets, lengths), max_size=8), start=offsets, length=lengths)
def test_used_bytes_are_read_and_all_else_is_zeros(
    used: list[tuple[int, int]], start: int, length: int, disk: Path
) -> None:
    extents = Extents(used).clip(Extent(0, MIB))
    extent = Extent(start, min(length, MIB - start))
    buffer = bytearray(b"\xaa" * (extent.length + 7))
    with SourceReader(disk, 512) as source:
        lost = source.read(extent, extents, memoryview(buffer))
    expected = bytearray(MIB)
    for run in extents:
        expected[run.offset : run.end] = CONTENT[run.offset : run.end]
    assert buffer[: extent.length] == expected[extent.offset : extent.end]
    assert buffer[extent.length :] == b"\xaa" * 7, "more was touched than was asked for"
    assert lost == Extents()


def test_a_source_that_became_shorter_is_a_device_error(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    with SourceReader(path, 512) as source:
        os.truncate(path, 100 * KIB)
        buffer = memoryview(bytearray(MIB))
        with pytest.raises(DeviceError, match="ended at byte 102400") as told:
            source.read(Extent(0, MIB), Extents([(0, MIB)]), buffer)
    assert told.value.exit_code == ExitCode.DEVICE == 21
    assert told.value.hint


def test_a_source_is_opened_read_only(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    with SourceReader(path, 512) as source:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(source._file, b"x")


def test_opening_a_target_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    with TargetWriter(path):
        pass
    assert path.read_bytes() == CONTENT


def test_a_target_is_written_and_read_at_its_offsets(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    with TargetWriter(path) as target:
        target.write(1000, b"new")
        target.sync()
        target.drop_cache()
        assert target.read(Extent(999, 5)) == CONTENT[999:1000] + b"new" + CONTENT[1003:1004]
        assert target.read(Extent(MIB - 2, 10)) == CONTENT[-2:]
    assert path.read_bytes() == CONTENT[:1000] + b"new" + CONTENT[1003:]


def test_a_new_target_is_sparse_and_has_its_size(tmp_path: Path) -> None:
    with TargetWriter(tmp_path / "new", create_bytes=8 * MIB) as target:
        target.write(5 * MIB, b"island")
    status = (tmp_path / "new").stat()
    assert status.st_size == 8 * MIB
    assert status.st_blocks * 512 < MIB


def test_a_file_that_appeared_after_the_plan_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.write_bytes(b"somebody else's")
    with pytest.raises(Refused, match="did not exist when the plan was made"):
        TargetWriter(path, create_bytes=8 * MIB)
    assert path.read_bytes() == b"somebody else's"


def test_a_link_that_points_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused):
        TargetWriter(tmp_path / "link", create_bytes=MIB)
    assert not (tmp_path / "elsewhere").exists()


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    with TargetWriter(path), pytest.raises(Refused, match="by another program"):
        TargetWriter(path)


def test_a_full_target_is_an_error_of_its_own() -> None:
    with TargetWriter(Path("/dev/full")) as target:
        with pytest.raises(DestinationFull) as told:
            target.write(0, b"x" * 4096)
    assert told.value.exit_code == 23


def test_what_is_discarded_of_a_file_reads_as_zeros_and_takes_no_room(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    with TargetWriter(path) as target:
        if not target.discard(Extent(256 * KIB, 512 * KIB)):
            pytest.skip("the filesystem of the temporary folder cannot punch holes")
    assert path.read_bytes() == CONTENT[: 256 * KIB] + bytes(512 * KIB) + CONTENT[768 * KIB :]
    assert path.stat().st_blocks * 512 <= 512 * KIB + 64 * KIB


def test_a_target_that_cannot_discard_says_so(tmp_path: Path) -> None:
    with TargetWriter(Path("/dev/full")) as target:
        assert target.discard(Extent(0, MIB)) is False


def test_a_missing_disk_is_a_device_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be opened"):
        SourceReader(tmp_path / "none", 512)
    with pytest.raises(DeviceError, match="cannot be opened"):
        TargetWriter(tmp_path / "none")
