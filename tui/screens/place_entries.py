"""What the list of places for a repository holds, from what is mounted and what is attached."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from recovery.destination import Destination
from recovery.devices.disk import Disk
from recovery.inventory import DiskReport, shown
from recovery.places import Attached, Folder, attached, is_on
from recovery.units import MIB, format_bytes
from tui.verdicts import DYING, is_dying
from tui.widgets.disk_list import transport

#: To keep a repository; to read one; to open a filesystem and read its files; to put copies of files.
Purpose = Literal["store", "read", "look", "files"]
WRITING: tuple[Purpose, ...] = ("store", "files")

#: What a new repository is called.
NEW_FOLDER = "recovery"
#: Where copies of files go.
FILES_FOLDER = "saved-files"
#: A place with less room is called full.
_LEAST_BYTES = 64 * MIB

_SAVED = "It is on a disk that is to be saved itself."
_INVITATIONS: dict[Purpose, str] = {
    "store": "choose it to keep the image there",
    "read": "choose it to look for images there; nothing is written",
    "look": "choose it to open it; nothing is written",
    "files": "choose it to put the copies there",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a repository is (``exists``), or will be made; ``device``: what it lies on, empty where that is not known.

    ``free_bytes``: the room there.
    """

    folder: Path
    exists: bool
    device: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list.  ``place``: what choosing it gives; without, ``action`` says what is done first.

    ``key`` names it for as long as the same thing is there; ``problem``: why it cannot be chosen.  ``free_bytes``:
    about the room of what is not mounted yet; None where it is not known.
    """

    key: str
    title: str
    detail: str
    place: Place | None = None
    action: Literal["", "mount", "erase", "folder"] = ""
    device: Path | None = None
    problem: str = ""
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found: mounted filesystems, each with its repositories looked into; and the disks."""

    mounted: tuple[tuple[Destination, tuple[Folder, ...]], ...]
    reports: tuple[DiskReport, ...]


def entries(
    seen: Seen, purpose: Purpose, *, kept_off: Collection[str] = (), needed_bytes: int = 0, typed: Place | None = None
) -> list[Entry]:
    """The list: what can be chosen first.  ``kept_off``: paths of disks that are read, and cannot hold the repository.

    ``needed_bytes``: what may have to be stored; ``typed``: a folder that was named before.
    """
    found = [
        _kept_off(entry) if _is_on(made.device, kept_off, seen.reports) else entry
        for made, folders in seen.mounted
        for entry in _mounted(made, folders, seen.reports, purpose)
    ]
    known = {str(entry.place.folder) for entry in found if entry.place is not None}
    if typed is not None and str(typed.folder) not in known:
        found.append(_typed(typed, seen.reports))
    held = {made.device for made, _ in seen.mounted}
    places = [
        place for place in attached(seen.reports, read_only=purpose not in WRITING) if str(place.device) not in held
    ]
    if purpose != "look":  # images are kept on disks that are plugged in, more often than not
        places.sort(key=lambda place: place.disk.transport != "usb" and not place.disk.removable)
    found += [
        _kept_off(_attached(place, purpose)) if place.disk.path in kept_off else _attached(place, purpose)
        for place in places
    ]
    found = [_judged(_trusted(entry, purpose, seen.reports), needed_bytes, purpose) for entry in found]
    if purpose in WRITING:
        detail = "For a new or an empty disk. What is on it now is shown first; nothing is erased before you agree."
        what = "keep the image on it" if purpose == "store" else "put the copies on it"
        found.append(Entry("erase", f"Erase a disk, and {what} ...", detail, action="erase"))
    found.append(Entry("folder", "Another folder ...", "Type the name of a folder on this machine.", action="folder"))
    return [entry for entry in found if not entry.problem] + [entry for entry in found if entry.problem]


def fresh_folder(parent: Path) -> Path:
    """A folder for copies that is not there yet; it looks at a disk: for a thread."""
    names = (f"{FILES_FOLDER}-{number}" if number > 1 else FILES_FOLDER for number in itertools.count(1))
    return next(parent / name for name in names if not (parent / name).exists())


def disk_of(device: str, reports: Sequence[DiskReport]) -> Disk | None:
    """The disk that is, or holds, that device."""
    return next((report.disk for report in reports if is_on(device, report.disk.path)), None)


def on_device(device: str, reports: Sequence[DiskReport]) -> str:
    """A device in words that can be recognised: sdb1 on Samsung T7 (USB)."""
    disk = disk_of(device, reports)
    if disk is None:
        return shown(device.removeprefix("/dev/"))
    model = " ".join(word for word in (disk.vendor, disk.model) if word)
    how = transport(disk.transport)
    name = Path(device).name
    return shown(f"{name} on {model}{f' ({how})' if how else ''}" if model else name)


