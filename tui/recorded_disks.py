"""Recorded disks as sparse files: their tables by sfdisk, their filesystems copied in, only what is not zeros.

They are made once and kept in a cache, by a hash of the recording and of what makes them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

import tui.recorded_disks
import tui.recorded_filesystems
import tui.recorded_repository
from recovery.command import run
from recovery.devices.holes import is_zeros
from recovery.extent import Extent
from recovery.units import GIB, KIB, MIB
from tui.recorded_filesystems import make_filesystem
from tui.recorded_format import Filesystem, RecordedDisk, Recording
from tui.recorded_repository import make_repository

_PIECE_BYTES = 64 * KIB
_COPY_BYTES = MIB
#: What making a recording may take of a filesystem in memory.
_ROOM_BYTES = 2 * GIB
_NOTES = "findings.json"


@dataclass(frozen=True, slots=True)
class Made:
    """A disk's file, and what of it could not be made, in sentences."""

    file: Path
    findings: tuple[str, ...]


def identifier(recording: Recording, *words: str) -> UUID:
    """The same for the same recording, so that pictures of it do not change."""
    return uuid5(NAMESPACE_URL, "/".join((recording.machine.product, *words)))


def media_name(disk: str, number: int | None, wanted: Filesystem) -> str:
    """The folder that a filesystem is mounted at."""
    return wanted.label or (disk if number is None else f"{disk}-{number}")


def filesystems(disk: RecordedDisk) -> list[tuple[int | None, Filesystem]]:
    """What lies on a disk, by the number of its partition; None for what lies straight on it."""
    if disk.filesystem is not None:
        return [(None, disk.filesystem)]
    parts = enumerate(disk.partitions, 1)
    return [(number, part.filesystem) for number, part in parts if part.filesystem is not None]


