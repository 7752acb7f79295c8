"""A disk is erased to become the place for a repository: under the laws for targets, judged by sfdisk and e2fsck."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recovery import formatting
from recovery.devices.disk import disk_for
from recovery.errors import DeviceError, Refused, UsageError
from recovery.formatting import format_disk, plan_format
from tests.support.disks import (
    GPT_SCRIPT,
    MIB,
    blank,
    exchange,
    loop,
    mounted,
    own_loop,
    partitioned,
    run,
    sfdisk_json,
    sha256,
    umount,
)
from tests.support.live import live
from tests.support.members import md_member
from tests.support.program import on_terminal, refused
from tui.machine import LocalMachine

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="writes to disks, which only root may")]

SIZE = 64 * MIB


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """This kernel may make no devices for partitions; nobody waits for them here."""
    monkeypatch.setattr(formatting, "_NODE_SECONDS", 0.5)


def formatted(device: Path) -> None:
    """Erase it; a kernel that makes no device for the partition says so, and all else is done then."""
    plan = plan_format(device)
    try:
        made = format_disk(plan)
    except DeviceError as error:
        if "has a new filesystem, but this kernel made no device" not in error.message:
            raise
    else:
        umount(made.folder)


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_the_disk_holds_one_sound_filesystem_and_nothing_of_what_was_there(tmp_path: Path, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    with loop(image, sector_bytes=sector_bytes) as device:
        formatted(device)
    table = sfdisk_json(image, sector_bytes)
    assert (table["label"], len(table["partitions"])) == ("gpt", 1)
    (part,) = table["partitions"]
    start, size = part["start"] * sector_bytes, part["size"] * sector_bytes
    assert start == MIB
    assert size > SIZE - 3 * MIB
    with loop(image, offset=start, size=size, sector_bytes=sector_bytes) as device:
        run("e2fsck", "-f", "-n", device)
        assert run("blkid", "-p", "-s", "LABEL", "-o", "value", device).strip() == "recovery"
        with mounted(device, tmp_path / "mounted") as folder:
            (folder / "file").write_text("content")


def test_a_disk_that_took_the_name_of_the_chosen_one_is_not_erased(tmp_path: Path) -> None:
    chosen, another = blank(tmp_path / "chosen.img", SIZE), blank(tmp_path / "another.img", SIZE)
    machine = LocalMachine()
    with own_loop(chosen) as device:
        disk = disk_for(device)
        assert machine.plan_format(disk).path == device
        exchange(device, another)
        with pytest.raises(Refused, match="no longer the disk that it was when it was chosen: diskseq"):
            machine.plan_format(disk)


def test_write_protection_is_off_only_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = live(tmp_path, monkeypatch)
    with system.disk(blank(tmp_path / "disk.img", SIZE)) as device:
        formatted(device)
        assert system.is_protected(device)
        assert run("blkid", "-p", "-s", "PTTYPE", "-o", "value", device).strip() == "gpt"


def test_what_must_not_be_erased_is_left_as_it_is(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    run("mkfs.ext4", "-q", "-F", image)
    before = sha256(image)
    with pytest.raises(UsageError, match="is a file"):
        plan_format(image)
    with loop(image, read_only=True) as device, pytest.raises(Refused, match="is read-only"):
        plan_format(device)
    assert sha256(image) == before
    with loop(image) as device, mounted(device, tmp_path / "mounted"), pytest.raises(Refused, match="mounted at"):
        plan_format(device)
    with loop(blank(tmp_path / "small.img", MIB)) as device, pytest.raises(Refused, match="has only"):
        plan_format(device)


def test_another_disk_than_the_one_that_was_shown_is_not_erased(tmp_path: Path) -> None:
    one, other = blank(tmp_path / "one.img", SIZE), partitioned(tmp_path / "other.img", SIZE, GPT_SCRIPT)
    with own_loop(one) as device:
        plan = plan_format(device)
        exchange(device, other)
        before = sha256(other)
        with pytest.raises(Refused, match="no longer the disk"):
            format_disk(plan)
        assert sha256(other) == before


def test_a_disk_that_came_into_use_is_not_erased(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    run("mkfs.ext4", "-q", "-F", image)
    with loop(image) as device:
        plan = plan_format(device)
        with mounted(device, tmp_path / "mounted") as folder:
            (folder / "file").write_text("content")
            with pytest.raises(Refused, match="in use"):
                format_disk(plan)
            assert (folder / "file").read_text() == "content"


def test_members_of_arrays_are_named_in_the_plan(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    md_member(image, 0, SIZE // 512)
    with loop(image) as device:
        (broken,) = plan_format(device).breaks
        assert "RAID array" in broken


def test_the_command_erases_only_what_was_confirmed_by_its_name(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    before = sha256(image)
    with loop(image) as device:
        assert "nobody to ask" in refused("destination", "--format", device)
        ran = on_terminal("destination", "--format", device, answer=b"loop\n", question="Type")
        assert ran.status == 130
        assert "d\u00e4ta" in ran.out
        assert sha256(image) == before
        ran = on_terminal("destination", "--format", device, answer=f"{device.name}\n".encode(), question="Type")
        if "is mounted at" in ran.out:
            umount(device)
        else:
            assert ran.status == 21, ran
            assert "this kernel made no device" in " ".join(ran.out.split())
    assert len(sfdisk_json(image)["partitions"]) == 1


def test_a_member_is_erased_only_when_that_is_said(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    md_member(image, 0, SIZE // 512)
    before = sha256(image)
    with loop(image) as device:
        assert "breaks more than that disk" in refused("destination", "--format", device, "--yes")
    assert sha256(image) == before
