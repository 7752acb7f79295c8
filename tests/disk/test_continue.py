"""``capture --continue``: an incomplete image is completed, and only what it lacks is read."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.badblocks import BLOCK, areas_of, ddrescue_map
from tests.support.disks import KIB, MIB, overwrite, sha256
from tests.support.faulty_disk import Faults, faulty_disk
from tests.support.program import job_of, recovery, refused, restic, start
from tests.support.restic import restic_binaries

pytestmark = pytest.mark.disk

RESTIC = restic_binaries()[-1]
CHUNK = 2 * MIB
SIZE = 96 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(21).randbytes(SIZE))
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    recovery("init", repository=tmp_path / "repository")
    return tmp_path / "repository"


def areas(count: int, seed: int = 5) -> tuple[tuple[int, int], ...]:
    """Bad areas of one to sixteen blocks, none beside another, and none in the first chunk."""
    chosen = random.Random(seed)
    places = sorted(chosen.sample(range(CHUNK // (64 * KIB), SIZE // (64 * KIB), 2), count))
    return tuple((place * 64 * KIB, BLOCK * chosen.randint(1, 16)) for place in places)


def dumped(repository: Path, kind: str, snapshot: str = "latest") -> bytes:
    listed = json.loads(restic(RESTIC, "ls", "--json", snapshot, repository=repository).splitlines()[1])["path"]
    name = listed.rpartition("/")[2].partition(".")[0]
    return restic(RESTIC, "dump", snapshot, f"/{name}.{kind}", repository=repository)


def snapshots(repository: Path) -> list[list[str]]:
    """The tags of each, oldest first."""
    return [found["tags"] for found in json.loads(restic(RESTIC, "snapshots", "--json", repository=repository))]


def until(found: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_runs_that_are_cut_off_come_to_the_same_as_one(disk: Path, repository: Path, tmp_path: Path) -> None:
    bad, before, trigger, log = areas(200), sha256(disk), tmp_path / "gone", tmp_path / "reads"
    options = ("--no-verify", "--interim", "0.01")

    # The first is killed while bad areas are gone into: what it had published last stays.
    with faulty_disk(Faults(str(disk), unreadable=bad, slow_seconds=0.01)) as source:
        screen = start("capture", source, *options, repository=repository)
        pid = job_of(screen)
        until(lambda: len(list((repository / "snapshots").iterdir())) > 0)
        os.kill(pid, signal.SIGKILL)
        screen.communicate(timeout=60)
    assert snapshots(repository) == [["system-image", "incomplete"]]

    # The disk goes away in the second.
    with faulty_disk(Faults(str(disk), unreadable=bad, slow_seconds=0.01, trigger=str(trigger))) as source:
        screen = start("capture", "--continue", source, *options, "--json", repository=repository)
        assert screen.stdout is not None
        for line in screen.stdout:
            if json.loads(line).get("unreadable_bytes"):
                trigger.touch()
                break
        out, _ = screen.communicate(timeout=120)
        assert screen.returncode == 3, out
        trigger.unlink()

    # The third has no patience, the fourth has, and reads nothing again that was read.
    with faulty_disk(Faults(str(disk), unreadable=bad)) as source:
        recovery("capture", "--continue", source, *options, "--patience", "0", repository=repository, status=3)
    read = areas_of(dumped(repository, "map").decode(), "+")
    with faulty_disk(Faults(str(disk), unreadable=bad, log=str(log))) as source:
        log.write_text("")
        ran = recovery("capture", "--continue", source, *options, repository=repository, status=3)
        assert "is completed: what it lacks is read" in ran.said
        again = sum(
            int(line.split()[1])
            for line in log.read_text().splitlines()
            if any(at <= int(line.split()[0]) < at + length for at, length in read) and not line.endswith("!")
        )
    assert again < SIZE, "it compares some chunks, and the kernel reads ahead"

    once = tmp_path / "once"
    recovery("init", repository=once)
    with faulty_disk(Faults(str(disk), unreadable=bad)) as source:
        recovery("capture", source, *options, repository=once, status=3)
        unrescued = ddrescue_map(source, tmp_path, "--idirect")
    assert dumped(repository, "img") == dumped(once, "img")
    assert areas_of(dumped(repository, "map").decode(), "-") == list(bad)
    assert areas_of(dumped(repository, "map").decode(), "+") == areas_of(dumped(once, "map").decode(), "+")
    assert unrescued == list(bad)
    assert sha256(disk) == before
    restic(RESTIC, "unlock", repository=repository)  # that of the first run
    restic(RESTIC, "check", "--read-data", repository=repository)


def test_what_is_readable_again_heals_the_image(disk: Path, repository: Path) -> None:
    bad = areas(8)
    with faulty_disk(Faults(str(disk), unreadable=bad)) as source:
        recovery("capture", source, repository=repository, status=3)
    with faulty_disk(Faults(str(disk), unreadable=bad[:2])) as source:
        recovery("capture", "--continue", source, repository=repository, status=3)
    assert areas_of(dumped(repository, "map").decode(), "-") == list(bad[:2])
    ran = recovery("capture", "--continue", disk, repository=repository)
    assert "Captured: " in ran.said
    assert dumped(repository, "img") == disk.read_bytes()
    assert snapshots(repository) == [["system-image", "incomplete"]] * 2 + [["system-image"]]
    restic(RESTIC, "check", "--read-data", repository=repository)


def test_chunks_that_the_repository_lost_are_read_again(disk: Path, repository: Path) -> None:
    bad = areas(2)
    with faulty_disk(Faults(str(disk), unreadable=bad)) as source:
        recovery("capture", source, repository=repository, status=3)
    packs = sorted((repository / "data").glob("*/*"), key=lambda path: path.stat().st_size)
    packs[-1].unlink()
    recovery("capture", "--continue", disk, repository=repository)
    assert dumped(repository, "img") == disk.read_bytes()


def test_another_disk_is_not_taken_for_the_one_of_the_image(disk: Path, repository: Path, tmp_path: Path) -> None:
    assert "that could be completed" in refused("capture", "--continue", disk, repository=repository, status=2)
    with faulty_disk(Faults(str(disk), unreadable=areas(2))) as source:
        recovery("capture", source, repository=repository, status=3)
    overwrite(disk, 0, b"written since")
    assert "is not as it was" in refused("capture", "--continue", disk, repository=repository)
    smaller = tmp_path / "smaller.img"
    smaller.write_bytes(bytes(SIZE // 2))
    assert "that could be completed" in refused("capture", "--continue", smaller, repository=repository, status=2)
    assert snapshots(repository) == [["system-image", "incomplete"]]
