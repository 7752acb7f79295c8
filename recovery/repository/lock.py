"""restic's locks: taken, refreshed, respected.

Source: restic's design document, "Locks", and its behaviour: a lock is a small file that is written anew every
few minutes; it is stale when it is older than 30 minutes, or when its host is this one and its process is gone.  Even
then only 'restic unlock', which a person runs, passes it over: clocks of rescued machines are often hours off, and on
a share two machines may have one name.
To see that, 'restic unlock' sends SIGHUP to the process: who holds a lock must not end of it.
Readers and writers hold a shared lock, what removes data (``prune``) an exclusive one.
"""

from __future__ import annotations

import logging
import os
import pwd
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType

from recovery.errors import RecoveryError, RepositoryDamaged, RepositoryLocked
from recovery.repository.format import LockFile
from recovery.repository.store import FileKind, LocalStore

log = logging.getLogger(__name__)

STALE_AFTER = timedelta(minutes=30)
REFRESH_SECONDS = 5 * 60.0
#: restic's ``refreshabilityTimeout``: a lock that could not be refreshed for so long may be taken for stale soon.
EXPIRES_AFTER_SECONDS = 25 * 60.0
_SETTLE_SECONDS = 0.2
_MAX_PID = 2**31 - 1

_HINT_LOCKED = "Wait until it has ended; if it is certain that nothing else works on it, run 'restic unlock'."
_HINT_STALE = (
    "It looks as if its owner were gone, but a clock that is wrong or a second machine of that name looks the same: "
    "if it is certain that nothing else works on the repository, run 'restic unlock'."
)
_HINT_DAMAGED = "If it is certain that nothing else works on it, run 'restic unlock --remove-all'."


class Lock:
    """A lock on a repository, for the time of a ``with`` block; refreshed by a thread of its own.

    It counts only once it has settled: ``settle`` before the first write.
    """

    def __init__(
        self,
        store: LocalStore,
        seal: Callable[[LockFile], tuple[str, bytes | bytearray]],
        load: Callable[[str], LockFile],
        *,
        exclusive: bool = False,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self._store, self._seal, self._load = store, seal, load
        self._exclusive = exclusive
        self._refresh_seconds = refresh_seconds
        self._name = ""
        self._settled = False
        self._refreshed = _clock()
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="repository lock", daemon=True)

    def __enter__(self) -> Lock:
        self._refuse_conflicts()
        self._name, sealed = self._sealed()
        try:  # an interrupt may come while the file is on its way, or has just appeared
            self._store.save(FileKind.LOCK, self._name, [sealed])
            self._thread.start()
        except BaseException:
            with suppress(RecoveryError):  # what went wrong first is what is told
                self._store.remove(FileKind.LOCK, self._name)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        try:
            self._thread.join()
        finally:
            try:
                self._store.remove(FileKind.LOCK, self._name)
            except RecoveryError as failed:
                log.warning("the repository's lock could not be removed: %s", failed.message)

    def settle(self) -> None:
        """Make sure that nobody asked for an excluding lock at the same instant; call before anything is written.

        Two who did see each other only after a moment (restic waits as long); the caller may use it to read and plan.
        Raises RepositoryLocked.
        """
        if not self._settled:
            self._ended.wait(max(0.0, self._refreshed + _SETTLE_SECONDS - _clock()))
            self._refuse_conflicts()
            self._settled = True

    def check(self) -> None:
        """Raise RepositoryLocked when the lock is gone or could not be refreshed: nothing may be published then."""
        self.settle()
        with self._guard:  # so that no refresh replaces the file while we look for it
            there, refreshed = self._store.size(FileKind.LOCK, self._name) is not None, self._refreshed
        if not there:
            raise RepositoryLocked(
                "our lock on the repository was removed by somebody else",
                "Nothing was published since. Make sure that nobody runs 'restic unlock' or 'prune', and run it again.",
            )
        if _clock() - refreshed > EXPIRES_AFTER_SECONDS:
            raise RepositoryLocked(
                "our lock on the repository could not be refreshed in time",
                "Nothing was published since. Check the destination, and run it again.",
            )

    def refresh(self) -> None:
        """Write the lock anew.  Raises RepositoryLocked when it is gone, DeviceError when it cannot be written."""
        self.check()
        fresh, sealed = self._sealed()
        self._store.save(FileKind.LOCK, fresh, [sealed])
        with self._guard:
            old, self._name, self._refreshed = self._name, fresh, _clock()
        self._store.remove(FileKind.LOCK, old)

    def _keep_fresh(self) -> None:
        while not self._ended.wait(self._refresh_seconds):
            try:
                self.refresh()
            except RecoveryError as error:
                log.warning("the repository's lock could not be refreshed: %s", error.message)

    def _sealed(self) -> tuple[str, bytes | bytearray]:
        return self._seal(
            LockFile(
                time=datetime.now(UTC).astimezone(),
                exclusive=self._exclusive,
                hostname=socket.gethostname(),
                username=user_name(),
                pid=os.getpid(),
                uid=os.getuid(),
                gid=os.getgid(),
            )
        )

    def _refuse_conflicts(self) -> None:
        for name, size in list(self._store.list(FileKind.LOCK)):
            if name == self._name or size == 0:  # empty: somebody's write that failed; restic passes it over too
                continue
            try:
                other = self._load(name)
            except RepositoryDamaged as error:
                if self._store.size(FileKind.LOCK, name) is None:
                    continue  # released meanwhile
                raise RepositoryDamaged(
                    f"{error.message}; nobody can tell whether its owner still works on the repository", _HINT_DAMAGED
                ) from error
            if other.exclusive or self._exclusive:
                stale = is_stale(other, datetime.now(UTC))
                raise RepositoryLocked(
                    f"the repository is locked{' exclusively' if other.exclusive else ''} by process {other.pid} on "
                    f"{other.hostname} since {other.time:%Y-%m-%d %H:%M:%S}",
                    _HINT_STALE if stale else _HINT_LOCKED,
                )


def is_stale(lock: LockFile, now: datetime) -> bool:
    """Whether restic would take the lock for one whose owner is gone."""
    if now - lock.time > STALE_AFTER:
        return True
    if lock.hostname != socket.gethostname() or not 0 < lock.pid <= _MAX_PID:
        return False
    try:
        os.kill(lock.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _clock() -> float:
    """Seconds that setting the clock does not move and sleeping does not stop."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def user_name() -> str:
    """Who we are; the number where there is no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
