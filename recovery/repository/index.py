"""Which pack holds a blob, and where: the index of a repository, compact in memory.

A Python dictionary would take some 250 bytes a blob.  Here a blob takes a record of 48 bytes in one array::

    id, 32 bytes | pack number | offset in the pack | length | length of the plain blob (0: not compressed)

and on average seven bytes of an open-addressing hash table (linear probing, at most two thirds full) whose
slots hold record numbers.  An id is itself a hash: its first eight bytes are the hash value.  A blob that lies
in several packs has several records, and all are found.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from recovery.repository.format import ID_BYTES, SEAL_BYTES, BlobType, IndexBlob, IndexFile, IndexPack, PackedBlob

_RECORD = struct.Struct("<32sIIII")
_PLACE = struct.Struct("<IIII")
_SIZE = _RECORD.size


class Location(NamedTuple):
    """Where a blob lies.  Bytes; ``raw_length`` 0 means not compressed."""

    pack: bytes
    offset: int
    length: int
    raw_length: int

    @property
    def plain_length(self) -> int:
        """Length of the blob's content."""
        return self.raw_length or self.length - SEAL_BYTES


class BlobTable:
    """Records of the blobs of one type."""

    def __init__(self) -> None:
        self._records = bytearray()
        self._slots = array("I", bytes(4 * 64))
        self._mask = 63

    def __len__(self) -> int:
        return len(self._records) // _SIZE

    def add(self, blob_id: bytes, pack: int, offset: int, length: int, raw_length: int) -> None:
        """Record one more place of ``blob_id``."""
        count = len(self._records) // _SIZE + 1
        if 3 * count > 2 * len(self._slots):
            self._grow()
        self._records += _RECORD.pack(blob_id, pack, offset, length, raw_length)
        self._enter(blob_id, count)

    def _enter(self, blob_id: bytes | bytearray, number: int) -> None:
        slot = int.from_bytes(blob_id[:8], "little") & self._mask
        while self._slots[slot]:
            slot = (slot + 1) & self._mask
        self._slots[slot] = number

    def _grow(self) -> None:
        size = 2 * len(self._slots)
        self._slots = array("I", [0]) * size
        self._mask = size - 1
        for number in range(len(self)):
            self._enter(self._records[number * _SIZE : number * _SIZE + 8], number + 1)

    def find(self, blob_id: bytes) -> Iterator[tuple[int, int, int, int]]:
        """Every ``(pack number, offset, length, raw length)`` of ``blob_id``."""
        slot = int.from_bytes(blob_id[:8], "little") & self._mask
        while number := self._slots[slot]:
            at = (number - 1) * _SIZE
            if self._records[at : at + 32] == blob_id:
                yield _PLACE.unpack_from(self._records, at + 32)
            slot = (slot + 1) & self._mask

    def __contains__(self, blob_id: bytes) -> bool:
        return next(self.find(blob_id), None) is not None

    def memory_bytes(self) -> int:
        """What the table takes."""
        return len(self._records) + 4 * len(self._slots)


class Index:
    """All blobs that a repository is known to hold.  Not locked: the repository guards it."""

    def __init__(self) -> None:
        self._packs: list[bytes] = []
        self._tables = {BlobType.DATA: BlobTable(), BlobType.TREE: BlobTable()}

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def add_pack(self, pack_id: bytes, blobs: list[PackedBlob]) -> None:
        """Record a pack and its blobs."""
        number = len(self._packs)
        self._packs.append(pack_id)
        for blob in blobs:
            self._tables[blob.type].add(blob.id, number, blob.offset, blob.length, blob.raw_length)

    def add_file(self, file: IndexFile, pack_sizes: Mapping[str, int] | None = None) -> list[str]:
        """Record what an index file says; the names of packs that were passed over.

        With ``pack_sizes`` (bytes, by name) a pack that is not there, or is shorter than its blobs, is passed over.
        Raises ValueError or struct.error when it cannot be so.
        """
        absent: list[str] = []
        for pack in file.packs or ():
            blobs = pack.blobs or ()
            end = max((blob.offset + blob.length for blob in blobs), default=0)
            if pack_sizes is not None and pack_sizes.get(pack.id, -1) < end:
                absent.append(pack.id)
                continue
            number = len(self._packs)
            self._packs.append(_id(pack.id))
            for blob in blobs:
                self._tables[blob.type].add(_id(blob.id), number, blob.offset, blob.length, blob.uncompressed_length)
        return absent

    def has(self, blob_type: BlobType, blob_id: bytes) -> bool:
        """Whether the blob is known."""
        return blob_id in self._tables[blob_type]

    def find(self, blob_type: BlobType, blob_id: bytes) -> Location | None:
        """Where the blob lies; None when it is not known."""
        return next(self.find_all(blob_type, blob_id), None)

    def find_all(self, blob_type: BlobType, blob_id: bytes) -> Iterator[Location]:
        """Every place where the blob lies."""
        for pack, offset, length, raw_length in self._tables[blob_type].find(blob_id):
            yield Location(self._packs[pack], offset, length, raw_length)

    def packs(self) -> Iterator[bytes]:
        """Ids of all packs known."""
        return iter(self._packs)

    def memory_bytes(self) -> int:
        """What the blob tables take."""
        return sum(table.memory_bytes() for table in self._tables.values())


def _id(text: str) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != ID_BYTES:
        raise ValueError(f"{text!r} is not an id")
    return raw


def index_pack(pack_id: bytes, blobs: list[PackedBlob]) -> IndexPack:
    """A pack as an index file names it."""
    return IndexPack(pack_id.hex(), [IndexBlob(b.id.hex(), b.type, b.offset, b.length, b.raw_length) for b in blobs])
