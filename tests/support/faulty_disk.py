"""A disk with faults, as a block device: a file served through FUSE, and a loop device over it.

``python -m tests.support.faulty_disk`` is the server; ``faulty_disk`` gives the device.  Faults are stated before, but
for a disk that goes away or hangs: it does when the file ``trigger`` appears.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from recovery.devices.fuse import read_spec, serve, served
from tests.support.disks import loop
from tests.support.program import ROOT

NAME = "disk"

#: Writes of metadata are shorter than this, or mostly zeros; what is spoilt is content.
_LONG_WRITE = 64 << 10
_SAMPLE = 64

#: A disk that hangs answers so soon after its trigger has gone.
_LOOKS_EVERY_SECONDS, _HANGS_SECONDS = 0.05, 60.0


class Faults(msgspec.Struct, frozen=True):
    """What is wrong with the disk.  Bytes.

    ``unreadable``: ranges that give EIO.  ``real_bytes``: how much it really holds, what lies further takes the place
    of what lay nearer (0: no such fault).  ``flip_write``: the long write of that number is stored with one bit
    changed.  ``trigger``: once this file exists, every access fails; or, with ``hangs``, none is answered while it
    does, but for a minute at most: whoever waits for such a disk in vain keeps the whole machine waiting.
    ``log``: a file that gets a line for each read, ``OFFSET LENGTH WHEN``, ended by ``!`` when it failed.
    ``slow_seconds``: a read that fails takes so long.
    """

    backing: str
    unreadable: tuple[tuple[int, int], ...] = ()
    real_bytes: int = 0
    flip_write: int = 0
    trigger: str = ""
    hangs: bool = False
    log: str = ""
    slow_seconds: float = 0.0


@contextmanager
def faulty_disk(faults: Faults) -> Iterator[Path]:
    """The block device of a disk with ``faults`` (needs root)."""
    os.environ["PYTHONPATH"] = str(ROOT)  # the server is a module of the tests, which are not installed
    with served("tests.support.faulty_disk", faults, needed_for="a disk with faults") as folder:
        with loop(folder / NAME) as device:
            yield device


class _FaultyFile:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._file = os.open(faults.backing, os.O_RDWR)
        self._size = os.fstat(self._file).st_size
        self._long_writes = 0
        self._log = open(faults.log, "a") if faults.log else None  # noqa: SIM115, PTH123 - for as long as it is served

    @property
    def size_bytes(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        self._expect_here()
        fails = any(offset < start + count and start < offset + length for start, count in self._faults.unreadable)
        if self._log is not None:
            print(offset, length, f"{time.time():.3f}", "!" if fails else "", file=self._log, flush=True)
        if fails:
            time.sleep(self._faults.slow_seconds)
            raise OSError(errno.EIO, "unreadable")
        return b"".join(os.pread(self._file, count, at) for at, count in self._places(offset, length))

    def write(self, offset: int, data: bytes) -> None:
        self._expect_here()
        if len(data) >= _LONG_WRITE and data[:_SAMPLE].count(0) < _SAMPLE // 8:
            self._long_writes += 1
            if self._long_writes == self._faults.flip_write:
                data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 8]) + data[len(data) // 2 + 1 :]
        done = 0
        for at, count in self._places(offset, len(data)):
            os.pwrite(self._file, data[done : done + count], at)
            done += count

    def _expect_here(self) -> None:
        ends = time.monotonic() + (_HANGS_SECONDS if self._faults.hangs else 0)
        while self._faults.trigger and os.path.exists(self._faults.trigger):  # noqa: PTH110 - at every access
            if time.monotonic() >= ends:
                raise OSError(errno.EIO, "gone")
            time.sleep(_LOOKS_EVERY_SECONDS)

    def _places(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Where the disk really keeps a range: counterfeits begin anew when their memory is full."""
        real = self._faults.real_bytes or self._size
        while length:
            at = offset % real
            count = min(length, real - at)
            yield at, count
            offset, length = offset + count, length - count


if __name__ == "__main__":
    serve({NAME: _FaultyFile(read_spec(Faults))})
