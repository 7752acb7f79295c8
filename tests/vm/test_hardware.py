"""Disks that come, go and fail, as udev and the kernel of the live system see them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank, overwrite
from tests.support.program import restic
from tests.support.restic import restic_binaries
from tests.vm.live import BACKUP, IMAGE, WORK_SECONDS, Live, backup_disk, backup_mounted, live, until
from tests.vm.machine import Bus, Disk, Machine, ReadError

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

DAMAGED = ReadError(20 * MIB + 8192, 4096)


def noise(path: Path, size_bytes: int) -> Path:
    """A disk that nobody knows: all of it is captured."""
    blank(path, size_bytes)
    some = random.Random(size_bytes)
    for offset in range(0, size_bytes, 16 * MIB):
        overwrite(path, offset, some.randbytes(min(16 * MIB, size_bytes - offset)))
    return path


def serials(there: Live) -> set[str]:
    return {report["disk"]["serial"] for report in there.disks()}


def test_disks_may_come_go_and_fail(tmp_path: Path) -> None:
    failing = Disk(noise(tmp_path / "failing.img", 48 * MIB), Bus.SATA, "VICTIM", errors=(DAMAGED,))
    target = Disk(noise(tmp_path / "target.img", 48 * MIB + 512), Bus.USB, "TARGET")
    backup = Disk(backup_disk(tmp_path / "backup.img"), Bus.USB, BACKUP)
    pulled = Disk(noise(tmp_path / "pulled.img", 512 * MIB), Bus.USB, "PULLED")
    with live(Machine(disks=(failing, backup), image=IMAGE), tmp_path / "machine") as there:
        for bus in (Bus.VIRTIO, Bus.NVME, Bus.USB):
            come_and_gone(there, Disk(blank(tmp_path / f"{bus.value}.img", 16 * MIB), bus, f"NEW-{bus.value}"))
        there.open_backup(make=True)
        said = there.run(f"recovery capture {there.device('VICTIM')}", WORK_SECONDS, 3).text
        assert "4.00 KiB" in said, said
        pulled_out_while_it_is_restored(there, target)
        there.running.attach(pulled)
        until(lambda: "PULLED" in serials(there))
        there.start(f"recovery capture {there.device('PULLED')}")
        there.running.console.wait_for(r"capture: [1-9]\d? %", WORK_SECONDS)
        there.running.detach(pulled)
        ended = there.ended("recovery capture")
        assert ended.status == 21, ended.text
        there.power_off()
    wanted = bytearray(failing.path.read_bytes())
    wanted[DAMAGED.offset : DAMAGED.offset + DAMAGED.length] = bytes(DAMAGED.length)
    assert target.path.read_bytes()[: len(wanted)] == wanted
    program = restic_binaries()[-1]
    with backup_mounted(backup.path, tmp_path / "backup") as repository:
        restic(program, "check", "--read-data", repository=repository)
        listed = restic(program, "ls", "latest", repository=repository).decode().split()
        name = next(path for path in listed if path.endswith(".map"))
        areas = restic(program, "dump", "latest", name, repository=repository).decode().splitlines()
    unreadable = [line.split() for line in areas if line.endswith(" -")]
    assert [(int(at, 16), int(length, 16)) for at, length, _ in unreadable] == [(DAMAGED.offset, DAMAGED.length)]


def come_and_gone(there: Live, disk: Disk) -> None:
    """A disk that is plugged in is shown, write-protected, and no longer when it was pulled out."""
    there.running.attach(disk)
    until(lambda: disk.id in serials(there))
    report = next(report["disk"] for report in there.disks() if report["disk"]["serial"] == disk.id)
    assert report["write_protected"], report
    there.running.detach(disk)
    until(lambda: disk.id not in serials(there))


def pulled_out_while_it_is_restored(there: Live, target: Disk) -> None:
    """The restore ends, and says what it left behind; when the target is back, a second one completes."""
    there.running.attach(target)
    until(lambda: target.id in serials(there))
    device = there.device(target.id)
    there.start(f"recovery restore latest {device}")
    there.running.console.wait_for(r"Type \S+ to overwrite it", WORK_SECONDS)
    there.running.console.send_line(device.removeprefix("/dev/"))
    there.running.console.wait_for(r"write: [1-9]\d? %", WORK_SECONDS)
    there.running.detach(target)
    ended = there.ended("recovery restore")
    assert ended.status == 21, ended.text
    assert "partly written" in ended.text, ended.text
    there.running.attach(target)
    until(lambda: target.id in serials(there))
    assert there.disk(target.id)["write_protected"]
    said = there.restore(there.device(target.id), "--differential", status=3).text
    assert f"{DAMAGED.length} bytes at byte {DAMAGED.offset}" in said, said


def test_after_power_cuts_the_repository_is_sound_and_the_second_run_completes(tmp_path: Path) -> None:
    source = Disk(noise(tmp_path / "source.img", 256 * MIB), Bus.VIRTIO, "VICTIM")
    target = Disk(blank(tmp_path / "target.img", 256 * MIB), Bus.SATA, "BLANK")
    backup = Disk(backup_disk(tmp_path / "backup.img"), Bus.NVME, BACKUP)
    machine = Machine(disks=(source, target, backup), image=IMAGE)
    with live(machine, tmp_path / "first") as there:
        there.open_backup(make=True)
        there.start(f"recovery capture {there.device('VICTIM')}")
        there.running.console.wait_for(r"capture: [4-9]\d %", WORK_SECONDS)
        there.running.kill()
    sound(backup, tmp_path)
    with live(machine, tmp_path / "second") as there:
        there.open_backup()
        there.run(f"recovery capture {there.device('VICTIM')}", WORK_SECONDS)
        device = there.device("BLANK")
        there.start(f"recovery restore latest {device}")
        there.running.console.wait_for(r"Type \S+ to overwrite it", WORK_SECONDS)
        there.running.console.send_line(device.removeprefix("/dev/"))
        there.running.console.wait_for(r"write: [4-9]\d %", WORK_SECONDS)
        there.running.kill()
    sound(backup, tmp_path)
    with live(machine, tmp_path / "third") as there:
        there.open_backup()
        there.restore(there.device("BLANK"), "--differential")
        there.power_off()
    assert target.path.read_bytes() == source.path.read_bytes()


def sound(backup: Disk, folder: Path) -> None:
    """Stock restic finds nothing wrong (and the backup's filesystem is closed afterwards)."""
    with backup_mounted(backup.path, folder / "backup") as repository:
        restic(restic_binaries()[-1], "unlock", "--remove-all", repository=repository)
        restic(restic_binaries()[-1], "check", "--read-data", repository=repository)
