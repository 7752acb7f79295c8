"""FAT16, FAT32 and exFAT: the dirty flags, and where the tables and the data begin.

Sources: Microsoft's "FAT32 File System Specification" (fatgen103) and "exFAT file system specification"; the dirty
bit in a FAT's boot sector is Linux's and Windows's (``FAT_STATE_DIRTY``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, NotClosedCleanly, beyond_recovery
from recovery.units import MIB

_FAT12_CLUSTERS, _FAT16_CLUSTERS = 4085, 65525
_TABLE_PIECE = 1 * MIB
_EXFAT_SECOND_FAT, _EXFAT_DIRTY, _EXFAT_MEDIA_FAILURE = 0x1, 0x2, 0x4


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where a FAT's tables and clusters lie, in bytes, and how many clusters there are."""

    is_fat32: bool
    table: int
    table_bytes: int
    tables: int
    data: int
    cluster_bytes: int
    clusters: int


def inspect_fat(source: FilesystemSource, *, ask_closed: bool = True) -> Inspection:
    """Raises CaptureWhole for a volume marked dirty, for FAT12, and for what partclone would take for another kind."""
    boot = source.read(0, 512)
    geometry = _geometry(boot)
    is_fat32 = geometry.is_fat32
    if is_fat32 and boot[0x26] == 0x29:
        raise CaptureWhole("FAT32 with a table so long that partclone takes it for FAT16")
    if is_fat32 and struct.unpack_from("<H", boot, 40)[0] & 0x8F > 0x80:
        raise CaptureWhole("FAT32 that uses another than its first table")
    _check_marks(boot, source.read(geometry.table, 8), is_fat32, ask_closed)
    return Inspection(Extents([(0, geometry.data)]))


