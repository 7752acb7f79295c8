"""Drills: several at one repository, locks that are stale or taken away, and clocks that are wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from recovery.errors import Refused
from recovery.image.capture_plan import check_clock
from recovery.repository.format import LockFile
from recovery.repository.repository import Repository
from recovery.repository.store import FileKind
from tests.support.disks import MIB
from tests.support.drills import (
    AtPiece,
    Bench,
    drill,
    equal,
    make_repository,
    make_source,
    names,
    restic_finds_nothing_wrong,
    restored,
    store,
)
from tests.support.faults import Outcome, Steps, in_child
from tests.support.images import PASSWORD


def _alone(folder: Path, source: Path, *, progress: AtPiece | None = None) -> Outcome:
    return in_child(partial(store, folder, source, progress=progress))


def _comes_back(bench: Bench, folder: Path, source: Path, snapshot: str) -> None:
    target = bench.work / "restored.img"
    target.unlink(missing_ok=True)
    assert restored(folder, target, snapshot).complete
    assert equal(source, target)


@drill("locks")
def two_writers_that_begin_at_any_moment_of_each_other_both_succeed(bench: Bench) -> None:
    """The second captures, whole, while the first is between two steps."""
    first, second = make_source(bench, 2 * MIB, "first.img"), make_source(bench, 2 * MIB, "second.img")
    for _ in range(2 if bench.short else 12):
        folder = bench.folder("repository")
        make_repository(folder)
        step = bench.random.randint(1, 60)
        shares = bench.random.random() < 0.5

        def action(folder: Path = folder, step: int = step, shares: bool = shares) -> Any:
            Steps(folder, step, then=partial(_store_elsewhere, folder, first if shares else second)).install()
            return store(folder, first)

        ended = in_child(action)
        assert ended.done, ended
        bench.counts["writers at once"] += 2
        restic_finds_nothing_wrong(folder)
        assert not names(folder, "locks")
        found = names(folder, "snapshots")
        assert len(found) == 2 or step > 50, found
        for snapshot in found:
            _comes_back(bench, folder, first if shares or snapshot == ended.result["snapshot"] else second, snapshot)


def _store_elsewhere(folder: Path, source: Path) -> None:
    """Capture in a program that has none of this one's threads and faults; wait for its end."""
    code = (
        "import sys; from pathlib import Path; from tests.support.drills import store;"
        "store(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    ended = subprocess.run([sys.executable, "-c", code, folder, source], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()


@drill("locks")
def our_lock_removed_at_any_moment_ends_a_capture_before_it_publishes_more(bench: Bench) -> None:
    source = make_source(bench, 3 * MIB)
    for _ in range(2 if bench.short else 16):
        folder = bench.folder("repository")
        make_repository(folder)
        progress = AtPiece(bench.random.randint(1, 24), partial(_remove_locks, folder, bench.work / "then"))
        ended = _alone(folder, source, progress=progress)
        bench.counts["locks removed"] += 1
        assert ended.error == "RepositoryLocked", ended
        assert "removed by somebody else" in ended.message, ended
        before = set((bench.work / "then").read_text().split())
        late = names(folder, "index") - before
        assert len(late) <= 1, f"{len(late)} index files were published after the lock was gone"
        assert not names(folder, "snapshots")
        assert not names(folder, "locks")
        restic_finds_nothing_wrong(folder)
        _comes_back(bench, folder, source, _done(_alone(folder, source)))


def _remove_locks(folder: Path, note: Path) -> None:
    """As somebody's ``restic unlock --remove-all``; notes what was published by then."""
    for path in (folder / "locks").iterdir():
        path.unlink()
    note.write_text(" ".join(names(folder, "index")))


def _done(ended: Outcome) -> str:
    assert ended.done, ended
    snapshot: str = ended.result["snapshot"]
    return snapshot


def _leave_lock(folder: Path, lock: LockFile) -> str:
    """A lock file as another program would have written it."""
    return Repository.open(folder, PASSWORD).save_unpacked(FileKind.LOCK, lock)


@drill("locks")
def locks_of_others_are_respected_whatever_host_process_and_time_they_name(bench: Bench) -> None:
    """Two machines with one hostname, a process that is gone, a clock that is far off: only exclusive ones stop us."""
    source = make_source(bench, 1 * MIB)
    folder = bench.work / "repository"
    make_repository(folder)
    here, gone = socket.gethostname(), _a_process_that_ended()
    for _ in range(8 if bench.short else 40):
        exclusive = bench.random.random() < 0.7
        lock = LockFile(
            time=datetime.now(UTC) + timedelta(hours=bench.random.choice([-100_000, -20, 0, 20, 100_000])),
            exclusive=exclusive,
            hostname=bench.random.choice([here, "another", ""]),
            pid=bench.random.choice([gone, os.getpid(), 1, 2**31, -5, 0]),
        )
        name = _leave_lock(folder, lock)
        ended = _alone(folder, source)
        bench.counts["locks of others"] += 1
        assert ended.error == "RepositoryLocked" if exclusive else ended.done, (exclusive, ended)
        assert names(folder, "locks") == {name}, "a lock that is not ours was removed, or ours was left"
        (folder / "locks" / name).unlink()
    restic_finds_nothing_wrong(folder)


@drill("locks")
def a_clock_behind_the_newest_snapshot_is_refused_and_every_image_comes_back(bench: Bench) -> None:
    """Otherwise ``latest`` would be another image than the one just made, and the wrong ones would be forgotten."""
    source = make_source(bench, 1 * MIB)
    for hours in (1, 24 * 365 * 20) if bench.short else [bench.random.randint(1, 50_000) for _ in range(8)]:
        folder = bench.folder("repository")
        make_repository(folder)
        snapshot = _done(_alone(folder, source))
        repository = Repository.open(folder, PASSWORD)
        check_clock(repository)
        known = repository.find_snapshot(snapshot).snapshot
        ahead = repository.save_snapshot(structs.replace(known, time=datetime.now(UTC) + timedelta(hours=hours)))
        bench.counts["clocks"] += 1
        with pytest.raises(Refused, match=f"newest snapshot, {ahead[:8]}"):
            check_clock(repository)
        for name in (snapshot, ahead, _done(_alone(folder, source))):
            _comes_back(bench, folder, source, name)


def _a_process_that_ended() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child