def make_machine(recording: Recording, folder: Path, cache: Path | None = None) -> dict[str, Made]:
    """The files of all disks in ``folder``/dev, by their names, and what mounted filesystems show in ``folder``/media.

    They are copied from ``cache``, where they are made first.  Raises DeviceError, ProgramMissing when not even a table
    can be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if cache is None:
        _make_all(recording, folder)
    else:
        shutil.copytree(_kept(recording, cache), folder, copy_function=_copy, dirs_exist_ok=True)
    notes = msgspec.json.decode((folder / _NOTES).read_bytes(), type=dict[str, tuple[str, ...]])
    return {disk.name: Made(folder / "dev" / disk.name, notes.get(disk.name, ())) for disk in recording.disks}


def _kept(recording: Recording, cache: Path) -> Path:
    kept = cache / _key(recording)
    if not kept.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=cache) as work:
            made = Path(work, "made")
            made.mkdir()
            _make_all(recording, made)
            try:
                made.rename(kept)
            except OSError:  # another made it meanwhile
                if not kept.is_dir():
                    raise
    return kept


def _copy(source: str, target: str) -> str:
    copy_sparse(Path(source), Path(target))
    shutil.copystat(source, target)
    return target


def scratch_folder() -> Path:
    """Where sparse files may lie: memory where there is enough of it, else the folder for temporary files."""
    memory = Path("/dev/shm")
    try:
        room = os.statvfs(memory)
    except OSError:
        return Path(tempfile.gettempdir())
    enough = room.f_bavail * room.f_frsize >= _ROOM_BYTES and os.access(memory, os.W_OK)
    return memory if enough else Path(tempfile.gettempdir())


def copy_sparse(source: Path, target: Path, offset: int = 0) -> None:
    """Copy what of ``source`` is not zeros to ``target``, from ``offset`` on; made as large as ``source`` if new."""
    size_bytes = source.stat().st_size
    with source.open("rb") as reading, target.open("r+b" if target.exists() else "w+b") as writing:
        if offset + size_bytes > os.fstat(writing.fileno()).st_size:
            writing.truncate(offset + size_bytes)
        for run_ in _data(reading.fileno(), size_bytes):
            for at in range(run_.offset, run_.end, _COPY_BYTES):
                data = memoryview(os.pread(reading.fileno(), min(_COPY_BYTES, run_.end - at), at))
                for inside in range(0, len(data), _PIECE_BYTES):
                    piece = data[inside : inside + _PIECE_BYTES]
                    if not is_zeros(piece):
                        os.pwrite(writing.fileno(), piece, offset + at + inside)


def _data(file: int, size_bytes: int) -> list[Extent]:
    found, end = [], 0
    while end < size_bytes:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole until the end
            break
        end = os.lseek(file, start, os.SEEK_HOLE)
        found.append(Extent(start, end - start))
    return found


def _key(recording: Recording) -> str:
    made = hashlib.sha256(msgspec.json.encode(recording))
    for module in (tui.recorded_disks, tui.recorded_filesystems, tui.recorded_repository):
        made.update(Path(str(module.__file__)).read_bytes())
    made.update(b"root" if os.geteuid() == 0 else b"")
    return made.hexdigest()[:32]


def _make_all(recording: Recording, folder: Path) -> None:
    devices, media = folder / "dev", folder / "media"
    devices.mkdir()
    media.mkdir()
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as work, ThreadPoolExecutor(2) as pool:
        findings = pool.map(lambda disk: _make(recording, disk, devices / disk.name, Path(work)), recording.disks)
        notes = {disk.name: said for disk, said in zip(recording.disks, findings, strict=True)}
    files = {disk.name: devices / disk.name for disk in recording.disks}
    for disk in recording.disks:
        for number, wanted in filesystems(disk):
            if wanted.repository is not None:
                inside = media / media_name(disk.name, number, wanted)
                inside.mkdir()
                make_repository(recording, wanted.repository, files, inside / wanted.repository.folder)
    (folder / _NOTES).write_bytes(msgspec.json.encode(notes))


def _make(recording: Recording, disk: RecordedDisk, file: Path, work: Path) -> list[str]:
    with file.open("wb") as made:
        made.truncate(disk.size_bytes)
    findings: list[str] = []
    if disk.table is None:
        if disk.filesystem is not None:
            place = Extent(0, disk.size_bytes)
            findings += _put(disk.filesystem, identifier(recording, disk.name), file, place, work)
        return findings
    places = partition_disk(recording, disk, file)
    for number, (part, place) in enumerate(zip(disk.partitions, places, strict=True), 1):
        if part.filesystem is not None:
            findings += _put(part.filesystem, identifier(recording, disk.name, str(number)), file, place, work)
    return findings


def _put(wanted: Filesystem, uuid: UUID, file: Path, place: Extent, work: Path) -> list[str]:
    with tempfile.TemporaryDirectory(dir=work) as folder:
        files = Path(folder, "files")
        files.mkdir()
        made = Path(folder, "filesystem")
        findings = make_filesystem(made, place.length, wanted, uuid, files)
        copy_sparse(made, file, place.offset)
    return findings


def partition_disk(recording: Recording, disk: RecordedDisk, file: Path) -> list[Extent]:
    """Write the table of ``disk`` into its file; where its partitions lie, in bytes."""
    lines = [f"label: {disk.table}"]
    uuid = identifier(recording, disk.name, "table")
    lines.append(f"label-id: {uuid if disk.table == 'gpt' else hex(uuid.int & 0xFFFFFFFF)}")
    for number, part in enumerate(disk.partitions, 1):
        words = [f"type={part.type}"]
        words += [f"size={part.size_bytes // KIB}KiB"] if part.size_bytes else []
        if disk.table == "gpt":
            words.append(f"uuid={identifier(recording, disk.name, 'entry', str(number))}")
            words += [f'name="{part.name}"'] if part.name else []
        lines.append(", ".join(words))
    script = "\n".join([*lines, ""]).encode()
    run(["sfdisk", "--quiet", "--wipe=never", file], needed_for="making a recorded machine", input=script)
    listed = run(["sfdisk", "--json", file], needed_for="making a recorded machine")
    table = msgspec.json.decode(listed.stdout, type=_Listed).partitiontable
    return [Extent(part.start * 512, part.size * 512) for part in table.partitions]


class _ListedPartition(msgspec.Struct):
    start: int
    size: int


class _ListedTable(msgspec.Struct):
    partitions: list[_ListedPartition] = []


class _Listed(msgspec.Struct):
    partitiontable: _ListedTable
