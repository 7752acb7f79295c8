"""What is found goes into a new folder, with what is wrong with it; the source is only read."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from recovery.devices.disk import Disk
from recovery.devices.usage import System
from recovery.errors import DeviceError, RecoveryError, Refused, UsageError
from recovery.extent import Extents
from recovery.inventory import shown
from recovery.progress import Progress, Side
from recovery.salvage.choose import Choice
from recovery.salvage.entry import Entry, Filesystem, Form
from recovery.salvage.folder import expect_room, make_folder, sync_folder
from recovery.salvage.medium import opened
from recovery.salvage.report import Report, Tally, Trouble
from recovery.salvage.volumes import Volume, find_volumes

#: What a destination says of names that it cannot have.
_BAD_NAME = (errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ)
log = logging.getLogger(__name__)

_NAMED = 1000
_MOST_ATTEMPTS, _MOST_LABEL_BYTES, _MOST_PATH_BYTES, _MOST_NAME_BYTES = 100_000, 100, 1000, 200
#: Behind these nothing can be saved any more.
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO)
_SYNC_EVERY_BYTES = 256 << 20


@dataclass(slots=True)
class Salvaged:
    """What came of it.  ``troubles``: the first of what is not whole; the report names all."""

    tally: Tally = field(default_factory=Tally)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all that was found is whole, and all that is there was found."""
        told = self.findings or any(volume["findings"] for volume in self.volumes)
        return not (self.tally.damaged or self.tally.lost or told)


def salvage(
    disk: Disk,
    to: Path,
    choice: Choice,
    progress: Progress,
    numbers: frozenset[int] | None = None,
    *,
    search: bool = False,
) -> Salvaged:
    """Save what can be had of ``disk`` in the new or empty folder ``to``.

    ``numbers``: only of these partitions; ``search``: found by a scan of the disk, whatever its table says.

    Raises Refused, UsageError, DestinationFull, DeviceError, Cancelled.
    """
    _check_target(disk, to)
    done = Salvaged()
    progress.phase("look")
    with opened(disk.place, disk.size_bytes, disk.logical_sector_bytes, progress) as medium:
        found = find_volumes(disk, medium, progress, search=search)
        done.findings += found.findings
        done.notes += found.notes
        volumes = [volume for volume in found.volumes if numbers is None or volume.number in numbers]
        if not volumes:
            raise UsageError(f"no filesystem was found on {disk.path}", "'recovery disks' shows what is recognised.")
        make_folder(to)
        progress.phase("salvage")
        try:
            with Report(to, disk.path) as report:
                try:
                    for volume in volumes:
                        _Saver(volume, to, choice, progress, done, report).save()
                finally:
                    report.finish(done.volumes, done.tally, [*done.findings, *done.notes])
        except OSError as error:
            raise _write_error(to, error) from error
    progress.phase("sync")
    with progress.waits(Side.DESTINATION):
        sync_folder(to)
    return done


def _check_target(disk: Disk, to: Path) -> None:
    parent = next(place for place in (to.absolute(), *to.absolute().parents) if place.exists())
    system = System()
    below = system.whole_disks(system.devices_below(parent))
    own = {disk.file_id} if disk.is_image_file else system.whole_disks(system.storage(Path(disk.path).name))
    if own & below:
        raise Refused(
            f"{to} lies on {disk.path} itself", "Save the files to another disk: nothing is written to this one."
        )


def _write_error(to: Path, error: OSError) -> DeviceError:
    expect_room(error, to)
    return DeviceError(f"{to} cannot be written: {error.strerror}", "What was saved until now is there.")


@dataclass(slots=True)
class _Written:
    """What came of writing a file."""

    bytes: int = 0
    bad: list[tuple[int, int]] = field(default_factory=list)
    problem: str = ""


