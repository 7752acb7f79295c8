"""Why a disk may not be read from or written to, as sentences; an empty list means that nothing speaks against it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from recovery.devices.disk import Disk, claims
from recovery.devices.live import carriers
from recovery.devices.probe import MEMBERSHIP, Content
from recovery.devices.protection import is_protected
from recovery.devices.usage import System

_READERS_SECONDS, _POLL_SECONDS = 1.0, 0.02


def disks_under(path: Path) -> frozenset[str]:
    """The kernel's names of the devices that carry the file or folder ``path``, whole disks among them.

    Partitions and what is stacked between count too; empty for memory and network.
    """
    return frozenset(name for name in System().devices_below(path) if not name.startswith("file:"))


def source_problems(disk: Disk, *, repository: Path | None = None) -> list[str]:
    """Why ``disk`` may not be captured now; ``repository`` is the folder that is written to, if it is one."""
    system = System()
    problems = [f"{disk.path} is in use: {reason}." for reason in _uses(system, disk, readers=False)]
    if repository is not None:
        problems += _repository_problems(system, disk, repository)
    return problems


def target_problems(disk: Disk, *, repository: Path | None = None, sources: Sequence[Disk] = ()) -> list[str]:
    """Why ``disk`` may not be overwritten now, with what is read from ``repository`` (a folder) or ``sources``."""
    system = System()
    problems = [f"{disk.path} is read-only."] if disk.read_only else []
    problems += [f"{disk.path} is in use: {reason}." for reason in _uses(system, disk, readers=True)]
    mine = _storage(system, disk)
    problems += _protected_below(system.whole_disks(mine), disk)
    if mine & system.devices_below(Path("/")):
        problems.append(f"{disk.path} holds the system that is running now.")
    if disk.boot_medium or mine & carriers(system):
        problems.append(f"{disk.path} is the medium that this system was started from.")
    if repository is not None:
        problems += _repository_problems(system, disk, repository)
    for source in sources:
        if _share(system, disk, source):
            same = source.path == disk.path
            problems.append(
                f"{disk.path} is the source itself." if same else f"{disk.path} is the same storage as {source.path}."
            )
        elif source.is_image_file and mine & system.devices_below(source.place):
            problems.append(f"{disk.path} holds the source {source.path}.")
    return problems


def members(disk: Disk, contents: Mapping[str, Content | None]) -> list[str]:
    """What breaks when ``disk`` is overwritten because other disks belong to it; each needs its own confirmation.

    ``contents`` maps what is probed ("partition 2", "the whole disk") to what was found there.
    """
    found = []
    for where, content in contents.items():
        if content is None or content.kind not in MEMBERSHIP:
            continue
        named = "".join(f" {word}" for word in (content.label and f"{content.label!r}", content.uuid) if word)
        what = f"{where[:1].upper()}{where[1:]} of {disk.path} is {MEMBERSHIP[content.kind]} ({content.type}{named})"
        found.append(f"{what}: overwriting it breaks what the other members hold.")
    return found


def _repository_problems(system: System, disk: Disk, repository: Path) -> list[str]:
    if disk.is_image_file and _inside(disk.place, repository):
        return [f"{disk.path} lies inside the repository folder {repository}."]
    if _storage(system, disk) & system.devices_below(repository):
        return [f"{disk.path} holds the repository {repository}."]
    return []


def _protected_below(storage: frozenset[str], disk: Disk) -> list[str]:
    """Disks that ``disk`` is stacked upon and that are write-protected: only what is confirmed is released."""
    problems = []
    for name in sorted(storage):
        if name == disk.name or name.startswith("file:"):
            continue
        below = Path("/dev") / name.replace("!", "/")
        if is_protected(name):
            problems.append(f"{disk.path} lies on {below}, which is write-protected: 'recovery unprotect {below}'.")
    return problems


def _inside(file: Path, folder: Path) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def _uses(system: System, disk: Disk, *, readers: bool) -> tuple[str, ...]:
    """What uses the disk now, whatever used it when ``disk`` was read.

    Where only readers do, they are given a moment to end: a loop device that was let go of stays while a prober (udev)
    looks at it.
    """
    uses = _uses_now(system, disk, readers=readers)
    ends = time.monotonic() + _READERS_SECONDS
    while readers and uses and time.monotonic() < ends and not _uses_now(system, disk, readers=False):
        time.sleep(_POLL_SECONDS)
        system = System()
        uses = _uses_now(system, disk, readers=True)
    return uses


def _uses_now(system: System, disk: Disk, *, readers: bool) -> tuple[str, ...]:
    if not disk.is_image_file:
        return system.uses(disk.name, readers=readers) or claims(disk.path)
    try:
        return system.uses_of_file(disk.place.stat(), readers=readers)
    except OSError:
        return disk.in_use


def _storage(system: System, disk: Disk) -> frozenset[str]:
    return frozenset([disk.file_id]) if disk.file_id is not None else system.storage(disk.name)


def _share(system: System, one: Disk, other: Disk) -> bool:
    """Whether writing to one changes the other: the same disk, a partition of it, or something stacked upon it."""
    first, second = _storage(system, one), _storage(system, other)
    return bool(first & system.whole_disks(second) or second & system.whole_disks(first))
