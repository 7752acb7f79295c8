"""Where every file lies, by the kernel's own word (FIEMAP), on a view that is mounted in a namespace of its own.

``python -m recovery.filesystems.walk.mounted FOLDER`` is the child: in a mount namespace of its own it mounts the
loop device on FOLDER, walks, and answers on its standard output; when it ends, so does the mount.

Source of the layout: the kernel's Documentation/filesystems/fiemap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from recovery.command import run
from recovery.devices.loop import read_only_loop
from recovery.extent import Extent, Extents
from recovery.filesystems.walk.btrfs import Chunk, chunks, physical
from recovery.filesystems.walk.view import Missing, NotAudited, Unreadable, View, not_in

_SECONDS = 6 * 3600
#: Driver and options.  The driver of ext4 also mounts its forebears.
_MOUNTS = {
    "ext2": ("ext4", "ro,noload"),
    "ext3": ("ext4", "ro,noload"),
    "ext4": ("ext4", "ro,noload"),
    "xfs": ("xfs", "ro,norecovery,nouuid"),
    "btrfs": ("btrfs", "ro,rescue=nologreplay,subvolid=5"),
}
_FIEMAP = 0xC020660B
_HEADER, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQQQIIII")
_AT_ONCE = 512
_LAST, _UNKNOWN, _DELAYED, _ENCODED, _INLINE, _ATTRIBUTES = 0x1, 0x2, 0x4, 0x8, 0x200, 0x2
#: What a filesystem answers that keeps no such list for this file, or whose key is not here.
_NO_MAP = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOKEY, errno.EPERM)
_MAX_NAMED = 1000


class _Spec(msgspec.Struct, frozen=True):
    """What the child is told: ``used`` is flat, offset and length in turn."""

    device: str
    kind: str
    used: list[int]
    chunks: tuple[Chunk, ...] = ()


class _Answer(msgspec.Struct):
    """What the child found: files and their missing ranges, what could not be read, what could not be asked."""

    files: int = 0
    bytes: int = 0
    missing: list[tuple[str, list[tuple[int, int]]]] = []
    more: int = 0
    unreadable: list[str] = []
    unmapped: int = 0
    not_mounted: str = ""


class Walked(msgspec.Struct, frozen=True):
    """The files walked and their bytes, what of them is missing, what could not be read, how many gave no answer."""

    files: int
    bytes: int
    missing: tuple[Missing, ...]
    unreadable: tuple[str, ...]
    unmapped: int
    more: int


def can_walk(kind: str) -> bool:
    """Whether this kind of filesystem is walked through the kernel."""
    return kind in _MOUNTS


def walk(view: View) -> Walked:
    """Walk every file.  Raises NotAudited where the kernel has no driver, Unreadable when it does not mount."""
    known = tuple(chunks(view)) if view.kind == "btrfs" else ()
    with (
        read_only_loop(view.path, Extent(0, view.size_bytes), view.sector_bytes) as device,
        tempfile.TemporaryDirectory(prefix="recovery-walk-") as folder,
    ):
        used = [number for extent in view.used for number in extent]
        ended = run(
            ["unshare", "--mount", "--propagation", "slave", sys.executable, "-m", __name__, folder],
            needed_for="walking the files of what was captured",
            timeout_seconds=_SECONDS,
            input=msgspec.json.encode(_Spec(str(device), view.kind, used, known)),
            check=False,
            interrupt=view.interrupt,
        )
        if view.kind == "btrfs":  # or the kernel keeps the view in mind as the place of this filesystem
            run(["btrfs", "device", "scan", "--forget", device], needed_for="forgetting a btrfs", check=False)
    try:
        answer = msgspec.json.decode(ended.stdout, type=_Answer)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"the walk over its files failed: {ended.reason}") from error
    if answer.not_mounted:
        if "unknown filesystem type" in answer.not_mounted:
            raise NotAudited(f"this kernel has no driver for {view.kind}")
        raise Unreadable(f"it does not mount: {answer.not_mounted}")
    missing = tuple(Missing(name, Extents(extents)) for name, extents in answer.missing)
    return Walked(answer.files, answer.bytes, missing, tuple(answer.unreadable), answer.unmapped, answer.more)


# -- the child


def _walk(spec: _Spec, folder: str) -> _Answer:
    answer = _Answer()
    used = Extents(zip(*[iter(spec.used)] * 2, strict=True))
    driver, options = _MOUNTS[spec.kind]
    done = run(
        ["mount", "-t", driver, "-o", options, spec.device, folder],
        needed_for="walking files",
        timeout_seconds=_SECONDS,
        check=False,
    )
    if not done.ok:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines()]
        answer.not_mounted = next((line for line in lines if line and "dmesg(1)" not in line), done.reason)
        return answer
    linked: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        path = pending.pop()
        _look(path, f"the folder {path[len(folder) :] or '/'}", used, spec.chunks, answer)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    _enter(entry, len(folder), linked, pending, used, spec.chunks, answer)
        except OSError as error:
            answer.unreadable.append(f"the folder {path[len(folder) :] or '/'}: {error.strerror}")
    return answer


def _enter(
    entry: os.DirEntry[str],
    prefix: int,
    linked: set[tuple[int, int]],
    pending: list[str],
    used: Extents,
    known: tuple[Chunk, ...],
    answer: _Answer,
) -> None:
    name = entry.path[prefix:]
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            Path(entry.path).readlink()
    except OSError as error:
        answer.unreadable.append(f"{name}: {error.strerror}")
        return
    if stat.S_ISDIR(status.st_mode):
        pending.append(entry.path)
    elif stat.S_ISREG(status.st_mode):
        own = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            if own in linked:
                return
            linked.add(own)
        _look(entry.path, name, used, known, answer)


def _look(path: str, name: str, used: Extents, known: tuple[Chunk, ...], answer: _Answer) -> None:
    """Ask where one file or folder and its attributes lie, and enter what of that is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_MAP:
            answer.unmapped += 1
        else:
            answer.unreadable.append(f"{name}: {error.strerror}")
        return
    try:
        answer.files += 1
        extents = Extents([*_extents(descriptor, 0, answer, name), *_extents(descriptor, _ATTRIBUTES, answer, name)])
    finally:
        os.close(descriptor)
    places = physical(extents, list(known)) if known else extents
    answer.bytes += places.total_bytes
    missing = not_in(used, places)
    if missing and len(answer.missing) < _MAX_NAMED:
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        answer.missing.append((shown, [(extent.offset, extent.length) for extent in missing]))
    elif missing:
        answer.more += 1


