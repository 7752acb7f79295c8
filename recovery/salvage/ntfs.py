"""Files of a broken NTFS: every record of its file table that is whole, whatever became of the folders.

What a file is called is in its own record, so folders are needed only for the names of what has none any more.

Source: the Linux-NTFS project's documentation ("FILE Record", "Attributes", "Data Runs", "Index", "Reparse Points").
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from dissect.util.compression import lznt1

from recovery.extent import Extent, Extents
from recovery.salvage.entry import (
    MOST_BYTES,
    NAMELESS,
    Computed,
    Content,
    Entry,
    Form,
    Inline,
    Mapped,
    Run,
    doubt,
    guarded,
    joined,
)
from recovery.salvage.medium import BadArea, Window

_MFT, _MIRRORED, _ROOT, _EXTEND, _FIRST_OF_USERS = 0, 4, 5, 11, 24
_STANDARD, _LIST, _NAME, _DATA, _INDEX_ROOT, _INDEX, _REPARSE, _END = (
    0x10, 0x20, 0x30, 0x80, 0x90, 0xA0, 0xC0, 0xFFFFFFFF,
)  # fmt: skip
_IN_USE, _FOLDER, _BASE = 0x1, 0x2, (1 << 48) - 1
_COMPRESSED, _ENCRYPTED = 0x00FF, 0x4000
_DOS_NAME = 2
_SYMLINK, _JUNCTION = 0xA000000C, 0xA0000003
_OLD_LINK = b"IntxLNK\x01"
_EPOCH_TICKS = 116444736000000000
_DEEPEST, _FOLDERS_LOOKED_AT = 500, 5000
_MOST_LIST_BYTES = 4 << 20


class NotNtfs(Exception):
    """Neither the boot sector nor its copy is there."""


@dataclass(frozen=True, slots=True)
class _Attribute:
    """One attribute of a record; ``runs`` in clusters when it lies elsewhere, else its ``value``.

    ``first`` is the cluster of the attribute that the runs begin with.
    """

    kind: int
    name: str
    flags: int
    first: int
    last: int
    unit: int
    size: int
    initialized: int
    runs: tuple[tuple[int | None, int], ...] | None
    value: bytes


@dataclass(frozen=True, slots=True)
class _Record:
    number: int
    sequence: int
    flags: int
    base: int
    attributes: tuple[_Attribute, ...]

    @property
    def is_folder(self) -> bool:
        return bool(self.flags & _FOLDER)

    def names(self) -> list[tuple[int, int, str]]:
        """Number and sequence of the folder, and the name; those for DOS only where there is no other."""
        found = [name for attribute in self.attributes if attribute.kind == _NAME
                 if (name := _decode_name(attribute.value)) is not None]  # fmt: skip
        long = [name for name in found if name[3] != _DOS_NAME]
        return [name[:3] for name in long or found]


class Ntfs:
    """An NTFS in ``window``.  Raises NotNtfs when nothing tells its geometry, or its file table is not found."""

    kind = "ntfs"

    def __init__(self, window: Window) -> None:
        self._window = window
        self.findings: list[str] = []
        self.notes: list[str] = []
        self.label = ""
        #: What lies before this place may be overwritten: it begins with nothing that is good.
        self._doubted_up_to = 0
        self._open()
        self._table = self._find_table()
        held = sum(run.length for run in self._table.runs if run.place is not None)
        self._count = min(self._table.size_bytes, held, window.size_bytes) // self._record_bytes
        self._folders: dict[int, tuple[int, int, int, str]] = {}

    # -- geometry

    def _open(self) -> None:
        size = self._window.size_bytes
        for copy, place in enumerate((0, size - 512, (size // 512 // 2) * 512, size - 4096)):
            try:
                boot = self._window.read(place, 512)
            except BadArea:
                continue
            sector, code = struct.unpack_from("<HB", boot, 11)
            total, table, mirror = struct.unpack_from("<QQQ", boot, 40)
            (record,) = struct.unpack_from("<b", boot, 64)
            if boot[3:11] != b"NTFS    " or sector not in (512, 1024, 2048, 4096) or not code:
                continue
            cluster = sector * (code if code <= 0x80 else 1 << (256 - code))
            record_bytes = record * cluster if record > 0 else 1 << -record
            if not 512 <= record_bytes <= 65536 or cluster > 2 << 20:
                continue
            self._cluster, self._record_bytes = cluster, record_bytes
            self._clusters = total * sector // cluster
            self._starts = (table * cluster, mirror * cluster)
            if copy:
                self.notes.append("Its boot sector is damaged; its copy was used.")
                self._doubted_up_to = size
            return
        raise NotNtfs("there is no boot sector")

    def _find_table(self) -> Mapped:
        """Where the file table lies: by its first record, or that of its mirror."""
        for mirror, start in enumerate(self._starts):
            try:
                first = self._decode(_MFT, self._window.read(start, self._record_bytes))
            except BadArea:
                continue
            found = self._stream(first, _DATA, "", table=True)
            if found is None or not found[0].runs:
                continue
            if mirror:
                self.notes.append("The first records of its file table are damaged; their mirror was used.")
                self._lay_mirror(start, found[0])
            return found[0]
        raise NotNtfs("its file table is not found")

    def _lay_mirror(self, start: int, table: Mapped) -> None:
        """The mirror's records are read in place of the table's first ones."""
        place, size = table.runs[0].place, self._record_bytes
        if place is not None:
            self._window.redirect(size, {place // size + n: start + n * size for n in range(_MIRRORED)})

    # -- records

    def _record(self, number: int) -> _Record:
        """Raises BadArea when it cannot be read, or is damaged."""
        at = number * self._record_bytes
        raw = b""
        for run in self._table.runs:
            if run.at <= at < run.at + run.length and run.place is not None:
                taken = min(self._record_bytes - len(raw), run.at + run.length - at)
                place = run.place + at - run.at
                raw += self._window.read(run.place + at - run.at, taken)
                at += taken
                if len(raw) == self._record_bytes:
                    record = self._decode(number, raw)
                    self._doubted_up_to = min(self._doubted_up_to, place)
                    return record
        raise BadArea(f"there is no file record {number}")

    def _decode(self, number: int, raw: bytes) -> _Record:
        if raw[:4] != b"FILE":
            raise BadArea(f"file record {number} is no file record")
        data = _mended(raw)
        if data is None:
            raise BadArea(f"file record {number} is damaged")
        sequence, _, start, flags = struct.unpack_from("<HHHH", data, 16)
        (base,) = struct.unpack_from("<Q", data, 32)
        used, own = struct.unpack_from("<I", data, 24)[0], struct.unpack_from("<I", data, 44)[0]
        numbered = struct.unpack_from("<H", data, 4)[0] >= 48
        if not flags & _IN_USE:
            return _Record(number, sequence, flags, base & _BASE, ())
        if start < 42 or used > len(data) or start > used or (numbered and own != number & 0xFFFFFFFF):
            raise BadArea(f"file record {number} is damaged")
        return _Record(number, sequence, flags, base & _BASE, tuple(self._attributes(number, data[:used], start)))

    def _attributes(self, number: int, data: bytes, at: int) -> Iterator[_Attribute]:
        damaged = BadArea(f"file record {number} is damaged")
        while at + 4 <= len(data):
            (kind,) = struct.unpack_from("<I", data, at)
            if kind == _END:
                return
            if at + 24 > len(data):
                break
            length, elsewhere, letters, name_at, flags = struct.unpack_from("<IBBHH", data, at + 4)
            if length < 24 or length % 8 or at + length > len(data) or elsewhere > 1:
                break
            name = data[at + name_at : at + name_at + 2 * letters].decode("utf-16-le", "replace")
            if elsewhere:
                if length < 64:
                    break
                first, last, runs_at, unit = struct.unpack_from("<QQHH", data, at + 16)
                allocated, size, initialized = struct.unpack_from("<QQQ", data, at + 40)
                runs = _decode_runs(data[at + runs_at : at + length], self._clusters)
                if runs is None or (last + 1 - first) & ((1 << 64) - 1) != sum(count for _, count in runs):
                    raise damaged
                if (not first and size > allocated) or max(size, initialized, last * self._cluster) > MOST_BYTES:
                    raise damaged
                yield _Attribute(kind, name, flags, first, last, unit, size, initialized, runs, b"")
            else:
                size, value_at = struct.unpack_from("<IH", data, at + 16)
                if value_at + size > length:
                    break
                value = data[at + value_at : at + value_at + size]
                yield _Attribute(kind, name, flags, 0, 0, 0, size, size, None, value)
            at += length
        raise damaged

    # -- attributes

    def _pieces(self, record: _Record, kind: int, name: str) -> tuple[list[_Attribute], bool]:
        """The parts of an attribute, from all records that hold some; whether none of these is lost."""
        found = [a for a in record.attributes if a.kind == kind and a.name == name]
        whole = True
        for holder in self._holders(record):
            if holder is None:
                whole = False
                continue
            try:
                other = self._record(holder)
            except BadArea:
                whole = False
                continue
            if other.base != record.number:
                whole = False
                continue
            found += [a for a in other.attributes if a.kind == kind and a.name == name]
        return sorted(found, key=lambda a: a.first), whole

    def _holders(self, record: _Record) -> list[int | None]:
        """Which other records hold attributes of this one; None among them: not all is known."""
        for attribute in record.attributes:
            if attribute.kind != _LIST:
                continue
            content = attribute.value
            if attribute.runs is not None:
                if attribute.size > _MOST_LIST_BYTES:
                    return [None]
                mapped = self._map([attribute], attribute.size)
                whole = bytearray(attribute.size)
                for at, data, bad in mapped.pieces():
                    if bad:
                        return [None]
                    whole[at : at + len(data)] = data[: attribute.size - at]
                content = bytes(whole)
            return list(_listed(content, record.number))
        return []

    def _all_of_kind(self, record: _Record, kind: int) -> list[_Attribute]:
        """Those of one kind, whatever their names, wherever they are."""
        found = [a for a in record.attributes if a.kind == kind]
        for holder in self._holders(record):
            try:
                other = self._record(holder) if holder is not None else None
            except BadArea:
                continue
            if other is not None and other.base == record.number:
                found += [a for a in other.attributes if a.kind == kind]
        return found

    def _map(self, parts: list[_Attribute], size: int) -> Mapped:
        """The place of an attribute that consists of ``parts``."""
        cluster = self._cluster
        runs: list[Run] = []
        at = 0
        known = True
        for part in parts:
            known = known and part.first == at
            at = part.first
            for place, count in part.runs or ():
                runs.append(Run(at * cluster, count * cluster, None if place is None else place * cluster))
                at += count
        missing = Extents((run.at, run.length) for run in runs).invert(Extent(0, size))
        return Mapped(self._window, tuple(runs), size, missing)

    def _stream(self, record: _Record, kind: int, name: str, *, table: bool = False) -> tuple[Mapped, str] | None:
        """An attribute that lies elsewhere, and what speaks against it; the table's own parts lead to each other."""
        parts = [a for a in record.attributes if a.kind == kind and a.name == name]
        if table:
            if not parts:
                return None
            self._table = self._map(parts, parts[0].size)
        parts, whole = self._pieces(record, kind, name)
        if not parts or parts[0].runs is None or parts[0].first:
            return None
        mapped = self._map(parts, parts[0].size)
        return mapped, "" if whole and not mapped.missing else "a part of its map is lost"

    # -- walking

    def walk(self) -> Iterator[Entry]:
        """Folders first, then files, then what has only its name left."""
        self._folders.clear()
        bad, blank = self._read_folders()
        if self._doubted_up_to:
            self._settle_doubt()
        paths: dict[int, bytes] = {}
        for number in sorted(self._folders, key=lambda n: (len(self._path(n, paths)), n)):
            if number != _ROOT and not self._is_system(number):
                record = self._try(number)
                path = self._path(number, paths)
                yield self._describe(record, path) if record else Entry(path, Form.FOLDER, mode=None)
        if _ROOT not in self._folders:
            self.findings.append("Its topmost folder is lost.")
        yield from self._walk_files(paths)
        if bad or blank:
            yield from self._walk_lost(bad, blank, paths)

    def _read_folders(self) -> tuple[set[int], Extents]:
        """Learn the names of all folders; the numbers of records that are damaged, and of those that are only zeros."""
        bad: set[int] = set()
        blank: list[tuple[int, int]] = []
        for number in range(self._count):
            try:
                record = self._record(number)
            except BadArea:
                if not self._never_used(number):
                    bad.add(number)
                elif blank and sum(blank[-1]) == number:
                    blank[-1] = (blank[-1][0], blank[-1][1] + 1)
                else:
                    blank.append((number, 1))
                continue
            if record.flags & _IN_USE and record.is_folder and not record.base:
                self._learn(record)
        return bad, Extents(blank)

    def _settle_doubt(self) -> None:
        """Look where other things lie that are known again: before the first that is there, all may be overwritten."""
        marks = {1: (_DATA, "", b"FILE"), 2: (_DATA, "", b"RSTR")}
        for number in (1, 2, *list(self._folders)[:_FOLDERS_LOOKED_AT]):
            kind, name, mark = marks.get(number, (_INDEX, "$I30", b"INDX"))
            record = self._try(number)
            stream = self._stream(record, kind, name) if record is not None else None
            for run in stream[0].runs if stream is not None else ():
                if run.place is None or run.place >= self._doubted_up_to:
                    continue
                try:
                    if self._window.read(run.place, 4) == mark:
                        self._doubted_up_to = run.place
                except BadArea:
                    continue

    def _learn(self, record: _Record) -> None:
        names = [name for a in self._all_of_kind(record, _NAME) if (name := _decode_name(a.value)) is not None]
        names.sort(key=lambda name: name[3] == _DOS_NAME)
        if record.number == _ROOT:
            self._folders[_ROOT] = (_ROOT, record.sequence, record.sequence, "")
        elif names:
            self._folders[record.number] = (names[0][0], names[0][1], record.sequence, names[0][2])
        else:
            self._folders[record.number] = (-1, 0, record.sequence, f"folder-{record.number}")

    def _never_used(self, number: int) -> bool:
        """Whether there are only zeros where the record is to be."""
        at = number * self._record_bytes
        for run in self._table.runs:
            if run.at <= at < run.at + run.length and run.place is not None:
                try:
                    return not any(self._window.read(run.place + at - run.at, self._record_bytes))
                except BadArea:
                    return False
        return False

    def _try(self, number: int) -> _Record | None:
        try:
            return self._record(number)
        except BadArea:
            return None

    def _is_system(self, number: int) -> bool:
        """Whether it is one of the filesystem's own, or in the folder of these."""
        for _ in range(_DEEPEST):
            if number == _EXTEND or (number < 16 and number != _ROOT):
                return True
            if number == _ROOT or number not in self._folders:
                return False
            number = self._folders[number][0]
        return False

    def _path(self, number: int, paths: dict[int, bytes]) -> bytes:
        """The path of a folder; below NAMELESS where a folder above it is not there any more."""
        known = paths.get(number)
        if known is not None:
            return known
        chain: list[int] = []
        at = number
        while at != _ROOT and at not in paths and at not in chain and len(chain) < _DEEPEST:
            chain.append(at)
            parent, sequence, _, _ = self._folders[at]
            above = self._folders.get(parent)
            if above is None or above[2] != sequence:
                break
            at = parent
        top = chain[-1] if chain else number
        parent, sequence, _, _ = self._folders[top]
        above = self._folders.get(parent)
        anchored = at in paths or (at == _ROOT and above is not None and above[2] == sequence)
        path = paths.get(at, b"") if anchored else NAMELESS
        for step in reversed(chain):
            path = joined(path, _encoded(self._folders[step][3]))
            paths[step] = path
        return path

    def _walk_files(self, paths: dict[int, bytes]) -> Iterator[Entry]:
        for number in range(self._count):
            record = self._try(number)
            if record is None or not record.flags & _IN_USE or record.is_folder or record.base or number < 16:
                continue
            if number < _FIRST_OF_USERS and not record.names():
                continue
            names = [name for a in self._all_of_kind(record, _NAME) if (name := _decode_name(a.value)) is not None]
            long = [name for name in names if name[3] != _DOS_NAME] or names
            if any(self._is_system(name[0]) for name in long):
                continue
            if not long:
                yield from self._describe_all(record, joined(NAMELESS, f"file-{number}".encode()), 1)
            for parent, sequence, called, _ in long:
                above = self._folders.get(parent)
                there = above is not None and above[2] == sequence
                folder = self._path(parent, paths) if there else NAMELESS
                yield from self._describe_all(record, joined(folder, _encoded(called)), len(long))

    def _describe_all(self, record: _Record, path: bytes, names: int) -> Iterator[Entry]:
        """The file, and each of its other streams."""
        entry = self._describe(record, path)
        entry.identity = record.number if names > 1 else None
        yield entry
        seen = {""}
        for attribute in self._all_of_kind(record, _DATA):
            if attribute.name in seen or attribute.runs is None:
                continue
            seen.add(attribute.name)
            stream = Entry(path + b":" + _encoded(attribute.name), Form.FILE, mode=0o600, times_ns=entry.times_ns)
            self._fill(stream, record, attribute.name)
            yield stream

    def _describe(self, record: _Record, path: bytes) -> Entry:
        form = Form.FOLDER if record.is_folder else Form.FILE
        entry = Entry(path, form, mode=0o755 if record.is_folder else 0o644)
        for attribute in record.attributes:
            if attribute.kind == _STANDARD and len(attribute.value) >= 32:
                modified, accessed = (struct.unpack_from("<Q", attribute.value, at)[0] for at in (8, 24))
                entry.times_ns = (_time(accessed), _time(modified))
        entry.attributes = tuple(
            (f"user.{a.name}", a.value) for a in record.attributes if a.kind == _DATA and a.name and a.runs is None
        )
        reparse = next((a for a in record.attributes if a.kind == _REPARSE), None)
        if reparse is not None:
            self._describe_reparse(entry, record, reparse)
        elif form is Form.FILE:
            self._fill(entry, record, "")
            self._describe_old_link(entry)
        return entry

    @staticmethod
    def _describe_old_link(entry: Entry) -> None:
        """A link as Interix makes it, and ntfs-3g: a small file that says so."""
        content = entry.content
        if isinstance(content, Inline) and content.data.startswith(_OLD_LINK) and len(content.data) % 2 == 0:
            entry.form, entry.mode, entry.content = Form.LINK, None, None
            entry.target = content.data[len(_OLD_LINK) :].decode("utf-16-le", "replace").encode()
            entry.size_bytes = len(entry.target)

    def _describe_reparse(self, entry: Entry, record: _Record, reparse: _Attribute) -> None:
        """What stands for something else: a link, or content that other parts of Windows bring forth."""
        tag = struct.unpack_from("<I", reparse.value)[0] if len(reparse.value) >= 8 else 0
        if tag in (_SYMLINK, _JUNCTION):
            entry.form, entry.mode = Form.LINK, None
            entry.target = _decode_target(reparse.value, tag)
            entry.size_bytes = len(entry.target)
            entry.lost = not entry.target
            entry.problem = "where it leads to is lost" if entry.lost else ""
        elif entry.form is Form.FILE:
            self._fill(entry, record, "")
            kinds = {0x80000017: "it is compressed by Windows itself", 0x80000013: "it is deduplicated by Windows"}
            if tag & 0xFFFF0FFF == 0x9000001A:
                entry.problem = entry.problem or "its content may be in the cloud"
            elif tag in kinds:
                entry.problem = f"{kinds[tag]}, which is not undone here"

    def _fill(self, entry: Entry, record: _Record, name: str) -> None:
        """Size and content of a stream."""
        parts, whole = self._pieces(record, _DATA, name)
        if not parts or parts[0].first:
            if not whole or any(a.kind == _LIST for a in record.attributes):
                entry.problem, entry.lost = "where it lies is lost", True
            elif not name:
                entry.problem, entry.lost = "its record says nothing of its content", True
            return
        first = parts[0]
        entry.size_bytes = first.size
        if first.flags & _ENCRYPTED:
            entry.problem = "it is encrypted by Windows, and its key is not here"
        if first.runs is None:
            entry.content = Inline(first.value)
            return
        mapped = self._map(parts, first.size)
        if mapped.missing or not whole:
            entry.problem = entry.problem or "a part of its map is lost"
        entry.content = _up_to(mapped, first.initialized)
        if first.flags & _COMPRESSED and first.unit:
            entry.content = self._unpacked(mapped, first)
        entry.problem = entry.problem or doubt(mapped, self._doubted_up_to)

    def _unpacked(self, mapped: Mapped, first: _Attribute) -> Content:
        unit = self._cluster << first.unit
        read = partial(self._read_unit, mapped, [run.at for run in mapped.runs], unit, first.initialized)
        return Computed(read, _Units(mapped, unit, first.initialized), first.size, unit)

    def _read_unit(self, mapped: Mapped, starts: list[int], unit: int, initialized: int, at: int, length: int) -> bytes:
        """One compressed unit of a file.  Raises BadArea where it cannot be read."""
        if mapped.missing.clip(Extent(at, unit)):
            raise BadArea("where it lies is not known")
        raw, held = bytearray(), 0
        for run in mapped.runs[max(0, bisect.bisect_right(starts, at) - 1) :]:
            if run.at >= at + unit:
                break
            low, high = max(run.at, at), min(run.at + run.length, at + unit)
            if low < high and run.place is not None:
                raw += self._window.read(run.place + low - run.at, high - low)
                held += high - low
        data = bytes(unit) if not held else bytes(raw)
        if 0 < held < unit:
            data = guarded(lambda: lznt1.decompress(bytes(raw)))
        data = data[: max(0, initialized - at)]
        return data.ljust(length, b"\0")[:length] if len(data) >= min(length, initialized - at) else data

    # -- what has only its name left

    def _walk_lost(self, bad: set[int], blank: Extents, paths: dict[int, bytes]) -> Iterator[Entry]:
        """What folders name whose record is damaged."""
        named: set[int] = set()
        for number in self._folders:
            record = self._try(number)
            if record is None or self._is_system(number):
                continue
            try:
                found = list(self._indexed(record))
            except BadArea:
                yield Entry(self._path(number, paths) or b".", Form.FOLDER, problem="the list of its names is damaged")
                continue
            for target, name, is_folder in found:
                gone = target in bad or target >= self._count or blank.covers(Extent(target, 1))
                if gone and target not in named:
                    named.add(target)
                    path = joined(self._path(number, paths), _encoded(name))
                    what = "its record is damaged" if not is_folder else "its record, and so its place, is damaged"
                    yield Entry(path, Form.FOLDER if is_folder else Form.FILE, problem=what, lost=True)
        rest = len(bad - named)
        if rest:
            self.findings.append(
                f"{rest} records of its file table are damaged, and in no folder: what they held is lost."
            )

    def _indexed(self, record: _Record) -> Iterator[tuple[int, str, bool]]:
        """Record, name, whether it is a folder: of each entry of a folder's index.  Raises BadArea."""
        for attribute in record.attributes:
            if attribute.kind == _INDEX_ROOT and attribute.name == "$I30" and len(attribute.value) >= 32:
                yield from _index_entries(attribute.value, 16)
        stream = self._stream(record, _INDEX, "$I30")
        if stream is None:
            return
        mapped, problem = stream
        if problem:
            raise BadArea(problem)
        size = max(self._cluster, 4096)
        for run in mapped.runs:
            for at in range(0, run.length, size):
                if run.place is None:
                    continue
                raw = self._window.read(run.place + at, min(size, run.length - at))
                if raw[:4] == b"INDX":
                    data = _mended(raw)
                    if data is None:
                        raise BadArea("a part of its index is damaged")
                    yield from _index_entries(data, 24)


