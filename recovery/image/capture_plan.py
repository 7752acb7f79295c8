"""What a capture will read, made before anything starts, and why it is refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recovery.devices.blockio import Effort, SourceGuard
from recovery.devices.disk import Disk, disk_for
from recovery.devices.live import live_system
from recovery.devices.probe import probe
from recovery.devices.safety import source_problems
from recovery.devices.source_process import SharedBuffers, SourceProcess
from recovery.devices.table import PartitionTable, examine_table
from recovery.errors import DestinationFull, Refused, UsageError
from recovery.extent import Extent, Extents
from recovery.image.domain import DiskDomain, disk_domain
from recovery.image.layout import CHUNK_BYTES, Layout, make_layout
from recovery.image.manifest import MANIFEST_NAME, ImageDisk, ImagePartition, LayoutRecord
from recovery.image.view import DiskImage, SystemImage
from recovery.progress import Progress, Side
from recovery.repository.format import BlobType
from recovery.repository.packer import compressor
from recovery.repository.repository import Repository
from recovery.units import KIB, format_bytes, worker_count

#: Chunks that are under way at once.
_BUFFERS_PER_WORKER = 3

#: Two machines' clocks may differ by so much.
_CLOCK_TOLERANCE = timedelta(minutes=5)

#: Chunks that are read, hashed and compressed to predict the size of an image.
_SAMPLES = 24
_SAMPLE_BYTES = 256 * KIB


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk to be captured: ``record`` is its place in the manifest, but for what cannot be read.

    ``guard`` holds it still for as long as the plan is good; ``reader`` reads it, into the plan's buffers.
    With ``earlier``, an incomplete image of it, only what that is ``lacking`` is read.
    """

    name: str
    disk: Disk
    domain: DiskDomain
    layout: Layout
    record: ImageDisk
    guard: SourceGuard
    reader: SourceProcess
    earlier: DiskImage | None = None
    lacking: Extents = field(default_factory=Extents)

    @property
    def missing(self) -> Extents:
        """What is to be read."""
        return self.domain.used if self.earlier is None else self.lacking


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """What a capture will read, into ``buffers``.  ``earlier``: the image that it completes.

    ``predicted_bytes``, an estimate from samples, is what it will add.
    """

    disks: tuple[PlannedDisk, ...]
    group_paths: tuple[str, ...]
    tools: dict[str, str]
    buffers: SharedBuffers
    earlier: SystemImage | None = None
    predicted_bytes: int = 0
    free_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        """What will be read."""
        return sum(disk.missing.total_bytes for disk in self.disks)


@dataclass(frozen=True, slots=True)
class Choice:
    """Partitions of one source: only ``include`` (None: all), without ``exclude``."""

    include: frozenset[int] | None = None
    exclude: frozenset[int] = frozenset()


EVERYTHING = Choice()


def plan_capture(
    sources: Sequence[Path],
    repository: Repository | None,
    progress: Progress,
    held: ExitStack,
    *,
    choice: Choice = EVERYTHING,
    chunk_bytes: int = CHUNK_BYTES,
    machine_uuid: str = "",
    level: int = 3,
) -> CapturePlan:
    """Look at the disks and find their used extents; nothing is written.  Without a repository nothing is predicted.

    The disks are held, unchanged and for us alone, until ``held`` is closed.

    Raises Refused for a source that is mounted or holds the repository, UsageError, DeviceError.
    """
    disks = openable(sources, repository)
    names = _names(disks)
    progress.phase("map")
    buffers = SharedBuffers(buffer_count(), chunk_bytes)
    held.callback(buffers.close)
    with progress.waits(Side.SOURCE):
        planned = tuple(
            _plan_disk(disk, name, choice, buffers, progress, held) for disk, name in zip(disks, names, strict=True)
        )
    tools = [p.tool.rpartition(" ") for d in planned for p in d.record.partitions if p.tool]
    plan = CapturePlan(
        disks=planned,
        group_paths=tuple(_group_path(disk, machine_uuid) for disk in planned),
        tools={name: version for name, _, version in tools if name},
        buffers=buffers,
    )
    if repository is None:
        return plan
    progress.phase("predict")
    with progress.waits(Side.SOURCE):
        predicted = _predict(repository, plan, level)
    return replace(plan, predicted_bytes=predicted, free_bytes=repository.store.free_bytes())


