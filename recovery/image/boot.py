"""What starts a disk that was restored: the firmware's boot entry (UEFI), or the loader that every firmware looks for.

The EFI system partition is restored as it was; what the firmware itself remembered of it is not on the disk, and is
written to the firmware of this machine: the entries that the image's machine had for that partition.  Only
when it is asked for, a missing ``\\EFI\\BOOT`` loader is added to the partition.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from recovery.command import run
from recovery.devices import efi
from recovery.devices.blockio import forget_partitions
from recovery.devices.disk import disk_for
from recovery.devices.live import live_system
from recovery.devices.protection import released
from recovery.devices.table import PartitionTable, TableEntry
from recovery.errors import DeviceError, ProgramMissing, RecoveryError, Refused
from recovery.image.manifest import ImageDisk, Machine
from recovery.image.restore_plan import Target

_ESP_TYPES = frozenset({"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"})
#: And where GRUB lies on a GPT that BIOS starts.
_STARTING_TYPES = _ESP_TYPES | {"21686148-6449-6e6f-744e-656564454649"}

#: How UEFI (3.5.1.1) names the loader that is started when no entry says otherwise, by the machine's architecture.
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "aa64", "i686": "ia32", "i386": "ia32", "riscv64": "riscv64"}

_SECONDS = 300
_LOADERS = ("shim{0}.efi", "grub{0}.efi", "systemd-boot{0}.efi", "bootmgfw.efi")


@dataclass(frozen=True, slots=True)
class BootPlan:
    """How the restored disk will be started.  ``entries`` are written unless the firmware has them, and put first.

    ``partitions`` are its EFI system partitions, ``loaders`` what its own machine started there; ``suffix`` tells
    loaders of its architecture; ``sentences`` say it all.  ``fallback``: a missing ``\\EFI\\BOOT`` loader is added.
    """

    target: Target
    partitions: tuple[TableEntry, ...] = ()
    loaders: tuple[str, ...] = ()
    suffix: str = "x64"
    fallback: bool = False
    entries: tuple[efi.BootEntry, ...] = ()
    sentences: tuple[str, ...] = ()


class BootResult(msgspec.Struct, frozen=True):
    """What became of it.  ``findings`` are what went wrong, with what to do; ``sentences`` say what starts the disk.

    ``fallback_loader`` is whether there is one (None: there is no EFI system partition with a loader, or none that can
    be looked into).
    """

    written: tuple[str, ...] = ()
    fallback_loader: bool | None = None
    copied: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def has_boot_parts(table: PartitionTable | None) -> bool:
    """Whether a machine may start from a disk with this table.

    Of a GPT, when it has an EFI system partition, a BIOS boot partition, or one that BIOS is told to start; of an MBR,
    when it has any partition: what starts it lies outside of them.
    """
    if table is None or not table.entries:
        return False
    return table.label == "msdos" or any(
        entry.type in _STARTING_TYPES or "LegacyBIOSBootable" in entry.flags for entry in table.entries
    )


def plan_boot(
    machine: Machine, record: ImageDisk, target: Target, *, write_entries: bool | None = None, fallback: bool = False
) -> BootPlan:
    """How ``record``, a disk of ``machine``, will be started once it is on the whole of ``target``.

    ``write_entries`` to this machine's firmware; None: in our live system only, for elsewhere this may be a machine
    that starts something else.
    """
    left_out = {part.number for part in record.partitions if part.method == "left-out"}
    partitions = tuple(
        entry
        for entry in (record.table.entries if record.table else ())
        if entry.type in _ESP_TYPES and entry.role != "extended" and entry.number not in left_out
    )
    suffix = _ARCHITECTURES.get(machine.architecture, "x64")
    is_disk = target.disk is not None and not target.disk.is_image_file
    fallback = fallback and bool(partitions)
    entries = _entries_of(machine, partitions)
    plan = BootPlan(
        target=target,
        partitions=partitions if is_disk or fallback else (),
        loaders=tuple(entry.loader for entry in entries),
        suffix=suffix,
        fallback=fallback,
    )
    if not partitions:
        if is_disk and efi.is_uefi() and machine.firmware == "bios":
            return _saying(plan, "Its machine was started by BIOS, this one was by UEFI: it may not start here.")
        return plan
    if not is_disk or write_entries is False:
        return plan
    if not efi.is_uefi():
        word = "This machine was not started by UEFI: no boot entry is written to its firmware."
        return _saying(plan, word) if entries else plan
    if not entries:
        return _saying(plan, "The image holds no boot entry for its EFI system partition.")
    if write_entries is None and live_system() is None:
        return _saying(plan, "Outside of the live system no boot entry is written (--boot-entry does it).")
    try:
        present = efi.read_boot_list().entries
    except (DeviceError, ProgramMissing) as error:
        return _saying(plan, f"No boot entry can be written: {error.message}.", entries=entries)
    words: list[str] = []
    for entry in entries:
        there = any(entry.starts_the_same(other) and other.active for other in present)
        done = "is there, and will be" if there else "will be written, and"
        place = "put behind it" if words else "put first in the firmware's order"
        words.append(f'The boot entry "{entry.label}" ({entry.loader}) {done} {place}.')
    return _saying(plan, *words, entries=entries)


def settle_boot(plan: BootPlan) -> BootResult:
    """Write what was planned, and see what starts the disk.  What fails is a finding: the restore is done by then."""
    written: list[str] = []
    findings: list[str] = []
    sentences: list[str] = []
    if plan.entries:
        try:
            now = efi.write_first(plan.target.path, plan.entries)
        except RecoveryError as error:
            findings.append(f"The boot entry was not written: {error.message}. {_by_hand(plan)}")
        else:
            first = [entry for entry in now.in_order() if entry.number in now.order[: len(plan.entries)]]
            kept = [entry for entry in plan.entries if any(entry.starts_the_same(other) for other in first)]
            written = [entry.label for entry in kept]
            if len(kept) < len(plan.entries):
                findings.append(f"The firmware did not keep its boot entry. {_by_hand(plan)}")
            sentences += [f'The firmware starts "{label}" of this disk first.' for label in written[:1]]
    there, copied = _settle_fallback(plan, findings)
    loader = f"\\EFI\\BOOT\\BOOT{plan.suffix.upper()}.EFI"
    if copied:
        sentences.append(f"Added to the EFI system partition: {', '.join(copied)}.")
    elif there and not written:
        sentences.append(f"Firmware that has no entry for it starts its {loader}.")
    elif there is False and not written:
        sentences.append(
            f"It has no {loader}: only firmware with an entry for it starts it. --fallback-loader adds that loader."
        )
    return BootResult(tuple(written), there, copied, tuple(sentences), tuple(findings))


def _saying(plan: BootPlan, *sentences: str, entries: tuple[efi.BootEntry, ...] = ()) -> BootPlan:
    return replace(plan, entries=entries, sentences=sentences)


def _entries_of(machine: Machine, partitions: tuple[TableEntry, ...]) -> tuple[efi.BootEntry, ...]:
    """What of the machine's list started a file on one of ``partitions``, in its order.

    The loader that needs no entry is one only where there is no other.
    """
    numbers = {partition.uuid.lower(): partition.number for partition in partitions if partition.uuid}
    found: list[efi.BootEntry] = []
    for entry in efi.parse_boot_list(machine.boot_entries).in_order():
        known = any(entry.starts_the_same(other) for other in found)
        if entry.active and entry.partition_uuid in numbers and not known:
            found.append(msgspec.structs.replace(entry, partition_number=numbers[entry.partition_uuid]))
    named = [entry for entry in found if not entry.loader.lower().startswith("\\efi\\boot\\boot")]
    return tuple(named or found)


def _by_hand(plan: BootPlan) -> str:
    entry = plan.entries[0]
    return (
        f"By hand: efibootmgr --create --disk {plan.target.path} --part {entry.partition_number} "
        f"--label '{entry.label}' --loader '{entry.loader}'"
    )


# -- the loader that every firmware looks for


def _settle_fallback(plan: BootPlan, findings: list[str]) -> tuple[bool | None, tuple[str, ...]]:
    """Whether the disk has that loader (None: not known, or it has no loader at all), and what was added to it."""
    there: bool | None = None
    for partition in plan.partitions:
        try:
            files = _files(plan.target.path, partition)
            if any(file.lower() == f"/efi/boot/boot{plan.suffix}.efi" for file in files):
                return True, ()
            if plan.fallback:
                return True, _add_fallback(plan, partition, files)
            there = False if any(file.lower().endswith(".efi") for file in files) else there
        except RecoveryError as error:
            if plan.fallback:
                findings.append(f"No loader was added to partition {partition.number}: {error.message}. {error.hint}")
    return there, ()


def _add_fallback(plan: BootPlan, partition: TableEntry, files: tuple[str, ...]) -> tuple[str, ...]:
    """What was added.  Raises Refused, DeviceError, ProgramMissing."""
    copies = _copies(plan, files)
    path = plan.target.path
    disk = disk_for(path)
    if plan.target.disk is not None and (disk.diskseq, disk.file_id) != (
        plan.target.disk.diskseq,
        plan.target.disk.file_id,
    ):
        raise Refused(f"{path} is no longer the disk that was restored", "Look at 'recovery disks'.")
    with released() as protection:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            protection.take_off(file, disk)
            if not any(name.lower().startswith("/efi/boot/") for name in files):
                _mtools(path, partition, "mmd", "-D", "s", "::/EFI/BOOT")
            for source, copy in copies:
                _mtools(path, partition, "mcopy", f"::{source}", f"::{copy}")
            os.fsync(file)
            if not disk.is_image_file:
                forget_partitions(file)
        finally:
            os.close(file)
        for source, copy in copies:
            one, other = (_mtools(path, partition, "mtype", f"::{name}") for name in (source, copy))
            if one != other or not one:
                raise DeviceError(f"{copy} does not read back as it was written", "See the kernel's log (dmesg).")
    return tuple(copy.replace("/", "\\") for _, copy in copies)


def _copies(plan: BootPlan, files: tuple[str, ...]) -> list[tuple[str, str]]:
    """Which file becomes which: the loader, and what a shim starts from its own folder.  Raises Refused."""
    by_name = {file.lower(): file for file in files}
    loaders = [loader.replace("\\", "/").lower() for loader in plan.loaders]
    names = [name.format(plan.suffix) for name in _LOADERS]
    loaders += [file for name in names for file in sorted(by_name) if file.endswith(f"/{name}")]
    chosen = next((file for file in loaders if file in by_name), None)
    if chosen is None:
        raise Refused("it holds no loader that is known here", "Copy the right one to \\EFI\\BOOT by hand (mtools).")
    copies = [(by_name[chosen], f"/EFI/BOOT/BOOT{plan.suffix.upper()}.EFI")]
    folder, _, name = chosen.rpartition("/")
    if name.startswith("shim"):
        for helper in (f"grub{plan.suffix}.efi", f"mm{plan.suffix}.efi"):
            if f"{folder}/{helper}" in by_name and f"/efi/boot/{helper}" not in by_name:
                copies.append((by_name[f"{folder}/{helper}"], f"/EFI/BOOT/{helper}"))
    return copies


def _files(target: Path, partition: TableEntry) -> tuple[str, ...]:
    """The paths below \\EFI, as ``/EFI/debian/shimx64.efi``.  Raises DeviceError, ProgramMissing."""
    listed = _mtools(target, partition, "mdir", "-b", "-/", "::/").decode(errors="backslashreplace")
    return tuple(line.removeprefix("::") for line in listed.splitlines() if re.match(r"::/efi/", line, re.IGNORECASE))


def _mtools(target: Path, partition: TableEntry, program: str, *arguments: str) -> bytes:
    ended = run(
        [program, "-i", f"{target}@@{partition.offset}", *arguments],
        needed_for="looking into the EFI system partition",
        timeout_seconds=_SECONDS,
        environment={"MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": os.devnull},
    )
    return ended.stdout
