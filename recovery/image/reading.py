"""Reads a disk into its image: all that is easy first, what is hard to read last.

What an earlier, incomplete image of the disk holds is not read again but taken from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from recovery.devices.blockio import Effort
from recovery.devices.resilient import Patience, ReadingOrder
from recovery.errors import DeviceError
from recovery.extent import Extent, Extents
from recovery.image.capture_plan import PlannedDisk
from recovery.image.layout import zero_id
from recovery.image.writer import ChunkWriter, Place
from recovery.progress import Progress, Side
from recovery.repository.format import ID_BYTES
from recovery.work_map import Cell

log = logging.getLogger(__name__)

#: The page cache behind the reader is given back this often.
_DROP_EVERY_CHUNKS = 32

#: How an area is told in a map that was gone into with that effort, and could not be read (None: not yet tried).
_STATUS = {None: "?", Effort.QUICK: "*", Effort.COARSE: "/"}


@dataclass(frozen=True, slots=True)
class StoredDisk:
    """A disk, as far as it was read: the ids of all its pieces, and by status of a map what was not read."""

    planned: PlannedDisk
    ids: bytearray
    areas: dict[str, Extents]

    @property
    def lost(self) -> Extents:
        """What of the used bytes was not read, for whatever reason."""
        lost = Extents()
        for extents in self.areas.values():
            lost = lost.union(extents)
        return lost


@dataclass(slots=True)
class _PutOff:
    """A chunk that is read later: what was tried so far, and what of it is lost by that (None: all)."""

    effort: Effort | None
    lost: Extents | None = None


class _Died(Exception):
    """The disk answers no more."""

    def __init__(self, error: DeviceError) -> None:
        super().__init__(error.message)
        self.error = error


class DiskReading:
    """The disk number ``disk`` of an operation on its way into an image; ``chunks`` stores one disk after the other."""

    def __init__(self, chunks: ChunkWriter, disk: int, planned: PlannedDisk, progress: Progress) -> None:
        self._chunks, self._disk, self._planned, self._progress = chunks, disk, planned, progress
        self._order, self._patience = ReadingOrder(), Patience(None, progress)
        #: How many pieces have a place in the image by now.
        self._given = 0
        self._put_off: dict[int, _PutOff] = {}
        self._unreadable: list[Extent] = []
        self._not_reached = Extents()
        self._read_bytes = 0
        #: Why the disk answers no more; empty when it does.
        self.died = ""
        self._ids: bytearray | None = None

    @property
    def failing(self) -> bool:
        """Whether anything was hard to read."""
        return bool(self._put_off or self._unreadable or self.died)

    def run(self, patience: Patience, pause: Callable[[], None]) -> None:
        """Read all of it; as soon as ``patience`` ends, what could not be read easily is left.

        ``pause`` is called between chunks.  A disk that answers no more is left as it is.  Raises DeviceError when it
        did so before anything was read, or when it is no disk but a file.
        """
        self._patience = patience
        known = self._planned.domain.used.subtract(self._planned.missing)
        self._progress.mark(self._disk, known, Cell.READ)
        self._progress.mark(self._disk, known, Cell.KNOWN)
        try:
            self._first_pass(pause)
            for number, effort in self._order.later():
                self._progress.check()
                if patience.ended(effort):
                    break
                self._read(number, effort)
                pause()
        except _Died as died:
            if not self._read_bytes or self._planned.disk.is_image_file:
                raise died.error from died
            self.died = died.error.message
            log.warning("%s. What was read of it until then is kept.", self.died)
        self._leave_rest()
        if not self.died:
            self._planned.guard.check()
        self._ids = self._chunks.take_ids()

    def so_far(self) -> StoredDisk:
        """The disk as an image of it would hold it by now."""
        layout = self._planned.layout
        if self._ids is not None:
            return StoredDisk(self._planned, self._ids, self._areas(self._not_reached))
        ids = self._chunks.ids_so_far() if self._given else bytearray()
        for number, chunk in self._put_off.items():
            if chunk.lost is None:
                ids[number * ID_BYTES : (number + 1) * ID_BYTES] = self._without(number)
        for number in range(self._given, len(layout)):
            ids += self._without(number)
        return StoredDisk(self._planned, ids, self._areas(self._ahead()))

    def _ahead(self) -> Extents:
        """What the first pass has not come to."""
        layout = self._planned.layout
        here = layout[self._given].extent.offset if self._given < len(layout) else layout.size_bytes
        return self._planned.missing.clip(Extent(here, layout.size_bytes - here))

    def _areas(self, ahead: Extents) -> dict[str, Extents]:
        """What was not read, by status of a map."""
        areas: dict[str, list[Extent]] = {"-": list(self._unreadable), "/": [], "*": [], "?": list(ahead)}
        for number, chunk in self._put_off.items():
            areas[_STATUS[chunk.effort]] += self._lost(number)
        return {status: Extents(sorted(found)) for status, found in areas.items()}

    # -- the passes

    def _first_pass(self, pause: Callable[[], None]) -> None:
        layout, source = self._planned.layout, self._planned.reader
        while self._given < len(layout):
            self._progress.check()
            pause()
            number = self._given
            extent, hole = layout[number]
            if hole:
                self._chunks.put_zeros(extent.length)
                self._given += 1
            elif self._planned.earlier is None and (
                count := layout.run_within(number, source.hole, self._chunks.chunk_bytes)
            ):
                self._zeros(Extent(extent.offset, count * extent.length), count)
            elif not self._wanted(number):
                self._chunks.put_known(self._without(number))
                self._given += 1
            elif self._order.is_due(number):
                self._read(number, Effort.QUICK)
            else:
                self._later(number, None)
            if number % _DROP_EVERY_CHUNKS == 0:
                source.drop_cache(extent.offset)

    def _zeros(self, extent: Extent, count: int) -> None:
        """A hole of an image file: so many chunks that need not be read."""
        inside = self._planned.missing.clip(extent)
        self._progress.mark(self._disk, inside, Cell.READ)
        self._chunks.put_zero_chunks(count, Place(self._disk, inside))
        self._progress.advance(inside.total_bytes)
        self._read_bytes += inside.total_bytes
        self._given += count

    def _read(self, number: int, effort: Effort) -> None:
        extent, wanted = self._planned.layout[number].extent, self._wanted(number)
        buffer = self._chunks.buffer()
        began = time.monotonic()
        try:
            with self._progress.waits(Side.SOURCE):
                ended = partial(self._patience.ended, effort)
                lost = self._planned.reader.read(extent, wanted, buffer, effort, ended)
        except DeviceError as error:
            self._chunks.take_back(buffer)
            raise _Died(error) from error
        if effort is not Effort.PATIENT:
            self._order.told(number, failed=bool(lost), seconds=time.monotonic() - began)
        if lost and effort is Effort.QUICK:
            self._chunks.take_back(buffer)
            self._later(number, effort)
            return
        self._lay_under(number, buffer)
        self._read_bytes += wanted.total_bytes - lost.total_bytes
        place = Place(self._disk, wanted)
        if number not in self._put_off:
            self._progress.mark(self._disk, wanted, Cell.READ)
            self._progress.advance(wanted.total_bytes)
            self._chunks.put(buffer, extent.length, place)
            self._given += 1
            return
        again = bool(lost) and (effort is Effort.COARSE or ended())
        self._came(self._lost(number).subtract(lost) if again else self._lost(number))
        self._chunks.put(buffer, extent.length, place, number, final=not again)
        if again:
            self._put_off[number] = _PutOff(Effort.COARSE, lost)
        else:
            del self._put_off[number]
            self._lose(lost)
            self._unreadable += lost

    def _later(self, number: int, effort: Effort | None) -> None:
        """It is read again, or read at all, later."""
        if number not in self._put_off:
            self._chunks.put_off()
            self._given += 1
            self._progress.count("put_off_bytes", self._wanted(number).total_bytes)
        self._put_off[number] = _PutOff(effort)

    def _leave_rest(self) -> None:
        """There is no time for it, or no disk any more: what was not read is as an earlier image has it, or zeros."""
        for number, chunk in sorted(self._put_off.items()):
            if chunk.lost is None:
                self._chunks.put_known(self._without(number), number)
            lost = self._lost(number)
            self._came(lost)
            self._lose(lost)
        self._not_reached = self._ahead()
        self._progress.mark(self._disk, self._not_reached, Cell.READ)
        self._progress.advance(self._not_reached.total_bytes)
        self._lose(self._not_reached)
        while self._given < len(self._planned.layout):
            self._chunks.put_known(self._without(self._given))
            self._given += 1

    # -- a piece

    def _wanted(self, number: int) -> Extents:
        """What of a piece is to be read."""
        return self._planned.missing.clip(self._planned.layout[number].extent)

    def _lost(self, number: int) -> Extents:
        """What of a piece that was put off is not read yet."""
        lost = self._put_off[number].lost
        return self._wanted(number) if lost is None else lost

    def _without(self, number: int) -> bytes:
        """The id of the piece as it is without being read: that of an earlier image, or of zeros, which are stored."""
        if self._planned.earlier is not None:
            return self._planned.earlier.id_of(number)
        length = self._planned.layout[number].extent.length
        self._chunks.have_zeros(length)
        return zero_id(length)

    def _lay_under(self, number: int, buffer: memoryview) -> None:
        """Put into ``buffer`` what an earlier image holds of the piece."""
        earlier, extent = self._planned.earlier, self._planned.layout[number].extent
        if earlier is None:
            return
        for held in self._planned.domain.used.clip(extent).subtract(self._wanted(number)):
            start = held.offset - extent.offset
            buffer[start : start + held.length] = earlier.read(held.offset, held.length)

    def _came(self, extents: Extents) -> None:
        """What had been put off is read, or lost, by now."""
        self._progress.count("put_off_bytes", -extents.total_bytes)
        self._progress.mark(self._disk, extents, Cell.READ)
        self._progress.advance(extents.total_bytes)

    def _lose(self, extents: Extents) -> None:
        if extents:
            self._progress.mark(self._disk, extents, Cell.UNREADABLE)
            self._progress.count("unreadable_bytes", extents.total_bytes)
