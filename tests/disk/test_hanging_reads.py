"""A read that is never answered: it is given up, or cancelled, and what was stored stays."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from recovery.devices.source_process import SharedBuffers, SourceProcess
from recovery.errors import Cancelled, DeviceError
from recovery.extent import Extent, Extents
from recovery.progress import Progress
from tests.support.disks import KIB, MIB, blank, overwrite
from tests.support.fleet import small_disk
from tests.support.hanging_child import hanging
from tests.support.images import recovery_line, restic
from tests.support.program import environment, interrupt_when, recovery
from tests.support.restic import restic_binaries

pytestmark = pytest.mark.disk

_CHUNK = 256 * KIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = blank(tmp_path / "disk.img", 4 * MIB)
    overwrite(path, 0, b"first" * 1000)
    return path


def test_it_is_given_up_after_a_time_and_the_source_and_place_are_named(disk: Path) -> None:
    with hanging(disk, 2 * MIB, 3 * MIB) as source:
        buffers = SharedBuffers(2, _CHUNK)
        with SourceProcess(source, 512, buffers, Progress().check, silence_seconds=1) as reader:
            buffer = buffers.take()
            assert not reader.read(Extent(0, _CHUNK), Extents([(0, _CHUNK)]), buffer)
            assert bytes(buffer[:5000]) == b"first" * 1000
            with pytest.raises(DeviceError, match=rf"{source} does not answer a read at byte {2 * MIB}"):
                reader.read(Extent(2 * MIB, _CHUNK), Extents([(2 * MIB, _CHUNK)]), buffer)


def test_cancelling_does_not_wait_for_it(disk: Path) -> None:
    progress = Progress()
    with hanging(disk, 2 * MIB, 3 * MIB) as source:
        buffers = SharedBuffers(2, _CHUNK)
        with SourceProcess(source, 512, buffers, progress.check) as reader:
            progress.cancel()
            with pytest.raises(Cancelled):
                reader.read(Extent(2 * MIB, _CHUNK), Extents([(2 * MIB, _CHUNK)]), buffers.take())


def test_only_used_bytes_are_read_so_that_a_hanging_gap_does_not_matter(disk: Path) -> None:
    with hanging(disk, 100 * KIB, 200 * KIB) as source:
        buffers = SharedBuffers(1, _CHUNK)
        with SourceProcess(source, 512, buffers, Progress().check, silence_seconds=5) as reader:
            buffer = buffers.take()
            reader.read(Extent(0, _CHUNK), Extents([(0, 8 * KIB)]), buffer)
            assert bytes(buffer) == (b"first" * 1000).ljust(_CHUNK, b"\0")


def test_a_source_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    buffers = SharedBuffers(1, _CHUNK)
    with SourceProcess(tmp_path / "gone", 512, buffers, Progress().check) as reader:
        with pytest.raises(DeviceError, match="gone cannot be opened"):
            reader.read(Extent(0, 512), Extents([(0, 512)]), buffers.take())


def test_a_capture_that_hangs_can_be_stopped_and_leaves_the_repository_sound(tmp_path: Path) -> None:
    small = small_disk(tmp_path / "small.img", tmp_path)
    unknown = small.place("unknown")
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    with hanging(small.image, unknown.offset + 5 * MIB, unknown.offset + 6 * MIB) as source:
        _, _, process_id, _, *inside = source.parts  # /proc/PID/root/...: the program gets that namespace for its own
        line = [
            "nsenter",
            f"--mount=/proc/{process_id}/ns/mnt",
            f"--root=/proc/{process_id}/root",
            f"--wd={Path.cwd()}",
        ]
        began = time.monotonic()
        process = subprocess.Popen(
            [*line, *recovery_line("capture", "/" + "/".join(inside), "--json")],
            env=environment(repository),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        ran = interrupt_when(process, lambda: time.monotonic() - began > 5)
    assert ran.status == 130, ran
    assert recovery("snapshots", "--json", repository=repository).document == []
    assert not list((repository / "locks").iterdir())
    for program in restic_binaries():
        restic(program, repository, "check", "--read-data")
