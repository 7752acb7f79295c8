"""Where the sectors of a partition table lie on a disk, and the records in them.

libparted tells geometry, but neither partition GUIDs, GPT attributes, MBR type bytes nor the sectors of logical
partitions, and it repairs what it reads.  So the few sectors of the table are read here, without writing;
``table.py`` hands libparted a copy of them in memory.  Layouts: UEFI specification, chapter 5 (GPT, protective
MBR); for extended partitions the chain of boot records as Linux and libparted walk it.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from recovery.errors import DeviceError
from recovery.extent import Extent
from recovery.units import MIB, align_up

GPT_SIGNATURE = b"EFI PART"
SECTOR_SIZES = (512, 4096)
PROTECTIVE_TYPE = 0xEE
EXTENDED_TYPES = frozenset({0x05, 0x0F, 0x85})

# signature, revision, header size, header CRC, reserved, own LBA, other LBA, first and last usable LBA, disk GUID,
# entries LBA, number of entries, size of one, CRC of all
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
# type GUID, own GUID, first and last LBA, attributes, name in UTF-16
_ENTRY = struct.Struct("<16s16sQQQ72s")
# boot flag, CHS start, type, CHS end, start and length in sectors
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MAX_ENTRIES_BYTES = 4 * MIB
_MAX_LOGICAL = 1024


class SectorReader:
    """Read-only access to a disk or image file; sectors that cannot be read come as zeros and are counted."""

    def __init__(self, path: Path, descriptor: int, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.unreadable_bytes = 0
        self._descriptor = descriptor

    def read(self, offset: int, length: int) -> bytes:
        """The bytes ``[offset, offset + length)``, shorter at the end of the disk, empty behind it."""
        length = max(0, min(length, self.size_bytes - offset)) if offset >= 0 else 0
        parts: list[bytes] = []
        while length > 0:
            try:
                part = os.pread(self._descriptor, length, offset)
            except OSError:
                part = self._read_around(offset, min(length, MIB))
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def _read_around(self, offset: int, length: int) -> bytes:
        out = bytearray()
        while len(out) < length:
            step = min(512, length - len(out))
            try:
                part = os.pread(self._descriptor, step, offset + len(out))
            except OSError:
                part = bytes(step)
                self.unreadable_bytes += step
            if not part:
                break
            out += part
        return bytes(out)


@contextmanager
def open_sectors(path: Path, size_bytes: int) -> Iterator[SectorReader]:
    """Open ``path`` for reading only.  Raises DeviceError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"{path} cannot be opened: {error.strerror}", "Reading disks needs root.") from error
    try:
        yield SectorReader(path, descriptor, size_bytes)
    finally:
        os.close(descriptor)


class _Header(NamedTuple):
    signature: bytes
    revision: int
    size: int
    checksum: int
    reserved: int
    lba: int
    other_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: bytes
    entries_lba: int
    entry_count: int
    entry_bytes: int
    entries_checksum: int


@dataclass(frozen=True, slots=True)
class GptEntry:
    """One partition of a GPT; LBAs are inclusive, as on disk."""

    number: int
    type_guid: str
    guid: str
    first_lba: int
    last_lba: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True)
