"""Write protection of disks by the kernel's read-only flag, as our live system sets it on every disk that appears.

::

    /run/recovery/protected/NAME-DISKSEQ   the flag was set by us: it may be taken off what a person confirmed
    /run/recovery/released/NAME-DISKSEQ    it was taken off: whoever sets it on what appears leaves that disk alone

A disk that is read-only without the first file is so by its hardware.  The flag of a disk covers its partitions.
Elsewhere than in the live system there are no such files, and no disk is protected.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from recovery.devices.live import live_root
from recovery.errors import DeviceError, Refused

log = logging.getLogger(__name__)

#: include/uapi/linux/fs.h
_BLKROSET, _BLKROGET, _BLKGETDISKSEQ = 0x125D, 0x125E, 0x80081280

_SYS = Path("/sys/class/block")


class Protectable(Protocol):
    """A whole disk: its node, the kernel's name of it, and the kernel's count of disks seen."""

    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def diskseq(self) -> int | None: ...


def is_protected(name: str, diskseq: int | None = None) -> bool:
    """Whether the read-only flag of the disk that the kernel calls ``name`` was set by us.

    ``diskseq``: where it is known already.
    """
    found = diskseq if diskseq is not None else _diskseq_by_sysfs(name)
    return found is not None and _mark("protected", name, found).exists() and _is_read_only_by_sysfs(name)


def is_released(name: str) -> bool:
    """Whether our protection was taken off the disk that the kernel calls ``name``."""
    return _mark("released", name, _diskseq_by_sysfs(name)).exists() and not _is_read_only_by_sysfs(name)


def release(file: int, disk: Protectable) -> bool:
    """Take our protection off ``disk``, which is open as ``file``; whether there was any.

    Raises Refused where another disk is open there by now, or stays read-only: then it is its hardware.
    """
    if not is_protected(disk.name, disk.diskseq):
        return False
    if _diskseq(file) != disk.diskseq:
        raise Refused(
            f"{disk.path} is no longer the disk that it was a moment ago", "Look at 'recovery disks' and begin again."
        )
    mark = _mark("released", disk.name, disk.diskseq)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()  # first: a change of the disk has the flag set again
        set_read_only(file, False)
        still = _is_read_only(file)
    except OSError as error:
        mark.unlink(missing_ok=True)
        raise DeviceError(
            f"the write protection of {disk.path} cannot be taken off: {error.strerror}", "It needs root."
        ) from error
    if still:
        mark.unlink(missing_ok=True)
        raise Refused(
            f"{disk.path} is read-only by its hardware",
            "Look for a switch on the card or its adapter; a disk that fails may have turned itself read-only.",
        )
    return True


def protect(disk: Protectable) -> bool:
    """Have the kernel refuse every write to ``disk``; whether that could be done.  Another disk is left alone."""
    try:
        file = os.open(disk.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if disk.diskseq is None or _diskseq(file) != disk.diskseq:
                return False
            if not _is_read_only(file):
                set_read_only(file, True)
                mark = _mark("protected", disk.name, disk.diskseq)
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
            log.info("%s is gone", disk.path)
        else:
            log.warning("%s is not write-protected: %s", disk.path, error.strerror)
        return False
    _mark("released", disk.name, disk.diskseq).unlink(missing_ok=True)
    return True


def set_read_only(file: int, value: bool) -> None:
    """Set the kernel's flag of the block device that is open as ``file``.  Raises OSError."""
    fcntl.ioctl(file, _BLKROSET, struct.pack("=i", value))


class Release:
    """The protection of a disk, taken off until the end of a ``with`` block."""

    def __init__(self) -> None:
        self._disks: list[Protectable] = []

    def take_off(self, file: int, disk: Protectable) -> None:
        """Take it off ``disk``, which is open as ``file``, if there is any.  Raises as ``release``."""
        if release(file, disk):
            self._disks.append(disk)

    def keep_off(self) -> None:
        """Leave it off when the block ends."""
        self._disks.clear()

    def put_back(self) -> None:
        """Protect again what was protected."""
        while self._disks:
            protect(self._disks.pop())


@contextmanager
def released() -> Iterator[Release]:
    """What is taken off within the block is put back behind it, however that ends (but for a SIGKILL)."""
    protection = Release()
    try:
        yield protection
    finally:
        protection.put_back()


def _mark(kind: str, name: str, diskseq: int | None) -> Path:
    return live_root() / "run/recovery" / kind / f"{name}-{diskseq}"


def _is_read_only(file: int) -> bool:
    return struct.unpack("=i", fcntl.ioctl(file, _BLKROGET, bytes(4))) != (0,)


def _diskseq(file: int) -> int | None:
    try:
        return int(struct.unpack("=Q", fcntl.ioctl(file, _BLKGETDISKSEQ, bytes(8)))[0]) or None
    except OSError:  # a kernel before 5.15
        return None


def _diskseq_by_sysfs(name: str) -> int | None:
    try:
        return int((_SYS / name / "diskseq").read_text()) or None
    except (OSError, ValueError):
        return None


def _is_read_only_by_sysfs(name: str) -> bool:
    try:
        return (_SYS / name / "ro").read_text().strip() == "1"
    except OSError:
        return False
