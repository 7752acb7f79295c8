"""The job's side: a process of its own that records what it says and takes orders."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from recovery.command import kill_running
from recovery.errors import ExitCode
from recovery.jobs.control import ControlServer, Order, Status
from recovery.jobs.events import EventWriter
from recovery.jobs.folder import NewFolder, write_state
from recovery.progress import NO_MAP, Progress

_STATUS_SECONDS = 1.0
#: What runs for many hours is not told every second: the folder lies in memory.
_LATER_AFTER_SECONDS, _LATER_STATUS_SECONDS = 3600.0, 15.0
_ANSWER_POLL_SECONDS = 0.1
#: What a job says that was told to stop.
FINISHING = "bad areas are gone into no further: it ends with what was read by now"
STOPPING = "stopping at the next safe point; once more stops at once"
#: A map may take some thousand bytes: screens that watch ask for it, and the file gets it so seldom.
_MAP_SECONDS = 10.0
#: Without progress for so long, a status says so, and for what it waits.
STALLED_SECONDS = 10.0


class RunningJob:
    """This process, as a job.  Its ``progress`` is what orders cancel and screens show."""

    def __init__(self, folder: NewFolder) -> None:
        self.progress = Progress()
        self.id = folder.record.id
        self.what = f"{folder.record.kind} {folder.record.what}"
        self._path = folder.path
        self._listener = folder.control
        self._events = EventWriter(folder.events)
        self._server = ControlServer(self._obey)
        self._answer: str | None = None
        self._asks = self._working = self._cancelling = self._signals = False
        self._guard = threading.Lock()
        write_state(folder.path, os.getpid())

    def serve(self, screen: socket.socket | None) -> None:
        """Take orders, and signals, from now on; ``screen`` is a connection that is there already."""
        if screen is not None:
            self._server.add(screen)
        self._server.listen(self._listener)
        self._server.start()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # 'restic unlock' sends it to see whether we live
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
        handler = _LogEvents(self)
        for old in logging.root.handlers:
            handler.setFormatter(old.formatter)
        logging.root.handlers = [handler]

    def record(self, kind: str, **fields: Any) -> None:
        """Say something, to whoever watches or will.  A full folder loses it."""
        self._events.write(kind, fields)

    def end(self, code: int) -> None:
        """Tell what it ended with, and end this process at once."""
        write_state(self._path, os.getpid(), code)
        os._exit(code)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Tell the progress, now and then, for the time of the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._tell_status, args=(ended,), name="status", daemon=True)
        self._working = True
        thread.start()
        try:
            yield
        finally:
            self._working = False
            ended.set()
            thread.join(timeout=5)

    def ask(self, question: str) -> str:
        """What a person answers; empty when they decline, or nobody is there any more, or the job is cancelled."""
        self._answer, self._asks = None, True
        self.record("question", text=question)
        while self._answer is None and self._server.watched and not self._cancelling:
            time.sleep(_ANSWER_POLL_SECONDS)
        with self._guard:
            self._asks = False
            answer = self._answer or ""
        self.record("answered")
        return "" if self._cancelling else answer

    def cancel(self) -> None:
        """Stop at the next safe point."""
        if not self._cancelling:
            self._cancelling = True
            self.progress.cancel()
            self.record("warning", message=STOPPING)

    def finish(self) -> None:
        """Go into what is hard to read no further."""
        if not self.progress.enough:
            self.progress.have_enough()
            self.record("warning", message=FINISHING)

    def stop(self) -> None:
        """End at once: waiting for threads could take for ever, one may be stuck in a device."""
        kill_running()
        self.record(
            "error",
            code=int(ExitCode.CANCELLED),
            message="stopped at once",
            hint="What was being written is unfinished.",
        )
        self.end(ExitCode.CANCELLED)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        # In a thread of its own: the main thread, interrupted here, may hold what recording needs.
        again, self._signals = self._signals or self._cancelling, True
        threading.Thread(target=self.stop if again else self.cancel, daemon=True).start()

    def _obey(self, order: Order) -> Status | None:
        match order.do:
            case "cancel":
                self.cancel()
            case "finish":
                self.finish()
            case "stop":
                self.stop()
            case "answer":
                with self._guard:
                    if self._asks and self._answer is None:
                        self._answer = order.text
            case "status":
                known = int(order.text) if order.text.isdecimal() else NO_MAP
                progress = self.progress.snapshot(known) if self._working and not self._asks else None
                return Status(progress, self._asks, self._cancelling)
        return None

    def _tell_status(self, ended: threading.Event) -> None:
        started = time.monotonic()
        seconds = _STATUS_SECONDS
        lines = StatusLines(self.progress)
        while not ended.wait(seconds):
            if not self._asks:
                self.record("status", **lines.fields())
            if time.monotonic() - started > _LATER_AFTER_SECONDS:
                seconds = _LATER_STATUS_SECONDS
        self.record("status", **lines.fields(last=True))


class _LogEvents(logging.Handler):
    """What modules log reaches the screens."""

    def __init__(self, job: RunningJob) -> None:
        super().__init__()
        self._job = job

    def emit(self, record: logging.LogRecord) -> None:
        self._job.record("log", text=self.format(record))


class StatusLines:
    """What the ``status`` lines of one operation tell."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._map_version = 0
        self._map_told = -_MAP_SECONDS

    def fields(self, *, last: bool = False) -> dict[str, Any]:
        """Of the next line; with the map when that has changed, and it was not told just before or is the ``last``."""
        due = last or time.monotonic() - self._map_told >= _MAP_SECONDS
        now = self._progress.snapshot(self._map_version if due else NO_MAP)
        fields: dict[str, Any] = {
            "phase": now.phase,
            "percent_done": now.ratio,
            "bytes_done": now.done_bytes,
            "total_bytes": now.total_bytes,
            "bytes_per_second": round(now.bytes_per_second),
            "seconds_remaining": now.remaining_seconds,
            **now.counters,
        }
        if now.stalled_seconds >= STALLED_SECONDS:
            fields |= {"stalled_seconds": round(now.stalled_seconds), "waits_for": now.waits_for}
        if now.map is not None:
            self._map_version, self._map_told = now.map_version, time.monotonic()
            fields["map"] = now.map
        return fields


def become(folder: NewFolder, work: Callable[[RunningJob], int], screen: socket.socket | None) -> NoReturn:
    """Turn this fresh process into the job; ``work`` gives the exit code."""
    code: int = ExitCode.BUG
    try:
        os.setsid()
        _leave_outputs(folder)
        job = RunningJob(folder)
        job.serve(screen)
        code = work(job)
    except BaseException:
        traceback.print_exc()  # into the log
        raise
    finally:
        write_state(folder.path, os.getpid(), code)
        os._exit(code)


def _leave_outputs(folder: NewFolder) -> None:
    """Standard input, output and error: a terminal or pipe that goes away must not matter."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        log = os.open(folder.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        log = nothing  # no room
    for number, file in ((0, nothing), (1, log), (2, log)):
        os.dup2(file, number)
