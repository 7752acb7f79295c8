"""The bytes of a broken disk, as random access: nothing is read twice, and what cannot be read is known.

Parsers read metadata through a ``Window`` that raises when a byte of it could not be read, so that nothing is built on
zeros that nobody wrote.  What is read of files' contents is told with its gaps.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recovery.devices.blockio import Effort
from recovery.devices.source_process import SharedBuffers, SourceProcess
from recovery.extent import Extent, Extents
from recovery.progress import Progress, Side
from recovery.units import KIB, MIB

#: What is read at once around a piece of metadata, and how much of that is remembered.
_BLOCK_BYTES, _REMEMBERED = 256 * KIB, 384
#: What is read at once of a file, without remembering it.
PIECE_BYTES = MIB
NONE = Extents()


class BadArea(Exception):
    """Metadata lies, at least partly, where the disk cannot be read, or beyond its end; the text says where."""


class Medium:
    """A source of ``size_bytes``.  ``lost`` is what of it was found unreadable so far."""

    def __init__(self, reader: SourceProcess, buffers: SharedBuffers, size_bytes: int, progress: Progress) -> None:
        self.size_bytes = size_bytes
        self.lost = Extents()
        self._reader, self._buffers, self._progress = reader, buffers, progress
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def read(self, extent: Extent) -> tuple[bytes, Extents]:
        """The bytes of ``extent``, zeros where they cannot be read, and which of them cannot.

        What lies beyond the end cannot be read.  Raises DeviceError when the disk is gone, Cancelled.
        """
        number, at = divmod(extent.offset, _BLOCK_BYTES)
        if at + extent.length <= _BLOCK_BYTES and extent.offset >= 0 and extent.end <= self.size_bytes:
            piece = self._block(number)[at : at + extent.length]
            return piece, self.lost.clip(extent) if self.lost else NONE
        inside = Extents([extent]).clip(Extent(0, self.size_bytes))
        out = bytearray()
        for part in inside:
            at = part.offset
            while at < part.end:
                wanted = Extent(at, min(PIECE_BYTES, part.end - at))
                out += self._remembered(wanted) if wanted.length <= _BLOCK_BYTES else self._fetch(wanted)
                at = wanted.end
        bad = self.lost.clip(extent)
        if len(out) < extent.length:
            start = max(0, min(extent.length, self.size_bytes - extent.offset))
            bad = bad.union(Extents([(extent.offset + start, extent.length - start)]))
            out += bytes(extent.length - len(out))
        return bytes(out), bad

    def _remembered(self, wanted: Extent) -> bytes:
        out = bytearray()
        at = wanted.offset
        while at < wanted.end:
            number, inside = divmod(at, _BLOCK_BYTES)
            piece = self._block(number)[inside : inside + wanted.end - at]
            out += piece
            at += len(piece)
        return bytes(out)

    def _block(self, number: int) -> bytes:
        """What is remembered, or read now, of that block of the disk."""
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        whole = Extent(number * _BLOCK_BYTES, min(_BLOCK_BYTES, self.size_bytes - number * _BLOCK_BYTES))
        block = self._blocks[number] = self._fetch(whole)
        if len(self._blocks) > _REMEMBERED:
            self._blocks.popitem(last=False)
        return block

    def _fetch(self, extent: Extent) -> bytes:
        """Read it from the disk; what is known to be bad is not tried again."""
        room = self._buffers.take()
        try:
            wanted = Extents([extent]).subtract(self.lost)
            with self._progress.waits(Side.SOURCE):
                bad = self._reader.read(extent, wanted, room, Effort.PATIENT)
            if bad:
                self._progress.count("unreadable_bytes", sum(gap.length for gap in bad))
                self.lost = self.lost.union(bad)
            return bytes(room[: extent.length])
        finally:
            self._buffers.give(room)


class Window:
    """A range of a medium; ``read`` is for metadata, ``content`` for files.

    Some of its blocks may be read elsewhere in it instead: from a journal, or from a mirror.
    """

    def __init__(self, medium: Medium, extent: Extent) -> None:
        self.medium, self.extent = medium, extent
        self._unit = 0
        self._moved: dict[int, int] = {}
        self._marked: dict[int, bytes] = {}

    @property
    def size_bytes(self) -> int:
        """How long it is; some of it may lie beyond the end of the medium."""
        return self.extent.length

    def redirect(self, unit_bytes: int, moved: Mapping[int, int], marked: Mapping[int, bytes] | None = None) -> None:
        """From now on block ``n`` of ``unit_bytes`` is read at byte ``moved[n]``; nothing is written anywhere.

        ``marked``: what these begin with, whatever stands there.
        """
        self._unit, self._moved, self._marked = unit_bytes, dict(moved), dict(marked or {})

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes.  Raises BadArea where one of them cannot be read or lies outside."""
        if offset < 0 or length < 0 or offset + length > self.extent.length:
            raise BadArea(f"byte {offset} lies outside")
        data, bad = self._fetch(offset, length)
        if bad:
            raise BadArea(f"{bad[0].length} bytes at byte {bad[0].offset} cannot be read")
        return data

    def content(self, offset: int, length: int) -> tuple[bytes, Extents]:
        """These bytes of a file, zeros where they cannot be read, and which cannot, from the window's start."""
        usable = max(0, min(length, self.extent.length - offset)) if offset >= 0 else 0
        data, bad = self._fetch(offset, usable) if usable else (b"", NONE)
        if usable < length:
            bad = bad.union(Extents([(max(0, offset + usable), length - usable)]))
            data += bytes(length - usable)
        return data, bad

    def _fetch(self, offset: int, length: int) -> tuple[bytes, Extents]:
        if not self._moved:
            data, bad = self.medium.read(Extent(self.extent.offset + offset, length))
            return data, bad.shift(-self.extent.offset) if bad else bad
        out = bytearray()
        gone: list[Extent] = []
        at = offset
        while at < offset + length:
            number, inside = divmod(at, self._unit)
            count = min(self._unit - inside, offset + length - at)
            moved = self._moved.get(number)
            while moved is None and at + count < offset + length and number + 1 not in self._moved:
                number += 1  # what is not moved is read together
                count = min(count + self._unit, offset + length - at)
            place = at if moved is None else moved + inside
            data, bad = self.medium.read(Extent(self.extent.offset + place, count))
            mark = self._marked.get(number, b"") if moved is not None else b""
            out += mark[inside:] + data[max(0, len(mark) - inside) :] if inside < len(mark) else data
            gone += bad.shift(at - place - self.extent.offset)
            at += count
        return bytes(out[:length]), Extents(gone) if gone else NONE

    def file(self) -> WindowFile:
        """It as a file, for the parsers."""
        return WindowFile(self)


class WindowFile(io.RawIOBase):
    """A window as a file that can be read and sought.  Reads raise BadArea, and end where the window ends."""

    def __init__(self, window: Window) -> None:
        self._window, self._at = window, 0
        self.size = window.size_bytes

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As every file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """As every file."""
        left = max(0, self.size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        data = self._window.read(self._at, count) if count else b""
        self._at += len(data)
        return data


@contextmanager
def opened(path: Path, size_bytes: int, sector_bytes: int, progress: Progress) -> Iterator[Medium]:
    """The disk or image file at ``path``, read by a process of its own.  Raises DeviceError."""
    with ExitStack() as held:
        buffers = SharedBuffers(2, PIECE_BYTES)
        held.callback(buffers.close)
        reader = held.enter_context(SourceProcess(path, sector_bytes, buffers, progress.check))
        yield Medium(reader, buffers, size_bytes, progress)
