"""Copy files off a filesystem that can still be opened for reading, whatever of it cannot be read.

Nothing is written to the source.  A piece of a file that cannot be read becomes zeros, and the file is named; what
cannot be opened at all is named too.  Nothing that is there already is replaced.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recovery.devices.usage import System
from recovery.errors import DestinationFull, DeviceError, UsageError
from recovery.progress import Progress, Side
from recovery.salvage.folder import expect_room, make_folder, sync_folder
from recovery.units import KIB, MIB, format_bytes

log = logging.getLogger(__name__)

_PIECE_BYTES, _RETRY_BYTES = MIB, 4 * KIB
#: A file is named with what is wrong with it, up to so many.
_NAMED = 1000
#: What is written is pushed to the medium at least this often, so that stopping never waits long.
_SYNC_EVERY_BYTES = 64 * MIB
_BLOCK_DEVICES = Path("/sys/class/block")
_MEDIUM_ERRORS = (errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO, errno.EUCLEAN, errno.EBADMSG)


@dataclass(frozen=True, slots=True)
class Size:
    """What is below some paths, as far as it could be listed."""

    files: int
    bytes: int


@dataclass(slots=True)
class Copied:
    """What was copied.  ``problems``: paths with what is wrong with them; ``problem_count`` counts those not named too.

    ``lost_bytes`` could not be read, and are zeros in the copies.
    """

    files: int = 0
    bytes: int = 0
    lost_bytes: int = 0
    problem_count: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything was copied, and is whole."""
        return not self.problem_count

    def tell(self, path: Path, problem: str) -> None:
        """``path`` is not copied, or not whole."""
        self.problem_count += 1
        if len(self.problems) < _NAMED:
            self.problems.append((str(path), problem))


