"""F2FS: its newest checkpoint, and the blocks that its segment information table calls valid.

Source: the kernel's include/linux/f2fs_fs.h and Documentation/filesystems/f2fs.rst ("On-disk Layout").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from recovery.extent import Extents
from recovery.filesystems.walk.view import Area, NotAudited, Unreadable, View
from recovery.units import KIB

_MAGIC = 0xF2F52010
_BLOCK = 4 * KIB
_ENTRY, _ENTRIES_A_BLOCK, _MAP_AT, _MAP_BYTES = 74, 55, 2, 64
_COMPACT, _UNMOUNTED, _LARGE_BITMAP = 0x4, 0x1, 0x400
_JOURNAL_AT, _JOURNAL_BYTES = 512 * 7, 507
_COLD_DATA, _LOGS, _DATA_LOGS = 2, 6, 3
_BITMAPS = 192
#: In F2FS's own bitmaps the first block is the highest bit.
_BITS = [[bit for bit in range(8) if byte >> (7 - bit) & 1] for byte in range(256)]


def allocation(view: View) -> Iterator[Area]:
    """All before the main area, then every valid block in it.  Raises NotAudited for rare layouts."""
    superblock = view.read(1 * KIB, 3 * KIB, "the superblock")
    (magic,) = struct.unpack_from("<I", superblock)
    (log2_segment,) = struct.unpack_from("<I", superblock, 20)
    (sit_segments,) = struct.unpack_from("<I", superblock, 56)
    (segments,) = struct.unpack_from("<I", superblock, 68)
    (_, checkpoint, sit, _, _, main) = struct.unpack_from("<6I", superblock, 72)
    if magic != _MAGIC or log2_segment != 9:
        raise Unreadable("its superblock is no F2FS superblock")
    yield Area("the metadata before its main area", Extents([(0, main * _BLOCK)]))
    start, pack = _newest_checkpoint(view, checkpoint, 1 << log2_segment)
    maps = _valid_maps(view, pack, sit, sit_segments << log2_segment >> 1, segments)
    maps.update(_journal(view, start, pack))
    valid = (
        ((main + segment * 512 + index * 8 + bit) * _BLOCK, _BLOCK)
        for segment in sorted(maps)
        for index, byte in enumerate(maps[segment])
        for bit in _BITS[byte]
    )
    yield Area("blocks that its table calls valid", Extents(valid))


def _newest_checkpoint(view: View, first: int, segment_blocks: int) -> tuple[int, bytes]:
    """The block where the newer of the two whole checkpoints begins, and its first block."""
    found = []
    for start in (first, first + segment_blocks):
        head = view.read(start * _BLOCK, _BLOCK, "a checkpoint")
        (version,) = struct.unpack_from("<Q", head)
        (count,) = struct.unpack_from("<I", head, 136)
        if 2 <= count <= segment_blocks and version:
            tail = view.read((start + count - 1) * _BLOCK, _BLOCK, "a checkpoint")
            if tail[:8] == head[:8]:
                found.append((version, start, head))
    if not found:
        raise Unreadable("it has no whole checkpoint")
    _, start, head = max(found)
    return start, head


def _valid_maps(view: View, pack: bytes, sit: int, copy_blocks: int, segments: int) -> dict[int, bytes]:
    """The map of valid blocks of every segment, from whichever copy of each block of the table is current."""
    (flags,) = struct.unpack_from("<I", pack, 132)
    (bitmap_bytes,) = struct.unpack_from("<I", pack, 156)
    if flags & _LARGE_BITMAP or _BITMAPS + bitmap_bytes > len(pack):
        raise NotAudited("F2FS with a large bitmap in its checkpoint")
    bitmap = pack[_BITMAPS : _BITMAPS + bitmap_bytes]
    maps: dict[int, bytes] = {}
    for number in range(-(-segments // _ENTRIES_A_BLOCK)):
        second = number >> 3 < len(bitmap) and bitmap[number >> 3] >> (7 - number % 8) & 1
        place = sit + number + (copy_blocks if second else 0)
        block = view.read(place * _BLOCK, _BLOCK, "the segment information table")
        for slot in range(min(_ENTRIES_A_BLOCK, segments - number * _ENTRIES_A_BLOCK)):
            at = slot * _ENTRY + _MAP_AT
            maps[number * _ENTRIES_A_BLOCK + slot] = block[at : at + _MAP_BYTES]
    return maps


def _journal(view: View, start: int, pack: bytes) -> Iterator[tuple[int, bytes]]:
    """Segment and map of those entries that stand in the checkpoint and not in the table yet."""
    (flags, count, summaries) = struct.unpack_from("<III", pack, 132)
    if flags & _COMPACT:
        raw = view.read((start + summaries) * _BLOCK, _BLOCK, "a checkpoint")[_JOURNAL_BYTES : 2 * _JOURNAL_BYTES]
    else:
        logs = _LOGS if flags & _UNMOUNTED else _DATA_LOGS
        place = start + count - (logs + 1) + _COLD_DATA
        raw = view.read(place * _BLOCK, _BLOCK, "a checkpoint")[_JOURNAL_AT : _JOURNAL_AT + _JOURNAL_BYTES]
    (entries,) = struct.unpack_from("<H", raw)
    for index in range(min(entries, (_JOURNAL_BYTES - 2) // (4 + _ENTRY))):
        at = 2 + index * (4 + _ENTRY)
        (segment,) = struct.unpack_from("<I", raw, at)
        yield segment, raw[at + 4 + _MAP_AT : at + 4 + _MAP_AT + _MAP_BYTES]
