"""Whether a captured disk fits onto another, judged by sizes alone: nothing is opened."""

from __future__ import annotations

from recovery.devices.disk import Disk
from recovery.devices.table import TableEntry
from recovery.units import format_bytes


def misfit(disk: Disk, source_bytes: int, sector_bytes: int) -> str | None:
    """Why a disk of ``source_bytes`` in sectors of ``sector_bytes`` cannot be put on ``disk``; None when it can."""
    wrong = other_sectors(disk, sector_bytes)
    if wrong is None and disk.size_bytes < source_bytes:
        return (
            f"{disk.path} is too small: it holds {format_bytes(disk.size_bytes)}, "
            f"{format_bytes(source_bytes - disk.size_bytes)} less than the disk that is to be put on it."
        )
    return wrong


def misfit_of_partition(disk: Disk, entry: TableEntry, source_bytes: int, sector_bytes: int) -> str | None:
    """Why a partition of ``source_bytes`` cannot be put into partition ``entry`` of ``disk``; None when it can."""
    if entry.role == "extended":
        return f"Partition {entry.number} of {disk.path} only holds other partitions."
    if entry.end > disk.size_bytes:
        return f"Partition {entry.number} of {disk.path} reaches beyond the disk's end."
    wrong = other_sectors(disk, sector_bytes)
    if wrong is None and entry.length < source_bytes:
        return (
            f"Partition {entry.number} of {disk.path} holds {format_bytes(entry.length)}, "
            f"{format_bytes(source_bytes - entry.length)} less than the partition that is to be put into it."
        )
    return wrong


def other_sectors(disk: Disk, sector_bytes: int) -> str | None:
    """Why what was captured from sectors of ``sector_bytes`` does not go with those of ``disk``; None when it does."""
    if disk.is_image_file or disk.logical_sector_bytes == sector_bytes:  # a file has no sectors of its own
        return None
    return (
        f"{disk.path} has sectors of {disk.logical_sector_bytes} bytes, the image was made of a disk with "
        f"{sector_bytes}: its partition table and filesystems would not be found."
    )