class GptCopy:
    """One of the two copies of a GPT, checked: header and entries match their checksums."""

    sector_bytes: int
    header: bytes
    entries: bytes
    lba: int
    other_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: str
    entries_lba: int
    entry_bytes: int

    @property
    def entries_sectors(self) -> int:
        """Sectors that the entries take."""
        return align_up(len(self.entries), self.sector_bytes) // self.sector_bytes

    @property
    def header_extent(self) -> Extent:
        """Where the header lies."""
        return Extent(self.lba * self.sector_bytes, self.sector_bytes)

    @property
    def entries_extent(self) -> Extent:
        """Where the entries lie."""
        return Extent(self.entries_lba * self.sector_bytes, self.entries_sectors * self.sector_bytes)

    def partitions(self) -> list[GptEntry]:
        """The entries in use, in the table's order."""
        found = []
        for index in range(len(self.entries) // self.entry_bytes):
            raw = self.entries[index * self.entry_bytes :][: _ENTRY.size]
            kind, own, first, last, attributes, name = _ENTRY.unpack(raw)
            if kind != bytes(16):
                found.append(GptEntry(index + 1, _guid(kind), _guid(own), first, last, attributes, _utf16(name)))
        return found

    def moved(self, lba: int, other_lba: int, entries_lba: int, last_usable_lba: int | None = None) -> bytes:
        """This header as it must read at another place: one sector, checksummed."""
        fields = _Header(*_HEADER.unpack_from(self.header))
        fields = fields._replace(checksum=0, lba=lba, other_lba=other_lba, entries_lba=entries_lba)
        if last_usable_lba is not None:
            fields = fields._replace(last_usable_lba=last_usable_lba)
        header = bytearray(self.header[: fields.size])
        _HEADER.pack_into(header, 0, *fields)
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        return bytes(header).ljust(self.sector_bytes, b"\0")


def _checked_header(sector: bytes, lba: int) -> _Header | str:
    if sector[:8] != GPT_SIGNATURE:
        return "its signature is gone"
    header = _Header(*_HEADER.unpack_from(sector))
    if not _HEADER.size <= header.size <= len(sector):
        return "its header is garbled"
    if zlib.crc32(sector[:16] + bytes(4) + sector[20 : header.size]) != header.checksum:
        return "its checksum is wrong"
    sound = header.lba == lba and header.entry_bytes >= 128 and header.entry_bytes % 8 == 0
    if not sound or not 0 < header.entry_count * header.entry_bytes <= _MAX_ENTRIES_BYTES:
        return "its header is garbled"
    return header


def gpt_entries_lba(reader: SectorReader, sector_bytes: int) -> int | None:
    """Where the primary header, if it is sound, says that its entries are; they may be damaged."""
    header = _checked_header(reader.read(sector_bytes, sector_bytes).ljust(sector_bytes, b"\0"), 1)
    return None if isinstance(header, str) else header.entries_lba


def read_gpt(reader: SectorReader, lba: int, sector_bytes: int) -> GptCopy | str:
    """The copy of a GPT whose header is at ``lba``, or what is wrong with it, completing "is damaged (...)"."""
    sector = reader.read(lba * sector_bytes, sector_bytes)
    if len(sector) < sector_bytes or lba < 1:
        return "it lies beyond the end of the disk"
    header = _checked_header(sector, lba)
    if isinstance(header, str):
        return header
    length = header.entry_count * header.entry_bytes
    entries = reader.read(header.entries_lba * sector_bytes, length)
    if len(entries) < length or zlib.crc32(entries) != header.entries_checksum:
        return "the checksum of its entries is wrong"
    return GptCopy(
        sector_bytes=sector_bytes,
        header=sector,
        entries=entries,
        lba=header.lba,
        other_lba=header.other_lba,
        first_usable_lba=header.first_usable_lba,
        last_usable_lba=header.last_usable_lba,
        disk_guid=_guid(header.disk_guid),
        entries_lba=header.entries_lba,
        entry_bytes=header.entry_bytes,
    )


def find_backup_gpt(reader: SectorReader, sector_sizes: tuple[int, ...]) -> GptCopy | None:
    """A sound backup GPT in the last MiB of the disk, at its very end or, if something was appended, before it."""
    start = max(0, reader.size_bytes - MIB) // 4096 * 4096
    tail = reader.read(start, reader.size_bytes - start)
    position = tail.rfind(GPT_SIGNATURE)
    while position >= 0:
        for sector_bytes in sector_sizes:
            lba, rest = divmod(start + position, sector_bytes)
            if rest == 0 and lba > 1:
                copy = read_gpt(reader, lba, sector_bytes)
                if isinstance(copy, GptCopy):
                    return copy
        position = tail.rfind(GPT_SIGNATURE, 0, position)
    return None


def protective_mbr(total_sectors: int, sector_bytes: int, boot_code: bytes = b"") -> bytes:
    """The sector that marks a disk of ``total_sectors`` as GPT to programs that know MBR only."""
    count = min(total_sectors - 1, 0xFFFFFFFF)
    entry = _MBR_ENTRY.pack(0, b"\x00\x02\x00", PROTECTIVE_TYPE, b"\xff\xff\xff", 1, count)
    sector = boot_code[:446].ljust(446, b"\0") + entry + bytes(48) + b"\x55\xaa"
    return sector.ljust(sector_bytes, b"\0")


def resized_protective_mbr(sector: bytes, total_sectors: int) -> bytes | None:
    """A protective MBR as it reads on a disk of another size, its boot code kept; None when it is none.

    A hybrid MBR, whose protective entry does not span the disk, stays as it is.
    """
    records = [entry for entry in _records(sector, 0, 0) if entry.type]
    if sector[510:512] != b"\x55\xaa" or not any(entry.type == PROTECTIVE_TYPE for entry in records):
        return None
    if len(records) > 1:
        return sector
    changed = bytearray(sector)
    place = 446 + (records[0].number - 1) * _MBR_ENTRY.size + 12
    changed[place : place + 4] = min(total_sectors - 1, 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class MbrEntry:
    """One record of an MBR or of a boot record in an extended partition; LBAs are counted from the disk's start."""

    number: int
    type: int
    flag: int
    start_lba: int
    sectors: int

    @property
    def extended(self) -> bool:
        """Whether it holds logical partitions."""
        return self.type in EXTENDED_TYPES


@dataclass(frozen=True, slots=True)
class Mbr:
    """An MBR with its logical partitions; ``broken`` says where the chain of them stops being readable."""

    disk_id: int
    primaries: tuple[MbrEntry, ...]
    logicals: tuple[MbrEntry, ...]
    boot_records: tuple[int, ...]
    broken: str | None

    @property
    def protective(self) -> bool:
        """Whether it says that a GPT follows."""
        return any(entry.type == PROTECTIVE_TYPE for entry in self.primaries)


def read_mbr(reader: SectorReader, sector_bytes: int) -> Mbr | None:
    """The records of an MBR, whether or not they make sense; None without the mark at its end."""
    sector = reader.read(0, 512)
    if sector[510:512] != b"\x55\xaa":
        return None
    primaries = tuple(entry for entry in _records(sector, 0, 0) if entry.type and entry.sectors)
    logicals: list[MbrEntry] = []
    boot_records: list[int] = []
    broken = None
    for extended in primaries:
        if extended.extended:
            broken = _walk(reader, sector_bytes, extended, logicals, boot_records) or broken
    disk_id = int.from_bytes(sector[440:444], "little")
    return Mbr(disk_id, primaries, tuple(logicals), tuple(boot_records), broken)


def _walk(
    reader: SectorReader, sector_bytes: int, extended: MbrEntry, logicals: list[MbrEntry], boot_records: list[int]
) -> str | None:
    """Collect the chain of boot records inside ``extended``; says what ended it before its time."""
    lba = extended.start_lba
    while len(boot_records) < _MAX_LOGICAL:
        sector = reader.read(lba * sector_bytes, 512)
        if len(sector) < 512:
            return f"the boot record of logical partitions at sector {lba} lies beyond the end of the disk"
        if sector[510:512] != b"\x55\xaa":
            return f"the boot record of logical partitions at sector {lba} is damaged"
        boot_records.append(lba)
        following = None
        for record in _records(sector, lba, extended.start_lba):
            if not record.type or not record.sectors:
                continue
            if record.extended:
                following = following or record.start_lba
            else:
                number = 5 + len(logicals)
                logicals.append(MbrEntry(number, record.type, record.flag, record.start_lba, record.sectors))
        if following is None:
            return None
        if following in boot_records:
            return "the chain of logical partitions runs in a circle"
        lba = following
    return "the chain of logical partitions does not end"


def _records(sector: bytes, base_lba: int, extended_base_lba: int) -> Iterator[MbrEntry]:
    for index in range(4):
        flag, _, kind, _, start, count = _MBR_ENTRY.unpack_from(sector, 446 + index * _MBR_ENTRY.size)
        base = extended_base_lba if kind in EXTENDED_TYPES else base_lba
        yield MbrEntry(index + 1, kind, flag, base + start, count)


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw))


def _utf16(raw: bytes) -> str:
    text = raw.decode("utf-16-le", errors="surrogatepass").split("\0", 1)[0]
    return text.encode("utf-8", errors="backslashreplace").decode()
