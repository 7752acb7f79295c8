"""Power cuts: of a filesystem that was not closed cleanly every file that was fsynced is in the image.

More seeds: ``RECOVERY_CRASH_SEEDS=50``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recovery.devices.mapfile import parse_map
from recovery.devices.probe import probe
from recovery.extent import Extent, Extents
from recovery.filesystems import Usage, used_extents
from tests.support.crash import Kind, differing
from tests.support.crash_kinds import (
    ARE_WHOLE,
    KEEP_WHAT_WAS_SYNCED,
    KINDS,
    MAY_BE_WHOLE,
    MAY_LOOK_CLOSED,
    Recordings,
    lost,
)
from tests.support.disks import KIB, MIB, loop, partitioned, run, sha256
from tests.support.filesystems import STALE
from tests.support.fleet import workplace
from tests.support.program import recovery

pytestmark = pytest.mark.disk

SEEDS = range(int(os.environ.get("RECOVERY_CRASH_SEEDS", "1")))

#: So many cuts show what is lost without a replay.
CUTS = 5

#: The whole road is gone with all kinds when more seeds are asked for.
ON_ONE_DISK = [*KINDS] if len(SEEDS) > 1 else ["ext4", "xfs", "btrfs", "fat32", "exfat", "ntfs", "f2fs"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with room for some disks."""
    with workplace(tmp_path_factory.mktemp("crash"), "crash", 4 << 30) as folder:
        yield folder


@pytest.fixture(scope="module")
def recordings(shelf: Path) -> Recordings:
    return Recordings(shelf / "recordings")


@pytest.fixture
def work(shelf: Path) -> Iterator[Path]:
    """An empty folder beside the recordings."""
    with tempfile.TemporaryDirectory(dir=shelf) as folder:
        yield Path(folder)


def kind_of(name: str) -> Kind:
    if missing := KINDS[name].missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    return KINDS[name]


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


def judged(kind: Kind, image: Path, safe: dict[str, str], work: Path) -> tuple[list[str], int]:
    """Which files are lost, and what the filesystem's checker exits with."""
    gone = lost(kind, image, safe, work)
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    checked = subprocess.run([*kind.check, image], capture_output=True, env={"PATH": path}, check=False)
    return gone, checked.returncode


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", KINDS)
def test_every_synced_file_is_in_the_used_areas(name: str, seed: int, recordings: Recordings, work: Path) -> None:
    """All that is not told used is overwritten: the crashed filesystem fares as well as it does with all its bytes."""
    kind, image = kind_of(name), work / "crashed.img"
    safe = recordings.crash(kind, seed, image)
    usage = usage_of(image)
    assert usage.method == "whole" if name in ARE_WHOLE else name in MAY_BE_WHOLE or usage.method == "map", usage.reason
    if usage.method == "whole":
        assert not usage.clean
        return
    assert usage.clean is False or name in MAY_LOOK_CLOSED, usage.reason
    assert usage.clean or "not closed cleanly" in usage.reason
    assert usage.used.total_bytes < kind.size * 3 // 5
    stale = only_used(image, usage.used, work / "stale.img")
    with_all_bytes = judged(kind, image, safe, work)
    assert judged(kind, stale, safe, work) == with_all_bytes
    if name in KEEP_WHAT_WAS_SYNCED:
        assert with_all_bytes[0] == [], "the cut is not honest"
    equal = len(safe) - len(with_all_bytes[0])
    print(f"figures {name}: synced {len(safe)} equal {equal} used {usage.used.total_bytes} of {kind.size}")


