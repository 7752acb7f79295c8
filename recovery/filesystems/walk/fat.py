"""FAT12, FAT16, FAT32: the table names every allocated cluster, the folders every file.

Source: Microsoft's "FAT32 File System Specification" (fatgen103).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from recovery.extent import Extents
from recovery.filesystems.walk.view import Area, Unreadable, View

#: A short name in small letters, as Windows NT and all since keep it.
_LOWER_STEM, _LOWER_SUFFIX = 0x08, 0x10
_FOLDER, _VOLUME, _LONG_NAME = 0x10, 0x08, 0x0F
_MAX_FOLDER = 2 << 20  # bytes; the specification's own limit


@dataclass(frozen=True, slots=True)
class _Fat:
    """Geometry, in bytes and clusters, and the table; ``data`` is where cluster 2 begins."""

    reserved: int
    tables: int
    root: tuple[int, int]
    root_cluster: int
    data: int
    cluster: int
    clusters: int
    bits: int
    entries: array[int]

    def place(self, cluster: int) -> tuple[int, int]:
        """A cluster's bytes."""
        return self.data + (cluster - 2) * self.cluster, self.cluster

    def chain(self, first: int) -> list[int]:
        """The clusters of a file that begins at ``first``.  Raises Unreadable when it does not end."""
        found = []
        while 2 <= first < self.clusters + 2:
            found.append(first)
            if len(found) > self.clusters:
                raise Unreadable("a chain of its table does not end")
            first = self.entries[first]
        return found


def allocation(view: View) -> Iterator[Area]:
    """The reserved sectors, the tables, a fixed root folder, then every cluster that the first table calls taken."""
    fat = _read(view)
    yield Area("the boot sectors", Extents([(0, fat.reserved)]))
    yield Area("the allocation tables", Extents([(fat.reserved, fat.tables)]))
    yield Area("the root folder", Extents([fat.root]))
    bad = (1 << min(28, fat.bits)) - 9
    mask = (1 << min(28, fat.bits)) - 1
    taken = (number for number in range(2, fat.clusters + 2) if fat.entries[number] & mask not in (0, bad))
    yield Area("clusters that its table calls taken", Extents(map(fat.place, taken)))


def files(view: View) -> Iterator[Area]:
    """Every file and folder, with its clusters."""
    fat = _read(view)
    pending = [("", fat.root_cluster)]
    seen: set[int] = set()
    while pending:
        path, first = pending.pop()
        view.interrupt()
        if first in seen and first:
            continue
        seen.add(first)
        clusters = fat.chain(first) if first else []
        places = [fat.place(number) for number in clusters] or [fat.root]
        yield Area(f"the folder {path or '/'}", Extents(places))
        content = b"".join(view.read(offset, length, f"the folder {path or '/'}") for offset, length in places)
        for name, attributes, start in _entries(content[:_MAX_FOLDER]):
            inside = f"{path}/{name}"
            if attributes & _FOLDER:
                pending.append((inside, start))
            else:
                yield Area(inside, Extents(map(fat.place, fat.chain(start))))


def _entries(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, attributes and first cluster of what a folder holds."""
    long_name = ""
    for at in range(0, len(content) - 31, 32):
        entry = content[at : at + 32]
        if entry[0] == 0:
            return
        attributes = entry[11]
        if entry[0] == 0xE5:
            long_name = ""
        elif attributes & 0x3F == _LONG_NAME:
            part = (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le", "replace")
            long_name = part.split("\0")[0] + long_name
        else:
            stem, suffix = entry[:8].decode("cp437").rstrip(), entry[8:11].decode("cp437").rstrip()
            stem = stem.lower() if entry[12] & _LOWER_STEM else stem
            suffix = suffix.lower() if entry[12] & _LOWER_SUFFIX else suffix
            (high, low) = struct.unpack_from("<H", entry, 20) + struct.unpack_from("<H", entry, 26)
            short = f"{stem}.{suffix}" if suffix else stem
            if not attributes & _VOLUME and stem not in (".", ".."):
                yield long_name or short, attributes, high << 16 | low
            long_name = ""


def _read(view: View) -> _Fat:
    boot = view.read(0, 512, "the boot sector")
    sector, cluster_sectors, reserved, tables, root_entries, sectors16 = struct.unpack_from("<HBHBHH", boot, 11)
    (table16,) = struct.unpack_from("<H", boot, 22)
    (sectors32, table32) = struct.unpack_from("<II", boot, 32)
    table = (table16 or table32) * sector
    if boot[510:512] != b"\x55\xaa" or sector not in (512, 1024, 2048, 4096) or not cluster_sectors or not table:
        raise Unreadable("its boot sector is no FAT boot sector")
    root_start = reserved * sector + tables * table
    data = root_start + -(-root_entries * 32 // sector) * sector
    cluster = cluster_sectors * sector
    clusters = ((sectors16 or sectors32) * sector - data) // cluster
    bits = 32 if not table16 else 12 if clusters < 4085 else 16
    raw = view.read(reserved * sector, table, "the first allocation table")
    entries = _numbers(raw, bits, clusters + 2)
    (root_cluster,) = struct.unpack_from("<I", boot, 44) if bits == 32 else (0,)
    return _Fat(
        reserved * sector, tables * table, (root_start, data - root_start), root_cluster, data, cluster, clusters, bits,
        entries,
    )  # fmt: skip


def _numbers(raw: bytes, bits: int, count: int) -> array[int]:
    if len(raw) * 8 < count * bits:
        raise Unreadable("its allocation table is too short")
    if bits == 12:
        pairs = (raw[at] | raw[at + 1] << 8 for at in (number * 3 // 2 for number in range(count)))
        return array("I", ((pair >> 4) if number % 2 else pair & 0xFFF for number, pair in enumerate(pairs)))
    entries = array("I", struct.unpack_from(f"<{count}{'I' if bits == 32 else 'H'}", raw))
    return array("I", (number & 0x0FFFFFFF for number in entries)) if bits == 32 else entries
