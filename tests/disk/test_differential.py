"""A differential restore or clone writes what the target lacks, and nothing else; also to end one that was cut off."""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.badblocks import with_bad_blocks
from tests.support.disks import MIB, loop, overwrite, read_at, run
from tests.support.fleet import (
    SMALL_BYTES,
    Fleet,
    check_filesystem,
    contents,
    equal_ranges,
    noise,
    small_disk,
    used_by_partclone,
)
from tests.support.program import recovery

pytestmark = pytest.mark.disk

_SEEDS = [int(seed) for seed in os.environ.get("RECOVERY_DIFFERENTIAL_SEEDS", "1 2").split()]


@dataclass(frozen=True)
class Captured:
    """A disk, the repository with its image, and a target onto which it was restored in full."""

    disk: Fleet
    repository: Path
    restored: Path


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    folder = tmp_path_factory.mktemp("differential")
    disk = small_disk(folder / "disk.img", folder)
    repository, restored = folder / "repository", folder / "restored.img"
    recovery("init", repository=repository)
    recovery("capture", disk.image, repository=repository)
    recovery("restore", "latest", restored, "--yes", repository=repository)
    return Captured(disk, repository, restored)


def copy_of(captured: Captured, folder: Path) -> Path:
    target = folder / "target.img"
    run("cp", "--sparse=always", captured.restored, target)
    return target


def assert_equal(captured: Captured, target: Path, work: Path) -> None:
    disk, copy = captured.disk, captured.disk.on(target)
    ext4 = copy.place("ext4")
    for place in (ext4, copy.place("vfat")):
        check_filesystem(copy, place)
        assert equal_ranges(disk.image, target, used_by_partclone(disk, place, work))
    assert contents(copy, ext4, work / "at") == contents(disk, ext4, work / "at")
    assert "No errors detected" in run("sfdisk", "--verify", target)


def summary(captured: Captured, target: Path, *more: str) -> dict[str, int]:
    ran = recovery(
        "restore", "latest", target, "--yes", "--json", "--differential", *more, repository=captured.repository
    )
    return ran.event("summary")


def test_onto_an_equal_target_only_the_table_and_its_chunks_are_written(captured: Captured, tmp_path: Path) -> None:
    target = copy_of(captured, tmp_path)
    done = summary(captured, target)
    assert done["kept_bytes"] > 10 * MIB
    assert done["written_bytes"] < 8 * MIB, "more than the chunks at both ends of the disk"
    assert done["state"] == "verified"
    assert_equal(captured, target, tmp_path)


@pytest.mark.parametrize("seed", _SEEDS)
def test_what_differs_is_written_and_nothing_that_does_not(seed: int, captured: Captured, tmp_path: Path) -> None:
    target = copy_of(captured, tmp_path)
    kept_before = summary(captured, target)["kept_bytes"]
    chosen = random.Random(seed)
    used = used_by_partclone(captured.disk, captured.disk.place("ext4"), tmp_path)
    for offset, length in chosen.sample(used, min(3, len(used))):
        at = offset + chosen.randrange(length)
        overwrite(target, at, bytes([read_at(target, at, 1)[0] ^ 1 << chosen.randrange(8)]))
    done = summary(captured, target)
    assert 0 < kept_before - done["kept_bytes"] <= 3 * 2 * MIB
    assert_equal(captured, target, tmp_path)


def test_onto_a_disk_full_of_something_else_it_is_a_whole_restore(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    with loop(target) as device:
        done = summary(captured, device)
    assert done["kept_bytes"] == 0
    assert_equal(captured, target, tmp_path)


def test_into_a_new_file(captured: Captured, tmp_path: Path) -> None:
    done = summary(captured, tmp_path / "new.img")
    assert done["state"] == "verified"
    assert_equal(captured, tmp_path / "new.img", tmp_path)


def test_one_partition(captured: Captured, tmp_path: Path) -> None:
    target = copy_of(captured, tmp_path)
    ext4 = captured.disk.place("ext4")
    overwrite(target, ext4.offset + ext4.length // 2, os.urandom(4096))
    number = str(ext4.number)
    done = summary(captured, target, "--partition", number, "--to-partition", number)
    assert done["kept_bytes"] > 0
    assert_equal(captured, target, tmp_path)


def test_a_sector_of_the_target_that_cannot_be_read_is_written_again(captured: Captured, tmp_path: Path) -> None:
    target = copy_of(captured, tmp_path)
    bad = captured.disk.place("unknown").offset + 3 * MIB
    with with_bad_blocks(target, [bad], tmp_path) as broken:
        ran = recovery("restore", "latest", broken, "--yes", "--json", "--differential", repository=captured.repository)
        assert ran.event("summary")["state"] == "verified"
        run("cp", broken, tmp_path / "healed.img")  # reads every byte
    assert_equal(captured, tmp_path / "healed.img", tmp_path)


def test_a_clone_goes_on_where_it_was_cut_off(captured: Captured, tmp_path: Path) -> None:
    source, target = captured.disk.image, tmp_path / "target.img"
    recovery("clone", source, target, "--yes")
    overwrite(target, 0, bytes(MIB))
    overwrite(target, SMALL_BYTES - MIB, bytes(MIB))
    ran = recovery("clone", source, target, "--yes", "--differential")
    assert re.search(r"were there already", ran.said), ran
    done = recovery("clone", source, target, "--yes", "--differential", "--json").event("summary")
    assert done["kept_bytes"] > 10 * MIB
    assert done["state"] == "verified"
    assert_equal(captured, target, tmp_path)
