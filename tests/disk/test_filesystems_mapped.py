"""What is told used of real filesystems: all else may be overwritten, and the filesystem does not notice."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import pytest

from recovery.devices.probe import Content, probe
from recovery.extent import Extent, Extents
from recovery.filesystems import Usage, used_extents
from tests.support.disks import KIB, MIB, blank, loop, overwrite, read_at, run, sha256
from tests.support.filesystems import (
    OFFSET,
    Kind,
    check,
    fill,
    fill_and_list,
    make,
    opened,
    overwrite_unused,
    partition,
    read_back,
)

pytestmark = pytest.mark.disk

E2FSCK = ("e2fsck", "-fn")
NTFS = ("mkfs.ntfs", "-q", "-f", "-F")

KINDS = [
    Kind("ext4", ("mkfs.ext4", "-q"), E2FSCK, 96 * MIB, mount="kernel"),
    Kind("ext4 1 KiB blocks", ("mkfs.ext4", "-q", "-b1024"), E2FSCK, 96 * MIB + 3 * KIB, mount="kernel"),
    Kind("ext4 shorter", ("mkfs.ext4", "-q", "-b4096"), E2FSCK, 96 * MIB + 3 * KIB, mount="kernel"),
    Kind("ext2", ("mkfs.ext2", "-q", "-O^resize_inode"), E2FSCK, 96 * MIB, mount="kernel"),
    Kind("ext4 meta_bg", ("mkfs.ext4", "-q", "-Ometa_bg,^resize_inode"), E2FSCK, 96 * MIB, mount="kernel"),
    Kind("xfs", ("mkfs.xfs", "-q"), ("xfs_repair", "-n"), 300 * MIB, mount="kernel"),
    Kind("xfs 1 KiB blocks", ("mkfs.xfs", "-q", "-bsize=1024"), ("xfs_repair", "-n"), 301 * MIB, mount="kernel"),
    Kind("xfs 4096", ("mkfs.xfs", "-q"), ("xfs_repair", "-n"), 300 * MIB, sector_bytes=4096, mount="kernel"),
    Kind("btrfs", ("mkfs.btrfs", "-q"), ("btrfs", "check"), 320 * MIB, mount="kernel"),
    Kind("btrfs mixed", ("mkfs.btrfs", "-q", "-M"), ("btrfs", "check"), 128 * MIB, mount="kernel"),
    Kind("btrfs single", ("mkfs.btrfs", "-q", "-msingle", "-n4096"), ("btrfs", "check"), 256 * MIB, mount="kernel"),
    Kind("ntfs", NTFS, ("ntfsfix", "-n"), 64 * MIB + 512, mount="ntfs-3g", needs=("ntfs-3g",)),
    Kind("ntfs 4096", NTFS, ("ntfsfix", "-n"), 64 * MIB, sector_bytes=4096, mount="ntfs-3g", needs=("ntfs-3g",)),
    Kind("fat16", ("mkfs.fat", "-F16"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
    Kind("fat32", ("mkfs.fat", "-F32", "-s1"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
    Kind("fat32 4096", ("mkfs.fat", "-F32", "-s1"), ("fsck.fat", "-n"), 300 * MIB, sector_bytes=4096, mount="mtools"),
    Kind(
        "exfat", ("mkfs.exfat",), ("fsck.exfat", "-n"), 64 * MIB, mount="mount.exfat-fuse", needs=("mount.exfat-fuse",)
    ),
    Kind("f2fs", ("mkfs.f2fs", "-q", "-f"), ("fsck.f2fs", "-d1"), 128 * MIB, mount="f2fs", needs=("dump.f2fs",)),
]


def usage_of(kind: Kind, image: Path, scratch: Path) -> Usage:
    extent = Extent(OFFSET, kind.size)
    content = probe(image, extent, kind.sector_bytes)
    return used_extents(image, extent, content, kind.sector_bytes, scratch)


def unused_in_image(kind: Kind, usage: Usage) -> Extents:
    return usage.used.invert(Extent(0, kind.size)).shift(OFFSET)


def skip_unless_complete(kind: Kind) -> None:
    if missing := kind.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_all_that_is_not_told_used_may_be_overwritten(kind: Kind, tmp_path: Path) -> None:
    skip_unless_complete(kind)
    image = make(kind, tmp_path)
    filler = partial(fill, total_bytes=24 * MIB, small_files=0 if kind.mount == "f2fs" else 300)
    before = fill_and_list(kind, image, tmp_path, filler)
    assert before
    hash_before = sha256(image)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    usage = usage_of(kind, image, scratch)

    assert sha256(image) == hash_before
    assert not list(scratch.iterdir())
    assert (usage.method, usage.clean) == ("map", True), usage.reason
    assert usage.tool is not None
    assert usage.tool.startswith("partclone.")
    assert all(e.offset % kind.sector_bytes == 0 for e in usage.used)
    assert usage.used.total_bytes < kind.size * 3 // 4
    stale = overwrite_unused(image, unused_in_image(kind, usage), tmp_path / "stale.img")
    check(kind, stale)
    assert read_back(kind, stale, tmp_path / "again") == before


def test_a_busy_btrfs_with_snapshots_keeps_every_copy_of_its_trees(tmp_path: Path) -> None:
    """Trees of several levels, whose inner nodes and second copies partclone's map leaves out."""
    kind = Kind("btrfs", ("mkfs.btrfs", "-q"), ("btrfs", "check", "--check-data-csum"), 512 * MIB, mount="kernel")
    image = make(kind, tmp_path)
    with opened(kind, image, tmp_path / "mount") as at:
        fill(at, 8 * MIB, small_files=6000)
        run("btrfs", "subvolume", "snapshot", "-r", at, at / "snapshot")
        for path in sorted(at.glob("folder 1/inner 1/*"))[::2]:
            path.unlink()
        fill(at, 8 * MIB, seed=2)
    before = read_back(kind, image, tmp_path / "first")
    usage = usage_of(kind, image, tmp_path)
    assert usage.method == "map"
    stale = overwrite_unused(image, unused_in_image(kind, usage), tmp_path / "stale.img")
    check(kind, stale)
    with opened(kind, stale, tmp_path / "again") as at:
        scrubbed = run("btrfs", "scrub", "start", "-B", at)
    assert "no errors found" in scrubbed
    assert read_back(kind, stale, tmp_path / "last") == before


