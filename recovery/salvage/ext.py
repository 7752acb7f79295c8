"""Files of a broken ext2, ext3 or ext4: what its checksums or its own cross references vouch for, and nothing else.

Read are the superblock and the group descriptors, or one of their copies; every inode table; every folder.  What
is in use and in no folder that can be read is given in a folder of its own, without its name.

Source of the layout: the kernel's Documentation/filesystems/ext4/.
"""

from __future__ import annotations

import bisect
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from recovery.extent import Extents
from recovery.salvage.checksums import crc16, crc32c
from recovery.salvage.entry import MOST_BYTES, NAMELESS, Entry, Form, Inline, Mapped, Run, doubt, gaps, joined
from recovery.salvage.ext_attributes import DATA, decode_attributes
from recovery.salvage.ext_journal import MAGIC_BYTES, read_journal
from recovery.salvage.medium import NONE, BadArea, Window
from recovery.units import GIB

_MAGIC, _EXTENT_MAGIC = 0xEF53, 0xF30A
_ROOT, _BAD_BLOCKS = 2, 1
_COMPAT_SPARSE2 = 0x200
_FILETYPE, _RECOVER, _META_BG, _64BIT, _CSUM_SEED = 0x2, 0x4, 0x10, 0x80, 0x2000
_SPARSE, _GDT_CSUM, _BIGALLOC, _METADATA_CSUM = 0x1, 0x10, 0x200, 0x400
_INDEX, _HUGE, _EXTENTS, _EA_INODE, _INLINE, _ENCRYPTED = 0x1000, 0x40000, 0x80000, 0x200000, 0x10000000, 0x800
_INODES_UNUSED = 0x1
_FORMS = {
    stat.S_IFREG: Form.FILE,
    stat.S_IFDIR: Form.FOLDER,
    stat.S_IFLNK: Form.LINK,
    stat.S_IFCHR: Form.SPECIAL,
    stat.S_IFBLK: Form.SPECIAL,
    stat.S_IFIFO: Form.SPECIAL,
    stat.S_IFSOCK: Form.SPECIAL,
}
#: The types that folder entries name, by the bits of the inode's mode.
_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_NODE, _LEAF, _BRANCH = struct.Struct("<HHHHI"), struct.Struct("<IHHI"), struct.Struct("<IIHH")
_NAME = struct.Struct("<IHBB")
_INODE = struct.Struct("<HHIIIIIHHII4x60sIIIIHHHHH")
_UNWRITTEN = 0x8000
_MOST_DEPTH, _MOST_COPIES, _MOST_TIMES, _MOST_RUNS = 5, 64, 64, 1 << 20
#: What this reader cannot follow: volumes whose descriptors or inodes lie elsewhere.
_UNKNOWN_INCOMPAT = ~(
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
)


