"""Power cuts: of a filesystem that was not closed cleanly every file that was fsynced is in the image.

More seeds: ``RECOVERY_CRASH_SEEDS=50``.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.devices.mapfile import parse_map
from recovery.devices.probe import probe
from recovery.extent import Extent, Extents
from recovery.filesystems import Usage, used_extents
from tests.support.crash import Kind, Recording, Unmountable, differing, record
from tests.support.disks import KIB, MIB, loop, overwrite, partitioned, read_at, run, sha256
from tests.support.filesystems import STALE
from tests.support.program import recovery

pytestmark = pytest.mark.disk

SEEDS = range(int(os.environ.get("RECOVERY_CRASH_SEEDS", "1")))

#: So many cuts are made of one recorded workload.
CUTS = 5

E2FSCK, XFS_REPAIR, BTRFS_CHECK = ("e2fsck", "-fn"), ("xfs_repair", "-n"), ("btrfs", "check", "--check-data-csum")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("ext4", ("mkfs.ext4", "-q", "-b4096"), E2FSCK, 96 * MIB),
        Kind("ext4 1 KiB blocks", ("mkfs.ext4", "-q", "-b1024", "-O^64bit"), E2FSCK, 96 * MIB),
        Kind("ext4 fast commit", ("mkfs.ext4", "-q", "-b4096", "-Ofast_commit"), E2FSCK, 96 * MIB),
        Kind("ext4 data journal", ("mkfs.ext4", "-q", "-b4096", "-Oorphan_file"), E2FSCK, 96 * MIB, "data=journal"),
        Kind("ext3", ("mkfs.ext3", "-q"), E2FSCK, 96 * MIB),
        Kind("ext2", ("mkfs.ext2", "-q"), ("e2fsck", "-fy"), 96 * MIB),
        Kind("xfs", ("mkfs.xfs", "-q"), XFS_REPAIR, 300 * MIB, "nouuid"),
        Kind("btrfs", ("mkfs.btrfs", "-q"), BTRFS_CHECK, 256 * MIB),
        Kind("fat32", ("mkfs.fat", "-F32", "-s1"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
        Kind("fat16", ("mkfs.fat", "-F16"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
        Kind("exfat", ("mkfs.exfat",), ("fsck.exfat", "-n"), 64 * MIB, mount="mount.exfat-fuse"),
        Kind("ntfs", ("mkfs.ntfs", "-q", "-F", "-f"), ("ntfsfix", "-n"), 64 * MIB, mount="ntfs-3g"),
    )
}

#: After some cuts a program refuses these, and then they are captured whole.  Fast commits the kernel itself does not
#: always replay: of some it says that the structure needs cleaning, and notes errors.
MAY_BE_WHOLE = ("exfat", "ntfs", "ext4 fast commit")

#: A cut may leave these looking closed: btrfs always does where nothing was logged, and ntfs-3g leaves no mark.
MAY_LOOK_CLOSED = ("btrfs", "ntfs")

Recorded = Callable[[Kind, int], Recording]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A workload on a filesystem, by kind and seed; the last one of each kind is kept."""
    folder = tmp_path_factory.mktemp("crash")
    kept: dict[str, tuple[int, Recording]] = {}

    def of(kind: Kind, seed: int) -> Recording:
        if missing := kind.missing():
            pytest.skip(f"not installed: {', '.join(missing)}")
        if kind.name not in kept or kept[kind.name][0] != seed:
            shutil.rmtree(folder / kind.name, ignore_errors=True)
            kept[kind.name] = (seed, record(kind, folder / kind.name, seed))
        return kept[kind.name][1]

    return of


