"""A survey that a disk which hangs cannot hold up: disks are looked at by processes that can be left behind.

::

    this process                                child: python -m recovery.survey_child
    look at /dev/sda  ------- request --------> sysfs alone: what disk that is
                      <------ disk ------------
                                                opens it: table, contents, fill
                      <------ report ----------
    no report in time: the child is left behind, and the disk is told with what sysfs says

A few children share the disks.  One that is slow with a disk keeps nobody waiting: another takes its place.  While one
is stuck at a disk, later surveys do not send another after it; when it comes back they take what it found.
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
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from recovery.command import companion
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
#: What listing may take, and how much longer than that looking at the disks.
_LIST_SECONDS, _SLOWER = 60.0, 4.0

_LIST = b""

#: The children that have not answered yet, by the path of the disk that they look at.
_late: dict[bytes, _Child] = {}
_late_lock = threading.Lock()


def survey_apart(paths: Sequence[Path] = (), *, seconds: float = 10.0) -> list[DiskReport]:
    """As ``inventory.survey``, but never much longer than ``seconds``, whatever a disk does.

    Disks are listed first, which opens none; a machine that takes long for that alone is given as much longer for
    its disks.  A disk that does not answer within ``seconds`` has a report without a table, with the finding
    ``SILENT``; of an image file not even its size may be known then (0 bytes).  Later surveys do not wait for it, and
    give its report once it has answered all the same.  For any thread; it blocks.
    Raises DeviceError for a name that is no disk, and when the list of disks cannot be had.
    """
    began = time.monotonic()
    children = _Children()
    try:
        if paths:
            tasks = [_Task(os.fsencode(path)) for path in paths]
        else:
            tasks = [_Task(os.fsencode(disk.place), disk) for disk in _listed(children, began + _LIST_SECONDS)]
            _forget_others({task.path for task in tasks})
        listed = time.monotonic()
        _look_at_all(tasks, children, listed + max(seconds, _SLOWER * (listed - began)))
    finally:
        children.leave()
    for task in tasks if paths else ():
        if task.refusal is not None:
            raise task.refusal
    return [task.finished() for task in tasks if task.refusal is None]  # a disk that was listed may have gone since


class _Task:
    """A disk to be looked at (``_LIST``: all of them to be listed), and what came of it.

    ``known`` is what is known of it without opening it.
    """

    def __init__(self, path: bytes, known: Disk | None = None) -> None:
        self.path, self.known = path, known
        self.diskseq = known.diskseq if known is not None else _diskseq(path)
        self.disks: list[Disk] | None = None
        self.report: DiskReport | None = None
        self.refusal: DeviceError | None = None

    def take(self, seen: Seen) -> bool:
        """Note an answer; whether it is the last."""
        if seen.disk is not None:
            self.known = seen.disk
            return False
        self.disks, self.report = seen.disks, seen.report
        if seen.error:
            self.refusal = DeviceError(seen.error, seen.hint)
        return True

    def ended(self, words: str) -> None:
        """The process that should have answered ended, with these last words."""
        log.error("a process that looks at disks ended: %s", words)
        if self.path == _LIST:
            self.refusal = DeviceError("the disks of this machine could not be listed", f"It ended: {words}")
        else:
            self.report = self._without("It could not be looked at: the process that does it ended (this is a bug).")

    def finished(self) -> DiskReport:
        """The report, or what can be said without one."""
        return self.report or self._without(SILENT)

    def _without(self, finding: str) -> DiskReport:
        return DiskReport(self.known or _unknown(self.path), None, None, (), (finding,))


class _Child:
    """A process that looks at one disk after the other."""

    def __init__(self) -> None:
        self._held = ExitStack()
        arguments = [sys.executable, "-m", "recovery.survey_child"]
        beside = companion(arguments, needed_for="looking at disks", may_hang=True)
        self._companion = self._held.enter_context(beside)
        self._companion.abandon()  # it ends by itself when its input does, and is never waited for
        self._unread = b""
        self.task: _Task | None = None
        self.since = 0.0

    def fileno(self) -> int:
        """What to wait on for an answer."""
        return self._companion.output.fileno()

    def ask(self, task: _Task) -> None:
        """Give it a task."""
        self.task, self.since = task, time.monotonic()
        request = Look(task.path if task.path != _LIST else None)
        with contextlib.suppress(BrokenPipeError):  # its end is seen where its answers are read
            self._companion.input.write(msgspec.json.encode(request) + b"\n")

    def hear(self) -> bool:
        """Let its task take what it says, which there must be; whether it is of use any longer."""
        data = os.read(self.fileno(), 1 << 20)
        if not data:
            if self.task is not None:
                self.task.ended(self._companion.last_words())
            self.task = None
            return False
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if self.task is not None and self.task.take(msgspec.json.decode(line, type=Seen)):
                self.task = None
        return True

    def leave(self) -> None:
        """Nothing is wanted of it any more."""
        self._held.close()


class _Children:
    """The processes of one survey, and those of former ones that have not answered yet."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._busy: list[_Child] = []
        self._late: list[_Child] = []

    @property
    def waiting(self) -> bool:
        """Whether one of this survey has not answered yet."""
        return bool(self._busy)

    def room(self) -> bool:
        """Whether another one may begin: those that are slow do not count."""
        now = time.monotonic()
        return sum(now - child.since < _SLOW_SECONDS for child in self._busy) < worker_count()

    def send(self, task: _Task) -> None:
        """Give a task to a child that has none."""
        child = self._idle.pop() if self._idle else _Child()
        self._busy.append(child)
        child.ask(task)

    def adopt(self, task: _Task) -> bool:
        """Take over the child of a former survey that looks at the same disk; whether there is one."""
        with _late_lock:
            child = _late.pop(task.path, None)
        if child is None or child.task is None:
            return False
        if child.task.diskseq != task.diskseq:  # another disk has its name now
            child.leave()
            return False
        task.known = task.known or child.task.known
        child.task = task
        self._late.append(child)
        return True

    def hear(self, wait_seconds: float) -> None:
        """Wait for answers, and have them taken."""
        ready, _, _ = select.select([*self._busy, *self._late], [], [], max(0.0, wait_seconds))
        for child in ready:
            useful = child.hear()
            if child.task is None:
                (self._busy if child in self._busy else self._late).remove(child)
                if useful:
                    self._idle.append(child)
                else:
                    child.leave()

    def leave(self) -> None:
        """Wait for none of them any longer."""
        for child in self._idle:
            child.leave()
        for child in (*self._busy, *self._late):
            if child.task is None or child.task.path == _LIST:
                child.leave()
                continue
            if child in self._busy:
                log.warning("%s does not answer", printable(os.fsdecode(child.task.path)))
            with _late_lock:
                former = _late.pop(child.task.path, None)
                _late[child.task.path] = child
            if former is not None:
                former.leave()


