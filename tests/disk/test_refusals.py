"""What would break a law of safety is refused with its reason, exit code 20, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.captured import Captured, small_disk_captured
from tests.support.disks import MIB, blank, loop, mounted, partitioned, run, sfdisk_json, sha256, umount
from tests.support.fleet import SMALL_BYTES, noise
from tests.support.members import lvm_member
from tests.support.program import on_terminal, recovery, refused

pytestmark = pytest.mark.disk


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    made = small_disk_captured(tmp_path_factory.mktemp("refusals"))
    before = sha256(made.disk.image)
    yield made
    assert sha256(made.disk.image) == before


@pytest.fixture
def carrier(tmp_path: Path) -> Path:
    """A disk with ext4 straight on it."""
    image = blank(tmp_path / "carrier.img", 128 * MIB)
    run("mkfs.ext4", "-q", image)
    return image


def test_a_mounted_disk_is_neither_read_nor_overwritten(captured: Captured, carrier: Path, tmp_path: Path) -> None:
    with loop(carrier) as device, mounted(device, tmp_path / "mount"):
        for disk in (device, carrier):
            assert f"mounted at {tmp_path / 'mount'}" in refused("capture", disk, repository=captured.repository)
            message = refused("restore", "latest", disk, "--yes", repository=captured.repository)
            assert f"mounted at {tmp_path / 'mount'}" in message
            refused("clone", captured.disk.image, disk, "--yes")
            refused("clone", disk, tmp_path / "new.img", "--yes")
    assert not (tmp_path / "new.img").exists()


def test_a_disk_with_a_mounted_partition_is_neither_read_nor_overwritten(captured: Captured, tmp_path: Path) -> None:
    image = tmp_path / "copy.img"
    run("cp", "--sparse=always", captured.disk.image, image)
    copy = captured.disk.on(image)
    before = sha256(image)
    with copy.device(copy.place("ext4"), read_only=True) as part, mounted(part, tmp_path / "m", "ro,noload"):
        refused("restore", "latest", image, "--yes", repository=captured.repository)
        refused("capture", image, repository=captured.repository)
    assert sha256(image) == before


def test_the_disk_that_holds_the_repository_is_neither_read_nor_overwritten(
    captured: Captured, carrier: Path, tmp_path: Path
) -> None:
    with loop(carrier) as device, mounted(device, tmp_path / "mount") as at:
        run("cp", "-r", captured.repository, at / "repository")
        for disk in (device, carrier):
            for words in (("restore", "latest", disk, "--yes"), ("capture", disk)):
                assert "holds the repository" in refused(*words, repository=at / "repository")


def test_a_file_inside_the_repository_is_neither_read_nor_overwritten(captured: Captured) -> None:
    inside = captured.repository / "disk.img"
    assert "inside the repository" in refused("restore", "latest", inside, "--yes", repository=captured.repository)
    blank(inside, SMALL_BYTES)
    try:
        assert "inside the repository" in refused("restore", "latest", inside, "--yes", repository=captured.repository)
        assert "inside the repository" in refused("capture", inside, repository=captured.repository)
    finally:
        inside.unlink()


def test_a_read_only_target_is_refused(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    with loop(target, read_only=True) as device:
        assert "is read-only" in refused("restore", "latest", device, "--yes", repository=captured.repository)
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    run("mount", "-t", "tmpfs", "-osize=80m", "none", read_only)
    try:
        blank(read_only / "target.img", SMALL_BYTES)
        run("mount", "-o", "remount,ro", read_only)
        assert "is read-only" in refused(
            "restore", "latest", read_only / "target.img", "--yes", repository=captured.repository
        )
    finally:
        umount(read_only)


@pytest.mark.parametrize("device", [False, True], ids=["file", "block-device"])
def test_too_small_a_target_is_refused_with_the_figures(device: bool, captured: Captured, tmp_path: Path) -> None:
    size = SMALL_BYTES - MIB
    target = noise(tmp_path / "target.img", size)
    before = sha256(target)
    if device:
        with loop(target) as place:
            message = refused("restore", "latest", place, "--yes", repository=captured.repository)
    else:
        message = refused("restore", "latest", target, "--yes", repository=captured.repository)
    assert f"holds {size} bytes (63.0 MiB)" in message
    assert f"{SMALL_BYTES} bytes (64.0 MiB)" in message
    assert f"the last partition, number 4, ends at byte {61 * MIB} (61.0 MiB)" in message
    assert sha256(target) == before


def test_other_sectors_are_refused(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    with loop(target, sector_bytes=4096) as device:
        message = refused("restore", "latest", device, "--yes", repository=captured.repository)
        assert "sectors of 4096 bytes" in message
        assert "512" in message
        refused("clone", captured.disk.image, device, "--yes")


@pytest.mark.parametrize("where", ["whole", "partition"])
def test_a_member_of_a_volume_group_needs_a_word_of_its_own(where: str, captured: Captured, tmp_path: Path) -> None:
    if where == "whole":
        target = blank(tmp_path / "target.img", SMALL_BYTES)
        lvm_member(target, 0)
    else:
        target = partitioned(tmp_path / "target.img", SMALL_BYTES, "label: gpt\nsize=8MiB\nsize=20MiB\n")
        lvm_member(target, 9 * MIB)
    before = sha256(target)
    for words in (("restore", "latest", target, "--yes"), ("restore", "latest", target, "--yes", "--dry-run")):
        message = refused(*words, repository=captured.repository)
        assert "a member of an LVM volume group" in message
        assert "--break-members" in message
        assert ("Partition 2 of" if where == "partition" else "The whole disk of") in message
    assert sha256(target) == before
    recovery("restore", "latest", target, "--yes", "--break-members", repository=captured.repository)
    run("sfdisk", "--verify", target)


def test_several_reasons_are_all_told(captured: Captured, carrier: Path, tmp_path: Path) -> None:
    with loop(carrier, read_only=True) as device, mounted(device, tmp_path / "mount", "ro,noload"):
        message = refused("restore", "latest", device, "--yes", repository=captured.repository)
    assert "read-only" in message
    assert "mounted at" in message


def test_a_target_that_changes_while_the_question_is_asked_is_refused(captured: Captured, tmp_path: Path) -> None:
    """Another table on it than was shown: another disk may have come under the same name."""
    target = partitioned(tmp_path / "target.img", SMALL_BYTES, "label: gpt\nsize=8MiB\n")
    answer = b"target.img\n"
    shown = on_terminal(
        "restore",
        "latest",
        target,
        answer=answer,
        question="Type target.img",
        repository=captured.repository,
        before=lambda: run("sfdisk", "--quiet", "--wipe=never", target, input="label: gpt\nsize=9MiB\n"),
    )
    assert shown.status == 20, shown.out
    assert "no longer the disk that it was" in shown.said
    assert "untouched" in shown.said
    assert sfdisk_json(target)["partitions"][0]["size"] == 9 * MIB // 512
