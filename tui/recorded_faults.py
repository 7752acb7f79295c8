"""Serves a recorded disk with its faults: ``python -m tui.recorded_faults FOLDER``, a file through FUSE.

Bytes that cannot be read give EIO, slow ones take their time, and a disk that hangs answers nothing more.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from recovery.devices.fuse import read_spec, serve, served
from tui.recorded_format import SLOW_BYTES, Area, Faults

#: Longer than anybody waits, and not for ever: whoever has such a file open keeps a machine from being shut down.
_HANGS_SECONDS = 3600.0


class _Spec(msgspec.Struct, frozen=True):
    """The file behind it."""

    backing: str
    name: str
    faults: Faults


@contextmanager
def with_faults(disk: Path, faults: Faults) -> Iterator[Path]:
    """``disk``, a file, as one of the same name that has ``faults``.  Raises DeviceError when FUSE cannot be had."""
    spec = _Spec(str(disk.absolute()), disk.name, faults)
    with served("tui.recorded_faults", spec, needed_for="a disk with faults") as folder:
        yield folder / disk.name


class _FaultyDisk:
    def __init__(self, spec: _Spec) -> None:
        self._faults = spec.faults
        self._file = os.open(spec.backing, os.O_RDWR)
        self._size = os.fstat(self._file).st_size
        self._given = 0
        self._guard = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        self._answer(offset, length)
        for area in self._faults.slow:
            time.sleep(area.seconds * _within(area, offset, length) / SLOW_BYTES)
        if any(_within(area, offset, length) for area in self._faults.unreadable):
            raise OSError(errno.EIO, "unreadable")
        return os.pread(self._file, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        self._answer(offset, len(data))
        os.pwrite(self._file, data, offset)

    def _answer(self, offset: int, length: int) -> None:
        """Return when the disk does."""
        limit = self._faults.hangs_after_bytes
        with self._guard:
            hangs = limit is not None and self._given + length > limit
            self._given += 0 if hangs else length
        if hangs or any(_within(area, offset, length) for area in self._faults.silent):
            time.sleep(_HANGS_SECONDS)
            raise OSError(errno.EIO, "no answer")


def _within(area: Area, offset: int, length: int) -> int:
    """How many of the bytes lie in the area."""
    return max(0, min(area.offset + area.length, offset + length) - max(area.offset, offset))


def main() -> None:
    """In the child."""
    spec = read_spec(_Spec)
    serve({spec.name: _FaultyDisk(spec)}, threads=True)


if __name__ == "__main__":
    main()
