"""What a recording says: a machine, its disks, what is on them, what is wrong with them.

JSON; sizes in bytes.  Names that are not known here are errors, and every error says which field it is about.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from recovery.errors import UsageError
from recovery.image.manifest import Machine as MachineFacts
from recovery.units import KIB, MIB, TIB
from tui.network import Network

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=64 * TIB)]
Kind = Literal["ext4", "vfat", "ntfs", "xfs", "btrfs", "swap", "luks", "raid", "lvm"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a recording."""


class Image(_Strict, frozen=True):
    """A system image in a repository: of which recorded disk, of which host, made when."""

    disk: Name
    host: str
    made: datetime
    vendor: str = ""
    product: str = ""


class RecordedRepository(_Strict, frozen=True):
    """A repository in ``folder`` of a filesystem."""

    folder: Name
    images: tuple[Image, ...]
    password: str = ""


class Filesystem(_Strict, frozen=True):
    """What lies on a partition, or straight on a disk.

    ``used_bytes``: how full it is, where that can be made without writing it (ext4, NTFS, XFS).  ``system``: what lives
    there, in words; a Linux has a file os-release that says so.  ``boots``: an EFI system partition with loaders.
    ``data_bytes`` of files that cannot be compressed lie on it.
    """

    kind: Kind
    label: str = ""
    used_bytes: Bytes = 0
    data_bytes: Annotated[int, msgspec.Meta(ge=0, le=512 * MIB)] = 0
    system: str = ""
    boots: bool = False
    repository: RecordedRepository | None = None


class Partition(_Strict, frozen=True):
    """A partition; ``type`` as sfdisk writes it.  ``size_bytes`` 0: what is left of the disk."""

    type: str
    size_bytes: Bytes = 0
    name: str = ""
    filesystem: Filesystem | None = None


class Area(_Strict, frozen=True):
    """A range of a disk.  ``seconds``: how long a read of each 64 KiB there takes, where it is slow."""

    offset: Bytes
    length: Bytes
    seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0


class Faults(_Strict, frozen=True):
    """What is wrong with a disk.  ``hangs_after_bytes``: it answers no more once so much was read from it."""

    unreadable: tuple[Area, ...] = ()
    slow: tuple[Area, ...] = ()
    silent: tuple[Area, ...] = ()
    hangs_after_bytes: Bytes | None = None


class RecordedDisk(_Strict, frozen=True):
    """A disk, as the kernel and udev would tell of it.  ``smart``: the answer of ``smartctl --json --all``.

    ``table`` None: ``filesystem`` lies straight on it, or nothing.  ``members``: names of the disks that it is an array
    of.  ``plugged``: whether it is there from the start.
    """

    name: Name
    size_bytes: Annotated[int, msgspec.Meta(ge=MIB, le=64 * TIB)]
    model: str | None = None
    vendor: str | None = None
    serial: str | None = None
    wwn: str | None = None
    transport: str | None = None
    logical_sector_bytes: Literal[512] = 512
    physical_sector_bytes: Literal[512, 4096] = 512
    rotational: bool = False
    removable: bool = False
    boot_medium: bool = False
    read_only: bool = False
    in_use: tuple[str, ...] = ()
    table: Literal["gpt", "dos"] | None = None
    partitions: tuple[Partition, ...] = ()
    filesystem: Filesystem | None = None
    faults: Faults = Faults()
    smart: msgspec.Raw = msgspec.Raw(b"")
    plugged: bool = True


class Plug(_Strict, frozen=True):
    """A disk that is plugged in, or with ``out`` pulled out, so many seconds after the start."""

    disk: Name
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    out: bool = False


class Recording(_Strict, frozen=True):
    """The whole file.  ``about`` is for people; ``live``: it was started from our medium."""

    about: str
    machine: MachineFacts
    disks: tuple[RecordedDisk, ...]
    live: bool = True
    battery: str | None = None
    network: Network = Network((), (), ())
    plug: tuple[Plug, ...] = ()

    def disk(self, name: str) -> RecordedDisk:
        """The disk of that name.  Raises UsageError."""
        for disk in self.disks:
            if disk.name == name:
                return disk
        raise UsageError(f"the recording has no disk {name}", f"It has: {', '.join(d.name for d in self.disks)}.")


def find_recording(name: Path) -> Path:
    """A file, or one that ships, by its name ("laptop").  Raises UsageError."""
    if name.is_file():
        return name
    folder = Path(__file__).parent / "recordings"
    shipped = folder / f"{name}.json"
    if name.parent == Path() and shipped.is_file():
        return shipped
    names = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
    raise UsageError(f"there is no recording {name}", f"Name a file, or one of these: {names}.")


def load_recording(path: Path) -> Recording:
    """Read and check a recording.  Raises UsageError, which says which field is wrong."""
    try:
        recording = msgspec.json.decode(path.read_bytes(), type=Recording)
    except OSError as error:
        raise UsageError(f"the recording {path} cannot be read: {error.strerror}", "Name another file.") from error
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the recording {path.name} is not right: {error}", "`$` stands for the whole file."
        ) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"the recording {path.name} is not JSON: {error}", "Look for a comma or a quote.") from error
    for problem in _problems(recording):
        raise UsageError(f"the recording {path.name} is not right: {problem}", "Mend it, and try again.")
    return recording


def _problems(recording: Recording) -> list[str]:
    names = [disk.name for disk in recording.disks]
    found = [f"two disks are called {name}" for name in sorted(set(names)) if names.count(name) > 1]
    for disk in recording.disks:
        where = f"$.disks of {disk.name}"
        if disk.table is None and disk.partitions:
            found.append(f"{where} has partitions and no table")
        if disk.table is not None and disk.filesystem is not None:
            found.append(f"{where} has a table and a filesystem in the same place")
        found += [
            f"{where}: area at {area.offset} ends behind the disk" for area in _areas(disk) if _beyond(area, disk)
        ]
        open_ended = [number for number, part in enumerate(disk.partitions, 1) if not part.size_bytes]
        if open_ended not in ([], [len(disk.partitions)]):
            found.append(f"{where}: only the last partition may have no size_bytes")
        if sum(part.size_bytes for part in disk.partitions) + (len(disk.partitions) + 2) * MIB > disk.size_bytes:
            found.append(f"{where}: its partitions are larger than the disk")
        found += [
            f"{where}: image of {image.disk}, which is no disk of the recording"
            for image in _images(disk)
            if image.disk not in names
        ]
    found += [f"$.plug names {plug.disk}, which is no disk" for plug in recording.plug if plug.disk not in names]
    return found


def _areas(disk: RecordedDisk) -> tuple[Area, ...]:
    return (*disk.faults.unreadable, *disk.faults.slow, *disk.faults.silent)


def _beyond(area: Area, disk: RecordedDisk) -> bool:
    return area.offset + area.length > disk.size_bytes


def _images(disk: RecordedDisk) -> tuple[Image, ...]:
    places = (disk.filesystem, *(part.filesystem for part in disk.partitions))
    return tuple(image for place in places if place and place.repository for image in place.repository.images)


#: Reads of a slow area are counted in these.
SLOW_BYTES = 64 * KIB