def test_the_backup_boot_sector_of_ntfs_is_used(tmp_path: Path) -> None:
    kind = Kind("ntfs", NTFS, ("ntfsfix", "-n"), 64 * MIB, mount="ntfs-3g")
    image = make(kind, tmp_path)
    usage = usage_of(kind, image, tmp_path)
    assert usage.method == "map"
    assert usage.used.covers(Extent(kind.size - 512, 512))
    backup = OFFSET + kind.size - 512
    assert read_at(image, backup, 11) == read_at(image, OFFSET, 11)


def test_what_lies_behind_the_end_of_a_filesystem_is_used(tmp_path: Path) -> None:
    kind = Kind("ext4", ("mkfs.ext4", "-q", "-b4096"), E2FSCK, 96 * MIB)
    image = make(kind, tmp_path)
    with partition(kind, image) as device:
        run("resize2fs", "-f", device, "64M")
    usage = usage_of(kind, image, tmp_path)
    assert usage.method == "map"
    assert usage.used.covers(Extent(64 * MIB, 32 * MIB))
    assert not usage.used.covers(Extent(0, 64 * MIB))


def test_the_last_two_clusters_of_exfat_are_used(tmp_path: Path) -> None:
    """partclone never looks at them."""
    kind = Kind("exfat", ("mkfs.exfat", "-c", "32K"), ("fsck.exfat", "-n"), 64 * MIB)
    skip_unless_complete(kind)
    image = make(kind, tmp_path)
    boot = read_at(image, OFFSET, 512)
    heap = int.from_bytes(boot[88:92], "little") << boot[108]
    end = heap + int.from_bytes(boot[92:96], "little") * 32 * KIB
    usage = usage_of(kind, image, tmp_path)
    assert usage.method == "map"
    assert usage.used.covers(Extent(end - 64 * KIB, kind.size - end + 64 * KIB))
    assert not usage.used.covers(Extent(end - 256 * KIB, 128 * KIB))


