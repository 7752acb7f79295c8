"""In which order a failing source is read: what can be read easily first, bad areas last.

A disk that is dying may answer a read of a bad sector after half a minute, and every such read may be its last.  As
GNU ddrescue does, so the pieces of a source are gone through several times::

    1  forward; behind a piece that fails, or is slow, some are skipped, more and more when that happens again
    2  backward over what was skipped, skipping likewise: a bad area is closed in from both sides
    3  forward over what was skipped twice, none left out
    4  forward over what failed, coarsely: what of each piece is still readable in steps of 64 KiB
    5  forward over what failed again, patiently: narrowed down to the sector

A piece that is slow was read all the same, and is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from recovery.devices.blockio import Effort
from recovery.progress import Progress

#: A piece that takes longer, and many times longer than others of its disk, counts as slow.
_SLOW_SECONDS, _SLOW_FACTOR = 1.0, 10.0
_LONGEST_SKIP = 64


class ReadingOrder:
    """Which pieces are read when.  The caller says of each, by ``told``, how it went, before it asks for the next."""

    def __init__(self) -> None:
        self._skip = self._left = 0
        self._skipped: list[int] = []
        self._failed: list[int] = []
        self._seconds = 0.0
        self._read = 0

    def is_due(self, number: int) -> bool:
        """Whether the piece is to be read in the pass that is going on; if not, it comes again in a later one."""
        if not self._left:
            return True
        self._left -= 1
        self._skipped.append(number)
        return False

    def told(self, number: int, *, failed: bool, seconds: float) -> None:
        """The piece was read, or ``failed``, as a whole or in part; that took so long."""
        slow = self._read > 0 and seconds > max(_SLOW_SECONDS, _SLOW_FACTOR * self._seconds / self._read)
        if failed:
            self._failed.append(number)
        elif not slow:
            self._seconds, self._read = self._seconds + seconds, self._read + 1
        if failed or slow:
            self._skip = min(_LONGEST_SKIP, max(1, 2 * self._skip))
        else:
            self._skip = 0
        self._left = self._skip

    def later(self) -> Iterator[tuple[int, Effort]]:
        """After the first pass: the number of each piece that was not read yet, and with which effort to read it."""
        self._skip = self._left = 0
        skipped, self._skipped = self._skipped, []
        for number in reversed(skipped):
            if self.is_due(number):
                yield number, Effort.QUICK
        for number in sorted(self._skipped):
            yield number, Effort.QUICK
        for effort in (Effort.COARSE, Effort.PATIENT):
            failed, self._failed = sorted(self._failed), []
            for number in failed:
                yield number, effort


class Patience:
    """Until when what is hard to read is tried: for a time, or until a person has ``progress`` told that it is enough.

    What can be read easily is read in any case.
    """

    def __init__(self, seconds: float | None, progress: Progress) -> None:
        self._seconds, self._progress = seconds, progress
        self._since: float | None = None

    def ended(self, effort: Effort) -> bool:
        """Whether nothing more is to be read with this effort."""
        if effort is Effort.QUICK:
            return False
        if self._progress.enough or self._seconds is None:
            return self._progress.enough
        now = time.monotonic()
        if self._since is None:
            self._since = now
        return now - self._since >= self._seconds