@dataclass(frozen=True, slots=True)
class _Units:
    """Where the units of a compressed file begin that hold something, or of which it is not known."""

    mapped: Mapped
    unit: int
    initialized: int

    def __iter__(self) -> Iterator[int]:
        last = -1
        held = Extents((run.at, run.length) for run in self.mapped.runs if run.place is not None)
        for extent in held.union(self.mapped.missing).clip(Extent(0, max(0, self.initialized))):
            for number in range(max(last + 1, extent.offset // self.unit), -(-extent.end // self.unit)):
                yield number * self.unit
                last = number


def _mended(raw: bytes) -> bytes | None:
    """A record with the last bytes of each of its sectors, which are kept in its header, put back; None: torn."""
    place, count = struct.unpack_from("<HH", raw, 4)
    if count < 2 or place + 2 * count > len(raw) or (count - 1) * 512 > len(raw):
        return None
    data = bytearray(raw)
    for index in range(1, count):
        at = index * 512 - 2
        if raw[at : at + 2] != raw[place : place + 2]:
            return None
        data[at : at + 2] = raw[place + 2 * index : place + 2 * index + 2]
    return bytes(data)


def _decode_runs(raw: bytes, clusters: int) -> tuple[tuple[int | None, int], ...] | None:
    """First cluster (None: a hole) and number of clusters of each run; None for nonsense."""
    runs: list[tuple[int | None, int]] = []
    at = position = 0
    while at < len(raw) and raw[at]:
        length_bytes, offset_bytes = raw[at] & 0xF, raw[at] >> 4
        end = at + 1 + length_bytes + offset_bytes
        if not 0 < length_bytes <= 8 or offset_bytes > 8 or end > len(raw):
            return None
        count = int.from_bytes(raw[at + 1 : at + 1 + length_bytes], "little")
        if count > MOST_BYTES:
            return None
        if not offset_bytes:
            runs.append((None, count))
        else:
            position += int.from_bytes(raw[at + 1 + length_bytes : end], "little", signed=True)
            if position < 0 or not count or position + count > clusters + 1:
                return None
            runs.append((position, count))
        at = end
    return tuple(runs) if at < len(raw) else None


def _decode_name(value: bytes) -> tuple[int, int, str, int] | None:
    """Number and sequence of the folder, name, and which kind of name it is."""
    if len(value) < 66 or 66 + 2 * value[64] > len(value) or not value[64]:
        return None
    (folder,) = struct.unpack_from("<Q", value)
    return folder & _BASE, folder >> 48, value[66 : 66 + 2 * value[64]].decode("utf-16-le", "surrogatepass"), value[65]


def _encoded(name: str) -> bytes:
    """A name as a path has it."""
    return name.encode("utf-8", "surrogatepass").replace(b"/", b"_") or b"_"


def _listed(content: bytes, own: int) -> Iterator[int | None]:
    """The other records that a list of attributes names, each once."""
    seen = {own}
    at = 0
    while at + 26 <= len(content):
        length = struct.unpack_from("<H", content, at + 4)[0]
        holder = struct.unpack_from("<Q", content, at + 16)[0] & _BASE
        if length < 26:
            yield None
            return
        if holder not in seen:
            seen.add(holder)
            yield holder
        at += length


def _index_entries(data: bytes, head: int) -> Iterator[tuple[int, str, bool]]:
    """Those of one node of an index."""
    first, total = struct.unpack_from("<II", data, head)
    at, end = head + first, min(len(data), head + total)
    while at + 16 <= end:
        reference, length, content, flags = struct.unpack_from("<QHHH", data, at)
        if flags & 2 or length < 16:
            return
        name = _decode_name(data[at + 16 : at + 16 + content])
        if name is not None and name[3] != _DOS_NAME:
            (attributes,) = struct.unpack_from("<I", data, at + 16 + 56)
            yield reference & _BASE, name[2], bool(attributes & 0x10000000)
        at += length


def _decode_target(value: bytes, tag: int) -> bytes:
    """Where a link leads to."""
    head = 20 if tag == _SYMLINK else 16
    if len(value) < head:
        return b""
    start, length, shown_start, shown_length = struct.unpack_from("<HHHH", value, 8)
    text = value[head + shown_start : head + shown_start + shown_length].decode("utf-16-le", "replace")
    text = text or value[head + start : head + start + length].decode("utf-16-le", "replace").removeprefix("\\??\\")
    return text.replace("\\", "/").encode("utf-8", "replace")


def _up_to(mapped: Mapped, initialized: int) -> Mapped:
    """The same, with zeros behind what was ever written."""
    if initialized >= mapped.size_bytes:
        return mapped
    runs: list[Run] = []
    for run in mapped.runs:
        written = max(0, min(run.length, initialized - run.at))
        if written:
            runs.append(Run(run.at, written, run.place))
    return Mapped(mapped.window, tuple(runs), mapped.size_bytes, mapped.missing)


def _time(ticks: int) -> int:
    """Nanoseconds since 1970 of tenths of microseconds since 1601."""
    return (ticks - _EPOCH_TICKS) * 100
