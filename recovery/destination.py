"""A filesystem as the place for a repository: mounted with care, and given back.

For whoever sits at the live system's shell.  The write protection of its disk is off for as long as it is mounted;
with ``read_only`` it stays, and a read-only loop device lies between, so that no journal is replayed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recovery.command import run
from recovery.devices.blockio import size_of
from recovery.devices.disk import Disk, claims, disk_for
from recovery.devices.loop import read_only_loop
from recovery.devices.probe import MEMBERSHIP, Content, probe
from recovery.devices.protection import Release, is_protected, is_released, protect, released
from recovery.devices.usage import Mount, System, printable
from recovery.errors import DeviceError, Refused, UsageError
from recovery.extent import Extent
from recovery.filesystems.usage import why_not_closed

MEDIA = Path("/media")

_SECONDS = 1800
#: How many folders of it are looked at for a repository.
_LOOKED_AT = 1000
#: A program with mounts of its own (a job's helper) may have it a little longer.
_LET_GO_SECONDS, _POLL_SECONDS = 5.0, 0.1
_SAFE = "nodev,nosuid,noexec,noatime"
_NO_PLACE = {
    **{kind: f"{what} ({{type}})" for kind, what in MEMBERSHIP.items()},
    "crypto": "an encrypted volume ({type})",
    "swap": "swap space",
    "table": "a partition table ({type})",
    "other": "something that cannot be identified for certain ({type})",
}


@dataclass(frozen=True, slots=True)
class _Driver:
    """How a kind of filesystem is mounted: for writing, for reading only."""

    name: str
    writing: str
    reading: str


_EXT = _Driver("ext4", "errors=remount-ro", "noload")
#: By blkid's name.  ntfs-3g mends and replays by itself unless it is told not to.
_DRIVERS = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": _Driver("xfs", "nouuid", "norecovery,nouuid"),
    "btrfs": _Driver("btrfs", "", "rescue=nologreplay"),
    "f2fs": _Driver("f2fs", "", "norecovery"),
    "vfat": _Driver("vfat", "", ""),
    "exfat": _Driver("exfat", "", ""),
    "ntfs": _Driver("ntfs-3g", "norecover", "norecover"),
}


#: What can be mounted, by blkid's name.
MOUNTABLE = frozenset(_DRIVERS)


class NotClosed(Refused):
    """A filesystem was not closed cleanly: mounting it for writing changes it before anything else does."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A block device that may become a destination; ``unclean`` says that its filesystem was not closed, and how."""

    node: Path
    name: str
    disk: Disk
    content: Content
    size_bytes: int
    unclean: str


class Destination(msgspec.Struct, frozen=True):
    """A mounted filesystem.  ``repositories`` are the folders in it that look like repositories."""

    device: str
    folder: str
    filesystem: str
    label: str
    size_bytes: int
    free_bytes: int
    read_only: bool
    repositories: tuple[str, ...]


class Unmounted(msgspec.Struct, frozen=True):
    """Where it was; the disks that are write-protected again; what still has hold of it all the same."""

    folder: str
    write_protected: tuple[str, ...]
    held: tuple[str, ...]


def look(device: Path, *, read_only: bool = False) -> Candidate:
    """What ``device``, a partition or a disk without partitions, is as a destination.

    Raises Refused with the reason when it must not be one, UsageError, DeviceError.
    """
    node = _block_device(device)
    system = System()
    name = system.name_of(node.stat().st_rdev) or node.name
    whole = system.whole_disk(name)
    disk = disk_for(Path("/dev") / whole.replace("!", "/"))
    if disk.boot_medium:
        raise Refused(f"{disk.path} is the medium that this system was started from", "Use another disk.")
    uses = system.uses(name) or claims(str(node))
    if uses:
        raise Refused(f"{node} is in use: {'; '.join(uses)}", "Unmount it, or use what is mounted there as it is.")
    if not read_only:
        _check_writable(system, node, name, disk)
    size_bytes = _size_of(node)
    content = probe(node, Extent(0, size_bytes), disk.logical_sector_bytes)
    _check_content(node, content, disk)
    assert content is not None
    unclean = why_not_closed(node, Extent(0, size_bytes), content, disk.logical_sector_bytes)
    if unclean and content.type == "ntfs" and not read_only:
        raise Refused(
            f"the NTFS filesystem on {node} cannot be written: {unclean}",
            "Shut Windows down there (not sleep, not fast start), or look at it with --read-only.",
        )
    return Candidate(node, name, disk, content, size_bytes, unclean)


