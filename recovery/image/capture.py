"""Capture: disk -> used extents -> chunks -> packs -> repository.  The mirror image of ``restore.py``.

Nothing that the snapshot names is missing when it appears: packs are written before the index that names them, the
index before the snapshot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import msgspec

import recovery
from recovery.devices.mapfile import map_pieces
from recovery.devices.resilient import Patience
from recovery.errors import RecoveryError
from recovery.extent import Extents
from recovery.image.capture_plan import CapturePlan
from recovery.image.layout import CHUNK_BYTES
from recovery.image.lost import name_lost
from recovery.image.machine import this_machine
from recovery.image.manifest import (
    MANIFEST_NAME,
    MAX_NAMED_EXTENTS,
    TAG,
    TAG_INCOMPLETE,
    VERSION,
    ImageDisk,
    LostNames,
    Manifest,
    UnreadableArea,
    encode_manifest,
)
from recovery.image.reading import DiskReading, StoredDisk
from recovery.image.view import SystemImage
from recovery.image.writer import ChunkWriter, StoreCounters, store_file, store_tree
from recovery.progress import Progress
from recovery.repository.format import Node, Snapshot, Summary, encode_time
from recovery.repository.lock import Lock
from recovery.repository.packer import PUBLISH_SECONDS, PackWriter
from recovery.repository.repository import Repository, process_identity
from recovery.repository.store import FileKind
from recovery.work_map import DiskWork

log = logging.getLogger(__name__)

_FILE_MODE = 0o600
#: How often an incomplete image is published while a disk fails; and it takes at most such a part of the time.
INTERIM_SECONDS, _INTERIM_FACTOR = 180.0, 20


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """``level``: zstd's.  ``verify``: read new packs back.  ``tags`` are added to the snapshot's own.

    ``patience_seconds``: for how long bad areas of the sources are gone into, all together; None: to the end.
    ``interim_seconds``: how often an incomplete image is published while a disk fails.
    """

    level: int = 3
    verify: bool = True
    chunk_bytes: int = CHUNK_BYTES
    hostname: str = ""
    tags: tuple[str, ...] = ()
    publish_seconds: float = PUBLISH_SECONDS
    patience_seconds: float | None = None
    interim_seconds: float = INTERIM_SECONDS


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """What a capture did; bytes.  ``read_bytes``: what was to be read.

    By their disk's name: ``unreadable``, the areas that could not be, and ``died``, why a disk answered no more.
    """

    snapshot_id: str
    manifest: Manifest
    used_bytes: int
    read_bytes: int
    new_bytes: int
    known_bytes: int
    stored_bytes: int
    unreadable: dict[str, Extents]
    verified: bool
    died: dict[str, str] = field(default_factory=dict)

    @property
    def unreadable_bytes(self) -> int:
        """Used bytes that could not be read, over all disks."""
        return sum(extents.total_bytes for extents in self.unreadable.values())

    @property
    def complete(self) -> bool:
        """Whether every used byte was read."""
        return self.unreadable_bytes == 0


def capture(
    repository: Repository, lock: Lock, plan: CapturePlan, progress: Progress, options: CaptureOptions
) -> CaptureResult:
    """Store the disks of ``plan`` as one snapshot.  ``lock`` is held and the index loaded.

    While a disk fails, incomplete images of what was read are published now and then; the last one replaces them.
    Raises DestinationFull, DeviceError, RepositoryLocked, Cancelled; what was stored until then is published and is
    found by the next run.
    """
    progress.map([DiskWork(disk.name, disk.disk.size_bytes, disk.domain.used) for disk in plan.disks])
    writer = PackWriter(
        repository, lock, verify=options.verify, publish_seconds=options.publish_seconds, progress=progress
    )
    images = _Images(repository, lock, plan, writer, options, progress)
    try:
        with writer as packs:
            with ChunkWriter(repository, packs, plan.buffers, level=options.level, progress=progress) as chunks:
                progress.phase("capture", sum(disk.missing.total_bytes for disk in plan.disks))
                patience = Patience(options.patience_seconds, progress)
                readings = [DiskReading(chunks, number, disk, progress) for number, disk in enumerate(plan.disks)]
                for reading in readings:
                    reading.run(patience, partial(images.pause, readings, chunks.counters))
            progress.phase("publish")
            disks = [reading.so_far() for reading in readings]
            snapshot = images.make(disks, chunks.counters)
            packs.finish()
            packs.check_medium(progress)
        snapshot_id = images.save(snapshot)
        if any(disk.lost for disk in disks):
            snapshot_id = images.with_names(snapshot_id, disks, chunks.counters)
    except RecoveryError as error:
        error.hint = f"{error.hint} {images.told()}".strip()
        raise
    return CaptureResult(
        snapshot_id=snapshot_id,
        manifest=images.manifest(disks),
        used_bytes=sum(disk.domain.used.total_bytes for disk in plan.disks),
        read_bytes=plan.used_bytes,
        new_bytes=chunks.counters.new_bytes,
        known_bytes=chunks.counters.known_bytes,
        stored_bytes=writer.written_bytes,
        unreadable={disk.planned.name: disk.lost for disk in disks},
        verified=options.verify,
        died={disk.name: reading.died for disk, reading in zip(plan.disks, readings, strict=True) if reading.died},
    )


class _Images:
    """The snapshots of one capture: incomplete ones while a disk fails, each in place of the one before, and the last.

    A power cut, or the end of the disk, costs minutes then and not all that was read.
    """

    def __init__(
        self,
        repository: Repository,
        lock: Lock,
        plan: CapturePlan,
        packs: PackWriter,
        options: CaptureOptions,
        progress: Progress,
    ) -> None:
        self._repository, self._lock, self._plan, self._packs, self._options = repository, lock, plan, packs, options
        self._progress = progress
        self._machine = this_machine() if plan.earlier is None else plan.earlier.manifest.machine
        self._started = datetime.now(UTC).astimezone()
        self._due = time.monotonic() + options.interim_seconds
        self._names: dict[str, tuple[LostNames, ...]] = {}
        #: The newest that was published, and when.
        self._interim: str | None = None
        self._interim_time = self._started

    def pause(self, readings: Sequence[DiskReading], counters: StoreCounters) -> None:
        """Publish an incomplete image, if it is time for one."""
        if time.monotonic() < self._due or not any(reading.failing for reading in readings):
            return
        began = time.monotonic()
        snapshot = self.make([reading.so_far() for reading in readings], counters)
        self._packs.publish()
        self._interim = self.save(snapshot)
        self._interim_time = datetime.now(UTC).astimezone()
        self._progress.count("interim_images", 1)
        now = time.monotonic()
        self._due = now + max(self._options.interim_seconds, _INTERIM_FACTOR * (now - began))

    def make(self, disks: Sequence[StoredDisk], counters: StoreCounters) -> Snapshot:
        """Hand out all but the snapshot itself: maps, manifest and root tree."""
        level = self._options.level
        files = [
            entry for disk in disks for entry in _disk_files(self._repository, self._packs, disk, level, self._started)
        ]
        ids, length = store_file(self._repository, self._packs, [encode_manifest(self.manifest(disks))], level)
        files.append((_node(MANIFEST_NAME, length, self._started), ids))
        tree = store_tree(self._repository, self._packs, files, level)
        incomplete = any(disk.lost for disk in disks)
        return _snapshot(
            self._plan,
            self._started,
            tree,
            [TAG, *([TAG_INCOMPLETE] if incomplete else []), *self._options.tags],
            self._options.hostname or self._machine.hostname,
            counters.new_bytes,
            self._packs.written_bytes,
            files,
        )

    def with_names(self, saved: str, disks: Sequence[StoredDisk], counters: StoreCounters) -> str:
        """Publish the incomplete image ``saved`` once more, with the names of what was lost; its id.

        Where they cannot be had, or somebody does not want to wait for them, it stays as it is.
        """
        self._progress.phase("names")
        try:
            image = SystemImage(self._repository, self._repository.find_snapshot(saved))
            self._names = name_lost(image, {disk.planned.name: disk.lost for disk in disks}, self._progress)
        except RecoveryError as error:
            log.warning("whose the unreadable bytes are cannot be told: %s", error.message)
            return saved
        with PackWriter(self._repository, self._lock, verify=self._options.verify, progress=self._progress) as packs:
            self._packs = packs
            snapshot = self.make(disks, counters)
        self._interim = saved
        return self.save(snapshot)

    def manifest(self, disks: Sequence[StoredDisk]) -> Manifest:
        """What is told of the disks."""
        return Manifest(
            version=VERSION,
            created=self._started,
            program_version=recovery.__version__,
            machine=self._machine,
            disks=tuple(
                msgspec.structs.replace(
                    _with_unreadable(disk.planned.record, disk.lost), lost=self._names.get(disk.planned.name, ())
                )
                for disk in disks
            ),
            tools=self._plan.tools,
        )

    def save(self, snapshot: Snapshot) -> str:
        """Publish it, all that it names being there, in place of the one before; its id."""
        self._lock.check()
        saved = self._repository.save_snapshot(snapshot)
        if self._interim is not None and self._interim != saved:
            self._repository.store.remove(FileKind.SNAPSHOT, self._interim)
        return saved

    def told(self) -> str:
        """What is left of a capture that ended early, in a sentence; empty when that is no image."""
        if self._interim is None:
            return ""
        return (
            f"What was read until {self._interim_time:%H:%M} is in the incomplete image {self._interim[:8]}: "
            "'recovery capture --continue' goes on from there."
        )


def _disk_files(
    repository: Repository, packs: PackWriter, disk: StoredDisk, level: int, time: datetime
) -> list[tuple[Node, bytearray]]:
    """The image file of a disk, its domain map and its map file."""
    planned, used = disk.planned, disk.planned.domain.used
    record = planned.record
    domain = map_pieces(planned.disk.size_bytes, {"+": used}, [f"used extents of {planned.name}"])
    read = map_pieces(
        planned.disk.size_bytes,
        {"+": used.subtract(disk.lost), **disk.areas},
        [f"what of {planned.name} was read"],
    )
    domain_ids, domain_length = store_file(repository, packs, domain, level)
    map_ids, map_length = store_file(repository, packs, read, level)
    return [
        (_node(record.image, planned.disk.size_bytes, time), disk.ids),
        (_node(record.domain, domain_length, time), domain_ids),
        (_node(record.map, map_length, time), map_ids),
    ]


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
