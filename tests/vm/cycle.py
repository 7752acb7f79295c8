"""One whole cycle: a victim is captured with the bootable image, comes back on a blank disk, and boots from that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.support.disks import MIB, blank, sha256
from tests.vm.efi_variables import boot_entries
from tests.vm.live import BACKUP, IMAGE, WORK_SECONDS, Live, backup_disk, live
from tests.vm.machine import Bus, Disk, Firmware, Machine, Medium, fresh_variables, started
from tests.vm.victims import PATIENCE, VICTIMS, Victim, Witness, boot, copied, expected, made, variables


@dataclass(frozen=True, slots=True)
class Target:
    """A machine that knows nothing, and its blank disk."""

    firmware: Firmware
    bus: Bus
    more_mib: int = 0
    """By how much the disk is larger than the victim's."""
    medium: Medium = Medium.CD

    @property
    def name(self) -> str:
        size = f"{self.more_mib}-MiB-more" if self.more_mib else "same-size"
        return "-".join((self.firmware.value, self.bus.value, size, self.medium.value))


@dataclass(frozen=True, slots=True)
class Cycle:
    """What is captured where, and where it comes back."""

    victim: str
    firmware: Firmware
    bus: Bus
    medium: Medium
    targets: tuple[Target, ...]
    crashed: bool = False
    """The victim was cut off while it wrote."""

    @property
    def name(self) -> str:
        words = (self.victim, self.firmware.value, self.bus.value, self.medium.value)
        return "-".join((*words, "crashed") if self.crashed else words)


class Captured(msgspec.Struct, frozen=True):
    """What is known of a victim that was captured."""

    size_bytes: int
    before: Witness
    synced: dict[str, str]
    """The files that a crashed victim had synced, and their hashes."""


def cycle(plan: Cycle, folder: Path) -> None:
    """Go through it; raises AssertionError where anything is not as it must be.

    What is done is remembered in ``folder``: called again, it goes on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backup = Disk(folder / "backup.img", Bus.USB, BACKUP)
    left = [target for target in plan.targets if not (folder / f"{target.name}.json").exists()]
    if not left:
        return
    done = folder / "captured.json"
    if not done.exists():
        backup_disk(backup.path)
        source = copied(made(plan.victim), folder / "source.img")
        told = captured(plan, source, backup, folder)
        source.unlink()
        done.write_bytes(msgspec.json.encode(told))
    told = msgspec.json.decode(done.read_bytes(), type=Captured)
    for target in left:
        seen = restored(plan.victim, target, told.size_bytes, backup, folder / target.name)
        check(told, seen)
        (folder / f"{target.name}.json").write_bytes(msgspec.json.encode(seen.hash))
    backup.path.unlink()


def captured(plan: Cycle, source: Path, backup: Disk, folder: Path) -> Captured:
    """Capture a victim in its machine; the disk must stay as it was."""
    victim = VICTIMS[plan.victim]
    flash = None if plan.firmware is Firmware.BIOS else variables(plan.firmware, source, folder / "source.variables")
    synced = crash(victim, source, plan.firmware, flash, folder / "crash") if plan.crashed else {}
    was = sha256(source)
    disks = (Disk(source, plan.bus, "VICTIM"), backup)
    with live(Machine(plan.firmware, disks, flash, IMAGE, plan.medium), folder / "capture") as there:
        capture(there)
        there.power_off()
    assert sha256(source) == was, "something was written to the captured disk"
    size = source.stat().st_size
    if plan.crashed:
        return Captured(size, boot(victim, Disk(source, plan.bus), plan.firmware, flash, folder / "crashed"), synced)
    return Captured(size, expected(plan.victim), {})


def restored(name: str, target: Target, size_bytes: int, backup: Disk, folder: Path) -> Witness:
    """Restore the victim ``name`` in a new machine, and boot the disk alone: what the system sees."""
    folder.mkdir(parents=True, exist_ok=True)
    image = blank(folder / "target.img", size_bytes + target.more_mib * MIB)
    uefi = target.firmware is not Firmware.BIOS
    flash = fresh_variables(target.firmware, folder / "variables") if uefi else None
    disks = (Disk(image, target.bus, "BLANK"), backup)
    with live(Machine(target.firmware, disks, flash, IMAGE, target.medium), folder / "restore") as there:
        there.open_backup()
        there.restore(there.device("BLANK"))
        there.power_off()
    if flash is not None:
        assert "debian" in boot_entries(flash).values(), "the restore wrote no EFI entry"
    seen = boot(VICTIMS[name], Disk(image, target.bus), target.firmware, flash, folder / "after")
    image.unlink()
    return seen


def check(told: Captured, after: Witness) -> None:
    """The restored system is the captured one."""
    differences = sorted(set(told.before.list) ^ set(after.list))
    assert told.before.hash == after.hash, "\n".join(differences[:50])
    content = {path: digest for digest, _, path in (line.partition("  ") for line in after.list)}
    for path, digest in told.synced.items():
        assert content.get(path) == digest, f"{path} was synced before the crash and is not as it was"


def capture(there: Live, *options: str, status: int | None = 0) -> None:
    """Make a repository and capture the victim's disk into it."""
    there.open_backup(make=True)
    there.run(" ".join(("recovery capture", there.device("VICTIM"), *options)), WORK_SECONDS, status)


def crash(
    victim: Victim, disk: Path, firmware: Firmware, flash: Path | None, folder: Path, files: int = 25
) -> dict[str, str]:
    """Let a victim write, and pull the plug when it has synced some files: their hashes, by path."""
    machine = Machine(firmware, (Disk(disk),), flash, ports=("victim.crash",))
    with started(machine, folder) as running:
        if victim.passphrase:
            running.console.wait_for("unlock disk .*: ", PATIENCE)
            running.console.send_line(victim.passphrase)
        for _ in range(files):
            running.console.wait_for(r"^VICTIM-SYNCED [0-9a-f]{64}  \S+\n", PATIENCE)
        running.kill()
        said = re.findall(r"^VICTIM-SYNCED ([0-9a-f]{64})  (\S+)\n", running.console.text, re.MULTILINE)
    return {path: digest for digest, path in said}
