"""Btrfs on one device: has it a log tree, and what its extent tree says is allocated.

partclone's map of btrfs leaves out what the filesystem cannot do without (0.3.23: inner nodes of trees; up to 0.3.36:
the second copy of the chunk tree), so this reads the chunk tree and the extent tree itself.  The extent tree lists
every allocated range of logical addresses, metadata included; the chunk tree says where those lie on the device.

Source: the btrfs documentation, "On-disk Format".  Little-endian throughout.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from recovery.extent import Extent, Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, NotClosedCleanly
from recovery.units import GIB, KIB, MIB

_SUPERBLOCK = 64 * KIB
_RESERVED = 1 * MIB  # for boot loaders; btrfs allocates nothing there
_SUPERBLOCK_COPIES = (64 * MIB, 256 * GIB)
#: Incompatible features up to Linux 6.x that leave extents and chunks as they are: all but zoned, the second
#: extent tree, the RAID stripe tree and whatever comes after.
_KNOWN_INCOMPAT = 0xFFF
_EXTENT_TREE = 2
_ROOT_ITEM, _EXTENT_ITEM, _METADATA_ITEM, _CHUNK_ITEM = 132, 168, 169, 228
_PROFILES, _DUP = 0x7F8, 0x20
_HEADER = 101
_MAX_NODES = 1 << 22

_KEY = struct.Struct("<QBQ")
_ITEM = struct.Struct("<QBQII")
_POINTER = struct.Struct("<QBQQQ")


@dataclass(frozen=True, slots=True)
class _Superblock:
    root: int
    chunk_root: int
    log_root: int
    node_bytes: int
    device: int
    system_chunks: bytes


@dataclass(frozen=True, slots=True)
class _Chunk:
    """``length`` bytes of logical addresses from ``logical`` on, and where each copy lies on the device."""

    logical: int
    length: int
    copies: tuple[int, ...]


def inspect(source: FilesystemSource, *, ask_closed: bool = True) -> Inspection:
    """Raises CaptureWhole when it has a log tree, spans several devices, or cannot be followed through its trees."""
    superblock = _read_superblock(source)
    if ask_closed and superblock.log_root:
        raise NotClosedCleanly("btrfs", "it has a log tree to replay")
    trees = _Trees(source, superblock)
    trees.learn_chunks()
    ranges = trees.allocated()
    copies = [(place, 4 * KIB) for place in _SUPERBLOCK_COPIES if place + 4 * KIB <= source.size_bytes]
    return Inspection(required=ranges, besides=Extents([(0, _RESERVED), *copies]))


def log_trees(source: FilesystemSource) -> Extents:
    """Every copy of the nodes of its log trees, which no extent tree lists: they are allocated behind its back."""
    superblock = _read_superblock(source)
    trees = _Trees(source, superblock)
    trees.learn_chunks()
    return trees.logs() if superblock.log_root else Extents()


def _read_superblock(source: FilesystemSource) -> _Superblock:
    raw = source.read(_SUPERBLOCK, 4 * KIB)
    (own_place, _, magic) = struct.unpack_from("<QQ8s", raw, 48)
    (root, chunk_root, log_root) = struct.unpack_from("<QQQ", raw, 80)
    (devices, sector_bytes, node_bytes) = struct.unpack_from("<QII", raw, 136)
    (system_bytes,) = struct.unpack_from("<I", raw, 160)
    (incompat,) = struct.unpack_from("<Q", raw, 188)
    if magic != b"_BHRfS_M" or own_place != _SUPERBLOCK or system_bytes > 2048:
        raise CaptureWhole("its btrfs superblock is damaged")
    if node_bytes not in (4096, 8192, 16384, 32768, 65536) or not 512 <= sector_bytes <= node_bytes:
        raise CaptureWhole("its btrfs superblock is damaged")
    if devices != 1:
        raise CaptureWhole("btrfs over several devices")
    if incompat & ~_KNOWN_INCOMPAT:
        raise CaptureWhole("btrfs with features that this program does not know")
    (device,) = struct.unpack_from("<Q", raw, 201)
    return _Superblock(root, chunk_root, log_root, node_bytes, device, raw[811 : 811 + system_bytes])


class _Trees:
    """Reads the trees of one btrfs."""

    def __init__(self, source: FilesystemSource, superblock: _Superblock) -> None:
        self._source = source
        self._superblock = superblock
        self._chunks: list[_Chunk] = []
        self._starts: list[int] = []

    def learn_chunks(self) -> None:
        """The system chunks from the superblock lead to the chunk tree, which lists all."""
        raw, position = self._superblock.system_chunks, 0
        system = []
        while position < len(raw):
            (_, kind, logical) = _KEY.unpack_from(raw, position)
            if kind != _CHUNK_ITEM:
                raise CaptureWhole("its btrfs superblock is damaged")
            position += _KEY.size
            (stripes,) = struct.unpack_from("<H", raw, position + 44)
            system.append(_chunk(logical, raw[position:], self._superblock.device))
            position += 48 + 32 * stripes
        self._set_chunks(system)
        found = [
            _chunk(logical, data, self._superblock.device)
            for (_, kind, logical), data in self._items(self._superblock.chunk_root)
            if kind == _CHUNK_ITEM
        ]
        self._set_chunks(found)

    def allocated(self) -> Extents:
        """Every allocated byte of the device: all copies of what the extent tree lists."""
        logical = Extents(self._allocated_addresses())
        pieces, mapped = [], 0
        for chunk in self._chunks:
            inside = logical.clip(Extent(chunk.logical, chunk.length))
            mapped += inside.total_bytes
            pieces += [(copy, inside.shift(copy - chunk.logical)) for copy in chunk.copies]
        if mapped != logical.total_bytes:
            raise CaptureWhole("btrfs whose extents lie outside of its chunks")
        pieces.sort(key=lambda piece: piece[0])
        return Extents(extent for _, piece in pieces for extent in piece)

    def logs(self) -> Extents:
        """Where every copy of every node of the log trees lies."""
        nodes: list[int] = []
        for (_, kind, _), data in self._items(self._superblock.log_root, nodes):
            if kind == _ROOT_ITEM:
                for _ in self._items(int(struct.unpack_from("<Q", data, 176)[0]), nodes):
                    pass
        length = self._superblock.node_bytes
        places = [(chunk, node - chunk.logical) for node in nodes for chunk in [self._chunk_of(node, length)]]
        return Extents(sorted((copy + inside, length) for chunk, inside in places for copy in chunk.copies))

    def _allocated_addresses(self) -> Iterator[tuple[int, int]]:
        for (logical, kind, offset), _ in self._items(self._extent_root()):
            if kind == _EXTENT_ITEM:
                yield logical, offset
            elif kind == _METADATA_ITEM:
                yield logical, self._superblock.node_bytes

    def _extent_root(self) -> int:
        for (tree, kind, _), data in self._items(self._superblock.root):
            if (tree, kind) == (_EXTENT_TREE, _ROOT_ITEM):
                return int(struct.unpack_from("<Q", data, 176)[0])
        raise CaptureWhole("btrfs without an extent tree")

    def _set_chunks(self, chunks: list[_Chunk]) -> None:
        self._chunks = sorted(chunks, key=lambda chunk: chunk.logical)
        self._starts = [chunk.logical for chunk in self._chunks]

    def _chunk_of(self, logical: int, length: int) -> _Chunk:
        index = bisect_right(self._starts, logical) - 1
        if index < 0 or logical + length > self._chunks[index].logical + self._chunks[index].length:
            raise CaptureWhole("btrfs whose trees point outside of its chunks")
        return self._chunks[index]

    def _items(self, root: int, visited: list[int] | None = None) -> Iterator[tuple[tuple[int, int, int], bytes]]:
        """Key and data of every item of a tree, in the order of the keys; its nodes are noted in ``visited``."""
        pending = [(root, -1)]
        nodes = 0
        while pending:
            logical, expected_level = pending.pop()
            nodes += 1
            node, level = self._node(logical, expected_level)
            if visited is not None:
                visited.append(logical)
            if nodes > _MAX_NODES:
                raise CaptureWhole("btrfs whose trees do not end")
            (count,) = struct.unpack_from("<I", node, 96)
            entry = _POINTER if level else _ITEM
            if _HEADER + count * entry.size > len(node):
                raise CaptureWhole("btrfs with a damaged tree")
            entries = entry.iter_unpack(memoryview(node)[_HEADER : _HEADER + count * entry.size])
            if level:
                pending += [(pointer[3], level - 1) for pointer in entries][::-1]
                continue
            for objectid, kind, offset, place, length in entries:
                yield (objectid, kind, offset), node[_HEADER + place : _HEADER + place + length]

    def _node(self, logical: int, expected_level: int) -> tuple[bytes, int]:
        chunk = self._chunk_of(logical, self._superblock.node_bytes)
        node = self._source.read(chunk.copies[0] + logical - chunk.logical, self._superblock.node_bytes)
        (own_place,) = struct.unpack_from("<Q", node, 48)
        level = node[100]
        if own_place != logical or level > 7 or (expected_level >= 0 and level != expected_level):
            raise CaptureWhole("btrfs with a damaged tree")
        return node, level


def _chunk(logical: int, raw: bytes, device: int) -> _Chunk:
    (length, _, _, kind) = struct.unpack_from("<QQQQ", raw)
    (stripes,) = struct.unpack_from("<H", raw, 44)
    if kind & _PROFILES & ~_DUP or stripes not in (1, 2) or (stripes == 2) != bool(kind & _DUP):
        raise CaptureWhole("btrfs with chunks spread over several devices")
    places = [struct.unpack_from("<QQ", raw, 48 + 32 * number) for number in range(stripes)]
    if any(on_device != device for on_device, _ in places):
        raise CaptureWhole("btrfs with chunks on another device")
    return _Chunk(logical, length, tuple(place for _, place in places))