def crash(kind: Kind, recorded: Recorded, seed: int, image: Path) -> dict[str, str]:
    """The disk after a power cut, and the files that must be on it."""
    recording, chance = recorded(kind, seed // CUTS), random.Random(seed)
    first = min(safe_at for _, safe_at in recording.safe.values())
    safe = recording.cut(chance.randrange(first, recording.length), image, chance)
    if kind.mount == "mtools":
        place = 0x41 if kind.name == "fat32" else 0x25
        overwrite(image, place, bytes([read_at(image, place, 1)[0] | 1]))
    return safe


def usage_of(image: Path) -> Usage:
    before = image.stat()
    whole = Extent(0, before.st_size)
    usage = used_extents(image, whole, probe(image, whole), 512)
    assert image.stat().st_mtime_ns == before.st_mtime_ns, "the source was written to"
    return usage


def only_used(image: Path, used: Extents, copy: Path) -> Path:
    """What is used of ``image``; other bytes at the start of all that is not, and behind them nothing."""
    size = image.stat().st_size
    with image.open("rb") as source, copy.open("wb") as target:
        target.truncate(size)
        for extent in used:
            source.seek(extent.offset)
            target.seek(extent.offset)
            target.write(source.read(extent.length))
        for extent in used.invert(Extent(0, size)):
            target.seek(extent.offset)
            target.write(STALE * min(extent.length, 128 * KIB))
    return copy


def lost(kind: Kind, image: Path, safe: dict[str, str], work: Path) -> list[str]:
    """Which files are not equal on ``image`` after its own driver, if there is one, has brought it up to date."""
    try:
        with loop(image) as device, kind.opened(device, work / image.stem) as at:
            return differing(at, safe)
    except Unmountable as unmountable:
        return [re.sub(r"/dev/loop\d+", "it", str(unmountable))]


def judged(kind: Kind, image: Path, safe: dict[str, str], work: Path) -> tuple[list[str], int]:
    """Which files are lost, and what the filesystem's checker exits with."""
    gone = lost(kind, image, safe, work)
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    checked = subprocess.run([*kind.check, image], capture_output=True, env={"PATH": path}, check=False)
    return gone, checked.returncode


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", KINDS)
def test_every_synced_file_is_in_the_used_areas(name: str, seed: int, recorded: Recorded, tmp_path: Path) -> None:
    """All that is not told used is overwritten: the crashed filesystem fares as well as it does with all its bytes."""
    kind, image = KINDS[name], tmp_path / "crashed.img"
    safe = crash(kind, recorded, seed, image)
    usage = usage_of(image)
    if usage.method == "whole":
        assert name in MAY_BE_WHOLE, usage.reason
        assert not usage.clean
        return
    assert usage.clean is False or name in MAY_LOOK_CLOSED, usage.reason
    assert usage.clean or "not closed cleanly" in usage.reason
    assert usage.used.total_bytes < kind.size * 3 // 5
    stale = only_used(image, usage.used, tmp_path / "stale.img")
    with_all_bytes = judged(kind, image, safe, tmp_path)
    assert judged(kind, stale, safe, tmp_path) == with_all_bytes
    if kind.mount == "kernel" and name not in ("ext2", "ext4 fast commit"):
        assert with_all_bytes[0] == [], "the cut is not honest"
    equal = len(safe) - len(with_all_bytes[0])
    print(f"figures {name}: synced {len(safe)} equal {equal} used {usage.used.total_bytes} of {kind.size}")


@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs"])
def test_the_map_on_disk_alone_would_lose_synced_files(name: str, recorded: Recorded, tmp_path: Path) -> None:
    """What the tests above would not notice if it were not so."""
    kind, image = KINDS[name], tmp_path / "crashed.img"
    losses = []
    for seed in range(CUTS):
        safe = crash(kind, recorded, seed, image)
        used = used_on_disk_alone(name, image, tmp_path)
        stale = only_used(image, used, tmp_path / "stale.img")
        losses = lost(kind, stale, safe, tmp_path)
        if losses:
            break
    assert losses


def used_on_disk_alone(name: str, image: Path, work: Path) -> Extents:
    if name != "ext4":
        with loop(image, read_only=True) as device:
            run(
                f"partclone.{name}",
                "-D",
                "-q",
                "-L",
                "/dev/null",
                "-s",
                device,
                "-O",
                work / "domain",
                "--UI-fresh",
                "0",
            )
        return parse_map((work / "domain").read_bytes())["+"]
    free = []  # partclone refuses it: what dumpe2fs reads from the same bitmaps
    for line in run("dumpe2fs", image).splitlines():
        if line.startswith("  Free blocks: ") and line != "  Free blocks: ":
            for part in line.removeprefix("  Free blocks: ").split(", "):
                first, _, last = part.partition("-")
                free.append((int(first) * 4096, (int(last or first) + 1 - int(first)) * 4096))
    return Extents(free).invert(Extent(0, image.stat().st_size))


def test_a_disk_of_crashed_filesystems_is_captured_and_restored(recorded: Recorded, tmp_path: Path) -> None:
    """By the command line, onto a target that is not blank; the image says what was not closed."""
    kinds = [KINDS[name] for name in ("ext4", "xfs", "btrfs", "fat32", "exfat", "ntfs")]
    starts = [3 * MIB + sum(kind.size for kind in kinds[:number]) for number in range(len(kinds))]
    size = starts[-1] + kinds[-1].size + 2 * MIB
    lines = [f"start={start // 512}, size={kind.size // 512}" for start, kind in zip(starts, kinds, strict=True)]
    disk = partitioned(tmp_path / "disk.img", size, "\n".join(["label: gpt", *lines, ""]))
    safe = []
    for kind, start in zip(kinds, starts, strict=True):
        safe.append(crash(kind, recorded, 2, tmp_path / "crashed.img"))
        copy_into(tmp_path / "crashed.img", disk, start)
    before, target, repository = sha256(disk), tmp_path / "target.img", tmp_path / "repository"
    with target.open("wb") as file:
        file.truncate(size)
        for place in range(0, size, MIB):
            file.seek(place)
            file.write(STALE * 128 * KIB)
    recovery("init", repository=repository)
    captured = recovery("capture", disk, "--audit", repository=repository)
    assert sha256(disk) == before
    assert captured.said.count("not closed cleanly") >= 5
    assert "The audit found nothing that is missing" in captured.said
    shown = recovery("show", "latest", "--json", repository=repository).document["manifest"]["disks"][0]
    for kind, partition in zip(kinds, shown["partitions"], strict=True):
        assert partition["method"] == "map", partition
        assert partition["used_bytes"] < kind.size * 3 // 5
        if kind.name not in MAY_LOOK_CLOSED:
            assert partition["clean"] is False
            assert "not closed cleanly" in partition["reason"]
    recovery("restore", "latest", target, "--yes", repository=repository)
    for kind, start, files in zip(kinds, starts, safe, strict=True):
        with loop(target, offset=start, size=kind.size) as device, kind.opened(device, tmp_path / kind.name) as at:
            assert differing(at, files) == [], kind.name


def copy_into(source: Path, disk: Path, offset: int) -> None:
    with source.open("rb") as piece, disk.open("r+b") as whole:
        whole.seek(offset)
        shutil.copyfileobj(piece, whole, MIB)


@pytest.mark.parametrize("name", ["xfs", "btrfs"])
def test_a_copy_of_the_filesystem_that_is_mounted_is_not_touched(name: str, recorded: Recorded, tmp_path: Path) -> None:
    """Both have one UUID, and the kernel knows a btrfs by it."""
    kind, image, twin = KINDS[name], tmp_path / "crashed.img", tmp_path / "twin.img"
    safe = crash(kind, recorded, 0, image)
    alone = usage_of(image)
    shutil.copyfile(image, twin)
    with loop(twin) as device, kind.opened(device, tmp_path / "mount") as at:
        at.joinpath("new").write_bytes(b"new")
        usage = usage_of(image)
        assert usage.clean is False
        assert usage.method == "map" or "mounting a copy of it failed" in usage.reason
        assert differing(at, safe) == []
        assert run("findmnt", "-n", "-o", "SOURCE", at).strip() == str(device)
    run(*kind.check, twin)
    assert usage_of(image).used.total_bytes >= alone.used.total_bytes * 9 // 10
    assert usage_of(image).method == "map"
