"""Filesystems whose map is not to be believed are captured whole, and the reason is said."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.devices.probe import Content, probe
from recovery.extent import Extent, Extents
from recovery.filesystems import Usage, ext, f2fs, fat, hfsplus, used_extents
from recovery.filesystems import btrfs as btrfs_module
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection
from tests.support.crash_kinds import without_f2fs_unmount
from tests.support.disks import KIB, MIB, blank, loop, mounted, overwrite, read_at, run, sha256

pytestmark = pytest.mark.disk


def usage_of(image: Path, size: int | None = None, offset: int = 0, content: Content | None = None) -> Usage:
    extent = Extent(offset, size if size is not None else image.stat().st_size)
    before = sha256(image)
    usage = used_extents(image, extent, content or probe(image, extent), 512)
    assert sha256(image) == before
    return usage


def assert_whole(usage: Usage, size: int, reason: str, clean: bool | None = False) -> None:
    assert usage.method == "whole"
    assert usage.used == Extents([(0, size)])
    assert reason in usage.reason
    assert usage.clean is clean


def assert_mapped(usage: Usage, size: int, reason: str) -> None:
    assert (usage.method, usage.clean) == ("map", False), usage.reason
    assert usage.used.total_bytes < size // 2
    assert reason in usage.reason


def made(folder: Path, size: int, *mkfs: str) -> Path:
    image = blank(folder / "fs.img", size)
    run(*mkfs, image)
    return image


@pytest.mark.parametrize(
    ("mkfs", "size", "reason"),
    [
        (("mkfs.ext4", "-q"), 64 * MIB, "its journal needs recovery"),
        (("mkfs.ext2", "-q"), 64 * MIB, "it is marked in use"),
        (("mkfs.xfs", "-q"), 300 * MIB, "its log holds changes"),
        (("mkfs.btrfs", "-q"), 128 * MIB, "it has a log tree to replay"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_crashed_filesystem_is_whole_where_no_copy_of_it_can_be_brought_up_to_date(
    mkfs: tuple[str, ...], size: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash is a copy of the disk, taken while the filesystem is mounted and a file has just been fsynced."""
    image, crashed = made(tmp_path, size, *mkfs), tmp_path / "crashed.img"
    with loop(image) as device, mounted(device, tmp_path / "mount") as at:
        at.joinpath("earlier").write_bytes(b"x" * MIB)
        run("sync", "-f", at)
        with at.joinpath("just written").open("wb") as file:
            file.write(b"y" * MIB)
            file.flush()
            os.fsync(file.fileno())
        shutil.copyfile(image, crashed)
    assert usage_of(image).method == "map"
    programs = [f"partclone.{name}" for name in ("extfs", "xfs", "btrfs")]
    only_programs(tmp_path, monkeypatch, "losetup", "blkid", "xfs_logprint", *programs)
    usage = usage_of(crashed)
    assert_whole(usage, size, reason)
    assert "unshare is not installed" in usage.reason


def test_ext4_with_errors_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.ext4", "-q")
    run("debugfs", "-w", "-R", "set_super_value state 2", image)
    assert_whole(usage_of(image), 32 * MIB, "errors were noted")


def test_ext4_with_bigalloc_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 64 * MIB, "mkfs.ext4", "-q", "-Obigalloc")
    assert_whole(usage_of(image), 64 * MIB, "bigalloc", clean=True)


def test_the_journal_of_another_ext4_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.ext4", "-q", "-Ojournal_dev")
    assert usage_of(image).method == "whole"


def test_btrfs_over_two_devices_is_whole(tmp_path: Path) -> None:
    one, two = blank(tmp_path / "one", 128 * MIB), blank(tmp_path / "two", 128 * MIB)
    run("mkfs.btrfs", "-q", "-draid1", "-mraid1", one, two)
    assert_whole(usage_of(one), 128 * MIB, "several devices", clean=None)


FAT = [("mkfs.fat", "-F16"), ("mkfs.fat", "-F32", "-s1")]


