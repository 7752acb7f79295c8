"""Partition tables.

The sectors of the table are copied into a sparse file in memory, damage to a GPT is mended there from its other
copy, and libparted, which opens for writing and may repair what it reads, is given that copy: the disk itself is
only ever read.  What libparted does not tell (GUIDs, attributes, MBR types) comes from ``table_sectors``, and the two
must agree on where the partitions lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from recovery.devices.libparted import LibpartedView, ask_libparted
from recovery.devices.probe import probe
from recovery.devices.table_sectors import (
    GptCopy,
    GptEntry,
    Mbr,
    SectorReader,
    find_backup_gpt,
    open_sectors,
    protective_mbr,
    read_gpt,
    read_mbr,
)
from recovery.extent import Extent, Extents
from recovery.units import MIB, format_bytes

Role = Literal["primary", "extended", "logical"]
Origin = Literal["primary", "backup"]

#: What libparted calls labels that it recognises by too little to be believed ("loop": a filesystem, no table).
_NO_TABLE = frozenset({"loop", "atari"})


class TableEntry(msgspec.Struct, frozen=True):
    """One partition as its table names it.

    ``offset`` and ``length`` in bytes; ``type`` is a lower-case GUID (GPT) or ``0x83`` (MBR); ``uuid`` is what Linux
    calls PARTUUID; ``flags`` are GPT attributes as sfdisk names them, or ``boot`` (MBR).
    """

    number: int
    offset: int
    length: int
    type: str
    name: str | None = None
    uuid: str | None = None
    flags: tuple[str, ...] = ()
    role: Role = "primary"

    @property
    def extent(self) -> Extent:
        """The bytes of the partition."""
        return Extent(self.offset, self.length)

    @property
    def end(self) -> int:
        """The first byte behind the partition."""
        return self.offset + self.length


class PartitionTable(msgspec.Struct, frozen=True):
    """A partition table.

    ``label`` is "gpt", "msdos" or libparted's name of another; ``uuid`` the disk GUID, or the MBR's disk id as
    ``0x1234abcd``; ``logical_sector_bytes`` the sector size that the table counts in; ``entries`` are in the order in
    which they lie on the disk, an extended partition before its logical ones.  ``origin`` says which copy of a GPT was
    used.  ``own_extents`` are the bytes that hold the table itself.  ``complete`` is False when a part of the table
    could not be read: then what no entry covers is not known to be unpartitioned.  ``findings`` are sentences for
    the user.
    """

    label: str
    uuid: str | None
    logical_sector_bytes: int
    entries: tuple[TableEntry, ...]
    origin: Origin = "primary"
    own_extents: tuple[Extent, ...] = ()
    complete: bool = True
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableReading:
    """What reading a table came to: the table, if there is one, and what is to be told even if there is none."""

    table: PartitionTable | None
    findings: tuple[str, ...] = ()


def read_table(path: Path, size_bytes: int, logical_sector_bytes: int) -> PartitionTable | None:
    """The partition table of a disk or image file; None when it has none that can be read.

    A filesystem straight on the disk is no table.  Raises DeviceError when the disk cannot be opened.
    """
    return examine_table(path, size_bytes, logical_sector_bytes).table


def examine_table(path: Path, size_bytes: int, logical_sector_bytes: int) -> TableReading:
    """As ``read_table``, and what is to be told when there is no table (one that is damaged beyond reading)."""
    with open_sectors(path, size_bytes) as reader:
        reading = _examine(reader, logical_sector_bytes)
    if not reader.unreadable_bytes:
        return reading
    note = f"{format_bytes(reader.unreadable_bytes)} of the sectors where a partition table lies could not be read."
    if reading.table is None:
        return TableReading(None, (*reading.findings, note))
    table = msgspec.structs.replace(reading.table, complete=False, findings=(*reading.table.findings, note))
    return TableReading(table)


def table_extents(table: PartitionTable, size_bytes: int) -> Extents:
    """The bytes of a disk of ``size_bytes`` that hold the table itself: headers and entries, or boot records."""
    return Extents(table.own_extents).clip(Extent(0, size_bytes))


def last_used_byte(table: PartitionTable) -> tuple[TableEntry, int] | None:
    """The partition that ends last, and the first byte behind it; None for an empty table."""
    if not table.entries:
        return None
    last = max(table.entries, key=lambda entry: (entry.end, entry.role != "extended"))
    return last, last.end


def guess_sector_bytes(path: Path, size_bytes: int) -> int:
    """The sector size that the table in an image file counts in, 512 when nothing tells.

    Raises DeviceError when the file cannot be opened.
    """
    with open_sectors(path, size_bytes) as reader:
        for sector_bytes in (512, 4096):
            if isinstance(read_gpt(reader, 1, sector_bytes), GptCopy):
                return sector_bytes
        backup = find_backup_gpt(reader, (512, 4096))
        if backup is not None:
            return backup.sector_bytes
        mbr = read_mbr(reader, 512)
    if mbr is None or mbr.protective:
        return 512
    if any(entry.extended for entry in mbr.primaries):
        return _sector_bytes_of_chain(path, size_bytes)
    for sector_bytes in (512, 4096):
        for entry in mbr.primaries:
            extent = Extent(entry.start_lba * sector_bytes, entry.sectors * sector_bytes)
            if entry.start_lba and extent.end <= size_bytes and probe(path, extent, sector_bytes) is not None:
                return sector_bytes
    return 512


def _sector_bytes_of_chain(path: Path, size_bytes: int) -> int:
    with open_sectors(path, size_bytes) as reader:
        for sector_bytes in (512, 4096):
            mbr = read_mbr(reader, sector_bytes)
            if mbr is not None and mbr.boot_records:
                return sector_bytes
    return 512


def _examine(reader: SectorReader, sector_bytes: int) -> TableReading:
    mbr = read_mbr(reader, sector_bytes)
    choice = _choose_gpt(reader, sector_bytes)
    protective = mbr is not None and mbr.protective
    if choice is None:
        if protective:
            return TableReading(None, ("The disk says that it has a GPT, but neither copy of it can be read.",))
        return _examine_other(reader, sector_bytes, mbr)
    if not protective:
        if mbr is not None and mbr.primaries and not _boot_sector(reader):
            reading = _examine_other(reader, sector_bytes, mbr)
            if reading.table is not None:
                note = "A GPT lies on the disk too, left from an earlier use: the MBR does not refer to it."
                return TableReading(_add_findings(reading.table, note))
        if _holds_contents(reader, sector_bytes):
            return TableReading(None, ("A GPT from an earlier use of the disk lies beside what is on it now.",))
        choice.findings.append("The protective MBR in the first sector is gone.")
    elif mbr is not None and len(mbr.primaries) > 1:
        choice.findings.append("The protective MBR lists partitions of its own (a hybrid MBR).")
    return TableReading(_gpt_table(reader, choice))


@dataclass(slots=True)
class _GptChoice:
    """The copy of a GPT to be used, and what was found out about both."""

    copy: GptCopy
    origin: Origin
    other_extents: list[Extent]
    findings: list[str] = field(default_factory=list)


def _choose_gpt(reader: SectorReader, sector_bytes: int) -> _GptChoice | None:
    sizes = (sector_bytes, *(size for size in (512, 4096) if size != sector_bytes))
    choice = None
    for size in sizes:
        primary = read_gpt(reader, 1, size)
        if isinstance(primary, GptCopy):
            choice = _with_primary(reader, primary)
            break
    else:
        backup = find_backup_gpt(reader, sizes)
        if backup is not None:
            choice = _with_backup(reader, backup)
    if choice is not None and choice.copy.sector_bytes != sector_bytes:
        choice.findings.append(
            f"The GPT was written for sectors of {choice.copy.sector_bytes} bytes, but the disk now shows sectors of "
            f"{sector_bytes} bytes (USB enclosures do this)."
        )
    return choice


def _with_primary(reader: SectorReader, primary: GptCopy) -> _GptChoice:
    choice = _GptChoice(primary, "primary", [])
    last_lba = reader.size_bytes // primary.sector_bytes - 1
    backup = read_gpt(reader, primary.other_lba, primary.sector_bytes)
    if isinstance(backup, GptCopy):
        choice.other_extents = [backup.header_extent, backup.entries_extent]
        if (backup.entries, backup.disk_guid) != (primary.entries, primary.disk_guid):
            choice.findings.append("The two copies of the GPT differ; the primary was used.")
        if primary.other_lba < last_lba:
            choice.findings.append(
                "The backup GPT is not at the end of the disk: the disk is larger than its table says."
            )
        return choice
    if primary.other_lba > last_lba:
        missing = (primary.other_lba - last_lba) * primary.sector_bytes
        choice.findings.append(
            f"The backup GPT is missing: the disk ends {format_bytes(missing)} before the place where its table ends."
        )
    else:
        choice.findings.append(f"The backup GPT is damaged ({backup}); the primary was used.")
        place = primary.other_lba * primary.sector_bytes
        taken = primary.entries_extent.length
        choice.other_extents = [Extent(max(0, place - taken), taken + primary.sector_bytes)]
    return choice


def _with_backup(reader: SectorReader, backup: GptCopy) -> _GptChoice:
    sector_bytes = backup.sector_bytes
    reason = read_gpt(reader, 1, sector_bytes)
    place = (
        "at the end of the disk"
        if backup.header_extent.end + sector_bytes > reader.size_bytes
        else "near the disk's end"
    )
    finding = f"The primary GPT is damaged ({reason}); the backup {place} was used."
    primary = Extent(sector_bytes, sector_bytes + backup.entries_extent.length)
    return _GptChoice(backup, "backup", [primary], [finding])


def _gpt_table(reader: SectorReader, choice: _GptChoice) -> PartitionTable:
    copy = choice.copy
    raw = copy.partitions()
    sound = [entry for entry in raw if 0 < entry.first_lba <= entry.last_lba < 1 << 50]
    findings = choice.findings
    findings += [
        f"Partition {entry.number} has no sensible place (sectors {entry.first_lba} to {entry.last_lba}); left out."
        for entry in raw
        if entry not in sound
    ]
    entries = _in_disk_order([_gpt_entry(entry, copy.sector_bytes) for entry in sound])
    total_sectors = max(reader.size_bytes // copy.sector_bytes, copy.lba + 1, copy.other_lba + 1)
    overlays = [
        (0, protective_mbr(total_sectors, copy.sector_bytes)),
        (copy.sector_bytes, copy.moved(1, total_sectors - 1, 2)),
        (2 * copy.sector_bytes, copy.entries),
        ((total_sectors - 1 - copy.entries_sectors) * copy.sector_bytes, copy.entries),
        (
            (total_sectors - 1) * copy.sector_bytes,
            copy.moved(total_sectors - 1, 1, total_sectors - 1 - copy.entries_sectors),
        ),
    ]
    parted = ask_libparted(total_sectors * copy.sector_bytes, overlays, copy.sector_bytes)
    agreed = _compare(entries, parted, "gpt", findings)
    findings += _place_findings(entries, reader.size_bytes)
    return PartitionTable(
        label="gpt",
        uuid=copy.disk_guid,
        logical_sector_bytes=copy.sector_bytes,
        entries=entries,
        origin=choice.origin,
        own_extents=tuple(
            Extents([Extent(0, copy.sector_bytes), copy.header_extent, copy.entries_extent, *choice.other_extents])
        ),
        complete=agreed and len(sound) == len(raw),
        findings=tuple(findings),
    )


def _gpt_entry(entry: GptEntry, sector_bytes: int) -> TableEntry:
    names = {0: "RequiredPartition", 1: "NoBlockIOProtocol", 2: "LegacyBIOSBootable"}
    return TableEntry(
        number=entry.number,
        offset=entry.first_lba * sector_bytes,
        length=(entry.last_lba - entry.first_lba + 1) * sector_bytes,
        type=entry.type_guid,
        name=entry.name or None,
        uuid=entry.guid,
        flags=tuple(names.get(bit, f"GUID:{bit}") for bit in range(64) if entry.attributes >> bit & 1),
    )


def _examine_other(reader: SectorReader, sector_bytes: int, mbr: Mbr | None) -> TableReading:
    """Read what is no GPT: an MBR, one of libparted's rarer labels, or nothing."""
    overlays = [(0, reader.read(0, MIB))]
    if mbr is not None:
        overlays += [(lba * sector_bytes, reader.read(lba * sector_bytes, sector_bytes)) for lba in mbr.boot_records]
    parted = ask_libparted(_needed_bytes(reader, mbr, sector_bytes), overlays, sector_bytes)
    if parted.label in _NO_TABLE:
        return TableReading(None)
    content = probe(reader.path, Extent(0, reader.size_bytes), sector_bytes)
    seen = content.table if content is not None else None
    if parted.label not in (None, "msdos"):
        if content is not None and content.kind != "table" and seen is None:
            return TableReading(None)
        return TableReading(_foreign_table(parted, reader, sector_bytes))
    if mbr is None or (parted.label is None and seen != "dos") or (content is not None and seen is None):
        return TableReading(None)
    if content is not None and content.kind != "table" and (not mbr.primaries or _boot_sector(reader)):
        return TableReading(None)
    return TableReading(_msdos_table(reader, sector_bytes, mbr, parted))


