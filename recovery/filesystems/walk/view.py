"""A captured partition to be looked at, and what is found in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recovery.extent import Extent, Extents


class Unreadable(Exception):
    """What was captured cannot be followed as the filesystem that it is to be; the text says where it ends."""


class NotAudited(Exception):
    """Nothing can be said, for a reason that is no fault of the image; the text is that reason."""


@dataclass(frozen=True, slots=True)
class Area:
    """Bytes of a partition that its filesystem needs: whose they are, in plain words, and where they lie.

    ``whose`` says it in full, where finding that out takes its time.
    """

    what: str
    extents: Extents
    whose: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Bytes that are needed and were not captured."""

    what: str
    extents: Extents


def not_in(used: Extents, extents: Extents) -> Extents:
    """What of a few ``extents`` is not in ``used``, which may be long: the cost is that of the few."""
    return Extents(gap for extent in extents if not used.covers(extent) for gap in used.clip(extent).invert(extent))


@dataclass(slots=True)
class View:
    """A captured partition: ``path`` is a file of ``size_bytes`` that shows it, ``used`` what of it was captured.

    Everything counts in bytes from the partition's start.  ``interrupt`` is called now and then, and may raise.
    ``missed`` is what was read here although it was not captured.  ``written``: where the file shows the filesystem
    after its journal was replayed, what the replay wrote; that need not have been captured.
    """

    path: Path
    kind: str
    size_bytes: int
    sector_bytes: int
    used: Extents
    interrupt: Callable[[], None]
    written: Extents = field(default_factory=Extents)
    missed: list[Missing] = field(default_factory=list)

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Exactly ``length`` bytes at ``offset``; ``what`` they are.  Raises Unreadable outside of the partition."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise Unreadable(f"{what} is said to lie at byte {offset}, outside of the partition")
        wanted = Extent(offset, length)
        missing = self.missing_of(Area(what, Extents([wanted])))
        if missing is not None:
            self.missed.append(missing)
        try:
            return b"".join(self._pieces(wanted))
        except OSError as error:
            raise Unreadable(f"{what} at byte {offset} cannot be read: {error.strerror}") from error

    def _pieces(self, wanted: Extent) -> Iterator[bytes]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = wanted.offset
            while at < wanted.end:
                piece = os.pread(descriptor, min(1 << 20, wanted.end - at), at)
                if not piece:
                    raise Unreadable(f"the view ends at byte {at}")
                yield piece
                at += len(piece)
        finally:
            os.close(descriptor)

    def read_all(self, extents: Iterator[Extent] | list[Extent], limit: int, what: str) -> bytes:
        """The bytes of ``extents`` one after the other, at most ``limit``."""
        out = bytearray()
        for extent in extents:
            if len(out) >= limit:
                break
            self.interrupt()
            out += self.read(extent.offset, min(extent.length, limit - len(out)), what)
        return bytes(out)

    def missing_of(self, area: Area) -> Missing | None:
        """What of an area was not captured; what a damaged filesystem names beyond the partition never could be."""
        unused = not_in(self.written, not_in(self.used, area.extents.clip(Extent(0, self.size_bytes))))
        if not unused:
            return None
        return Missing(area.what if area.whose is None else area.whose(), unused)
