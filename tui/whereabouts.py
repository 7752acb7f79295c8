"""Disks that were chosen, found again in what is attached now."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from recovery.devices.disk import Disk
from recovery.inventory import DiskReport


def is_same(one: Disk, other: Disk) -> bool:
    """Whether two looks at a path saw one disk."""
    return (one.diskseq, one.serial, one.size_bytes, one.file_id) == (
        other.diskseq,
        other.serial,
        other.size_bytes,
        other.file_id,
    )


def paths_of(chosen: Collection[Disk], reports: Sequence[DiskReport]) -> frozenset[str]:
    """The paths that must be taken for those of the chosen disks.

    A disk that was plugged out and in again may have another name: where the one that was chosen is gone, every disk
    with its serial number, model and size may be it.
    """
    paths = {disk.path for disk in chosen}
    for disk in chosen:
        there = any(report.disk.path == disk.path and is_same(report.disk, disk) for report in reports)
        if not there and (disk.serial or disk.wwn):
            paths |= {report.disk.path for report in reports if _is_alike(report.disk, disk)}
    return frozenset(paths)


def _is_alike(one: Disk, other: Disk) -> bool:
    return (one.model, one.serial, one.wwn, one.size_bytes) == (
        other.model,
        other.serial,
        other.wwn,
        other.size_bytes,
    )
