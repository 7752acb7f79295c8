"""The system images of a repository, as they are to be shown.  Reading them takes its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from recovery.errors import RecoveryError, RepositoryDamaged
from recovery.image.manifest import TAG, TAG_INCOMPLETE, ImageDisk, Manifest
from recovery.image.view import SystemImage
from recovery.inventory import shown
from recovery.repository.repository import Repository, StoredSnapshot
from recovery.units import format_bytes


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One system image.  ``new_bytes``: what it added to the repository, None when that is not told.

    ``incomplete``: it is marked so.  ``manifest`` is None when it cannot be had, and
    ``problem`` says why.
    """

    id: str
    machine: str
    hardware: str
    time: datetime
    new_bytes: int | None
    incomplete: bool
    manifest: Manifest | None
    problem: str = ""

    @property
    def when(self) -> str:
        """Its date and time, here."""
        return f"{self.time.astimezone():%Y-%m-%d %H:%M}"

    @property
    def unreadable_bytes(self) -> int:
        """What of its disks could not be read."""
        return sum(disk.unreadable_bytes for disk in self.manifest.disks) if self.manifest else 0

    def marks(self) -> list[str]:
        """What it lacks, in sentences."""
        found = []
        if self.unreadable_bytes:
            size = format_bytes(self.unreadable_bytes)
            found.append(f"Incomplete: {size} could not be read from the disks, and are zeros in it.")
        elif self.incomplete:
            found.append("Incomplete: only a part of the disks is in it.")
        for disk in self.manifest.disks if self.manifest else ():
            missing = [str(part.number) for part in disk.partitions if part.method == "left-out"]
            if missing:
                word = "Partition" if len(missing) == 1 else "Partitions"
                was = "was" if len(missing) == 1 else "were"
                found.append(shown(f"{word} {', '.join(missing)} of {disk.name} {was} left out of it."))
        return found


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest ``images`` first; how many ``older`` ones were not read; how many snapshots hold ``files``.

    ``problems``: snapshots that cannot be read, in sentences.
    """

    images: tuple[StoredImage, ...]
    older: int = 0
    files: int = 0
    problems: tuple[str, ...] = ()


def list_images(repository: Repository, newest: int | None = None) -> Listing:
    """The images in ``repository``; only the ``newest`` when a number is given.  Raises DeviceError."""
    found, problems = repository.snapshots()
    images = [stored for stored in reversed(found) if TAG in (stored.snapshot.tags or [])]
    read = images if newest is None else images[:newest]
    if read:
        problems += repository.load_index(mend=True)
    return Listing(
        images=tuple(_image(repository, stored) for stored in read),
        older=len(images) - len(read),
        files=len(found) - len(images),
        problems=tuple(shown(problem) for problem in problems),
    )


def _image(repository: Repository, stored: StoredSnapshot) -> StoredImage:
    snapshot = stored.snapshot
    manifest: Manifest | None = None
    problem = ""
    try:
        manifest = SystemImage(repository, stored).manifest
    except RepositoryDamaged as error:
        problem = f"It is damaged: {error.message}."
    except RecoveryError as error:
        problem = f"{error.message[:1].upper()}{error.message[1:]}."
    machine = manifest.machine if manifest else None
    words = [machine.vendor, machine.product] if machine else []
    return StoredImage(
        id=stored.id,
        machine=shown(snapshot.hostname or "unnamed machine"),
        hardware=shown(" ".join(word for word in words if word)),
        time=snapshot.time,
        new_bytes=snapshot.summary.data_added if snapshot.summary else None,
        incomplete=TAG_INCOMPLETE in (snapshot.tags or []),
        manifest=manifest,
        problem=shown(problem),
    )


def disk_words(disk: ImageDisk) -> str:
    """A captured disk in a few words."""
    words = [disk.name, format_bytes(disk.size_bytes), disk.model, f"serial {disk.serial}" if disk.serial else ""]
    return shown("  ".join(word for word in words if word))