def openable(sources: Sequence[Path], repository: Repository | None) -> list[Disk]:
    """The disks, none of which speaks against being captured.  Raises Refused, UsageError."""
    if not sources:
        raise UsageError("no disk was named", "'recovery disks' lists what there is.")
    disks = [disk_for(source) for source in sources]
    for disk in disks:
        problems = source_problems(disk, repository=repository.store.root if repository else None)
        if problems:
            raise Refused(
                f"{disk.path} cannot be captured: {'; '.join(problems)}",
                "Unmount it, or start the machine from the recovery medium and capture it there.",
            )
    if len({disk.path for disk in disks}) < len(disks):
        raise UsageError("a disk was named twice", "Name each disk once.")
    return disks


def buffer_count() -> int:
    """How many chunks are under way at once."""
    return _BUFFERS_PER_WORKER * worker_count() + 1


def check_build_date() -> None:
    """Raise Refused when this machine's clock is before the date of the live system that runs on it."""
    live, now = live_system(), datetime.now(UTC)
    if live is not None and now + _CLOCK_TOLERANCE < live.built:
        raise Refused(
            f"by this machine's clock it is {now:%Y-%m-%d %H:%M %Z}, and this system is of {live.built:%Y-%m-%d}",
            "Set the clock: 'date -s \"2030-12-31 23:59\"'; or say --no-clock-check.",
        )


def check_clock(repository: Repository) -> None:
    """Raise Refused when this machine's clock is behind the newest snapshot, or before the live system was built.

    ``latest`` and every rule of what to keep go by the time of snapshots.  Clocks of rescued machines are often wrong.
    """
    check_build_date()
    snapshots, _ = repository.snapshots()
    now = datetime.now(UTC)
    newest = snapshots[-1] if snapshots else None
    if newest is not None and newest.snapshot.time > now + _CLOCK_TOLERANCE:
        raise Refused(
            f"by this machine's clock it is {now:%Y-%m-%d %H:%M %Z}, and the newest snapshot, {newest.id[:8]}, is of "
            f"{newest.snapshot.time:%Y-%m-%d %H:%M %Z}",
            "Set the clock ('date -s ...'); if it is right, and the snapshot's is not, say --no-clock-check.",
        )


def check_space(plan: CapturePlan, destination: object) -> None:
    """Raise DestinationFull when the prediction does not fit."""
    if plan.predicted_bytes > plan.free_bytes:
        raise DestinationFull(
            f"about {format_bytes(plan.predicted_bytes)} will be stored, and {destination} has "
            f"{format_bytes(plan.free_bytes)} free",
            "Use a larger destination, leave partitions out with --without, or try nevertheless with --no-space-check.",
        )


def _plan_disk(
    disk: Disk, name: str, choice: Choice, buffers: SharedBuffers, progress: Progress, held: ExitStack
) -> PlannedDisk:
    path = disk.place
    guard = held.enter_context(SourceGuard(path))
    reading = examine_table(path, disk.size_bytes, disk.logical_sector_bytes)
    table = reading.table
    sector_bytes = table.logical_sector_bytes if table and disk.is_image_file else disk.logical_sector_bytes
    reader = held.enter_context(SourceProcess(path, sector_bytes, buffers, progress.check))
    domain = disk_domain(
        path,
        disk.size_bytes,
        sector_bytes,
        table,
        include=choice.include,
        exclude=choice.exclude,
        progress=progress,
    )
    grid = tuple(sorted({0, *(p.extent.offset for p in domain.partitions if 0 < p.extent.offset < disk.size_bytes)}))
    layout = make_layout(disk.size_bytes, buffers.size, grid, domain.used)
    record = ImageDisk(
        name=name,
        image=f"{name}.img",
        domain=f"{name}.domain",
        map=f"{name}.map",
        size_bytes=disk.size_bytes,
        logical_sector_bytes=sector_bytes,
        physical_sector_bytes=max(sector_bytes, disk.physical_sector_bytes),
        layout=LayoutRecord(buffers.size, grid, len(layout)),
        used_bytes=domain.used.total_bytes,
        model=disk.model or "",
        serial=disk.serial or "",
        wwn=disk.wwn or "",
        transport=disk.transport or "",
        table=table,
        content=None if table else probe(path, Extent(0, disk.size_bytes), sector_bytes),
        partitions=_record_partitions(domain, table),
        findings=reading.findings if table is None else table.findings,
    )
    return PlannedDisk(name, disk, domain, layout, record, guard, reader)