@pytest.mark.parametrize("mkfs", FAT, ids=lambda mkfs: mkfs[1])
def test_fat_marked_dirty_in_its_boot_sector_is_mapped_and_that_is_said(mkfs: tuple[str, ...], tmp_path: Path) -> None:
    image = made(tmp_path, 64 * MIB, *mkfs)
    assert usage_of(image).method == "map"
    overwrite(image, 0x41 if "-F32" in mkfs else 0x25, b"\x01")
    assert_mapped(usage_of(image), 64 * MIB, "boot sector is marked dirty")


@pytest.mark.parametrize("mkfs", FAT, ids=lambda mkfs: mkfs[1])
@pytest.mark.parametrize(("bit", "reason"), [(-1, "table is marked dirty"), (-2, "errors were noted")])
def test_fat_marked_in_its_table_is_whole_only_for_errors(
    mkfs: tuple[str, ...], bit: int, reason: str, tmp_path: Path
) -> None:
    image = made(tmp_path, 64 * MIB, *mkfs)
    table = 512 * struct.unpack("<H", read_at(image, 14, 2))[0]
    width, bits = (4, 28) if "-F32" in mkfs else (2, 16)
    entry = int.from_bytes(read_at(image, table + width, width), "little") & ~(1 << (bits + bit))
    overwrite(image, table + width, entry.to_bytes(width, "little"))
    (assert_mapped if bit == -1 else assert_whole)(usage_of(image), 64 * MIB, reason)


def test_fat12_is_whole_because_partclone_misreads_it(tmp_path: Path) -> None:
    image = made(tmp_path, 4 * MIB, "mkfs.fat", "-F12")
    assert_whole(usage_of(image), 4 * MIB, "FAT12", clean=None)


def test_fat32_that_uses_its_second_table_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 64 * MIB, "mkfs.fat", "-F32", "-s1")
    overwrite(image, 40, b"\x81\x00")
    assert_whole(usage_of(image), 64 * MIB, "another than its first table", clean=None)


def test_exfat_marked_dirty_is_mapped_and_that_is_said(tmp_path: Path) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.exfat")
    overwrite(image, 106, b"\2")
    assert_mapped(usage_of(image), 32 * MIB, "marked dirty")


@pytest.mark.parametrize(("flags", "reason", "clean"), [(4, "failure of the medium", False), (1, "two", None)])
def test_exfat_with_flags_set_is_whole(flags: int, reason: str, clean: bool | None, tmp_path: Path) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.exfat")
    overwrite(image, 106, bytes([flags]))
    assert_whole(usage_of(image), 32 * MIB, reason, clean)


def test_ntfs_marked_dirty_is_mapped_and_that_is_said(tmp_path: Path) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.ntfs", "-q", "-F", "-f")
    assert usage_of(image).method == "map"
    run("ntfsfix", image)
    assert_mapped(usage_of(image), 32 * MIB, "it is marked dirty")


