"""Where a sparse image file has nothing: there it reads as zeros, which need be neither read, hashed nor written.

Only filesystems are believed that have told holes rightly for long: OpenZFS before 2.2.2 called data a hole that had
just been written, and what lies behind a network or FUSE cannot be known.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from recovery.extent import Extent
from recovery.units import KIB

#: f_type of statfs(2): ext2 to ext4, XFS, btrfs, tmpfs, F2FS (linux/magic.h).
_BELIEVED = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010})
#: struct statfs is 120 bytes on 64-bit machines, and begins with f_type.
_STATFS_LONGS = 32
_ZEROS = bytes(64 * KIB)


class Holes:
    """The holes of an open file; none of a block device, or where they cannot be believed.  Moves its position."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._believed = stat.S_ISREG(os.fstat(file).st_mode) and _filesystem_type(file) in _BELIEVED

    def end_at(self, offset: int) -> int:
        """Where the hole ends that the byte ``offset`` lies in; ``offset`` itself when it lies in none."""
        if not self._believed:
            return offset
        try:
            return os.lseek(self._file, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole until the end, or the end
                return offset
            return max(offset, os.fstat(self._file).st_size)

    def bytes_within(self, extent: Extent) -> int:
        """How many of the bytes lie in holes."""
        found, at = 0, extent.offset
        while self._believed and at < extent.end:
            data = self.end_at(at)
            found += min(data, extent.end) - at
            if data >= extent.end:
                break
            at = os.lseek(self._file, data, os.SEEK_HOLE)
        return found


def is_zeros(data: memoryview) -> bool:
    """Whether there is nothing but zeros in ``data``; compared in pieces, so that other threads get their turn."""
    return all(_ZEROS.startswith(data[at : at + len(_ZEROS)]) for at in range(0, len(data), len(_ZEROS)))


def _filesystem_type(file: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    answer = (ctypes.c_long * _STATFS_LONGS)()
    if libc.fstatfs(file, answer) != 0:
        return 0
    return int(answer[0]) & 0xFFFFFFFF
