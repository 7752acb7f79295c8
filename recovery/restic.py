"""What restic itself does with a repository: forgetting snapshots; the only caller of the restic program.

The password goes through a pipe.  What restic prints is read where it is JSON; the one thing that no version says in
JSON, how much space comes free, is told when its words are those we know, and else not.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from recovery.command import Completed, run
from recovery.errors import (
    Cancelled,
    DestinationFull,
    DeviceError,
    NoRepository,
    ProgramMissing,
    RecoveryError,
    RepositoryDamaged,
    RepositoryLocked,
    UsageError,
    WrongPassword,
)
from recovery.progress import Progress
from recovery.units import GIB, KIB, MIB, TIB

#: Since when restic opens a repository whose password is empty.
_EMPTY_PASSWORD_SINCE = (0, 17)
_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
#: "repository is already locked by PID 4711 on desk by root (UID 0, GID 0)"
_HOLDER = re.compile(r"already locked (?:exclusively )?by (PID \d+ on \S+)")
_ID = re.compile(r"[0-9a-f]{64}")
#: Reading a repository takes minutes, a prune hours; what takes longer hangs.
_READ_SECONDS, _PRUNE_SECONDS = 30 * 60.0, 7 * 24 * 3600.0

#: Settings of restic's that would take the place of what it is told here.
_UNSET = ("RESTIC_PASSWORD_FILE", "RESTIC_REPOSITORY_FILE", "RESTIC_KEY_HINT", "RESTIC_REPOSITORY")


class SnapshotLine(msgspec.Struct, frozen=True):
    """A snapshot as restic lists it."""

    id: str
    time: datetime
    hostname: str = ""
    paths: tuple[str, ...] = ()
    tags: tuple[str, ...] | None = None


class ForgetPreview(msgspec.Struct, frozen=True):
    """What forgetting would do: which snapshots go, which stay, and about how many bytes that frees and leaves.

    None: restic did not tell, or nothing is to be freed.
    """

    removed: tuple[SnapshotLine, ...]
    kept: tuple[SnapshotLine, ...]
    freed_bytes: int | None = None
    remaining_bytes: int | None = None


class ForgetResult(msgspec.Struct, frozen=True):
    """What forgetting did: the ids that went, and by how many bytes the repository is smaller and how large it is."""

    removed: tuple[str, ...]
    freed_bytes: int
    remaining_bytes: int
    pruned: bool


def restic_version() -> tuple[int, ...]:
    """The version of the restic that is installed, as ``(0, 18, 0)``.  Raises ProgramMissing."""
    said = run(["restic", "version"], needed_for="forgetting snapshots").stdout.decode(errors="replace")
    found = re.match(r"restic (\d+(?:\.\d+)*)", said)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def forget_preview(
    repository_root: Path,
    password: str,
    snapshot_ids: Sequence[str],
    *,
    prune: bool = True,
    interrupt: Callable[[], None] | None = None,
) -> ForgetPreview:
    """What forgetting the snapshots with these ids (whole ones) would do; writes nothing, not even a lock.

    Raises UsageError for an id that there is not, ProgramMissing, WrongPassword, NoRepository, RepositoryDamaged,
    DeviceError, and what ``interrupt`` raises, which is called now and then.
    """
    there = _snapshots(repository_root, password, interrupt)
    going = _known(there, snapshot_ids)
    removed = tuple(line for line in there if line.id in going)
    kept = tuple(line for line in there if line.id not in going)
    if not prune:
        return ForgetPreview(removed, kept)
    said = _restic(
        repository_root, password, "--no-lock", "forget", "--dry-run", "--prune", *sorted(going), interrupt=interrupt
    ).stdout
    return ForgetPreview(removed, kept, _bytes(said, b"total prune"), _bytes(said, b"remaining"))


def forget(
    repository_root: Path,
    password: str,
    snapshot_ids: Sequence[str],
    *,
    prune: bool = True,
    progress: Progress | None = None,
) -> ForgetResult:
    """Forget the snapshots with these ids (whole ones), and with ``prune`` free the space that only they used.

    Can be cancelled: the snapshots may be gone then, and the space not free yet; the repository is sound.
    Raises as ``forget_preview``, and RepositoryLocked, DestinationFull, Cancelled.
    """
    progress = progress or Progress()
    progress.phase("reading the list of snapshots")
    going = _known(_snapshots(repository_root, password, progress.check), snapshot_ids)
    before = _size(repository_root)
    progress.check()
    progress.phase("forgetting snapshots")
    _restic(repository_root, password, "forget", *sorted(going))  # short; not cut off
    if left := going & {line.id for line in _snapshots(repository_root, password, None)}:
        raise RepositoryDamaged(
            f"restic did not remove {len(left)} of {len(going)} snapshots",
            "Is the repository read-only? 'recovery snapshots' lists what there is.",
        )
    if prune:
        progress.phase("freeing the space of what nothing needs any more")
        try:
            _restic(repository_root, password, "prune", interrupt=progress.check, seconds=_PRUNE_SECONDS)
        except Cancelled as stopped:
            with contextlib.suppress(RecoveryError):  # interrupted in its first moments, restic leaves its lock behind
                _restic(repository_root, password, "unlock")  # only those of programs that are gone
            stopped.hint = "The snapshots are forgotten, the space is not free yet: 'restic prune' frees it."
            raise
    after = _size(repository_root)
    return ForgetResult(tuple(sorted(going)), max(0, before - after), after, prune)


def _known(there: Sequence[SnapshotLine], snapshot_ids: Sequence[str]) -> frozenset[str]:
    ids = {line.id for line in there}
    for wanted in snapshot_ids:
        if not _ID.fullmatch(wanted) or wanted not in ids:
            raise UsageError(f"the repository holds no snapshot {wanted!r}", "'recovery snapshots' lists them.")
    if not snapshot_ids:
        raise UsageError("no snapshot was named", "'recovery snapshots' lists what there is.")
    return frozenset(snapshot_ids)


def _snapshots(root: Path, password: str, interrupt: Callable[[], None] | None) -> tuple[SnapshotLine, ...]:
    """All snapshots, oldest first."""
    said = _restic(root, password, "--no-lock", "snapshots", "--json", interrupt=interrupt).stdout
    document = said.strip().rpartition(b"\n")[2]  # some versions say before where they read the password from
    try:
        lines = msgspec.json.decode(document, type=list[SnapshotLine] | None) or []
    except msgspec.MsgspecError as error:
        raise DeviceError(f"restic's list of the snapshots in {root} cannot be read: {error}") from error
    return tuple(sorted(lines, key=lambda line: line.time))


def _restic(
    root: Path,
    password: str,
    *arguments: str,
    interrupt: Callable[[], None] | None = None,
    seconds: float = _READ_SECONDS,
) -> Completed:
    """Run restic to its end, which must be a good one."""
    options = ["--no-cache", "--repo", f"local:{root}"]
    if not password:
        if (version := restic_version()) < _EMPTY_PASSWORD_SINCE:
            raise ProgramMissing(
                f"restic {'.'.join(map(str, version))} opens no repository whose password is empty",
                "That needs restic 0.17 or newer.",
            )
        options.append("--insecure-no-password")
    ended = run(
        ["restic", *options, *arguments],
        needed_for="forgetting snapshots",
        timeout_seconds=seconds,
        input=f"{password}\n".encode(),
        environment=dict.fromkeys(_UNSET, ""),
        check=False,
        interrupt=interrupt,
        tidies_up=True,
    )
    if not ended.ok:
        _raise(root, ended)
    return ended


def _raise(root: Path, ended: Completed) -> NoReturn:
    """What restic ended with, as an error of ours; its exit status tells some of it since 0.17, its words all."""
    words = ended.stderr.decode(errors="replace").lower()
    if ended.status == 12 or "wrong password or no key found" in words:
        raise WrongPassword(f"the password does not open the repository {root}", "Try again.")
    if ended.status == 10 or "is there a repository at the following location" in words:
        raise NoRepository(f"{root} is no repository", "Name the folder that holds the file 'config'.")
    if ended.status == 11 or "already locked" in words:
        holder = _HOLDER.search(ended.stderr.decode(errors="replace"))
        raise RepositoryLocked(
            f"the repository {root} is being used by {holder[1] if holder else 'another program'}",
            "Wait until that has ended. Of a program that died, 'restic unlock' removes the lock.",
        )
    if "no space left on device" in words:
        raise DestinationFull(f"there is no room left at {root}", "Free some space there, and try again.")
    damaged = ("ciphertext verification failed", "data is damaged", "not found in index", "repository contains errors")
    if any(sign in words for sign in damaged):
        raise RepositoryDamaged(f"restic finds the repository {root} damaged: {ended.reason}", "Run 'restic check'.")
    raise DeviceError(f"restic failed on the repository {root}: {ended.reason}", "Run 'restic check'.")


def _bytes(said: bytes, name: bytes) -> int | None:
    """The size in a line such as ``total prune:   4 blobs / 3.001 MiB``."""
    found = re.search(rb"^" + name + rb":\s+\d+ blobs / ([\d.]+) ([KMGT]?i?B)\s*$", said, re.MULTILINE)
    unit = _UNITS.get(found[2].decode()) if found else None
    return int(float(found[1]) * unit) if found and unit else None


def _size(root: Path) -> int:
    """The bytes of all files of a repository."""
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total
