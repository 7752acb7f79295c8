"""The process that serves one copy-on-write view: ``python -m recovery.devices.overlay_child FOLDER``.

A block of the view is either the source's or lies in the scratch file, in a slot that a table in memory names.
"""

from __future__ import annotations

import errno
import os
import tempfile

import msgspec

from recovery.devices.fuse import read_spec, serve
from recovery.devices.overlay import REPORT_NAME, VIEW_NAME, OverlayReport, OverlaySpec
from recovery.extent import Extents
from recovery.units import KIB, MIB, format_bytes

#: The unit of the table: about 100 bytes of memory for each block that was written.
BLOCK = 4 * KIB

#: How many reads are noted before they are merged.
_NOTES = 20_000


class Overlay:
    """The view.  ``source`` and ``scratch`` are open files; the range is in bytes, the limit too."""

    def __init__(self, source: int, offset: int, length: int, scratch: int, limit_bytes: int) -> None:
        self._source, self._offset, self._length = source, offset, length
        self._scratch, self._limit = scratch, limit_bytes
        self._slots: dict[int, int] = {}
        self._noted: list[tuple[int, int]] = []
        self._read = Extents()
        self.failure = ""

    @property
    def size_bytes(self) -> int:
        """The length of the range."""
        return self._length

    @property
    def report(self) -> OverlayReport:
        """What became of it so far."""
        self._merge()
        read = tuple((extent.offset, extent.length) for extent in self._read)
        written = tuple((extent.offset, extent.length) for extent in self._written())
        return OverlayReport(self.failure, len(self._slots) * BLOCK, read, written)

    def _written(self) -> Extents:
        blocks = ((block * BLOCK, min(BLOCK, self._length - block * BLOCK)) for block in sorted(self._slots))
        return Extents(blocks)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``, fewer at the end."""
        end = min(offset + length, self._length)
        pieces = []
        while offset < end:
            slot = self._slots.get(offset // BLOCK)
            until = min(end, offset - offset % BLOCK + BLOCK)
            if slot is None:
                while until < end and until // BLOCK not in self._slots:
                    until = min(end, until + BLOCK)
                pieces.append(self._of_source(offset, until - offset))
            else:
                pieces.append(os.pread(self._scratch, until - offset, slot * BLOCK + offset % BLOCK))
            offset = until
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``; what of a block it does not fill comes from the source."""
        position = 0
        while position < len(data):
            block, inside = divmod(offset + position, BLOCK)
            piece = data[position : position + BLOCK - inside]
            if block not in self._slots:
                whole = min(BLOCK, self._length - block * BLOCK)
                if len(piece) < whole:
                    before = self._of_source(block * BLOCK, whole)
                    self._put(block, 0, before[:inside] + piece + before[inside + len(piece) :])
                else:
                    self._put(block, 0, piece)
            else:
                self._put(block, inside, piece)
            position += len(piece)

    def _put(self, block: int, inside: int, data: bytes) -> None:
        slot = self._slots.get(block, len(self._slots))
        if (slot + 1) * BLOCK > self._limit:
            self._spoil(f"the copy-on-write view needs more than the {format_bytes(self._limit)} that it may take")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            if os.pwrite(self._scratch, data, slot * BLOCK + inside) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._spoil(f"the scratch file of the copy-on-write view cannot be written: {error.strerror}")
            raise
        self._slots[block] = slot

    def _of_source(self, offset: int, length: int) -> bytes:
        self._noted.append((offset, length))
        if len(self._noted) >= _NOTES:
            self._merge()
        try:
            data = os.pread(self._source, length, self._offset + offset)
        except OSError as error:
            self._spoil(f"the source cannot be read at byte {self._offset + offset}: {error.strerror}")
            raise
        if len(data) != length:
            self._spoil(f"the source ends before byte {self._offset + offset + length}")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return data

    def _spoil(self, failure: str) -> None:
        self.failure = self.failure or failure

    def _merge(self) -> None:
        self._read = self._read.union(Extents(sorted(self._noted)))
        self._noted.clear()


class _ReportFile:
    """The report as a file: JSON of any length, made anew when it is read from its start."""

    size_bytes = 1 * MIB  # only a hint: reading goes on until there is no more

    def __init__(self, view: Overlay) -> None:
        self._view = view
        self._text = b""

    def read(self, offset: int, length: int) -> bytes:
        if offset == 0:
            self._text = msgspec.json.encode(self._view.report)
        return self._text[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def main() -> None:
    """Serve the view that our input asks for."""
    spec = read_spec(OverlaySpec)
    try:
        scratch, name = tempfile.mkstemp(prefix="recovery-view-", dir=spec.scratch)
        os.unlink(name)  # noqa: PTH108
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}") from error
    view = Overlay(spec.source, spec.offset, spec.length, scratch, spec.limit_bytes)
    serve({VIEW_NAME: view, REPORT_NAME: _ReportFile(view)})


if __name__ == "__main__":
    main()
