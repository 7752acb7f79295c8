"""F2FS: does its newest checkpoint say that it was unmounted, and where its metadata and its main area lie.

Source: the kernel's include/linux/f2fs_fs.h and Documentation/filesystems/f2fs.rst ("On-disk Layout").
"""

from __future__ import annotations

import struct
import zlib

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, beyond_recovery
from recovery.units import KIB

_MAGIC = 0xF2F52010
_BLOCK = 4 * KIB
_UNMOUNTED, _ERROR, _NEEDS_FSCK, _DISABLED = 0x1, 0x8, 0x10, 0x1000


def inspect(source: FilesystemSource) -> Inspection:
    """Raises CaptureWhole when it was not unmounted, spans several devices, or uses other than 4 KiB blocks."""
    superblock = source.read(1 * KIB, 3 * KIB)
    (magic,) = struct.unpack_from("<I", superblock)
    (log2_block, log2_segment_blocks) = struct.unpack_from("<II", superblock, 16)
    (main_segments,) = struct.unpack_from("<I", superblock, 68)
    (checkpoint,) = struct.unpack_from("<I", superblock, 76)
    (main,) = struct.unpack_from("<I", superblock, 92)
    first_device = superblock[2201]
    if magic != _MAGIC or log2_segment_blocks > 20:
        raise CaptureWhole("its F2FS superblock is damaged")
    if 1 << log2_block != _BLOCK:
        raise CaptureWhole("F2FS with blocks of other than 4 KiB")
    if first_device:
        raise CaptureWhole("F2FS over several devices")
    packs = [
        _checkpoint(source, checkpoint * _BLOCK),
        _checkpoint(source, (checkpoint + (1 << log2_segment_blocks)) * _BLOCK),
    ]
    sound = [pack for pack in packs if pack is not None]
    if not sound:
        raise CaptureWhole("F2FS without a sound checkpoint")
    _, flags = max(sound)
    if not flags & _UNMOUNTED:
        raise beyond_recovery("F2FS", "its newest checkpoint is not that of an unmount")
    if flags & (_ERROR | _NEEDS_FSCK | _DISABLED):
        raise beyond_recovery("F2FS", "its checkpoint says that it needs a check")
    main_end = (main + (main_segments << log2_segment_blocks)) * _BLOCK
    rest = Extents([(main_end, max(0, source.size_bytes - main_end))])
    return Inspection(Extents([(0, main * _BLOCK)]), besides=rest)


def _checkpoint(source: FilesystemSource, offset: int) -> tuple[int, int] | None:
    """Version and flags of the checkpoint at ``offset``; None when its first and last block are not sound and alike."""
    first = source.read(offset, _BLOCK)
    (flags, blocks) = struct.unpack_from("<II", first, 132)
    if not 2 <= blocks <= 1 << 20:
        return None
    last = source.read(offset + (blocks - 1) * _BLOCK, _BLOCK)
    (version,) = struct.unpack_from("<Q", first)
    if not _sound(first) or not _sound(last) or last[:8] != first[:8]:
        return None
    return version, flags


def _sound(block: bytes) -> bool:
    (place,) = struct.unpack_from("<I", block, 164)
    if place > _BLOCK - 4:
        return False
    (stored,) = struct.unpack_from("<I", block, place)
    # F2FS starts its CRC-32 with the magic number and does not invert it.
    return bool(zlib.crc32(block[:place], _MAGIC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF == stored)
