"""Cases in which a plausible program says "success" and is wrong: each was met once."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from recovery.errors import Cancelled, DeviceError, Refused
from recovery.image.capture_plan import plan_capture
from recovery.image.restore import restore
from recovery.image.restore_plan import plan_restore
from recovery.image.view import SystemImage
from recovery.progress import Progress
from recovery.repository.repository import Repository
from tests.support.disks import loop, run, umount
from tests.support.images import gpt_disk, same
from tests.support.program import PASSWORD, recovery, refused

pytestmark = pytest.mark.disk

MIB = 1 << 20


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    recovery("init", repository=folder)
    return folder


def _entry(disk: Path, number: int = 1) -> tuple[int, int]:
    """Offset and length of a partition, in bytes, as sfdisk tells."""
    entries = json.loads(run("sfdisk", "--json", disk))["partitiontable"]["partitions"]
    return entries[number - 1]["start"] * 512, entries[number - 1]["size"] * 512


def _zero(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(length))


def test_what_was_written_through_a_partition_is_captured_although_the_disks_own_cache_is_old(
    tmp_path: Path, repository: Path
) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 96 * MIB, 64 * MIB)
    offset, length = _entry(disk)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    with loop(disk) as device:
        run("partx", "--add", "--nr", "1", device)
        try:
            with device.open("rb") as old_view:  # keeps the disk's page cache, filled before the partition is written
                while old_view.read(MIB):
                    pass
                run("mount", f"{device}p1", mounted)
                try:
                    (mounted / "new.bin").write_bytes(os.urandom(5 * MIB))
                finally:
                    umount(mounted)
                recovery("capture", device, repository=repository)
        finally:
            run("partx", "--delete", "--nr", "1", device)
    restored = tmp_path / "restored.img"
    recovery("restore", "latest", restored, "--yes", repository=repository)
    with loop(restored, offset=offset, size=length, read_only=True) as device:
        run("e2fsck", "-fn", device)
        assert "Size: 5242880" in run("debugfs", "-R", "stat /new.bin", device)
        dumped = tmp_path / "dumped.bin"
        run("debugfs", "-R", f"dump /new.bin {dumped}", device)
    with loop(disk, offset=offset, size=length, read_only=True) as device:
        original = tmp_path / "original.bin"
        run("debugfs", "-R", f"dump /new.bin {original}", device)
    assert same(dumped, original)


def test_a_disk_that_is_planned_for_cannot_be_mounted(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 48 * MIB, 32 * MIB)
    offset, length = _entry(disk)
    with loop(disk, offset=offset, size=length) as device, ExitStack() as held:
        plan_capture([device], None, Progress(), held)
        place = tmp_path / "mounted"
        place.mkdir()
        tried = subprocess.run(["mount", "-o", "ro,noload", device, place], capture_output=True, check=False)
        assert tried.returncode != 0
        assert not place.is_mount()
        held.close()
        run("mount", "-o", "ro,noload", device, place)
        umount(place)


def test_a_file_that_changes_while_it_is_captured_is_told(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 48 * MIB, 32 * MIB)
    with ExitStack() as held:
        planned = plan_capture([disk], None, Progress(), held).disks[0]
        planned.guard.check()
        _zero(disk, 20 * MIB, 512)
        with pytest.raises(DeviceError, match="was changed while it was read"):
            planned.guard.check()


def test_a_pack_that_is_gone_is_stored_again(tmp_path: Path, repository: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 64 * MIB, 40 * MIB, content_mib=12)
    recovery("capture", disk, repository=repository)
    packs = sorted((repository / "data").rglob("*"), key=lambda path: path.stat().st_size)
    packs[-1].unlink()
    ran = recovery("capture", disk, "--json", repository=repository)
    assert ran.event("summary")["new_bytes"] > 8 * MIB
    assert "missing or cut short" in ran.event("warning")["message"]
    restored = tmp_path / "restored.img"
    recovery("restore", "latest", restored, "--yes", repository=repository)
    assert recovery("verify", repository=repository).status == 0
    offset, length = _entry(disk)
    with loop(restored, offset=offset, size=length, read_only=True) as device:
        run("e2fsck", "-fn", device)


def test_a_left_out_partition_that_the_target_has_stays(tmp_path: Path, repository: Path) -> None:
    disk = tmp_path / "disk.img"
    run("truncate", "-s", "96M", disk)
    run("sfdisk", "-q", disk, input="label: gpt\nsize=32M\nsize=40M\n")
    for number in (1, 2):
        offset, length = _entry(disk, number)
        with loop(disk, offset=offset, size=length) as device:
            run("mkfs.ext4", "-q", "-F", "-L", f"part{number}", device)
    recovery("capture", disk, "--without", "2", repository=repository)
    offset, length = _entry(disk, 2)
    before = disk.read_bytes()[offset : offset + length]
    _zero(disk, 0, 2 * MIB)
    run("sfdisk", "-q", "--force", disk, input="label: gpt\nsize=32M\nsize=40M\n")
    ran = recovery("restore", "latest", disk, "--yes", repository=repository)
    assert "stays" in ran.said
    assert disk.read_bytes()[offset : offset + length] == before
    other = tmp_path / "other.img"
    run("truncate", "-s", "96M", other)
    assert "is lost" in recovery("restore", "latest", other, "--yes", repository=repository).said


def test_a_partition_that_reaches_the_last_sector_is_whole_on_a_larger_target(tmp_path: Path) -> None:
    disk, target = tmp_path / "disk.img", tmp_path / "target.img"
    run("truncate", "-s", "32M", disk)
    run("sfdisk", "-q", disk, input="label: gpt\nstart=2048, size=16M\n")
    table = disk.read_bytes()[: 34 * 512]
    run("truncate", "-s", "24M", disk)  # the disk ends within what the table calls free, right behind its partition
    with disk.open("r+b") as file:
        file.write(table)
        file.seek(17 * MIB - 20 * 512)
        file.write(b"the last bytes of the partition" * 300)
    run("truncate", "-s", str(17 * MIB), disk)
    run("truncate", "-s", "40M", target)
    recovery("clone", disk, target, "--yes")
    assert target.read_bytes()[MIB : 17 * MIB] == disk.read_bytes()[MIB : 17 * MIB]


def test_a_restore_that_was_cut_off_leaves_no_table_of_the_old_disk(tmp_path: Path, repository: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 64 * MIB, 40 * MIB)
    target = gpt_disk(tmp_path / "target.img", 80 * MIB, 50 * MIB, seed=2)
    snapshot = recovery("capture", disk, "--json", repository=repository).event("summary")["snapshot_id"]
    opened = Repository.open(repository, PASSWORD)
    opened.load_index()
    image = SystemImage(opened, opened.find_snapshot(snapshot)).disk()
    plan = plan_restore(image, target, repository=repository)

    class StopsInTheBody(Progress):
        def advance(self, byte_count: int) -> None:
            self.cancel()

    with pytest.raises(Cancelled, match="partly written"):
        restore(image, plan, StopsInTheBody())
    tried = subprocess.run(["sfdisk", "--json", target], capture_output=True, check=False)
    assert tried.returncode != 0, tried.stdout
    assert not run("blkid", "-p", target, check=False)


def test_one_flipped_bit_in_an_index_loses_nothing(tmp_path: Path, repository: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 64 * MIB, 40 * MIB)
    recovery("capture", disk, repository=repository)
    before, after = tmp_path / "before.img", tmp_path / "after.img"
    recovery("restore", "latest", before, "--yes", repository=repository)
    for index in (repository / "index").iterdir():
        data = bytearray(index.read_bytes())
        data[len(data) // 2] ^= 4
        index.write_bytes(data)
    ran = recovery("restore", "latest", after, "--yes", repository=repository)
    assert "does not authenticate" in ran.said
    assert same(before, after)
    recovery("verify", repository=repository, status=22)
    refused("capture", disk, repository=repository, status=22)


def test_a_restore_into_a_file_that_has_no_room_is_refused_before_it_starts(tmp_path: Path, repository: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 96 * MIB, 64 * MIB, content_mib=24)
    recovery("capture", disk, repository=repository)
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", small)
    try:
        said = refused("restore", "latest", small / "out.img", "--yes", repository=repository, status=23)
        assert "untouched" in said
        assert not (small / "out.img").exists()
    finally:
        umount(small)


def test_a_destination_that_vanished_is_not_made_anew(tmp_path: Path, repository: Path) -> None:
    opened = Repository.open(repository, PASSWORD)
    run("rm", "-r", repository)
    with pytest.raises(DeviceError, match="is gone"):
        opened.save_index([])
    assert not repository.exists()


def test_a_mounted_source_is_refused_when_the_plan_is_made(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "disk.img", 48 * MIB, 32 * MIB)
    offset, length = _entry(disk)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    with loop(disk, offset=offset, size=length) as device, ExitStack() as held:
        run("mount", "-o", "ro,noload", device, mounted)
        try:
            with pytest.raises(Refused, match="mounted"):
                plan_capture([device], None, Progress(), held)
        finally:
            umount(mounted)
