"""libparted's reading of a partition table; the only user of pyparted.

libparted opens for writing, repairs what it reads and keeps what it opened in a cache.  So it is never given a disk:
it reads a sparse one in memory that holds copies of the table's sectors.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _ped

from recovery.errors import DeviceError

_MAX_FILE_BYTES = 1 << 62
_PARTED = threading.Lock()
#: pyparted's exceptions have no common base of their own.
_ERRORS: tuple[type[Exception], ...] = (
    _ped.PartedException,
    _ped.DeviceException,
    _ped.DiskException,
    _ped.DiskLabelException,
    _ped.GeometryException,
    _ped.IOException,
    _ped.PartitionException,
    _ped.UnknownDeviceException,
    _ped.UnknownTypeException,
    UnicodeDecodeError,
    ValueError,
    TypeError,
    IndexError,
)


@dataclass(frozen=True, slots=True)
class PartedEntry:
    number: int
    offset: int
    length: int
    name: str
    extended: bool


@dataclass(frozen=True, slots=True)
class LibpartedView:
    """What libparted sees: the label (None: none, or refused with ``refusal``) and where partitions lie."""

    label: str | None
    entries: tuple[PartedEntry, ...] = ()
    refusal: str = ""


def ask_libparted(size_bytes: int, overlays: list[tuple[int, bytes]], sector_bytes: int) -> LibpartedView:
    """Let libparted read a disk of ``size_bytes`` in memory that holds only ``overlays`` (offset, bytes)."""
    if not 0 < size_bytes <= _MAX_FILE_BYTES:
        return LibpartedView(None, refusal="the disk has no sensible size")
    with scratch_disk(size_bytes, overlays) as scratch, _PARTED, _parted_sector_size(sector_bytes):
        device = None
        try:
            device = _ped.device_get(str(scratch))
            if device.sector_size != sector_bytes:
                return LibpartedView(None, refusal=f"it cannot read sectors of {sector_bytes} bytes")
            disk = _ped.Disk(device)
            return LibpartedView(disk.type.name, tuple(_parted_entries(disk, sector_bytes)))
        except _ERRORS as error:
            return LibpartedView(None, refusal=_plain(error))
        finally:
            if device is not None:
                device.destroy()


def _parted_entries(disk: Any, sector_bytes: int) -> Iterator[PartedEntry]:
    partition = disk.next_partition()
    while partition is not None:
        if partition.num > 0:
            try:
                name = partition.get_name()
            except _ERRORS:
                name = ""
            start, length = partition.geom.start * sector_bytes, partition.geom.length * sector_bytes
            yield PartedEntry(partition.num, start, length, name or "", bool(partition.type & _ped.PARTITION_EXTENDED))
        try:
            partition = disk.next_partition(partition)
        except _ERRORS:
            return


def _plain(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.split(": ", 1)[-1]


@contextmanager
def _parted_sector_size(sector_bytes: int) -> Iterator[None]:
    """libparted takes the sector size of a file from the environment, when it opens it."""
    before = os.environ.get("PARTED_SECTOR_SIZE")
    os.environ["PARTED_SECTOR_SIZE"] = str(sector_bytes)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PARTED_SECTOR_SIZE"]
        else:
            os.environ["PARTED_SECTOR_SIZE"] = before


@contextmanager
def scratch_disk(size_bytes: int, overlays: list[tuple[int, bytes]]) -> Iterator[Path]:
    """A sparse disk in memory of ``overlays`` (offset, bytes) and zeros elsewhere, under a name others can open."""
    descriptor = os.memfd_create("partition table")
    try:
        os.ftruncate(descriptor, size_bytes)
        for offset, data in overlays:
            os.pwrite(descriptor, data[: max(0, size_bytes - offset)], offset)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    except OSError as error:
        raise DeviceError(f"a copy of a partition table in memory failed: {error.strerror}") from error
    finally:
        os.close(descriptor)
