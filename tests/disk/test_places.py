"""Where a repository may lie: judged from the survey, without opening a disk; what is mounted, as the kernel has it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from recovery.destination import NotClosed
from recovery.devices.disk import Disk
from recovery.devices.probe import Content
from recovery.devices.table import PartitionTable, TableEntry
from recovery.inventory import DiskReport, PartitionReport
from recovery.places import attached, look_into, mounted
from recovery.repository.repository import Repository
from recovery.surveyor import SILENT
from tests.support.disks import MIB, blank, loop, run, sha256, umount
from tests.support.disks import mounted as mounted_at
from tui.machine import LocalMachine

GIB = 1 << 30
EXT4 = Content(kind="filesystem", type="ext4", label="data")


def disk(name: str = "sda", **facts: object) -> Disk:
    plain: dict[str, object] = {
        "path": f"/dev/{name}",
        "name": name,
        "model": "Model",
        "vendor": None,
        "serial": "1",
        "wwn": None,
        "transport": "usb",
        "size_bytes": 100 * GIB,
        "logical_sector_bytes": 512,
        "physical_sector_bytes": 512,
        "removable": False,
        "rotational": False,
        "read_only": False,
        "diskseq": 1,
        "is_image_file": False,
    }
    return Disk(**{**plain, **facts})  # type: ignore[arg-type]


def report(device: Disk, *contents: Content | None, kind: str = "linux", findings: tuple[str, ...] = ()) -> DiskReport:
    entries = [TableEntry(n + 1, (1 + 10 * n) * GIB, 10 * GIB, kind) for n in range(len(contents))]
    table = PartitionTable("gpt", None, 512, tuple(entries), ())
    parts = tuple(PartitionReport(entry, content) for entry, content in zip(entries, contents, strict=True))
    return DiskReport(device, table, None, parts, findings)


def problems(*reports: DiskReport, read_only: bool = False) -> dict[str, str]:
    return {str(place.device): place.problem for place in attached(reports, read_only=read_only)}


def test_filesystems_are_listed_by_the_names_of_their_devices_and_the_rest_is_left_out() -> None:
    swap, unknown = Content(kind="swap", type="swap"), None
    found = problems(report(disk(), EXT4, swap, unknown, EXT4), report(disk("nvme0n1"), EXT4))
    assert found == {"/dev/sda1": "", "/dev/sda4": "", "/dev/nvme0n1p1": ""}
    whole = DiskReport(disk("sdb"), None, EXT4, (), ())
    assert problems(whole) == {"/dev/sdb": ""}
    esp = report(disk(), EXT4, kind="c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
    assert problems(esp) == {}


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (report(disk(boot_medium=True), EXT4), "this system was started from"),
        (report(disk(), EXT4, findings=(SILENT,)), "does not answer"),
        (report(disk(read_only=True), EXT4), "read-only by its hardware"),
        (report(disk(in_use=("sda1 mounted at /home",)), EXT4), "mounted at /home"),
        (report(disk(in_use=("sda1 member of array md0",)), EXT4), "member of array md0"),
        (report(disk(), Content(kind="crypto", type="crypto_LUKS")), "encrypted"),
        (report(disk(), Content(kind="filesystem", type="hfsplus")), "hfsplus"),
    ],
)
def test_what_cannot_be_used_says_why(seen: DiskReport, words: str) -> None:
    (problem,) = problems(seen).values()
    assert words in problem


def test_what_is_mounted_for_repositories_is_not_listed_twice_and_others_parts_stay_usable() -> None:
    used = disk(in_use=("sda1 mounted at /media/data", "sda10 mounted at /home"))
    assert problems(report(used, EXT4, EXT4)) == {"/dev/sda2": ""}


def test_a_disk_that_cannot_be_written_can_be_read() -> None:
    assert problems(report(disk(read_only=True), EXT4), read_only=True) == {"/dev/sda1": ""}


def test_a_folder_is_looked_into_without_its_password(tmp_path: Path) -> None:
    nothing = look_into(tmp_path / "not/there")
    assert (nothing.repository, nothing.problem) == (False, "")
    assert nothing.free_bytes == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "not empty" in look_into(tmp_path / "full").problem
    assert "a file" in look_into(tmp_path / "full/file/inside").problem
    Repository.init(tmp_path / "repository", "secret")
    for number in range(2):
        snapshot = tmp_path / "repository/snapshots" / (f"{number}" * 64)
        snapshot.touch()
        os.utime(snapshot, (10**9 + number, 10**9 + number))
    found = look_into(tmp_path / "repository")
    assert (found.repository, found.problem, found.snapshots) == (True, "", 2)
    assert found.newest is not None
    assert found.newest.timestamp() == 10**9 + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts, which only root may")
def test_what_lies_in_memory_is_said_to_be_lost_one_day(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path / "memory")
    try:
        assert look_into(tmp_path / "memory/new/folder").fleeting
    finally:
        umount(tmp_path / "memory")
    image = blank(tmp_path / "disk.img", 16 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    with loop(image) as device, mounted_at(device, tmp_path / "disk") as folder:
        assert not look_into(folder / "new").fleeting


def _wait_until_free(device: Path) -> None:
    """Programs beside this test may look at the device for a moment."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            time.sleep(0.1)
        else:
            return


@pytest.mark.disk
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts, which only root may")
def test_what_was_only_looked_at_can_be_stored_to_afterwards(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 64 * MIB)
    run("mkfs.ext4", "-q", "-F", "-L", f"places{os.getpid()}", image)
    before = sha256(image)
    machine = LocalMachine()
    with loop(image) as device:
        looked = machine.mount(device, read_only=True)
        try:
            (found,) = [made for made in mounted() if made.folder == looked.folder]
            assert (found.device, found.filesystem, found.read_only) == (str(device), "ext4", True)
            assert sha256(image) == before
            made = machine.mount(device)
            assert not made.read_only
            (Path(made.folder) / "file").write_text("content")
            assert [place.read_only for place in machine.destinations() if place.device == str(device)] == [False]
        finally:
            machine.unmount(Path(looked.folder))
            _wait_until_free(device)
    assert not Path(looked.folder).exists()


@pytest.mark.disk
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts, which only root may")
def test_what_was_not_closed_is_mounted_for_writing_only_when_that_is_meant(tmp_path: Path) -> None:
    image, crashed = blank(tmp_path / "disk.img", 64 * MIB), tmp_path / "crashed.img"
    run("mkfs.ext4", "-q", "-F", "-L", f"crashed{os.getpid()}", image)
    with loop(image) as device, mounted_at(device, tmp_path / "mounted") as folder:
        (folder / "file").write_text("content")
        run("sync", "-f", folder)
        run("cp", "--sparse=always", device, crashed)
    before = sha256(crashed)
    machine = LocalMachine()
    with loop(crashed) as device:
        with pytest.raises(NotClosed, match="not closed cleanly"):
            machine.mount(device)
        assert sha256(crashed) == before
        made = machine.mount(device, unclean=True)
        try:
            assert (Path(made.folder) / "file").read_text() == "content"
        finally:
            machine.unmount(Path(made.folder))
            _wait_until_free(device)
