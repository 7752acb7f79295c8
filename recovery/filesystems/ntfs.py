"""NTFS: dirty or hibernated, and where the boot sectors and the first records of the file table lie.

The dirty flag stands in the volume's own record.  What ``ntfs-3g.probe`` says of a mount for writing decides besides:
it looks at the log file and for a hibernated Windows, and on our read-only loop device it can write nothing.

Source: the Linux-NTFS project's documentation ("$Boot", "$Volume", "FILE Record").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from recovery.command import run
from recovery.extent import Extents
from recovery.filesystems import ntfs_runs
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, NotClosedCleanly, beyond_recovery
from recovery.units import KIB

_VOLUME = 3  # the number of the volume's file record
_VOLUME_INFORMATION, _END, _DIRTY = 0x70, 0xFFFFFFFF, 0x1

#: Exit statuses of ntfs-3g.probe (its manual page).
_UNCLEAN = {13: "it is inconsistent", 14: "Windows is hibernated in it", 15: "its log file holds changes"}


@dataclass(frozen=True, slots=True)
class FileTable:
    """Where the file table and the copy of its first records begin, in bytes, and their units."""

    table: int
    mirror: int
    record_bytes: int
    cluster_bytes: int


def file_table(boot: bytes) -> FileTable:
    """Where the boot sector says that its file table lies.  Raises CaptureWhole when it is damaged."""
    (sector_bytes, cluster_code) = struct.unpack_from("<HB", boot, 11)
    (table, table_mirror) = struct.unpack_from("<QQ", boot, 48)
    if boot[3:11] != b"NTFS    " or sector_bytes < 256 or not cluster_code:
        raise CaptureWhole("its NTFS boot sector is damaged")
    cluster_sectors = cluster_code if cluster_code <= 0x80 else 1 << (256 - cluster_code)
    cluster = sector_bytes * cluster_sectors
    (record_code,) = struct.unpack_from("<b", boot, 64)
    record_bytes = record_code * cluster if record_code > 0 else 1 << -record_code
    if not 512 <= record_bytes <= 64 * KIB:
        raise CaptureWhole("its NTFS boot sector is damaged")
    return FileTable(table * cluster, table_mirror * cluster, record_bytes, cluster)


def inspect(source: FilesystemSource, *, ask_closed: bool = True) -> Inspection:
    """Raises CaptureWhole for a volume that Windows did not shut down, and for one that cannot be told.

    Changes that only its log file holds are Windows's to replay: nothing here does it for certain.
    """
    places = file_table(source.read(0, 512))
    _, flags = _volume_flags(source.read(places.table + _VOLUME * places.record_bytes, places.record_bytes))
    probed = run(
        ["ntfs-3g.probe", "--readwrite", source.device],
        needed_for="seeing whether an NTFS filesystem was closed cleanly",
        timeout_seconds=600,
        check=False,
    )
    if probed.status in _UNCLEAN:
        raise beyond_recovery("NTFS", _UNCLEAN[probed.status])
    if not probed.ok:
        raise CaptureWhole(f"NTFS that ntfs-3g does not read: {probed.reason}")
    if ask_closed and flags & _DIRTY:
        raise NotClosedCleanly("NTFS", "it is marked dirty")
    record = places.record_bytes
    known = Extents([(0, 8 * KIB), (places.table, 16 * record), (places.mirror, 4 * record)])
    # ntfs-3g leaves no mark while it writes: its bitmap may lag behind its file table, and nothing tells.
    return Inspection(known.union(_referenced(source, places)))


def closed_marks(source: FilesystemSource) -> list[tuple[int, bytes]]:
    """What makes the volume look closed: offset and bytes, for a view of it."""
    places = file_table(source.read(0, 512))
    marks = []
    for table in (places.table, places.mirror):
        record = table + _VOLUME * places.record_bytes
        place, flags = _volume_flags(source.read(record, places.record_bytes))
        if place % 512 >= 509:
            raise CaptureWhole("NTFS whose volume record is damaged")
        marks.append((record + place, struct.pack("<H", flags & ~_DIRTY)))
    return marks


def _referenced(source: FilesystemSource, places: FileTable) -> Extents:
    """Every cluster that its file table refers to, whatever its bitmap says."""
    return ntfs_runs.referenced(source, places.table, places.record_bytes, places.cluster_bytes)


def _volume_flags(record: bytes) -> tuple[int, int]:
    """Where in the volume's file record the flags of $VOLUME_INFORMATION are, and what they say."""
    if record[:4] != b"FILE":
        raise CaptureWhole("NTFS whose volume record is damaged")
    mended = ntfs_runs.mended(record)
    (position,) = struct.unpack_from("<H", mended, 20)
    while position + 8 <= len(mended):
        (kind, length) = struct.unpack_from("<II", mended, position)
        if kind == _VOLUME_INFORMATION:
            place = position + struct.unpack_from("<H", mended, position + 20)[0] + 10
            return place, int(struct.unpack_from("<H", mended, place)[0])
        if kind == _END or length < 16:
            break
        position += length
    raise CaptureWhole("NTFS whose volume record says nothing of its state")
