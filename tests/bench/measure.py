"""Time and memory of one command line, fsync included in what the command line does."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.machine import ENVIRONMENT, CommandFailed, ended

_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: wall seconds, the memory of its whole process group at its largest, CPU seconds of all its processes."""

    seconds: float
    peak_bytes: int
    cpu_seconds: float


def measure(arguments: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end.  Raises CommandFailed when it exits with anything but 0.

    Memory is the largest of three figures: the sum over its processes of their proportional sizes, and the
    high-water mark of each single one, both sampled five times a second; and the high-water mark that the kernel
    reports at the end, unless that is our own, which a new process starts with.
    """
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **(environment or {})},
            start_new_session=True,
        )
        sampler = _Sampler(process.pid)
        with ended(process):
            sampler.start()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            sampler.stop()
        if process.returncode != 0:
            said.seek(0)
            text = said.read().decode(errors="replace")[-4000:]
            shown = " ".join(map(str, arguments))
            raise CommandFailed(f"{shown}\nexit status {process.returncode}\n{text}".rstrip())
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reported = usage.ru_maxrss << 10 if usage.ru_maxrss > own else 0
        return Measured(seconds, max(reported, sampler.peak_bytes), usage.ru_utime + usage.ru_stime)


class _Sampler(threading.Thread):
    def __init__(self, leader: int) -> None:
        super().__init__(daemon=True)
        self.leader = leader
        self.peak_bytes = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _tree_bytes(self.leader))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _tree_bytes(leader: int) -> int:
    """Of the session of ``leader`` and of what its processes started: a job is in a session of its own."""
    parents: dict[int, int] = {}
    counted: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                if int(fields[3]) == leader:
                    counted.add(int(entry.name))
    while more := {process for process, parent in parents.items() if parent in counted} - counted:
        counted |= more
    total = highest = 0
    for process in counted:
        with suppress(OSError):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            status = Path(f"/proc/{process}/status").read_text()
            total += _kib_line(rollup, "Pss:")
            highest = max(highest, _kib_line(status, "VmHWM:"))
    return max(total, highest)


def _kib_line(text: str, name: str) -> int:
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(name))


def folder_bytes(folder: Path) -> int:
    """The sizes of all files below a folder (or of a file), added."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