def _msdos_table(reader: SectorReader, sector_bytes: int, mbr: Mbr, parted: LibpartedView) -> PartitionTable:
    entries = []
    for entry in (*mbr.primaries, *mbr.logicals):
        entries.append(
            TableEntry(
                number=entry.number,
                offset=entry.start_lba * sector_bytes,
                length=entry.sectors * sector_bytes,
                type=f"0x{entry.type:02x}",
                uuid=f"{mbr.disk_id:08x}-{entry.number:02x}" if mbr.disk_id else None,
                flags=("boot",) if entry.flag & 0x80 else (),
                role="logical" if entry.number > 4 else "extended" if entry.extended else "primary",
            )
        )
    ordered = _in_disk_order(entries)
    findings = [f"{mbr.broken[0].upper()}{mbr.broken[1:]}; partitions behind it are not known."] if mbr.broken else []
    agreed = _compare(ordered, parted, "msdos", findings)
    findings += _place_findings(ordered, reader.size_bytes)
    records = [Extent(lba * sector_bytes, sector_bytes) for lba in (0, *mbr.boot_records)]
    return PartitionTable(
        label="msdos",
        uuid=f"0x{mbr.disk_id:08x}",
        logical_sector_bytes=sector_bytes,
        entries=ordered,
        own_extents=tuple(Extents(records)),
        complete=agreed and mbr.broken is None,
        findings=tuple(findings),
    )


