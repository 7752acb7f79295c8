"""Phases, counters and cancellation of one operation.

The engine calls ``phase``, ``advance`` and ``check``; whoever shows the operation reads ``snapshot`` on its
own clock.  Nothing is pushed, so showing costs the engine nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from recovery.errors import Cancelled


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """One consistent view of an operation.  Bytes and seconds; ``total_bytes`` 0 means unknown."""

    phase: str
    done_bytes: int
    total_bytes: int
    phase_seconds: float
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Done part of the phase, 0 to 1; None when the total is unknown."""
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else None

    @property
    def bytes_per_second(self) -> float:
        """Mean rate of the phase so far."""
        return self.done_bytes / self.phase_seconds if self.phase_seconds > 0 else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Expected time to the end of the phase; None when it cannot be told."""
        rate = self.bytes_per_second
        return max(0, self.total_bytes - self.done_bytes) / rate if self.total_bytes and rate else None


class Progress:
    """Counters of one operation; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = "starting"
        self._done = 0
        self._total = 0
        self._started = time.monotonic()
        self._counters: dict[str, int] = {}
        self._cancelled = threading.Event()

    def phase(self, name: str, total_bytes: int = 0) -> None:
        """Begin the phase ``name`` of ``total_bytes`` (0: unknown)."""
        with self._lock:
            self._phase, self._total, self._done = name, total_bytes, 0
            self._started = time.monotonic()

    def advance(self, byte_count: int) -> None:
        """``byte_count`` more bytes of this phase are done."""
        with self._lock:
            self._done += byte_count

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter that lasts the whole operation (``unreadable_bytes``, ``new_bytes``, ...)."""
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + by

    def cancel(self) -> None:
        """Ask the operation to stop at its next safe point."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise Cancelled when the operation was asked to stop."""
        if self._cancelled.is_set():
            raise Cancelled("stopped as asked")

    def snapshot(self) -> ProgressSnapshot:
        """What there is to show now."""
        with self._lock:
            seconds = time.monotonic() - self._started
            return ProgressSnapshot(self._phase, self._done, self._total, seconds, dict(self._counters))