def _extents(descriptor: int, flags: int, answer: _Answer, name: str) -> Iterator[tuple[int, int]]:
    start = 0
    while True:
        room = bytearray(_HEADER.size + _AT_ONCE * _EXTENT.size)
        _HEADER.pack_into(room, 0, start, (1 << 63) - start, flags, 0, _AT_ONCE, 0)
        try:
            fcntl.ioctl(descriptor, _FIEMAP, room)
        except OSError as error:
            if error.errno not in _NO_MAP and not (flags and error.errno == errno.EBADR):
                answer.unreadable.append(f"{name}: {error.strerror}")
            elif not flags and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                answer.unmapped += (
                    1  # of folders, XFS and btrfs never say; what they hold of them, the allocation tells
                )
            return
        count = _HEADER.unpack_from(room)[3]
        for index in range(count):
            logical, place, length, _, _, state, *_ = _EXTENT.unpack_from(room, _HEADER.size + index * _EXTENT.size)
            start = logical + length
            if not state & (_UNKNOWN | _DELAYED) and (place or not state & _INLINE):
                # A compressed extent's length is that of its content: only where it begins is known.
                yield place, 4096 if state & _ENCODED else length
            if state & _LAST:
                return
        if not count:
            return


def main() -> None:
    """The child."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=_Spec)
    try:
        answer = _walk(spec, sys.argv[1])
    except Unreadable as error:
        answer = _Answer(unreadable=[str(error)])
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
