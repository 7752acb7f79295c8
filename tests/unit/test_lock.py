"""Locks of restic's kind, among programs that are alive, gone, or elsewhere."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recovery.errors import RepositoryDamaged, RepositoryLocked
from recovery.repository import lock as locks
from recovery.repository.format import LockFile
from recovery.repository.lock import Lock, is_stale
from recovery.repository.repository import Repository
from recovery.repository.store import Buffer, FileKind, LocalStore
from tests.support.repositories import fresh_repository

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return fresh_repository(tmp_path / "repository")


def _names(repository: Repository) -> set[str]:
    return {name for name, _ in repository.store.list(FileKind.LOCK)}


def _foreign(exclusive: bool, *, age: timedelta = timedelta(), host: str = "elsewhere", pid: int = 7) -> LockFile:
    return LockFile(datetime.now(UTC) - age, exclusive, host, "somebody", pid)


def _gone() -> int:
    """The number of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_a_lock_says_who_holds_it_and_is_gone_behind_the_block(repository: Repository) -> None:
    with repository.lock() as lock:
        lock.check()
        (name,) = _names(repository)
        said = repository.load_unpacked(FileKind.LOCK, name, LockFile)
        assert (said.exclusive, said.hostname, said.pid) == (False, socket.gethostname(), os.getpid())
        assert (said.uid, said.gid) == (os.getuid(), os.getgid())
        assert abs(datetime.now(UTC) - said.time) < timedelta(minutes=5)
    assert not _names(repository)


def test_it_is_gone_after_an_error_too(repository: Repository) -> None:
    with pytest.raises(KeyboardInterrupt), repository.lock():
        raise KeyboardInterrupt
    assert not _names(repository)


def test_shared_locks_live_side_by_side(repository: Repository) -> None:
    repository.save_unpacked(FileKind.LOCK, _foreign(False))
    with repository.lock() as one, repository.lock() as other:
        one.check()
        other.check()
        assert len(_names(repository)) == 3
    assert len(_names(repository)) == 1


@pytest.mark.parametrize(("theirs", "ours"), [(True, False), (True, True), (False, True)])
def test_an_exclusive_lock_and_any_other_exclude_each_other(repository: Repository, theirs: bool, ours: bool) -> None:
    name = repository.save_unpacked(FileKind.LOCK, _foreign(theirs))
    with pytest.raises(RepositoryLocked, match="process 7 on elsewhere"):
        with repository.lock(exclusive=ours):
            pass
    assert _names(repository) == {name}


def test_one_that_was_asked_for_at_the_same_instant_is_seen_before_anything_is_written(repository: Repository) -> None:
    with repository.lock() as lock:
        name = repository.save_unpacked(FileKind.LOCK, _foreign(True))
        with pytest.raises(RepositoryLocked):
            lock.settle()
    assert _names(repository) == {name}


def test_stale_shared_locks_are_passed_over_and_left_where_they_are(repository: Repository) -> None:
    stale = {
        repository.save_unpacked(FileKind.LOCK, _foreign(False, age=timedelta(minutes=31))),
        repository.save_unpacked(FileKind.LOCK, _foreign(False, host=socket.gethostname(), pid=_gone())),
    }
    with repository.lock() as lock:
        lock.check()
    assert _names(repository) == stale


@pytest.mark.parametrize("theirs", [True, False])
def test_one_that_excludes_ours_is_respected_even_when_stale_and_its_age_is_told(
    repository: Repository, theirs: bool
) -> None:
    """Clocks of rescued machines are hours off, and two machines may have one name: a person decides."""
    for lock in (_foreign(theirs, age=timedelta(hours=3)), _foreign(theirs, host=socket.gethostname(), pid=_gone())):
        name = repository.save_unpacked(FileKind.LOCK, lock)
        with pytest.raises(RepositoryLocked) as raised, repository.lock(exclusive=not theirs):
            pass
        assert "looks as if its owner were gone" in raised.value.hint
        assert "restic unlock" in raised.value.hint
        assert _names(repository) == {name}
        repository.store.remove(FileKind.LOCK, name)


