"""Files of a broken exFAT: its folders' entries have checksums; where files lie has none.

A file is called whole only when its chain of clusters ends where its size says, or it is said to lie in one piece,
and none of its clusters is another file's.

Source: Microsoft's "exFAT file system specification".
"""

from __future__ import annotations

import calendar
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from recovery.extent import Extents
from recovery.salvage.entry import Entry, Form, Mapped, Run, doubt, joined
from recovery.salvage.medium import BadArea, Window

_FILE, _STREAM, _LETTERS, _LABEL = 0x85, 0xC0, 0xC1, 0x83
_FOLDER, _READ_ONLY = 0x10, 0x01
_CONTIGUOUS = 0x2
_UNKNOWN, _LAST = 0xFFFFFFFE, 0xFFFFFFF8
_MOST_FOLDER_BYTES, _DEEPEST = 256 << 20, 200
_MOST_CLUSTERS, _MOST_TIMES = 0xFFFFFFF5, 64


class NotExfat(Exception):
    """Neither the boot sector nor its copy is there."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A set of entries of a folder that belong together."""

    name: str
    attributes: int
    first: int
    size: int
    written: int
    contiguous: bool
    times_ns: tuple[int, int]


@dataclass(slots=True)
class _File:
    path: bytes
    named: _Named
    runs: tuple[Run, ...]
    problem: str


