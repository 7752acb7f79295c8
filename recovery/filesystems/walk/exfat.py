"""exFAT: its bitmap names every allocated cluster, its folders every file.

Source: Microsoft's "exFAT file system specification".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from recovery.extent import Extents
from recovery.filesystems.walk.ntfs import set_bits
from recovery.filesystems.walk.view import Area, Unreadable, View

_BITMAP, _UPCASE, _FILE, _STREAM, _NAME = 0x81, 0x82, 0x85, 0xC0, 0xC1
_FOLDER, _NO_CHAIN = 0x10, 0x2
_MAX_FOLDER = 256 << 20  # the specification's own limit


@dataclass(frozen=True, slots=True)
class _Volume:
    """Geometry in bytes; ``heap`` is where cluster 2 begins."""

    table: tuple[int, int]
    heap: int
    cluster: int
    clusters: int
    root: int
    chains: memoryview

    def places(self, first: int, size: int, chained: bool) -> list[tuple[int, int]]:
        """The clusters of something of ``size`` bytes that begins at ``first``.  Raises Unreadable."""
        count = -(-size // self.cluster)
        if not count or not first:
            return []
        if not 2 <= first < self.clusters + 2 or (not chained and first + count > self.clusters + 2):
            raise Unreadable("an entry of a folder names clusters that do not exist")
        if not chained:
            return [(self.heap + (first - 2) * self.cluster, count * self.cluster)]
        return self.chain(first, count)

    def chain(self, first: int, limit: int) -> list[tuple[int, int]]:
        """At most ``limit`` clusters from ``first`` on, as the table chains them."""
        found: list[tuple[int, int]] = []
        while 2 <= first < self.clusters + 2 and len(found) < min(limit, self.clusters):
            found.append((self.heap + (first - 2) * self.cluster, self.cluster))
            first = self.chains[first]
        return found


def allocation(view: View) -> Iterator[Area]:
    """The boot regions, the table, then every cluster that the bitmap calls taken."""
    volume = _open(view)
    yield Area("the boot regions", Extents([(0, volume.table[0])]))
    yield Area("the allocation table", Extents([volume.table]))
    root = _content(view, volume.chain(volume.root, _MAX_FOLDER // volume.cluster), "the root folder")
    for at in range(0, len(root) - 31, 32):
        if root[at] == _BITMAP:
            (first, size) = struct.unpack_from("<IQ", root, at + 20)
            places = volume.places(first, size, chained=True)
            yield Area("the bitmap of clusters", Extents(places))
            bits = _content(view, places, "the bitmap of clusters")
            if len(bits) * 8 < volume.clusters:
                raise Unreadable("its bitmap is too short")
            taken = ((volume.heap + o, n) for o, n in set_bits(bits, volume.clusters, volume.cluster))
            yield Area("clusters that its bitmap calls taken", Extents(taken))
            return
    raise Unreadable("the bitmap of clusters cannot be found")


def files(view: View) -> Iterator[Area]:
    """Every file and folder, with its clusters."""
    volume = _open(view)
    pending = [("", volume.chain(volume.root, _MAX_FOLDER // volume.cluster))]
    seen: set[int] = set()
    while pending:
        path, places = pending.pop()
        view.interrupt()
        yield Area(f"the folder {path or '/'}", Extents(places))
        for name, folder, first, size, chained in _entries(_content(view, places, f"the folder {path or '/'}")):
            inside = volume.places(first, size, chained)
            if not folder:
                yield Area(f"{path}/{name}", Extents(inside))
            elif first not in seen:
                seen.add(first)
                pending.append((f"{path}/{name}", inside))


def _entries(content: bytes) -> Iterator[tuple[str, bool, int, int, bool]]:
    """Name, whether it is a folder, first cluster, bytes, whether the table chains it, of what a folder holds."""
    name, state = "", (False, 0, 0, True)
    for at in range(0, len(content) - 31, 32):
        kind = content[at]
        if kind in (_FILE, 0) and state[1]:
            yield name, *state
        if kind == 0:
            return
        if kind in (_BITMAP, _UPCASE):
            (first, size) = struct.unpack_from("<IQ", content, at + 20)
            yield "(the bitmap)" if kind == _BITMAP else "(the table of upper case)", False, first, size, True
        elif kind == _FILE:
            name, state = "", (bool(content[at + 4] & _FOLDER), 0, 0, True)
        elif kind == _STREAM:
            (first, size) = struct.unpack_from("<IQ", content, at + 20)
            state = (state[0], first, size, not content[at + 1] & _NO_CHAIN)
        elif kind == _NAME:
            name += content[at + 2 : at + 32].decode("utf-16-le", "replace").split("\0")[0]
        elif not kind & 0x80:
            state = (False, 0, 0, True)  # deleted
    if state[1]:
        yield name, *state


def _content(view: View, places: list[tuple[int, int]], what: str) -> bytes:
    return b"".join(view.read(offset, length, what) for offset, length in places)


def _open(view: View) -> _Volume:
    boot = view.read(0, 512, "the boot sector")
    (table, table_sectors, heap, clusters, root) = struct.unpack_from("<IIIII", boot, 80)
    (log2_sector, log2_cluster) = boot[108], boot[109]
    if boot[3:11] != b"EXFAT   " or not 9 <= log2_sector <= 12 or log2_cluster > 25 - log2_sector:
        raise Unreadable("its boot sector is no exFAT boot sector")
    where = (table << log2_sector, table_sectors << log2_sector)
    raw = view.read(where[0], (clusters + 2) * 4, "the allocation table")
    chains = memoryview(raw).cast("I")
    return _Volume(where, heap << log2_sector, 1 << (log2_sector + log2_cluster), clusters, root, chains)
