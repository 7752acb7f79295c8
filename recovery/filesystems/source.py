"""What a filesystem's own module is given to look at, and what it answers.

Each looks for two things before the map of partclone is believed, because no checksum would ever notice that a map is
wrong: whether the filesystem was closed cleanly (a map that a journal would still change is stale), and which
areas its superblock names and the map must therefore hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from recovery.devices.loop import read_only_loop, view_loop
from recovery.devices.overlay import View, overlay
from recovery.errors import DeviceError
from recovery.extent import Extent, Extents


class CaptureWhole(Exception):
    """An answer, not an error: no map of this filesystem is to be believed, every byte counts as used.

    ``reason`` completes "captured whole: ..."; ``clean`` is False where the filesystem was not closed cleanly and
    None where that is not known.
    """

    def __init__(self, reason: str, clean: bool | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.clean = clean


class NotClosedCleanly(CaptureWhole):
    """The answer for a filesystem whose map may be stale, and which its own way of recovery may bring up to date."""

    def __init__(self, name: str, how_it_shows: str) -> None:
        super().__init__(f"{name} was not closed cleanly ({how_it_shows})", clean=False)


def beyond_recovery(name: str, how_it_shows: str) -> CaptureWhole:
    """The answer for a filesystem that was not closed cleanly, and that nothing here brings up to date for certain."""
    return CaptureWhole(f"{name} was not closed cleanly ({how_it_shows})", clean=False)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A clean filesystem's answer, in bytes from the partition's start.

    ``required`` are areas that its map must hold; if it does not, they are added and that is said.  ``besides`` are
    used areas that a map is known to pass over.
    """

    required: Extents
    besides: Extents = field(default_factory=Extents)


@dataclass(frozen=True, slots=True)
class FilesystemSource:
    """A partition to be read: ``device`` is a loop device over it or over a view of it, ``size_bytes`` its length.

    Over the partition itself it is read-only.  Without root it is a view, a file.
    """

    device: Path
    size_bytes: int
    descriptor: int

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``.  Raises CaptureWhole when they cannot be had."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise CaptureWhole(f"its superblock points to byte {offset}, outside of the partition")
        try:
            data = os.pread(self.descriptor, length, offset)
        except OSError as error:
            raise CaptureWhole(f"its metadata at byte {offset} cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise CaptureWhole(f"its metadata at byte {offset} cannot be read")
        return data


@contextmanager
def open_source(path: Path, extent: Extent, logical_sector_bytes: int) -> Iterator[FilesystemSource]:
    """The partition ``extent`` (bytes) of ``path``, behind a read-only loop device.

    Who is not root gets no loop device, but a view of an image file.  Raises DeviceError when neither can be had.
    """
    if os.geteuid() != 0 and path.is_file():
        with overlay(path, extent) as view, _opened(view.path) as source:
            yield source
        return
    with read_only_loop(path, extent, logical_sector_bytes) as device, _opened(device) as source:
        yield source


@contextmanager
def open_view(view: View, logical_sector_bytes: int) -> Iterator[FilesystemSource]:
    """A copy-on-write view behind a loop device that may be written.  Raises DeviceError when none can be had."""
    with view_loop(view.path, logical_sector_bytes) as device, _opened(device) as source:
        yield source


@contextmanager
def _opened(device: Path) -> Iterator[FilesystemSource]:
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"{device} cannot be opened: {error.strerror}") from error
    try:
        size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        yield FilesystemSource(device, size_bytes, descriptor)
    finally:
        os.close(descriptor)
