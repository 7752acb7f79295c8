"""A survey that a disk which hangs cannot hold up: disks are looked at by processes that can be left behind.

::

    this process                                child: python -m recovery.survey_child
    look at /dev/sda  ------- request --------> sysfs alone: what disk that is
                      <------ disk ------------
                                                opens it: table, contents, fill
                      <------ report ----------
    no report in time: the child is left behind, and the disk is told with what sysfs says

A few children share the disks.  One that is slow with a disk keeps nobody waiting: another takes its place.  While one
is stuck at a disk, later surveys do not send another after it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from recovery.command import Companion, companion
from recovery.devices.disk import Disk
from recovery.devices.usage import printable
from recovery.errors import DeviceError
from recovery.inventory import DiskReport
from recovery.survey_child import Look, Seen
from recovery.units import worker_count

log = logging.getLogger(__name__)

#: The finding of a disk that did not answer in time.
SILENT = "This disk does not answer."
_SLOW_SECONDS = 1.0

#: The children that are stuck, and what is known of the disk, by the disk they are stuck at.
_stuck: dict[tuple[bytes, int | None], tuple[Companion, Disk | None]] = {}
_stuck_lock = threading.Lock()


def survey_apart(paths: Sequence[Path] = (), *, seconds: float = 10.0) -> list[DiskReport]:
    """As ``inventory.survey``, but never longer than ``seconds`` and one more, whatever a disk does.

    A disk that does not answer within ``seconds`` has a report without a table, with the finding ``SILENT``; of an
    image file not even its size may be known then (0 bytes).  For any thread; it blocks.
    Raises DeviceError for a name that is no disk, and when the list of disks cannot be had.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as held:
        children = _Children(held)
        try:
            if paths:
                tasks = [_Task(os.fsencode(path)) for path in paths]
            else:
                tasks = [_Task(os.fsencode(disk.place), disk) for disk in _listed(children, deadline)]
            _look_at_all(tasks, children, deadline)
        finally:
            children.leave()
    for task in tasks if paths else ():
        if task.refusal is not None:
            raise task.refusal
    return [task.finished() for task in tasks if task.refusal is None]  # a disk that was listed may have gone since


class _Task:
    """A disk to be looked at, and what came of it; ``known`` is what is known of it without opening it."""

    def __init__(self, path: bytes, known: Disk | None = None) -> None:
        self.path, self.known = path, known
        self.key = (path, known.diskseq if known is not None else None)
        self.report: DiskReport | None = None
        self.refusal: DeviceError | None = None

    def take(self, seen: Seen) -> None:
        """An answer that is about this disk."""
        if seen.disk is not None:
            self.known = seen.disk
        elif seen.report is not None:
            self.report = seen.report
        else:
            self.refusal = DeviceError(seen.error, seen.hint)

    def finished(self) -> DiskReport:
        """The report, or what can be said without one."""
        return self.report or self.without(SILENT)

    def without(self, finding: str) -> DiskReport:
        """A report of a disk that could not be looked into."""
        return DiskReport(self.known or _unknown(self.path), None, None, (), (finding,))


class _Children:
    """The processes that look at disks, as long as ``held`` is."""

    def __init__(self, held: ExitStack) -> None:
        self._held = held
        self._all: list[Companion] = []
        self._idle: list[Companion] = []
        self._unread: dict[int, bytes] = {}
        self.busy: dict[Companion, tuple[_Task | None, float]] = {}

    def send(self, task: _Task | None) -> None:
        """Give a task (none: to list the disks) to a child that has none."""
        child = self._idle.pop() if self._idle else self._new()
        self.busy[child] = (task, time.monotonic())
        with contextlib.suppress(BrokenPipeError):  # its end is seen where its answers are read
            child.input.write(msgspec.json.encode(Look(task.path if task is not None else None)) + b"\n")

    def answers(self, wait_seconds: float) -> Iterator[tuple[_Task | None, Seen]]:
        """What was answered, and to which task; a child that ended without an answer is told as one, too."""
        by_output = {child.output.fileno(): child for child in self.busy}
        ready, _, _ = select.select(list(by_output), [], [], max(0.0, wait_seconds))
        for descriptor in ready:
            child = by_output[descriptor]
            task, _ = self.busy[child]
            data = os.read(descriptor, 1 << 20)
            if not data:
                del self.busy[child]
                yield task, _ended(child, task)
                continue
            *lines, self._unread[descriptor] = (self._unread.get(descriptor, b"") + data).split(b"\n")
            for line in lines:
                seen = msgspec.json.decode(line, type=Seen)
                if seen.disk is None:
                    del self.busy[child]
                    self._idle.append(child)
                yield task, seen

    def leave(self) -> None:
        """Wait for none of them any longer: those that have answered end by themselves, the others when they can."""
        for child in self._all:
            child.abandon()
        for child, (task, _) in self.busy.items():
            if task is not None:
                log.warning("%s does not answer (process %d)", printable(os.fsdecode(task.path)), child.process_id)
                with _stuck_lock:
                    _stuck[task.key] = (child, task.known)

    def _new(self) -> Companion:
        arguments = [sys.executable, "-m", "recovery.survey_child"]
        child = self._held.enter_context(companion(arguments, needed_for="looking at disks", may_hang=True))
        self._all.append(child)
        return child


def _listed(children: _Children, deadline: float) -> list[Disk]:
    children.send(None)
    while time.monotonic() < deadline:
        for _, seen in children.answers(deadline - time.monotonic()):
            if seen.disks is not None:
                return seen.disks
            raise DeviceError("The disks of this machine could not be listed.", seen.error)
    raise DeviceError(
        "The disks of this machine could not be listed in time.",
        "A disk or a network folder hangs: see the kernel's log (dmesg), and unplug what is not needed.",
    )


def _look_at_all(tasks: list[_Task], children: _Children, deadline: float) -> None:
    waiting = deque(task for task in tasks if not _is_stuck(task))
    while (waiting or children.busy) and time.monotonic() < deadline:
        now = time.monotonic()
        quick = sum(now - since < _SLOW_SECONDS for _, since in children.busy.values())
        while waiting and quick < worker_count():
            children.send(waiting.popleft())
            quick += 1
        wait_seconds = min(deadline - now, _SLOW_SECONDS if waiting else deadline - now)
        for task, seen in children.answers(wait_seconds):
            if task is not None:
                task.take(seen)


def _is_stuck(task: _Task) -> bool:
    with _stuck_lock:
        for key, (child, _) in list(_stuck.items()):
            if child.ended:
                del _stuck[key]
        if task.key not in _stuck:
            return False
        task.known = task.known or _stuck[task.key][1]
        return True


def _ended(child: Companion, task: _Task | None) -> Seen:
    """What stands for the answer of a child that ended instead of answering."""
    log.error("a process that looks at disks ended: %s", child.last_words())
    if task is None:
        return Seen(error=f"The process that does it ended: {child.last_words()}")
    return Seen(report=task.without("It could not be looked at: the process that does it ended (this is a bug)."))


def _unknown(path: bytes) -> Disk:
    """A disk or image file of which nothing but its name is known."""
    place = Path(os.fsdecode(path))
    return Disk(
        path=printable(str(place)),
        name=printable(place.name),
        model=None,
        vendor=None,
        serial=None,
        wwn=None,
        transport=None,
        size_bytes=0,
        logical_sector_bytes=512,
        physical_sector_bytes=512,
        removable=False,
        rotational=False,
        read_only=False,
        diskseq=None,
        is_image_file=False,
    )
