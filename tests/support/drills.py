"""Failure drills: what each needs, and the list of them.

A drill is a function with a name that says what must hold; it takes a ``Bench`` and raises AssertionError when it does
not.  ``pytest`` runs each once with a fixed seed, ``python -m tests.soak`` over and over with fresh ones.
"""

from __future__ import annotations

import hashlib
import importlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from recovery.extent import Extent
from recovery.image.capture import CaptureOptions, capture
from recovery.image.capture_plan import plan_capture
from recovery.image.restore import RestoreResult, restore
from recovery.image.restore_plan import plan_restore
from recovery.image.view import SystemImage
from recovery.progress import Progress
from recovery.repository import crypto, lock
from recovery.repository.packer import PackWriter
from recovery.repository.repository import Repository
from tests.support.disks import KIB, MIB, overwrite, partitioned
from tests.support.faults import in_child
from tests.support.images import PASSWORD, restic
from tests.support.restic import restic_binaries

#: Small chunks and packs, so that a small disk is many of both.
CHUNK = 256 * KIB
PACK = 1 * MIB

AREAS = ("capture", "restore", "destination", "source", "repository", "locks", "wrong_disk", "hostile")


@dataclass
class Bench:
    """Where a drill works: an empty folder, its seed, and what it counts (kills, flips, ...).

    ``short``: as much as the test suite has time for.
    """

    work: Path
    seed: int
    short: bool = True
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def folder(self, name: str) -> Path:
        """An empty folder of that name; what it held is removed."""
        place = self.work / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place


@dataclass(frozen=True)
class Drill:
    """A drill of one of the ``AREAS``."""

    area: str
    name: str
    run: Callable[[Bench], None]

    def __str__(self) -> str:
        return self.name


_drills: dict[str, Drill] = {}


