"""Repositories on recorded disks: real ones, made by capturing recorded disks.

A capture is made of each disk once; its images are snapshots of that, with the host, the machine and the time that the
recording says.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs

from recovery.image.capture import CaptureOptions, CaptureResult, capture
from recovery.image.capture_plan import plan_capture
from recovery.image.manifest import MANIFEST_NAME, ImageDisk, Manifest, encode_manifest
from recovery.image.manifest import Machine as MachineFacts
from recovery.image.writer import store_file, store_tree
from recovery.progress import Progress
from recovery.repository.format import decode_ids, encode_time
from recovery.repository.lock import Lock
from recovery.repository.packer import PackWriter
from recovery.repository.repository import Repository
from recovery.repository.store import FileKind
from tui.recorded_format import Image, RecordedDisk, RecordedRepository, Recording

_LEVEL = 1


def make_repository(recording: Recording, wanted: RecordedRepository, disks: Mapping[str, Path], folder: Path) -> None:
    """Make ``folder``, a repository; ``disks`` are the files of the recorded disks, by name.

    Raises what a capture raises.
    """
    repository = Repository.init(folder, wanted.password)
    options = CaptureOptions(level=_LEVEL, verify=False)
    with repository.lock() as lock:
        repository.load_index()
        for name in dict.fromkeys(image.disk for image in wanted.images):
            with ExitStack() as held:
                plan = plan_capture([disks[name]], repository, Progress(), held, level=_LEVEL)
                captured = capture(repository, lock, plan, Progress(), options)
            images = (image for image in wanted.images if image.disk == name)
            for number, image in enumerate(images):
                _store(repository, lock, captured, image, recording, first=number == 0)
            repository.store.remove(FileKind.SNAPSHOT, captured.snapshot_id)


def _store(
    repository: Repository,
    lock: Lock,
    captured: CaptureResult,
    image: Image,
    recording: Recording,
    *,
    first: bool,
) -> None:
    """Another snapshot of what was captured; but the first, they added nothing but their manifest."""
    before = repository.find_snapshot(captured.snapshot_id).snapshot
    made = image.made.astimezone(UTC)
    manifest = _manifest(captured.manifest, image, recording, made)
    stamp = encode_time(made)
    with PackWriter(repository, lock, verify=False) as packs:
        ids, length = store_file(repository, packs, [encode_manifest(manifest)], _LEVEL)
        files = []
        for node in repository.load_tree(before.tree).nodes:
            content = bytearray(decode_ids(bytes(node.content)))
            if node.name == MANIFEST_NAME:
                node, content = structs.replace(node, size=length), ids
            files.append((structs.replace(node, mtime=stamp, atime=stamp, ctime=stamp), content))
        tree = store_tree(repository, packs, files, _LEVEL)
    summary = before.summary
    if summary is not None:
        added = (summary.data_added, summary.data_added_packed) if first else (length, packs.written_bytes)
        summary = structs.replace(
            summary, backup_start=made, backup_end=made, data_added=added[0], data_added_packed=added[1]
        )
    disk = recording.disk(image.disk)
    own = disk.wwn or disk.serial or disk.name
    repository.save_snapshot(
        structs.replace(
            before,
            time=made,
            tree=tree,
            hostname=image.host,
            paths=[f"/system-image/{own}"],
            summary=summary,
        )
    )


def _manifest(manifest: Manifest, image: Image, recording: Recording, made: datetime) -> Manifest:
    machine = MachineFacts(
        hostname=image.host,
        vendor=image.vendor,
        product=image.product,
        uuid=recording.machine.uuid if image.product == recording.machine.product else "",
        firmware=recording.machine.firmware,
        architecture=recording.machine.architecture,
    )
    disks = tuple(_named(record, recording.disk(image.disk)) for record in manifest.disks)
    return structs.replace(manifest, created=made, machine=machine, disks=disks)


def _named(record: ImageDisk, disk: RecordedDisk) -> ImageDisk:
    return structs.replace(
        record,
        physical_sector_bytes=disk.physical_sector_bytes,
        model=disk.model or "",
        serial=disk.serial or "",
        wwn=disk.wwn or "",
        transport=disk.transport or "",
    )
