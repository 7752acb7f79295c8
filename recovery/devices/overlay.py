"""A copy-on-write view of a range of a source: what would change a disk is tried on a view and never on the disk.

::

    source (opened read-only) ──reads──► view ◄──reads and writes── a loop device, fsck, a mount
                                          │ blocks that were written
                                          ▼
                                unlinked scratch file of bounded size

The view is a file served through FUSE (``overlay_child``).  When its scratch is used up or the source cannot be read,
the writer gets an error, and whatever a program says of its success afterwards, ``View.report`` tells that the
view is spoiled.  It tells too which bytes of the source were read: what a replay of a journal needed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recovery.devices.fuse import served
from recovery.errors import DeviceError
from recovery.extent import Extent, Extents
from recovery.units import GIB, MIB, format_bytes

_CHILD = "recovery.devices.overlay_child"
VIEW_NAME, REPORT_NAME = "view", "report"

#: The most that a view may take of its scratch folder, and what is too little to begin with.
_MOST = 4 * GIB
_LEAST = 32 * MIB


class OverlaySpec(msgspec.Struct, frozen=True):
    """What the child is told: the open source, the range of it in bytes, the scratch's folder and size in bytes."""

    source: int
    offset: int
    length: int
    scratch: str
    limit_bytes: int


class OverlayReport(msgspec.Struct, frozen=True):
    """What became of a view.

    ``failure`` is why it is spoiled, in plain words; empty while it is good.  ``changed_bytes`` is what it holds in its
    scratch; ``read`` are the bytes of the source that were read, as pairs of offset and length from the view's start,
    ``written`` those of the view that were written, in whole blocks.
    """

    failure: str
    changed_bytes: int
    read: tuple[tuple[int, int], ...]
    written: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class View:
    """A file that reads as the range and takes writes; what is written to it is there for its next reader."""

    path: Path
    size_bytes: int

    def lay_over(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset`` of the view.  Raises DeviceError when the view is full or spoiled."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                while data:
                    written = os.pwrite(descriptor, data, offset)
                    offset, data = offset + written, data[written:]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DeviceError(f"the copy-on-write view cannot be written: {error.strerror}") from error

    def report(self) -> OverlayReport:
        """What became of it so far.  Raises DeviceError when nobody serves it any more."""
        try:
            return msgspec.json.decode(self.path.with_name(REPORT_NAME).read_bytes(), type=OverlayReport)
        except (OSError, msgspec.MsgspecError) as error:
            raise DeviceError(f"the copy-on-write view came to an end: {error}") from error

    def source_read(self) -> Extents:
        """The bytes of the source, from the view's start, that were read so far.

        Raises DeviceError when the view is spoiled: what was done on it counts for nothing.
        """
        return Extents(self._good().read)

    def written(self) -> Extents:
        """The bytes that were written so far, from the view's start, in whole blocks.  Raises as ``source_read``."""
        return Extents(self._good().written)

    def _good(self) -> OverlayReport:
        report = self.report()
        if report.failure:
            raise DeviceError(report.failure)
        return report


@contextmanager
def overlay(path: Path, extent: Extent, *, scratch: Path | None = None, limit_bytes: int = 0) -> Iterator[View]:
    """A view of ``extent`` (bytes) of the disk or image file ``path`` for the time of the ``with`` block.

    Changes are kept in a nameless file in ``scratch`` (by default the system's folder for such), at most
    ``limit_bytes`` of them; 0: half of what is free there, 4 GiB at most.
    Raises DeviceError when FUSE cannot be had, when there is no room, or when the source cannot be opened.
    """
    folder = scratch or Path(tempfile.gettempdir())
    limit = limit_bytes or _affordable(folder)
    needed_for = f"a copy-on-write view of {path}"
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"{needed_for} failed: {error.strerror}", "'recovery disks' lists what there is.") from error
    try:
        # Handed over open: without root the child is in a user namespace, from which no other view can be reached.
        spec = OverlaySpec(source, extent.offset, extent.length, str(folder.absolute()), limit)
        with served(_CHILD, spec, needed_for=needed_for, inherited=[source]) as served_folder:
            yield View(served_folder / VIEW_NAME, extent.length)
    finally:
        os.close(source)


def _affordable(folder: Path) -> int:
    """Bytes that a view may take in ``folder``.  Raises DeviceError when that is too little."""
    try:
        room = os.statvfs(folder)
    except OSError as error:
        raise DeviceError(f"{folder} cannot be used for a copy-on-write view: {error.strerror}") from error
    half = room.f_bavail * room.f_frsize // 2
    if half < _LEAST:
        raise DeviceError(
            f"{folder} has {format_bytes(2 * half)} free, too little for a copy-on-write view",
            f"Free at least {format_bytes(2 * _LEAST)} there, or set TMPDIR to a folder elsewhere.",
        )
    return min(half, _MOST)
