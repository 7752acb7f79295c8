"""A running job, or one that has ended, as it is to be shown.  No widget knows of sockets, no job of widgets."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec

from recovery.errors import ExitCode
from recovery.jobs.control import Order
from recovery.jobs.folder import read_job
from recovery.jobs.running import STOPPING
from recovery.jobs.watching import Watcher
from recovery.progress import ProgressSnapshot, Side
from recovery.work_map import MappedDisk

#: Lines that one poll takes at most: some milliseconds.
_LINES_A_POLL = 500
_BYTES_A_POLL = 1 << 20
_KEPT_LINES = 200
_KEPT_RATES = 600
#: A rate is that of so many seconds at least: one chunk more or less makes no difference then.
_RATE_SECONDS = 2.0
#: After so long a job that was told to end at once is killed.
_STUBBORN_SECONDS = 5.0
_KNOWN_FIELDS = frozenset(
    {
        "message_type",
        "phase",
        "percent_done",
        "bytes_done",
        "total_bytes",
        "bytes_per_second",
        "seconds_remaining",
        "stalled_seconds",
        "waits_for",
        "map",
    }
)


class Failure(msgspec.Struct, frozen=True):
    """An error that the job told: what happened, what to do next, the exit code that goes with it."""

    message: str
    hint: str = ""
    code: int = 0


class JobView:
    """What a screen knows of a job.  ``poll`` brings it up to date and never waits."""

    def __init__(
        self, watcher: Watcher, *, statuses_per_second: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.watcher, self.id = watcher, watcher.id
        job = read_job(watcher.folder)
        self.kind = job.record.kind if job else ""
        #: Sources and targets, in words.
        self.what = job.record.what if job else ""
        self.started: datetime | None = job.record.started if job else None
        self.progress: ProgressSnapshot | None = None
        self.map: tuple[MappedDisk, ...] = ()
        #: When how many bytes of the phase were done: (seconds of the clock, bytes); begins anew with each phase.
        self.done: deque[tuple[float, int]] = deque(maxlen=_KEPT_RATES)
        self.plan: dict[str, Any] | None = None
        self.summary: dict[str, Any] | None = None
        self.question: str | None = None
        #: Its question was answered, at this screen or another: it went on, or ended because of the answer.
        self.decided = False
        self.warnings: list[str] = []
        self.errors: list[Failure] = []
        #: What was said for people, and what modules logged; the newest lines.
        self.said: deque[str] = deque(maxlen=_KEPT_LINES)
        self.log: deque[str] = deque(maxlen=_KEPT_LINES)
        #: It was told to stop, by this screen or another; ``stopping``: at once, by this one.
        self.cancelling = self.stopping = False
        self.ended = False
        self.exit_code: int | None = None
        #: Its process was killed: it ended without a word.
        self.died = False
        self._pending: deque[bytes] = deque()
        #: What the file said last of progress and map.
        self._last: tuple[ProgressSnapshot | None, tuple[MappedDisk, ...]] = (None, ())
        self._clock = clock
        self._status_seconds = 1.0 / statuses_per_second
        self._asked = float("-inf")
        self._map_version = 0
        self._stopped_at: float | None = None
        self._killed = self._answered = self._closed = False
        self._heard = clock()

    # -- reading

    def poll(self) -> bool:
        """Take what has come since; whether there was anything."""
        if self.ended or self._closed:
            return False
        now = self._clock()
        changed = self._take_status(now)
        gone = self.watcher.ended  # before the last lines are read
        lines = self.watcher.events(_BYTES_A_POLL)
        self._pending.extend(lines)
        self._heard = now if lines else self._heard
        for _ in range(min(_LINES_A_POLL, len(self._pending))):
            self._take_line(self._pending.popleft(), now)
            changed = True
        if gone and not self._pending:
            self._end()
            return True
        self._insist(now)
        return changed

    def _take_status(self, now: float) -> bool:
        if now - self._asked >= self._status_seconds:
            self._asked = now
            self.watcher.order(Order("status", str(self._map_version)))
        self.watcher.wait(0)
        status, self.watcher.status = self.watcher.status, None
        if status is None:
            return False
        self._heard = now
        self.cancelling = self.cancelling or status.cancelling
        if status.progress is not None:
            if status.progress.map is not None:
                self.map, self._map_version = status.progress.map, status.progress.map_version
            self._take_progress(status.progress, now)
        return True

    def _take_progress(self, progress: ProgressSnapshot, now: float) -> None:
        if self.progress is None or self.progress.phase != progress.phase:
            self.done.clear()
        self.progress = progress
        self.done.append((now, progress.done_bytes))

    def _take_line(self, data: bytes, now: float) -> None:
        try:
            event = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.DecodeError:
            return
        match event.get("message_type"):
            case "status":
                self._take_status_line(event, now)
            case "plan":
                self.plan = event
            case "question":
                self.question = str(event.get("text", ""))
                self._answered = self.decided = False
            case "answered":
                self.question, self.decided = None, True
            case "warning":
                self._take_warning(str(event.get("message", "")))
            case "error":
                code = event.get("code")
                text, hint = str(event.get("message", "")), str(event.get("hint", ""))
                self.errors.append(Failure(text, hint, code if isinstance(code, int) else 0))
            case "summary":
                self.summary = event
            case "text":
                self.said.append(str(event.get("text", "")))
            case "log":
                self.log.append(str(event.get("text", "")))

    def _take_warning(self, text: str) -> None:
        if text == STOPPING:
            self.cancelling = True  # whoever told it to
        else:
            self.warnings.append(text)

    def _take_status_line(self, event: dict[str, Any], now: float) -> None:
        """From the file: what was before this screen came, or all there is when the job does not answer it."""
        done, rate = _number(event, "bytes_done"), _number(event, "bytes_per_second")
        progress = ProgressSnapshot(
            phase=str(event.get("phase", "")),
            done_bytes=done,
            total_bytes=_number(event, "total_bytes"),
            phase_seconds=done / rate if rate else 0.0,
            counters={k: v for k, v in event.items() if k not in _KNOWN_FIELDS and isinstance(v, int)},
            stalled_seconds=float(_number(event, "stalled_seconds")),
            waits_for=Side(event["waits_for"]) if event.get("waits_for") in list(Side) else Side.PROCESSOR,
            map_version=self._map_version,
        )
        self._last = progress, self._last[1]
        if "map" in event:
            self._last = progress, msgspec.convert(event["map"], tuple[MappedDisk, ...])
        if self.progress is None or not self._status_is_live(now):
            self.progress, self.map = self._last[0], self._last[1] or self.map

    def _status_is_live(self, now: float) -> bool:
        """Whether the job itself answers: then its file tells nothing new of its progress."""
        return bool(self.done) and now - self.done[-1][0] < 5 * self._status_seconds

    def _end(self) -> None:
        self.exit_code, by_itself = self.watcher.exit_code()
        self.ended, self.died, self.question = True, not by_itself, None
        if by_itself:  # its last line came after all it answered
            self.progress, self.map = self._last[0] or self.progress, self._last[1] or self.map
        self.close()

    # -- what follows from it

    @property
    def counters(self) -> dict[str, int]:
        """Of the whole operation: ``new_bytes``, ``known_bytes``, ``stored_bytes``, ``unreadable_bytes``, ..."""
        return self.progress.counters if self.progress is not None else {}

    @property
    def asks(self) -> bool:
        """Whether it waits for an answer that nobody has given."""
        return self.question is not None and not self._answered

    @property
    def bytes_per_second(self) -> float:
        """Of the last seconds; 0 when that cannot be told."""
        if len(self.done) < 2:
            return self.progress.bytes_per_second if self.progress is not None else 0.0
        end, done = self.done[-1]
        before = next((point for point in reversed(self.done) if end - point[0] >= _RATE_SECONDS), self.done[0])
        return max(0, done - before[1]) / (end - before[0]) if end > before[0] else 0.0

    def rates(self, count: int) -> list[float]:
        """Bytes a second between the last looks, oldest first; ``count`` at most."""
        points = list(self.done)[-count - 1 :]
        return [
            max(0, later[1] - earlier[1]) / (later[0] - earlier[0])
            for earlier, later in pairwise(points)
            if later[0] > earlier[0]
        ]

    @property
    def silent_seconds(self) -> float:
        """For so long a job that runs has said nothing, and has answered nothing."""
        return 0.0 if self.ended else max(0.0, self._clock() - self._heard)

    # -- orders

    def answer(self, text: str) -> None:
        """Answer its question."""
        self._answered = True
        self.watcher.order(Order("answer", text))

    def cancel(self) -> None:
        """Have it stop at its next safe point."""
        self.cancelling = True
        self.watcher.order(Order("cancel"))

    def finish(self) -> None:
        """Have it go into bad areas no further, and end with what was read."""
        self.watcher.order(Order("finish"))

    def stop(self) -> None:
        """Have it end at once; it is killed when it does not."""
        self.cancelling = self.stopping = True
        self._stopped_at = self._stopped_at or self._clock()
        self.watcher.order(Order("stop"))

    def _insist(self, now: float) -> None:
        if self._stopped_at is not None and now - self._stopped_at > _STUBBORN_SECONDS and not self._killed:
            self._killed = True
            self.watcher.kill()

    @property
    def stuck(self) -> bool:
        """It was killed and lives: the kernel holds it, because a device does not answer."""
        return (
            self._killed and self._stopped_at is not None and self._clock() - self._stopped_at > 2 * _STUBBORN_SECONDS
        )

    def close(self) -> None:
        """Watch it no longer; it goes on."""
        self._closed = True
        self.watcher.__exit__(None, None, None)


def _number(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    return int(value) if isinstance(value, (int, float)) else 0


def outcome_of(view: JobView) -> str:
    """How a job that has ended came out: ``done``, ``incomplete``, ``cancelled``, ``died`` or ``failed``."""
    if view.died:
        return "died"
    known = {ExitCode.DONE: "done", ExitCode.INCOMPLETE: "incomplete", ExitCode.CANCELLED: "cancelled"}
    return next((word for code, word in known.items() if view.exit_code == code), "failed")