def test_an_hfs_plus_volume_is_mapped_by_its_bitmap(tmp_path: Path) -> None:
    """No program here makes or checks one: its header and bitmap are laid out by hand, after TN1150."""
    block, blocks, taken = 4096, 4096, [*range(8), *range(100, 300), 1000, *range(4000, 4096)]
    bitmap = bytearray(block)
    for number in taken:
        bitmap[number // 8] |= 0x80 >> number % 8
    header = bytearray(512)
    struct.pack_into(">2sHI4s", header, 0, b"H+", 4, 1 << 8, b"10.0")
    struct.pack_into(">III", header, 40, block, blocks, blocks - len(taken))
    struct.pack_into(">QIIII", header, 112, block, block, 1, 1, 1)
    image = blank(tmp_path / "hfsplus.img", block * blocks + 512)
    overwrite(image, 1024, bytes(header))
    overwrite(image, block, bytes(bitmap))
    content = Content(kind="filesystem", type="hfsplus")
    usage = used_extents(image, Extent(0, block * blocks + 512), content, 512, tmp_path)
    assert usage.method == "map", usage.reason
    assert usage.used == Extents([*((number * block, block) for number in taken), (block * blocks, 512)])
    overwrite(image, 1024 + 4, bytes(4))
    unclean = used_extents(image, Extent(0, block * blocks + 512), content, 512, tmp_path)
    assert (unclean.method, unclean.clean) == ("whole", False)


@pytest.mark.parametrize("page_bytes", [4 * KIB, 64 * KIB])
def test_of_swap_only_the_header_is_used(page_bytes: int, tmp_path: Path) -> None:
    kind = Kind("swap", ("mkswap", "-L", "swap space", "-p", str(page_bytes)), ("true",), 16 * MIB)
    image = make(kind, tmp_path)
    with partition(kind, image, read_only=True) as device:
        before = run("blkid", "-p", "-o", "export", device).splitlines()[1:]
    usage = usage_of(kind, image, tmp_path)
    assert usage == Usage(Extents([(0, page_bytes)]), "swap-header")
    stale = overwrite_unused(image, unused_in_image(kind, usage), tmp_path / "stale.img")
    with partition(kind, stale, read_only=True) as device:
        assert run("blkid", "-p", "-o", "export", device).splitlines()[1:] == before
    assert any(line.startswith("UUID=") for line in before)


def test_the_used_bytes_are_told_of_a_block_device_too(tmp_path: Path) -> None:
    kind = Kind("ext4", ("mkfs.ext4", "-q"), E2FSCK, 64 * MIB)
    image = make(kind, tmp_path)
    of_file = usage_of(kind, image, tmp_path)
    with loop(image) as device:
        assert usage_of(kind, device, tmp_path) == of_file
    assert of_file.method == "map"


def test_no_log_is_left_behind(tmp_path: Path) -> None:
    kind = Kind("ext4", ("mkfs.ext4", "-q"), E2FSCK, 64 * MIB)
    image = make(kind, tmp_path)
    logs = {path.name for path in Path("/var/log").iterdir()}
    here = sorted(Path.cwd().iterdir())
    assert usage_of(kind, image, tmp_path).method == "map"
    assert {path.name for path in Path("/var/log").iterdir() if "partclone" in path.name} <= logs
    assert sorted(Path.cwd().iterdir()) == here