class Exfat:
    """An exFAT in ``window``.  Raises NotExfat when nothing tells its geometry."""

    kind = "exfat"

    def __init__(self, window: Window) -> None:
        self._window = window
        self.findings: list[str] = []
        self.notes: list[str] = []
        self.label = ""
        self._open()
        #: What lies before this place may be overwritten: it begins with nothing that is good.
        self._doubted_up_to = 0
        data, bad = self._window.content(self._table, (self._clusters + 2) * 4)
        self._next = array("I")
        self._next.frombytes(data)
        if sys.byteorder == "big":
            self._next.byteswap()
        for gap in bad:
            for number in range((gap.offset - self._table) // 4, -(-(gap.end - self._table) // 4)):
                self._next[number] = _UNKNOWN
        if self._next[0] != 0xFFFFFFF8 or self._next[1] != 0xFFFFFFFF:
            self.findings.append("Its table is damaged: files that lie in one piece are found all the same.")
            self._next = array("I", [_UNKNOWN]) * (self._clusters + 2)
            self._doubted_up_to = self._window.size_bytes
        self._owners = bytearray(self._clusters + 2)

    def _open(self) -> None:
        for copy, place in enumerate((0, 12 * 512, 12 * 4096)):
            try:
                boot = self._window.read(place, 512)
            except BadArea:
                continue
            if boot[3:11] != b"EXFAT   " or boot[510:512] != b"\x55\xaa":
                continue
            table, table_length, heap, clusters, root = struct.unpack_from("<IIIII", boot, 80)
            sector_shift, cluster_shift = boot[108], boot[109]
            if not 9 <= sector_shift <= 12 or cluster_shift > 25 - sector_shift or not 2 <= root < clusters + 2:
                continue
            if table_length << sector_shift < (clusters + 2) * 4 or clusters > _MOST_CLUSTERS:
                continue
            if clusters << sector_shift + cluster_shift > _MOST_TIMES * self._window.size_bytes:
                continue
            self._table, self._data = table << sector_shift, heap << sector_shift
            self._cluster, self._clusters, self._root = int(1 << sector_shift + cluster_shift), clusters, root
            if copy:
                self.notes.append("Its boot sector is damaged; its copy was used.")
            return
        raise NotExfat("there is no boot sector")

    # -- chains

    def _place(self, cluster: int) -> int:
        return int(self._data + (cluster - 2) * self._cluster)

    def _chain(self, first: int, wanted: int | None, *, contiguous: bool) -> tuple[list[int], str]:
        """The clusters of what begins at ``first``, at most ``wanted`` if that is known; what speaks against them."""
        if contiguous and wanted is not None:
            if first < 2 or first + wanted > self._clusters + 2:
                return [], "where it lies is lost"
            return list(range(first, first + wanted)), ""
        found: list[int] = []
        at = first
        while 2 <= at < self._clusters + 2 and (wanted is None or len(found) < wanted):
            found.append(at)
            if len(found) > self._clusters:
                return [first], "its chain of clusters does not end"
            at = self._next[at]
        if wanted is None:
            return found, "" if at >= _LAST else "its chain of clusters is broken"
        if len(found) == wanted:
            return found, "" if at >= _LAST or at == _UNKNOWN else "its chain of clusters is longer than it is itself"
        rest = range(found[-1] + 1, self._clusters + 2) if found else range(0)
        found += rest[: wanted - len(found)]
        return found, "where it goes on is not known: it was taken to lie in one piece from there on"

    def _runs(self, clusters: list[int]) -> tuple[Run, ...]:
        runs: list[Run] = []
        for index, cluster in enumerate(clusters):
            place, last = self._place(cluster), runs[-1] if runs else None
            if last is not None and last.place is not None and last.place + last.length == place:
                runs[-1] = Run(last.at, last.length + self._cluster, last.place)
            else:
                runs.append(Run(index * self._cluster, self._cluster, place))
        return tuple(runs)

    # -- walking

    def walk(self) -> Iterator[Entry]:
        """All that is in folders."""
        self._owners = bytearray(self._clusters + 2)
        files: list[_File] = []
        damaged: list[Entry] = []
        clusters, problem = self._chain(self._root, None, contiguous=False)
        if problem:
            damaged.append(Entry(b".", Form.FOLDER, problem=f"the topmost folder is damaged: {problem}"))
        self._claim(clusters)
        self._walk_folder(b"", clusters, files, damaged, depth=0)
        if self._doubted_up_to and files:
            self._doubted_up_to = self._place(self._root)
        for file in files:
            yield self._describe(file)
        yield from damaged

    def _walk_folder(
        self, path: bytes, clusters: list[int], files: list[_File], damaged: list[Entry], *, depth: int
    ) -> None:
        pieces, sound = [], True
        for cluster in clusters[: _MOST_FOLDER_BYTES // self._cluster]:
            data, bad = self._window.content(self._place(cluster), self._cluster)
            pieces.append(data)
            sound = sound and not bad
        for named in self._names(b"".join(pieces)):
            if named is None:
                sound = False
                continue
            inside = joined(path, named.name.encode("utf-8", "surrogatepass").replace(b"/", b"_"))
            wanted = -(-named.size // self._cluster)
            found, problem = self._chain(named.first, wanted, contiguous=named.contiguous) if wanted else ([], "")
            if named.attributes & _FOLDER:
                if depth > _DEEPEST or any(self._owners[cluster] for cluster in found[:1]):
                    continue
                self._claim(found)
                files.append(_File(inside, named, (), ""))
                if problem:
                    damaged.append(Entry(inside, Form.FOLDER, problem=f"the folder is damaged: {problem}"))
                self._walk_folder(inside, found, files, damaged, depth=depth + 1)
            else:
                self._claim(found)
                files.append(_File(inside, named, self._runs(found), problem))
        if not sound:
            problem = "the folder is damaged: names of what was in it are lost"
            damaged.append(Entry(path or b".", Form.FOLDER, problem=problem))

    def _claim(self, clusters: list[int]) -> None:
        for cluster in clusters:
            self._owners[cluster] = min(2, self._owners[cluster] + 1)

    def _describe(self, file: _File) -> Entry:
        named = file.named
        is_folder = bool(named.attributes & _FOLDER)
        mode = 0o755 if is_folder else 0o444 if named.attributes & _READ_ONLY else 0o644
        entry = Entry(file.path, Form.FOLDER if is_folder else Form.FILE, mode=mode, times_ns=named.times_ns)
        if is_folder:
            return entry
        entry.size_bytes, entry.problem = named.size, file.problem
        if any(self._shared(run) for run in file.runs):
            entry.problem = entry.problem or "some of its clusters are another file's too"
        known = sum(run.length for run in file.runs)
        missing = Extents([(known, named.size - known)] if known < named.size else [])
        runs = [
            Run(run.at, min(run.length, named.written - run.at), run.place)
            for run in file.runs
            if run.at < named.written
        ]
        entry.content = Mapped(self._window, tuple(runs), named.size, missing)
        entry.problem = entry.problem or doubt(entry.content, self._doubted_up_to)
        if not file.runs and named.size:
            entry.lost, entry.problem = True, entry.problem or "where it lies is lost"
        return entry

    def _shared(self, run: Run) -> bool:
        """Whether some of it is another's too."""
        first = ((run.place or 0) - self._data) // self._cluster + 2
        return max(self._owners[first : first + run.length // self._cluster], default=0) > 1

    # -- names

    def _names(self, data: bytes) -> Iterator[_Named | None]:
        """What a folder names; None for what makes no sense."""
        at, end = 0, len(data.rstrip(b"\0"))
        while at + 32 <= len(data) and at < end:
            kind = data[at]
            if not kind:
                if any(data[at : at + 32]):
                    yield None
                at += 32
                continue
            if kind == _LABEL:
                length = min(11, data[at + 1])
                self.label = data[at + 2 : at + 2 + 2 * length].decode("utf-16-le", "replace")
            if kind != _FILE:
                if kind & 0x80 and kind not in (_LABEL, 0x81, 0x82, 0xA0, 0xA1, 0xA2, 0xE0, 0xE1):
                    yield None
                at += 32
                continue
            count = data[at + 1] + 1
            entries = data[at : at + 32 * count]
            if count < 3 or len(entries) < 32 * count or _set_checksum(entries) != entries[2] | entries[3] << 8:
                yield None
                at += 32
                continue
            yield self._decode(entries)
            at += 32 * count

    def _decode(self, entries: bytes) -> _Named | None:
        stream = entries[32:64]
        if stream[0] != _STREAM:
            return None
        written, first, size = struct.unpack_from("<Q4xIQ", stream, 8)
        letters = b"".join(entries[at + 2 : at + 32] for at in range(64, len(entries), 32) if entries[at] == _LETTERS)
        name = letters[: 2 * stream[3]].decode("utf-16-le", "surrogatepass")
        (attributes,) = struct.unpack_from("<H", entries, 4)
        if not name or (size and not 2 <= first < self._clusters + 2):
            return None
        modified, accessed = struct.unpack_from("<II", entries, 12)
        times = (_time(accessed, 0, entries[24]), _time(modified, entries[21], entries[23]))
        return _Named(name, attributes, first, size, min(written, size), bool(stream[1] & _CONTIGUOUS), times)


def _set_checksum(entries: bytes) -> int:
    total = 0
    for at, letter in enumerate(entries):
        if at not in (2, 3):
            total = ((total & 1) << 15 | total >> 1) + letter & 0xFFFF
    return total


def _time(stamp: int, hundredths: int, zone: int) -> int:
    """Nanoseconds since 1970; ``zone`` is in quarters of an hour, where its highest bit is set."""
    date, time = stamp >> 16, stamp & 0xFFFF
    year, month, day = (date >> 9) + 1980, max(1, date >> 5 & 15), max(1, date & 31)
    seconds = (time & 31) * 2
    try:
        whole = calendar.timegm((year, month, day, time >> 11, time >> 5 & 63, seconds, 0, 0, 0))
    except ValueError:
        return 0
    quarters = (zone & 0x7F) - (0x80 if zone & 0x40 else 0) if zone & 0x80 else 0
    return (whole - quarters * 900) * 10**9 + hundredths * 10**7
