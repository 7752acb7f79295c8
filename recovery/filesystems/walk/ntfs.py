"""NTFS: every record of its file table, and the bitmap of its clusters.

Source: the Linux-NTFS project's documentation ("FILE Record", "Attributes", "Data Runs", "$Bitmap").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from recovery.extent import Extent, Extents
from recovery.filesystems.walk.view import Area, Unreadable, View

_MFT, _MIRROR, _ROOT, _BITMAP = 0, 1, 5, 6
_LIST, _NAME, _DATA, _END = 0x20, 0x30, 0x80, 0xFFFFFFFF
_IN_USE, _FOLDER = 0x1, 0x2
#: Folders in folders, before it is a circle.
_DEEPEST = 500
_RECORDS_A_READ = 1024
_ATTRIBUTES = {
    0x20: "its list of attributes", 0x50: "its security descriptor", 0x80: "", 0x90: "its index", 0xA0: "its index",
    0xB0: "its bitmap", 0xC0: "its reparse point", 0x100: "its log",
}  # fmt: skip
_SYSTEM = {
    0: "the file table $MFT", 1: "the mirror of the file table", 2: "the log $LogFile", 3: "$Volume", 4: "$AttrDef",
    5: "the root folder", 6: "the bitmap of clusters", 7: "the boot sectors", 8: "$BadClus", 9: "$Secure",
    10: "$UpCase", 11: "$Extend",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Attribute:
    """One attribute of a record: its runs when it is not in the record itself, else its value."""

    kind: int
    name: str
    first: int
    size: int
    runs: tuple[Extent, ...]
    value: bytes


@dataclass(frozen=True, slots=True)
class _Volume:
    """Geometry in bytes, and where the file table lies."""

    cluster: int
    record: int
    clusters: int
    sectors_end: int
    table: tuple[Extent, ...]
    table_bytes: int


def allocation(view: View) -> Iterator[Area]:
    """The boot sectors, then every cluster that the bitmap calls taken."""
    volume = _open(view)
    yield Area("the boot sectors", Extents([(0, 8 * 1024), (volume.sectors_end, 512)]))
    record = view.read_all(_part(volume.table, _BITMAP * volume.record, volume.record), volume.record, _SYSTEM[_BITMAP])
    for attribute in _attributes(_mended(record, _BITMAP, volume.record), volume.cluster):
        if attribute.kind == _DATA and attribute.runs:
            yield Area(_SYSTEM[_BITMAP], Extents(attribute.runs))
            bits = view.read_all(list(attribute.runs), (volume.clusters + 7) // 8, _SYSTEM[_BITMAP])
            taken = Extents(set_bits(bits, volume.clusters, volume.cluster))
            yield Area("clusters that its bitmap calls taken", taken)
            return
    raise Unreadable("the bitmap of clusters cannot be found")


def files(view: View) -> Iterator[Area]:
    """Where each attribute of each record lies that is not in the record itself, system files among them."""
    volume = _open(view)
    yield Area(_SYSTEM[_MFT], Extents(volume.table))
    for number, record in _records(view, volume):
        (flags, base) = struct.unpack_from("<H", record, 22) + struct.unpack_from("<Q", record, 32)
        if not flags & _IN_USE:
            continue
        attributes = list(_attributes(record, volume.cluster))
        name = _SYSTEM.get(number) or _file_name(attributes) or f"file record {number}"
        if base:
            name = f"file record {base & 0xFFFFFFFFFFFF}"
        for attribute in attributes:
            if attribute.runs and not (number == 8 and attribute.name == "$Bad"):
                part = _ATTRIBUTES.get(attribute.kind, "an attribute of it")
                stream = f":{attribute.name}" if attribute.name and attribute.kind == _DATA else ""
                rest = f"{stream}{', ' + part if part else ''}"
                whose = partial(_whose, view, volume, base & 0xFFFFFFFFFFFF or number, rest)
                yield Area(f"{name}{rest}", Extents(attribute.runs), whose if number not in _SYSTEM else None)


def _whose(view: View, volume: _Volume, number: int, rest: str) -> str:
    """The path of that record's file, as far as the folders above it can be read."""
    names: list[str] = []
    folder = False
    at = number
    try:
        while at != _ROOT and len(names) < _DEEPEST:
            raw = view.read_all(_part(volume.table, at * volume.record, volume.record), volume.record, _SYSTEM[_MFT])
            record = _mended(raw, at, volume.record)
            folder = folder or (at == number and bool(struct.unpack_from("<H", record, 22)[0] & _FOLDER))
            attributes = list(_attributes(record, volume.cluster))
            names.append(_file_name(attributes) or f"file record {at}")
            at = next((_parent(a.value) for a in attributes if a.kind == _NAME and len(a.value) >= 8), _ROOT)
    except (Unreadable, struct.error):
        names.append(f"(a folder that cannot be read, record {at})")
    path = "/" + "/".join(reversed(names))
    return f"{'the folder ' if folder else ''}{path}{rest}"


