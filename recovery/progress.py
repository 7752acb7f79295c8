"""Phases, counters, the map and the cancellation of one operation.

The engine calls ``phase``, ``advance``, ``mark``, ``waits`` and ``check``; whoever shows the operation reads
``snapshot`` on its own clock.  Nothing is pushed, so showing costs the engine nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType

from recovery.errors import Cancelled
from recovery.extent import Extents
from recovery.work_map import Cell, DiskWork, MappedDisk, WorkMap

#: A snapshot without the map.
NO_MAP = -1


class Side(StrEnum):
    """Where an operation may have to wait: what it reads, what it calculates, what it writes."""

    SOURCE = "source"
    PROCESSOR = "processor"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """One consistent view of an operation.  Bytes and seconds; ``total_bytes`` 0 means unknown.

    For ``stalled_seconds`` nothing has come forward, for that long it waits for ``waits_for``.  ``map`` is None when it
    was not asked for, or has not changed since ``map_version``.
    """

    phase: str
    done_bytes: int
    total_bytes: int
    phase_seconds: float
    counters: dict[str, int] = field(default_factory=dict)
    stalled_seconds: float = 0.0
    waits_for: Side = Side.PROCESSOR
    map_version: int = 0
    map: tuple[MappedDisk, ...] | None = None

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
    """Counters of one operation; safe to use from several threads, but for the map, which one thread marks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = "starting"
        self._done = 0
        self._total = 0
        self._started = self._moved = time.monotonic()
        self._counters: dict[str, int] = {}
        self._cancelled = threading.Event()
        self._enough = threading.Event()
        self._map: WorkMap | None = None
        self._maps = 0
        #: What threads wait for now, and since when.
        self._waits: dict[_Wait, float] = {}

    def phase(self, name: str, total_bytes: int = 0) -> None:
        """Begin the phase ``name`` of ``total_bytes`` (0: unknown)."""
        with self._lock:
            self._phase, self._total, self._done = name, total_bytes, 0
            self._started = self._moved = time.monotonic()

    def advance(self, byte_count: int) -> None:
        """``byte_count`` more bytes of this phase are done."""
        with self._lock:
            self._done += byte_count
            self._moved = time.monotonic()

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter that lasts the whole operation (``unreadable_bytes``, ``new_bytes``, ...)."""
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + by
            self._moved = time.monotonic()

    # -- the map

    def map(self, disks: Sequence[DiskWork]) -> None:
        """From now on there is a map of ``disks``."""
        made = WorkMap(disks)
        with self._lock:
            self._map = made
            self._maps += 1 << 32  # versions grow also when another map takes its place

    def mark(self, disk: int, extents: Extents, state: Cell) -> None:
        """As ``WorkMap.mark``; nothing where there is no map."""
        if self._map is not None:
            self._map.mark(disk, extents, state)

    def place(self, disk: int, offset: int) -> int:
        """As ``WorkMap.place``; 0 where there is no map."""
        return self._map.place(disk, offset) if self._map is not None else 0

    def check_written_before(self, place: int) -> None:
        """As ``WorkMap.check_written_before``; nothing where there is no map."""
        if self._map is not None:
            self._map.check_written_before(place)

    # -- waiting

    def waits(self, side: Side) -> _Wait:
        """For the time of a ``with`` block a thread waits for ``side``."""
        return _Wait(self._waits, side)

    def _stall(self, now: float) -> tuple[float, Side]:
        """How long nothing has moved, and what is waited for: whatever has been for longest."""
        waits = [(since, wait.side) for wait, since in self._waits.copy().items()]
        return max(0.0, now - self._moved), min(waits)[1] if waits else Side.PROCESSOR

    # -- ending early

    def have_enough(self) -> None:
        """Ask the operation not to go into what is hard to read any further, and to end as well as it can."""
        self._enough.set()

    @property
    def enough(self) -> bool:
        """Whether that was asked."""
        return self._enough.is_set()

    # -- cancelling

    def cancel(self) -> None:
        """Ask the operation to stop at its next safe point."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise Cancelled when the operation was asked to stop."""
        if self._cancelled.is_set():
            raise Cancelled("stopped as asked")

    # -- showing

    def snapshot(self, map_after: int = NO_MAP) -> ProgressSnapshot:
        """What there is to show now; the map only when it is newer than the version ``map_after`` (0: any is)."""
        with self._lock:
            now = time.monotonic()
            seconds, (stalled, side) = now - self._started, self._stall(now)
            work = self._map
            version = self._maps + work.version if work is not None else 0
            shown = work.encoded() if work is not None and map_after != NO_MAP and version > map_after else None
            counters = dict(self._counters)
            return ProgressSnapshot(
                self._phase, self._done, self._total, seconds, counters, stalled, side, version, shown
            )


class _Wait:
    """Made for each time anew; a microsecond."""

    __slots__ = ("_waits", "side")

    def __init__(self, waits: dict[_Wait, float], side: Side) -> None:
        self._waits, self.side = waits, side

    def __enter__(self) -> None:
        self._waits[self] = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._waits[self]
