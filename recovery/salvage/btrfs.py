"""Files of a broken btrfs: everything in it has a checksum, its files' contents too, so what is whole is known.

Read are the newest of its superblocks and, where the tree of its trees is damaged, the older roots that it knows; each
node and each block of data from whichever copy is right.  Of several devices only this one is read.

Source of the layout: the kernel's Documentation/filesystems/btrfs and the header uapi/linux/btrfs_tree.h.
"""

from __future__ import annotations

import bisect
import hashlib
import stat
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import zstandard
from dissect.util.compression import lzo

from recovery.extent import Extents
from recovery.salvage.checksums import crc32c, xxhash64
from recovery.salvage.entry import MOST_BYTES, NAMELESS, Entry, Form, guarded, joined
from recovery.salvage.medium import PIECE_BYTES, BadArea, Window
from recovery.units import GIB, KIB, MIB

_SUPERBLOCKS = (64 * KIB, 64 * MIB, 256 * GIB)
_MAGIC = b"_BHRfS_M"
_FS_TREE, _CHECKSUM_TREE, _FIRST_FREE = 5, 7, 256
_INODE, _REF, _LONG_REF, _ATTRIBUTE, _NAME, _EXTENT, _CHECKSUMS, _ROOT, _ROOT_REF, _CHUNK = (
    1, 12, 13, 24, 96, 108, 128, 132, 156, 228,
)  # fmt: skip
_CHECKSUM_OWNER = (1 << 64) - 10
_KEY, _HEADER_BYTES, _ITEM_BYTES, _POINTER_BYTES = struct.Struct("<QBQ"), 101, 25, 33
_STRIPED = 8 | 64 | 128 | 256
_NO_CHECKSUMS = 1
_INLINE, _REGULAR = 0, 1
_CHECKSUM_BYTES = {0: 4, 1: 8, 2: 32, 3: 32}
_MOST_LEVEL, _REMEMBERED, _DEEPEST, _MOST_EXTENT = 8, 512, 4096, 128 * MIB
_FORMS = {
    stat.S_IFREG: Form.FILE,
    stat.S_IFDIR: Form.FOLDER,
    stat.S_IFLNK: Form.LINK,
    stat.S_IFCHR: Form.SPECIAL,
    stat.S_IFBLK: Form.SPECIAL,
    stat.S_IFIFO: Form.SPECIAL,
    stat.S_IFSOCK: Form.SPECIAL,
}

_Key = tuple[int, int, int]


class NotBtrfs(Exception):
    """No superblock is there, or none that leads anywhere."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    start: int
    length: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of a tree; without ``data``: from ``key`` on up to ``end`` nothing is known, a node is damaged."""

    key: _Key
    data: bytes | None
    end: _Key | None = None