@pytest.mark.parametrize(
    ("lock", "stale"),
    [
        (LockFile(NOW - timedelta(minutes=31), False, "elsewhere", pid=1), True),
        (LockFile(NOW - timedelta(minutes=29), True, "elsewhere", pid=1), False),
        (LockFile(NOW + timedelta(hours=5), True, "elsewhere", pid=1), False),
        (LockFile(NOW, True, socket.gethostname(), pid=os.getpid()), False),
        (LockFile(NOW, True, socket.gethostname(), pid=os.getppid()), False),
        (LockFile(NOW, True, socket.gethostname(), pid=1), False),
        (LockFile(NOW, True, socket.gethostname(), pid=0), False),
        (LockFile(NOW, True, socket.gethostname(), pid=-1), False),
        (LockFile(NOW, True, socket.gethostname(), pid=2**70), False),
        (LockFile(datetime(1, 1, 1, tzinfo=UTC), True), True),
    ],
    ids=[f"lock {number}" for number in range(1, 11)],
)
def test_stale_is_what_restic_calls_so(lock: LockFile, stale: bool) -> None:
    assert is_stale(lock, NOW) is stale


def test_one_whose_process_is_gone_is_stale_here_and_not_elsewhere() -> None:
    gone = _gone()
    assert is_stale(LockFile(NOW, True, socket.gethostname(), pid=gone), NOW)
    assert not is_stale(LockFile(NOW, True, "elsewhere", pid=gone), NOW)


def test_a_damaged_lock_stops_us_and_says_what_to_do(repository: Repository) -> None:
    repository.store.save(FileKind.LOCK, "ab" * 32, [b"nonsense"])
    with pytest.raises(RepositoryDamaged, match="abababab") as raised:
        with repository.lock():
            pass
    assert "restic unlock --remove-all" in raised.value.hint
    assert _names(repository) == {"ab" * 32}


def test_an_empty_lock_is_a_write_that_failed_and_is_passed_over(repository: Repository) -> None:
    """As restic does since 0.16."""
    repository.store.save(FileKind.LOCK, "ab" * 32, [])
    with repository.lock(exclusive=True) as lock:
        lock.check()


def test_one_that_is_released_while_we_look_is_no_matter(repository: Repository) -> None:
    def load(name: str) -> LockFile:
        repository.store.remove(FileKind.LOCK, name)
        return repository.load_unpacked(FileKind.LOCK, name, LockFile)

    repository.save_unpacked(FileKind.LOCK, _foreign(True))
    with Lock(repository.store, repository.seal_unpacked, load):
        assert len(_names(repository)) == 1


def test_a_refreshed_lock_takes_the_place_of_the_old_one(repository: Repository) -> None:
    with repository.lock() as lock:
        (before,) = _names(repository)
        old = repository.load_unpacked(FileKind.LOCK, before, LockFile)
        lock.refresh()
        (after,) = _names(repository)
        assert after != before
        assert repository.load_unpacked(FileKind.LOCK, after, LockFile).time > old.time
        lock.check()
    assert not _names(repository)


def test_it_is_refreshed_by_itself_and_is_always_there(repository: Repository) -> None:
    seen: set[str] = set()
    with repository.lock(refresh_seconds=0.005) as lock:
        while len(seen) < 20:
            lock.check()  # never a false alarm, even while the file is replaced
            names = _names(repository)
            assert len(names) <= 2
            seen |= names
    assert not _names(repository)


def test_one_that_somebody_removed_is_noticed_and_not_made_anew(repository: Repository) -> None:
    with repository.lock() as lock:
        lock.check()
        for name in _names(repository):
            repository.store.remove(FileKind.LOCK, name)
        for attempt in (lock.check, lock.refresh):
            with pytest.raises(RepositoryLocked, match="removed by somebody else"):
                attempt()
        assert not _names(repository)


def test_one_that_could_not_be_refreshed_for_long_counts_no_more(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with repository.lock() as lock:
        lock.check()
        real = locks._clock()
        monkeypatch.setattr(locks, "_clock", lambda: real + locks.EXPIRES_AFTER_SECONDS + 1)
        with pytest.raises(RepositoryLocked, match="could not be refreshed"):
            lock.check()


class InterruptedStore(LocalStore):
    """Ctrl-C comes when a file has just appeared, or before."""

    when = ""

    def save(self, kind: FileKind, name: str, pieces: Sequence[Buffer]) -> None:
        if self.when == "before":
            raise KeyboardInterrupt
        super().save(kind, name, pieces)
        if self.when == "after":
            raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_while_it_is_taken_leaves_none_behind(tmp_path: Path, when: str) -> None:
    repository = fresh_repository(tmp_path / "repository", store=InterruptedStore)
    assert isinstance(repository.store, InterruptedStore)
    repository.store.when = when
    with pytest.raises(KeyboardInterrupt):
        repository.lock().__enter__()
    assert not _names(repository)


def test_no_thread_is_left_over(repository: Repository) -> None:
    before = threading.active_count()
    for _ in range(3):
        with repository.lock(refresh_seconds=0.01):
            pass
    assert threading.active_count() == before
