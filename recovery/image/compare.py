"""Pieces of a disk compared with what they should hold, by their hashes: reading back, and differential restores."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

from recovery.devices.blockio import SourceReader, TargetWriter
from recovery.extent import Extent, Extents
from recovery.image.layout import zero_id
from recovery.progress import Progress, Side

_READERS = 2


class Expected(NamedTuple):
    """A piece: ``extent`` of the source, what of it counts, and the SHA-256 of it with zeros where it does not."""

    extent: Extent
    body: Extents
    digest: bytes


def compare_pieces(
    target: TargetWriter, shift: int, expected: Iterable[Expected], progress: Progress, sector_bytes: int
) -> Iterator[tuple[Expected, bool]]:
    """Each piece and whether ``target`` holds it, ``shift`` bytes further on; in the order given.

    What cannot be read is not held.  Raises Cancelled, DeviceError when the target is gone.
    """
    with ExitStack() as held, ThreadPoolExecutor(_READERS, thread_name_prefix="compare") as pool:
        hasher = TargetHasher(target, shift, sector_bytes, progress, held)
        under_way: deque[tuple[Future[bytes | None], Expected]] = deque()
        try:
            for piece in expected:
                progress.check()
                under_way.append((pool.submit(hasher.digest, piece), piece))
                if len(under_way) > 2 * _READERS:
                    future, oldest = under_way.popleft()
                    yield oldest, future.result() == oldest.digest
            for future, oldest in under_way:
                yield oldest, future.result() == oldest.digest
        finally:
            pool.shutdown(cancel_futures=True)


class TargetHasher:
    """Hashes pieces of a target in several threads, each with a buffer and a reader of its own."""

    def __init__(
        self, target: TargetWriter, shift: int, sector_bytes: int, progress: Progress, held: ExitStack
    ) -> None:
        self._target, self._shift, self._sector_bytes = target, shift, sector_bytes
        self._progress, self._held = progress, held
        self._own = threading.local()

    def digest(self, piece: Expected) -> bytes | None:
        """SHA-256 of what the target holds there; None when a part of it cannot be read."""
        room, reader = self._room(piece.extent.length), self._reader()
        place = Extent(piece.extent.offset + self._shift, piece.extent.length)
        if reader.hole_end(place.offset) >= place.end:
            return zero_id(place.length)
        with self._progress.waits(Side.DESTINATION):
            lost = reader.read(place, piece.body.shift(self._shift), room)
        return None if lost else hashlib.sha256(room[: place.length]).digest()

    def _room(self, length: int) -> memoryview:
        room: memoryview = self._own.__dict__.get("room", memoryview(b""))
        if len(room) < length:
            room = self._own.room = memoryview(bytearray(length))
        return room

    def _reader(self) -> SourceReader:
        reader: SourceReader | None = self._own.__dict__.get("reader")
        if reader is None:
            reader = self._target.reader(self._sector_bytes, self._progress.check)
            self._own.reader = self._held.enter_context(reader)
        return reader
