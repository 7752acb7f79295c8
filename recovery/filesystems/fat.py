"""FAT16, FAT32 and exFAT: the dirty flags, and where the tables and the data begin.

Sources: Microsoft's "FAT32 File System Specification" (fatgen103) and "exFAT file system specification"; the dirty
bit in a FAT's boot sector is Linux's and Windows's (``FAT_STATE_DIRTY``).
"""

from __future__ import annotations

import struct

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, not_closed_cleanly

_FAT12_CLUSTERS, _FAT16_CLUSTERS = 4085, 65525
_EXFAT_SECOND_FAT, _EXFAT_DIRTY, _EXFAT_MEDIA_FAILURE = 0x1, 0x2, 0x4


def inspect_fat(source: FilesystemSource) -> Inspection:
    """Raises CaptureWhole for a volume marked dirty, for FAT12, and for what partclone would take for another kind."""
    boot = source.read(0, 512)
    sector_bytes, cluster_sectors, reserved, fats, root_entries, sectors16 = struct.unpack_from("<HBHBHH", boot, 11)
    (fat_sectors16,) = struct.unpack_from("<H", boot, 22)
    (sectors32, fat_sectors32, extended_flags) = struct.unpack_from("<IIH", boot, 32)
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
    if is_fat32 and boot[0x26] == 0x29:
        raise CaptureWhole("FAT32 with a table so long that partclone takes it for FAT16")
    if is_fat32 and extended_flags & 0x80 and extended_flags & 0xF:
        raise CaptureWhole("FAT32 that uses another than its first table")
    _check_dirty(boot, source.read(reserved * sector_bytes, 8), is_fat32)
    return Inspection(Extents([(0, data_start * sector_bytes)]))


def _check_dirty(boot: bytes, first_entries: bytes, is_fat32: bool) -> None:
    if boot[0x41 if is_fat32 else 0x25] & 0x1:
        raise not_closed_cleanly("FAT", "its boot sector is marked dirty")
    status = struct.unpack_from("<II", first_entries)[1] if is_fat32 else struct.unpack_from("<HH", first_entries)[1]
    closed, without_errors = (0x08000000, 0x04000000) if is_fat32 else (0x8000, 0x4000)
    if not status & closed:
        raise not_closed_cleanly("FAT", "its table is marked dirty")
    if not status & without_errors:
        raise not_closed_cleanly("FAT", "disk errors were noted in it")


def inspect_exfat(source: FilesystemSource) -> Inspection:
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
    if flags & (_EXFAT_DIRTY | _EXFAT_MEDIA_FAILURE):
        raise not_closed_cleanly("exFAT", "its boot sector is marked dirty")
    heap = heap_start << log2_sector
    heap_end = heap + (clusters << (log2_cluster_sectors + log2_sector))
    # partclone takes the number of clusters for the number of the last one, which is two more: the last two are
    # never in its map.
    last_two = min(2, clusters) << (log2_cluster_sectors + log2_sector)
    rest = max(0, source.size_bytes - heap_end)
    return Inspection(Extents([(0, heap)]), besides=Extents([(heap_end - last_two, last_two + rest)]))
