"""Reading sources and writing targets: block devices and raw image files alike.

A source is opened read-only and held still by a guard, exclusively when it is a block device: the kernel refuses what
is mounted, and refuses to mount it meanwhile.
Reads go through the page cache, whose pages are given back behind the reader; only where a read fails is it tried
again past the cache, piece by piece and at last sector by sector.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import stat
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import TracebackType

from recovery.devices.holes import Holes, is_zeros
from recovery.errors import DestinationFull, DeviceError, RecoveryError, Refused
from recovery.extent import Extent, Extents
from recovery.units import KIB, MIB, align_down

log = logging.getLogger(__name__)

#: Read errors of the medium; any other means that the device itself is gone or refuses.
_MEDIUM_ERRORS = (errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO, errno.ETIMEDOUT)

#: A gap between used extents that is shorter is read through and zeroed: cheaper than one more read.
_READ_THROUGH_BYTES = 64 * KIB
_RETRY_BYTES = 64 * KIB
_ZEROS = memoryview(bytes(MIB))

#: After so many bytes without one good read the disk itself is in doubt.
_DOUBTFUL_BYTES = 4 * MIB

_CLAIM_ATTEMPTS, _CLAIM_SECONDS = 10, 0.03

_BLKGETSIZE64 = 0x80081272
_BLKDISCARD = 0x1277
_BLKFLSBUF = 0x1261
_BLKRRPART = 0x125F
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2

#: Written data is pushed to the medium at least this often, so that stopping never waits long.
_SYNC_EVERY_BYTES = 256 * MIB


def size_of(file: int) -> int:
    """Size in bytes of an open block device or regular file."""
    status = os.fstat(file)
    if stat.S_ISBLK(status.st_mode):
        answer = fcntl.ioctl(file, _BLKGETSIZE64, bytes(8))
        return int(struct.unpack("=Q", answer)[0])
    return status.st_size


def forget_partitions(file: int) -> bool:
    """Have the kernel read the table of an open disk anew, and with it forget what it cached of partitions.

    Whether it goes by the table that is there now.
    """
    try:
        fcntl.ioctl(file, _BLKRRPART, 0)
    except OSError as error:
        log.info("the kernel did not read the new table: %s", error.strerror)
        return error.errno == errno.EINVAL  # a device that has no partitions, as a plain loop device
    return True


class _Device:
    """An open disk, for the time of a ``with`` block."""

    def __init__(self, path: Path, flags: int, *, exclusive: bool) -> None:
        self.path = path
        self.is_block = stat.S_ISBLK(path.stat().st_mode) if path.exists() else False
        try:
            self._file = _open(path, flags | os.O_CLOEXEC, claim=self.is_block and exclusive)
        except OSError as error:
            raise _open_error(path, error) from error
        self.size_bytes = size_of(self._file)

    def fileno(self) -> int:
        """The descriptor that it is open as."""
        return self._file

    def close(self) -> None:
        """Let go of the disk."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SourceGuard(_Device):
    """Holds a source still, from before its table and maps are read until its last byte is.

    A block device is open exclusively for that time: nobody can mount it or a partition of it.  Its page cache is
    emptied first: a partition has a cache of its own, and what was written through that, the disk's may not know.
    Of a file, ``check`` tells whether it was changed.  Raises Refused when the device is in use, DeviceError.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDONLY, exclusive=True)
        if self.is_block:
            try:
                fcntl.ioctl(self._file, _BLKFLSBUF, 0)
            except OSError as error:
                self.close()
                raise DeviceError(
                    f"the cache of {path} cannot be emptied: {error.strerror}", "It needs root."
                ) from error
        self._seen = self._look()

    def __enter__(self) -> SourceGuard:
        return self

    def check(self) -> None:
        """Raise DeviceError when the source was changed since the guard was set."""
        if self._look() != self._seen:
            raise DeviceError(
                f"{self.path} was changed while it was read", "Let nothing write to it, and run it again."
            )

    def _look(self) -> tuple[int, ...]:
        status = os.fstat(self._file)
        return (size_of(self._file),) if self.is_block else (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Effort(IntEnum):
    """How hard a read that fails is tried again.

    ``QUICK``: not at all; everything that was asked for counts as lost, and the buffer is worth nothing.  ``COARSE``:
    in pieces of 64 KiB; those that fail are lost.  ``PATIENT``: these are narrowed down to the sector.
    """

    QUICK = 0
    COARSE = 1
    PATIENT = 2


class SourceReader(_Device):
    """Reads a source.  ``sector_bytes`` is what a failing read is narrowed down to.

    ``interrupt`` is called between the sectors of a bad area, where each may take seconds; what is bad is gone into no
    further, and lost, when it returns True.
    """

    def __init__(self, path: Path, sector_bytes: int, interrupt: Callable[[], bool | None] = lambda: None) -> None:
        super().__init__(path, os.O_RDONLY, exclusive=False)
        self.sector_bytes = sector_bytes
        self._interrupt = interrupt
        self._direct: int | None = None
        self._bounce: mmap.mmap | None = None
        self._good: int | None = None
        self._failed_bytes = 0
        #: A read failed: from then on the page cache is passed by, which makes many failing reads of one.
        self._failing = False
        self._holes = Holes(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __enter__(self) -> SourceReader:
        return self

    def close(self) -> None:
        """Let go of the disk."""
        super().close()
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def read(self, extent: Extent, used: Extents, buffer: memoryview, effort: Effort = Effort.PATIENT) -> Extents:
        """Fill ``buffer[:extent.length]`` with the used bytes of ``extent``, zeros elsewhere.

        ``used`` holds absolute offsets.  The extents returned could not be read and are zeros too.
        Raises DeviceError when the device is gone.
        """
        inside = used.clip(extent)
        filled = extent.offset
        unreadable: list[Extent] = []
        for run in _merge_near(inside):
            _zero(buffer, filled - extent.offset, run.offset - extent.offset)
            unreadable += self._read_run(run, buffer[run.offset - extent.offset : run.end - extent.offset], effort)
            if unreadable and effort is Effort.QUICK:
                return inside
            filled = run.end
        _zero(buffer, filled - extent.offset, extent.length)
        for gap in inside.invert(extent):
            if gap.length < _READ_THROUGH_BYTES:
                _zero(buffer, gap.offset - extent.offset, gap.end - extent.offset)
        return Extents(unreadable).intersect(inside) if unreadable else Extents()

    def hole_bytes(self, extents: Extents) -> int:
        """How many of the bytes lie in holes of an image file."""
        return sum(self._holes.bytes_within(extent) for extent in extents)

    def hole_end(self, offset: int) -> int:
        """Up to where an image file certainly holds zeros from ``offset`` on; ``offset`` itself when it may not."""
        return self._holes.end_at(offset)

    def drop_cache(self, before: int) -> None:
        """Give the page cache below the offset ``before`` back."""
        os.posix_fadvise(self._file, 0, before, os.POSIX_FADV_DONTNEED)

    def _read_run(self, run: Extent, buffer: memoryview, effort: Effort) -> list[Extent]:
        done, narrow = 0, effort is Effort.COARSE
        unreadable: list[Extent] = []
        while done < run.length:
            at, left = run.offset + done, run.length - done
            piece = min(_RETRY_BYTES - at % _RETRY_BYTES, left)
            try:
                count = self._pread(buffer[done : done + (piece if narrow else left)], at)
            except OSError as error:
                self._expect_medium_error(error)
                says_where = narrow or not self._failing  # the page cache gives what comes before the error
                self._failing = narrow = True
                if effort is Effort.QUICK:
                    rest = Extent(at, left)
                    self._expect_alive(rest, [rest])
                    return [rest]
                if not says_where:
                    continue
                failed, count = Extent(at, piece), piece
                if effort is Effort.PATIENT:
                    lost = self._read_sectors(failed, buffer[done : done + piece])
                else:
                    _zero(buffer, done, done + piece)
                    lost = [failed]
                self._expect_alive(failed, lost)
                unreadable += lost
                if self._interrupt():
                    _zero(buffer, done + count, run.length)
                    return [*unreadable, *([Extent(at + count, left - count)] if left > count else [])]
            else:
                self._good, self._failed_bytes = at, 0
            if count == 0:
                raise self._ended_early(at)
            done += count
        return unreadable

    def _pread(self, place: memoryview, offset: int) -> int:
        if self._failing:
            try:
                return os.preadv(self._past_the_cache(), [place], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:  # it is not aligned as the device wants it
                    raise
        return os.preadv(self._file, [place], offset)

    def _ended_early(self, offset: int) -> DeviceError:
        if self.is_block:
            return DeviceError(
                f"{self.path} went away while it was read, at byte {offset} of {self.size_bytes}",
                "Check its cable and its power, connect it again, and run it again; see the kernel's log (dmesg).",
            )
        return DeviceError(
            f"{self.path} ended at byte {offset}, before its size of {self.size_bytes}",
            "The file became shorter while it was read.",
        )

    def _read_sectors(self, extent: Extent, buffer: memoryview) -> list[Extent]:
        """Read a failing piece past the page cache, then sector by sector; sectors that fail become zeros."""
        unreadable: list[Extent] = []
        start = align_down(extent.offset, self.sector_bytes)
        for sector in range(start, extent.end, self.sector_bytes):
            if self._interrupt():
                rest = Extent(max(sector, extent.offset), extent.end - max(sector, extent.offset))
                _zero(buffer, rest.offset - extent.offset, extent.length)
                unreadable.append(rest)
                break
            low, high = max(sector, extent.offset), min(sector + self.sector_bytes, extent.end)
            place = buffer[low - extent.offset : high - extent.offset]
            data = self._read_direct(Extent(sector, min(self.sector_bytes, self.size_bytes - sector)))
            if data is None:
                _zero(place, 0, len(place))
                unreadable.append(Extent(low, high - low))
            else:
                place[:] = data[low - sector : high - sector]
        if unreadable:
            log.info("%d sectors at %d of %s are unreadable", len(unreadable), extent.offset, self.path)
        return unreadable

    def _expect_alive(self, failed: Extent, lost: list[Extent]) -> None:
        """Tell a wide bad area from a disk that answers no read any more, by a place that could be read before."""
        self._failed_bytes = self._failed_bytes + failed.length if Extents(lost).covers(failed) else 0
        if self._failed_bytes < _DOUBTFUL_BYTES or self._good is None:
            return
        self._failed_bytes = 0
        known = align_down(self._good, self.sector_bytes)
        if self._read_direct(Extent(known, min(self.sector_bytes, self.size_bytes - known))) is None:
            raise DeviceError(
                f"{self.path} answers no read any more, not even where it did before",
                "The disk went away or switched itself off: reconnect it, let it cool down, and run it again.",
            )

    def _past_the_cache(self) -> int:
        if self._direct is None:
            try:
                self._direct = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            except OSError:  # not every filesystem can; the cached read is tried then
                self._direct = os.dup(self._file)
        return self._direct

    def _read_direct(self, sector: Extent) -> memoryview | None:
        if self._bounce is None:
            self._bounce = mmap.mmap(-1, max(self.sector_bytes, mmap.PAGESIZE))
        view = memoryview(self._bounce)[: sector.length]
        try:
            count = os.preadv(self._past_the_cache(), [view], sector.offset)
        except OSError as error:
            if error.errno == errno.EINVAL:  # the device wants larger direct reads than its sectors
                return self._read_cached(sector, view)
            self._expect_medium_error(error)
            return None
        return view if count == sector.length else None

    def _read_cached(self, sector: Extent, view: memoryview) -> memoryview | None:
        try:
            return view if os.preadv(self._file, [view], sector.offset) == sector.length else None
        except OSError as error:
            self._expect_medium_error(error)
            return None

    def _expect_medium_error(self, error: OSError) -> None:
        if error.errno in _MEDIUM_ERRORS and size_of(self._file) == self.size_bytes:
            return
        raise DeviceError(
            f"{self.path} cannot be read any more: {error.strerror}", "Check its cable; see the kernel's log (dmesg)."
        ) from error


class TargetWriter(_Device):
    """Writes a target, which is opened exclusively; nothing is written by opening it.

    ``create_bytes``: a file is made, sparse, of this size; it must not exist.
    Raises Refused when somebody else has it open for the same or made that file, DeviceError.
    """

    def __init__(self, path: Path, create_bytes: int | None = None) -> None:
        flags = os.O_RDWR
        if create_bytes is not None:
            flags |= os.O_CREAT | os.O_EXCL  # what has come into its place meanwhile is not ours to overwrite
        super().__init__(path, flags, exclusive=True)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if flags & os.O_CREAT:
                os.ftruncate(self._file, create_bytes or 0)
        except OSError as error:
            self.close()
            if error.errno == errno.EWOULDBLOCK:
                raise Refused(f"{path} is being written by another program", "Wait until it has ended.") from error
            raise _write_error(path, error) from error
        self.size_bytes = size_of(self._file)
        self._holes = Holes(self._file)
        self._unsynced = 0

    def __enter__(self) -> TargetWriter:
        return self

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data`` at ``offset``; zeros into a hole of an image file leave it.

        Raises DestinationFull, DeviceError.
        """
        view = memoryview(data)
        if self._holes.end_at(offset) >= offset + len(view) and is_zeros(view):
            return
        try:
            while len(view):
                count = os.pwrite(self._file, view, offset)
                view = view[count:]
                offset += count
                self._unsynced += count
            if self._unsynced >= _SYNC_EVERY_BYTES:
                self.sync()
        except OSError as error:
            raise self._failed(error) from error

    def read(self, extent: Extent) -> bytes:
        """Read from the target itself; shorter at its end."""
        try:
            return os.pread(self._file, extent.length, extent.offset)
        except OSError as error:
            raise DeviceError(f"{self.path} cannot be read back: {error.strerror}", "The target is faulty.") from error

    def sync(self) -> None:
        """Return when everything written is on stable storage."""
        try:
            os.fsync(self._file)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failed(error) from error
        self._unsynced = 0

    def _failed(self, error: OSError) -> RecoveryError:
        """The kernel gives a disk that went away no size, and says of a write to it that there is no room."""
        if self.is_block and size_of(self._file) != self.size_bytes:
            return DeviceError(
                f"{self.path} went away while it was written",
                "Check its cable and its power, connect it again, and run it again; see the kernel's log (dmesg).",
            )
        return _write_error(self.path, error)

    def drop_cache(self) -> None:
        """Make the next reads come from the medium.  Call after ``sync``."""
        if self.is_block:
            fcntl.ioctl(self._file, _BLKFLSBUF, 0)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def discard(self, extent: Extent) -> bool:
        """Tell the device, or the file's filesystem, that ``extent`` is not used; whether it could be told."""
        try:
            if self.is_block:
                fcntl.ioctl(self._file, _BLKDISCARD, struct.pack("=QQ", extent.offset, extent.length))
            else:
                _punch_hole(self._file, extent)
        except OSError as error:  # some bridges promise it and fail; whether the device still works, writing will show
            log.info("%s could not be told what is unused: %s", self.path, error.strerror)
            return False
        return True

    def reread_table(self) -> bool:
        """Have the kernel read the partition table anew; whether it goes by the new one (for a file there is none)."""
        return forget_partitions(self._file) if self.is_block else True

    def reader(self, sector_bytes: int, interrupt: Callable[[], None]) -> SourceReader:
        """A reader of what was written, while the target is still held."""
        return SourceReader(self.path, sector_bytes, interrupt)


