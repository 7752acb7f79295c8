"""The only place that starts a subprocess.

Programs run in the C locale, without our standard input, found also in the sbin folders, with a time limit.
A secret goes through ``environment`` or ``input``, never through the arguments, which anyone can read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recovery.errors import DeviceError, ProgramMissing, RecoveryError

log = logging.getLogger(__name__)

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

#: The repository's password is nobody else's business: no program that we run needs it.
_SECRETS = ("RESTIC_PASSWORD", "RESTIC_PASSWORD_COMMAND")

_POLL_SECONDS = 0.2
_KILL_SECONDS = 5.0
_TIDY_SECONDS = 30.0
_running: set[subprocess.Popen[bytes]] = set()

#: Which Debian package brings a program, for the hint when it is missing.
PACKAGES = {
    "blkid": "util-linux",
    "losetup": "mount",
    "sfdisk": "fdisk",
    "restic": "restic",
    "wipefs": "util-linux",
    "findmnt": "util-linux",
    "blockdev": "util-linux",
    "ddrescuelog": "gddrescue",
    "ntfs-3g.probe": "ntfs-3g",
    "udevadm": "udev",
    "xfs_logprint": "xfsprogs",
    "unshare": "util-linux",
    "btrfs": "btrfs-progs",
    "e2fsck": "e2fsprogs",
    "mkfs.ext4": "e2fsprogs",
    "fsck.exfat": "exfatprogs",
    "fsck.fat": "dosfstools",
    "ntfsfix": "ntfs-3g",
    "ntfsls": "ntfs-3g",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "mdir": "mtools",
    "mtype": "mtools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "xfs_db": "xfsprogs",
    "xfs_repair": "xfsprogs",
    "fsck.f2fs": "f2fs-tools",
    "prlimit": "util-linux",
    "smartctl": "smartmontools",
}


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended: its exit status (negative: killed by that signal) and what it said."""

    arguments: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.status == 0

    @property
    def reason(self) -> str:
        """Why it failed, in one line: the last line it wrote to stderr, or its exit status."""
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        lines = [line.strip() for line in self.stderr.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.status}"


def find_program(name: str) -> Path | None:
    """Where the program ``name`` is; None when it is not installed."""
    found = shutil.which(name, path=SEARCH_PATH)
    return Path(found) if found else None


def require_program(name: str, needed_for: str) -> Path:
    """Where the program ``name`` is.  Raises ProgramMissing, naming what needs it."""
    found = find_program(name)
    if found is None:
        package = PACKAGES.get(name, "partclone" if name.startswith("partclone.") else name)
        raise ProgramMissing(
            f"the program {name} is not installed; {needed_for} needs it",
            f"Install it (on Debian: apt-get install {package}) and try again.",
        )
    return found


def run(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    needed_for: str,
    timeout_seconds: float = 60,
    input: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    interrupt: Callable[[], None] | None = None,
    tidies_up: bool = False,
) -> Completed:
    """Run a program to its end; ``interrupt`` is called now and then, and the program is killed when it raises.

    With ``tidies_up`` it gets an interrupt (SIGINT) before, and half a minute to leave things in order.
    Raises ProgramMissing when it is not installed, DeviceError when it takes longer than ``timeout_seconds``
    or, with ``check``, when it fails.  ``needed_for`` completes "... needs it".
    """
    name = os.fspath(arguments[0])
    program = require_program(name, needed_for)
    line = [os.fspath(program), *(os.fspath(argument) for argument in arguments[1:])]
    log.debug("run %s", shlex.join(line))
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(environment),
        process_group=0,  # Ctrl-C is ours to answer: a map that it cut off would be taken for a refusal
    )
    _running.add(process)
    try:
        stdout, stderr = _communicate(process, input, timeout_seconds, interrupt)
    except subprocess.TimeoutExpired as expired:
        raise DeviceError(
            f"{name} did not end within {timeout_seconds:g} s ({needed_for})",
            "The device may be hanging: see the kernel's log (dmesg).",
        ) from expired
    except RecoveryError:
        if tidies_up:
            _interrupt(process)
        raise
    finally:
        _end(process)
        _running.discard(process)
    completed = Completed(tuple(line), process.returncode, stdout, stderr)
    if check and not completed.ok:
        raise DeviceError(f"{name} failed ({needed_for}): {completed.reason}", f"It was run as: {shlex.join(line)}")
    return completed


