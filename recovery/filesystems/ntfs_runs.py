"""What the file table of an NTFS volume refers to: the clusters of every attribute of every file in use.

A volume that is marked dirty may have a bitmap older than its file table; chkdsk makes the bitmap anew from what is
gathered here.  Source: the Linux-NTFS project's documentation ("FILE Record", "Attribute", "Data Runs").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource
from recovery.units import MIB

_DATA, _END = 0x80, 0xFFFFFFFF
_IN_USE = 0x1
_REFERENCE = (1 << 48) - 1
_SECTOR = 512

Run = tuple[int, int]


def referenced(source: FilesystemSource, table: int, record_bytes: int, cluster_bytes: int) -> Extents:
    """Everything that the file table at byte ``table`` refers to, in bytes; the table itself too.

    Raises CaptureWhole for a record that is damaged: what it would have named is not known.
    """
    found: list[Run] = []
    done = Extents()
    own = _table_runs(_record(source.read(table, record_bytes)), is_first=True)
    while pending := Extents(_bytes(own, cluster_bytes)).subtract(done):
        for extent in pending:
            for at in range(extent.offset, extent.end, MIB):
                piece = source.read(at, min(MIB, extent.end - at))
                for start in range(0, len(piece) - record_bytes + 1, record_bytes):
                    record = _record(piece[start : start + record_bytes])
                    found += _runs(record)
                    own += _table_runs(record)
        done = done.union(pending)
    return Extents(sorted(_bytes(found, cluster_bytes)))


def data_runs(record: bytes) -> list[Run]:
    """First cluster and number of clusters of each run of the file that a record describes, as far as it does.

    Raises CaptureWhole for a damaged record.
    """
    return _data(_record(record))


def mended(record: bytes) -> bytearray:
    """A record with the last two bytes of each of its sectors put back; they tell torn writes.

    Raises CaptureWhole when it was torn.
    """
    (fixups, fixup_count) = struct.unpack_from("<HH", record, 4)
    out = bytearray(record)
    for number in range(1, fixup_count):
        place = number * _SECTOR - 2
        if record[place : place + 2] != record[fixups : fixups + 2]:
            raise CaptureWhole("NTFS with a record that was half written")
        out[place : place + 2] = record[fixups + 2 * number : fixups + 2 * number + 2]
    return out


def _record(raw: bytes) -> bytes:
    """A record in use, mended; nothing for one that is free."""
    if raw[:4] != b"FILE":
        if raw[:4] == b"BAAD":
            raise CaptureWhole("NTFS with a damaged record in its file table")
        return b""
    if not struct.unpack_from("<H", raw, 22)[0] & _IN_USE:
        return b""
    return bytes(mended(raw))


def _attributes(record: bytes) -> Iterator[tuple[int, int]]:
    """Type and place of each attribute that lies in clusters of its own."""
    if not record:
        return
    (position,) = struct.unpack_from("<H", record, 20)
    while position + 8 <= len(record):
        (kind, length) = struct.unpack_from("<II", record, position)
        if kind == _END:
            return
        if length < 16 or position + length > len(record):
            break
        if record[position + 8]:
            yield kind, position
        position += length
    raise CaptureWhole("NTFS with a damaged record in its file table")


def _table_runs(record: bytes, is_first: bool = False) -> list[Run]:
    """The runs of the file table itself, as the first record or an extension of that one has them."""
    if not record:
        return []
    (base,) = struct.unpack_from("<Q", record, 32)
    # A reference has a number of the record's use in its upper bits, never zero: zero is no reference.
    if not is_first and (not base or base & _REFERENCE):
        return []
    return _data(record)


def _data(record: bytes) -> list[Run]:
    unnamed = (position for kind, position in _attributes(record) if kind == _DATA and not record[position + 9])
    return [run for position in unnamed for run in _decoded(record, position)]


def _runs(record: bytes) -> list[Run]:
    return [run for _, position in _attributes(record) for run in _decoded(record, position)]


def _decoded(record: bytes, position: int) -> Iterator[Run]:
    """First cluster and number of clusters of each run; holes of sparse files have none."""
    (length,) = struct.unpack_from("<I", record, position + 4)
    (start,) = struct.unpack_from("<H", record, position + 32)
    at, end, cluster = position + start, position + length, 0
    while at < end and record[at]:
        count_bytes, offset_bytes = record[at] & 0xF, record[at] >> 4
        at += 1
        if at + count_bytes + offset_bytes > end:
            raise CaptureWhole("NTFS with a damaged record in its file table")
        count = int.from_bytes(record[at : at + count_bytes], "little")
        at += count_bytes
        if offset_bytes:
            cluster += int.from_bytes(record[at : at + offset_bytes], "little", signed=True)
            if cluster < 0:
                raise CaptureWhole("NTFS with a damaged record in its file table")
            yield cluster, count
        at += offset_bytes


def _bytes(runs: list[Run], cluster_bytes: int) -> Iterator[tuple[int, int]]:
    return ((cluster * cluster_bytes, count * cluster_bytes) for cluster, count in runs)