class _Saver:
    """Saves one volume."""

    def __init__(
        self, volume: Volume, to: Path, choice: Choice, progress: Progress, done: Salvaged, report: Report
    ) -> None:
        self._volume, self._choice, self._progress = volume, choice, progress
        self._done, self._report = done, report
        label = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in volume.label).strip(". ")
        label = os.fsencode(label)[:_MOST_LABEL_BYTES].decode(errors="ignore")
        name = f"partition-{volume.number}" if volume.number else "disk"
        self._to = to / (f"{name}-{label}" if label else name)
        self._top = os.fsencode(self._to)
        self._tally = Tally()
        self._folders: list[tuple[bytes, Entry]] = []
        self._links: list[Entry] = []
        self._first_names: dict[int, tuple[bytes, bool]] = {}
        self._unsynced = 0
        #: By place the number of the next that is to have its name; and which folders are known to be there.
        self._taken: dict[bytes, int] = {}
        self._known: set[bytes] = set()

    def save(self) -> None:
        """All of it.  Raises OSError when the destination cannot be written any more."""
        volume = self._volume
        findings: list[str] = []
        document = {
            "name": volume.name,
            "kind": volume.kind,
            "label": volume.label,
            "offset": volume.extent.offset,
            "length": volume.extent.length,
            "folder": self._to.name,
            "findings": findings,
            "notes": [],
        }
        self._done.volumes.append(document)
        if volume.filesystem is None:
            findings.append(f"Nothing of it could be followed: {volume.problem}.")
            return
        self._to.mkdir()
        try:
            for entry in self._entries(volume.filesystem):
                self._progress.check()
                self._progress.advance(0)
                self._save(entry)
            for entry in self._links:
                self._save_link(entry)
            for place, entry in reversed(self._folders):
                self._keep_facts(place, entry)
        finally:
            findings += volume.filesystem.findings
            document["notes"] = list(volume.filesystem.notes)
            document["totals"] = self._tally.as_document()
            _add(self._done.tally, self._tally)

    @staticmethod
    def _entries(filesystem: Filesystem) -> Iterator[Entry]:
        """What is found; damage that nobody thought of ends it, and the rest of the disk is gone on with."""
        try:
            yield from filesystem.walk()
        except (RecoveryError, OSError, GeneratorExit):
            raise
        except Exception:  # whatever a damaged filesystem makes a reader do
            log.exception("a reader was led astray")
            filesystem.findings.append("Its damage could not be followed to the end: more may be there.")

    def _save(self, entry: Entry) -> None:
        path = entry.path.decode("utf-8", errors="backslashreplace")
        if not self._choice.wants(path, is_folder=entry.form is Form.FOLDER):
            self._tally.left_out += entry.form is not Form.FOLDER
            return
        if entry.form is Form.FOLDER:
            self._save_folder(entry, path)
        elif entry.lost:
            self._tally.lost += 1
            self._tell(Trouble(self._volume.name, path, "lost", entry.problem, entry.size_bytes))
        elif entry.form is Form.LINK:
            self._links.append(entry)
        elif entry.form is Form.SPECIAL:
            self._tally.left_out += 1
        else:
            self._save_file(entry, path)

    def _save_folder(self, entry: Entry, path: str) -> None:
        if entry.problem:
            self._tell(Trouble(self._volume.name, path, "damaged", entry.problem))
            findings = self._done.volumes[-1]["findings"]
            sentence = "Names in some of its folders are lost: the list of what is not whole names the folders."
            if sentence not in findings:
                findings.append(sentence)
        if entry.mode is None:
            return
        self._tally.folders += 1
        try:
            self._folders.append((self._make(entry.path, _make_folder), entry))
        except OSError as error:
            _expect_bearable(error)  # what is in it says so

    def _save_file(self, entry: Entry, path: str) -> None:
        first = self._first_names.get(entry.identity) if entry.identity is not None else None
        if first is not None and self._save_same(entry, path, *first):
            return
        written = _Written()
        try:
            place = self._make(entry.path, lambda at: self._write(at, entry, written))
        except OSError as error:
            _expect_bearable(error)
            self._lose(entry, path, f"it could not be saved: {error.strerror}")
            return
        self._keep_facts(place, entry)
        problem = entry.problem or written.problem or (entry.content.doubt if entry.content is not None else "")
        whole = self._count(replace(entry, problem=problem), path, Extents(written.bad), place)
        if entry.identity is not None:
            self._first_names[entry.identity] = (place, whole)

    def _save_same(self, entry: Entry, path: str, first: bytes, whole: bool) -> bool:
        """Make another name for the file at ``first``; False where the destination knows no such thing."""
        try:
            place = self._make(entry.path, lambda at: os.link(first, at, follow_symlinks=False))
        except OSError as error:
            _expect_bearable(error)
            return False
        other = "" if whole else f"it is the same file as {self._saved_as(first)}, which is damaged"
        self._count(replace(entry, problem=other), path, Extents(), place)
        return True

    def _save_link(self, entry: Entry) -> None:
        path = entry.path.decode("utf-8", errors="backslashreplace")
        try:
            place = self._make(entry.path, lambda at: os.symlink(entry.target, at))  # noqa: PTH211 - of bytes
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "where it leads to is damaged"
            if isinstance(error, OSError):
                _expect_bearable(error)
            self._lose(entry, path, f"the link could not be made: {reason}")
            return
        self._keep_facts(place, replace(entry, mode=None))
        self._count(entry, path, Extents(), place)

    def _lose(self, entry: Entry, path: str, problem: str) -> None:
        self._tally.lost += 1
        self._tell(Trouble(self._volume.name, path, "lost", problem, entry.size_bytes))

    def _saved_as(self, place: bytes) -> str:
        return shown(os.path.relpath(place, os.fsencode(self._to.parent)).decode(errors="backslashreplace"))

    def _count(self, entry: Entry, path: str, bad: Extents, place: bytes) -> bool:
        """Whether it is whole; what is not, is told."""
        if not bad and not entry.problem:
            self._tally.whole += 1
            return True
        gone = sum(extent.length for extent in bad)
        saved_as = self._saved_as(place) if place else ""
        self._tally.damaged += 1
        self._tally.bad_bytes += gone
        self._progress.count("damaged_files")
        self._tell(Trouble(self._volume.name, path, "damaged", entry.problem, entry.size_bytes, bad, saved_as))
        return False

    def _write(self, at: bytes, entry: Entry, written: _Written) -> None:
        """Write the content to a new file, with zeros in place of what cannot be read."""
        most = self._volume.extent.length
        file = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for offset, data, gone in entry.content.pieces() if entry.content is not None else ():
                self._progress.check()
                written.bad += gone
                written.bytes += len(data)
                if written.bytes > most:
                    written.problem = "it is said to be larger than its filesystem"
                    break
                with self._progress.waits(Side.DESTINATION):
                    self._put(file, data[: max(0, entry.size_bytes - offset)], offset)
                self._progress.advance(len(data))
            if not written.problem and not self._fits(file, entry.size_bytes):
                written.problem = "it is said to be larger than any file can be there"
        finally:
            os.close(file)

    def _put(self, file: int, data: bytes, offset: int) -> None:
        self._tally.saved_bytes += len(data)
        self._unsynced += len(data)
        while data:
            count = os.pwrite(file, data, offset)
            data, offset = data[count:], offset + count
        if self._unsynced >= _SYNC_EVERY_BYTES:
            self._unsynced = 0
            os.fdatasync(file)

    @staticmethod
    def _fits(file: int, size_bytes: int) -> bool:
        """Give the file its size, which may be nonsense."""
        try:
            os.ftruncate(file, size_bytes)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EFBIG, errno.EINVAL):
                raise
            return False
        return True

    # -- names

    def _place(self, path: bytes) -> bytes:
        path = path.replace(b"\0", b"_")
        if b"//" in path or b"/." in path or path.startswith((b".", b"/")) or path.endswith(b"/"):
            parts = [part for part in path.split(b"/") if part]
            path = b"/".join(b"_" * len(part) if part in (b".", b"..") else part for part in parts)
        return self._top + b"/" + (path or b"_")

    def _make(self, path: bytes, make: Callable[[bytes], object]) -> bytes:
        """Have it made at its place, or near it where the name is taken or cannot be had there; where it is then.

        No link is followed on the way: a damaged filesystem may have one in place of a folder.
        """
        place = first = self._place(path)
        for _ in range(_MOST_ATTEMPTS):
            number = self._taken.get(place, 1)
            at = place if number == 1 else place + f" ({number})".encode()
            try:
                self._expect_folders(at.rpartition(b"/")[0])
                make(at)
            except FileExistsError:
                self._taken[place] = number + 1
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG and len(first) > _MOST_PATH_BYTES:
                    place = self._top + b"/name-too-long/" + place.rpartition(b"/")[2][-_MOST_NAME_BYTES:]
                elif error.errno in _BAD_NAME and place == first:
                    inside = os.fsdecode(first[len(self._top) + 1 :])
                    place = b"/".join([self._top, *(_quoted(part).encode() for part in inside.split("/"))])
                elif error.errno == errno.ENOTDIR:  # what is to be its folder is a file, or a link
                    place = self._top + b"/name-taken/" + place.rpartition(b"/")[2]
                elif error.errno == errno.EISDIR:
                    self._taken[place] = number + 1
                else:
                    raise
            else:
                return at
        raise OSError(errno.EEXIST, "no name is free", os.fsdecode(place))

    def _expect_folders(self, folder: bytes) -> None:
        """Make the folder and those above it.  Raises NotADirectoryError where one of them is something else."""
        if folder in self._known or len(folder) <= len(self._top):
            return
        self._expect_folders(folder.rpartition(b"/")[0])
        try:
            os.mkdir(folder)  # noqa: PTH102 - of bytes
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(folder)) from None
        self._known.add(folder)

    def _keep_facts(self, place: bytes, entry: Entry) -> None:
        """Owner, mode, attributes and times, as far as the destination's filesystem knows such things."""
        kept = True
        owner, mode, times = entry.owner, entry.mode, entry.times_ns

        def attempt(keep: Callable[[], object]) -> None:
            nonlocal kept
            try:
                keep()
            except (OSError, OverflowError, ValueError):
                kept = False

        if owner is not None:
            attempt(lambda: os.chown(place, *owner, follow_symlinks=False))
        for name, value in entry.attributes:
            attempt(partial(os.setxattr, place, name, value, follow_symlinks=False))
        if mode is not None:
            attempt(lambda: os.chmod(place, mode if kept else mode & 0o777))  # noqa: PTH101 - of bytes
        if times is not None:
            attempt(lambda: os.utime(place, ns=times, follow_symlinks=False))
        self._tally.facts_not_kept += not kept

    def _tell(self, trouble: Trouble) -> None:
        trouble = replace(trouble, path=shown(trouble.path))
        self._report.tell(trouble)
        if len(self._done.troubles) < _NAMED:
            self._done.troubles.append(trouble)


def _make_folder(at: bytes) -> None:
    try:
        os.mkdir(at)  # noqa: PTH102 - of bytes
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(at).st_mode):
            raise


def _expect_bearable(error: OSError) -> None:
    """Raise it again where nothing more can be written; else it concerns one file only."""
    if error.errno in _FATAL:
        raise error


def _quoted(part: str) -> str:
    """A name that every filesystem can have, from one that this cannot."""
    letters = "".join(letter if letter.isprintable() and letter not in '<>:"\\|?*' else "_" for letter in part)
    return letters.rstrip(". ").encode()[:200].decode(errors="ignore") or "_"


def _add(total: Tally, more: Tally) -> None:
    for name in ("whole", "damaged", "lost", "saved_bytes", "bad_bytes", "folders", "left_out", "facts_not_kept"):
        setattr(total, name, getattr(total, name) + getattr(more, name))
