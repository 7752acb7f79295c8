"""What is wanted of an operation: plain values, so that the command line and the interface start the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import get_args

from recovery.devices.disk import DiskIdentity
from recovery.image.layout import CHUNK_BYTES
from recovery.inventory import shown
from recovery.repository.format import ID_BYTES
from recovery.salvage.choose import FileKind


class Kind(StrEnum):
    """What a job does."""

    CAPTURE = "capture"
    RESTORE = "restore"
    CLONE = "clone"
    VERIFY = "verify"
    COPY = "copy"
    SALVAGE = "salvage"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """Capture ``sources``.  ``only`` and ``without``: partition numbers of a single source.

    ``review``: the plan is shown and must be agreed to, as that of a restore, with ``yes``; words behind it may still
    change ``verify`` and ``audit`` (``yes audit no-verify``).  ``chosen``: what the sources must be, when not empty.
    ``patience_seconds``: for how long bad areas are gone into; None: to the end.  ``continues``: the newest incomplete
    image of these disks is completed.  ``interim_seconds``: how often one is published while a disk fails.
    """

    sources: tuple[Path, ...]
    only: frozenset[int] | None = None
    without: frozenset[int] = frozenset()
    level: int = 3
    verify: bool = True
    space_check: bool = True
    clock_check: bool = True
    hostname: str = ""
    tags: tuple[str, ...] = ()
    chunk_bytes: int = CHUNK_BYTES
    dry_run: bool = False
    audit: bool = False
    review: bool = False
    chosen: tuple[DiskIdentity, ...] = ()
    patience_seconds: float | None = None
    continues: bool = False
    interim_seconds: float = 180.0

    kind = Kind.CAPTURE

    @property
    def what(self) -> str:
        """Its sources, in words."""
        return shown(", ".join(map(str, self.sources)))


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """Write a disk of ``snapshot``, or ``partition`` of it, onto ``target``.  ``confirmed``: do not ask.

    ``boot_entry``: write to this machine's firmware how the disk is started; None: in our live system only.
    """

    snapshot: str
    target: Path
    disk: str | None = None
    partition: int | None = None
    to_partition: int | None = None
    verify: bool = True
    partial: bool = False
    differential: bool = False
    break_members: bool = False
    boot_entry: bool | None = None
    fallback_loader: bool = False
    confirmed: bool = False
    dry_run: bool = False

    kind = Kind.RESTORE

    @property
    def what(self) -> str:
        """Its snapshot and target, in words."""
        return shown(f"{_short(self.snapshot)} to {self.target}")


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """Write the disk ``source`` onto ``target``.  ``confirmed``, ``boot_entry``: as of a restore.

    ``chosen``: what the source must be.
    """

    source: Path
    target: Path
    verify: bool = True
    differential: bool = False
    break_members: bool = False
    boot_entry: bool | None = None
    fallback_loader: bool = False
    confirmed: bool = False
    dry_run: bool = False
    chosen: DiskIdentity | None = None

    kind = Kind.CLONE

    @property
    def what(self) -> str:
        """Its source and target, in words."""
        return shown(f"{self.source} to {self.target}")


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Check ``snapshot``; with ``audit`` also whether all that its filesystems need is in it."""

    snapshot: str
    audit: bool = False

    kind = Kind.VERIFY

    @property
    def what(self) -> str:
        """Its snapshot."""
        return shown(_short(self.snapshot))


def _short(snapshot: str) -> str:
    """A whole id as it is shown everywhere, anything else as it was named."""
    return snapshot[:8] if len(snapshot) == 2 * ID_BYTES else snapshot


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """Copy the files and folders ``sources``, which lie below ``root``, to the new folder ``target``."""

    sources: tuple[Path, ...]
    root: Path
    target: Path

    kind = Kind.COPY

    @property
    def what(self) -> str:
        """From where to where, in words."""
        return shown(f"files of {self.root} to {self.target}")


@dataclass(frozen=True, slots=True)
class SalvageRequest:
    """Save what can be had of the filesystems on ``source`` in the new folder ``target``; None: only list it.

    ``patterns``, ``kinds``: only files that fit; ``partitions``: only of these, None: of all.  ``search``: found by a
    scan of the disk, whatever its table says.
    """

    source: Path
    target: Path | None
    patterns: tuple[str, ...] = ()
    kinds: frozenset[FileKind] = frozenset()
    partitions: frozenset[int] | None = None
    search: bool = False

    kind = Kind.SALVAGE

    @property
    def what(self) -> str:
        """From where to where, in words."""
        return shown(f"files of {self.source}" + (f" to {self.target}" if self.target else ""))


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Forget ``snapshots``, after asking, and free the space that only they used."""

    snapshots: tuple[str, ...]

    kind = Kind.FORGET

    @property
    def what(self) -> str:
        """Them."""
        return shown(", ".join(map(_short, self.snapshots)))


Request = CaptureRequest | RestoreRequest | CloneRequest | VerifyRequest | CopyRequest | SalvageRequest | ForgetRequest

#: The request that goes with each kind of operation.
REQUESTS: dict[Kind, type[Request]] = {form.kind: form for form in get_args(Request)}