@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs"])
def test_the_map_on_disk_alone_would_lose_synced_files(name: str, recordings: Recordings, work: Path) -> None:
    """What the tests above would not notice if it were not so."""
    kind, image = kind_of(name), work / "crashed.img"
    losses = []
    for seed in range(CUTS):
        safe = recordings.crash(kind, seed, image)
        used = used_on_disk_alone(name, image, work)
        stale = only_used(image, used, work / "stale.img")
        losses = lost(kind, stale, safe, work)
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


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_disk_of_crashed_filesystems_is_captured_and_restored(seed: int, recordings: Recordings, work: Path) -> None:
    """By the command line, onto a target that is not blank; the image says what was not closed, and passes the audit.

    Each restored filesystem fares as well, with its own driver, as the crashed one does itself.
    """
    kinds = [KINDS[name] for name in ON_ONE_DISK if not KINDS[name].missing()]
    starts = [3 * MIB + sum(kind.size for kind in kinds[:number]) for number in range(len(kinds))]
    size = starts[-1] + kinds[-1].size + 2 * MIB
    lines = [f"start={start // 512}, size={kind.size // 512}" for start, kind in zip(starts, kinds, strict=True)]
    disk = partitioned(work / "disk.img", size, "\n".join(["label: gpt", *lines, ""]))
    safe, lost_anyhow = [], []
    for kind, start in zip(kinds, starts, strict=True):
        safe.append(recordings.crash(kind, seed, work / "crashed.img"))
        copy_into(work / "crashed.img", disk, start)
        lost_anyhow.append(lost(kind, work / "crashed.img", safe[-1], work))
    before, target, repository = sha256(disk), work / "target.img", work / "repository"
    with target.open("wb") as file:
        for _ in range(size // MIB):
            file.write(STALE * MIB)
    recovery("init", repository=repository)
    captured = recovery("capture", disk, "--audit", "--json", repository=repository).event("summary")
    assert sha256(disk) == before
    assert captured["audit"]["passed"] is True, captured["audit"]
    shown = recovery("show", "latest", "--json", repository=repository).document["manifest"]["disks"][0]
    for kind, partition in zip(kinds, shown["partitions"], strict=True):
        told_as_it_is(kind, partition)
    recovery("restore", "latest", target, "--yes", repository=repository)
    stored = sum(path.stat().st_size for path in (repository / "data").rglob("*") if path.is_file())
    print(f"figures disk {seed}: stored {stored} of {size}")
    rows = zip(kinds, starts, shown["partitions"], safe, lost_anyhow, strict=True)
    for kind, start, partition, files, gone in rows:
        if partition["method"] == "whole":
            run("cmp", "--bytes", str(kind.size), "--ignore-initial", str(start), disk, target)
        assert lost(kind, target, files, work, offset=start) == gone, kind.name
        if kind.name in KEEP_WHAT_WAS_SYNCED:
            assert gone == [], kind.name
        used = f"{partition['method']} used {partition['used_bytes']} of {kind.size}"
        print(f"figures {kind.name} {seed}: synced {len(files)} equal {len(files) - len(gone)} {used}")


def told_as_it_is(kind: Kind, partition: dict[str, Any]) -> None:
    """What the manifest says of a crashed filesystem."""
    if kind.name not in MAY_LOOK_CLOSED:
        assert partition["clean"] is False, partition
        assert "not closed cleanly" in partition["reason"]
    if partition["method"] == "whole":
        assert kind.name in MAY_BE_WHOLE, partition
        assert partition["used_bytes"] == kind.size
        return
    assert partition["method"] == "map", partition
    assert kind.name not in ARE_WHOLE, partition
    assert partition["used_bytes"] < kind.size * 3 // 5, partition


def copy_into(source: Path, disk: Path, offset: int) -> None:
    with source.open("rb") as piece, disk.open("r+b") as whole:
        whole.seek(offset)
        shutil.copyfileobj(piece, whole, MIB)


@pytest.mark.parametrize("name", ["xfs", "btrfs"])
def test_a_copy_of_the_filesystem_that_is_mounted_is_not_touched(name: str, recordings: Recordings, work: Path) -> None:
    """Both have one UUID, and the kernel knows a btrfs by it."""
    kind, image, twin = KINDS[name], work / "crashed.img", work / "twin.img"
    safe = recordings.crash(kind, 0, image)
    alone = usage_of(image)
    shutil.copyfile(image, twin)
    with loop(twin) as device, kind.opened(device, work / "mount") as at:
        at.joinpath("new").write_bytes(b"new")
        usage = usage_of(image)
        assert usage.clean is False
        assert usage.method == "map" or "mounting a copy of it failed" in usage.reason
        assert differing(at, safe) == []
        assert run("findmnt", "-n", "-o", "SOURCE", at).strip() == str(device)
    run(*kind.check, twin)
    assert usage_of(image).used.total_bytes >= alone.used.total_bytes * 9 // 10
    assert usage_of(image).method == "map"
