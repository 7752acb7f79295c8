"""Clone copies a disk onto another without a repository; planned, refused and read back as a restore is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import KIB, MIB, loop, run, sfdisk_json, sha256
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
from tests.support.program import recovery, refused

pytestmark = pytest.mark.disk


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("clone")
    made = small_disk(folder / "source.img", folder)
    before = sha256(made.image)
    yield made
    assert sha256(made.image) == before, "the source was written to"


def assert_cloned(disk: Fleet, target: Path, work: Path) -> None:
    copy = disk.on(target)
    check_filesystem(copy, copy.place("ext4"))
    check_filesystem(copy, copy.place("vfat"))
    ext4 = copy.place("ext4")
    assert contents(copy, ext4, work / "at") == contents(disk, ext4, work / "at")
    unknown = copy.place("unknown")
    assert equal_ranges(disk.image, target, [(unknown.offset, unknown.length), (0, 446), (17 * KIB, MIB - 17 * KIB)])
    assert equal_ranges(disk.image, target, used_by_partclone(disk, ext4, work))
    ours, theirs = sfdisk_json(target), sfdisk_json(disk.image)
    assert [entry["start"] for entry in ours["partitions"]] == [entry["start"] for entry in theirs["partitions"]]
    assert ours["id"] == theirs["id"]
    assert "No errors detected" in run("sfdisk", "--verify", target)


def test_clone_onto_a_file_full_of_something_else(disk: Fleet, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    said = recovery("clone", disk.image, target, "--yes").said
    assert "read back and found equal" in said
    assert_cloned(disk, target, tmp_path)


def test_clone_into_a_new_file(disk: Fleet, tmp_path: Path) -> None:
    recovery("clone", disk.image, tmp_path / "new.img", "--yes")
    assert (tmp_path / "new.img").stat().st_size == SMALL_BYTES
    assert_cloned(disk, tmp_path / "new.img", tmp_path)


def test_clone_from_a_block_device_to_a_larger_one(disk: Fleet, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES + 32 * MIB)
    with loop(disk.image, read_only=True) as source, loop(target) as device:
        said = recovery("clone", source, device, "--yes", "--no-verify").said
    assert "NOT read back" in said
    assert_cloned(disk, target, tmp_path)
    assert "No problems found" in run("sgdisk", "-v", target)


def test_clone_needs_a_confirmation(disk: Fleet, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    before = sha256(target)
    assert "--yes" in refused("clone", disk.image, target)
    recovery("clone", disk.image, target, "--dry-run")
    assert sha256(target) == before


def test_clone_onto_itself_is_refused(disk: Fleet, tmp_path: Path) -> None:
    """As the same path, by a symbolic and by a hard link, and through loop devices."""
    link, hard = tmp_path / "link", disk.image.with_name("hard link.img")
    link.symlink_to(disk.image)
    hard.hardlink_to(disk.image)
    for target in (disk.image, link, hard):
        assert "source" in refused("clone", disk.image, target, "--yes")
    hard.unlink()
    with loop(disk.image) as device:
        refused("clone", disk.image, device, "--yes")
        refused("clone", device, disk.image, "--yes")
        refused("clone", device, device, "--yes")


def test_clone_onto_a_smaller_disk_is_refused_with_the_figures(disk: Fleet, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES - 4096)
    before = sha256(target)
    message = refused("clone", disk.image, target, "--yes")
    assert str(SMALL_BYTES) in message
    assert str(SMALL_BYTES - 4096) in message
    assert f"number 4, ends at byte {61 * MIB}" in message
    assert sha256(target) == before
