"""Files of a broken XFS: what its checksums (version 5) or its own cross references (version 4) vouch for.

Read are the superblock or its copy in an allocation group, the folders from the root on, and the inodes that
the groups' trees list; where such a tree is damaged, its group is searched for inodes.

Source of the layout: "XFS Algorithms & Data Structures" (the kernel's and xfsprogs' documentation).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from recovery.extent import Extent, Extents
from recovery.salvage.checksums import crc32c
from recovery.salvage.entry import MOST_BYTES, NAMELESS, Entry, Form, Mapped, Run, doubt, joined
from recovery.salvage.medium import BadArea, Window
from recovery.units import MIB

_MAGIC, _INODE_MAGIC = b"XFSB", 0x494E
_VERSION5 = 5
_FTYPE_INCOMPAT, _FTYPE_OLD, _MORE_BITS = 0x1, 0x200, 0x8000
_BIG_TIMES, _LARGE_COUNTS = 1 << 3, 1 << 4
_REALTIME = 0x1
_DEVICE, _LOCAL, _EXTENTS, _TREE = range(4)
_LEAF_BYTES = 32 << 30
_TREES_OF_GROUPS = (b"AB3B", b"AB3C", b"IAB3", b"FIB3", b"RMB3", b"R3FC", b"ABTB", b"ABTC", b"IABT", b"FIBT")
_FORMS = {
    stat.S_IFREG: Form.FILE,
    stat.S_IFDIR: Form.FOLDER,
    stat.S_IFLNK: Form.LINK,
    stat.S_IFCHR: Form.SPECIAL,
    stat.S_IFBLK: Form.SPECIAL,
    stat.S_IFIFO: Form.SPECIAL,
    stat.S_IFSOCK: Form.SPECIAL,
}
_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_INODES_A_RECORD, _MOST_DEPTH, _MOST_FOLDER_BLOCKS = 64, 9, 1 << 18
_SEARCH_STEP = 4096
_ATTRIBUTE_NAMES = {0: "user.", 2: "trusted.", 4: "security."}
_ACCESS_LISTS = {b"SGI_ACL_FILE": "system.posix_acl_access", b"SGI_ACL_DEFAULT": "system.posix_acl_default"}


class NotXfs(Exception):
    """Neither the superblock nor one of its copies is there."""


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What a superblock says; bytes and blocks."""

    block_bytes: int
    blocks: int
    root: int
    group_blocks: int
    groups: int
    inode_bytes: int
    inodes_per_block_log: int
    group_log: int
    folder_block_bytes: int
    sector_bytes: int
    version: int
    typed: bool
    uuid: bytes
    label: str
    internal: frozenset[int]

    @property
    def vouched(self) -> bool:
        return self.version == _VERSION5

    def place(self, block: int) -> int:
        """Where a block lies, in bytes, by its number with the group in its upper bits.  Raises BadArea."""
        group, inside = block >> self.group_log, block & ((1 << self.group_log) - 1)
        if group >= self.groups or inside >= self.group_blocks:
            raise BadArea(f"block {block} lies outside")
        return (group * self.group_blocks + inside) * self.block_bytes

    def place_of_inode(self, number: int) -> int:
        """Where an inode lies, in bytes.  Raises BadArea."""
        block, index = number >> self.inodes_per_block_log, number & ((1 << self.inodes_per_block_log) - 1)
        return self.place(block) + index * self.inode_bytes


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    mode: int
    form: int
    owner: tuple[int, int]
    times_ns: tuple[int, int]
    links: int
    size_bytes: int
    blocks: int
    extents: int
    flags: int
    data: bytes
    attributes: bytes
    attributes_form: int

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def in_use(self) -> bool:
        return self.kind in _FORMS and self.links > 0


