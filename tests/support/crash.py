"""Disks as a power cut leaves them, at any moment of a recorded workload, and the files that had been synced by then.

A filesystem is mounted on a loop device whose backing file is served through FUSE by a process that notes every write
and every flush in the order in which they reach it (``crash_child``).  A cut at a moment of that record gives the
disk: everything before the last flush is there; of what came later, what a disk had in its cache, any part may be
missing, and the last write may be torn between two sectors.  A file is safe when its fsync returned before the cut.

Nothing here uses the code under test.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.disks import KIB, blank, loop, run, umount

ROOT = Path(__file__).resolve().parents[2]

#: One entry of the record: offset and length of a write, or a flush.
ENTRY = struct.Struct("<qq")
FLUSH = -1

SECTOR = 512


class Unmountable(Exception):
    """What mount said instead of mounting."""


@dataclass(frozen=True)
class Kind:
    """A filesystem to be crashed: how it is made on an image, and mounted."""

    name: str
    mkfs: tuple[str, ...]
    check: tuple[str, ...]
    size: int
    options: str = "defaults"
    mount: str = "kernel"  # or ntfs-3g, mount.exfat-fuse, mtools, f2fs-tools

    def missing(self) -> list[str]:
        """Programs that this needs and this machine lacks."""
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        mount = {"kernel": ["mount"], "mtools": ["mcopy"], "f2fs-tools": ["sload.f2fs", "dump.f2fs"]}
        needed = {self.mkfs[0], self.check[0], *mount.get(self.mount, [self.mount])}
        return sorted(program for program in needed if shutil.which(program, path=path) is None)

    @contextmanager
    def opened(self, device: Path, at: Path) -> Iterator[Path]:
        """The filesystem on ``device`` mounted at ``at``; where there is no driver, a copy of its files."""
        at.mkdir(exist_ok=True)
        if self.mount == "f2fs-tools":
            _dump_f2fs(device, at)
            yield at
            return
        if self.mount == "mtools":
            # One by one: at a file that was being written, and ends nowhere, mcopy gives up; mdir at a broken folder.
            for name in run("mdir", "-i", device, "-b", "::", check=False).splitlines():
                run("mcopy", "-i", device, "-n", "-Q", name, at, check=False)
            yield at
            return
        line = ["mount", "-o", self.options] if self.mount == "kernel" else [self.mount]
        try:
            run(*line, device, at)
        except AssertionError as error:
            raise Unmountable(str(error)) from error
        try:
            yield at
        finally:
            umount(at)


@dataclass
class Recording:
    """What reached the disk while a workload ran, and when each file was safe.

    ``safe`` has for each file the hash of its content and the place in the record at which its fsync had returned;
    ``doomed`` the place from which on it may be gone again.
    """

    start: Path
    record: Path
    safe: dict[str, tuple[str, int]] = field(default_factory=dict)
    doomed: dict[str, int] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """The length of the record in bytes."""
        return self.record.stat().st_size

    def cut(self, moment: int, image: Path, chance: random.Random) -> dict[str, str]:
        """Make the disk as a power cut at ``moment`` leaves it; the files that must be on it, with their hashes."""
        run("cp", "--sparse=always", self.start, image)
        with self.record.open("rb") as record, image.open("r+b") as disk:
            pending: list[tuple[int, bytes]] = []
            while record.tell() + ENTRY.size <= moment:
                offset, length = ENTRY.unpack(record.read(ENTRY.size))
                if offset == FLUSH:
                    _apply(disk.fileno(), pending)
                    pending = []
                    continue
                room = moment - record.tell()
                data = record.read(length)[: max(0, min(length, room - room % SECTOR))]
                pending.append((offset, data))
                if length > room:
                    break
            kept = [write for write in pending if chance.random() < 0.7]
            _apply(disk.fileno(), kept)
        return {
            name: digest
            for name, (digest, safe_at) in self.safe.items()
            if safe_at <= moment and self.doomed.get(name, moment + 1) > moment
        }


def _apply(descriptor: int, writes: list[tuple[int, bytes]]) -> None:
    for offset, data in writes:
        os.pwrite(descriptor, data, offset)


def record(kind: Kind, folder: Path, seed: int, files: int = 40) -> Recording:
    """Run a workload on a fresh filesystem and note what reaches the disk.  Needs root."""
    folder.mkdir()
    image, recording = folder / "disk.img", Recording(folder / "start.img", folder / "record")
    blank(image, kind.size)
    run(*kind.mkfs, image)
    _settle(kind, image, folder / "at", seed)
    run("cp", "--sparse=always", image, recording.start)
    with _served(image, recording.record, folder) as disk, loop(disk) as device:
        if kind.mount == "mtools":
            _work_with_mtools(device, folder / "copied", recording, random.Random(seed), files)
        elif kind.mount == "f2fs-tools":
            _load_f2fs(device, folder / "files", recording, random.Random(seed), files)
        else:
            with kind.opened(device, folder / "at") as at:
                _work(at, recording, random.Random(seed), files)
    image.unlink()
    return recording


def _settle(kind: Kind, image: Path, at: Path, seed: int) -> None:
    """Files from an earlier life, half of them deleted: what is free is neither blank nor in one piece."""
    made = random.Random(seed + 1_000_000)
    if kind.mount in ("mtools", "f2fs-tools"):
        return
    with loop(image) as device, kind.opened(device, at):
        for number in range(60):
            at.joinpath(f"earlier {number}").write_bytes(made.randbytes(made.randrange(400 * KIB)))
        os.sync()
        for number in range(0, 60, 2):
            at.joinpath(f"earlier {number}").unlink()


def _work(at: Path, recording: Recording, made: random.Random, files: int) -> None:
    """Small and large files, synced one by one, amid others: not synced, deleted, deleted while they are still open."""
    with ExitStack() as open_files:
        for number in range(files):
            _disturb(at, recording, made, number, open_files)
            _write_synced(at, recording, made, number)


def _disturb(at: Path, recording: Recording, made: random.Random, number: int, open_files: ExitStack) -> None:
    folder = at / f"folder {number % 5}"
    folder.mkdir(exist_ok=True)
    match made.randrange(7):
        case 0:
            folder.joinpath(f"careless {number}").write_bytes(made.randbytes(made.randrange(800 * KIB)))
        case 1:
            earlier = at / f"earlier {2 * made.randrange(30) + 1}"
            earlier.unlink(missing_ok=True)
        case 2 if recording.safe:
            name = made.choice(sorted(recording.safe))
            if name not in recording.doomed:
                recording.doomed[name] = recording.length
                at.joinpath(name).unlink()
        case 3:  # its blocks, and those that say where they are, are given back by the replay
            orphan = open_files.enter_context(folder.joinpath(f"orphan {number}").open("wb", buffering=0))
            for piece in range(0, 80, 2):
                os.pwrite(orphan.fileno(), made.randbytes(4 * KIB), piece * 4 * KIB)
            os.fsync(orphan.fileno())
            folder.joinpath(f"orphan {number}").unlink()
        case _:
            pass
    if made.randrange(12) == 0:
        run("sync", "-f", at)


def _write_synced(at: Path, recording: Recording, made: random.Random, number: int) -> None:
    path = at / f"folder {number % 5}" / f"synced {number}"
    content = made.randbytes(made.choice([100, 5 * KIB, 60 * KIB, 700 * KIB]) + made.randrange(4 * KIB))
    with path.open("wb", buffering=0) as file:
        file.write(content[: len(content) // 2])
        if made.randrange(3) == 0:
            os.fsync(file.fileno())
        file.write(content[len(content) // 2 :])
        os.fsync(file.fileno())
    recording.safe[str(path.relative_to(at))] = (hashlib.sha256(content).hexdigest(), recording.length)


def _work_with_mtools(device: Path, source: Path, recording: Recording, made: random.Random, files: int) -> None:
    """Without a driver: each file is copied by a program of its own and the disk flushed; some are deleted again."""
    descriptor = os.open(device, os.O_RDWR)
    for number in range(files):
        name, content = f"synced {number}", made.randbytes(made.choice([100, 60 * KIB, 400 * KIB]))
        source.write_bytes(content)
        run("mcopy", "-i", device, source, f"::{name}")
        os.fsync(descriptor)
        recording.safe[name] = (hashlib.sha256(content).hexdigest(), recording.length)
        if made.randrange(5) == 0:
            gone = made.choice(sorted(recording.safe.keys() - recording.doomed.keys()))
            recording.doomed[gone] = recording.length
            run("mdel", "-i", device, f"::{gone}")
    os.close(descriptor)


#: Where dump.f2fs puts what it reads, and the inode of the first file that sload.f2fs makes in a flat folder.
_DUMPED, _FIRST_INODE = "lost_found", 4


def _load_f2fs(device: Path, source: Path, recording: Recording, made: random.Random, files: int) -> None:
    """Without a driver: all files at once, for what sload.f2fs adds later breaks what is there."""
    source.mkdir()
    contents = {f"synced {n}": made.randbytes(made.choice([100, 60 * KIB, 400 * KIB])) for n in range(files)}
    for name, content in contents.items():
        source.joinpath(name).write_bytes(content)
    run("sload.f2fs", "-f", source, device)
    run("sync", device)
    for name, content in contents.items():
        recording.safe[f"{_DUMPED}/{name}"] = (hashlib.sha256(content).hexdigest(), recording.length)


def _dump_f2fs(device: Path, at: Path) -> None:
    """dump.f2fs copies one inode at a time, into the current folder, and asks whether it may."""
    every = f'i={_FIRST_INODE}; while [ $i -lt 100 ]; do echo Y | dump.f2fs -i $(printf %x $i) "$2"; i=$((i+1)); done'
    run("sh", "-c", f'cd "$1" && {every}', "sh", at, device)


@contextmanager
def _served(image: Path, log: Path, folder: Path) -> Iterator[Path]:
    """``image`` as a file whose writes are noted in ``log``; it lies in a mount namespace of its own."""
    point = folder / "served"
    point.mkdir()
    line = ["unshare", "--mount", sys.executable, "-m", "tests.support.crash_child", point, image, log]
    server = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n", "the recording disk did not start"
        yield Path(f"/proc/{server.pid}/root{point}/disk")
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(timeout=30)


def differing(at: Path, files: dict[str, str]) -> list[str]:
    """Which of ``files`` are missing below ``at`` or have another content."""
    wrong = []
    for name, digest in files.items():
        path = at / name
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != digest:
            wrong.append(name)
    return wrong