class Companion:
    """A program that runs beside us; ``input`` and ``output`` are its unbuffered standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process_id, self.input, self.output = process.pid, process.stdin, process.stdout
        self._process, self._complaints = process, complaints
        self.abandoned = False

    def last_words(self) -> str:
        """The last line that it wrote to its standard error, or how it ended."""
        self._complaints.seek(0)
        said = [line for line in self._complaints.read().decode(errors="replace").splitlines() if line.strip()]
        status = self._process.poll()
        return said[-1].strip() if said else f"exit status {status}" if status is not None else "it gave no reason"

    def abandon(self) -> None:
        """Do not wait for its end: it may be stuck in the kernel for ever."""
        self.abandoned = True


@contextmanager
def companion(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    needed_for: str,
    first: bytes = b"",
    ready: bytes = b"",
    timeout_seconds: float = 60,
    inherited: Sequence[int] = (),
    may_hang: bool = False,
) -> Iterator[Companion]:
    """A program that runs beside us for the time of a ``with`` block; ``inherited``: descriptors that it gets too.

    It gets ``first`` as its input, says the line ``ready`` when it is (if there is one), and ends when its input ends:
    so it also ends with us, whatever ends us.  Raises ProgramMissing, or DeviceError with what it said instead.

    ``may_hang``: it reads a disk that may never answer, and is never killed.  As long as it has the disk open, we can
    close it; the last who closes a disk waits in the kernel for the reads of it, and all that sync wait for that.
    """
    name = os.fspath(arguments[0])
    program = require_program(name, needed_for)
    line = [os.fspath(program), *(os.fspath(argument) for argument in arguments[1:])]
    log.debug("run beside us %s", shlex.join(line))
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            line,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_environment(),
            process_group=0,
            pass_fds=inherited,
        )
        if not may_hang:
            _running.add(process)
        beside = Companion(process, complaints)
        try:
            if ready and not _gets_ready(beside, first, ready, timeout_seconds):
                _end(process)
                raise DeviceError(f"{needed_for} failed: {beside.last_words()}", f"It was run as: {shlex.join(line)}")
            yield beside
        finally:
            for pipe in (beside.input, beside.output):
                with contextlib.suppress(OSError):
                    pipe.close()
            if not (beside.abandoned or _ends(process)):
                if may_hang:
                    log.warning("process %d is stuck in the kernel (%s)", process.pid, needed_for)
                else:
                    _end(process)
            _running.discard(process)


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _gets_ready(beside: Companion, first: bytes, ready: bytes, timeout_seconds: float) -> bool:
    """Give the companion its input and wait until it says that it is ready."""
    try:
        beside.input.write(first)
    except BrokenPipeError:
        return False
    if not select.select([beside.output], [], [], timeout_seconds)[0]:
        return False
    return beside.output.readline().strip() == ready


def kill_running() -> None:
    """Kill every program that is running now: this process is about to end at once."""
    for process in list(_running):
        _kill(process)


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    # PYTHONSAFEPATH: our own children are Python's too, and the folder that somebody stands in is no place for modules.
    fixed = {"PATH": SEARCH_PATH, "LC_ALL": "C", "LANGUAGE": "C", "PYTHONSAFEPATH": "1"}
    return {**inherited, **fixed, **(more or {})}


def _communicate(
    process: subprocess.Popen[bytes],
    first: bytes | None,
    timeout_seconds: float,
    interrupt: Callable[[], None] | None,
) -> tuple[bytes, bytes]:
    deadline = time.monotonic() + timeout_seconds
    while True:
        remaining = max(0.0, deadline - time.monotonic())
        try:
            return process.communicate(first, timeout=min(remaining, _POLL_SECONDS) if interrupt else remaining)
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                raise
            first = None  # what was begun goes on
            if interrupt:
                interrupt()


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=_TIDY_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what still runs.  A process stuck in the kernel cannot be killed: it is not waited for without end."""
    if process.poll() is not None:
        return
    _kill(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if not _ends(process):
        log.warning("process %d cannot be ended: it is stuck in the kernel", process.pid)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
