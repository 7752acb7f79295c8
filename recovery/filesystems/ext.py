"""ext2, ext3 and ext4: was it closed cleanly, and where its first metadata lie.

Source: the kernel's Documentation/filesystems/ext4 ("Super Block", "Block Group Descriptors").
"""

from __future__ import annotations

import re
import struct

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, NotClosedCleanly, beyond_recovery
from recovery.units import KIB

_MAGIC = 0xEF53
_STATE_CLEAN, _STATE_ERRORS = 0x1, 0x2
_COMPAT_JOURNAL = 0x4
_INCOMPAT_RECOVER, _INCOMPAT_JOURNAL_DEVICE, _INCOMPAT_META_GROUPS, _INCOMPAT_64BIT = 0x4, 0x8, 0x10, 0x80
_BITMAP_NOT_MADE = 0x2
_RO_COMPAT_BIGALLOC, _RO_COMPAT_ORPHAN_PRESENT = 0x200, 0x10000


def inspect(source: FilesystemSource, *, ask_closed: bool = True) -> Inspection:
    """Raises CaptureWhole for one with a journal to replay, with errors, or with clusters (bigalloc)."""
    superblock = source.read(1 * KIB, 1 * KIB)
    (magic, state) = struct.unpack_from("<HH", superblock, 56)
    (incompat, ro_compat) = struct.unpack_from("<II", superblock, 96)
    if magic != _MAGIC:
        raise CaptureWhole("its ext superblock is damaged")
    if incompat & _INCOMPAT_JOURNAL_DEVICE:
        raise CaptureWhole("it is the journal of another ext filesystem")
    if state & _STATE_ERRORS:
        raise beyond_recovery("ext", "errors were noted in it")
    if ask_closed and incompat & _INCOMPAT_RECOVER:
        raise NotClosedCleanly("ext", "its journal needs recovery")
    if ask_closed and ro_compat & _RO_COMPAT_ORPHAN_PRESENT:
        raise NotClosedCleanly("ext", "its orphan file is in use")
    if ask_closed and not state & _STATE_CLEAN:
        raise NotClosedCleanly("ext", "it is marked in use")
    if ro_compat & _RO_COMPAT_BIGALLOC:
        raise CaptureWhole("ext4 with bigalloc, whose bitmap partclone misreads", clean=True)
    return Inspection(_first_group(source, superblock, incompat))


def has_journal(source: FilesystemSource) -> bool:
    """Whether what was not brought in place can be replayed."""
    return bool(struct.unpack_from("<I", source.read(1 * KIB, 1 * KIB), 92)[0] & _COMPAT_JOURNAL)


def bitmaps(source: FilesystemSource) -> Extents:
    """What the block bitmaps call used as they lie there, rounded up to eight blocks.

    partclone refuses them while the superblock's count or a checksum is not up to date, as it is after a crash.  What
    of a group without a bitmap is used, only the map after the replay says.  Raises CaptureWhole for meta block groups.
    """
    superblock = source.read(1 * KIB, 1 * KIB)
    (blocks_low,) = struct.unpack_from("<I", superblock, 4)
    (first_block, log_block_size) = struct.unpack_from("<II", superblock, 20)
    (group_blocks,) = struct.unpack_from("<I", superblock, 32)
    (incompat,) = struct.unpack_from("<I", superblock, 96)
    (descriptor_bytes,) = struct.unpack_from("<H", superblock, 254)
    (blocks_high,) = struct.unpack_from("<I", superblock, 0x150)
    wide = bool(incompat & _INCOMPAT_64BIT)
    block = 1 * KIB << log_block_size
    blocks = blocks_low | blocks_high << 32 if wide else blocks_low
    size = descriptor_bytes if wide else 32
    if incompat & _INCOMPAT_META_GROUPS:
        raise CaptureWhole("ext with meta block groups")
    if not group_blocks or group_blocks > 8 * block or size < 32 or blocks * block > source.size_bytes:
        raise CaptureWhole("its ext superblock is damaged")
    groups = -(-(blocks - first_block) // group_blocks)
    descriptors = source.read((first_block + 1) * block, groups * size)
    used: list[tuple[int, int]] = []
    for group in range(groups):
        descriptor = descriptors[group * size : (group + 1) * size]
        (bitmap, flags) = struct.unpack_from("<I14xH", descriptor)
        if flags & _BITMAP_NOT_MADE:
            continue
        if wide and size >= 64:
            bitmap |= struct.unpack_from("<I", descriptor, 32)[0] << 32
        start = first_block + group * group_blocks
        for run in re.finditer(rb"[^\0]+", source.read(bitmap * block, -(-group_blocks // 8))):
            first = start + 8 * run.start()
            last = min(start + 8 * run.end(), start + group_blocks, blocks)
            if last > first:
                used.append((first * block, (last - first) * block))
    return Extents(used)


def _first_group(source: FilesystemSource, superblock: bytes, incompat: int) -> Extents:
    """The boot area, the superblock, and the first group's descriptor, bitmaps and inode table."""
    (first_block, log_block_size) = struct.unpack_from("<II", superblock, 20)
    (inodes_per_group,) = struct.unpack_from("<I", superblock, 40)
    (inode_bytes,) = struct.unpack_from("<H", superblock, 88)
    (descriptor_bytes,) = struct.unpack_from("<H", superblock, 254)
    if log_block_size > 6:
        raise CaptureWhole("its ext superblock is damaged")
    block = 1 * KIB << log_block_size
    descriptor = source.read((first_block + 1) * block, 64)
    places = struct.unpack_from("<III", descriptor)
    if incompat & _INCOMPAT_64BIT and descriptor_bytes > 32:
        places = tuple(
            low | high << 32 for low, high in zip(places, struct.unpack_from("<III", descriptor, 32), strict=True)
        )
    block_bitmap, inode_bitmap, inode_table = places
    return Extents(
        [
            (0, (first_block + 2) * block),
            (block_bitmap * block, block),
            (inode_bitmap * block, block),
            (inode_table * block, inodes_per_group * (inode_bytes or 128)),
        ]
    )
