"""Victims: real Debian systems on disks of their own, which hash their files, say ``VICTIM-OK`` and switch off.

``python -m tests.vm.victims NAME`` makes one, boots it and shows what it says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.disks import sfdisk_json
from tests.support.machine import become_root, in_own_mount_namespace
from tests.support.program import ROOT
from tests.vm import base, victim_disks
from tests.vm.efi_variables import add_boot_entry
from tests.vm.machine import Disk, Firmware, Machine, Running, fresh_variables, started

#: How long an emulated processor may take from the switch to VICTIM-OK, in seconds.
PATIENCE = 900


@dataclass(frozen=True, slots=True)
class Victim:
    """What is made, and how it is started."""

    name: str
    make: Callable[[Path, Path], None]
    firmware: Firmware
    passphrase: str = ""


VICTIMS = {
    victim.name: victim
    for victim in (
        Victim("bios", victim_disks.make_bios, Firmware.BIOS),
        Victim("ntfs", victim_disks.make_ntfs, Firmware.SECURE_BOOT),
        Victim("xfs", victim_disks.make_xfs, Firmware.UEFI),
        Victim("luks", victim_disks.make_luks, Firmware.UEFI, victim_disks.PASSPHRASE),
    )
}


@dataclass(frozen=True, slots=True)
class Witness:
    """What a victim saw of itself."""

    hash: str
    list: tuple[str, ...]
    """What was hashed: a line for each file's place and mode, one for its content."""


def made(name: str) -> Path:
    """The victim's disk, a raw image that nobody may write to; made when it is not there yet (root)."""
    disk = base.KEPT / f"victim-{name}-{_key()}.img"
    if not disk.exists():
        subprocess.run(
            [sys.executable, "-m", __name__, name, "--no-boot"], check=True, cwd=ROOT, stdin=subprocess.DEVNULL
        )
    return disk


def copied(source: Path, target: Path) -> Path:
    """A copy of a disk that may be written to; holes stay holes."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    return target


def variables(firmware: Firmware, disk: Path, path: Path) -> Path:
    """The EFI variables of the machine in which a victim with an EFI partition was installed."""
    fresh_variables(firmware, path)
    esp = sfdisk_json(disk)["partitions"][0]
    add_boot_entry(
        path,
        "debian",
        "\\EFI\\debian\\shimx64.efi",
        partition=1,
        offset=esp["start"],
        length=esp["size"],
        identity=uuid.UUID(esp["uuid"]),
    )
    return path


def witness(running: Running, victim: Victim) -> Witness:
    """Wait until a victim has said what it saw and has switched itself off."""
    if victim.passphrase:
        running.console.wait_for("unlock disk .*: ", PATIENCE)
        running.console.send_line(victim.passphrase)
    firmware = running.console.wait_for(r"^VICTIM-FIRMWARE (\S+)\n", PATIENCE)[1]
    assert firmware.lower() == running.machine.firmware.value, "it was started by something else than it should"
    said = running.console.wait_for(r"^VICTIM-OK ([0-9a-f]{64})\n", PATIENCE)[1]
    running.wait_for_power_off(300)
    lines = (running.folder / "victim.list.port").read_bytes()
    assert hashlib.sha256(lines).hexdigest() == said, "the list does not have the hash that was said"
    return Witness(said, tuple(lines.decode(errors="surrogateescape").splitlines()))


def boot(victim: Victim, disk: Disk, firmware: Firmware, flash: Path | None, folder: Path) -> Witness:
    """Boot a victim's disk, alone in a machine, to its VICTIM-OK; changes the disk as any boot does."""
    machine = Machine(firmware, (disk,), flash, ports=("victim.list",))
    with started(machine, folder) as running:
        return witness(running, victim)


def expected(name: str) -> Witness:
    """What a victim sees when it is booted from a copy of its own disk; done once and kept."""
    victim, disk = VICTIMS[name], made(name)
    kept = disk.with_suffix(".json")
    if not kept.exists():
        with tempfile.TemporaryDirectory(prefix="victim-", dir=base.KEPT) as folder:
            copy = copied(disk, Path(folder) / "disk.img")
            flash = None
            if victim.firmware is not Firmware.BIOS:
                flash = variables(victim.firmware, disk, Path(folder) / "variables")
            seen = boot(victim, Disk(copy), victim.firmware, flash, Path(folder) / "machine")
        kept.write_text(json.dumps({"hash": seen.hash, "list": seen.list}))
    told = json.loads(kept.read_text())
    return Witness(told["hash"], tuple(told["list"]))


def _key() -> str:
    """Changes when anything changes that a victim is made from."""
    files = ("victim.sh", "victim_system.py", "victim_disks.py", "luks.py")
    content = b"".join(Path(__file__).with_name(name).read_bytes() for name in files)
    return hashlib.sha256(content + "\0".join(base.recipe()).encode()).hexdigest()[:12]


def _make(name: str) -> None:
    disk = base.KEPT / f"victim-{name}-{_key()}.img"
    if disk.exists():
        return
    base.base()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="victim-", dir=memory if memory.is_dir() else None) as scratch:
        unfinished = disk.with_suffix(".tmp")
        try:
            VICTIMS[name].make(unfinished, Path(scratch))
            unfinished.rename(disk)
        finally:
            unfinished.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.victims", description=__doc__)
    parser.add_argument("name", choices=[*VICTIMS, "all"])
    parser.add_argument("--no-boot", action="store_true", help="only make it")
    options = parser.parse_args()
    become_root(__spec__.name)
    in_own_mount_namespace(__spec__.name)
    for name in VICTIMS if options.name == "all" else [options.name]:
        _make(name)
        if not options.no_boot:
            print(name, "VICTIM-OK", expected(name).hash, flush=True)


if __name__ == "__main__":
    main()
