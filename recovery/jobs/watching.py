"""The screen's side: start a job, follow it, give it orders, see how it ended.

Used by the command line and by the interface; nothing here prints.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from recovery.errors import DeviceError, UsageError
from recovery.jobs.control import Connection, Order, Status
from recovery.jobs.events import EventReader
from recovery.jobs.folder import DIED, Job, is_held, new_folder, read_job, read_state
from recovery.jobs.running import RunningJob, become

_POLL_SECONDS = 0.02
_STATUS_WAIT_SECONDS = 1.0


def start(kind: str, what: str, work: Callable[[RunningJob], int]) -> Watcher:
    """Fork a process that does ``work`` as a job, and watch it.  Raises DeviceError, OSError: nothing was begun then.

    Only for a process that has no threads; others use ``spawn``.
    """
    if threading.active_count() != 1:
        raise RuntimeError("a process with threads cannot fork")
    folder = new_folder(kind, what)
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        ours.close()
        become(folder, work, theirs)
    theirs.close()
    folder.leave()
    return Watcher(folder.path, Connection(ours), child)


def attach(job: Job) -> Watcher:
    """Watch a job from anywhere; it may have ended.  Raises UsageError when nothing of it is left."""
    connection = None
    if job.running:
        with suppress(DeviceError):  # it has ended just now, or does not answer: what it said can be read all the same
            connection = Connection.to(job.folder)
    return Watcher(job.folder, connection, None)


def status_of(job: Job) -> Status | None:
    """What a job is at; None when it has ended, or does not answer."""
    if not job.running:
        return None
    try:
        with attach(job) as watcher:
            watcher.order(Order("status"))
            watcher.wait(_STATUS_WAIT_SECONDS)
            return watcher.status
    except UsageError:
        return None


class Watcher:
    """One screen's view of a job.  Leaving it does nothing to the job."""

    def __init__(self, folder: Path, connection: Connection | None, child: int | None) -> None:
        """``child``: its process when that is a child of ours."""
        self.id = folder.name
        self.status: Status | None = None
        self.folder = folder
        self._connection = connection
        self._child = child
        try:
            self._events = EventReader(folder / "events.jsonl")
            self._state = (folder / "state").open("rb", buffering=0)
        except OSError as error:
            raise UsageError(f"nothing is left of job {self.id}", "'recovery jobs' lists them.") from error

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        self._events.close()
        self._state.close()

    def events(self, most_bytes: int | None = None) -> list[bytes]:
        """The lines that came since the last call; see :meth:`EventReader.read`."""
        return self._events.read(most_bytes)

    def order(self, order: Order) -> None:
        """Give an order; nothing happens when the job has ended."""
        if self._connection is not None:
            self._connection.send(order)

    def wait(self, seconds: float, *also: int) -> list[int]:
        """Wait until the job says something to us, or one of the files ``also`` can be read: those of them."""
        connection = self._connection
        ours = [] if connection is None or connection.ended else [connection.fileno()]
        ready, _, _ = select.select([*ours, *also], [], [], seconds if ours else min(seconds, _POLL_SECONDS))
        if connection is not None and ours and ours[0] in ready:
            for status in connection.receive():
                self.status = status
        return [file for file in ready if file in also]

    @property
    def ended(self) -> bool:
        """Whether the job's process has ended: nothing comes after it."""
        if self._connection is not None and not self._connection.ended:
            return False
        return not is_held(self.folder)

    def exit_code(self) -> tuple[int, bool]:
        """Of a job that has ended, and whether it ended by itself; else as a shell says of what was killed."""
        status = 0
        if self._child is not None:
            _, status = os.waitpid(self._child, 0)
            self._child = None
        code = read_state(os.pread(self._state.fileno(), 64, 0))[1]
        if code is not None:
            return code, True
        return (128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else DIED), False

    def kill(self) -> None:
        """End the job's process by force: for one that answers no more."""
        job = read_job(self.folder)
        if job is not None and job.running and job.pid:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(job.pid, signal.SIGKILL)
