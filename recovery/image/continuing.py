"""An incomplete image is gone on with: of the same disks only what it lacks is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from recovery.devices.blockio import Effort, SourceGuard
from recovery.devices.disk import Disk
from recovery.devices.source_process import SharedBuffers, SourceProcess
from recovery.errors import Refused, UsageError
from recovery.extent import Extents
from recovery.image.capture_plan import CapturePlan, PlannedDisk, buffer_count, openable, samples
from recovery.image.domain import DiskDomain
from recovery.image.manifest import TAG, TAG_INCOMPLETE, ImageDisk
from recovery.image.view import DiskImage, SystemImage
from recovery.progress import Progress, Side
from recovery.repository.repository import Repository


def plan_continued(sources: Sequence[Path], repository: Repository, progress: Progress, held: ExitStack) -> CapturePlan:
    """How the newest incomplete image of these disks is completed; nothing is written.  The index is loaded.

    The disks are held, unchanged and for us alone, until ``held`` is closed.

    Raises UsageError when there is no such image, Refused when a disk is not as it was, and as ``plan_capture``.
    """
    disks = openable(sources, repository)
    earlier = _expect_incomplete(repository, disks)
    records = earlier.manifest.disks
    progress.phase("map")
    buffers = SharedBuffers(buffer_count(), max(record.layout.chunk_bytes for record in records))
    held.callback(buffers.close)
    planned = tuple(
        _plan_disk(disk, earlier.disk(record.name), buffers, progress, held)
        for disk, record in zip(disks, _records_of(disks, earlier) or (), strict=True)
    )
    progress.phase("compare with the image")
    with progress.waits(Side.SOURCE):
        for disk in planned:
            _check_same(disk, earlier, buffers)
    return CapturePlan(
        disks=planned,
        group_paths=tuple(earlier.stored.snapshot.paths),
        tools=earlier.manifest.tools,
        buffers=buffers,
        earlier=earlier,
        predicted_bytes=sum(disk.missing.total_bytes for disk in planned),
        free_bytes=repository.store.free_bytes(),
    )


def incomplete_image(repository: Repository, disks: Sequence[Disk]) -> SystemImage | None:
    """The newest incomplete image that these disks may complete, unless a complete one was made of them since.

    The index is loaded, if it need be.  Raises RepositoryDamaged, DeviceError.
    """
    snapshots, _ = repository.snapshots()
    complete: set[tuple[str, ...]] = set()
    for stored in reversed(snapshots):
        tags, paths = stored.snapshot.tags or [], tuple(stored.snapshot.paths)
        if TAG in tags and TAG_INCOMPLETE not in tags:
            complete.add(paths)
        if TAG not in tags or paths in complete:
            continue
        if not len(repository.index):
            repository.load_index()
        image = SystemImage(repository, stored)
        if _records_of(disks, image) is not None:
            return image
    return None


def _expect_incomplete(repository: Repository, disks: Sequence[Disk]) -> SystemImage:
    found = incomplete_image(repository, disks)
    if found is None:
        raise UsageError(
            f"the repository holds no image of {', '.join(disk.path for disk in disks)} that could be completed",
            "Name every disk of the image that is to be completed, or capture without --continue.",
        )
    return found


def _records_of(disks: Sequence[Disk], image: SystemImage) -> list[ImageDisk] | None:
    """For each of the disks which one of the image it may be; None when they are others, or not all of them."""
    left = list(image.manifest.disks)
    found: list[ImageDisk] = []
    for disk in disks:
        alike = next((record for record in left if _may_be(disk, record)), None)
        if alike is None:
            return None
        left.remove(alike)
        found.append(alike)
    return found if not left else None


def _may_be(disk: Disk, record: ImageDisk) -> bool:
    """Whether nothing speaks against it; an adapter may hide the serial number, or tell its own."""
    if disk.size_bytes != record.size_bytes:
        return False
    pairs = [(disk.serial, record.serial), (disk.wwn, record.wwn)]
    known = [now == then for now, then in pairs if now and then]
    return any(known) or not known or disk.transport != record.transport


def _plan_disk(
    disk: Disk, image: DiskImage, buffers: SharedBuffers, progress: Progress, held: ExitStack
) -> PlannedDisk:
    guard = held.enter_context(SourceGuard(disk.place))
    sector_bytes = max(disk.logical_sector_bytes, image.record.logical_sector_bytes)
    reader = held.enter_context(SourceProcess(disk.place, sector_bytes, buffers, progress.check))
    gone = image.used.intersect(Extents(extent for extent, _ in image.lacking()))
    return PlannedDisk(
        name=image.record.name,
        disk=disk,
        domain=DiskDomain(image.used, ()),
        layout=image.layout,
        record=image.record,
        guard=guard,
        reader=reader,
        earlier=image,
        lacking=image.unreadable.union(gone),
    )


def _check_same(planned: PlannedDisk, earlier: SystemImage, buffers: SharedBuffers) -> None:
    """Raise Refused unless what can be read of some chunks, the first among them, is as the image has it."""
    assert planned.earlier is not None
    room = buffers.take()
    equal = 0
    for number in samples(planned):
        extent = planned.layout[number].extent
        used = planned.domain.used.clip(extent)
        if planned.missing.clip(extent) or planned.reader.read(extent, used, room, Effort.QUICK):
            continue
        if hashlib.sha256(room[: extent.length]).digest() != planned.earlier.id_of(number):
            raise Refused(
                f"{planned.disk.path} is not as it was when the image {earlier.stored.id[:8]} was made: it differs "
                f"at byte {extent.offset}",
                "It may be another disk, or have been written since: capture it anew, without --continue.",
            )
        equal += 1
    buffers.give(room)
    if not equal:
        raise Refused(
            f"nothing of {planned.disk.path} could be compared with the image {earlier.stored.id[:8]}",
            "It may be another disk, or not be readable any more.",
        )