@dataclass(slots=True)
class _Inode:
    """All that the items of one inode say."""

    number: int
    raw: bytes = b""
    names: list[tuple[int, bytes]] = field(default_factory=list)
    attributes: list[tuple[str, bytes]] = field(default_factory=list)
    extents: list[tuple[int, bytes]] = field(default_factory=list)
    torn: bool = False

    @property
    def mode(self) -> int:
        return int(struct.unpack_from("<I", self.raw, 52)[0])

    @property
    def size_bytes(self) -> int:
        return int(struct.unpack_from("<Q", self.raw, 16)[0])

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Btrfs:
    """A btrfs in ``window``.  Raises NotBtrfs."""

    kind = "btrfs"

    def __init__(self, window: Window) -> None:
        self._window = window
        self.findings: list[str] = []
        self.notes: list[str] = []
        self._nodes: OrderedDict[int, bytes] = OrderedDict()
        self._chunks: list[_Chunk] = []
        self._open()

    # -- opening

    def _open(self) -> None:
        found = []
        for place in _SUPERBLOCKS:
            try:
                raw = self._window.read(place, 4096)
            except BadArea:
                continue
            if raw[64:72] == _MAGIC and struct.unpack_from("<Q", raw, 48)[0] == place and self._is_right(raw):
                found.append((int(struct.unpack_from("<Q", raw, 72)[0]), -place, raw))
        if not found:
            raise NotBtrfs("there is no superblock")
        _, place, raw = max(found)
        if -place != _SUPERBLOCKS[0]:
            self.notes.append("Its first superblock is damaged; one of its copies was used.")
        self._read_superblock(raw)

    def _is_right(self, raw: bytes) -> bool:
        return _checksum(struct.unpack_from("<H", raw, 196)[0], raw[32:]) == raw[: _checksum_bytes(raw)]

    def _read_superblock(self, raw: bytes) -> None:
        self.fsid = raw[571:587] if any(raw[571:587]) else raw[32:48]
        sector, node = struct.unpack_from("<II", raw, 144)
        self._checksum_type, root_level, chunk_level = struct.unpack_from("<HBB", raw, 196)
        root, chunk_root, log_root = struct.unpack_from("<QQQ", raw, 80)
        (self._device,) = struct.unpack_from("<Q", raw, 201)
        self.label = raw[299:555].split(b"\0")[0].decode(errors="backslashreplace")
        if self._checksum_type not in _CHECKSUM_BYTES or not 512 <= sector <= 65536 or not 4096 <= node <= 65536:
            raise NotBtrfs("its superblock makes no sense")
        self._sector, self._node_bytes = sector, node
        if log_root:
            self.findings.append(
                "It was not closed cleanly: what was written in the last seconds may be only in its log, and is not "
                "looked for there."
            )
        if struct.unpack_from("<Q", raw, 136)[0] > 1:
            self.findings.append("It lies on several disks, of which this is one: what is on the others is not had.")
        size = min(2048, struct.unpack_from("<I", raw, 160)[0])
        at = 811
        while at + 17 + 48 <= 811 + size:
            _, _, start = _KEY.unpack_from(raw, at)
            at += 17 + self._add_chunk(start, raw[at + 17 :])
        backups = [raw[2859 + 168 * number :][:168] for number in range(4)]
        older = sorted(backups, key=lambda backup: struct.unpack_from("<Q", backup, 8)[0], reverse=True)
        chunk_roots = [(chunk_root, chunk_level)]
        roots = [(root, root_level)]
        for backup in older:
            roots.append((struct.unpack_from("<Q", backup)[0], backup[152]))
            chunk_roots.append((struct.unpack_from("<Q", backup, 16)[0], backup[153]))
        self._read_chunks(chunk_roots)
        self._choose_root(roots)
        if _CHECKSUM_TREE not in self._trees:
            self.findings.append("The checksums of its files are lost.")

    def _read_chunks(self, roots: list[tuple[int, int]]) -> None:
        for root, level in roots:
            whole = True
            for item in self._items(root, level):
                if item.data is None:
                    whole = False
                elif item.key[1] == _CHUNK:
                    self._add_chunk(item.key[2], item.data)
            if whole:
                return
        self.findings.append("The list of where its parts lie is damaged: some of them may not be found.")

    def _add_chunk(self, start: int, raw: bytes) -> int:
        """Learn where a chunk lies; how many bytes that took."""
        if len(raw) < 48:
            return 48
        length, _, _, kind = struct.unpack_from("<QQQQ", raw)
        stripes = int(struct.unpack_from("<H", raw, 44)[0])
        places = []
        for number in range(stripes):
            if 48 + 32 * (number + 1) > len(raw):
                break
            device, place = struct.unpack_from("<QQ", raw, 48 + 32 * number)
            if device == self._device:
                places.append(place)
        if places and (stripes == 1 or not kind & _STRIPED) and all(chunk.start != start for chunk in self._chunks):
            bisect.insort(self._chunks, _Chunk(start, length, tuple(places)), key=lambda chunk: chunk.start)
        return 48 + 32 * stripes

    def _choose_root(self, roots: list[tuple[int, int]]) -> None:
        """The newest tree of trees that can be read."""
        best: tuple[int, dict[int, tuple[int, int]]] | None = None
        for number, (root, level) in enumerate(roots):
            trees, whole = self._trees_of(root, level)
            if number == 0 and whole and _FS_TREE in trees:
                self._trees = trees
                self._refs = self._refs_of(root, level)
                return
            if _FS_TREE in trees and self._opens(trees[_FS_TREE]) and (best is None or len(trees) > len(best[1])):
                best = (number, trees)
        if best is None:
            raise NotBtrfs("none of its trees can be read")
        self._trees = best[1]
        self._refs = self._refs_of(*roots[best[0]])
        age = "an older state of it was used: what was written since is missing" if best[0] else "not all was found"
        self.findings.append(f"The tree of its trees is damaged; {age}.")

    def _opens(self, tree: tuple[int, int]) -> bool:
        try:
            self._node(*tree)
        except BadArea:
            return False
        return True

    def _trees_of(self, root: int, level: int) -> tuple[dict[int, tuple[int, int]], bool]:
        """Place and level of each tree, and whether the tree of trees is whole."""
        trees: dict[int, tuple[int, int]] = {}
        whole = True
        for item in self._items(root, level):
            if item.data is None:
                whole = False
            elif item.key[1] == _ROOT and len(item.data) >= 239:
                trees[item.key[0]] = (struct.unpack_from("<Q", item.data, 176)[0], item.data[238])
        return trees, whole

    def _refs_of(self, root: int, level: int) -> dict[int, tuple[int, int, bytes]]:
        """Of each subvolume: the tree and the folder that it is in, and its name."""
        refs: dict[int, tuple[int, int, bytes]] = {}
        for item in self._items(root, level):
            if item.data is not None and item.key[1] == _ROOT_REF and len(item.data) >= 18:
                folder, _, length = struct.unpack_from("<QQH", item.data)
                refs[item.key[2]] = (item.key[0], folder, item.data[18 : 18 + length])
        return refs

    # -- trees

    def _places(self, logical: int, length: int) -> list[int]:
        """Where these bytes lie, in each copy.  Raises BadArea where that is not known."""
        index = bisect.bisect_right(self._chunks, logical, key=lambda chunk: chunk.start) - 1
        if index >= 0:
            chunk = self._chunks[index]
            if logical + length <= chunk.start + chunk.length:
                return [place + logical - chunk.start for place in chunk.places]
        raise BadArea(f"byte {logical} lies on no part of this disk")

    def _node(self, logical: int, level: int) -> bytes:
        """A node from whichever copy of it is right.  Raises BadArea."""
        known = self._nodes.get(logical)
        if known is not None and known[100] == level:
            self._nodes.move_to_end(logical)
            return known
        for place in self._places(logical, self._node_bytes):
            try:
                raw = self._window.read(place, self._node_bytes)
            except BadArea:
                continue
            told = raw[: _CHECKSUM_BYTES[self._checksum_type]]
            right = _checksum(self._checksum_type, raw[32:]) == told and raw[32:48] == self.fsid
            if right and struct.unpack_from("<Q", raw, 48)[0] == logical and raw[100] == level <= _MOST_LEVEL:
                self._nodes[logical] = raw
                if len(self._nodes) > _REMEMBERED:
                    self._nodes.popitem(last=False)
                return raw
        raise BadArea(f"the node at byte {logical} is damaged")

    def _items(
        self, logical: int, level: int, start: _Key = (0, 0, 0), end: _Key | None = None, seen: set[int] | None = None
    ) -> Iterator[_Item]:
        """The items of a tree in their order, from the last that is not behind ``start`` on."""
        seen = set() if seen is None else seen
        try:
            if logical in seen:  # no node is in a tree twice
                raise BadArea(f"the node at byte {logical} is in a circle")
            seen.add(logical)
            node = self._node(logical, level)
        except BadArea:
            yield _Item(start, None, end)
            return
        (count,) = struct.unpack_from("<I", node, 96)
        step = _POINTER_BYTES if level else _ITEM_BYTES
        if count > (len(node) - _HEADER_BYTES) // step:
            yield _Item(start, None, end)
            return
        keys = _Keys(node, count, step)
        first = max(0, bisect.bisect_right(keys, start) - 1)
        for number in range(first, count):
            at = _HEADER_BYTES + number * step
            key = keys[number]
            if not level:
                place, size = struct.unpack_from("<II", node, at + 17)
                yield _Item(key, node[_HEADER_BYTES + place : _HEADER_BYTES + place + size])
                continue
            (child,) = struct.unpack_from("<Q", node, at + 17)
            stop = keys[number + 1] if number + 1 < count else end
            yield from self._items(child, level - 1, max(start, key), stop, seen)

    # -- checksums of data

    def read_data(self, logical: int, length: int, *, checked: bool) -> tuple[bytes, Extents, bool]:
        """Bytes of files, and which of them are not as they were written or cannot be read, from 0 on.

        The last tells that they were to be ``checked``, and that not all of their checksums are there.
        """
        try:
            places = self._places(logical, length)
        except BadArea:
            return bytes(length), Extents([(0, length)]), False
        wanted = self._checksums(logical, length) if checked else {}
        unvouched = checked and len(wanted) < -(-length // self._sector)
        out, bad = self._window.content(places[0], length)
        wrong = self._wrong(out, bad.shift(-places[0]), logical, wanted)
        for place in places[1:]:
            if not wrong:
                break
            other, other_bad = self._window.content(place, length)
            other_wrong = self._wrong(other, other_bad.shift(-place), logical, wanted)
            good = bytearray(out)
            for gap in wrong.subtract(other_wrong):
                good[gap.offset : gap.end] = other[gap.offset : gap.end]
            out, wrong = bytes(good), wrong.intersect(other_wrong)
        if wrong:
            good = bytearray(out)
            for gap in wrong:
                good[gap.offset : gap.end] = bytes(gap.length)
            out = bytes(good)
        return out, wrong, unvouched

    def _wrong(self, data: bytes, bad: Extents, logical: int, wanted: dict[int, bytes]) -> Extents:
        found = []
        for at in range(0, len(data), self._sector):
            told = wanted.get(logical + at)
            if told is not None and _checksum(self._checksum_type, data[at : at + self._sector]) != told:
                found.append((at, min(self._sector, len(data) - at)))
        return bad.union(Extents(found))

    def _checksums(self, logical: int, length: int) -> dict[int, bytes]:
        """The checksum of each block, by where it lies; blocks without are left out."""
        tree = self._trees.get(_CHECKSUM_TREE)
        found: dict[int, bytes] = {}
        if tree is None:
            return found
        width = _CHECKSUM_BYTES[self._checksum_type]
        for item in self._items(*tree, start=(_CHECKSUM_OWNER, _CHECKSUMS, logical)):
            if item.data is None:
                continue
            owner, kind, start = item.key
            if (owner, kind) > (_CHECKSUM_OWNER, _CHECKSUMS) or start >= logical + length:
                break
            if (owner, kind) != (_CHECKSUM_OWNER, _CHECKSUMS):
                continue
            low = max(0, (logical - start) // self._sector)
            high = min(len(item.data) // width, -(-(logical + length - start) // self._sector))
            for index in range(low, high):
                found[start + index * self._sector] = item.data[index * width : (index + 1) * width]
        return found

    # -- walking

    def walk(self) -> Iterator[Entry]:
        """Each subvolume, the topmost first; folders before files."""
        order = sorted(tree for tree in self._trees if tree == _FS_TREE or _FIRST_FREE <= tree < 1 << 63)
        places: dict[int, dict[int, bytes]] = {}
        for tree in sorted(order, key=self._depth):
            root = self._root_path(tree, places)
            if root and tree != _FS_TREE:
                yield Entry(root, Form.FOLDER, mode=0o755)
            yield from self._walk_tree(tree, root, places)

    def _depth(self, tree: int) -> tuple[int, int]:
        depth, at = 0, tree
        while at in self._refs and depth < _DEEPEST:
            at, depth = self._refs[at][0], depth + 1
        return depth, tree

    def _root_path(self, tree: int, places: dict[int, dict[int, bytes]]) -> bytes:
        if tree == _FS_TREE:
            return b""
        parent, folder, name = self._refs.get(tree, (0, 0, b""))
        above = places.get(parent, {}).get(folder)
        name = name.replace(b"/", b"_") or f"subvolume-{tree}".encode()
        return joined(NAMELESS if above is None else above, name)

    def _walk_tree(self, tree: int, root: bytes, places: dict[int, dict[int, bytes]]) -> Iterator[Entry]:
        folders: dict[int, tuple[int, bytes]] = {}
        met: set[int] = set()
        gaps = 0
        for inode in self._inodes(tree):
            gaps += inode.torn
            if not inode.raw:
                continue
            met.add(inode.number)
            if inode.is_folder and inode.number != _FIRST_FREE:
                folders[inode.number] = inode.names[0] if inode.names else (0, b"")
        paths = {_FIRST_FREE: root}
        for number in folders:
            self._path(number, folders, paths, root)
        places[tree] = paths
        told = sorted(folders, key=lambda number: (paths[number].count(b"/"), paths[number]))
        pending = set(told)
        described: dict[int, Entry] = {}
        for inode in self._inodes(tree):
            if inode.raw and inode.number in pending:
                described[inode.number] = self._describe(inode, paths[inode.number])
        for number in told:
            yield described.pop(number)
        for inode in self._inodes(tree):
            if inode.raw and not inode.is_folder and inode.number >= _FIRST_FREE:
                yield from self._describe_all(inode, paths, root)
        if gaps:
            yield from self._walk_lost(tree, met, paths, root)
            self.findings.append("Some of its nodes are damaged: what is listed as lost was named by what is left.")

    def _path(self, number: int, folders: dict[int, tuple[int, bytes]], paths: dict[int, bytes], root: bytes) -> None:
        chain: list[int] = []
        at = number
        while at not in paths and at in folders and at not in chain:
            chain.append(at)
            at = folders[at][0]
        base = paths.get(at, joined(root, NAMELESS))
        for step in reversed(chain):
            base = joined(base, folders[step][1].replace(b"/", b"_") or f"folder-{step}".encode())
            paths[step] = base

    def _inodes(self, tree: int) -> Iterator[_Inode]:
        """What the tree says of each inode, in their order."""
        current = _Inode(-1)
        for item in self._items(*self._trees[tree]):
            if item.data is None:
                if item.key[0] > current.number >= 0:  # it lost nothing itself
                    yield current
                    current = _Inode(-1)
                current.torn = True
                continue
            number, kind, offset = item.key
            if number != current.number:
                if current.number >= 0 or current.torn:
                    yield current
                current = _Inode(number, torn=False)
            self._learn(current, kind, offset, item.data)
        yield current

    @staticmethod
    def _learn(inode: _Inode, kind: int, offset: int, data: bytes) -> None:
        if kind == _INODE and len(data) >= 160 and struct.unpack_from("<Q", data, 16)[0] <= MOST_BYTES:
            inode.raw = data
        elif kind == _REF:
            at = 0
            while at + 10 <= len(data):
                (length,) = struct.unpack_from("<H", data, at + 8)
                inode.names.append((offset, data[at + 10 : at + 10 + length]))
                at += 10 + length
        elif kind == _LONG_REF:
            at = 0
            while at + 18 <= len(data):
                parent, _, length = struct.unpack_from("<QQH", data, at)
                inode.names.append((parent, data[at + 18 : at + 18 + length]))
                at += 18 + length
        elif kind == _ATTRIBUTE:
            for _, _, name, value in _named(data):
                inode.attributes.append((name.decode(errors="surrogateescape"), value))
        elif kind == _EXTENT and len(data) >= 21:
            inode.extents.append((offset, data))

    def _describe_all(self, inode: _Inode, paths: dict[int, bytes], root: bytes) -> Iterator[Entry]:
        names = inode.names or [(0, f"file-{inode.number}".encode())]
        for parent, name in names:
            folder = paths.get(parent, joined(root, NAMELESS))
            entry = self._describe(inode, joined(folder, name.replace(b"/", b"_")))
            entry.identity = inode.number if len(names) > 1 else None
            yield entry

    def _describe(self, inode: _Inode, path: bytes) -> Entry:
        owner = struct.unpack_from("<II", inode.raw, 44)
        accessed, modified = (struct.unpack_from("<QI", inode.raw, at) for at in (112, 136))
        form = _FORMS.get(stat.S_IFMT(inode.mode), Form.SPECIAL)
        entry = Entry(
            path,
            form,
            size_bytes=inode.size_bytes,
            mode=stat.S_IMODE(inode.mode),
            owner=(owner[0], owner[1]),
            times_ns=(accessed[0] * 10**9 + accessed[1], modified[0] * 10**9 + modified[1]),
            attributes=tuple(inode.attributes),
        )
        if form in (Form.FILE, Form.LINK):
            content = _Content(self, inode, self._sector)
            if inode.torn:
                entry.problem = "a part of its map is lost"
            if form is Form.FILE:
                entry.content = content
            else:
                data = b"".join(piece for _, piece, bad in content.pieces() if not bad)
                entry.target = data[: inode.size_bytes]
                if len(entry.target) != inode.size_bytes or not entry.target:
                    entry.problem, entry.lost = "where it leads to is lost", True
        return entry

    def _walk_lost(self, tree: int, met: set[int], paths: dict[int, bytes], root: bytes) -> Iterator[Entry]:
        """What folders name that has no inode any more."""
        for item in self._items(*self._trees[tree]):
            if item.data is None or item.key[1] != _NAME:
                continue
            for target, kind, name, _ in _named(item.data):
                if kind == 1 and target not in met:
                    met.add(target)
                    folder = paths.get(item.key[0], joined(root, NAMELESS))
                    path = joined(folder, name.replace(b"/", b"_"))
                    is_folder = len(item.data) > 29 and item.data[29] == 2
                    yield Entry(path, Form.FOLDER if is_folder else Form.FILE, problem="its inode is lost", lost=True)


@dataclass(slots=True)
class _Content:
    """A file's content, by its extents; what is compressed is unpacked, and what has checksums is held against them."""

    filesystem: Btrfs
    inode: _Inode
    sector: int
    doubt: str = ""

    def pieces(self) -> Iterator[tuple[int, bytes, Extents]]:
        """In the order of the file."""
        checked = not struct.unpack_from("<Q", self.inode.raw, 64)[0] & _NO_CHECKSUMS
        for at, raw in self.inode.extents:
            _, whole, packed, locked, _, kind = struct.unpack_from("<QQBBHB", raw)
            if kind == _INLINE:
                yield self._inline(at, raw[21:], packed, whole)
            elif len(raw) >= 53:
                place, size, offset, length = struct.unpack_from("<QQQQ", raw, 21)
                if not place or kind != _REGULAR:
                    continue
                if max(at, place, offset, length) > MOST_BYTES:
                    self.doubt = "its map is damaged"
                    continue
                if locked or size > _MOST_EXTENT or whole > _MOST_EXTENT:
                    yield at, b"", Extents([(at, length)])
                elif packed:
                    yield self._unpacked(at, (place, size, offset, length), packed, whole, checked)
                else:
                    yield from self._plain(at, place + offset, length, checked)

    def _inline(self, at: int, data: bytes, packed: int, whole: int) -> tuple[int, bytes, Extents]:
        plain = _unpack(data, packed, whole, self.sector)
        if plain is None:
            return at, b"", Extents([(at, whole)])
        return at, plain[:whole], Extents()

    def _plain(self, at: int, place: int, length: int, checked: bool) -> Iterator[tuple[int, bytes, Extents]]:
        for done in range(0, length, PIECE_BYTES):
            count = min(PIECE_BYTES, length - done)
            data, bad = self._read(place + done, count, checked)
            yield at + done, data, self._inside(bad.shift(at + done))

    def _unpacked(
        self, at: int, where: tuple[int, int, int, int], packed: int, whole: int, checked: bool
    ) -> tuple[int, bytes, Extents]:
        place, size, offset, length = where
        data, bad = self._read(place, size, checked)
        plain = None if bad else _unpack(data, packed, whole, self.sector)
        needed = min(length, self.inode.size_bytes - at)
        if plain is None or len(plain) - offset < needed:
            return at, b"", self._inside(Extents([(at, length)]))
        return at, plain[offset : offset + length], Extents()

    def _read(self, place: int, length: int, checked: bool) -> tuple[bytes, Extents]:
        data, bad, unvouched = self.filesystem.read_data(place, length, checked=checked)
        if unvouched:
            self.doubt = "its checksums are lost: nothing tells whether it is as it was written"
        return data, bad

    def _inside(self, bad: Extents) -> Extents:
        """What of it is before the file's end."""
        size = self.inode.size_bytes
        return Extents((gap.offset, min(gap.end, size) - gap.offset) for gap in bad if gap.offset < size)


class _Keys:
    """The keys of a node, to be searched."""

    def __init__(self, node: bytes, count: int, step: int) -> None:
        self._node, self._count, self._step = node, count, step

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> _Key:
        found: _Key = _KEY.unpack_from(self._node, _HEADER_BYTES + number * self._step)
        return found


def _named(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Target, its type, name and value of what a folder's entry, or one of attributes, says."""
    at = 0
    while at + 30 <= len(data):
        target, kind, _ = _KEY.unpack_from(data, at)
        value_length, name_length = struct.unpack_from("<HH", data, at + 25)
        start = at + 30
        yield target, kind, data[start : start + name_length], data[start + name_length :][:value_length]
        at = start + name_length + value_length


def _checksum(kind: int, data: bytes) -> bytes:
    """The checksum of ``data`` in the width that is stored; nothing for a kind that is not known."""
    match kind:
        case 0:
            return (crc32c(data) ^ 0xFFFFFFFF).to_bytes(4, "little")
        case 1:
            return xxhash64(data).to_bytes(8, "little")
        case 2:
            return hashlib.sha256(data).digest()
        case 3:
            return hashlib.blake2b(data, digest_size=32).digest()
    return b""


def _checksum_bytes(superblock: bytes) -> int:
    return _CHECKSUM_BYTES.get(struct.unpack_from("<H", superblock, 196)[0], 4)


def _unpack(data: bytes, packed: int, whole: int, sector: int) -> bytes | None:
    """The plain bytes; None for what cannot be unpacked."""
    try:
        match packed:
            case 0:
                return data
            case 1:
                return guarded(lambda: zlib.decompressobj().decompress(data, whole))
            case 2:
                return guarded(lambda: _unpack_lzo(data, whole, sector))
            case 3:
                return guarded(lambda: zstandard.ZstdDecompressor().decompressobj().decompress(data))[:whole]
    except BadArea:
        pass
    return None


def _unpack_lzo(data: bytes, whole: int, sector: int) -> bytes:
    (total,) = struct.unpack_from("<I", data)
    out = bytearray()
    at = 4
    while at + 4 <= min(total, len(data)) and len(out) < whole:
        (length,) = struct.unpack_from("<I", data, at)
        out += lzo.decompress(data[at + 4 : at + 4 + length], False, sector)
        at += 4 + length
        if sector - at % sector < 4:
            at += sector - at % sector
    return bytes(out[:whole])
