"""Where a repository may lie: what is mounted, what could be, what a folder is.

For the interface, which shows all of it before anything is chosen.  What is attached is judged by the survey alone: no
disk is opened for it.  What is mounted is asked in threads that nobody waits for longer than a few seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from recovery.destination import MEDIA, MOUNTABLE, Destination, describe, looks_like_repository
from recovery.devices.disk import Disk
from recovery.devices.live import live_system
from recovery.devices.probe import Content, probe
from recovery.devices.usage import System, printable
from recovery.errors import RecoveryError
from recovery.extent import Extent
from recovery.inventory import DiskReport, PartitionReport
from recovery.surveyor import SILENT

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 5.0
_MEMORY = ("tmpfs", "ramfs")
#: The live system's own lies over memory.
_LIVE_MEMORY = (*_MEMORY, "overlay", "rootfs")
_EFI_SYSTEM = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


@dataclass(frozen=True, slots=True)
class Attached:
    """A filesystem on an attached disk that is not mounted.

    ``number``: of its partition; None where it lies straight on the disk.  ``device`` is what it is mounted by.
    ``problem``: why it cannot be, in a sentence; empty when nothing is known that speaks against it.
    """

    disk: Disk
    number: int | None
    device: Path
    content: Content
    size_bytes: int
    used_bytes: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder is as the place for a repository.  ``newest``: when the newest snapshot was stored.

    ``problem``: why it can be none, in a sentence.  ``fleeting``: it lies in this machine's memory.
    """

    folder: Path
    repository: bool
    device: str
    free_bytes: int
    read_only: bool
    snapshots: int = 0
    newest: datetime | None = None
    problem: str = ""
    fleeting: bool = False


def mounted(seconds: float = _PATIENCE_SECONDS) -> list[Destination]:
    """The filesystems that are mounted below /media, by folder; one that does not answer in time is left out."""
    system = System()
    points = {mount.point: mount for mount in system.mounts if Path(mount.point).is_relative_to(MEDIA)}
    found: dict[str, Destination] = {}

    def ask(point: str, source: str) -> None:
        try:
            device = _device_of(system, source)
            found[point] = describe(Path(point), printable(device), _content_of(device))
        except OSError as error:
            log.warning("%s cannot be looked into: %s", point, error.strerror)

    threads = [
        threading.Thread(target=ask, args=(point, mount.source), name=f"look at {point}", daemon=True)
        for point, mount in points.items()
    ]
    ends = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread, point in zip(threads, points, strict=True):
        thread.join(timeout=max(0.0, ends - time.monotonic()))
        if thread.is_alive():
            log.warning("%s does not answer", point)
    return [found[point] for point in sorted(found)]


def attached(reports: Sequence[DiskReport], *, read_only: bool = False) -> list[Attached]:
    """The filesystems of these disks that are not mounted, with what speaks against mounting them.

    ``read_only``: only to read from them.  Swap, partitions that start a machine and what is not recognised are left
    out; what is encrypted is told, with the reason why it cannot be used.
    """
    return [place for report in reports for place in _attached_on(report, read_only)]


def device_of(disk: Disk, number: int | None) -> Path:
    """The device of a partition as the kernel names it: sda1, nvme0n1p1."""
    if number is None:
        return disk.place
    return Path(f"{disk.path}{'p' if disk.path[-1].isdigit() else ''}{number}")


def is_on(device: str, disk: str) -> bool:
    """Whether ``device`` is that disk or a partition of it, by their names: loop12 is no partition of loop1."""
    mark = "p" if disk[-1:].isdigit() else ""
    return device == disk or (device.startswith(disk + mark) and device[len(disk + mark) :].isdigit())


def look_into(folder: Path) -> Folder:
    """What ``folder`` is as the place for a repository.  What is not there yet counts as its nearest parent."""
    try:
        parent = next(place for place in (folder, *folder.parents) if place.exists())
        room = os.statvfs(parent)
        repository = looks_like_repository(folder)
        count, newest = _snapshots(folder) if repository else (0, None)
        problem = _folder_problem(folder, parent, repository)
    except OSError as error:
        return Folder(folder, False, "", 0, True, problem=f"It cannot be looked into: {error.strerror}.")
    system = System()
    names = sorted(name for name in system.devices_below(parent) if not name.startswith(("file:", "loop")))
    return Folder(
        folder=folder,
        repository=repository,
        device=f"/dev/{names[-1]}" if names else "",
        free_bytes=room.f_bavail * room.f_frsize,
        read_only=bool(room.f_flag & os.ST_RDONLY),
        snapshots=count,
        newest=newest,
        problem=problem,
        fleeting=not names and _kind_of(system, parent) in (_LIVE_MEMORY if live_system() is not None else _MEMORY),
    )