def _parent(value: bytes) -> int:
    (reference,) = struct.unpack_from("<Q", value, 0)
    return int(reference & 0xFFFFFFFFFFFF)


def _open(view: View) -> _Volume:
    boot = view.read(0, 512, "the boot sector")
    (sector, cluster_code) = struct.unpack_from("<HB", boot, 11)
    (sectors, table) = struct.unpack_from("<QQ", boot, 40)
    (record_code,) = struct.unpack_from("<b", boot, 64)
    if boot[3:11] != b"NTFS    " or not sector or not cluster_code:
        raise Unreadable("its boot sector is no NTFS boot sector")
    cluster = sector * (cluster_code if cluster_code <= 0x80 else 1 << (256 - cluster_code))
    record = record_code * cluster if record_code > 0 else 1 << -record_code
    if not 512 <= record <= 65536:
        raise Unreadable("its boot sector is damaged")
    first = _mended(view.read(table * cluster, record, _SYSTEM[_MFT]), _MFT, record)
    pieces = {a.first: a for a in _attributes(first, cluster) if a.kind == _DATA and not a.name}
    for entry in _listed(view, first, cluster):
        # More runs of the table itself, in records whose place the runs known so far give.
        kind, start, holder = entry
        if kind == _DATA and start and start not in pieces:
            known = tuple(run for at in sorted(pieces) for run in pieces[at].runs)
            more = view.read_all(_part(known, holder * record, record), record, _SYSTEM[_MFT])
            for attribute in _attributes(_mended(more, holder, record), cluster):
                if attribute.kind == _DATA and not attribute.name:
                    pieces[attribute.first] = attribute
    if 0 not in pieces:
        raise Unreadable("the file table does not say where it lies")
    runs = tuple(run for at in sorted(pieces) for run in pieces[at].runs)
    return _Volume(
        cluster, record, sectors * sector // cluster, min(sectors * sector, view.size_bytes - 512), runs, pieces[0].size
    )


def _listed(view: View, record: bytes, cluster: int) -> Iterator[tuple[int, int, int]]:
    """Kind, first cluster and record of each entry of the record's list of attributes, if it has one."""
    for attribute in _attributes(record, cluster):
        if attribute.kind == _LIST:
            content = attribute.value or view.read_all(list(attribute.runs), attribute.size, "a list of attributes")
            at = 0
            while at + 26 <= len(content):
                (kind, length) = struct.unpack_from("<IH", content, at)
                (start, holder) = struct.unpack_from("<QQ", content, at + 8)
                if length < 26:
                    return
                yield kind, start, holder & 0xFFFFFFFFFFFF
                at += length


