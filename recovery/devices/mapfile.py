"""GNU ddrescue map files: which areas of a disk are in which state.

A map is text: comments, a line with the position and state of the run that wrote it, then one line
``offset size status`` per block.  Blocks follow each other without gap or overlap and begin at 0.
Numbers are written in hexadecimal, read in C notation.  Source: the GNU ddrescue manual, "Mapfile structure".

We write two kinds: a domain map (``+`` used, ``?`` unused) and a map of what was read (``+`` read,
``-`` unreadable, ``?`` not yet).  Both stream, so that a map of millions of blocks costs little memory.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Mapping

from recovery.errors import RepositoryDamaged
from recovery.extent import Extents

#: What a block can be: not tried, not trimmed, not scraped, bad sectors, finished.
STATUSES = "?*/-+"

_CURRENT_STATUSES = "?*/-FG+"
_LINES_A_PIECE = 4096
#: No number of a map is longer; Python itself refuses to show numbers of thousands of digits.
_MAX_DIGITS = 40


class MapError(RepositoryDamaged):
    """A text that is no valid map file; the message names the line."""


def encode_map(size_bytes: int, areas: Mapping[str, Extents], comments: Iterable[str] = ()) -> bytes:
    """The map of a disk of ``size_bytes``: its ``areas`` by status; whatever they leave out is ``?``.

    Raises ValueError when areas overlap, end behind ``size_bytes`` or have a status that no map knows.
    """
    return b"".join(map_pieces(size_bytes, areas, comments))


def map_pieces(size_bytes: int, areas: Mapping[str, Extents], comments: Iterable[str] = ()) -> Iterator[bytes]:
    """As ``encode_map``, in pieces of some tens of KiB."""
    for status in areas:
        if len(status) != 1 or status not in STATUSES:
            raise ValueError(f"{status!r} is not a status of a map")
    lines = [f"# {' '.join(comment.splitlines())}\n" for comment in comments]
    lines += ["# current_pos  current_status  current_pass\n", f"{0:#010x}     ?               1\n"]
    lines.append("#      pos        size  status\n")
    for offset, end, status in _blocks(size_bytes, areas):
        lines.append(f"0x{offset:08X}  0x{end - offset:08X}  {status}\n")
        if len(lines) >= _LINES_A_PIECE:
            yield "".join(lines).encode()
            lines.clear()
    yield "".join(lines).encode()


def _blocks(size_bytes: int, areas: Mapping[str, Extents]) -> Iterator[tuple[int, int, str]]:
    """``(offset, end, status)`` without gap from 0 to ``size_bytes``."""
    position = 0
    named = [_named(extents, status) for status, extents in areas.items() if status != "?"]
    for offset, end, status in heapq.merge(*named):
        if offset < position:
            raise ValueError(f"areas of the map overlap at byte {offset}")
        if offset > position:
            yield position, offset, "?"
        yield offset, end, status
        position = end
    if position > size_bytes:
        raise ValueError(f"the map ends at {position}, the disk at {size_bytes}")
    if position < size_bytes:
        yield position, size_bytes, "?"


def _named(extents: Extents, status: str) -> Iterator[tuple[int, int, str]]:
    for extent in extents:
        yield extent.offset, extent.end, status


def parse_map(source: bytes | Iterable[bytes], name: str = "the map") -> dict[str, Extents]:
    """The areas of a map by status, in bytes.  ``source``: its whole text, or its lines (an open binary file).

    Only statuses that occur are keys.  The areas together are ``[0, size of the disk)``.
    Raises MapError, saying which line of ``name`` is wrong.
    """
    flat: dict[str, array[int]] = {}
    position = 0
    current_seen = False
    lines = source.splitlines() if isinstance(source, bytes) else source
    number = 0
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith(b"#"):
            continue
        if not current_seen:
            _check_current(fields, number, name)
            current_seen = True
            continue
        if len(fields) != 3 or len(fields[2]) != 1:
            raise _wrong(name, number, "is not 'position size status'")
        offset, length, status = (
            _number(fields[0], number, name),
            _number(fields[1], number, name),
            fields[2].decode("latin1"),
        )
        if status not in STATUSES:
            raise _wrong(name, number, f"has the unknown status {status!r}")
        if offset != position:
            raise _wrong(name, number, f"begins at {offset} where {position} was expected")
        if length == 0:
            raise _wrong(name, number, "has a block of size 0")
        position = offset + length
        if position >= 1 << 63:
            raise _wrong(name, number, "ends behind the largest possible disk")
        pairs = flat.setdefault(status, array("q"))
        pairs.append(offset)
        pairs.append(length)
    if not current_seen:
        raise _wrong(name, number, "ends the text before its status line")
    areas: dict[str, Extents] = {}
    for status in list(flat):
        pairs = flat.pop(status)
        areas[status] = Extents(zip(*[iter(pairs)] * 2, strict=True))
    return areas


def _check_current(fields: list[bytes], number: int, name: str) -> None:
    """The line that says where the run stood: position, state and (since ddrescue 1.23) pass."""
    if len(fields) not in (2, 3) or len(fields[1]) != 1 or fields[1].decode("latin1") not in _CURRENT_STATUSES:
        raise _wrong(name, number, "is not 'current_pos current_status current_pass'")
    for field in (fields[0], *fields[2:]):
        _number(field, number, name)


def _number(field: bytes, number: int, name: str) -> int:
    """A number in C notation: 0x for hexadecimal, a leading 0 for octal."""
    digits = field.lower() if len(field) <= _MAX_DIGITS else b""
    base = 16 if digits.startswith(b"0x") else 8 if digits.startswith(b"0") else 10
    try:
        value = int(digits, base) if digits.isalnum() else -1
    except ValueError:
        value = -1
    if value < 0:
        shown = field[:_MAX_DIGITS].decode("latin1")
        raise _wrong(name, number, f"has {shown!r} where a number was expected")
    return value


def _wrong(name: str, number: int, what: str) -> MapError:
    return MapError(f"line {number} of {name} {what}", "The map cannot be trusted as it is.")
