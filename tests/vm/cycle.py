"""One whole cycle: a victim is captured with the bootable image, comes back on a blank disk, and boots from that."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.disks import MIB, blank, sha256
from tests.vm.efi_variables import boot_entries
from tests.vm.live import BACKUP, IMAGE, WORK_SECONDS, Live, backup_disk, live
from tests.vm.machine import Bus, Disk, Firmware, Machine, Medium, fresh_variables, started
from tests.vm.victims import PATIENCE, VICTIMS, Victim, Witness, boot, copied, expected, made, variables


@dataclass(frozen=True, slots=True)
class Cycle:
    """What is captured where, and where it comes back."""

    victim: str
    firmware: Firmware
    source: Bus
    target: Bus
    more_mib: int = 0
    """By how much the target is larger."""
    medium: Medium = Medium.CD
    crashed: bool = False
    """The victim was cut off while it wrote."""

    @property
    def name(self) -> str:
        size = f"+{self.more_mib}" if self.more_mib else "same"
        words = [self.victim, self.firmware.value, self.source.value, "to", self.target.value, size, self.medium.value]
        return "-".join([*words, *(["crashed"] if self.crashed else [])])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cycle showed."""

    before: Witness
    after: Witness
    synced: dict[str, str]
    """The files that a crashed victim had synced, and their hashes."""


def cycle(plan: Cycle, folder: Path) -> Outcome:
    """Go through it; raises AssertionError where anything is not as it must be.  Disks in ``folder`` are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    source = copied(made(plan.victim), folder / "source.img")
    backup = Disk(backup_disk(folder / "backup.img"), Bus.USB, BACKUP)
    before, synced = captured(plan, source, backup, folder)
    size = source.stat().st_size
    source.unlink()
    after = restored(plan, size, backup, folder)
    backup.path.unlink()
    return Outcome(before, after, synced)


def captured(plan: Cycle, source: Path, backup: Disk, folder: Path) -> tuple[Witness, dict[str, str]]:
    """Capture a victim in its machine: what it sees of itself, and what it had synced when it crashed."""
    victim = VICTIMS[plan.victim]
    flash = None if plan.firmware is Firmware.BIOS else variables(plan.firmware, source, folder / "source.variables")
    synced = crash(victim, source, plan.firmware, flash, folder / "crash") if plan.crashed else {}
    was = sha256(source)
    disks = (Disk(source, plan.source, "VICTIM"), backup)
    machine = Machine(plan.firmware, disks, flash, IMAGE, plan.medium)
    with live(machine, folder / "capture") as there:
        capture(there)
        there.power_off()
    assert sha256(source) == was, "something was written to the captured disk"
    if plan.crashed:
        return boot(victim, Disk(source, plan.source), plan.firmware, flash, folder / "crashed"), synced
    return expected(plan.victim), {}


def restored(plan: Cycle, size_bytes: int, backup: Disk, folder: Path) -> Witness:
    """Restore onto a blank disk in a machine that knows nothing, and boot from that alone: what the system sees."""
    target = blank(folder / "target.img", size_bytes + plan.more_mib * MIB)
    uefi = plan.firmware is not Firmware.BIOS
    flash = fresh_variables(plan.firmware, folder / "target.variables") if uefi else None
    disks = (Disk(target, plan.target, "BLANK"), backup)
    machine = Machine(plan.firmware, disks, flash, IMAGE, plan.medium)
    with live(machine, folder / "restore") as there:
        there.open_backup()
        there.restore(there.device("BLANK"))
        there.power_off()
    if flash is not None:
        assert "debian" in boot_entries(flash).values(), "the restore wrote no EFI entry"
    seen = boot(VICTIMS[plan.victim], Disk(target, plan.target), plan.firmware, flash, folder / "after")
    target.unlink()
    return seen


def check(outcome: Outcome) -> None:
    """The restored system is the captured one."""
    differences = sorted(set(outcome.before.list) ^ set(outcome.after.list))
    assert outcome.before.hash == outcome.after.hash, "\n".join(differences[:50])
    content = {path: digest for digest, _, path in (line.partition("  ") for line in outcome.after.list)}
    for path, digest in outcome.synced.items():
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
            running.console.wait_for(r"^VICTIM-SYNCED [0-9a-f]{64}  \S+$", PATIENCE)
        running.kill()
        said = re.findall(r"^VICTIM-SYNCED ([0-9a-f]{64})  (\S+)$", running.console.text, re.MULTILINE)
    return {path: digest for digest, path in said}


def fingerprint() -> str:
    """Of the image that is tested."""
    return sha256(IMAGE)[:16]


def forget(folder: Path) -> None:
    """Remove what a cycle left."""
    shutil.rmtree(folder, ignore_errors=True)