def mount(candidate: Candidate, folder: Path | None = None, *, read_only: bool = False) -> Destination:
    """Mount it at ``folder`` (default: below /media, by its label), and say what is there.

    Its journal is replayed unless ``read_only``.  Raises Refused, DeviceError; it is not mounted then.
    """
    driver = _DRIVERS[candidate.content.type]
    words = [_SAFE, driver.reading if read_only else driver.writing]
    options = ",".join(word for word in words if word)
    place, made = _make_folder(folder, candidate)
    with released() as protection, contextlib.ExitStack() as held:
        try:
            device = candidate.node
            if read_only:
                whole, sector_bytes = Extent(0, candidate.size_bytes), candidate.disk.logical_sector_bytes
                device = held.enter_context(read_only_loop(device, whole, sector_bytes))  # goes with the mount
            else:
                _release(candidate.disk, protection)
            how = ["--read-only" if read_only else "--rw", "-t", driver.name, "-o", options]
            needed_for = f"mounting {candidate.node}"
            run(["mount", *how, device, place], needed_for=needed_for, timeout_seconds=_SECONDS)
        except BaseException:
            if os.path.ismount(place):  # stopped just then
                run(["umount", place], needed_for=f"unmounting {place}", timeout_seconds=_SECONDS, check=False)
            if made:
                with contextlib.suppress(OSError):
                    place.rmdir()
            raise
        protection.keep_off()
    return describe(place, str(candidate.node), candidate.content)


def describe(place: Path, device: str, content: Content | None) -> Destination:
    """What is mounted at ``place``; ``content``: what was recognised there.  Raises OSError."""
    room = os.statvfs(place)
    return Destination(
        device=device,
        folder=printable(str(place)),
        filesystem=content.type if content is not None else "",
        label=(content.label or "") if content is not None else "",
        size_bytes=room.f_blocks * room.f_frsize,
        free_bytes=room.f_bavail * room.f_frsize,
        read_only=bool(room.f_flag & os.ST_RDONLY),
        repositories=tuple(sorted(printable(str(found)) for found in _repositories(place))),
    )


def unmount(place: Path) -> Unmounted:
    """Unmount the destination ``place``, a device or its folder.

    Raises UsageError when nothing is mounted there, DeviceError when something still uses it.
    """
    system = System()
    mounted = _mount_at(system, place)
    source = _device_of(mounted.source, system)
    names: frozenset[str] = system.whole_disks(system.storage(source)) if source is not None else frozenset()
    _detach(mounted.point)
    point = Path(mounted.point)
    if point.parent == MEDIA and not any(point.iterdir()):
        point.rmdir()
    held = _held(source) if source is not None else ()
    protected = () if held else tuple(disk for disk in map(_protect_again, sorted(names)) if disk is not None)
    return Unmounted(printable(mounted.point), protected, held)


def _detach(point: str) -> None:
    """Others look at what is mounted too, and a FUSE driver may still be closing files: busy is tried again."""
    ends = time.monotonic() + _LET_GO_SECONDS
    while True:
        needed_for = f"unmounting {point}"
        ended = run(["umount", point], needed_for=needed_for, timeout_seconds=_SECONDS, check=False)
        if ended.ok:
            return
        if "busy" not in ended.reason:
            raise DeviceError(f"{printable(point)} cannot be unmounted: {ended.reason}")
        if time.monotonic() > ends:
            raise DeviceError(
                f"{printable(point)} is still in use, and stays mounted",
                "Close the files that are open there, leave the folder in every shell, and try again.",
            )
        time.sleep(_POLL_SECONDS)


def _device_of(source: str, system: System) -> str | None:
    """The kernel's name of what is mounted; None where that is no device, or one that was pulled out."""
    try:
        return system.name_of(Path(source).stat().st_rdev) if source.startswith("/dev/") else None
    except OSError:
        return None


def set_protection(disk: Disk, *, on: bool) -> bool:
    """Write-protect a disk, or take that off until it is set again; whether anything changed.  Raises Refused."""
    if on == disk.write_protected:
        return False
    if on:
        if disk.in_use:
            raise Refused(f"{disk.path} is in use: {'; '.join(disk.in_use)}", "Unmount it first.")
        if not protect(disk):
            raise DeviceError(f"{disk.path} cannot be write-protected", "It needs root.")
        return True
    with released() as protection:
        _release(disk, protection)
        protection.keep_off()
    return True


def _block_device(device: Path) -> Path:
    try:
        node = device.resolve(strict=True)
        found = node.stat()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"there is no device {device}", "'recovery disks' lists what there is.") from error
    if not stat.S_ISBLK(found.st_mode):
        raise UsageError(
            f"{device} is no block device", "Name a partition such as /dev/sdb1; a folder can be used as it is."
        )
    return node


def _size_of(node: Path) -> int:
    try:
        with node.open("rb", buffering=0) as file:
            return size_of(file.fileno())
    except OSError as error:
        raise DeviceError(f"{node} cannot be opened: {error.strerror}", "It needs root.") from error


