"""Files of a broken FAT12, FAT16 or FAT32: what both its tables, its folders and the sizes of its files agree on.

Nothing in a FAT has a checksum.  A file is called whole only when its chain of clusters ends where its size says, none
of its clusters is another file's, and no copy of the table contradicts.

Source: Microsoft's "FAT32 File System Specification" (fatgen103).
"""

from __future__ import annotations

import calendar
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from recovery.extent import Extents
from recovery.salvage.entry import NAMELESS, Entry, Form, Mapped, Run, doubt, joined
from recovery.salvage.medium import BadArea, Window
from recovery.units import MIB

_READ_ONLY, _VOLUME, _FOLDER, _LONG_NAME = 0x01, 0x08, 0x10, 0x0F
_LOWER_STEM, _LOWER_SUFFIX = 0x08, 0x10
_DELETED, _ESCAPED = 0xE5, 0x05
_MOST_FOLDER_BYTES = 2 << 20
_DEEPEST, _MOST_TIMES, _MOST_CLUSTERS = 200, 64, 0x0FFFFFF5
_LOW_HALF = bytes(number & 0x0F for number in range(256))
#: In our copy of the table: what no copy on the disk tells; what they tell differently.
_UNKNOWN, _DISPUTED = 0xFFFFFFFE, 0xFFFFFFFD
#: The first table begins so: the kind of medium, and a mark for the end of a chain.
_TABLE_HEAD = b"\xf8\xff\xff\x0f"
_CLUSTER_SIZES = [512 << power for power in range(8)]
_ENOUGH_FOLDERS = 64
_BAD_LETTERS = set(b'"*+,./:;<=>?[\\]|') | set(range(0x20))


class NotFat(Exception):
    """Neither the boot sector nor its copy is there."""


@dataclass(frozen=True, slots=True)
class _Named:
    """An entry of a folder."""

    name: str
    attributes: int
    first: int
    size: int
    times_ns: tuple[int, int]


@dataclass(slots=True)
class _File:
    """A file or folder, and where it lies; ``problem``: what speaks against that."""

    path: bytes
    named: _Named
    runs: tuple[Run, ...]
    problem: str


