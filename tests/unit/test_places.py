"""Which disk a device belongs to is told by its name alone, and never by half of it."""

from __future__ import annotations

import pytest

from recovery.places import is_on


@pytest.mark.parametrize(
    ("device", "disk", "answer"),
    [
        ("/dev/sda", "/dev/sda", True),
        ("/dev/sda12", "/dev/sda", True),
        ("/dev/sdaa1", "/dev/sda", False),
        ("/dev/nvme0n1p2", "/dev/nvme0n1", True),
        ("/dev/nvme0n12", "/dev/nvme0n1", False),
        ("/dev/loop12", "/dev/loop1", False),
        ("/dev/loop1p2", "/dev/loop1", True),
        ("/dev/md127", "/dev/md1", False),
        ("/dev/mmcblk0p1", "/dev/mmcblk0", True),
        ("/dev/mmcblk0boot0", "/dev/mmcblk0", False),
        ("/dev/mapper/root", "/dev/sda", False),
        ("", "/dev/sda", False),
    ],
)
def test_a_device_is_on_its_disk_and_on_no_other(device: str, disk: str, *, answer: bool) -> None:
    assert is_on(device, disk) is answer