def _kind_of(system: System, place: Path) -> str:
    """The kind of filesystem that the folder lies in, as the kernel calls it."""
    real = place.resolve()
    over = [mount for mount in system.mounts if real.is_relative_to(mount.point)]
    return max(over, key=lambda mount: len(mount.point)).kind if over else ""


def _folder_problem(folder: Path, parent: Path, repository: bool) -> str:
    if not parent.is_dir():
        return f"{parent} is a file, not a folder."
    if folder != parent or repository:
        return ""
    inside = {entry.name for entry in os.scandir(folder)}
    return "It is not empty, and holds no repository." if inside and "keys" not in inside else ""


def _snapshots(folder: Path) -> tuple[int, datetime | None]:
    """How many there are, and when the newest was stored: by its file, for its content is encrypted."""
    place = folder / "snapshots"
    if not place.is_dir():
        return 0, None
    times = [entry.stat().st_mtime for entry in os.scandir(place) if len(entry.name) == 64]
    return len(times), datetime.fromtimestamp(max(times), UTC).astimezone() if times else None


def _device_of(system: System, source: str) -> str:
    """The partition behind a mount: ours for reading have a loop device between."""
    try:
        name = system.name_of(Path(source).stat().st_rdev)
    except OSError:
        return source
    if name is None or not name.startswith("loop"):
        return source
    below = sorted(other for other in system.storage(name) - {name} if not other.startswith("file:"))
    return f"/dev/{below[0]}" if below else source


def _content_of(device: str) -> Content | None:
    try:
        node = Path(device)
        if not node.is_block_device():
            return None
        with node.open("rb", buffering=0) as file:
            size_bytes = file.seek(0, os.SEEK_END)
        return probe(node, Extent(0, size_bytes))
    except (OSError, RecoveryError) as error:
        log.info("%s cannot be recognised: %s", device, error)
        return None


def _attached_on(report: DiskReport, read_only: bool) -> Iterator[Attached]:
    disk = report.disk
    against = _against_disk(report, read_only)
    if report.content is not None and report.table is None:
        yield from _attached_at(report, None, report.content, disk.size_bytes, report.used_bytes, against, read_only)
    for part in report.partitions:
        if part.content is not None and _is_place(part):
            yield from _attached_at(
                report, part.entry.number, part.content, part.entry.length, part.used_bytes, against, read_only
            )


def _attached_at(
    report: DiskReport,
    number: int | None,
    content: Content,
    size_bytes: int,
    used_bytes: int | None,
    against: str,
    read_only: bool,
) -> Iterator[Attached]:
    device = device_of(report.disk, number)
    uses = [use for use in report.disk.in_use if number is None or use.startswith(f"{device.name} ")]
    if any("mounted at" in use for use in uses):
        if any(f"mounted at {MEDIA}/" in use for use in uses):
            return  # it is among those that are mounted
        against = against or f"It is in use ({'; '.join(uses)}). A folder of it can be named."
    elif uses:
        against = against or f"It is in use: {'; '.join(uses)}."
    if content.kind == "filesystem" or content.kind == "crypto":
        problem = against or _against_content(content, size_bytes, used_bytes, read_only)
        yield Attached(report.disk, number, device, content, size_bytes, used_bytes, problem)


def _is_place(part: PartitionReport) -> bool:
    return part.entry.type.lower() not in (_EFI_SYSTEM, "0xef") and part.entry.role != "extended"


def _against_disk(report: DiskReport, read_only: bool) -> str:
    disk = report.disk
    if disk.boot_medium:
        return "It is on the stick or disc that this system was started from."
    if SILENT in report.findings:
        return "Its disk does not answer."
    if report.content is not None and report.content.kind in ("raid", "lvm", "volume"):
        return "Its disk is a member of an array or a pool: writing to a part of it breaks that."
    if disk.read_only and not read_only:
        return "Its disk cannot be written: it is read-only by its hardware."
    return ""


def _against_content(content: Content, size_bytes: int, used_bytes: int | None, read_only: bool) -> str:
    if content.kind == "crypto":
        return "It is encrypted. Open it in a shell (cryptsetup) and mount it; then a folder of it can be named."
    if content.type not in MOUNTABLE:
        return f"Filesystems of the kind {content.type} cannot be used for that."
    if not read_only and used_bytes is not None and used_bytes >= size_bytes:
        return "It is full."
    return ""