def _foreign_table(parted: LibpartedView, reader: SectorReader, sector_bytes: int) -> PartitionTable:
    entries = _in_disk_order(
        [
            TableEntry(entry.number, entry.offset, entry.length, "unknown", entry.name or None)
            for entry in parted.entries
            if entry.offset or entry.length < reader.size_bytes
        ]
    )
    return PartitionTable(
        label=parted.label or "unknown",
        uuid=None,
        logical_sector_bytes=sector_bytes,
        entries=entries,
        own_extents=(Extent(0, min(MIB, reader.size_bytes)),),
        complete=False,
        findings=tuple(_place_findings(entries, reader.size_bytes)),
    )


def _in_disk_order(entries: list[TableEntry]) -> tuple[TableEntry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.offset, entry.role == "logical", entry.number)))


def _add_findings(table: PartitionTable, *findings: str) -> PartitionTable:
    return msgspec.structs.replace(table, findings=(*table.findings, *findings))


def _place_findings(entries: tuple[TableEntry, ...], size_bytes: int) -> list[str]:
    """What is wrong with where the partitions lie."""
    findings = [
        f"Partition {entry.number} ends {format_bytes(entry.end - size_bytes)} beyond the end of the disk."
        for entry in entries
        if entry.end > size_bytes
    ]
    widest: TableEntry | None = None
    for entry in entries:
        if entry.role == "extended":
            continue
        if widest is not None and entry.offset < widest.end:
            findings.append(f"Partitions {widest.number} and {entry.number} overlap.")
        if widest is None or entry.end > widest.end:
            widest = entry
    extended = [entry for entry in entries if entry.role == "extended"]
    for entry in entries:
        inside = [e for e in extended if e.offset <= entry.offset and entry.end <= e.end]
        if entry.role == "logical" and not inside:
            findings.append(f"Logical partition {entry.number} does not lie inside an extended partition.")
    return findings


