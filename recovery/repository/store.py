"""Where repository files live: a local folder, or a share that the kernel mounted, in restic's default layout.

::

    config   keys/   locks/   snapshots/   index/   data/00/ ... data/ff/

A file appears under its name only when it is whole and on stable storage: it is written beside its place,
synced, renamed, and the folder is synced.  What a run that was cut off leaves has ``-tmp-`` in its name, and
restic and we pass it over.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from recovery.errors import DestinationFull, DeviceError, NoRepository, RecoveryError, RepositoryDamaged
from recovery.units import align_down, align_up

#: What every loaded piece may be: the parts of a file are written as they come.
Buffer = bytes | bytearray | memoryview

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIRECT_ALIGNMENT = 4096
_MAX_PIECES = 512


class FileKind(StrEnum):
    """The kinds of repository files; the value is the folder's name."""

    CONFIG = "config"
    KEY = "keys"
    LOCK = "locks"
    SNAPSHOT = "snapshots"
    INDEX = "index"
    PACK = "data"


class LocalStore:
    """Repository files in the folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def path(self, kind: FileKind, name: str) -> Path:
        """Where a file lies."""
        if kind is FileKind.CONFIG:
            return self.root / "config"
        folder = self.root / kind.value
        return folder / name[:2] / name if kind is FileKind.PACK else folder / name

    def create(self) -> None:
        """Make the empty folders.  Raises DeviceError, DestinationFull, or NoRepository where something else lies."""
        if self.root.exists() and not self.root.is_dir():
            raise NoRepository(f"{self.root} is not a folder", "Name a new or an empty folder.")
        with _told(f"making the repository folder {self.root}"):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for kind in FileKind:
                if kind is not FileKind.CONFIG:
                    (self.root / kind.value).mkdir(exist_ok=True, mode=0o700)
            for prefix in range(256):
                (self.root / "data" / f"{prefix:02x}").mkdir(exist_ok=True, mode=0o700)
            _sync_folder(self.root)
            _sync_folder(self.root / "data")

    def exists(self) -> bool:
        """Whether a repository's ``config`` lies here."""
        with _told(f"looking into {self.root}"):
            return self.path(FileKind.CONFIG, "").exists()

    def list(self, kind: FileKind) -> Iterator[tuple[str, int]]:
        """Name and size in bytes of every file of ``kind``; what restic would not name so is passed over.

        A folder that is not there holds nothing: tools that copy a repository may leave empty ones out.
        """
        folder = self.root / kind.value
        with _told(f"listing {folder}"):
            folders = [folder]
            if kind is FileKind.PACK:
                folders = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.exists() else []
            for place in folders:
                yield from _files(place)

    def size(self, kind: FileKind, name: str) -> int | None:
        """Size in bytes; None when there is no such file."""
        try:
            with _told(f"looking for {kind.value}/{name}"):
                return self.path(kind, name).stat().st_size
        except FileNotFoundError:
            return None

    def load(self, kind: FileKind, name: str) -> bytes:
        """A whole file.  Raises RepositoryDamaged when it is missing, DeviceError when it cannot be read."""
        with _told(f"reading {kind.value}/{name[:8]} of the repository"):
            try:
                return self.path(kind, name).read_bytes()
            except FileNotFoundError as error:
                raise _missing(kind, name) from error

    def load_range(
        self, kind: FileKind, name: str, offset: int, length: int, room: Callable[[int], bytearray] = bytearray
    ) -> memoryview:
        """``length`` bytes at ``offset``, read into what ``room`` gives for that length.

        Raises as ``load``, and RepositoryDamaged when the file is shorter.
        """
        with _told(f"reading {kind.value}/{name[:8]} of the repository"):
            try:
                file = os.open(self.path(kind, name), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise _missing(kind, name) from error
            try:
                # A damaged index may name any length: nothing is allocated for what cannot be there.
                there = os.fstat(file).st_size >= offset + length
                data = memoryview(room(length) if there else b"")[:length]
                done = 0
                while there and done < length:
                    count = os.preadv(file, [data[done:]], offset + done)
                    there, done = count > 0, done + count
            finally:
                os.close(file)
        if not there:
            raise RepositoryDamaged(f"the file {kind.value}/{name} is shorter than it should be", "Run 'restic check'.")
        return data

    def load_uncached(self, kind: FileKind, name: str, scratch: mmap.mmap | None = None) -> memoryview:
        """A whole file as the medium gives it back, past the page cache where the filesystem allows it.

        ``scratch`` may be given to be filled again; it must be large enough, and is what the view looks at.
        """
        with _told(f"reading {kind.value}/{name[:8]} back"):
            try:
                file, direct = _open_uncached(self.path(kind, name))
            except FileNotFoundError as error:
                raise _missing(kind, name) from error
            try:
                size = os.fstat(file).st_size
                room = align_up(max(size, 1), _DIRECT_ALIGNMENT)
                view = memoryview(scratch if scratch is not None and len(scratch) >= room else mmap.mmap(-1, room))
                done = 0
                while done < size:
                    end = room if direct else size
                    count = os.preadv(file, [view[done:end]], done)
                    if count == 0:
                        break
                    done += count
                    if direct and done < size:
                        done = align_down(done, _DIRECT_ALIGNMENT)
            finally:
                os.close(file)
        if done < size:
            raise RepositoryDamaged(f"the file {kind.value}/{name} could not be read back whole", "Check the medium.")
        return view[:size]

    def save(self, kind: FileKind, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file of ``pieces``; when this returns it is on stable storage.

        Raises DestinationFull when there is no room, DeviceError for any other failure.
        """
        final = self.path(kind, name)
        beside = final.with_name(f"{final.name}-tmp-{secrets.token_hex(4)}")
        try:
            with _told(f"writing to the repository {self.root}"):
                file = _create(beside)
                try:
                    try:
                        _write_all(file, pieces)
                        os.fsync(file)
                        if kind is FileKind.PACK:
                            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(file)
                    beside.rename(final)
                except BaseException:
                    beside.unlink(missing_ok=True)
                    raise
                _sync_folder(final.parent)
        except FileNotFoundError as error:
            raise self._gone() from error

    def remove(self, kind: FileKind, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with _told(f"removing {kind.value}/{name[:8]}"):
            self.path(kind, name).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Room left for us where the repository lies."""
        try:
            with _told(f"looking at {self.root}"):
                status = os.statvfs(self.root)
        except FileNotFoundError as error:
            raise self._gone() from error
        return status.f_bavail * status.f_frsize

    def _gone(self) -> DeviceError:
        return DeviceError(
            f"the repository {self.root} is gone", "Was its disk unplugged or unmounted? Nothing more was written."
        )


def file_name(pieces: Sequence[Buffer]) -> str:
    """The name of a repository file: SHA-256 of its content, in hex."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


class _told:  # noqa: N801 - reads as a statement
    """Turns an OSError into the error that the user is told; FileNotFoundError passes."""

    def __init__(self, doing: str) -> None:
        self.doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise store_error(error, self.doing) from error


def store_error(error: OSError, doing: str) -> RecoveryError:
    """What an OSError of the destination means to the user."""
    if error.errno in _FULL:
        return DestinationFull(
            f"there is no room left ({doing})",
            "What was published so far stays valid; free some space or use a larger destination, and run it again.",
        )
    if error.errno == errno.EROFS:
        return DeviceError(f"the destination is read-only ({doing})", "Its filesystem may have failed: see dmesg.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeviceError(f"no permission ({doing})", "Run it as root, or choose a place that you may write to.")
    return DeviceError(f"{error.strerror or error} ({doing})", "Check that the destination is still there.")


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            try:
                if _is_id(entry.name) and entry.is_file():
                    yield entry.name, entry.stat().st_size
            except FileNotFoundError:
                continue  # removed meanwhile: locks come and go


def _missing(kind: FileKind, name: str) -> RepositoryDamaged:
    return RepositoryDamaged(f"the file {kind.value}/{name} is missing from the repository", "Run 'restic check'.")


def _is_id(name: str) -> bool:
    return len(name) == 64 and all(c in "0123456789abcdef" for c in name)


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        # A folder of packs may be missing; never more: if the root is gone, so is the disk that was mounted there.
        path.parent.mkdir(exist_ok=True, mode=0o700)
        _sync_folder(path.parent.parent)
        return os.open(path, flags, 0o600)


def _write_all(file: int, pieces: Sequence[Buffer]) -> None:
    for first in range(0, len(pieces), _MAX_PIECES):
        group = [memoryview(piece) for piece in pieces[first : first + _MAX_PIECES]]
        while group:
            written = os.writev(file, group)
            while group and written >= len(group[0]):
                written -= len(group.pop(0))
            if group and written:
                group[0] = group[0][written:]


def _open_uncached(path: Path) -> tuple[int, bool]:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return file, False


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some shares cannot sync a folder
            raise
    finally:
        os.close(folder)
