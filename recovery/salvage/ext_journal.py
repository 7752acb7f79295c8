"""The journal of an ext3 or ext4 that was not closed: which blocks have a newer version in it.

Nothing is replayed anywhere: who reads the filesystem reads these blocks in the journal.  Only transactions that were
ended count, and none behind one that is damaged.

Source of the layout: the kernel's Documentation/filesystems/ext4/journal.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from recovery.salvage.checksums import crc32c

_MAGIC = 0xC03B3998
MAGIC_BYTES = struct.pack(">I", _MAGIC)
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_WIDE, _CHECKSUM2, _CHECKSUM3, _FAST = 0x2, 0x8, 0x10, 0x20
_ESCAPED, _SAME_UUID, _LAST = 1, 2, 8
_HEADER = struct.Struct(">III")

#: Gives a block of the journal by its number there, and where it lies in the filesystem; None: it cannot be read.
Reader = Callable[[int], tuple[bytes, int] | None]


@dataclass(slots=True)
class Replay:
    """By block of the filesystem where its newer version lies, in bytes; ``escaped``: it begins with the magic."""

    moved: dict[int, int] = field(default_factory=dict)
    escaped: set[int] = field(default_factory=set)
    transactions: int = 0
    #: A sentence on what could not be followed.
    finding: str = ""


@dataclass(slots=True)
class _Transaction:
    blocks: list[tuple[int, int, bool]] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)


class _Journal:
    def __init__(self, read: Reader, superblock: bytes) -> None:
        self._read = read
        self.size, most, self.first, self.sequence, self.start = struct.unpack_from(">IIIII", superblock, 12)
        (features,) = struct.unpack_from(">I", superblock, 40)
        (fast,) = struct.unpack_from(">I", superblock, 84)
        self.wide, self.fast = bool(features & _WIDE), bool(features & _FAST)
        self.checks3 = bool(features & _CHECKSUM3)
        self.checks = self.checks3 or bool(features & _CHECKSUM2)
        self.end = most - (fast or 256) if self.fast else most
        self.seed = crc32c(superblock[48:64])
        tag = 16 if self.checks3 else 12 + (2 if self.checks else 0) - (0 if self.wide else 4)
        self.tag_bytes = tag

    def behind(self, block: int) -> int:
        """The next block; behind the last comes the first."""
        return block + 1 if block + 1 < self.end else self.first

    def transactions(self, replay: Replay) -> list[_Transaction]:
        """Those that were ended, in their order."""
        found: list[_Transaction] = []
        current = _Transaction()
        at, sequence = self.start, self.sequence
        for _ in range(max(0, self.end - self.first)):
            read = self._read(at)
            if read is None:
                replay.finding = "A part of its journal cannot be read: what was written last may be missing."
                break
            block = read[0]
            magic, kind, number = _HEADER.unpack_from(block)
            if magic != _MAGIC or number != sequence:
                break
            if kind == _DESCRIPTOR:
                step = self._descriptor(block, at, sequence, current)
                if step is None:
                    replay.finding = "A part of its journal is damaged: what was written last may be missing."
                    break
                at = step
            elif kind == _REVOKE:
                self._revoke(block, current)
            elif kind == _COMMIT:
                if self.checks and not self._vouches(block, 16):
                    break
                found.append(current)
                current, sequence = _Transaction(), (sequence + 1) & 0xFFFFFFFF
            else:
                break
            at = self.behind(at)
        return found

    def _descriptor(self, block: bytes, at: int, sequence: int, current: _Transaction) -> int | None:
        """Learn what the blocks behind are; the last of them, or None where one is damaged."""
        end = self.size - 4 if self.checks else self.size
        if self.checks and not self._vouches(block, self.size - 4):
            return None
        place = _HEADER.size
        while place + self.tag_bytes <= end:
            number, flags, told = self._tag(block, place)
            at = self.behind(at)
            read = self._read(at)
            if read is None:
                return None
            data, where = read
            if self.checks:
                total = crc32c(data, crc32c(struct.pack(">I", sequence), self.seed))
                if told != (total if self.checks3 else total & 0xFFFF):
                    return None
            current.blocks.append((number, where, bool(flags & _ESCAPED)))
            place += self.tag_bytes + (0 if flags & _SAME_UUID else 16)
            if flags & _LAST:
                break
        return at

    def _tag(self, block: bytes, place: int) -> tuple[int, int, int]:
        """Block of the filesystem, flags, checksum."""
        if self.checks3:
            low, flags, high, told = struct.unpack_from(">IIII", block, place)
            return low | (high << 32 if self.wide else 0), flags, told
        low, told, flags = struct.unpack_from(">IHH", block, place)
        high = struct.unpack_from(">I", block, place + 8)[0] if self.wide else 0
        return low | high << 32, flags, told

    def _revoke(self, block: bytes, current: _Transaction) -> None:
        (used,) = struct.unpack_from(">I", block, 12)
        width, form = (8, ">Q") if self.wide else (4, ">I")
        for place in range(16, min(used, len(block)) - width + 1, width):
            current.revoked.append(struct.unpack_from(form, block, place)[0])

    def _vouches(self, block: bytes, place: int) -> bool:
        told = struct.unpack_from(">I", block, place)[0]
        return crc32c(block[:place] + bytes(4) + block[place + 4 :], self.seed) == int(told)


def read_journal(read: Reader) -> Replay:
    """What is newer in the journal.  Never raises for damage: what cannot be followed is told in ``finding``."""
    replay = Replay()
    first = read(0)
    if first is None or len(first[0]) < 1024 or _HEADER.unpack_from(first[0])[:2] not in ((_MAGIC, 3), (_MAGIC, 4)):
        replay.finding = "Its journal is lost: what was written last may be missing."
        return replay
    journal = _Journal(read, first[0])
    if not journal.start:
        return replay
    if journal.size != len(first[0]) or not 0 < journal.first <= journal.start < journal.end:
        replay.finding = "Its journal is damaged: what was written last may be missing."
        return replay
    ended = journal.transactions(replay)
    replay.transactions = len(ended)
    revoked = {block: number for number, one in enumerate(ended) for block in one.revoked}
    for number, one in enumerate(ended):
        for block, where, escaped in one.blocks:
            if revoked.get(block, -1) >= number:
                continue
            replay.moved[block] = where
            (replay.escaped.add if escaped else replay.escaped.discard)(block)
    if journal.fast:
        replay.finding = replay.finding or "Fast commits in its journal are not looked for."
    return replay
