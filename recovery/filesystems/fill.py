"""About how full a filesystem is, from its superblock or its bitmap: cheap enough to be asked at every look at a disk.

What a crash left out of date, and what one filesystem counts and another does not (its own metadata), make it "about".
Which bytes are used, so that nothing is lost, is another question: ``usage``.

Sources: the kernel's Documentation/filesystems/ext4 ("Super Block"); "XFS Algorithms & Data Structures"; the on-disk
format of btrfs in its documentation; Microsoft's FAT and exFAT specifications; the Linux-NTFS project's documentation
("$Bitmap"); Apple's TN1150 (HFS Plus); the kernel's include/linux/f2fs_fs.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recovery.devices.probe import Content
from recovery.extent import Extent
from recovery.filesystems.ntfs import file_table
from recovery.filesystems.ntfs_runs import data_runs
from recovery.filesystems.source import CaptureWhole
from recovery.filesystems.unclean import NONSENSE
from recovery.units import KIB, MIB

#: Of a larger bitmap only so much is read, in pieces that lie evenly over it.
_BITMAP_BYTES, _PIECE_BYTES = 32 * MIB, 64 * KIB
_FAT16_CLUSTERS, _FAT32_CLUSTERS = 4085, 65525  # from so many clusters on it is that


class _NotKnown(Exception):
    """It cannot be told."""


@dataclass(frozen=True, slots=True)
class _Range:
    """The partition, to be read straight from the disk: a loop device for each look would be seen by udev."""

    descriptor: int
    extent: Extent

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.extent.length:
            raise _NotKnown
        data = os.pread(self.descriptor, length, self.extent.offset + offset)
        if len(data) != length:
            raise _NotKnown
        return data


def used_bytes(place: Path, extent: Extent, content: Content | None) -> int | None:
    """About how many bytes of ``extent`` of the disk or image file ``place`` hold data; None when that is not known.

    ``content`` is what ``probe`` saw there.  Reads at most some 32 MiB, mostly a sector, and never fails.
    """
    reader = _READERS.get(content.type) if content is not None else None
    if reader is None:
        return None
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            used = reader(_Range(descriptor, extent))
        finally:
            os.close(descriptor)
    except (_NotKnown, CaptureWhole, OSError, *NONSENSE):
        return None
    return used if 0 <= used <= extent.length else None


def _ext(partition: _Range) -> int:
    superblock = partition.read(1 * KIB, 1 * KIB)
    (blocks,) = struct.unpack_from("<I", superblock, 4)
    (free,) = struct.unpack_from("<I", superblock, 12)
    (log_block_size,) = struct.unpack_from("<I", superblock, 24)
    (incompat,) = struct.unpack_from("<I", superblock, 96)
    if log_block_size > 6:
        raise _NotKnown
    if incompat & 0x80:  # counts of 64 bits
        blocks |= struct.unpack_from("<I", superblock, 0x150)[0] << 32
        free |= struct.unpack_from("<I", superblock, 0x158)[0] << 32
    return int((blocks - free) * (KIB << log_block_size))


def _xfs(partition: _Range) -> int:
    superblock = partition.read(0, 512)
    (block_bytes, blocks) = struct.unpack_from(">IQ", superblock, 4)
    (free,) = struct.unpack_from(">Q", superblock, 144)
    return int((blocks - free) * block_bytes)


def _btrfs(partition: _Range) -> int:
    superblock = partition.read(64 * KIB, 4 * KIB)
    (used, _, devices) = struct.unpack_from("<QQQ", superblock, 120)
    if devices != 1:
        raise _NotKnown
    return int(used)


def _fat(partition: _Range) -> int:
    boot = partition.read(0, 512)
    (sector_bytes, cluster_sectors, reserved, fats, root_entries, sectors) = struct.unpack_from("<HBHBHH", boot, 11)
    sectors = sectors or struct.unpack_from("<I", boot, 32)[0]
    fat_sectors = struct.unpack_from("<H", boot, 22)[0] or struct.unpack_from("<I", boot, 36)[0]
    root_sectors = -(-root_entries * 32 // sector_bytes)
    clusters = (sectors - reserved - fats * fat_sectors - root_sectors) // cluster_sectors
    if clusters >= _FAT32_CLUSTERS:
        free = _free_of_fat32(partition, struct.unpack_from("<H", boot, 48)[0] * sector_bytes)
    else:
        entry_bits = 16 if clusters >= _FAT16_CLUSTERS else 12
        table = partition.read(reserved * sector_bytes, -(-(clusters + 2) * entry_bits // 8))
        free = sum(not entry for entry in list(_entries(table, entry_bits))[2 : clusters + 2])
    return int((clusters - free) * cluster_sectors * sector_bytes)


def _free_of_fat32(partition: _Range, information: int) -> int:
    (lead, kind, free) = struct.unpack("<I480xII", partition.read(information, 492))
    if (lead, kind) != (0x41615252, 0x61417272) or free == 0xFFFFFFFF:
        raise _NotKnown
    return int(free)


def _entries(table: bytes, bits: int) -> Iterator[int]:
    if bits == 16:
        yield from (entry for (entry,) in struct.iter_unpack("<H", table))
        return
    for at in range(0, len(table), 3):
        both = int.from_bytes(table[at : at + 3], "little")
        yield both & 0xFFF
        yield both >> 12


def _exfat(partition: _Range) -> int:
    """From its bitmap, which the first folder names: the field that tells it in percent is seldom kept up to date."""
    boot = partition.read(0, 512)
    (heap_sector, clusters, root) = struct.unpack_from("<III", boot, 88)
    sector_bytes, cluster_bytes = 1 << boot[108], 1 << (boot[108] + boot[109])
    heap = heap_sector * sector_bytes
    folder = partition.read(heap + (root - 2) * cluster_bytes, min(cluster_bytes, 64 * KIB))
    for at in range(0, len(folder), 32):
        if folder[at] == 0x81 and not folder[at + 1] & 1:
            (first, length) = struct.unpack_from("<IQ", folder, at + 20)
            return _filled(partition, [(heap + (first - 2) * cluster_bytes, length)], clusters, cluster_bytes)
    raise _NotKnown


def _ntfs(partition: _Range) -> int:
    """From its bitmap, the file of the number 6."""
    boot = partition.read(0, 512)
    table = file_table(boot)
    (sector_bytes,) = struct.unpack_from("<H", boot, 11)
    clusters = struct.unpack_from("<Q", boot, 40)[0] * sector_bytes // table.cluster_bytes
    runs = data_runs(partition.read(table.table + 6 * table.record_bytes, table.record_bytes))
    pieces = [(first * table.cluster_bytes, count * table.cluster_bytes) for first, count in runs]
    return _filled(partition, pieces, clusters, table.cluster_bytes)


def _filled(partition: _Range, bitmap: list[tuple[int, int]], clusters: int, cluster_bytes: int) -> int:
    """About how many bytes are in use, by a bitmap that lies in pieces (offset and length, bytes)."""
    wanted = -(-clusters // 8)
    if clusters * cluster_bytes > partition.extent.length or sum(length for _, length in bitmap) < wanted:
        raise _NotKnown
    every = -(-wanted // _BITMAP_BYTES)
    seen = found = number = 0
    left = wanted
    for offset, length in bitmap:
        for at in range(0, min(length, left), _PIECE_BYTES):
            size = min(_PIECE_BYTES, length - at, left)
            left -= size
            number += 1
            if number % every:
                continue
            bits = int.from_bytes(partition.read(offset + at, size), "little")
            if not left:  # what is behind the last cluster may be marked, too
                bits &= (1 << 8 * size - -clusters % 8) - 1
            found += bits.bit_count()
            seen += size
    return min(clusters, found * wanted // seen) * cluster_bytes if seen else 0


def _hfsplus(partition: _Range) -> int:
    (block_bytes, blocks, free) = struct.unpack_from(">III", partition.read(1 * KIB, 512), 40)
    return int((blocks - free) * block_bytes)


def _f2fs(partition: _Range) -> int:
    """From the newer of its two checkpoints."""
    superblock = partition.read(1 * KIB, 1 * KIB)
    (log_block_size, log_segment_blocks) = struct.unpack_from("<II", superblock, 16)
    (checkpoint,) = struct.unpack_from("<I", superblock, 76)
    if max(log_block_size, log_segment_blocks) > 16:
        raise _NotKnown
    block = 1 << log_block_size
    packs = [
        struct.unpack_from("<QQQ", partition.read((checkpoint + number * (1 << log_segment_blocks)) * block, 24))
        for number in (0, 1)
    ]
    _, _, used = max(packs)
    return int(used * block)


_READERS: dict[str, Callable[[_Range], int]] = {
    "ext2": _ext,
    "ext3": _ext,
    "ext4": _ext,
    "xfs": _xfs,
    "btrfs": _btrfs,
    "vfat": _fat,
    "exfat": _exfat,
    "ntfs": _ntfs,
    "hfsplus": _hfsplus,
    "f2fs": _f2fs,
}