def _merge_near(extents: Extents) -> list[Extent]:
    """Extents with short gaps between them as one."""
    runs: list[Extent] = []
    for extent in extents:
        if runs and extent.offset - runs[-1].end < _READ_THROUGH_BYTES:
            runs[-1] = Extent(runs[-1].offset, extent.end - runs[-1].offset)
        else:
            runs.append(extent)
    return runs


def _zero(buffer: memoryview, start: int, end: int) -> None:
    while start < end:
        length = min(end - start, len(_ZEROS))
        buffer[start : start + length] = _ZEROS[:length]
        start += length


def _punch_hole(file: int, extent: Extent) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    if libc.fallocate(file, mode, extent.offset, extent.length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open(path: Path, flags: int, *, claim: bool) -> int:
    """Open, and ``claim`` a device for us alone; who only looks whether it is claimed has it for a moment."""
    for _ in range(_CLAIM_ATTEMPTS if claim else 0):
        try:
            return os.open(path, flags | os.O_EXCL)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(_CLAIM_SECONDS)
    return os.open(path, flags | (os.O_EXCL if claim else 0))


def _open_error(path: Path, error: OSError) -> RecoveryError:
    if error.errno == errno.EBUSY:
        return Refused(f"{path} is in use (mounted, or held by another program)", "Unmount it, and try again.")
    if error.errno == errno.EEXIST:
        return Refused(f"{path} did not exist when the plan was made, and does now", "Look at it, and begin again.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeviceError(f"no permission to open {path}", "Run it as root.")
    return DeviceError(f"{path} cannot be opened: {error.strerror}", "'recovery disks' lists what there is.")


def _write_error(path: Path, error: OSError) -> RecoveryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DestinationFull(f"there is no room left for {path}", "Free some space where that file lies.")
    return DeviceError(f"{path} cannot be written: {error.strerror}", "The target or its cable is faulty: see dmesg.")
