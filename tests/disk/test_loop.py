"""Loop devices over a part of a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from recovery.devices.loop import read_only_loop, view_loop
from recovery.errors import DeviceError
from recovery.extent import Extent
from tests.support.disks import MIB, loop, overwrite, read_at, run

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="attaches loop devices, as only root may")]

PART = Extent(4096, MIB)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(3 * MIB))
    return path


def stays_attached(image: Path) -> str:
    """What is attached of it, once whoever else looks at all devices of the machine has closed it."""
    ends = time.monotonic() + 60
    while (found := run("losetup", "--associated", image)) and time.monotonic() < ends:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_a_part_is_read_through_its_device_and_cannot_be_written(sector_bytes: int, image: Path) -> None:
    before = image.read_bytes()
    with read_only_loop(image, PART, sector_bytes) as device:
        assert device.read_bytes() == read_at(image, *PART)
        assert run("blockdev", "--getss", "--getro", "--getsize64", device).split() == [
            str(sector_bytes),
            "1",
            str(MIB),
        ]
        written = subprocess.run(["dd", "if=/dev/zero", f"of={device}", "count=1"], capture_output=True, check=False)
        assert written.returncode != 0
    assert not stays_attached(image)
    assert image.read_bytes() == before


def test_a_view_may_be_written(image: Path) -> None:
    with view_loop(image) as device:
        overwrite(device, MIB, b"new")
        run("sync", device)
    assert read_at(image, MIB, 3) == b"new"
    assert not stays_attached(image)


def test_a_view_may_be_written_on_a_device_that_was_made_read_only_for_another(image: Path) -> None:
    with loop(image) as before:
        run("blockdev", "--setro", before)
    try:
        with view_loop(image) as device:
            assert run("blockdev", "--getro", device).strip() == "0"
            overwrite(device, MIB, b"new")
            run("sync", device)
    finally:
        run("blockdev", "--setrw", before)
    assert read_at(image, MIB, 3) == b"new"


def test_nothing_stays_attached_when_its_owner_is_killed(image: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover - it is killed
        with read_only_loop(image, PART):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert not stays_attached(image)


def test_what_cannot_be_attached_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DeviceError, match="no loop device can be had"), read_only_loop(path, PART):
            pass
