"""Starting the image writes nothing to any disk, whatever lies on it and wherever the image comes from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import run, sha256
from tests.support.program import ROOT
from tests.vm.live import BOOT_SECONDS, IMAGE, Live, leave_interface, live
from tests.vm.machine import Bus, Disk, Machine, Medium, started
from tests.vm.tempting_disks import tempting

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

_OPTIONS = ROOT / "image-build" / "boot" / "options"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Disk, ...]:
    folder = tmp_path_factory.mktemp("tempting")
    return tuple(
        Disk(tempting(folder / f"{bus.value}.img", number), bus, f"TEMPTING{number}") for number, bus in enumerate(Bus)
    )


@contextmanager
def untouched(disks: tuple[Disk, ...]) -> Iterator[None]:
    """Behind the ``with`` block the disks are as they were before."""
    before = [sha256(disk.path) for disk in disks]
    yield
    changed = [disk.bus.value for disk, was in zip(disks, before, strict=True) if sha256(disk.path) != was]
    assert not changed, f"something was written to the disk on {', '.join(changed)}"


def from_memory_of_another(disks: tuple[Disk, ...]) -> Machine:
    """A machine whose kernel and initrd came from elsewhere: the medium is not there yet."""
    medium = run("blkid", "-p", "-o", "value", "-s", "UUID", IMAGE).strip()
    options = _OPTIONS.read_text().strip().replace("@UUID@", medium)
    netboot = IMAGE.parent / "netboot"
    kernel = (netboot / "vmlinuz", netboot / "initrd.img", f"{options} console=tty0 console=ttyS0,115200n8")
    return Machine(disks=disks, kernel=kernel)


def idle(there: Live, disks: tuple[Disk, ...]) -> None:
    """All disks are there and protected, and nothing of them is in use."""
    reports = {report["disk"]["serial"]: report["disk"] for report in there.disks()}
    for disk in disks:
        assert reports[disk.id]["write_protected"], reports[disk.id]
        assert reports[disk.id]["in_use"] == [], reports[disk.id]
    assert there.run("swapon --show --noheadings").text == ""
    assert "md" not in there.run("grep ^md /proc/mdstat", status=None).text
    assert "No devices found" in there.run("dmsetup ls").text


@pytest.mark.parametrize("medium", list(Medium), ids=lambda medium: medium.value)
def test_a_start_from_the_medium_writes_nothing(medium: Medium, disks: tuple[Disk, ...], tmp_path: Path) -> None:
    with untouched(disks):
        with live(Machine(disks=disks, image=IMAGE, medium=medium), tmp_path / "machine") as there:
            idle(there, disks)
            there.power_off()


def test_a_stick_that_appears_late_is_waited_for_and_nothing_is_written(
    disks: tuple[Disk, ...], tmp_path: Path
) -> None:
    stick = Disk(Path(shutil.copyfile(IMAGE, tmp_path / "stick.img")), Bus.USB, "STICK")
    with untouched((*disks, stick)):
        with started(from_memory_of_another(disks), tmp_path / "machine") as running:
            running.console.wait_for("Waiting for the medium", BOOT_SECONDS)
            time.sleep(10)
            running.attach(stick)
            leave_interface(running.console)
            there = Live(running)
            idle(there, disks)
            there.power_off()


def test_without_its_stick_it_waits_and_writes_nothing(disks: tuple[Disk, ...], tmp_path: Path) -> None:
    with untouched(disks):
        with started(from_memory_of_another(disks), tmp_path / "machine") as running:
            running.console.wait_for("Waiting for the medium", BOOT_SECONDS)
            running.console.wait_for("Waiting for the medium", BOOT_SECONDS)  # half a minute later
            running.kill()