class _Source:
    """The disks under a folder, to be asked for when something of them cannot be read: pulled out, they are gone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        below = System().devices_below(root)
        self._nodes = [_BLOCK_DEVICES / name for name in below if not name.startswith(("file:", "loop"))]

    def expect(self) -> None:
        """Raise DeviceError when one of them is not there any more."""
        gone = [node.name for node in self._nodes if not node.exists()]
        if gone:
            raise DeviceError(
                f"{', '.join(sorted(gone))}, where {self._root} lies, is gone: unplugged, or broken altogether",
                "What was copied until then is there; the last file may be cut off. Plug the disk in again, and copy "
                "the rest into another new folder.",
            )


def measure(paths: Sequence[Path], progress: Progress | None = None) -> Size:
    """How much there is to copy.  Raises Cancelled when ``progress`` says so."""
    files = total = 0
    for _, status in _walk(paths, lambda path, problem: None, progress or Progress()):
        if stat.S_ISREG(status.st_mode):
            files, total = files + 1, total + status.st_size
    return Size(files, total)


def copy_files(paths: Sequence[Path], root: Path, to: Path, progress: Progress) -> Copied:
    """Copy ``paths``, which lie below ``root``, to the same places below the new or empty folder ``to``.

    Raises UsageError, DestinationFull (before anything was written, or when the room ends), DeviceError, Cancelled.
    """
    if any(not path.is_relative_to(root) for path in paths) or to.is_relative_to(root):
        raise UsageError(f"what is copied must lie below {root}, and {to} elsewhere", "Name another folder.")
    progress.phase("list")
    size = measure(paths, progress)
    _make_target(to, size)
    progress.phase("copy", size.bytes)
    done = Copied()
    folders: list[tuple[Path, os.stat_result]] = []
    source = _Source(root)

    def tell(path: Path, problem: str) -> None:
        source.expect()
        done.tell(path, problem)

    for path, status in _walk(paths, tell, progress):
        place = to / path.relative_to(root)
        try:
            _make_parents(place, to)
            if stat.S_ISDIR(status.st_mode):
                place.mkdir(exist_ok=True)
                folders.append((place, status))
            elif stat.S_ISLNK(status.st_mode):
                place.symlink_to(path.readlink())
            elif stat.S_ISREG(status.st_mode):
                _copy_file(path, place, status, done, progress, source.expect)
            else:
                done.tell(path, "it is neither a file nor a folder, and was left out")
        except OSError as error:
            expect_room(error, to)
            tell(path, f"it could not be copied: {error.strerror}")
    for place, status in reversed(folders):
        _keep_facts(place, status)
    progress.phase("sync")
    with progress.waits(Side.DESTINATION):
        sync_folder(to)
    return done


def _walk(
    paths: Sequence[Path], tell: Callable[[Path, str], None], progress: Progress
) -> Iterator[tuple[Path, os.stat_result]]:
    """Each path, and all below it, folders before what is in them; links are not followed, nor other mounts entered."""
    waiting = list(reversed(paths))
    while waiting:
        progress.check()
        path = waiting.pop()
        try:
            with progress.waits(Side.SOURCE):
                status = path.lstat()
        except OSError as error:
            tell(path, f"it could not be looked at: {error.strerror}")
            continue
        progress.advance(0)  # it goes on, although nothing may be copied
        yield path, status
        if not stat.S_ISDIR(status.st_mode) or (path.is_mount() and path not in paths):
            continue
        with progress.waits(Side.SOURCE):
            found = _inside(path, tell)
        waiting += sorted(found, reverse=True)


def _inside(folder: Path, tell: Callable[[Path, str], None]) -> list[Path]:
    """What is in the folder: as much of it as can be read, where reading it breaks off midway."""
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            found.extend(Path(entry.path) for entry in entries)
    except OSError as error:
        tell(folder, f"the folder could not be read to its end, and more may be missing from it: {error.strerror}")
    return found


def _make_target(to: Path, size: Size) -> None:
    make_folder(to)
    try:
        room = os.statvfs(to)
    except OSError as error:
        raise DeviceError(f"the folder {to} cannot be made: {error.strerror}", "Name another one.") from error
    free = room.f_bavail * room.f_frsize
    if size.bytes > free:
        raise DestinationFull(
            f"{format_bytes(size.bytes)} are to be copied, and {to} has {format_bytes(free)} free",
            "Choose fewer files, or a larger destination.",
        )


def _make_parents(place: Path, to: Path) -> None:
    """The folders above ``place``; their own facts are kept only where they are copied themselves."""
    if place != to:
        place.parent.mkdir(parents=True, exist_ok=True)


def _copy_file(
    path: Path, place: Path, status: os.stat_result, done: Copied, progress: Progress, expect: Callable[[], None]
) -> None:
    with progress.waits(Side.SOURCE):
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        with progress.waits(Side.DESTINATION):
            target = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            lost = _copy_content(source, target, status.st_size, progress, expect)
        finally:
            os.close(target)
    finally:
        os.close(source)
    _keep_facts(place, status)
    done.files += 1
    done.bytes += status.st_size
    if lost:
        done.lost_bytes += lost
        progress.count("unreadable_bytes", lost)
        done.tell(path, f"{format_bytes(lost)} of it could not be read, and are zeros in the copy")


def _copy_content(source: int, target: int, length: int, progress: Progress, expect: Callable[[], None]) -> int:
    """Copy ``length`` bytes; how many of them could not be read.  A file that ends earlier is filled up with zeros.

    ``expect`` raises when the source is gone, and is called where it cannot be read.
    """
    lost = at = 0
    os.posix_fadvise(source, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    while at < length:
        progress.check()
        wanted = min(_PIECE_BYTES, length - at)
        try:
            with progress.waits(Side.SOURCE):
                data = os.pread(source, wanted, at)
        except OSError as error:
            if error.errno not in _MEDIUM_ERRORS:
                raise
            expect()
            data, missing = _read_bad(source, at, wanted, progress)
            lost += missing
        if not data:
            break
        with progress.waits(Side.DESTINATION):
            _write(target, data, at)
            at += len(data)
            if at % _SYNC_EVERY_BYTES == 0:
                os.fsync(target)
        progress.advance(len(data))
    os.ftruncate(target, length)
    return lost + length - at


def _read_bad(source: int, at: int, length: int, progress: Progress) -> tuple[bytes, int]:
    """A piece read in small steps, with zeros where that fails; how many bytes failed."""
    data, lost = bytearray(), 0
    while len(data) < length:
        progress.check()
        wanted = min(_RETRY_BYTES, length - len(data))
        try:
            with progress.waits(Side.SOURCE):
                piece = os.pread(source, wanted, at + len(data))
        except OSError as error:
            if error.errno not in _MEDIUM_ERRORS:
                raise
            piece = bytes(wanted)
            lost += wanted
        if not piece:
            break
        data += piece
    return bytes(data), lost


def _write(target: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, at)
        view, at = view[count:], at + count


def _keep_facts(place: Path, status: os.stat_result) -> None:
    """Mode, owner and time, as far as the destination's filesystem knows such things."""
    facts: tuple[Callable[[], object], ...] = (
        lambda: os.chown(place, status.st_uid, status.st_gid),
        lambda: place.chmod(stat.S_IMODE(status.st_mode)),
        lambda: os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns)),
    )
    for keep in facts:
        try:
            keep()
        except OSError as error:
            log.debug("%s: %s", place, error.strerror)