class Fat:
    """A FAT in ``window``.  Raises NotFat when nothing tells its geometry."""

    kind = "vfat"

    def __init__(self, window: Window) -> None:
        self._window = window
        self.findings: list[str] = []
        self.notes: list[str] = []
        self.label = ""
        self._open()
        #: Nothing vouches for what lies before this place: the beginning of the filesystem was overwritten.
        self._doubted_up_to = 0
        self._next = self._read_tables()
        self._owners = bytearray(self._clusters + 2)

    # -- geometry

    def _open(self) -> None:
        for copy, place in enumerate((0, 6 * 512, 6 * 4096)):
            try:
                boot = self._window.read(place, 512)
            except BadArea:
                continue
            if self._decode_boot(boot):
                if copy:
                    self.notes.append("Its boot sector is damaged; its copy was used.")
                return
        if not self._guess():
            raise NotFat("there is no boot sector")
        self.notes.append("Both its boot sectors are damaged: its geometry was found by its folders.")

    def _guess(self) -> bool:
        """The geometry of a FAT32 by where folders lie that say in which cluster they begin, and by its tables."""
        size, sector = self._window.size_bytes, 512
        starts: list[tuple[int, int]] = []
        tables: list[int] = []
        for at in range(0, size, MIB):
            data, _ = self._window.content(at, min(MIB, size - at))
            for inside in range(0, len(data) - 63, sector):
                head = data[inside : inside + 64]
                if head.startswith(_TABLE_HEAD) and head[7] & 0x0F == 0x0F and len(tables) < 2:
                    tables.append(at + inside)
                number = _folder_start(head)
                if number > 2:
                    starts.append((number, at + inside))
            if len(starts) >= _ENOUGH_FOLDERS:
                break
        votes = Counter(
            (step, place - (number - 2) * step)
            for (number, place), (other, there) in pairwise(sorted(starts))
            if other > number and (step := (there - place) // (other - number)) in _CLUSTER_SIZES
        )
        if not votes:
            return False
        (cluster, data_start), _ = votes.most_common(1)[0]
        if not 0 < data_start < size:
            return False
        self._cluster, self._data, self._bits, self._root = cluster, data_start, 32, 2
        self._root_place = data_start
        self._clusters = (size - data_start) // cluster
        self._table_bytes = tables[1] - tables[0] if len(tables) == 2 else (self._clusters + 2) * 4
        first = tables[0] if len(tables) == 2 else data_start - 2 * self._table_bytes
        self._tables = [first, first + self._table_bytes]
        self._clusters = min(self._clusters, self._table_bytes // 4 - 2)
        return first >= 0 and self._tables[1] + self._table_bytes <= data_start

    def _decode_boot(self, boot: bytes) -> bool:
        sector, cluster, reserved, tables, entries, small = struct.unpack_from("<HBHBHH", boot, 11)
        (short,) = struct.unpack_from("<H", boot, 22)
        large, long = struct.unpack_from("<II", boot, 32)
        if boot[510:512] != b"\x55\xaa" or sector not in (512, 1024, 2048, 4096) or cluster.bit_count() != 1:
            return False
        table, total = (short or long) * sector, (small or large) * sector
        if not reserved or tables not in (1, 2) or not table or not total or boot[:1] not in (b"\xeb", b"\xe9"):
            return False
        self._tables = [reserved * sector + number * table for number in range(tables)]
        self._table_bytes = table
        self._root_place = reserved * sector + tables * table
        self._data = self._root_place + -(-entries * 32 // sector) * sector
        self._cluster = cluster * sector
        self._clusters = (total - self._data) // self._cluster
        self._bits = 32 if not short else 12 if self._clusters < 4085 else 16
        self._root = struct.unpack_from("<I", boot, 44)[0] if self._bits == 32 else 0
        self._clusters = min(self._clusters, table * 8 // self._bits - 2)
        if self._clusters > _MOST_CLUSTERS or total > _MOST_TIMES * self._window.size_bytes:
            return False
        if self._clusters < 1 or self._data >= total or (self._bits == 32 and not 2 <= self._root < self._clusters + 2):
            return False
        label = boot[71:82] if self._bits == 32 else boot[43:54]
        name = label.decode("cp437", "replace").strip()
        self.label = "" if name == "NO NAME" else name
        return True

    def _read_tables(self) -> array[int]:
        """What follows on each cluster, by all copies of the table."""
        copies = []
        needed = -(-(self._clusters + 2) * self._bits // 8)
        for place in self._tables:
            data, bad = self._window.content(place, needed)
            copies.append((self._numbers(data), self._unreadable(bad, place)))
        for numbers, lost in copies:
            begins = numbers[0] | 0xFF == (1 << min(28, self._bits)) - 1 and numbers[0] & 0xFF >= 0xF0
            for number in lost if begins else range(len(numbers)):
                numbers[number] = _UNKNOWN
        first = copies[0][0]
        if len(copies) == 2 and first != copies[1][0]:
            self._reconcile(first, copies[1][0])
        if all(number == _UNKNOWN for number in first[:64]):
            self.findings.append("Where its files go on is lost: its table is damaged.")
            self._doubted_up_to = self._window.size_bytes
        return first

    def _reconcile(self, first: array[int], second: array[int]) -> None:
        """One table of two that differ: what one cannot say the other says; two sane answers are none."""
        disputed = unknown = 0
        for number, other in enumerate(second):
            mine = first[number]
            if mine == other or other == _UNKNOWN:
                unknown += mine != other
                continue
            if mine == _UNKNOWN:
                unknown += 1
                first[number] = other
            elif number >= 2:
                disputed += 1
                sane = [self._is_sane(entry) for entry in (mine, other)]
                first[number] = mine if sane == [True, False] else other if sane == [False, True] else _DISPUTED
        if disputed or unknown:
            self.findings.append("The two copies of its table differ.")

    def _is_sane(self, entry: int) -> bool:
        return 2 <= entry < self._clusters + 2 or entry >= (1 << min(28, self._bits)) - 8

    def _unreadable(self, bad: Extents, place: int) -> Iterator[int]:
        for gap in bad:
            low, high = (gap.offset - place) * 8 // self._bits, -(-(gap.end - place) * 8 // self._bits)
            yield from range(low, min(high, self._clusters + 2))

    def _numbers(self, raw: bytes) -> array[int]:
        count = self._clusters + 2
        if self._bits == 12:
            raw += b"\0\0"
            pairs = (raw[at] | raw[at + 1] << 8 for at in (number * 3 // 2 for number in range(count)))
            return array("I", ((pair >> 4) if n % 2 else pair & 0xFFF for n, pair in enumerate(pairs)))
        numbers = array("I" if self._bits == 32 else "H")
        if self._bits == 32:
            masked = bytearray(raw[: count * 4])
            masked[3::4] = masked[3::4].translate(_LOW_HALF)
            numbers.frombytes(masked)
        else:
            numbers.frombytes(raw[: count * 2])
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers if self._bits == 32 else array("I", numbers)

    # -- chains

    def _chain(self, first: int, wanted: int | None) -> tuple[array[int], str]:
        """The clusters of what begins at ``first``, at most ``wanted`` if that is known; what speaks against them."""
        found = array("I")
        at = first
        last = (1 << min(28, self._bits)) - 8
        most = _MOST_FOLDER_BYTES // self._cluster + 1 if wanted is None else wanted
        while 2 <= at < self._clusters + 2:
            if len(found) == most:
                return (
                    found,
                    f"its chain of clusters is longer than {'a folder can be' if wanted is None else 'it is itself'}",
                )
            found.append(at)
            at = self._next[at]
        if at in (_UNKNOWN, _DISPUTED) and wanted is not None and len(found) == wanted:
            return found, ""
        if at in (_UNKNOWN, _DISPUTED) or at < last:
            rest = range(found[-1] + 1, self._clusters + 2) if found and wanted is not None else range(0)
            found.extend(rest[: max(0, (wanted or 0) - len(found))])
            return found, "where it goes on is not known: it was taken to lie in one piece from there on"
        if wanted is not None and len(found) < wanted:
            return found, "its chain of clusters is shorter than it is itself"
        return found, ""

    def _place(self, cluster: int) -> int:
        return self._data + (cluster - 2) * self._cluster

    def _runs(self, clusters: Sequence[int]) -> tuple[Run, ...]:
        runs: list[Run] = []
        for index, cluster in enumerate(clusters):
            place = self._place(cluster)
            last = runs[-1] if runs else None
            if last is not None and last.place is not None and last.place + last.length == place:
                runs[-1] = Run(last.at, last.length + self._cluster, last.place)
            else:
                runs.append(Run(index * self._cluster, self._cluster, place))
        return tuple(runs)

    # -- walking

    def walk(self) -> Iterator[Entry]:
        """All that is in folders; and, where a folder is damaged, the folders that are found without their names."""
        self._owners = bytearray(self._clusters + 2)
        files: list[_File] = []
        damaged: list[Entry] = []
        if self._bits == 32:
            clusters, problem = self._chain(self._root, None)
            self._claim(clusters)
            if problem:
                damaged.append(Entry(b".", Form.FOLDER, problem=f"the topmost folder is damaged: {problem}"))
            content = self._folder_content(clusters)
        else:
            content = self._window.content(self._root_place, self._data - self._root_place)
        self._walk_folder(b"", content, files, damaged, depth=0)
        if damaged or self._doubted_up_to:
            self._walk_nameless(files, damaged)
        for file in files:
            yield self._describe(file)
        yield from damaged

    def _walk_folder(
        self, path: bytes, content: tuple[bytes, Extents], files: list[_File], damaged: list[Entry], *, depth: int
    ) -> None:
        data, bad = content
        sound = not bad
        for named in self._names(data):
            if named is None:
                sound = False
                continue
            inside = joined(path, named.name.encode("utf-8", "surrogatepass").replace(b"/", b"_"))
            if named.attributes & _FOLDER:
                clusters, problem = self._chain(named.first, None)
                clusters = clusters[: _MOST_FOLDER_BYTES // self._cluster]
                if any(self._owners[cluster] for cluster in clusters[:1]) or depth > _DEEPEST:
                    continue
                self._claim(clusters)
                files.append(_File(inside, named, (), ""))
                if problem:
                    damaged.append(Entry(inside, Form.FOLDER, problem=f"the folder is damaged: {problem}"))
                self._walk_folder(inside, self._folder_content(clusters), files, damaged, depth=depth + 1)
            else:
                wanted = -(-named.size // self._cluster)
                clusters, problem = self._chain(named.first, wanted) if wanted or named.first else (array("I"), "")
                self._claim(clusters)
                files.append(_File(inside, named, self._runs(clusters), problem))
        if not sound:
            problem = "the folder is damaged: names of what was in it are lost"
            damaged.append(Entry(path or b".", Form.FOLDER, problem=problem))

    def _folder_content(self, clusters: Sequence[int]) -> tuple[bytes, Extents]:
        pieces, gone, at = [], [], 0
        for cluster in clusters[: max(1, _MOST_FOLDER_BYTES // self._cluster)]:
            data, bad = self._window.content(self._place(cluster), self._cluster)
            pieces.append(data)
            gone += [(gap.offset - self._place(cluster) + at, gap.length) for gap in bad]
            at += self._cluster
        return b"".join(pieces), Extents(gone)

    def _claim(self, clusters: Sequence[int]) -> None:
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
        entry.content = Mapped(self._window, file.runs, named.size, missing)
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
        """What a folder names; None for each entry that makes no sense."""
        long: list[bytes] = []
        checksum = -1
        for at in range(0, min(len(data) - 31, len(data.rstrip(b"\0"))), 32):
            raw = data[at : at + 32]
            if not raw[0]:  # zeros in the middle: what is behind them may be good
                if any(raw):
                    yield None
                continue
            if raw[0] == _DELETED:
                long = []
                continue
            if raw[11] & 0x3F == _LONG_NAME:
                if raw[0] & 0x40:
                    long, checksum = [], raw[13]
                long.insert(0, raw[1:11] + raw[14:26] + raw[28:32])
                continue
            if raw[11] & _VOLUME and not raw[11] & _FOLDER:
                long = []
                continue
            named = self._decode_name(raw, long if checksum == _short_checksum(raw[:11]) else [])
            long, checksum = [], -1
            if raw[:11] not in (b".          ", b"..         "):
                yield named

    def _decode_name(self, raw: bytes, long: list[bytes]) -> _Named | None:
        short = bytes([_DELETED]) + raw[1:11] if raw[0] == _ESCAPED else raw[:11]
        if raw[11] & 0xC0 or any(letter in _BAD_LETTERS for letter in short):
            return None
        stem, suffix = short[:8].decode("cp437").rstrip(), short[8:].decode("cp437").rstrip()
        stem = stem.lower() if raw[12] & _LOWER_STEM else stem
        suffix = suffix.lower() if raw[12] & _LOWER_SUFFIX else suffix
        name = f"{stem}.{suffix}" if suffix else stem
        if long:
            name = b"".join(long).decode("utf-16-le", "surrogatepass").split("\0")[0].rstrip("\uffff") or name
        high, low = struct.unpack_from("<H", raw, 20)[0], struct.unpack_from("<H", raw, 26)[0]
        first = low | (high << 16 if self._bits == 32 else 0)
        (size,) = struct.unpack_from("<I", raw, 28)
        is_folder = bool(raw[11] & _FOLDER)
        if not stem or (first and not 2 <= first < self._clusters + 2) or (is_folder and (size or not first)):
            return None
        if not is_folder and bool(size) != bool(first):
            return None if size else _Named(name, raw[11], 0, 0, _times(raw))
        return _Named(name, raw[11], first, size, _times(raw))

    # -- what is in no folder

    def _walk_nameless(self, files: list[_File], damaged: list[Entry]) -> None:
        """Folders that begin as folders do, in clusters that nobody has."""
        found = 0
        for start in range(2, self._clusters + 2, max(1, MIB // self._cluster)):
            count = min(max(1, MIB // self._cluster), self._clusters + 2 - start)
            if not self._doubted_up_to and all(self._owners[cluster] for cluster in range(start, start + count)):
                continue
            data, _ = self._window.content(self._place(start), count * self._cluster)
            for index in range(count):
                cluster = start + index
                head = data[index * self._cluster :][:64]
                if not self._begins_folder(head, cluster):
                    continue
                self._doubted_up_to = min(self._doubted_up_to, self._place(cluster))
                if self._owners[cluster]:
                    continue
                if not found:
                    files.append(_File(NAMELESS, _Named("", _FOLDER, 0, 0, (0, 0)), (), ""))
                found += 1
                path = joined(NAMELESS, f"folder-{cluster}".encode())
                clusters, problem = self._chain(cluster, None)
                clusters = clusters or array("I", [cluster])
                self._claim(clusters)
                named = _Named("", _FOLDER, cluster, 0, _times(head[:32]))
                files.append(_File(path, named, (), ""))
                if problem:
                    damaged.append(Entry(path, Form.FOLDER, problem=f"the folder is damaged: {problem}"))
                self._walk_folder(path, self._folder_content(clusters), files, damaged, depth=1)

    def _begins_folder(self, head: bytes, cluster: int) -> bool:
        number = _folder_start(head)
        return number & (0xFFFFFFFF if self._bits == 32 else 0xFFFF) == cluster


def _folder_start(head: bytes) -> int:
    """Which cluster a folder says to begin in, by its first two entries; 0: it is none."""
    if len(head) < 64 or head[:11] != b".          " or head[32:43] != b"..         " or not head[11] & _FOLDER:
        return 0
    high, low = struct.unpack_from("<H", head, 20)[0], struct.unpack_from("<H", head, 26)[0]
    return int(low | high << 16)


def _short_checksum(short: bytes) -> int:
    """What the entries of a long name have of the short one."""
    total = 0
    for letter in short:
        total = ((total & 1) << 7 | total >> 1) + letter & 0xFF
    return total


def _times(raw: bytes) -> tuple[int, int]:
    """Read and written last, in nanoseconds since 1970, as if the clock had shown universal time."""
    accessed, written_time, written = struct.unpack_from("<H2xHH", raw, 18)
    return _time(accessed or written, 0), _time(written, written_time)


def _time(date: int, time: int) -> int:
    year, month, day = (date >> 9) + 1980, date >> 5 & 15, date & 31
    hour, minute, second = time >> 11, time >> 5 & 63, (time & 31) * 2
    try:
        return calendar.timegm((year, max(1, month), max(1, day), hour, minute, second, 0, 0, 0)) * 10**9
    except ValueError:
        return 0