def _record_partitions(domain: DiskDomain, table: PartitionTable | None) -> tuple[ImagePartition, ...]:
    roles = {entry.number: entry.role for entry in table.entries} if table else {}
    return tuple(
        ImagePartition(
            number=partition.number,
            offset=partition.extent.offset,
            length=partition.extent.length,
            role=roles.get(partition.number, "whole-disk"),
            method=partition.usage.method if partition.usage else "left-out",
            used_bytes=partition.usage.used.total_bytes if partition.usage else 0,
            reason=partition.usage.reason if partition.usage else "",
            tool=(partition.usage.tool or "") if partition.usage else "",
            content=partition.content,
            clean=partition.usage.clean if partition.usage else None,
        )
        for partition in domain.partitions
    )


def _names(disks: Sequence[Disk]) -> list[str]:
    """What each disk is called inside the image: its kernel name, or its file's; unique, and safe as a file name."""
    names: list[str] = []
    taken = {MANIFEST_NAME.removesuffix(".json")}
    for disk in disks:
        stem = Path(disk.path).stem if disk.is_image_file else disk.name
        name = base = re.sub(r"[^A-Za-z0-9_-]", "_", stem)[:60] or "disk"
        number = 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def _group_path(planned: PlannedDisk, machine_uuid: str) -> str:
    """What ``restic forget`` groups by: one path a disk, the same for each image of it, unique to its machine."""
    disk, record = planned.disk, planned.record
    own = disk.wwn or disk.serial or (record.table.uuid if record.table else None)
    own = own or (record.content.uuid if record.content else None) or disk.path
    machine = f"{machine_uuid}/" if machine_uuid and not disk.is_image_file else ""
    return f"/system-image/{machine}{re.sub(r'[^A-Za-z0-9_.-]+', '_', own).strip('_')}"


def _predict(repository: Repository, plan: CapturePlan, level: int) -> int:
    """Bytes that the capture will add, from a few chunks evenly spread over what is used."""
    room = plan.buffers.take()
    index = repository.index
    predicted = 0.0
    for planned in plan.disks:
        read = added = 0
        for number in samples(planned):
            extent = planned.layout[number].extent
            inside = planned.domain.used.clip(extent)
            if planned.reader.read(extent, inside, room, Effort.QUICK):
                continue
            read += inside.total_bytes
            chunk = room[: extent.length]
            if not (len(index) and index.has(BlobType.DATA, hashlib.sha256(chunk).digest())):
                added += _compressed_bytes(repository, chunk, level)
        predicted += planned.domain.used.total_bytes * added / read if read else 0
    plan.buffers.give(room)
    return int(predicted)


def _compressed_bytes(repository: Repository, chunk: memoryview, level: int) -> int:
    """About what a chunk takes when it is compressed: its first part stands for the whole."""
    if repository.config.version == 1:
        return len(chunk)
    part = chunk[:_SAMPLE_BYTES]
    return len(compressor(level).compress(part)) * len(chunk) // len(part)


def samples(planned: PlannedDisk) -> list[int]:
    """Numbers of pieces that hold something, evenly spread over the disk."""
    step = max(1, planned.disk.size_bytes // (4 * _SAMPLES))
    found = {planned.layout.index_at(extent.offset) for extent in _every(planned.domain.used, step)}
    numbers = sorted(number for number in found if not planned.layout[number].hole)
    return numbers[:: max(1, len(numbers) // _SAMPLES)][:_SAMPLES]


def _every(used: Extents, step: int) -> Iterator[Extent]:
    """The first used extent at or behind each multiple of ``step``."""
    for at in range(0, used.end, step):
        inside = used.clip(Extent(at, step))
        if inside:
            yield inside[0]
