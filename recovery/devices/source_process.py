"""Reads a source in a process of its own, so that a read which the kernel never answers can be abandoned.

::

    this process                                   child: python -m recovery.devices.source_child
    read(extent, used, buffer) -- request -------> reads into the same memory
                               <-- still alive --- between the sectors of a bad area
                               <-- done, lost ----
    no answer: cancelled, or given up -> the child is left behind; nothing else waits for it

Requests and answers are frames: four bytes of length, then MessagePack.  The buffers lie in memory that both share, so
no byte is copied.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec

from recovery.command import Companion, companion
from recovery.devices.blockio import Effort
from recovery.errors import Cancelled, DeviceError, RecoveryError
from recovery.extent import Extent, Extents

log = logging.getLogger(__name__)

#: The kernel itself gives a disk up after some tries of 30 seconds each; who waits longer waits for ever.
SILENCE_SECONDS = 300.0
_TOLD_AFTER_SECONDS = 30.0
_POLL_SECONDS = 0.2
_LENGTH_BYTES = 4


class Request(msgspec.Struct, array_like=True):
    """Read ``length`` bytes at ``offset`` into buffer ``slot``; ``used``: offset and length by turns.

    ``number`` counts requests; ``effort`` as of ``SourceReader.read``.  With ``drop_before`` nothing is read or
    answered: the page cache below it is given back.
    """

    number: int
    offset: int
    length: int
    slot: int
    used: list[int]
    drop_before: int | None = None
    effort: Effort = Effort.PATIENT


class Answer(msgspec.Struct, array_like=True):
    """To the request ``number``: ``lost`` could not be read (offset and length by turns); or ``error`` and ``hint``.

    Neither is final while ``busy``: the child only says that it is alive.  What follows the extent that was asked for
    is zeros up to ``zeros_until``, a hole of an image file.
    """

    number: int
    lost: list[int] = []
    error: str = ""
    hint: str = ""
    busy: bool = False
    zeros_until: int = 0


class SharedBuffers:
    """``count`` buffers of ``size`` bytes in memory that a source's process can fill.  For one thread."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.descriptor = os.memfd_create("buffers")
        os.ftruncate(self.descriptor, count * size + mmap.PAGESIZE)
        views = memoryview(mmap.mmap(self.descriptor, count * size + mmap.PAGESIZE))
        self._enough = views[count * size :]
        self._all = [views[number * size : (number + 1) * size] for number in range(count)]
        self._free = list(self._all)
        self._slots = {id(view): number for number, view in enumerate(self._all)}

    def close(self) -> None:
        """No process will fill them any more; what is in use stays good."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @property
    def enough(self) -> bool:
        """Whether the read that goes on shall go into what is bad no further; the last page of the memory."""
        return self._enough[0] != 0

    @enough.setter
    def enough(self, said: bool) -> None:
        self._enough[0] = said

    def take(self) -> memoryview:
        """A buffer that is free; there must be one."""
        return self._free.pop()

    def give(self, buffer: memoryview) -> None:
        """A buffer that was taken is free again."""
        self._free.append(buffer)

    def slot(self, buffer: memoryview) -> int:
        """The number of a buffer that was taken here."""
        return self._slots[id(buffer)]


class SourceProcess:
    """A source that is read by another process; the same calls as ``SourceReader``, for the time of a ``with`` block.

    ``interrupt`` is called several times a second while a read is waited for, and may raise to give it up.
    """

    def __init__(
        self,
        path: Path,
        sector_bytes: int,
        buffers: SharedBuffers,
        interrupt: Callable[[], None],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.path, self.sector_bytes = path, sector_bytes
        self.buffers, self._interrupt, self._silence_seconds = buffers, interrupt, silence_seconds
        self._held = ExitStack()
        self._child: Companion | None = None
        self._number = 0
        #: A hole of an image file, known from the last read: zeros that need not be read.
        self.hole = Extent(0, 0)

    def __enter__(self) -> SourceProcess:
        arguments = [sys.executable, "-m", "recovery.devices.source_child", str(self.path), str(self.sector_bytes)]
        memory = [str(self.buffers.descriptor), str(self.buffers.size)]
        child = companion(
            [*arguments, *memory],
            needed_for=f"reading {self.path}",
            inherited=[self.buffers.descriptor],
            may_hang=True,
        )
        self._child = self._held.enter_context(child)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def read(
        self,
        extent: Extent,
        used: Extents,
        buffer: memoryview,
        effort: Effort = Effort.PATIENT,
        enough: Callable[[], bool] = lambda: False,
    ) -> Extents:
        """As ``SourceReader.read``; ``buffer`` is one of the shared ones.

        As soon as ``enough`` holds, what is bad is gone into no further, and is lost.
        Raises DeviceError also when the source does not answer, and what ``interrupt`` raises.
        """
        flat = [number for inside in used.clip(extent) for number in inside]
        self._number += 1
        slot = self.buffers.slot(buffer)
        self.buffers.enough = False
        self._send(Request(self._number, extent.offset, extent.length, slot, flat, effort=effort))
        answer = self._answer(extent, enough)
        self.hole = Extent(extent.end, max(0, answer.zeros_until - extent.end))
        return Extents(zip(answer.lost[::2], answer.lost[1::2], strict=True))

    def drop_cache(self, before: int) -> None:
        """Give the page cache below the offset ``before`` back."""
        self._send(Request(self._number, 0, 0, 0, [], before))

    def _send(self, request: Request) -> None:
        child = self._running()
        data = msgspec.msgpack.encode(request)
        with contextlib.suppress(BrokenPipeError):  # its last words tell more
            child.input.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)

    def _answer(self, extent: Extent, enough: Callable[[], bool]) -> Answer:
        silent_since = time.monotonic()
        told = False
        while True:
            self.buffers.enough = enough()
            if not select.select([self._running().output], [], [], _POLL_SECONDS)[0]:
                silence = time.monotonic() - silent_since
                self._wait_on(extent, silence)
                if silence > _TOLD_AFTER_SECONDS and not told:
                    told = True
                    log.warning("%s has not answered a read at byte %d for %.0f s", self.path, extent.offset, silence)
                continue
            answer = msgspec.msgpack.decode(self._frame(), type=Answer)
            if answer.error:
                raise DeviceError(answer.error, answer.hint)
            if answer.number != self._number:
                raise DeviceError(f"the process that reads {self.path} lost count", "This is a bug: please report it.")
            if not answer.busy:
                return answer
            self._interrupt()
            silent_since = time.monotonic()

    def _wait_on(self, extent: Extent, silence: float) -> None:
        """Raise when the answer is not to be waited for any longer; the child is left to its fate then."""
        try:
            self._interrupt()
            if silence > self._silence_seconds:
                raise DeviceError(
                    f"{self.path} does not answer a read at byte {extent.offset} since {silence:.0f} s",
                    "The disk or its cable hangs: see the kernel's log (dmesg), switch the disk off and on, and run it "
                    "again. What was stored until now is kept.",
                )
        except RecoveryError as error:
            self._running().abandon()
            if isinstance(error, Cancelled) and silence > 1:
                error.message = f"{error.message} (a read at byte {extent.offset} of {self.path} was not answered)"
            raise

    def _frame(self) -> bytes:
        length = int.from_bytes(self._exactly(_LENGTH_BYTES), "little")
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._running().output.read(count - len(data))
            if not part:
                raise DeviceError(
                    f"the process that reads {self.path} ended: {self._running().last_words()}", "Run it again."
                )
            data += part
        return data

    def _running(self) -> Companion:
        if self._child is None:
            raise DeviceError(f"{self.path} is not open", "This is a bug: please report it.")
        return self._child