def _check_writable(system: System, node: Path, name: str, disk: Disk) -> None:
    """Raise Refused where writing is not possible, or is not ours to allow."""
    below = sorted(system.whole_disks(system.storage(name)) - {name, disk.name})
    for lower in (found for found in below if is_protected(found)):
        raise Refused(
            f"{node} lies on {lower}, which is write-protected",
            f"Say 'recovery unprotect /dev/{lower}', and set up what lies on it anew.",
        )
    if disk.read_only:
        raise Refused(f"{disk.path} is read-only by its hardware", "Look for a switch on the card or its adapter.")


def _check_content(node: Path, content: Content | None, disk: Disk) -> None:
    """Raise Refused, with the reason, for what is no filesystem that can be a destination."""
    whole = probe(Path(disk.path), Extent(0, disk.size_bytes), disk.logical_sector_bytes)
    if whole is not None and whole.kind in MEMBERSHIP:
        raise Refused(
            f"{disk.path} is {MEMBERSHIP[whole.kind]} ({whole.type}): writing to a part of it breaks that",
            "Set up what it belongs to, and name that; or use another disk.",
        )
    if content is None:
        raise Refused(
            f"nothing that is recognised is on {node}",
            f"To make a filesystem there: 'recovery unprotect {disk.path}', then 'mkfs.ext4 {node}'.",
        )
    if content.kind == "table":
        raise Refused(f"{node} is divided into partitions", "Name one of them: 'recovery disks' lists them.")
    if content.kind in _NO_PLACE:
        hint = "Open it (cryptsetup), and name what that makes." if content.kind == "crypto" else "Use another one."
        raise Refused(f"{node} holds {_NO_PLACE[content.kind].format(type=content.type)}, no filesystem", hint)
    if content.type not in _DRIVERS:
        raise Refused(
            f"the {content.type} filesystem on {node} cannot be a destination",
            f"These can: {', '.join(_DRIVERS)}.",
        )


def _release(disk: Disk, protection: Release) -> None:
    try:
        file = os.open(disk.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"{disk.path} cannot be opened: {error.strerror}", "It needs root.") from error
    try:
        protection.take_off(file, disk)
    finally:
        os.close(file)


def _make_folder(folder: Path | None, candidate: Candidate) -> tuple[Path, bool]:
    """Where it is mounted, and whether that folder was made for it.  Raises Refused."""
    if folder is None:
        label = re.sub(r"[^\w.+-]+", "_", candidate.content.label or "").strip("._") or candidate.name
        places = (MEDIA / (f"{label}-{number}" if number > 1 else label) for number in itertools.count(1))
        folder = next(place for place in places if _is_free(place))
    elif not _is_free(folder):
        raise Refused(f"{folder} is not an empty folder", "What is in it would be hidden: name another one.")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"the folder {folder} cannot be made: {error.strerror}", "Name another one.") from error
    return folder.absolute(), made


def _is_free(place: Path) -> bool:
    if not place.exists():
        return True
    return place.is_dir() and not os.path.ismount(place) and not any(place.iterdir())


def _repositories(place: Path) -> Iterator[Path]:
    """Folders that look like a repository: ``place``, and those right in it."""
    with os.scandir(place) as entries:
        inside = [Path(entry.path) for entry in itertools.islice(entries, _LOOKED_AT)]
    yield from (folder for folder in (place, *inside) if looks_like_repository(folder))


def looks_like_repository(folder: Path) -> bool:
    """Whether it has what every repository has.  Raises OSError."""
    return (folder / "config").is_file() and (folder / "keys").is_dir() and (folder / "data").is_dir()


def _mount_at(system: System, place: Path) -> Mount:
    """The last mount at that folder, or of that device."""
    real = os.path.realpath(place)
    is_device = Path(real).is_block_device()
    for found in reversed(system.mounts):
        if not is_device and found.point == real:
            return found
        if is_device and found.source.startswith("/dev/") and _is_over(system, found.source, real):
            return found
    raise UsageError(f"nothing is mounted at {place}", "'recovery disks' tells what is mounted where.")


def _is_over(system: System, source: str, device: str) -> bool:
    """Whether ``source`` is that device, or a loop device over it."""
    try:
        name = system.name_of(Path(source).stat().st_rdev)
        wanted = system.name_of(Path(device).stat().st_rdev)
    except OSError:
        return False
    return name is not None and wanted in system.storage(name)


def _held(name: str) -> tuple[str, ...]:
    """What has hold of the device although it was unmounted here; who is about to let go is given a moment."""
    ends = time.monotonic() + _LET_GO_SECONDS
    while (uses := System().uses(name) or claims(f"/dev/{name.replace('!', '/')}")) and time.monotonic() < ends:
        time.sleep(_POLL_SECONDS)
    return uses


def _protect_again(name: str) -> str | None:
    """Protect the disk if it was released and nothing uses another part of it; its path then."""
    if not is_released(name):
        return None
    disk = disk_for(Path("/dev") / name.replace("!", "/"))
    return disk.path if not disk.in_use and protect(disk) else None
