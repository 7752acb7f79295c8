"""Stacks of storage that this machine's kernel may not have, as sysfs and procfs tell them."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.devices.usage import System


class Machine:
    """The parts of sysfs and procfs that tell of block devices, as files."""

    def __init__(self, root: Path) -> None:
        self.sys, self.proc = root / "sys", root / "proc"
        self.minor = 0
        for folder in ("class/block", "dev/block", "fs/btrfs", "devices"):
            (self.sys / folder).mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "swaps").write_text("Filename\tType\tSize\tUsed\tPriority\n")
        (self.proc / "self" / "mountinfo").touch()

    def device(self, name: str, parent: str | None = None, **attributes: str) -> str:
        """Add a disk, or a partition of ``parent``; returns its number."""
        base = (self.sys / "class" / "block" / parent).resolve() if parent else self.sys / "devices"
        place = base / name
        (place / "holders").mkdir(parents=True)
        (place / "slaves").mkdir()
        self.minor += 1
        number = f"8:{self.minor}"
        if parent:
            attributes["partition"] = "1"
        for attribute, text in {"dev": number, "ro": "0", **attributes}.items():
            (place / attribute).parent.mkdir(exist_ok=True)
            (place / attribute).write_text(text + "\n")
        (self.sys / "class" / "block" / name).symlink_to(place)
        (self.sys / "dev" / "block" / number).symlink_to(place)
        return number

    def stack(self, upper: str, *lowers: str) -> None:
        for lower in lowers:
            (self.sys / "class" / "block" / lower / "holders" / upper).touch()
            (self.sys / "class" / "block" / upper / "slaves" / lower).touch()

    def mount(self, number: str, point: str, kind: str = "ext4", source: str = "none", options: str = "rw") -> None:
        with (self.proc / "self" / "mountinfo").open("a") as file:
            file.write(f"30 1 {number} / {point} rw,relatime shared:1 - {kind} {source} {options}\n")

    def system(self) -> System:
        return System(self.sys, self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_mounted_partition_is_told_with_its_name(machine: Machine) -> None:
    machine.device("sda")
    machine.mount(machine.device("sda1", "sda"), "/media/a\\040b")
    machine.device("sda10", "sda")
    machine.device("sdb")
    assert machine.system().uses("sda") == ("sda1 mounted at /media/a b",)
    assert machine.system().uses("sdb") == ()


def test_a_volume_group_is_told_with_its_name_and_what_is_mounted_from_it(machine: Machine) -> None:
    machine.device("sda")
    machine.device("sda2", "sda")
    number = machine.device("dm-0", **{"dm/name": "my--group-root", "dm/uuid": "LVM-abc"})
    machine.stack("dm-0", "sda2")
    machine.mount(number, "/")
    assert machine.system().uses("sda") == ("sda2 member of volume group my-group", "dm-0 mounted at /")


def test_an_encrypted_volume_in_an_array_is_told(machine: Machine) -> None:
    for name in ("sda", "sdb"):
        machine.device(name)
    machine.device("md0")
    machine.device("dm-1", **{"dm/name": "secret", "dm/uuid": "CRYPT-LUKS2-abc-secret"})
    machine.device("dm-2", **{"dm/name": "odd", "dm/uuid": ""})
    machine.stack("md0", "sda", "sdb")
    machine.stack("dm-1", "md0")
    machine.stack("dm-2", "dm-1")
    expected = ("member of array md0", "md0 opened as encrypted volume secret", "dm-1 held by dm-2")
    assert machine.system().uses("sda") == machine.system().uses("sdb") == expected


def test_the_disks_of_a_folder_are_found_through_volume_group_and_array(machine: Machine) -> None:
    machine.device("sda")
    machine.device("sda1", "sda")
    machine.device("sdb")
    machine.device("md0")
    number = machine.device("dm-0", **{"dm/name": "vg-root", "dm/uuid": "LVM-abc"})
    machine.stack("md0", "sda1", "sdb")
    machine.stack("dm-0", "md0")
    machine.device("sdc")
    machine.mount(number, "/")
    assert machine.system().devices_below(Path("/")) == {"dm-0", "md0", "sda1", "sda", "sdb"}
    assert machine.system().storage("dm-0") == {"dm-0", "md0", "sda1", "sdb"}
    assert machine.system().whole_disks(["sda1", "sdb"]) == {"sda1", "sda", "sdb"}
    assert [machine.system().partition_number(name) for name in ("sda1", "sda", "sdb")] == [1, None, None]


def test_the_medium_of_a_live_system_is_found_below_its_root(machine: Machine, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    squashfs = tmp_path / "squashfs"
    for folder in (medium, squashfs, tmp_path / "upper"):
        folder.mkdir()
    (medium / "filesystem.squashfs").touch()
    machine.device("sdb")
    machine.mount("0:20", "/", "overlay", "overlay", f"rw,lowerdir={squashfs}/,upperdir={tmp_path}/upper,workdir=/none")
    machine.mount(machine.device("sdb1", "sdb"), str(medium), "iso9660")
    loop = machine.device("loop0", **{"loop/backing_file": f"{medium}/filesystem.squashfs"})
    machine.mount(loop, str(squashfs), "squashfs")
    below = machine.system().devices_below(Path("/"))
    assert {name for name in below if not name.startswith("file:")} == {"loop0", "sdb1", "sdb"}


def test_folders_in_memory_and_on_the_network_lie_on_no_disk(machine: Machine) -> None:
    machine.device("sda")
    machine.mount("0:5", "/", "tmpfs", "tmpfs")
    machine.mount("0:6", "/srv", "nfs4", "server:/export")
    assert machine.system().devices_below(Path("/srv/repository")) == frozenset()


def test_a_later_mount_covers_an_earlier_one(machine: Machine) -> None:
    machine.device("sda")
    machine.device("sdb")
    first, second = machine.device("sda1", "sda"), machine.device("sdb1", "sdb")
    machine.mount("0:5", "/", "tmpfs", "tmpfs")
    machine.mount(first, "/srv")
    machine.mount(second, "/srv")
    assert machine.system().devices_below(Path("/srv/x")) == {"sdb1", "sdb"}
    assert machine.system().devices_below(Path("/srvx")) == frozenset()


def test_a_machine_that_tells_nothing_has_nothing_in_use(tmp_path: Path) -> None:
    system = System(tmp_path / "sys", tmp_path / "proc")
    assert system.uses("sda") == ()
    assert system.devices_below(Path("/")) == frozenset()
