"""What a repository holds beside system images, and having it writable.  All of it may take its time."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from recovery.errors import RecoveryError, Refused
from recovery.image.manifest import TAG
from recovery.inventory import shown
from recovery.repository.repository import Repository
from tui.machine import Machine


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """A snapshot of files, which restic made.  ``paths``: the files and folders that were stored."""

    id: str
    machine: str
    time: datetime
    paths: tuple[str, ...]
    new_bytes: int | None

    @property
    def when(self) -> str:
        """Its date and time, here."""
        return f"{self.time.astimezone():%Y-%m-%d %H:%M}"


def list_files(repository: Repository) -> tuple[StoredFiles, ...]:
    """The snapshots of files, newest first.  Raises DeviceError."""
    found, _ = repository.snapshots()
    return tuple(
        StoredFiles(
            id=stored.id,
            machine=shown(stored.snapshot.hostname or "unnamed machine"),
            time=stored.snapshot.time,
            paths=tuple(map(shown, stored.snapshot.paths)),
            new_bytes=stored.snapshot.summary.data_added if stored.snapshot.summary else None,
        )
        for stored in reversed(found)
        if TAG not in (stored.snapshot.tags or [])
    )


def is_read_only(folder: Path) -> bool:
    """Whether its filesystem is mounted for reading only.  Raises OSError."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def made_writable(machine: Machine, folder: Path) -> Path:
    """Mount the filesystem below ``folder``, which is mounted for reading only, for writing; where the folder is then.

    Raises Refused when it is none of ours to mount, and what mounting raises: it is mounted for reading then.
    """
    for made in machine.destinations():
        if made.read_only and folder.is_relative_to(made.folder):
            try:
                again = machine.mount(Path(made.device))
            except RecoveryError:
                with suppress(RecoveryError):
                    machine.mount(Path(made.device), read_only=True)
                raise
            return Path(again.folder) / folder.relative_to(made.folder)
    raise Refused(
        f"the filesystem that holds {folder} can only be read, and was not mounted by this program",
        "Mount it for writing, and try again.",
    )
