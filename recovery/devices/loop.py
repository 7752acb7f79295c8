"""Loop devices: read-only ones over a range of a disk, and writable ones over a copy-on-write view.

A program that reads a partition is given a read-only one and not the partition itself: the kernel refuses
every write to it, it works alike on block devices and on raw image files, and it needs no kernel that
scans partition tables.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recovery.devices.protection import set_read_only
from recovery.errors import DeviceError
from recovery.extent import Extent

#: include/uapi/linux/loop.h; LOOP_CONFIGURE came with Linux 5.8.
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
#: struct loop_config: fd, block_size, struct loop_info64 (device, inode, rdevice, offset, sizelimit, number,
#: encrypt_type, encrypt_key_size, flags, file_name, crypt_name, encrypt_key, init), reserved.
_CONFIG = struct.Struct("=II QQQQQ IIII 64s64s32s16s 64s")
#: Others take the device that was free a moment ago.
_ATTEMPTS = 50


@contextmanager
def read_only_loop(path: Path, extent: Extent, logical_sector_bytes: int = 512) -> Iterator[Path]:
    """Attach ``extent`` (bytes) of ``path`` as a read-only block device for the time of the ``with`` block.

    Raises DeviceError when no loop device can be had.
    """
    with _attached(path, extent, logical_sector_bytes, writable=False) as device:
        yield device


@contextmanager
def view_loop(view: Path, logical_sector_bytes: int = 512) -> Iterator[Path]:
    """Attach a copy-on-write view, never a source, as a block device that may be written.

    Raises DeviceError when no loop device can be had.
    """
    with _attached(view, Extent(0, 0), logical_sector_bytes, writable=True) as device:
        yield device


@contextmanager
def writable_loop(path: Path, extent: Extent, logical_sector_bytes: int = 512) -> Iterator[Path]:
    """Attach ``extent`` (bytes) of a confirmed target as a block device that may be written.

    Raises DeviceError when no loop device can be had.
    """
    with _attached(path, extent, logical_sector_bytes, writable=True) as device:
        yield device


@contextmanager
def _attached(path: Path, extent: Extent, logical_sector_bytes: int, *, writable: bool) -> Iterator[Path]:
    """A loop device that goes when the last who has it open closes it: also when this process is killed, whenever."""
    try:
        device, held = _attach(path, extent, logical_sector_bytes, os.O_RDWR if writable else os.O_RDONLY)
    except OSError as error:
        raise DeviceError(
            f"no loop device can be had for {path}: {error.strerror}", "It needs root and the kernel's module loop."
        ) from error
    try:
        yield device
    finally:
        os.close(held)


def _attach(path: Path, extent: Extent, logical_sector_bytes: int, mode: int) -> tuple[Path, int]:
    """The device, and a descriptor that holds it."""
    flags = _AUTOCLEAR | (_READ_ONLY if mode == os.O_RDONLY else 0)
    name = os.fsencode(path)[:63]
    backing = os.open(path, mode | os.O_CLOEXEC)
    try:
        config = _CONFIG.pack(
            backing,
            logical_sector_bytes,
            0,
            0,
            0,
            extent.offset,
            extent.length,
            0,
            0,
            0,
            flags,
            name,
            b"",
            b"",
            b"",
            b"",
        )
        for _ in range(_ATTEMPTS):
            device = _free_device()
            file = os.open(device, mode | os.O_CLOEXEC)
            try:
                fcntl.ioctl(file, _LOOP_CONFIGURE, config)
                if mode == os.O_RDWR:  # what "blockdev --setro" did outlives whoever had this device before
                    set_read_only(file, False)
                # What only reads may hold it: a filesystem is not mounted where somebody else may write.
                return device, os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            finally:
                os.close(file)
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "others take them all")


def _free_device() -> Path:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        return Path(f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}")
    finally:
        os.close(control)