class Xfs:
    """An XFS in ``window``.  Raises NotXfs when nothing tells its geometry."""

    kind = "xfs"

    def __init__(self, window: Window) -> None:
        self._window = window
        self.findings: list[str] = []
        self.notes: list[str] = []
        #: What lies before this place may be overwritten: it begins with nothing that is good.
        self._doubted_up_to = 0
        self._geometry = self._find_geometry()
        self.label = self._geometry.label
        self._visited: set[int] = set()

    # -- geometry

    def _find_geometry(self) -> _Geometry:
        try:
            return self._geometry_at(0)
        except (BadArea, NotXfs) as error:
            reason = error
        for place in self._copies():
            try:
                found = self._geometry_at(place)
            except (BadArea, NotXfs):
                continue
            if place % (found.group_blocks * found.block_bytes) or found.blocks * found.block_bytes <= place:
                continue  # it is another one's
            self.notes.append("Its superblock is damaged; one of its copies was used.")
            self._doubted_up_to = self._first_good(found)
            return replace(found, internal=found.internal | {found.root + 1, found.root + 2})
        raise NotXfs(str(reason))

    def _first_good(self, geometry: _Geometry) -> int:
        """Where the first block lies, near the beginning, that is known again: one of the trees of the first group."""
        size = geometry.block_bytes
        for place in range(0, min(MIB, self._window.size_bytes - size), size):
            try:
                block = self._window.read(place, size)
            except BadArea:
                continue
            if block[:4] in _TREES_OF_GROUPS and (not geometry.vouched or _vouches(block, 52)):
                return place
        return self._window.size_bytes

    def _copies(self) -> Iterator[int]:
        """Where the groups may begin: there are four of them, mostly; else wherever a block begins so."""
        blocks = self._window.size_bytes // 4096
        for groups in (4, 1, 2, 3, 5, 6, 7, 8, 16, 32):
            for group in range(1, min(groups, 4)):
                for size in (-(-blocks // groups), blocks // groups):
                    yield group * size * 4096
        for start in range(0, self._window.size_bytes, MIB):
            data, _ = self._window.content(start, min(MIB, self._window.size_bytes - start))
            for at in range(0, len(data) - 4, _SEARCH_STEP):
                if data[at : at + 4] == _MAGIC:
                    yield start + at

    def _geometry_at(self, place: int) -> _Geometry:
        if place < 0 or place + 512 > self._window.size_bytes:
            raise NotXfs("it is too small")
        raw = self._window.read(place, 512)

        def number(at: int, form: str) -> int:
            return int(struct.unpack_from(">" + form, raw, at)[0])

        if raw[:4] != _MAGIC:
            raise NotXfs("there is no superblock")
        bits = number(100, "H")
        version = bits & 0xF
        sector = number(102, "H")
        if version == _VERSION5:
            whole = self._window.read(place, sector) if 512 <= sector <= 32768 else raw
            if not _vouches(whole, 224):
                raise NotXfs("its superblock is damaged")
        block, inode = number(4, "I"), number(104, "H")
        more = number(200, "I") if bits & _MORE_BITS else 0
        incompat = number(216, "I") if version == _VERSION5 else 0
        made = _Geometry(
            block_bytes=block,
            blocks=number(8, "Q"),
            root=number(56, "Q"),
            group_blocks=number(84, "I"),
            groups=number(88, "I"),
            inode_bytes=inode,
            inodes_per_block_log=raw[123],
            group_log=raw[124],
            folder_block_bytes=block << raw[192],
            sector_bytes=sector,
            version=version,
            typed=bool(incompat & _FTYPE_INCOMPAT) or bool(more & _FTYPE_OLD),
            uuid=raw[248:264] if version == _VERSION5 and any(raw[248:264]) else raw[32:48],
            label=raw[108:120].split(b"\0")[0].decode(errors="backslashreplace"),
            internal=frozenset(number(at, "Q") for at in (64, 72, 160, 168, 232)),
        )
        if version not in (4, _VERSION5) or block not in (512 << power for power in range(8)) or made.blocks < 2:
            raise NotXfs("its superblock makes no sense")
        if not 256 <= inode <= 2048 or block // inode != 1 << raw[123] or not made.groups or raw[192] > 6:
            raise NotXfs("its superblock makes no sense")
        if not 0 < made.group_blocks <= 1 << made.group_log:
            raise NotXfs("its superblock makes no sense")
        return made

    # -- inodes

    def _inode(self, number: int) -> _Inode:
        """Raises BadArea when it cannot be read, or is not what was written there."""
        place = self._geometry.place_of_inode(number)
        inode = self._decode_inode(number, self._window.read(place, self._geometry.inode_bytes))
        if place < self._doubted_up_to and inode.in_use:
            self._doubted_up_to = place
        return inode

    def _decode_inode(self, number: int, raw: bytes) -> _Inode:
        geometry = self._geometry
        magic, mode, version, form = struct.unpack_from(">HHBB", raw)
        if magic != _INODE_MAGIC or version not in (1, 2, 3) or (version == 3) != geometry.vouched:
            raise BadArea(f"inode {number} is damaged")
        if geometry.vouched and (
            struct.unpack_from(">Q", raw, 152)[0] != number or raw[160:176] != geometry.uuid or not _vouches(raw, 100)
        ):
            raise BadArea(f"inode {number} is damaged")
        owner = struct.unpack_from(">II", raw, 8)
        (links,) = struct.unpack_from(">I", raw, 16) if version > 1 else struct.unpack_from(">H", raw, 6)
        flags2 = struct.unpack_from(">Q", raw, 120)[0] if version == 3 else 0
        accessed, modified = struct.unpack_from(">QQ", raw, 32)
        size, blocks, _, extents = struct.unpack_from(">QQII", raw, 56)
        fork, attributes_form = raw[82], raw[83]
        (flags,) = struct.unpack_from(">H", raw, 90)
        if flags2 & _LARGE_COUNTS:
            (extents,) = struct.unpack_from(">Q", raw, 24)
        if size > MOST_BYTES:
            raise BadArea(f"inode {number} is damaged")
        core = 176 if version == 3 else 100
        middle = core + fork * 8 if fork else len(raw)
        if middle > len(raw):
            raise BadArea(f"inode {number} is damaged")
        big = bool(flags2 & _BIG_TIMES)
        return _Inode(
            number=number,
            mode=mode,
            form=form,
            owner=(owner[0], owner[1]),
            times_ns=(_time(accessed, big), _time(modified, big)),
            links=links,
            size_bytes=size,
            blocks=blocks,
            extents=extents,
            flags=flags,
            data=raw[core:middle],
            attributes=raw[middle:],
            attributes_form=attributes_form,
        )

    # -- where files lie

    def _runs(self, inode: _Inode) -> tuple[list[tuple[int, int, int | None]], bool, int]:
        """First block in the file, number of blocks, place in bytes (None: zeros); whether that is all; own blocks."""
        if inode.form == _EXTENTS:
            if inode.extents * 16 > len(inode.data):
                return [], False, 0
            return *self._decode_runs(inode.data, inode.extents), 0
        if inode.form != _TREE:
            return [], False, 0
        level, count = struct.unpack_from(">HH", inode.data)
        most = (len(inode.data) - 4) // 16
        if not 0 < level <= _MOST_DEPTH or count > most:
            return [], False, 0
        children = struct.unpack_from(f">{count}Q", inode.data, 4 + most * 8)
        runs: list[tuple[int, int, int | None]] = []
        complete, own = True, 0
        seen: set[int] = set()
        for child in children:
            found, whole, taken = self._tree_runs(inode, child, level - 1, seen)
            runs, complete, own = runs + found, complete and whole, own + taken
        if sorted(run[0] for run in runs) != [run[0] for run in runs] or len(runs) != inode.extents:
            complete = False
        return runs, complete, own

    def _tree_runs(
        self, inode: _Inode, block: int, level: int, seen: set[int]
    ) -> tuple[list[tuple[int, int, int | None]], bool, int]:
        geometry = self._geometry
        if block in seen:  # no block is in a map twice
            return [], False, 0
        seen.add(block)
        try:
            node = self._window.read(geometry.place(block), geometry.block_bytes)
        except BadArea:
            return [], False, 0
        magic, told, count = struct.unpack_from(">4sHH", node)
        head = 72 if geometry.vouched else 24
        if magic != (b"BMA3" if geometry.vouched else b"BMAP") or told != level:
            return [], False, 0
        if geometry.vouched and (not _vouches(node, 64) or struct.unpack_from(">Q", node, 56)[0] != inode.number):
            return [], False, 0
        most = (len(node) - head) // 16
        if count > most:
            return [], False, 0
        if not level:
            return *self._decode_runs(node[head:], count), 1
        runs: list[tuple[int, int, int | None]] = []
        complete, own = True, 1
        for child in struct.unpack_from(f">{count}Q", node, head + most * 8):
            found, whole, taken = self._tree_runs(inode, child, level - 1, seen)
            runs, complete, own = runs + found, complete and whole, own + taken
        return runs, complete, own

    def _decode_runs(self, raw: bytes, count: int) -> tuple[list[tuple[int, int, int | None]], bool]:
        runs: list[tuple[int, int, int | None]] = []
        behind = 0
        for number in range(count):
            high, low = struct.unpack_from(">QQ", raw, number * 16)
            start, block, length = (high >> 9) & ((1 << 54) - 1), (high & 0x1FF) << 43 | low >> 21, low & 0x1FFFFF
            try:
                place = self._geometry.place(block)
                self._geometry.place(block + max(0, length - 1))
            except BadArea:
                return runs, False
            if start < behind or not length:
                return runs, False
            runs.append((start, length, None if high >> 63 else place))
            behind = start + length
        return runs, True

    def _mapped(self, inode: _Inode) -> tuple[Mapped, str]:
        """Its content, and what speaks against it."""
        size = self._geometry.block_bytes
        found, complete, own = self._runs(inode)
        runs = tuple(Run(at * size, count * size, place) for at, count, place in found)
        if not complete:  # of what lies between the runs nobody knows whether it is a hole
            missing = Extents((run.at, run.length) for run in runs).invert(Extent(0, inode.size_bytes))
            return Mapped(self._window, runs, inode.size_bytes, missing), "a part of its map is lost"
        problem = ""
        held, outside = sum(run[1] for run in found) + own, inode.attributes_form not in (_LOCAL, 0)
        if not self._geometry.vouched and (held > inode.blocks or (held < inode.blocks and not outside)):
            problem = "it does not take the room that it is said to take: its map may be damaged"
        return Mapped(self._window, runs, inode.size_bytes), problem

    # -- walking

    def walk(self) -> Iterator[Entry]:
        """From the root; then all that is in no folder."""
        self._visited = set(self._geometry.internal)
        try:
            root = self._inode(self._geometry.root)
        except BadArea:
            root = None
        if root is None or root.kind != stat.S_IFDIR or not root.in_use:
            self.findings.append("Its topmost folder is lost: what was in it is given without its name.")
        else:
            self._visited.add(root.number)
            yield from self._walk_folder(root, b"")
        yield from self._walk_nameless()

    def _walk_folder(self, folder: _Inode, path: bytes) -> Iterator[Entry]:
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
                yield Entry(path or b".", Form.FOLDER, problem=problem)
            waiting += reversed(below)

    def _entry(self, path: bytes, number: int, kind: int) -> tuple[Entry | None, _Inode | None]:
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
        entry = Entry(
            path,
            _FORMS[inode.kind],
            size_bytes=inode.size_bytes,
            mode=stat.S_IMODE(inode.mode),
            owner=inode.owner,
            times_ns=inode.times_ns,
            attributes=tuple(self._attributes(inode)),
            identity=inode.number if inode.links > 1 else None,
        )
        if entry.form is Form.FILE:
            if inode.flags & _REALTIME:
                entry.problem, entry.lost = "it lies on the realtime part of the filesystem", True
            elif inode.form not in (_EXTENTS, _TREE):
                entry.problem, entry.lost = "its inode is damaged", True
            else:
                entry.content, entry.problem = self._mapped(inode)
                entry.problem = entry.problem or doubt(entry.content, self._doubted_up_to)
        elif entry.form is Form.LINK:
            entry.target = self._target(inode)
            if len(entry.target) != inode.size_bytes or not entry.target:
                entry.problem, entry.lost = "where it leads to is lost", True
        return entry

    def _target(self, inode: _Inode) -> bytes:
        if inode.form == _LOCAL:
            return inode.data[: inode.size_bytes]
        size, head = self._geometry.block_bytes, 56 if self._geometry.vouched else 0
        runs, _, _ = self._runs(inode)
        out = b""
        for _, count, place in runs:
            for at in range(count):
                try:
                    block = self._window.read((place or 0) + at * size, size)
                except BadArea:
                    return b""
                if head and (block[:4] != b"XSLM" or not _vouches(block, 12)):
                    return b""
                out += block[head:]
        return out[: inode.size_bytes]

    def _attributes(self, inode: _Inode) -> Iterator[tuple[str, bytes]]:
        """Those that lie in the inode itself."""
        raw = inode.attributes
        if inode.attributes_form != _LOCAL or len(raw) < 4:
            return
        total, count = struct.unpack_from(">HB", raw)
        at = 4
        for _ in range(count):
            if at + 3 > min(total, len(raw)):
                return
            name_length, value_length, flags = raw[at : at + 3]
            name = raw[at + 3 : at + 3 + name_length]
            value = raw[at + 3 + name_length : at + 3 + name_length + value_length]
            at += 3 + name_length + value_length
            if flags & 2 and name in _ACCESS_LISTS:
                yield _ACCESS_LISTS[name], _access_list(value)
            elif flags & ~6 == 0 and (flags & 6) in _ATTRIBUTE_NAMES and len(value) == value_length:
                yield _ATTRIBUTE_NAMES[flags & 6] + name.decode(errors="surrogateescape"), value

    # -- what is in no folder

    def _walk_nameless(self) -> Iterator[Entry]:
        folders: list[_Inode] = []
        files: list[_Inode] = []
        for inode in self._all_inodes():
            if inode.number not in self._visited:
                (folders if inode.kind == stat.S_IFDIR else files).append(inode)
        known = {folder.number for folder in folders}
        tops = [folder for folder in folders if self._parent(folder) not in known - {folder.number}]
        told = False
        for inode in [*tops, *folders, *files]:
            if inode.number in self._visited:
                continue
            if not told:
                told = True
                yield Entry(NAMELESS, Form.FOLDER)
            self._visited.add(inode.number)
            what = "folder" if inode.kind == stat.S_IFDIR else "file"
            entry = self._describe(joined(NAMELESS, f"{what}-{inode.number}".encode()), inode)
            yield entry
            if inode.kind == stat.S_IFDIR:
                yield from self._walk_folder(inode, entry.path)

    def _parent(self, folder: _Inode) -> int:
        for name, number, _ in self._names(folder, dots=True):
            if name == b".." and number is not None:
                return number
        return 0

    def _all_inodes(self) -> Iterator[_Inode]:
        """Every inode in use that can be read and was not met."""
        searched = 0
        for group in range(self._geometry.groups):
            chunks = self._chunks(group)
            if chunks is None:
                searched += 1
                places = self._searched(group)
            else:
                places = ((number, True) for chunk in chunks for number in range(chunk, chunk + _INODES_A_RECORD))
            for number, _ in places:
                if number in self._visited:
                    continue
                try:
                    inode = self._inode(number)
                except BadArea:
                    continue
                if inode.in_use:
                    yield inode
        if searched:
            self.findings.append(f"The list of inodes of {searched} of its {self._geometry.groups} groups is damaged.")

    def _chunks(self, group: int) -> list[int] | None:
        """The first inode of each chunk that the group's tree lists; None when the tree is damaged."""
        geometry = self._geometry
        start = group * geometry.group_blocks * geometry.block_bytes
        try:
            header = self._window.read(start + 2 * geometry.sector_bytes, geometry.sector_bytes)
        except BadArea:
            return None
        if header[:4] != b"XAGI" or (geometry.vouched and not _vouches(header, 312)):
            return None
        root, level = struct.unpack_from(">II", header, 20)
        found: list[int] = []
        if not 0 < level <= _MOST_DEPTH or not self._tree_chunks(group, root, level - 1, found, set()):
            return None
        return [group << (geometry.group_log + geometry.inodes_per_block_log) | number for number in found]

    def _tree_chunks(self, group: int, block: int, level: int, found: list[int], seen: set[int]) -> bool:
        geometry = self._geometry
        if block in seen:
            return False
        seen.add(block)
        try:
            node = self._window.read(geometry.place(group << geometry.group_log | block), geometry.block_bytes)
        except BadArea:
            return False
        magic, told, count = struct.unpack_from(">4sHH", node)
        head = 56 if geometry.vouched else 16
        if magic != (b"IAB3" if geometry.vouched else b"IABT") or told != level:
            return False
        if geometry.vouched and not _vouches(node, 52):
            return False
        if not level:
            if count > (len(node) - head) // 16:
                return False
            for number in range(count):
                first, _, free = struct.unpack_from(">IIQ", node, head + number * 16)
                if free != (1 << 64) - 1:
                    found.append(first)
            return True
        most = (len(node) - head) // 8
        if count > most:
            return False
        children = struct.unpack_from(f">{count}I", node, head + most * 4)
        whole = True
        for child in children:  # each of them: what is good in them is found all the same
            whole = self._tree_chunks(group, child, level - 1, found, seen) and whole
        return whole

    def _searched(self, group: int) -> Iterator[tuple[int, bool]]:
        """Every place in the group that looks like an inode."""
        geometry = self._geometry
        start = group * geometry.group_blocks * geometry.block_bytes
        end = min(start + geometry.group_blocks * geometry.block_bytes, geometry.blocks * geometry.block_bytes)
        mark = struct.pack(">H", _INODE_MAGIC)
        for at in range(start, end, MIB):
            data, _ = self._window.content(at, min(MIB, end - at))
            for inside in range(0, len(data) - geometry.inode_bytes + 1, geometry.inode_bytes):
                if data[inside : inside + 2] == mark:
                    block, rest = divmod(at + inside - start, geometry.block_bytes)
                    number = (group << geometry.group_log | block) << geometry.inodes_per_block_log
                    yield number | rest // geometry.inode_bytes, True

    # -- folders

    def _names(self, folder: _Inode, *, dots: bool = False) -> Iterator[tuple[bytes, int | None, int]]:
        """Name, inode number, type of what is in it.  A number that is None: something is lost."""
        if folder.form == _LOCAL:
            yield from self._short_names(folder, dots)
            return
        geometry = self._geometry
        runs, complete, _ = self._runs(folder)
        if not complete:
            yield b"", None, 0
        size, step = geometry.block_bytes, geometry.folder_block_bytes
        end = min(folder.size_bytes, _LEAF_BYTES) // size
        blocks: dict[int, int] = {}
        for at, count, place in runs:
            if place is None:
                continue
            for inside in range(min(count, end - at)):
                blocks[at + inside] = place + inside * size
                if len(blocks) > _MOST_FOLDER_BLOCKS:
                    break
        for first in sorted({block * size // step for block in blocks}):
            data, good = b"", True
            for block in range(first * step // size, (first + 1) * step // size):
                if block in blocks:
                    piece, bad = self._window.content(blocks[block], size)
                    data, good = data + piece, good and not bad
                else:
                    data, good = data + bytes(size), False
            good = good and self._vouches_for_names(folder, data)
            if not good:
                yield b"", None, 0
            for name, number, kind in _names_in(data, 64 if geometry.vouched else 16, typed=geometry.typed):
                if name in (b".", b".."):
                    if dots:
                        yield name, number, kind
                elif good or self._plausible(number, kind):
                    yield name, number, kind

    def _short_names(self, folder: _Inode, dots: bool) -> Iterator[tuple[bytes, int | None, int]]:
        raw = folder.data[: folder.size_bytes]
        if len(raw) < 6:
            yield b"", None, 0
            return
        count, wide = raw[0] or raw[1], bool(raw[1])
        form, width = (">Q", 8) if wide else (">I", 4)
        if dots:
            yield b"..", struct.unpack_from(form, raw, 2)[0], 2
        at = 2 + width
        typed = self._geometry.typed
        for _ in range(count):
            if at + 3 > len(raw) or at + 3 + raw[at] + typed + width > len(raw):
                yield b"", None, 0
                return
            length = raw[at]
            name = raw[at + 3 : at + 3 + length]
            kind = raw[at + 3 + length] if typed else 0
            (number,) = struct.unpack_from(form, raw, at + 3 + length + typed)
            if not name or b"/" in name or b"\0" in name:
                yield b"", None, 0
                return
            yield name, number, kind
            at += 3 + length + typed + width

    def _vouches_for_names(self, folder: _Inode, block: bytes) -> bool:
        if not self._geometry.vouched:
            return block[:4] in (b"XD2B", b"XD2D")
        if block[:4] not in (b"XDB3", b"XDD3") or struct.unpack_from(">Q", block, 40)[0] != folder.number:
            return False
        return _vouches(block, 4)

    def _plausible(self, number: int, kind: int) -> bool:
        try:
            inode = self._inode(number)
        except BadArea:
            return False
        return inode.in_use and (not kind or _TYPES.get(inode.kind) == kind)


def _names_in(block: bytes, head: int, *, typed: bool) -> Iterator[tuple[bytes, int, int]]:
    """The entries of a block of a folder, as far as they make sense."""
    end = len(block)
    if block[:4] in (b"XDB3", b"XD2B"):  # the index is behind them, in the same block
        count, _ = struct.unpack_from(">II", block, len(block) - 8)
        end = len(block) - 8 - 8 * count if count * 8 + 8 <= len(block) - head else len(block)
    at = head
    while at + 12 <= end:
        if block[at : at + 2] == b"\xff\xff":
            (length,) = struct.unpack_from(">H", block, at + 2)
            at += length if length and not length % 8 else 8
            continue
        number, length = struct.unpack_from(">QB", block, at)
        whole = -(-(9 + length + typed + 2) // 8) * 8
        tag = struct.unpack_from(">H", block, at + whole - 2)[0] if at + whole <= end else -1
        name = block[at + 9 : at + 9 + length]
        if tag != at or not name or b"/" in name or b"\0" in name:
            at += 8
            continue
        yield name, number, block[at + 9 + length] if typed else 0
        at += whole


def _vouches(raw: bytes, place: int) -> bool:
    """Whether the checksum at ``place`` is that of the rest."""
    told = struct.unpack_from("<I", raw, place)[0]
    return crc32c(raw[:place] + bytes(4) + raw[place + 4 :]) ^ 0xFFFFFFFF == int(told)


def _time(raw: int, big: bool) -> int:
    """Nanoseconds since 1970."""
    if big:
        return raw - (1 << 31) * 10**9
    seconds = raw >> 32
    return (seconds - (1 << 32 if seconds & 0x80000000 else 0)) * 10**9 + (raw & 0xFFFFFFFF)


def _access_list(raw: bytes) -> bytes:
    """A list of permissions as the kernel takes it."""
    if len(raw) < 4:
        return b""
    out = struct.pack("<I", 2)
    for at in range(4, 4 + struct.unpack_from(">I", raw)[0] * 12, 12):
        if at + 12 > len(raw):
            break
        tag, who, permissions = struct.unpack_from(">IIH", raw, at)
        out += struct.pack("<HHI", tag, permissions, who if tag in (2, 8) else 0xFFFFFFFF)
    return out
