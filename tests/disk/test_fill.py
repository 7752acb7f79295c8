"""About how full a filesystem is, as its own tools say it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from recovery.devices.probe import probe
from recovery.extent import Extent
from recovery.filesystems.fill import used_bytes
from tests.support.disks import MIB, blank, overwrite, run, sha256
from tests.support.filesystems import OFFSET, Kind, fill, fill_and_list, make, partition

pytestmark = pytest.mark.disk

_NTFS = ("mkfs.ntfs", "-q", "-f", "-F")
_KINDS = [
    Kind("ext4", ("mkfs.ext4", "-q"), ("dumpe2fs",), 96 * MIB, mount="kernel"),
    Kind("ext2", ("mkfs.ext2", "-q", "-b1024"), ("dumpe2fs",), 96 * MIB, mount="kernel"),
    Kind("xfs", ("mkfs.xfs", "-q"), ("xfs_db",), 300 * MIB, mount="kernel"),
    Kind("btrfs", ("mkfs.btrfs", "-q"), ("btrfs",), 128 * MIB, mount="kernel"),
    Kind("ntfs", _NTFS, ("ntfsinfo",), 64 * MIB, mount="ntfs-3g", needs=("ntfs-3g",)),
    Kind("ntfs 4096", _NTFS, ("ntfsinfo",), 64 * MIB, sector_bytes=4096, mount="ntfs-3g", needs=("ntfs-3g",)),
    Kind("fat12", ("mkfs.fat", "-F12"), ("fsck.fat", "-n"), 30 * MIB, mount="mtools"),
    Kind("fat16", ("mkfs.fat", "-F16"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
    Kind("fat32", ("mkfs.fat", "-F32", "-s1"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
    Kind("exfat", ("mkfs.exfat",), ("dump.exfat",), 64 * MIB, mount="mount.exfat-fuse", needs=("mount.exfat-fuse",)),
    Kind("f2fs", ("mkfs.f2fs", "-q", "-f"), ("dump.f2fs",), 128 * MIB, mount="f2fs"),
]


def _told(kind: Kind, image: Path) -> int | None:
    extent = Extent(OFFSET, kind.size)
    return used_bytes(image, extent, probe(image, extent, kind.sector_bytes))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found[1])


def _used_by_its_own_tool(kind: Kind, image: Path) -> int:
    """What the filesystem's own tool says is used of it, in bytes."""
    with partition(kind, image, read_only=True) as device:
        match kind.check[0]:
            case "dumpe2fs":
                said = run("dumpe2fs", "-h", device)
                blocks = _number(r"Block count:\s+(\d+)", said) - _number(r"Free blocks:\s+(\d+)", said)
                return blocks * _number(r"Block size:\s+(\d+)", said)
            case "xfs_db":
                said = run("xfs_db", "-r", "-c", "sb 0", "-c", "print dblocks fdblocks blocksize", device)
                blocks = _number(r"dblocks = (\d+)", said) - _number(r"fdblocks = (\d+)", said)
                return blocks * _number(r"blocksize = (\d+)", said)
            case "btrfs":
                return _number(r"bytes_used\s+(\d+)", run("btrfs", "inspect-internal", "dump-super", device))
            case "ntfsinfo":
                said = run("ntfsinfo", "-m", device)
                free = _number(r"Free Clusters: (\d+)", said)
                clusters = _number(r"Volume Size in Clusters: (\d+)", said)
                return (clusters - free) * _number(r"Cluster Size: (\d+)", said)
            case "fsck.fat":
                said = run("fsck.fat", "-n", "-v", device)
                return _number(r"files, (\d+)/", said) * _number(r"(\d+) bytes per cluster", said)
            case "dump.exfat":
                said = run("dump.exfat", device)
                clusters = _number(r"Total Clusters:\s+(\d+)", said) - _number(r"Free Clusters:\s+(\d+)", said)
                return clusters * _number(r"Cluster size:\s+(\d+)", said)
            case _:
                said = run("dump.f2fs", "-d1", device)
                return _number(r"valid_block_count\s+\[0x\s*\w+ : (\d+)", said) * 4096


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.name)
def test_it_is_what_its_own_tool_says(kind: Kind, tmp_path: Path) -> None:
    if missing := kind.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    image = make(kind, tmp_path)
    empty = _told(kind, image)
    assert empty is not None
    assert empty == _used_by_its_own_tool(kind, image)
    fill_and_list(kind, image, tmp_path, partial(fill, total_bytes=16 * MIB, small_files=0))
    before = sha256(image)
    filled = _told(kind, image)
    assert filled is not None
    assert filled == _used_by_its_own_tool(kind, image)
    assert 8 * MIB < filled - empty < 18 * MIB
    assert sha256(image) == before


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("byte", [b"\0", b"\xff", b"\x7f"], ids=["zeros", "ones", "large"])
def test_a_damaged_one_is_not_known_and_nothing_fails(kind: Kind, byte: bytes, tmp_path: Path) -> None:
    """Its type is still told, everything that counts is nonsense."""
    if missing := kind.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    image = make(kind, tmp_path)
    content = probe(image, Extent(OFFSET, kind.size), kind.sector_bytes)
    overwrite(image, OFFSET, byte * min(kind.size, 8 * MIB))
    told = used_bytes(image, Extent(OFFSET, kind.size), content)
    assert told is None or 0 <= told <= kind.size


def test_what_has_no_fill_and_a_disk_that_went_away_are_not_known(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 8 * MIB)
    run("mkswap", "-q", image)
    extent = Extent(0, 8 * MIB)
    assert used_bytes(image, extent, probe(image, extent)) is None
    assert used_bytes(image, extent, None) is None
    run("mkfs.ext4", "-q", "-F", image)
    content = probe(image, extent)
    assert used_bytes(image, extent, content) is not None
    image.unlink()
    assert used_bytes(image, extent, content) is None


def test_of_a_large_bitmap_a_part_is_read_and_it_is_still_about_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limits so small that a small filesystem's bitmap is a large one."""
    kind = next(kind for kind in _KINDS if kind.name == "ntfs")
    if missing := kind.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    image = make(kind, tmp_path)
    fill_and_list(kind, image, tmp_path, partial(fill, total_bytes=40 * MIB, small_files=0))
    exact = _told(kind, image)
    monkeypatch.setattr("recovery.filesystems.fill._BITMAP_BYTES", 1024)
    monkeypatch.setattr("recovery.filesystems.fill._PIECE_BYTES", 16)
    about = _told(kind, image)
    assert exact is not None
    assert about is not None
    assert about != exact
    assert abs(about - exact) < 8 * MIB
