"""Capture: disk -> used extents -> chunks -> packs -> repository.  The mirror image of ``restore.py``.

One pass over each disk, in order.  Nothing that the snapshot names is missing when it appears: packs are written
before the index that names them, the index before the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

import recovery
from recovery.devices.mapfile import map_pieces
from recovery.extent import Extent, Extents
from recovery.image.capture_plan import CapturePlan, PlannedDisk
from recovery.image.layout import CHUNK_BYTES
from recovery.image.machine import this_machine
from recovery.image.manifest import (
    MANIFEST_NAME,
    MAX_NAMED_EXTENTS,
    TAG,
    TAG_INCOMPLETE,
    VERSION,
    ImageDisk,
    Machine,
    Manifest,
    UnreadableArea,
    encode_manifest,
)
from recovery.image.writer import ChunkWriter, Place, store_file, store_tree
from recovery.progress import Progress, Side
from recovery.repository.format import Node, Snapshot, Summary, encode_time
from recovery.repository.lock import Lock
from recovery.repository.packer import PUBLISH_SECONDS, PackWriter
from recovery.repository.repository import Repository, process_identity
from recovery.work_map import Cell, DiskWork

_FILE_MODE = 0o600
#: The page cache behind the reader is given back this often.
_DROP_EVERY_CHUNKS = 32


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """``level``: zstd's.  ``verify``: read new packs back.  ``tags`` are added to the snapshot's own."""

    level: int = 3
    verify: bool = True
    chunk_bytes: int = CHUNK_BYTES
    hostname: str = ""
    tags: tuple[str, ...] = ()
    publish_seconds: float = PUBLISH_SECONDS


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """What a capture did; bytes.  ``unreadable`` holds the areas of each disk, by its name."""

    snapshot_id: str
    manifest: Manifest
    used_bytes: int
    new_bytes: int
    known_bytes: int
    stored_bytes: int
    unreadable: dict[str, Extents]
    verified: bool

    @property
    def unreadable_bytes(self) -> int:
        """Used bytes that could not be read, over all disks."""
        return sum(extents.total_bytes for extents in self.unreadable.values())

    @property
    def complete(self) -> bool:
        """Whether every used byte was read."""
        return self.unreadable_bytes == 0


@dataclass(frozen=True, slots=True)
class _StoredDisk:
    planned: PlannedDisk
    ids: bytearray
    unreadable: Extents


def capture(
    repository: Repository, lock: Lock, plan: CapturePlan, progress: Progress, options: CaptureOptions
) -> CaptureResult:
    """Store the disks of ``plan`` as one snapshot.  ``lock`` is held and the index loaded.

    Raises DestinationFull, DeviceError, RepositoryLocked, Cancelled; what was stored until then is published and is
    found by the next run.
    """
    started = datetime.now(UTC).astimezone()
    progress.map([DiskWork(disk.name, disk.disk.size_bytes, disk.domain.used) for disk in plan.disks])
    writer = PackWriter(
        repository, lock, verify=options.verify, publish_seconds=options.publish_seconds, progress=progress
    )
    with writer as packs:
        with ChunkWriter(repository, packs, plan.buffers, level=options.level, progress=progress) as chunks:
            progress.phase("capture", sum(disk.domain.used.total_bytes for disk in plan.disks))
            disks = [_store_disk(chunks, number, disk, progress) for number, disk in enumerate(plan.disks)]
        progress.phase("publish")
        manifest = _manifest(plan, disks, started, this_machine())
        files = [entry for disk in disks for entry in _disk_files(repository, packs, disk, options.level, started)]
        ids, length = store_file(repository, packs, [encode_manifest(manifest)], options.level)
        files.append((_node(MANIFEST_NAME, length, started), ids))
        tree = store_tree(repository, packs, files, options.level)
        packs.finish()
        packs.check_medium(progress)
    lock.check()
    counters = chunks.counters
    unreadable = {disk.planned.name: disk.unreadable for disk in disks}
    tags = [TAG, *([TAG_INCOMPLETE] if any(len(areas) for areas in unreadable.values()) else []), *options.tags]
    snapshot = _snapshot(
        plan,
        started,
        tree,
        tags,
        options.hostname or manifest.machine.hostname,
        counters.new_bytes,
        writer.written_bytes,
        files,
    )
    return CaptureResult(
        snapshot_id=repository.save_snapshot(snapshot),
        manifest=manifest,
        used_bytes=sum(disk.domain.used.total_bytes for disk in plan.disks),
        new_bytes=counters.new_bytes,
        known_bytes=counters.known_bytes,
        stored_bytes=writer.written_bytes,
        unreadable=unreadable,
        verified=options.verify,
    )


def _store_disk(chunks: ChunkWriter, disk: int, planned: PlannedDisk, progress: Progress) -> _StoredDisk:
    used = planned.domain.used
    unreadable: list[tuple[int, int]] = []
    source = planned.reader
    layout, number = planned.layout, 0
    while number < len(layout):
        progress.check()
        extent, hole = layout[number]
        if not hole and (count := layout.run_within(number, source.hole, chunks.chunk_bytes)):
            inside = used.clip(Extent(extent.offset, count * extent.length))
            progress.mark(disk, inside, Cell.READ)
            chunks.put_zero_chunks(count, Place(disk, inside))
            progress.advance(inside.total_bytes)
            number += count
            continue
        number += 1
        if hole:
            chunks.put_zeros(extent.length)
            continue
        buffer = chunks.buffer()
        inside = used.clip(extent)
        with progress.waits(Side.SOURCE):
            lost = source.read(extent, inside, buffer)
        unreadable += lost
        progress.mark(disk, inside, Cell.READ)
        progress.mark(disk, lost, Cell.UNREADABLE)
        chunks.put(buffer, extent.length, Place(disk, inside))
        progress.advance(inside.total_bytes)
        if lost:
            progress.count("unreadable_bytes", lost.total_bytes)
        if number % _DROP_EVERY_CHUNKS == 0:
            source.drop_cache(extent.offset)
    planned.guard.check()
    return _StoredDisk(planned, chunks.take_ids(), Extents(unreadable))


def _disk_files(
    repository: Repository, packs: PackWriter, disk: _StoredDisk, level: int, time: datetime
) -> list[tuple[Node, bytearray]]:
    """The image file of a disk, its domain map and its map file."""
    planned, used = disk.planned, disk.planned.domain.used
    record = planned.record
    domain = map_pieces(planned.disk.size_bytes, {"+": used}, [f"used extents of {planned.name}"])
    read = map_pieces(
        planned.disk.size_bytes,
        {"+": used.subtract(disk.unreadable), "-": disk.unreadable},
        [f"what of {planned.name} was read"],
    )
    domain_ids, domain_length = store_file(repository, packs, domain, level)
    map_ids, map_length = store_file(repository, packs, read, level)
    return [
        (_node(record.image, planned.disk.size_bytes, time), disk.ids),
        (_node(record.domain, domain_length, time), domain_ids),
        (_node(record.map, map_length, time), map_ids),
    ]


def _manifest(plan: CapturePlan, disks: Sequence[_StoredDisk], time: datetime, machine: Machine) -> Manifest:
    return Manifest(
        version=VERSION,
        created=time,
        program_version=recovery.__version__,
        machine=machine,
        disks=tuple(_with_unreadable(disk.planned.record, disk.unreadable) for disk in disks),
        tools=plan.tools,
    )


def _with_unreadable(record: ImageDisk, unreadable: Extents) -> ImageDisk:

    areas = []
    for extent, _ in zip(unreadable, range(MAX_NAMED_EXTENTS), strict=False):
        inside = (p.number for p in record.partitions if p.offset <= extent.offset < p.offset + p.length)
        areas.append(UnreadableArea(extent.offset, extent.length, next(inside, None)))
    return msgspec.structs.replace(record, unreadable=tuple(areas), unreadable_bytes=unreadable.total_bytes)


def _snapshot(
    plan: CapturePlan,
    started: datetime,
    tree: str,
    tags: list[str],
    hostname: str,
    new_bytes: int,
    packed_bytes: int,
    files: Sequence[tuple[Node, bytearray]],
) -> Snapshot:
    username, uid, gid = process_identity()
    return Snapshot(
        time=started,
        tree=tree,
        paths=list(plan.group_paths),
        hostname=hostname,
        username=username,
        uid=uid,
        gid=gid,
        tags=tags,
        program_version=f"recovery {recovery.__version__}",
        summary=Summary(
            backup_start=started,
            backup_end=datetime.now(UTC).astimezone(),
            files_new=len(files),
            data_added=new_bytes,
            data_added_packed=packed_bytes,
            total_files_processed=len(files),
            total_bytes_processed=sum(node.size for node, _ in files),
        ),
    )


def _node(name: str, size: int, time: datetime) -> Node:
    stamp = encode_time(time)
    username, uid, gid = process_identity()
    return Node(
        name=name, type="file", mode=_FILE_MODE, mtime=stamp, atime=stamp, ctime=stamp, uid=uid, gid=gid,
        user=username, links=1, size=size,
    )  # fmt: skip
