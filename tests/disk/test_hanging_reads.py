"""A read that is never answered: it is given up, or cancelled, and what was stored stays."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from recovery.devices.source_process import SharedBuffers, SourceProcess
from recovery.errors import Cancelled, DeviceError
from recovery.extent import Extent, Extents
from recovery.progress import Progress
from tests.support.disks import KIB, MIB, blank, loop, overwrite
from tests.support.fleet import small_disk
from tests.support.hanging_child import hanging
from tests.support.images import restic
from tests.support.program import interrupt_when, job_of, recovery, start
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


@pytest.mark.parametrize("interrupts", [1, 2])
def test_a_capture_that_hangs_can_be_stopped_and_leaves_the_repository_sound(interrupts: int, tmp_path: Path) -> None:
    """Of a block device: the last who closes one waits in the kernel for the reads of it, which must not be us."""
    small = small_disk(tmp_path / "small.img", tmp_path)
    unknown = small.place("unknown")
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    with ExitStack() as disk:
        source = disk.enter_context(hanging(small.image, unknown.offset + 5 * MIB, unknown.offset + 6 * MIB))
        with loop(source) as device:
            try:
                process = start("capture", device, "--json", repository=repository)
                job = job_of(process)
                ran = interrupt_when(process, lambda: _hangs(device), times=interrupts)
                assert not _state(Path(f"/proc/{job}")).strip("Z"), "the job is stuck"
            finally:
                disk.close()  # the device cannot be detached before
    assert ran.status in (130, *[-signal.SIGINT] * (interrupts - 1)), ran  # the second may find it ended already
    assert recovery("snapshots", "--json", repository=repository).document == []
    assert interrupts > 1 or not list((repository / "locks").iterdir())
    for program in restic_binaries():
        restic(program, repository, "--no-lock", "check", "--read-data")


def _hangs(device: Path) -> bool:
    """Whether a process that reads ``device`` has been waiting in the kernel, and nothing else, for a second."""
    for _ in range(20):
        if not any(_waits_in_the_kernel(entry, device) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            return False
        time.sleep(0.05)
    return True


def _waits_in_the_kernel(process: Path, device: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"recovery.devices.source_child" in words and os.fsencode(device) in words and _state(process) == "D"


def _state(process: Path) -> str:
    """As the kernel names it, by one letter; empty when there is no such process."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
