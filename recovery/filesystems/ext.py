"""ext2, ext3 and ext4: was it closed cleanly, and where its first metadata lie.

Source: the kernel's Documentation/filesystems/ext4 ("Super Block", "Block Group Descriptors").
"""

from __future__ import annotations

import struct

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, not_closed_cleanly
from recovery.units import KIB

_MAGIC = 0xEF53
_STATE_CLEAN, _STATE_ERRORS = 0x1, 0x2
_INCOMPAT_RECOVER, _INCOMPAT_JOURNAL_DEVICE, _INCOMPAT_64BIT = 0x4, 0x8, 0x80
_RO_COMPAT_BIGALLOC, _RO_COMPAT_ORPHAN_PRESENT = 0x200, 0x10000


def inspect(source: FilesystemSource) -> Inspection:
    """Raises CaptureWhole for one with a journal to replay, with errors, or with clusters (bigalloc)."""
    superblock = source.read(1 * KIB, 1 * KIB)
    (magic, state) = struct.unpack_from("<HH", superblock, 56)
    (incompat, ro_compat) = struct.unpack_from("<II", superblock, 96)
    if magic != _MAGIC:
        raise CaptureWhole("its ext superblock is damaged")
    if incompat & _INCOMPAT_JOURNAL_DEVICE:
        raise CaptureWhole("it is the journal of another ext filesystem")
    if incompat & _INCOMPAT_RECOVER:
        raise not_closed_cleanly("ext", "its journal needs recovery")
    if ro_compat & _RO_COMPAT_ORPHAN_PRESENT:
        raise not_closed_cleanly("ext", "its orphan file is in use")
    if state & _STATE_ERRORS or not state & _STATE_CLEAN:
        raise not_closed_cleanly("ext", "errors were noted in it" if state & _STATE_ERRORS else "it is marked in use")
    if ro_compat & _RO_COMPAT_BIGALLOC:
        raise CaptureWhole("ext4 with bigalloc, whose bitmap partclone misreads", clean=True)
    return Inspection(_first_group(source, superblock, incompat))


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