def _listed(children: _Children, deadline: float) -> list[Disk]:
    task = _Task(_LIST)
    children.send(task)
    while children.waiting and time.monotonic() < deadline:
        children.hear(deadline - time.monotonic())
    if task.refusal is not None:
        raise task.refusal
    if task.disks is None:
        raise DeviceError(
            "the disks of this machine could not be listed in time",
            "A disk or a network folder hangs: see the kernel's log (dmesg), and unplug what is not needed.",
        )
    return task.disks


def _forget_others(paths: set[bytes]) -> None:
    """Leave those that looked at a disk which is not there any more."""
    with _late_lock:
        gone = [_late.pop(path) for path in list(_late) if path not in paths]
    for child in gone:
        child.leave()


def _look_at_all(tasks: list[_Task], children: _Children, deadline: float) -> None:
    waiting = deque(task for task in tasks if not children.adopt(task))
    children.hear(0)
    while (waiting or children.waiting) and (now := time.monotonic()) < deadline:
        while waiting and children.room():
            children.send(waiting.popleft())
        children.hear(min(deadline - now, _SLOW_SECONDS if waiting else deadline - now))


def _diskseq(path: bytes) -> int | None:
    """The kernel's number of the disk at ``path``; None of a file, and of a kernel that has none."""
    name = os.path.realpath(path).removeprefix(b"/dev/").replace(b"/", b"!") if path.startswith(b"/dev/") else b""
    try:
        return int((Path("/sys/class/block") / os.fsdecode(name) / "diskseq").read_text())
    except (OSError, ValueError):
        return None


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