def _geometry(boot: bytes) -> _Geometry:
    sector_bytes, cluster_sectors, reserved, fats, root_entries, sectors16 = struct.unpack_from("<HBHBHH", boot, 11)
    (fat_sectors16,) = struct.unpack_from("<H", boot, 22)
    (sectors32, fat_sectors32) = struct.unpack_from("<II", boot, 32)
    sectors = sectors16 or sectors32
    fat_sectors = fat_sectors16 or fat_sectors32
    if sector_bytes < 512 or not cluster_sectors or not reserved or not fats or not sectors or not fat_sectors:
        raise CaptureWhole("its FAT boot sector is damaged")
    root_sectors = -(-root_entries * 32 // sector_bytes)
    data_start = reserved + fats * fat_sectors + root_sectors
    clusters = (sectors - data_start) // cluster_sectors
    is_fat32 = not fat_sectors16
    if clusters < 1 or (not is_fat32 and clusters >= _FAT16_CLUSTERS):
        raise CaptureWhole("its FAT boot sector is damaged")
    if not is_fat32 and clusters < _FAT12_CLUSTERS:
        raise CaptureWhole("FAT12, whose table partclone misreads")
    entry_bytes = 4 if is_fat32 else 2
    if (clusters + 2) * entry_bytes > fat_sectors * sector_bytes:
        raise CaptureWhole("its file allocation table is too short for it")
    return _Geometry(
        is_fat32,
        reserved * sector_bytes,
        fat_sectors * sector_bytes,
        fats,
        data_start * sector_bytes,
        cluster_sectors * sector_bytes,
        clusters,
    )


def _check_marks(boot: bytes, first_entries: bytes, is_fat32: bool, ask_closed: bool) -> None:
    status, closed, without_errors = _status(first_entries, is_fat32)
    if not status & without_errors:
        raise beyond_recovery("FAT", "disk errors were noted in it")
    if ask_closed and boot[_state_place(is_fat32)] & 0x1:
        raise NotClosedCleanly("FAT", "its boot sector is marked dirty")
    if ask_closed and not status & closed:
        raise NotClosedCleanly("FAT", "its table is marked dirty")


def _state_place(is_fat32: bool) -> int:
    return 0x41 if is_fat32 else 0x25


def _status(first_entries: bytes, is_fat32: bool) -> tuple[int, int, int]:
    """The table's second entry, which is no cluster's, and its bits for "closed" and "without disk errors"."""
    if is_fat32:
        return struct.unpack_from("<II", first_entries)[1], 0x08000000, 0x04000000
    return struct.unpack_from("<HH", first_entries)[1], 0x8000, 0x4000


def fat_closed_marks(source: FilesystemSource) -> list[tuple[int, bytes]]:
    """What makes the volume look closed: offset and bytes, for a view of it."""
    boot = source.read(0, 512)
    geometry = _geometry(boot)
    place, width = _state_place(geometry.is_fat32), 4 if geometry.is_fat32 else 2
    status, closed, _ = _status(source.read(geometry.table, 8), geometry.is_fat32)
    return [
        (place, bytes([boot[place] & ~1])),
        (geometry.table + width, (status | closed).to_bytes(width, "little")),
    ]


def other_tables(source: FilesystemSource) -> Extents:
    """Clusters that another table than the first calls used, where they differ: a crash may fall between the two."""
    geometry = _geometry(source.read(0, 512))
    width = 4 if geometry.is_fat32 else 2
    taken: set[int] = set()
    for number in range(1, geometry.tables):
        for at in range(0, geometry.table_bytes, _TABLE_PIECE):
            length = min(_TABLE_PIECE, geometry.table_bytes - at)
            own = source.read(geometry.table + number * geometry.table_bytes + at, length)
            if own != source.read(geometry.table + at, length):
                entries = memoryview(own)[: length - length % width].cast("I" if width == 4 else "H")
                taken.update(at // width + place for place, entry in enumerate(entries) if entry & 0x0FFFFFFF)
    used = sorted(cluster - 2 for cluster in taken if 2 <= cluster < geometry.clusters + 2)
    return Extents((geometry.data + cluster * geometry.cluster_bytes, geometry.cluster_bytes) for cluster in used)


def exfat_closed_marks(source: FilesystemSource) -> list[tuple[int, bytes]]:
    """What makes the volume look closed: offset and bytes, for a view of it."""
    (flags,) = struct.unpack("<H", source.read(106, 2))
    return [(106, struct.pack("<H", flags & ~_EXFAT_DIRTY))]


def inspect_exfat(source: FilesystemSource, *, ask_closed: bool = True) -> Inspection:
    """Raises CaptureWhole for a volume marked dirty, or one with two tables and bitmaps (TexFAT)."""
    boot = source.read(0, 512)
    (sectors,) = struct.unpack_from("<Q", boot, 72)
    heap_start, clusters = struct.unpack_from("<II", boot, 88)
    (flags, log2_sector, log2_cluster_sectors, fats) = struct.unpack_from("<HBBB", boot, 106)
    if boot[3:11] != b"EXFAT   " or not 9 <= log2_sector <= 12 or log2_cluster_sectors > 25 - log2_sector:
        raise CaptureWhole("its exFAT boot sector is damaged")
    if not clusters or heap_start + (clusters << log2_cluster_sectors) > sectors:
        raise CaptureWhole("its exFAT boot sector is damaged")
    if fats != 1 or flags & _EXFAT_SECOND_FAT:
        raise CaptureWhole("exFAT with two allocation tables")
    if flags & _EXFAT_MEDIA_FAILURE:
        raise beyond_recovery("exFAT", "a failure of the medium was noted in it")
    if ask_closed and flags & _EXFAT_DIRTY:
        raise NotClosedCleanly("exFAT", "its boot sector is marked dirty")
    heap = heap_start << log2_sector
    heap_end = heap + (clusters << (log2_cluster_sectors + log2_sector))
    # partclone takes the number of clusters for the number of the last one, which is two more: the last two are
    # never in its map.
    last_two = min(2, clusters) << (log2_cluster_sectors + log2_sector)
    rest = max(0, source.size_bytes - heap_end)
    return Inspection(Extents([(0, heap)]), besides=Extents([(heap_end - last_two, last_two + rest)]))