class NotExt(Exception):
    """Neither the superblock nor one of its copies is there."""


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What a superblock says."""

    block_bytes: int
    blocks: int
    first_block: int
    blocks_per_group: int
    inodes: int
    inodes_per_group: int
    inode_bytes: int
    first_inode: int
    descriptor_bytes: int
    first_meta_group: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    seed: int
    backups: tuple[int, int]
    journal: int
    journal_map: bytes
    label: str

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    @property
    def checksums(self) -> bool:
        return bool(self.ro_compat & _METADATA_CSUM)

    def has_copy(self, group: int) -> bool:
        """Whether the superblock and the descriptors are in that group too."""
        if self.compat & _COMPAT_SPARSE2:
            return group == 0 or group in self.backups
        if group <= 1 or not self.ro_compat & _SPARSE:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))

    def start(self, group: int) -> int:
        """The first block of a group."""
        return self.first_block + group * self.blocks_per_group


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    mode: int
    size_bytes: int
    owner: tuple[int, int]
    times_ns: tuple[int, int]
    deleted: int
    links: int
    sectors: int
    flags: int
    map: bytes
    seed: int
    attribute_block: int
    inside: bytes
    vouched: bool

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def in_use(self) -> bool:
        return self.kind in _FORMS and self.links > 0 and not self.deleted


class Ext:
    """An ext filesystem in ``window``.  Raises NotExt when nothing tells its geometry."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.findings: list[str] = []
        self.notes: list[str] = []
        #: What lies before this place may be overwritten: it begins with nothing that is good.
        self._doubted_up_to = 0
        self._geometry = self._find_geometry()
        if self._geometry.incompat & _UNKNOWN_INCOMPAT:
            raise NotExt("it uses features that are not known here")
        self.label = self._geometry.label
        self._found_table = lru_cache(maxsize=1 << 16)(self._find_table)
        self._copy_groups = list(self._groups_with_copies())
        self._visited: set[int] = set()
        if self._geometry.incompat & _RECOVER:
            self._read_journal()

    # -- geometry

    def _find_geometry(self) -> _Geometry:
        reasons = []
        for group, offset in self._copies():
            try:
                return self._geometry_at(offset, group)
            except (BadArea, NotExt) as error:
                reasons.append(str(error))
            if group == 0:
                self.notes.append("Its superblock is damaged; one of its copies was used.")
                self._doubted_up_to = self._window.size_bytes
        raise NotExt(reasons[0])

    @staticmethod
    def _copies() -> Iterator[tuple[int, int]]:
        yield 0, 1024
        for group in (1, 3, 5, 7, 9, 25, 27, 49, 81, 125):
            for block_bytes in (4096, 1024, 2048, 8192, 16384, 32768, 65536):
                yield group, (group * 8 * block_bytes + (block_bytes == 1024)) * block_bytes

    def _geometry_at(self, offset: int, group: int) -> _Geometry:
        if offset + 1024 > self._window.size_bytes:
            raise NotExt("it is too small")
        raw = self._window.read(offset, 1024)

        def number(at: int, form: str = "I") -> int:
            return int(struct.unpack_from("<" + form, raw, at)[0])

        if number(0x38, "H") != _MAGIC or number(0x18) > 6 or number(0x5A, "H") != group:
            raise NotExt("there is no superblock")
        newer = number(0x4C) > 0
        incompat, ro_compat = (number(0x60), number(0x64)) if newer else (0, 0)
        if ro_compat & _METADATA_CSUM and crc32c(raw[:0x3FC]) != number(0x3FC):
            raise NotExt("its superblock is damaged")
        uuid = raw[0x68:0x78]
        block_bytes = 1024 << number(0x18)
        made = _Geometry(
            block_bytes=block_bytes,
            blocks=number(4) | (number(0x150) << 32 if incompat & _64BIT else 0),
            first_block=number(0x14),
            blocks_per_group=number(0x20),
            inodes=number(0),
            inodes_per_group=number(0x28),
            inode_bytes=number(0x58, "H") if newer else 128,
            first_inode=number(0x54) if newer else 11,
            descriptor_bytes=max(32, number(0xFE, "H")) if incompat & _64BIT else 32,
            first_meta_group=number(0x104),
            compat=number(0x5C) if newer else 0,
            incompat=incompat,
            ro_compat=ro_compat,
            uuid=uuid,
            seed=number(0x270) if incompat & _CSUM_SEED else crc32c(uuid),
            backups=(number(0x24C), number(0x250)),
            journal=number(0xE0),
            journal_map=raw[0x10C : 0x10C + 68],
            label=raw[0x78:0x88].split(b"\0")[0].decode(errors="backslashreplace"),
        )
        sizes = (128 <= made.inode_bytes <= block_bytes, 0 < made.blocks_per_group <= 8 * block_bytes * 16)
        if not all(sizes) or not 0 < made.inodes_per_group <= 8 * block_bytes or made.blocks <= made.first_block:
            raise NotExt("its superblock makes no sense")
        if made.blocks * block_bytes > _MOST_TIMES * self._window.size_bytes + GIB:
            raise NotExt("its superblock makes no sense")
        if made.inodes > made.groups * made.inodes_per_group or made.descriptor_bytes > block_bytes:
            raise NotExt("its superblock makes no sense")
        return made

    def _read_journal(self) -> None:
        """From now on the newer versions of blocks are read in the journal."""
        geometry, size = self._geometry, self._geometry.block_bytes
        try:
            inode = self._inode(geometry.journal)
        except BadArea:
            inode = self._journal_by_superblock()
        runs = [run for run in self._mapped(inode)[0].runs if run.place is not None]
        starts = [run.at for run in runs]

        def read(number: int) -> tuple[bytes, int] | None:
            index = bisect.bisect_right(starts, number * size) - 1
            if index < 0 or number * size >= runs[index].at + runs[index].length:
                return None
            place = (runs[index].place or 0) + number * size - runs[index].at
            try:
                return self._window.read(place, size), place
            except BadArea:
                return None

        replay = read_journal(read)
        marked = dict.fromkeys(replay.escaped, MAGIC_BYTES)
        self._window.redirect(size, {n: at for n, at in replay.moved.items() if n < geometry.blocks}, marked)
        self._found_table.cache_clear()
        self.notes.append("It was not closed cleanly. What its journal holds was taken into account.")
        if replay.finding:
            self.findings.append(replay.finding)

    def _journal_by_superblock(self) -> _Inode:
        """The journal's inode as the superblock has a copy of it."""
        flags = _EXTENTS if struct.unpack_from("<H", self._geometry.journal_map)[0] == _EXTENT_MAGIC else 0
        high, low = struct.unpack_from("<II", self._geometry.journal_map, 60)
        return _Inode(
            number=self._geometry.journal,
            mode=stat.S_IFREG,
            size_bytes=low | high << 32,
            owner=(0, 0),
            times_ns=(0, 0),
            deleted=0,
            links=1,
            sectors=0,
            flags=flags,
            map=self._geometry.journal_map[:60],
            seed=0,
            attribute_block=0,
            inside=b"",
            vouched=False,
        )

    def _block(self, number: int) -> bytes:
        if not 0 < number < self._geometry.blocks:
            raise BadArea(f"block {number} lies outside")
        size = self._geometry.block_bytes
        return self._window.read(number * size, size)

    # -- groups

    def _groups_with_copies(self) -> Iterator[int]:
        """Those that hold the descriptors too; as many as it makes sense to look into."""
        geometry = self._geometry
        if geometry.compat & _COMPAT_SPARSE2:
            near = [0, *geometry.backups]
        elif geometry.ro_compat & _SPARSE:
            near = sorted({0, 1, *(base**power for base in (3, 5, 7) for power in range(1, 24))})
        else:
            near = list(range(_MOST_COPIES))
        yield from (group for group in near if group < geometry.groups)

    def _table(self, group: int) -> tuple[int, int]:
        """Where the inode table of a group begins, and how many of its inodes were ever used.  Raises BadArea."""
        found = self._found_table(group)
        if found is None:
            raise BadArea(f"no copy of the descriptor of group {group} is good")
        return found

    def _find_table(self, group: int) -> tuple[int, int] | None:
        """As ``_table``; None where that is lost."""
        geometry = self._geometry
        per_block = geometry.block_bytes // geometry.descriptor_bytes
        number, index = divmod(group, per_block)
        for copy, block in enumerate(self._descriptor_blocks(number, per_block)):
            try:
                raw = self._block(block)[index * geometry.descriptor_bytes :][: geometry.descriptor_bytes]
            except BadArea:
                continue
            found = self._descriptor(group, raw)
            if found is not None:  # the copies are not kept up to date in how much is used
                return (found[0], geometry.inodes_per_group) if copy else found
        return None

    def _descriptor_blocks(self, number: int, per_block: int) -> Iterator[int]:
        """The copies of a block of descriptors."""
        geometry = self._geometry
        if geometry.incompat & _META_BG and number >= geometry.first_meta_group:
            first = number * per_block
            for group in (first, first + 1, first + per_block - 1):
                if group < geometry.groups:
                    yield geometry.start(group) + geometry.has_copy(group)
            return
        for group in self._copy_groups:
            yield geometry.start(group) + 1 + number

    def _descriptor(self, group: int, raw: bytes) -> tuple[int, int] | None:
        """The table's block and the inodes in it that may be used; None for a descriptor that cannot be."""
        geometry = self._geometry
        table, flags, unused = struct.unpack_from("<8xI6xH8xH", raw)
        (checksum,) = struct.unpack_from("<H", raw, 30)
        if geometry.descriptor_bytes >= 64 and geometry.incompat & _64BIT:
            high, unused_high = struct.unpack_from("<I6xH", raw, 40)
            table, unused = table | high << 32, unused | unused_high << 16
        number = struct.pack("<I", group)
        if geometry.checksums:
            if crc32c(number + raw[:30] + b"\0\0" + raw[32:], geometry.seed) & 0xFFFF != checksum:
                return None
        elif geometry.ro_compat & _GDT_CSUM and crc16(geometry.uuid + number + raw[:30] + raw[32:]) != checksum:
            return None
        blocks = -(-geometry.inodes_per_group * geometry.inode_bytes // geometry.block_bytes)
        if not geometry.first_block < table <= geometry.blocks - blocks:
            return None
        if not geometry.ro_compat & (_GDT_CSUM | _METADATA_CSUM):
            return table, geometry.inodes_per_group
        if flags & _INODES_UNUSED:
            return table, 0
        return table, max(0, geometry.inodes_per_group - unused)

    # -- inodes

    def _inode(self, number: int) -> _Inode:
        """Raises BadArea when it cannot be read, or is not what was written there."""
        geometry = self._geometry
        if not 0 < number <= geometry.inodes:
            raise BadArea(f"there is no inode {number}")
        group, index = divmod(number - 1, geometry.inodes_per_group)
        table, _ = self._table(group)
        return self._inode_at(number, table * geometry.block_bytes + index * geometry.inode_bytes)

    def _inode_at(self, number: int, place: int) -> _Inode:
        raw = self._window.read(place, self._geometry.inode_bytes)
        inode = self._decode_inode(number, raw)
        if place < self._doubted_up_to and inode.in_use:
            self._doubted_up_to = place
        return inode

    def _decode_inode(self, number: int, raw: bytes) -> _Inode:
        geometry = self._geometry
        fields = _INODE.unpack_from(raw)
        mode, user, size, accessed, _, modified, deleted, group, links, sectors, flags = fields[:11]
        blocks, generation, attribute, size_high, _, sectors_high, attribute_high, user_high, group_high, low = fields[
            11:
        ]
        extra = struct.unpack_from("<H", raw, 128)[0] if geometry.inode_bytes > 128 else 0
        seed = crc32c(struct.pack("<II", number, generation), geometry.seed)
        if geometry.checksums:
            high = extra >= 4
            bare = raw[:124] + b"\0\0" + raw[126:130] + (b"\0\0" if high else raw[130:132]) + raw[132:]
            told = low | (struct.unpack_from("<H", raw, 130)[0] << 16 if high else 0)
            if crc32c(bare[: len(raw)], seed) & (0xFFFFFFFF if high else 0xFFFF) != told:
                raise BadArea(f"inode {number} is damaged")
        more = struct.unpack_from("<II", raw, 136) if extra >= 16 else (0, 0)
        sectors |= sectors_high << 32
        length = size | (size_high << 32 if stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR) else 0)
        if length > MOST_BYTES:
            raise BadArea(f"inode {number} is damaged")
        return _Inode(
            number=number,
            mode=mode,
            size_bytes=length,
            owner=(user | user_high << 16, group | group_high << 16),
            times_ns=(_time(accessed, more[1]), _time(modified, more[0])),
            deleted=deleted,
            links=links,
            sectors=sectors * (geometry.block_bytes // 512 if flags & _HUGE else 1),
            flags=flags,
            map=blocks,
            seed=seed,
            attribute_block=attribute | attribute_high << 32,
            inside=raw[128 + extra :] if 0 < extra <= len(raw) - 128 else b"",
            vouched=geometry.checksums,
        )

    # -- where files lie

    def _runs(self, inode: _Inode) -> tuple[list[Run], Extents, int]:
        """Where it lies, which ranges are not known to lie anywhere, and how many blocks its map itself takes."""
        size = self._geometry.block_bytes
        blocks = -(-inode.size_bytes // size)
        if inode.flags & _EXTENTS:
            runs, missing, own = self._extent_runs(inode, inode.map, (0, max(blocks, 1)), None, set())
        else:
            runs, missing, own = self._indirect_runs(inode, blocks)
        whole = [Run(at * size, count * size, None if place is None else place * size) for at, count, place in runs]
        gone = Extents((at * size, count * size) for at, count in missing) if missing else NONE
        return whole, gone, own

    def _extent_runs(
        self, inode: _Inode, node: bytes, within: tuple[int, int], depth: int | None, seen: set[int]
    ) -> tuple[list[tuple[int, int, int | None]], list[tuple[int, int]], int]:
        """As ``_runs``, in blocks, for a node that maps what is ``within``; ``seen``: blocks of the map."""
        first, end = within
        nothing: tuple[list[tuple[int, int, int | None]], list[tuple[int, int]], int]
        nothing = ([], [(first, max(0, end - first))], 0)
        magic, entries, most, level, _ = _NODE.unpack_from(node)
        room = (len(node) - _NODE.size) // _LEAF.size
        if magic != _EXTENT_MAGIC or entries > most or most > room or level > _MOST_DEPTH:
            return nothing
        if depth is not None:
            if level != depth:
                return nothing
            tail = _NODE.size + most * _LEAF.size
            told = struct.unpack_from("<I", node, tail)[0] if tail + 4 <= len(node) else -1
            if inode.vouched and crc32c(node[:tail], inode.seed) != told:
                return nothing
        if not level:
            return self._leaf_runs(node, entries, first, end)
        runs: list[tuple[int, int, int | None]] = []
        missing: list[tuple[int, int]] = []
        own = 0
        branches = [_BRANCH.unpack_from(node, _NODE.size + number * _BRANCH.size) for number in range(entries)]
        starts = [branch[0] for branch in branches]
        if starts != sorted(set(starts)) or (starts and starts[0] < first):
            return nothing
        for (start, low, high, _), stop in zip(branches, [*starts[1:], max(end, first)], strict=True):
            block = low | high << 32
            try:
                if block in seen:  # no block is in a map twice
                    raise BadArea(f"block {block} is in a circle")
                seen.add(block)
                child = self._block(block)
            except BadArea:
                missing.append((start, max(0, stop - start)))
                continue
            below = self._extent_runs(inode, child, (start, stop), level - 1, seen)
            runs, missing, own = runs + below[0], missing + below[1], own + 1 + below[2]
        return runs, missing, own

    def _leaf_runs(
        self, node: bytes, entries: int, first: int, end: int
    ) -> tuple[list[tuple[int, int, int | None]], list[tuple[int, int]], int]:
        runs: list[tuple[int, int, int | None]] = []
        at = first
        for number in range(entries):
            block, length, high, low = _LEAF.unpack_from(node, _NODE.size + number * _LEAF.size)
            place, unwritten = low | high << 32, length > _UNWRITTEN
            length -= _UNWRITTEN if unwritten else 0
            if block < at or not length or (unwritten and length < 0) or place + length > self._geometry.blocks:
                return runs, [(at, max(0, end - at))], 0
            runs.append((block, length, None if unwritten else place))
            at = block + length
        return runs, [], 0

    def _indirect_runs(
        self, inode: _Inode, blocks: int
    ) -> tuple[list[tuple[int, int, int | None]], list[tuple[int, int]], int]:
        found = _Indirect(self._geometry.blocks)
        numbers = struct.unpack("<15I", inode.map)
        for number in numbers[:12]:
            found.add(number, 1, blocks)
        for level, number in enumerate(numbers[12:], start=1):
            self._indirect(number, level, blocks, found)
        return found.runs, found.missing, found.own

    def _indirect(self, number: int, level: int, blocks: int, found: _Indirect) -> None:
        per_block = self._geometry.block_bytes // 4
        if found.at >= blocks:
            return
        if not number:
            found.add(0, per_block**level, blocks)
            return
        try:
            if number in found.seen or len(found.runs) > _MOST_RUNS:  # no block is in a map twice
                raise BadArea(f"block {number} is in a circle")
            found.seen.add(number)
            children = struct.unpack(f"<{per_block}I", self._block(number))
        except BadArea:
            found.lose(per_block**level, blocks)
            return
        found.own += 1
        for child in children:
            if found.at >= blocks:
                return
            if level == 1:
                found.add(child, 1, blocks)
            else:
                self._indirect(child, level - 1, blocks, found)

    def _mapped(self, inode: _Inode) -> tuple[Mapped, str]:
        """Its content, and what speaks against it."""
        runs, missing, own = self._runs(inode)
        problem = ""
        if not inode.vouched and not missing and not self._geometry.ro_compat & _BIGALLOC:
            size = self._geometry.block_bytes
            held = sum(run.length for run in runs if run.place is not None) // size + own + bool(inode.attribute_block)
            unwritten = sum(run.length for run in runs if run.place is None) // size if inode.flags & _EXTENTS else 0
            if not held <= inode.sectors * 512 // size <= held + unwritten:
                problem = "it does not take the room that it is said to take: its map may be damaged"
        return Mapped(self._window, tuple(runs), inode.size_bytes, missing), problem

    # -- walking

    def walk(self) -> Iterator[Entry]:
        """From the root; then all that is in no folder."""
        reserved = {_BAD_BLOCKS, self._geometry.journal, *range(3, self._geometry.first_inode)}
        self._visited = set(reserved)
        try:
            root = self._inode(_ROOT)
        except BadArea:
            root = None
        if root is None or root.kind != stat.S_IFDIR or not root.in_use:
            self.findings.append("Its topmost folder is lost: what was in it is given without its name.")
        else:
            self._visited.add(_ROOT)
            yield from self._walk_folder(root, b"")
        yield from self._walk_nameless()

    def _walk_folder(self, folder: _Inode, path: bytes) -> Iterator[Entry]:
        """All below a folder that was given already; not recursive, for folders may lie very deep."""
        waiting = [(folder, path)]
        while waiting:
            inode, path = waiting.pop()
            problem = ""
            below: list[tuple[_Inode, bytes]] = []
            for name, number, kind in self._names(inode):
                if number is None:
                    problem = "the folder is damaged: names of what was in it are lost"
                    continue
                entry, child = self._entry(joined(path, name), number, kind)
                if entry is None:
                    continue
                yield entry
                if child is not None:
                    below.append((child, entry.path))
            if problem:
                yield Entry(path or b".", Form.FOLDER, problem=problem, identity=-inode.number)
            waiting += reversed(below)

    def _entry(self, path: bytes, number: int, kind: int) -> tuple[Entry | None, _Inode | None]:
        """What a folder names; and its inode, where it is a folder that is to be walked."""
        try:
            inode = self._inode(number)
        except BadArea as error:
            form = {1: Form.FILE, 2: Form.FOLDER, 7: Form.LINK}.get(kind, Form.SPECIAL if kind else Form.FILE)
            return Entry(path, form, problem=f"its inode is lost: {error}", lost=True), None
        if not inode.in_use or (kind and _TYPES.get(inode.kind) != kind):
            return Entry(path, Form.FILE, problem="its inode is not in use any more", lost=True), None
        seen = number in self._visited
        self._visited.add(number)
        if inode.kind == stat.S_IFDIR:
            return (None, None) if seen else (self._describe(path, inode), inode)
        return self._describe(path, inode), None

    def _describe(self, path: bytes, inode: _Inode) -> Entry:
        attributes, problem = self._attributes(inode)
        entry = Entry(
            path,
            _FORMS[inode.kind],
            size_bytes=inode.size_bytes,
            mode=stat.S_IMODE(inode.mode),
            owner=inode.owner,
            times_ns=inode.times_ns,
            attributes=tuple((name, value) for name, value in attributes if name != DATA),
            identity=inode.number if inode.links > 1 else None,
            problem=problem,
        )
        if inode.flags & _ENCRYPTED and entry.form is not Form.SPECIAL:
            entry.problem = "it is encrypted, and its key is not here"
        if entry.form is Form.FILE:
            if inode.flags & _INLINE:
                rest = dict(attributes).get(DATA, b"")
                data = (inode.map + rest)[: inode.size_bytes]
                entry.content = Inline(data)
                if len(data) < inode.size_bytes:
                    entry.problem = "its end is lost"
            else:
                entry.content, problem = self._mapped(inode)
                entry.problem = entry.problem or problem or doubt(entry.content, self._doubted_up_to)
        elif entry.form is Form.LINK:
            self._describe_link(entry, inode, dict(attributes))
        return entry

    def _describe_link(self, entry: Entry, inode: _Inode, attributes: dict[str, bytes]) -> None:
        if inode.size_bytes < 60 and not inode.flags & _EXTENTS:
            entry.target = inode.map[: inode.size_bytes]
        elif inode.flags & _INLINE:
            entry.target = (inode.map + attributes.get(DATA, b""))[: inode.size_bytes]
        elif inode.size_bytes <= self._geometry.block_bytes:
            content, _ = self._mapped(inode)
            for at, data, bad in content.pieces():
                if not at and not bad:
                    entry.target = data[: inode.size_bytes]
        if len(entry.target) != inode.size_bytes or not entry.target:
            entry.problem, entry.lost = "where it leads to is lost", True

    def _attributes(self, inode: _Inode) -> tuple[list[tuple[str, bytes]], str]:
        found = decode_attributes(inode.inside, inside=True)
        problem = ""
        if inode.attribute_block:
            try:
                block = self._block(inode.attribute_block)
            except BadArea:
                problem = "its extended attributes are lost"
            else:
                if self._vouches_for_attributes(inode.attribute_block, block):
                    found += decode_attributes(block, inside=False)
                else:
                    problem = "its extended attributes are damaged"
        return found, problem

    def _vouches_for_attributes(self, number: int, block: bytes) -> bool:
        if not self._geometry.checksums:
            return True
        told = struct.unpack_from("<I", block, 16)[0]
        return crc32c(struct.pack("<Q", number) + block[:16] + bytes(4) + block[20:], self._geometry.seed) == int(told)

    def _walk_nameless(self) -> Iterator[Entry]:
        """What is in use, and in no folder.  Folders first: much of the rest is in them."""
        files: list[_Inode] = []
        told = False
        folders = [inode for inode in self._all_inodes() if self._is_nameless(inode, files)]
        tops = self._tops(folders)
        for inode in [*tops, *folders, *files]:
            if inode.number in self._visited:
                continue
            if not told:
                told = True
                yield Entry(NAMELESS, Form.FOLDER)
            self._visited.add(inode.number)
            kind = "folder" if inode.kind == stat.S_IFDIR else "file"
            entry = self._describe(joined(NAMELESS, f"{kind}-{inode.number}".encode()), inode)
            yield entry
            if inode.kind == stat.S_IFDIR:
                yield from self._walk_folder(inode, entry.path)

    def _is_nameless(self, inode: _Inode, files: list[_Inode]) -> bool:
        """Whether it is a folder that was not met; other things that were not are added to ``files``."""
        if inode.number in self._visited or inode.flags & _EA_INODE:
            return False
        if inode.kind == stat.S_IFDIR:
            return True
        files.append(inode)
        return False

    def _tops(self, folders: list[_Inode]) -> list[_Inode]:
        """Those of the folders that are in none of the others."""
        known = {folder.number for folder in folders}
        return [folder for folder in folders if self._parent(folder) not in known - {folder.number}]

    def _parent(self, folder: _Inode) -> int:
        for name, number, _ in self._names(folder, dots=True):
            if name == b".." and number is not None:
                return number
        return 0

    def _all_inodes(self) -> Iterator[_Inode]:
        """Every inode in use that can be read."""
        geometry = self._geometry
        lost = 0
        for group in range(geometry.groups):
            try:
                table, used = self._table(group)
            except BadArea:
                lost += 1
                continue
            for index in range(used):
                number = group * geometry.inodes_per_group + index + 1
                if number < geometry.first_inode or number in self._visited:
                    continue
                place = table * geometry.block_bytes + index * geometry.inode_bytes
                try:
                    if self._window.read(place, 2) == b"\0\0":
                        continue
                    inode = self._inode_at(number, place)
                except BadArea:
                    continue
                if inode.in_use:
                    yield inode
        if lost:
            self.findings.append(f"Where the files of {lost} of its {geometry.groups} groups are listed is lost.")

    # -- folders

    def _names(self, folder: _Inode, *, dots: bool = False) -> Iterator[tuple[bytes, int | None, int]]:
        """Name, inode number, type of what is in it.  A number that is None: something is lost."""
        typed = bool(self._geometry.incompat & _FILETYPE)
        for block, good in self._folder_blocks(folder):
            if not good:
                yield b"", None, 0
            for name, number, kind in _names_in(block, good):
                if name in (b".", b".."):
                    if dots:
                        yield name, number, kind
                elif good or self._plausible(number, kind if typed else 0):
                    yield name, number, kind if typed else 0

    def _plausible(self, number: int, kind: int) -> bool:
        """Whether a name in a damaged block leads to something that is there."""
        try:
            inode = self._inode(number)
        except BadArea:
            return False
        return inode.in_use and (not kind or _TYPES.get(inode.kind) == kind)

    def _folder_blocks(self, folder: _Inode) -> Iterator[tuple[bytes, bool]]:
        """Each block of a folder, and whether it is as it was written."""
        size = self._geometry.block_bytes
        if folder.flags & _INLINE:
            attributes, problem = self._attributes(folder)
            parent = struct.unpack_from("<I", folder.map)[0]
            yield _NAME.pack(parent, 12, 2, 2) + b"..\0\0" + folder.map[4:], True
            rest = dict(attributes).get(DATA, b"")
            if rest:
                yield rest, not problem
            return
        content, _ = self._mapped(folder)
        if content.missing:
            yield b"", False
        for run in content.runs:
            for at in range(run.at, min(run.at + run.length, folder.size_bytes), size):
                if run.place is None:
                    yield b"", False
                    continue
                data, bad = self._window.content(run.place + at - run.at, size)
                yield data, not bad and self._vouches_for_names(folder, data, first=at == 0)
        if gaps([*content.runs, *(Run(gap.offset, gap.length, None) for gap in content.missing)], folder.size_bytes):
            yield b"", False

    def _vouches_for_names(self, folder: _Inode, block: bytes, *, first: bool) -> bool:
        if not folder.vouched:
            return _chain_ends(block)
        number, length, *_ = _NAME.unpack_from(block)
        if not folder.flags & _INDEX or not (
            first or (not number and length in (len(block), 65535 if len(block) == 65536 else -1))
        ):
            tail = struct.pack("<IHBB", 0, 12, 0, 0xDE)
            told = struct.unpack("<I", block[-4:])[0]
            return block[-12:-4] == tail and crc32c(block[:-12], folder.seed) == int(told)
        # A node of the index: it holds no names but dots, and all that it says of itself is its checksum.
        head = 24 + 8 if first else 8
        limit, count = struct.unpack_from("<HH", block, head)
        tail = head + limit * 8
        if count > limit or tail + 8 > len(block):
            return False
        told = struct.unpack_from("<I", block, tail + 4)[0]
        return crc32c(block[: head + count * 8] + block[tail : tail + 4] + bytes(4), folder.seed) == int(told)


class _Indirect:
    """The runs of a file as its blocks are met one by one, in blocks."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self.at = self.own = 0
        self.runs: list[tuple[int, int, int | None]] = []
        self.missing: list[tuple[int, int]] = []
        self.seen: set[int] = set()

    def add(self, number: int, count: int, end: int) -> None:
        """The next ``count`` blocks begin at ``number``; 0: a hole.  What is behind ``end`` is no matter."""
        count = min(count, end - self.at)
        if count <= 0:
            return
        if number + count > self._blocks:
            self.lose(count, end)
            return
        if number and self.runs:
            start, length, place = self.runs[-1]
            if place is not None and start + length == self.at and place + length == number:
                self.runs[-1] = (start, length + count, place)
                self.at += count
                return
        if number:
            self.runs.append((self.at, count, number))
        self.at += count

    def lose(self, count: int, end: int) -> None:
        """The next ``count`` blocks are not known to lie anywhere."""
        count = min(count, end - self.at)
        if count <= 0:
            return
        if self.missing and sum(self.missing[-1]) == self.at:
            self.missing[-1] = (self.missing[-1][0], self.missing[-1][1] + count)
        else:
            self.missing.append((self.at, count))
        self.at += count


def _names_in(block: bytes, good: bool) -> Iterator[tuple[bytes, int, int]]:
    """The entries of a block; of one that is damaged those that can be found in it."""
    at = 0
    while at + _NAME.size <= len(block):
        number, length, name_length, kind = _NAME.unpack_from(block, at)
        if length in (0, 65535) and len(block) == 65536:
            length = 65536
        fits = length >= 8 + name_length and not length % 4 and at + length <= len(block)
        name = block[at + 8 : at + 8 + name_length]
        if not fits or (number and (not name_length or b"\0" in name or b"/" in name)):
            if good:
                return
            at += 4
            continue
        if number:
            yield name, number, kind
        at += length


def _chain_ends(block: bytes) -> bool:
    """Whether the entries of a block follow on each other up to its end."""
    at = 0
    while at + _NAME.size <= len(block):
        number, length, name_length, _ = _NAME.unpack_from(block, at)
        if length in (0, 65535) and len(block) == 65536:
            length = 65536
        name = block[at + 8 : at + 8 + name_length]
        if length % 4 or length < 8 + name_length or (number and (not name_length or b"/" in name or b"\0" in name)):
            return False
        at += length
    return at == len(block)


def _time(seconds: int, extra: int) -> int:
    """Nanoseconds since 1970; the low bits of ``extra`` are the years after 2038, the others the fraction."""
    signed = seconds - (1 << 32) if seconds & 0x80000000 else seconds
    return (signed + ((extra & 3) << 32)) * 10**9 + (extra >> 2)
