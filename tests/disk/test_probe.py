"""What is recognised on a range of a disk."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from recovery.devices.probe import probe
from recovery.errors import DeviceError
from recovery.extent import Extent
from tests.support.disks import GPT_SCRIPT, MIB, blank, loop, make_filesystem, overwrite, partitioned, run

pytestmark = pytest.mark.disk

OFFSET, LENGTH = 16 * MIB, 128 * MIB
RANGE = Extent(OFFSET, LENGTH)


def disk_with(tmp_path: Path, *mkfs: str, sector_bytes: int = 512) -> Path:
    image = blank(tmp_path / "disk.img", OFFSET + LENGTH + MIB)
    make_filesystem(image, OFFSET, LENGTH, *mkfs, sector_bytes=sector_bytes)
    return image


@pytest.mark.parametrize(
    ("mkfs", "kind", "type_"),
    [
        (("mkfs.ext4", "-q", "-L", "name"), "filesystem", "ext4"),
        (("mkfs.vfat", "-n", "name"), "filesystem", "vfat"),
        (("mkfs.ntfs", "-q", "-f", "-F", "-L", "name"), "filesystem", "ntfs"),
        (("mkfs.exfat", "-L", "name"), "filesystem", "exfat"),
        (("mkfs.btrfs", "-q", "-L", "name"), "filesystem", "btrfs"),
        (("mkfs.f2fs", "-q", "-l", "name"), "filesystem", "f2fs"),
        (("mkswap", "-q", "-L", "name"), "swap", "swap"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_filesystem_inside_a_disk_is_recognised(tmp_path: Path, mkfs: tuple[str, ...], kind: str, type_: str) -> None:
    image = disk_with(tmp_path, *mkfs)
    found = probe(image, RANGE)
    assert found is not None
    assert (found.kind, found.type) == (kind, type_)
    assert (found.label or "").lower() == "name"
    with loop(image, offset=OFFSET, size=LENGTH, read_only=True) as device:
        assert found.uuid == run("blkid", "-p", "-s", "UUID", "-o", "value", device).strip()
        assert probe(device, Extent(0, LENGTH)) == found


def test_sectors_of_4096_bytes_are_recognised(tmp_path: Path) -> None:
    found = probe(disk_with(tmp_path, "mkfs.ext4", "-q", sector_bytes=4096), RANGE, 4096)
    assert found is not None
    assert found.type == "ext4"
    assert found.block_bytes == 4096


def test_nothing_is_recognised_outside_the_range(tmp_path: Path) -> None:
    image = disk_with(tmp_path, "mkfs.ext4", "-q")
    assert probe(image, Extent(0, OFFSET)) is None
    assert probe(image, Extent(OFFSET + MIB, LENGTH)) is None
    assert probe(image, Extent(0, 0)) is None


@pytest.mark.parametrize(
    "label", [b"caf\xe9", b"\xff\xfe\x80", "na\u00efve \u2603".encode(), b'a\\x41"\n=b', b"\x1b[31mred"]
)
def test_odd_labels_survive_and_fit_json(tmp_path: Path, label: bytes) -> None:
    image = disk_with(tmp_path, "mkfs.ext4", "-q", "-O", "^metadata_csum")
    overwrite(image, OFFSET + 1024 + 120, label.ljust(16, b"\0"))
    found = probe(image, RANGE)
    assert found is not None
    assert found.label == label.decode(errors="backslashreplace")
    assert msgspec.json.decode(msgspec.json.encode(found))["label"] == found.label


def test_two_filesystems_in_one_place_are_unknown(tmp_path: Path) -> None:
    image = disk_with(tmp_path, "mkfs.ext4", "-q")
    other = blank(tmp_path / "fat.img", LENGTH)
    run("mkfs.fat", other)
    overwrite(image, OFFSET, other.read_bytes()[:512])  # the superblock of ext4 begins behind it
    found = probe(image, RANGE)
    assert found is not None
    assert (found.kind, found.type) == ("other", "ambivalent")


def test_a_hibernation_image_is_not_mere_swap(tmp_path: Path) -> None:
    image = disk_with(tmp_path, "mkswap", "-q")
    overwrite(image, OFFSET + 4086, b"S1SUSPEND\0")
    found = probe(image, RANGE)
    assert found is not None
    assert (found.kind, found.type) == ("swap", "swsuspend")


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_a_table_alone_is_told_as_a_table(tmp_path: Path, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", 48 * MIB, GPT_SCRIPT, sector_bytes)
    found = probe(image, Extent(0, 48 * MIB), sector_bytes)
    assert found is not None
    assert (found.kind, found.type) == ("table", "gpt")


def test_a_disk_that_cannot_be_opened_is_an_error_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        probe(tmp_path / "missing.img", RANGE)


def test_a_file_name_that_is_not_text_is_opened(tmp_path: Path) -> None:
    image = disk_with(tmp_path, "mkfs.ext4", "-q")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \n.img"))
    image.rename(odd)
    found = probe(odd, RANGE)
    assert found is not None
    assert found.type == "ext4"