def drill(area: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Enter a function in the list of drills."""
    assert area in AREAS

    def enter(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        _drills[function.__name__] = Drill(area, function.__name__, function)
        return function

    return enter


def drills(area: str | None = None) -> list[Drill]:
    """The drills of one area, or all."""
    for name in AREAS if area is None else [area]:
        importlib.import_module(f"tests.support.drills_{name}")
    return [found for found in _drills.values() if area in (None, found.area)]


# -- sources


def make_source(bench: Bench, size: int, name: str = "disk.img") -> Path:
    """A GPT disk with one partition of ``size`` bytes of noise; there is nothing else on it.

    All of it is used, and what is not is zeros: a restored copy is equal in every byte.
    """
    path = bench.work / name
    partitioned(path, size + 4 * MIB, f"label: gpt\nstart=2048, size={size // 512}\n")
    overwrite(path, MIB, bench.random.randbytes(size))
    return path


@dataclass(frozen=True)
class Chunks:
    """What a capture of a source reads: the id of every chunk, hashed here, and its length."""

    lengths: dict[str, int]

    @classmethod
    def of(cls, source: Path) -> Chunks:
        """Plan a capture, and hash what it would read."""
        found: dict[str, int] = {}
        with ExitStack() as held, source.open("rb") as file:
            plan = plan_capture([source], None, Progress(), held, chunk_bytes=CHUNK)
            for extent, hole in plan.disks[0].layout:
                if not hole:
                    file.seek(extent.offset)
                    found[hashlib.sha256(file.read(extent.length)).hexdigest()] = extent.length
        return cls(found)

    def lacking(self, known: set[str]) -> int:
        """Bytes of the chunks that are not among the ``known`` ids."""
        return sum(length for blob_id, length in self.lengths.items() if blob_id not in known)


# -- repositories


def make_repository(folder: Path) -> Repository:
    """A repository whose keys are quick to open, with PASSWORD."""
    with mock.patch.object(crypto, "SCRYPT_N", 1 << 10):
        return Repository.init(folder, PASSWORD)


class AtPiece(Progress):
    """Does something once ``number`` pieces of the source were read."""

    def __init__(self, number: int, then: Callable[[], object]) -> None:
        super().__init__()
        self._left, self._then = number, then

    def advance(self, byte_count: int) -> None:
        """As of any progress."""
        super().advance(byte_count)
        self._left -= 1
        if self._left == 0:
            self._then()


def store(
    folder: Path,
    source: Path,
    *,
    progress: Progress | None = None,
    plan_progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Capture; what came of it, as JSON.  In a child, because it makes packs small and locks quick.

    ``plan_progress`` is asked while the source is waited for, also later.
    """
    assert PackWriter.__init__.__kwdefaults__ is not None
    PackWriter.__init__.__kwdefaults__["pack_bytes"] = PACK
    lock._SETTLE_SECONDS = 0.01
    repository = Repository.open(folder, PASSWORD)
    with repository.lock() as held, ExitStack() as sources:
        problems = repository.load_index(present_only=True)
        plan = plan_capture([source], repository, plan_progress or Progress(), sources, chunk_bytes=CHUNK)
        chosen = {"chunk_bytes": CHUNK, "publish_seconds": 0.0, "level": 1} | options
        result = capture(repository, held, plan, progress or Progress(), CaptureOptions(**chosen))
    return {
        "snapshot": result.snapshot_id,
        "new": result.new_bytes,
        "known": result.known_bytes,
        "unreadable": [list(area) for areas in result.unreadable.values() for area in areas],
        "died": " ".join(result.died.values()),
        "problems": problems,
    }


def open_image(folder: Path, snapshot: str = "latest") -> SystemImage:
    """An image, opened as the program does, damaged index files made up for."""
    repository = Repository.open(folder, PASSWORD)
    problems = repository.load_index(mend=True)
    return SystemImage(repository, repository.find_snapshot(snapshot, "system-image"), problems)


def restored(folder: Path, target: Path, snapshot: str = "latest", **how: Any) -> RestoreResult:
    """Restore the only disk of an image onto ``target``."""
    image = open_image(folder, snapshot).disk()
    plan = plan_restore(image, target, repository=folder, partial=how.get("partial", False))
    return restore(image, plan, Progress(), **how)


RESTIC = restic_binaries()[-1]


def restic_finds_nothing_wrong(folder: Path) -> None:
    """``restic check --read-data`` finds no error; a lock of a process that was killed does not matter."""
    ended = restic(RESTIC, folder, "--no-lock", "check", "--read-data")
    said = (ended.stdout + ended.stderr).decode()
    assert "no errors were found" in said, said


def blobs_known_to_restic(folder: Path) -> set[str]:
    """Ids of the data blobs that the index names, by restic."""
    said = restic(RESTIC, folder, "--no-lock", "list", "blobs").stdout.decode()
    return {line.split()[1] for line in said.splitlines() if line.startswith("data ")}


def names(folder: Path, kind: str) -> set[str]:
    """The repository files of a kind, without what is still being written."""
    return {path.name for path in (folder / kind).rglob("*") if path.is_file() and "-tmp-" not in path.name}


def stores_what_lacks(bench: Bench, folder: Path, source: Path, chunks: Chunks) -> set[str]:
    """The next capture stores only the chunks that no index names yet, and its image comes back equal.

    Ids of the data blobs that the repository held before.
    """
    known = blobs_known_to_restic(folder)
    again = in_child(lambda: store(folder, source))
    assert again.done, again
    assert again.result["new"] == chunks.lacking(known), again
    target = bench.work / "restored.img"
    target.unlink(missing_ok=True)
    assert restored(folder, target).complete
    assert equal(source, target)
    return known


# -- comparing


def differences(one: Path, other: Path, block: int = 512) -> list[Extent]:
    """Where two files differ, in blocks; a file that is longer differs there."""
    found: list[Extent] = []
    with one.open("rb") as first, other.open("rb") as second:
        at = 0
        while True:
            here, there = first.read(MIB), second.read(MIB)
            if not here and not there:
                return found
            if here != there:
                step = max(len(here), len(there))
                for offset in range(0, step, block):
                    if here[offset : offset + block] != there[offset : offset + block]:
                        if found and found[-1].end == at + offset:
                            found[-1] = Extent(found[-1].offset, found[-1].length + block)
                        else:
                            found.append(Extent(at + offset, block))
            at += max(len(here), len(there))


def inside(found: list[Extent], named: list[Extent]) -> bool:
    """Whether every byte of ``found`` lies in ``named``."""
    merged: list[list[int]] = []
    for extent in sorted(named):
        if merged and extent.offset <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], extent.end)
        else:
            merged.append([extent.offset, extent.end])
    return all(any(start <= extent.offset and extent.end <= end for start, end in merged) for extent in found)


def equal(one: Path, other: Path) -> bool:
    """Whether two files are the same in every byte."""
    return not differences(one, other)