def _compare(entries: tuple[TableEntry, ...], parted: LibpartedView, label: str, findings: list[str]) -> bool:
    """Whether libparted reads the same partitions; says so if not."""
    if parted.label != label:
        findings.append(f"libparted does not accept this table ({parted.refusal or 'it sees none'}).")
        return False
    ours = {(entry.offset, entry.length) for entry in entries}
    theirs = {(entry.offset, entry.length) for entry in parted.entries}
    if label == "msdos":  # libparted cuts off what reaches beyond an extended partition, and joins nothing else
        ours = {(entry.offset, entry.length) for entry in entries if entry.role != "extended"}
        theirs = {(e.offset, e.length) for e in parted.entries if not e.extended}
    if ours == theirs:
        return True
    findings.append("libparted reads other partitions from this table.")
    return False


def _boot_sector(reader: SectorReader) -> bool:
    """Whether the first sector begins like that of a FAT, exFAT or NTFS filesystem (GRUB's begins with a jump too)."""
    start = reader.read(0, 32)
    if start[:1] not in (b"\xeb", b"\xe9") or len(start) < 32:
        return False
    if start[3:11] in (b"NTFS    ", b"EXFAT   "):
        return True
    sector_bytes, cluster_sectors = int.from_bytes(start[11:13], "little"), start[13]
    return (
        sector_bytes in (512, 1024, 2048, 4096)
        and cluster_sectors.bit_count() == 1
        and start[14:16] != b"\0\0"
        and start[16] in (1, 2)
    )


def _holds_contents(reader: SectorReader, sector_bytes: int) -> bool:
    """Whether something other than a table lies straight on the disk."""
    content = probe(reader.path, Extent(0, reader.size_bytes), sector_bytes)
    return content is not None and content.kind != "table"


def _needed_bytes(reader: SectorReader, mbr: Mbr | None, sector_bytes: int) -> int:
    """The size at which every partition of an MBR lies on the disk, should the image have been cut short."""
    ends = [entry.start_lba + entry.sectors for entry in (*mbr.primaries, *mbr.logicals)] if mbr is not None else []
    return max([reader.size_bytes, *(end * sector_bytes for end in ends)])