@pytest.mark.parametrize("dirty", [False, True])
def test_what_only_the_file_table_of_ntfs_knows_is_used(dirty: bool, tmp_path: Path) -> None:
    """Its bitmap is older than its files, and calls all clusters of one of them free."""
    image = made(tmp_path, 32 * MIB, "mkfs.ntfs", "-q", "-F", "-f", "-c", "4096")
    for name, size in (("first", 300 * KIB), ("second", 2 * MIB), ("third", 64 * KIB)):
        tmp_path.joinpath(name).write_bytes(random.Random(name).randbytes(size))
        run("ntfscp", image, tmp_path / name, name)
    if dirty:
        run("ntfsfix", image)
    content = image.read_bytes()
    place = content.index(tmp_path.joinpath("second").read_bytes()[: 4 * KIB])
    bitmap = int(
        re.findall(r"Runlist:\s+VCN\s+LCN\s+Length\s+0x0\s+0x([0-9a-f]+)", run("ntfsinfo", "-v", "-f", "-i6", image))[
            0
        ],
        16,
    )
    overwrite(image, bitmap * 4 * KIB + place // (8 * 4 * KIB) + 1, bytes(2 * MIB // (8 * 4 * KIB) - 1))
    usage = usage_of(image)
    assert (usage.method, usage.clean) == ("map", not dirty), usage.reason
    assert usage.used.covers(Extent(place, 2 * MIB))
    assert usage.used.total_bytes < 16 * MIB


def test_ntfs_with_a_damaged_file_record_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.ntfs", "-q", "-F", "-f", "-c", "4096")
    tmp_path.joinpath("file").write_bytes(b"x" * MIB)
    run("ntfscp", image, tmp_path / "file", "file")
    (table,) = struct.unpack("<Q", read_at(image, 48, 8))
    record = table * 4 * KIB + 64 * KIB  # the first of a user's files has number 64
    assert read_at(image, record, 4) == b"FILE"
    overwrite(image, record + 510, b"\xde\xad")
    assert_whole(usage_of(image), 32 * MIB, "half written", clean=None)


def test_ntfs_that_holds_a_hibernated_windows_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.ntfs", "-q", "-F", "-f")
    sleeping = tmp_path / "hiberfil.sys"
    sleeping.write_bytes(b"hibr".ljust(64 * KIB, b"\0"))
    run("ntfscp", image, sleeping, "hiberfil.sys")
    assert_whole(usage_of(image), 32 * MIB, "Windows is hibernated")


def test_f2fs_without_an_unmount_checkpoint_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 128 * MIB, "mkfs.f2fs", "-q", "-f")
    assert usage_of(image).method == "map"
    without_f2fs_unmount(image)
    assert_whole(usage_of(image), 128 * MIB, "newest checkpoint is not that of an unmount")


@pytest.mark.parametrize("signature", [b"S1SUSPEND\0", b"LINHIB0001"])
def test_swap_with_a_hibernated_system_is_whole(signature: bytes, tmp_path: Path) -> None:
    image = made(tmp_path, 16 * MIB, "mkswap")
    overwrite(image, 4086, signature)
    assert_whole(usage_of(image), 16 * MIB, "hibernated", clean=None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "nothing that could be recognised"),
        (Content(kind="crypto", type="crypto_LUKS"), "encrypted volume (crypto_LUKS)"),
        (Content(kind="lvm", type="LVM2_member"), "LVM"),
        (Content(kind="raid", type="linux_raid_member"), "RAID"),
        (Content(kind="volume", type="zfs_member"), "storage pool (zfs_member)"),
        (Content(kind="filesystem", type="apfs"), "apfs"),
        (Content(kind="other", type="ambivalent"), "could not be identified"),
        (Content(kind="filesystem", type="ext4"), "superblock is damaged"),
        (Content(kind="filesystem", type="xfs"), "superblock is damaged"),
        (Content(kind="filesystem", type="hfsplus"), "damaged"),
        (Content(kind="swap", type="swap"), "unknown kind"),
    ],
    ids=lambda value: value.type if isinstance(value, Content) else "",
)
def test_what_is_no_known_filesystem_is_whole(content: Content | None, reason: str, tmp_path: Path) -> None:
    image = blank(tmp_path / "image", 4 * MIB)
    usage = used_extents(image, Extent(0, 4 * MIB), content, 512)
    assert_whole(usage, 4 * MIB, reason, clean=None)


def test_a_filesystem_longer_than_its_partition_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 64 * MIB, "mkfs.ext4", "-q")
    assert_whole(usage_of(image, 32 * MIB), 32 * MIB, "", clean=None)


def test_a_partition_that_reaches_beyond_the_disk_is_whole(tmp_path: Path) -> None:
    image = made(tmp_path, 64 * MIB, "mkfs.ext4", "-q")
    os.truncate(image, 48 * MIB)
    content = Content(kind="filesystem", type="ext4")
    assert_whole(usage_of(image, 64 * MIB, content=content), 64 * MIB, "whole length", clean=None)