def _mounted(
    made: Destination, folders: Sequence[Folder], reports: Sequence[DiskReport], purpose: Purpose
) -> list[Entry]:
    where = on_device(made.device, reports)
    if purpose == "look":
        place = Place(Path(made.folder), True, made.device, made.free_bytes)
        how = "open for reading only" if made.read_only else "open; its files are only read"
        return [Entry(f"mounted:{made.device}", _filesystem(made), f"{where}; {how}", place)]
    if purpose in WRITING and made.read_only:
        detail = f"{where}; mounted for reading only. Choosing it lets the program write there."
        return [Entry(f"mount:{made.device}", _filesystem(made), detail, action="mount", device=Path(made.device))]
    if purpose == "files":
        place = Place(Path(made.folder), False, made.device, made.free_bytes)
        detail = f"in {shown(made.folder)}, {where}; {format_bytes(made.free_bytes)} free"
        return [Entry(f"new:{made.device}", f"A new folder on {_filesystem(made)}", detail, place)]
    found = [_repository(folder, where, made) for folder in folders]
    if found:
        return found
    if purpose == "read":
        detail, problem = where, "No repository was found in it. If it is deeper inside, choose: Another folder."
        return [Entry(f"mounted:{made.device}", _filesystem(made), detail, problem=problem)]
    place = Place(Path(made.folder) / NEW_FOLDER, False, made.device, made.free_bytes)
    on = f" on {where.partition(' on ')[2]}" if " on " in where else ""
    detail = f"{_filesystem(made)}{on}; {format_bytes(made.free_bytes)} free"
    return [Entry(f"new:{made.device}", f"Make a new repository: {shown(str(place.folder))}", detail, place)]


def _repository(folder: Folder, where: str, made: Destination) -> Entry:
    newest = f", the newest of {folder.newest:%Y-%m-%d %H:%M}" if folder.newest is not None else ""
    many = "one saved state" if folder.snapshots == 1 else f"{folder.snapshots} saved states"
    images = f"{many}{newest}" if folder.snapshots else "nothing in it yet"
    room = "" if made.read_only else f"{format_bytes(made.free_bytes)} free; "
    place = Place(folder.folder, True, made.device, made.free_bytes)
    title = f"The repository {shown(str(folder.folder))}"
    return Entry(f"repository:{folder.folder}", title, f"{where}; {room}{images}", place, problem=folder.problem)


def _typed(place: Place, reports: Sequence[DiskReport]) -> Entry:
    title = f"{'The repository' if place.exists else 'Make a new repository:'} {shown(str(place.folder))}"
    where = f"{on_device(place.device, reports)}; " if place.device else ""
    return Entry(f"typed:{place.folder}", title, f"{where}{format_bytes(place.free_bytes)} free", place)


def _is_on(device: str, disks: Collection[str], reports: Sequence[DiskReport]) -> bool:
    disk = disk_of(device, reports)
    return disk is not None and disk.path in disks


def _kept_off(entry: Entry) -> Entry:
    return replace(entry, detail=entry.detail.partition(";")[0], problem=_SAVED)


def _attached(place: Attached, purpose: Purpose) -> Entry:
    label = f' "{place.content.label}"' if place.content.label else ""
    kind = "encrypted" if place.content.kind == "crypto" else place.content.type
    title = f"{place.device.name}: {kind}{label}, {format_bytes(place.size_bytes)}"
    model = " ".join(word for word in (place.disk.vendor, place.disk.model) if word)
    how = transport(place.disk.transport)
    words = [" ".join(word for word in (model, f"({how})" if how else "") if word)]
    free_bytes = max(0, place.size_bytes - place.used_bytes) if place.used_bytes is not None else None
    if free_bytes is not None and purpose in WRITING:
        words.append(f"about {format_bytes(free_bytes)} free")
    words += [] if place.problem else [_INVITATIONS[purpose]]
    return Entry(
        f"mount:{place.device}",
        shown(title),
        shown("; ".join(word for word in words if word)),
        action="mount",
        device=place.device,
        problem=place.problem,
        free_bytes=free_bytes,
    )


def _filesystem(made: Destination) -> str:
    label = f' "{made.label}"' if made.label else ""
    return shown(f"{Path(made.device).name}: {made.filesystem or 'filesystem'}{label}, {format_bytes(made.size_bytes)}")


def _trusted(entry: Entry, purpose: Purpose, reports: Sequence[DiskReport]) -> Entry:
    """With a warning where it is on a disk that is dying."""
    device = str(entry.device) if entry.device is not None else entry.place.device if entry.place is not None else ""
    dying = [report.disk for report in reports if is_dying(report)]
    if purpose == "read" or disk_of(device, reports) not in dying:
        return entry
    if purpose not in WRITING:
        return replace(entry, detail=f"{DYING}: save what matters most first. {entry.detail}")
    return replace(entry, detail=f"{DYING}: do not keep anything on it. {entry.detail}")


def _judged(entry: Entry, needed_bytes: int, purpose: Purpose) -> Entry:
    """With what is to be said of its room."""
    place = entry.place
    free_bytes = place.free_bytes if place is not None else entry.free_bytes
    if purpose not in WRITING or free_bytes is None or entry.problem:
        return entry
    if place is not None and free_bytes < _LEAST_BYTES:
        problem = f"It is full: {format_bytes(free_bytes)} are free."
        return replace(entry, problem=problem)
    if free_bytes < needed_bytes:
        room = f"perhaps too small for the {format_bytes(needed_bytes)} in use"
        return replace(entry, detail=f"{entry.detail}; {room}")
    return entry
