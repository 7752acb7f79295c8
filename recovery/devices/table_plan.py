"""The partition table that a target gets when a disk is restored onto it.

A GPT has its second copy at the very end of the disk; on a larger target that copy moves, and the places in both
headers and in the protective MBR with it.  A GPT of which one copy was damaged is written whole again from the other.
Everything else (MBR, no table) stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recovery.devices.libparted import ask_libparted, scratch_disk
from recovery.devices.table import PartitionTable, examine_table, last_used_byte
from recovery.devices.table_sectors import (
    GptCopy,
    SectorReader,
    find_backup_gpt,
    gpt_entries_lba,
    open_sectors,
    protective_mbr,
    read_gpt,
    resized_protective_mbr,
)
from recovery.errors import Refused
from recovery.units import format_bytes


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What to write for the table: ``writes`` are (offset, bytes), in order, the head of the disk first."""

    writes: tuple[tuple[int, bytes], ...]
    findings: tuple[str, ...] = ()


def refuse_too_small(table: PartitionTable | None, source_bytes: int, target_bytes: int) -> None:
    """Raise Refused, with the figures, when a disk of ``source_bytes`` does not fit onto ``target_bytes``."""
    if target_bytes >= source_bytes:
        return
    message = (
        f"The target holds {target_bytes} bytes ({format_bytes(target_bytes)}), "
        f"{format_bytes(source_bytes - target_bytes)} less than the disk of {source_bytes} bytes "
        f"({format_bytes(source_bytes)}) that is to be put on it"
    )
    last = last_used_byte(table) if table is not None else None
    if last is not None:
        entry, end = last
        message += f"; the last partition, number {entry.number}, ends at byte {end} ({format_bytes(end)})"
    raise Refused(message + ".", "Choose a target of at least that size, or restore single partitions.")


def plan_table_for_target(
    head: bytes, tail: bytes, source_bytes: int, target_bytes: int, logical_sector_bytes: int
) -> TablePlan:
    """The table for a target of ``target_bytes``, from the first and the last MiB of a disk of ``source_bytes``.

    With equal sizes and a sound table every byte stays.  Raises Refused when the target is smaller.
    """
    refuse_too_small(None, source_bytes, target_bytes)
    overlays = [(max(0, source_bytes - len(tail)), tail), (0, head)]
    with scratch_disk(source_bytes, overlays) as scratch, open_sectors(scratch, source_bytes) as reader:
        reading = examine_table(scratch, source_bytes, logical_sector_bytes)
        if reading.table is None or reading.table.label != "gpt":
            return TablePlan(((0, head),), reading.findings)
        sector_bytes = reading.table.logical_sector_bytes
        primary = read_gpt(reader, 1, sector_bytes)
        if isinstance(primary, GptCopy):
            backup = read_gpt(reader, primary.other_lba, sector_bytes)
            return _plan_gpt(reader, head, primary, _Source(primary, backup), target_bytes)
        found = find_backup_gpt(reader, (sector_bytes,))
        if found is None:
            raise AssertionError("a GPT was read, but neither of its copies is sound")
        return _plan_gpt(reader, head, found, _Source(primary, found), target_bytes)


@dataclass(frozen=True, slots=True)
class _Source:
    """What the source's GPT was like: each copy, or what is wrong with it."""

    primary: GptCopy | str
    backup: GptCopy | str


def _plan_gpt(reader: SectorReader, head: bytes, copy: GptCopy, source: _Source, target_bytes: int) -> TablePlan:
    sector_bytes = copy.sector_bytes
    old_sectors, new_sectors = reader.size_bytes // sector_bytes, target_bytes // sector_bytes
    first = resized_protective_mbr(head[:sector_bytes], new_sectors)
    sound = isinstance(source.primary, GptCopy) and isinstance(source.backup, GptCopy) and first is not None
    if sound and new_sectors == old_sectors:
        return TablePlan(((0, head), *_as_it_was(reader, source.backup)))
    entries_lba, findings = _place_of_entries(reader, copy, source, len(head))
    backup_lba = new_sectors - 1
    backup_entries_lba = backup_lba - copy.entries_sectors
    for entry in copy.partitions():
        behind_table = entry.first_lba >= entries_lba + copy.entries_sectors or entry.last_lba < entries_lba
        if entry.last_lba >= backup_entries_lba or not behind_table:
            finding = f"Partition {entry.number} reaches into the place of the GPT; the table is written as it was."
            return TablePlan(((0, head),), (finding,))
    if first is None:
        first = protective_mbr(new_sectors, sector_bytes, head[:446])
        findings.append("The protective MBR was gone; it is written anew.")
    last_usable = backup_entries_lba - 1
    primary_header = copy.moved(1, backup_lba, entries_lba, last_usable)
    backup_header = copy.moved(backup_lba, 1, backup_entries_lba, last_usable)
    entries = copy.entries.ljust(copy.entries_sectors * sector_bytes, b"\0")
    new_head = first + primary_header + head[2 * sector_bytes :]
    place = entries_lba * sector_bytes
    if place + len(entries) <= len(head):
        writes = [(0, new_head[:place] + entries + new_head[place + len(entries) :])]
    else:
        writes = [(0, new_head), (place, entries)]
    writes.append((backup_entries_lba * sector_bytes, entries + backup_header))
    findings += _doubts(writes, copy, target_bytes)
    return TablePlan(tuple(writes), tuple(findings))


def _place_of_entries(reader: SectorReader, copy: GptCopy, source: _Source, head_bytes: int) -> tuple[int, list[str]]:
    """Where the primary's entries go, and what is to be told of damage."""
    if isinstance(source.primary, GptCopy):
        if isinstance(source.backup, GptCopy):
            return copy.entries_lba, []
        finding = "The backup GPT was damaged or not at the end of the disk; it is written anew from the primary."
        return copy.entries_lba, [finding]
    stated = gpt_entries_lba(reader, copy.sector_bytes)
    if stated is not None and stated * copy.sector_bytes >= head_bytes:
        return stated, []  # whole, but farther from the start than what is known of the source here
    finding = f"The primary GPT was damaged ({source.primary}); it is written anew from the backup."
    return (2 if stated is None else stated), [finding]


def _as_it_was(reader: SectorReader, backup: GptCopy | str) -> list[tuple[int, bytes]]:
    if isinstance(backup, str):
        return []
    return [
        (extent.offset, reader.read(extent.offset, extent.length))
        for extent in (backup.entries_extent, backup.header_extent)
    ]


def _doubts(writes: Sequence[tuple[int, bytes]], copy: GptCopy, target_bytes: int) -> list[str]:
    """What libparted has against the planned table, if it does not read the partitions in it that are meant."""
    seen = ask_libparted(target_bytes, list(writes), copy.sector_bytes)
    size = copy.sector_bytes
    meant = {(e.first_lba * size, (e.last_lba - e.first_lba + 1) * size) for e in copy.partitions()}
    if seen.label == "gpt" and {(entry.offset, entry.length) for entry in seen.entries} == meant:
        return []
    return [f"libparted does not accept the planned table ({seen.refusal or 'it reads other partitions'})."]