def _records(view: View, volume: _Volume) -> Iterator[tuple[int, bytes]]:
    """Number and mended content of every record that holds something."""
    total = min(volume.table_bytes, sum(run.length for run in volume.table)) // volume.record
    for first in range(0, total, _RECORDS_A_READ):
        view.interrupt()
        count = min(_RECORDS_A_READ, total - first)
        where = _part(volume.table, first * volume.record, count * volume.record)
        raw = view.read_all(where, count * volume.record, _SYSTEM[_MFT])
        for number in range(first, first + len(raw) // volume.record):
            record = raw[(number - first) * volume.record :][: volume.record]
            if record[:4] == b"FILE":
                yield number, _mended(record, number, volume.record)
            elif number < 12 or any(record):  # zeros: a record that was never written, as after a crash
                raise Unreadable(f"file record {number} is no file record")


def _part(runs: tuple[Extent, ...], offset: int, length: int) -> list[Extent]:
    """The bytes ``[offset, offset + length)`` of what lies in ``runs``, where they lie."""
    found = []
    for run in runs:
        if offset < run.length and length:
            taken = min(length, run.length - offset)
            found.append(Extent(run.offset + offset, taken))
            length -= taken
            offset = 0
        else:
            offset -= min(offset, run.length)
    return found


def _mended(record: bytes, number: int, size: int) -> bytes:
    """The record with the last bytes of each of its sectors, which are kept in its header, put back."""
    if record[:4] != b"FILE" or len(record) != size:
        raise Unreadable(f"file record {number} ({_SYSTEM.get(number, 'of a file')}) is no file record")
    (place, count) = struct.unpack_from("<HH", record, 4)
    mended = bytearray(record)
    for index in range(1, count):
        at = index * 512 - 2
        if at + 2 > size or place + 2 * index + 2 > size or record[at : at + 2] != record[place : place + 2]:
            raise Unreadable(f"file record {number} is torn")
        mended[at : at + 2] = record[place + 2 * index : place + 2 * index + 2]
    return bytes(mended)


def _attributes(record: bytes, cluster: int) -> Iterator[_Attribute]:
    (at,) = struct.unpack_from("<H", record, 20)
    while at + 16 <= len(record):
        (kind, length, elsewhere, name_length, name_at) = struct.unpack_from("<IIBBH", record, at)
        if kind == _END:
            return
        if length < 16 or at + length > len(record):
            raise Unreadable("a file record is damaged")
        name = record[at + name_at : at + name_at + 2 * name_length].decode("utf-16-le", "replace")
        if elsewhere:
            (first,) = struct.unpack_from("<Q", record, at + 16)
            (runs_at,) = struct.unpack_from("<H", record, at + 32)
            (size, initialized) = struct.unpack_from("<QQ", record, at + 48)
            yield _Attribute(
                kind,
                name,
                first,
                min(size, initialized),
                tuple(_runs(record[at + runs_at : at + length], cluster)),
                b"",
            )
        else:
            (size, value_at) = struct.unpack_from("<IH", record, at + 16)
            yield _Attribute(kind, name, 0, size, (), record[at + value_at : at + value_at + size])
        at += length


def _runs(raw: bytes, cluster: int) -> Iterator[Extent]:
    at = position = 0
    while at < len(raw) and raw[at]:
        length_bytes, offset_bytes = raw[at] & 0xF, raw[at] >> 4
        length = int.from_bytes(raw[at + 1 : at + 1 + length_bytes], "little")
        start = raw[at + 1 + length_bytes : at + 1 + length_bytes + offset_bytes]
        if offset_bytes:
            position += int.from_bytes(start, "little", signed=True)
            if position < 0:
                raise Unreadable("a list of runs is damaged")
            yield Extent(position * cluster, length * cluster)
        at += 1 + length_bytes + offset_bytes


def _file_name(attributes: list[_Attribute]) -> str:
    names = [a.value for a in attributes if a.kind == _NAME and len(a.value) > 66]
    best = max(names, key=lambda value: value[65] != 2, default=b"")  # 2: the short name for DOS
    return best[66 : 66 + 2 * best[64]].decode("utf-16-le", "replace") if best else ""


def set_bits(bits: bytes, count: int, unit: int) -> Iterator[tuple[int, int]]:
    """``(offset, length)`` of every unit whose bit is set, runs of whole bytes at once."""
    start = None
    for index in range(0, count, 8):
        byte = bits[index >> 3]
        if byte == 0xFF and index + 8 <= count:
            start = index if start is None else start
            continue
        if byte == 0 and start is None:
            continue
        for bit in range(index, min(index + 8, count)):
            if byte >> (bit & 7) & 1:
                start = bit if start is None else start
            elif start is not None:
                yield start * unit, (bit - start) * unit
                start = None
    if start is not None:
        yield start * unit, (count - start) * unit