def only_programs(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """A machine on which nothing but ``names`` is installed."""
    programs = folder / "programs"
    programs.mkdir()
    for name in names:
        found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        assert found is not None
        programs.joinpath(name).symlink_to(found)
    monkeypatch.setattr("recovery.command.SEARCH_PATH", str(programs))
    return programs


@pytest.mark.parametrize(
    ("mkfs", "size", "missing"),
    [
        (("mkfs.ext4", "-q"), 32 * MIB, "partclone.extfs"),
        (("mkfs.xfs", "-q"), 300 * MIB, "xfs_logprint"),
        (("mkfs.ntfs", "-q", "-F", "-f"), 32 * MIB, "ntfs-3g.probe"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_missing_program_is_a_reason_and_no_error(
    mkfs: tuple[str, ...], size: int, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made(tmp_path, size, *mkfs)
    only_programs(tmp_path, monkeypatch, "losetup", "blkid")
    assert_whole(usage_of(image), size, f"the program {missing} is not installed", clean=None)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'extfsclone.c: bitmap error at 3 group.' >&2; exit 1", "bitmap error at 3 group."),
        ("exit 1", "it gave no reason"),
        ("exit 0", "left no map"),
        ("kill -9 $$", "gave no reason"),
        ('printf "0x0 ?\\n0x0 0x2000000 +\\n0x2000000 0x400 ?\\n" > "$made"', "reaches to"),
        ('printf "0x0 ?\\n0x0 0x1000 +\\n0x1000 0x10" > "$made"', "line 3"),
        ('printf "0x0 ?\\n" > "$made"', "empty"),
    ],
)
def test_a_failing_or_lying_map_program_is_not_believed(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made(tmp_path, 32 * MIB, "mkfs.ext4", "-q")
    program = only_programs(tmp_path, monkeypatch, "losetup", "blkid", "sh") / "partclone.extfs"
    program.write_text(f"#!/bin/sh\nfor made; do :; done\n{script}\n")
    program.chmod(0o755)
    assert_whole(usage_of(image), 32 * MIB, reason, clean=None)


Inspect = Callable[[FilesystemSource], Inspection]


@pytest.mark.parametrize(
    ("mkfs", "size", "inspect", "places"),
    [
        (("mkfs.ext4", "-q"), 16 * MIB, ext.inspect, (1024, 4096)),
        (("mkfs.btrfs", "-q"), 128 * MIB, btrfs_module.inspect, (64 * KIB, 22020096, 30408704, 38797312)),
        (("mkfs.f2fs", "-q", "-f"), 64 * MIB, f2fs.inspect, (1024, 2 * MIB, 4 * MIB)),
        (("mkfs.fat", "-F32", "-s1"), 64 * MIB, fat.inspect_fat, (0,)),
        (("mkfs.exfat",), 32 * MIB, fat.inspect_exfat, (0,)),
        (("true",), 8 * MIB, hfsplus.inspect, (1024,)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and value and isinstance(value[0], str) else "",
)
def test_no_damage_to_a_superblock_breaks_the_reader(
    mkfs: tuple[str, ...], size: int, inspect: Inspect, places: tuple[int, ...], tmp_path: Path
) -> None:
    image = made(tmp_path, size, *mkfs)
    if mkfs == ("true",):
        overwrite(image, 1024, b"H+\0\4\0\0\1\0".ljust(40, b"\0") + struct.pack(">II", 4096, 2048))
    made_random = random.Random(7)
    descriptor = os.open(image, os.O_RDWR)
    try:
        source = FilesystemSource(image, size, descriptor)
        assert inspect(source).required.total_bytes
        refused = 0
        for _ in range(400):
            place = made_random.choice(places) + made_random.randrange(300)
            before = os.pread(descriptor, 4, place)
            os.pwrite(descriptor, made_random.choice([b"\xff\xff\xff\xff", bytes(4), made_random.randbytes(4)]), place)
            try:
                inspect(source)
            except (CaptureWhole, struct.error, ArithmeticError, ValueError, IndexError):
                refused += 1
            os.pwrite(descriptor, before, place)
        assert refused > 5
    finally:
        os.close(descriptor)
