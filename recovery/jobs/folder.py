"""Where jobs keep what other processes may read of them: a folder each, below one that only its owner may enter.

::

    lock              held for a moment by whoever adds or removes a job
    3/                a job
      lock            held by the job's process as long as it lives: what runs is told by this alone
      job.json        JobRecord
      events.jsonl    what it said, a line each
      control         the socket that takes orders
      state           its process's id and, once it has one, its exit code; the room for both is taken at the start
      log             standard output and error of its process: empty, unless something went badly wrong

No secret is ever in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from recovery.errors import DeviceError, UsageError
from recovery.jobs.control import listen_at

#: So many jobs that have ended are remembered.
KEPT_ENDED = 20
#: Names another place for the folder of all jobs.
FOLDER_VARIABLE = "RECOVERY_JOBS"
#: What a job is said to have ended with that was killed: as a shell says of SIGKILL.
DIED = 137

_STATE_BYTES = 32


class JobRecord(msgspec.Struct, frozen=True):
    """What a job is.  ``what``: its sources and targets, in words; ``boot_id``: of the system's run it belongs to."""

    id: str
    kind: str
    what: str
    started: datetime
    boot_id: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its folder tells of it.  ``exit_code`` is None while it runs, and of one that died without a word."""

    record: JobRecord
    folder: Path
    pid: int
    running: bool
    exit_code: int | None

    @property
    def id(self) -> str:
        """What it is called, here and now: a small number."""
        return self.record.id

    @property
    def died(self) -> bool:
        """Whether its process was killed, or the machine took it down: it did not end by itself."""
        return not self.running and self.exit_code is None


@dataclass(frozen=True, slots=True)
class NewFolder:
    """The folder of a job that is about to start.  ``lock``, ``events``: open files; ``control``: listens already."""

    record: JobRecord
    path: Path
    lock: int
    events: int
    control: socket.socket

    def leave(self) -> None:
        """Close all that the job's own process has inherited."""
        os.close(self.lock)
        os.close(self.events)
        self.control.close()


def jobs_folder() -> Path:
    """The folder of all jobs of this user; made when it is missing.  Raises DeviceError when nobody else's will do."""
    folder = _place()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise DeviceError(
            f"the folder for jobs {folder} cannot be made: {error.strerror}", f"Set {FOLDER_VARIABLE} to another place."
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise DeviceError(
            f"the folder for jobs {folder} belongs to somebody else", f"Remove it, or set {FOLDER_VARIABLE}."
        )
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def new_folder(kind: str, what: str) -> NewFolder:
    """A fresh folder with all that a job needs in it, so that nothing is left to fail once it runs.

    Old ones of jobs that have ended are removed.  Raises DeviceError, OSError.
    """
    parent = jobs_folder()
    with _held(parent):
        _forget_old(parent)
        number = max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0) + 1
        path = parent / str(number)
        path.mkdir(mode=0o700)
        try:
            lock = _new_file(path / "lock")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            events = _new_file(path / "events.jsonl")
            control = listen_at(path)
            record = JobRecord(path.name, kind, what, datetime.now(UTC).astimezone(), boot_id())
            for name, data in (("state", b" " * _STATE_BYTES), ("job.json", msgspec.json.encode(record))):
                file = _new_file(path / name)
                try:
                    if os.write(file, data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                finally:
                    os.close(file)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return NewFolder(record, path, lock, events, control)


def list_jobs() -> list[Job]:
    """The jobs of this user since the system was started, oldest first.  Raises DeviceError."""
    parent, here = jobs_folder(), boot_id()
    numbers = sorted(int(path.name) for path in parent.iterdir() if path.name.isdigit())
    found = (read_job(parent / str(number)) for number in numbers)
    return [job for job in found if job is not None and job.record.boot_id == here]


def find_job(name: str | None) -> Job:
    """The job called ``name``; with None the only one that runs.  Raises UsageError."""
    jobs = list_jobs()
    if name is not None:
        for job in jobs:
            if job.id == name:
                return job
        raise UsageError(f"there is no job {name}", "'recovery jobs' lists them.")
    running = [job for job in jobs if job.running]
    if len(running) != 1:
        count = f"{len(running)} jobs are running" if running else "no job is running"
        raise UsageError(f"{count}, and none was named", "'recovery jobs' lists them.")
    return running[0]


def read_job(folder: Path) -> Job | None:
    """The job that has ``folder``; None when it is none (yet, or any more)."""
    try:
        record = msgspec.json.decode((folder / "job.json").read_bytes(), type=JobRecord)
        running = is_held(folder)
        pid, code = read_state((folder / "state").read_bytes())  # after the lock was seen free: it is final then
    except (OSError, msgspec.DecodeError):
        return None
    return Job(record, folder, pid, running, None if running else code)


def is_held(folder: Path) -> bool:
    """Whether the process of the job with ``folder`` lives."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def write_state(folder: Path, pid: int, code: int | None = None) -> None:
    """Tell the job's process and what it ended with, in the room that was taken for it."""
    text = str(pid) if code is None else f"{pid} {int(code)}"
    with suppress(OSError):  # the folder may be gone, and nobody is told then
        file = os.open(folder / "state", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(file, text.ljust(_STATE_BYTES).encode(), 0)
        finally:
            os.close(file)


def read_state(data: bytes) -> tuple[int, int | None]:
    """The process's id (0: not told yet) and the exit code (None: none yet)."""
    words = [int(word) for word in data.split() if word.isdigit()]
    return (words[0] if words else 0), (words[1] if len(words) > 1 else None)


def boot_id() -> str:
    """Which run of the system this is; empty where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _place() -> Path:
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/run/recovery/jobs")
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own:
        return Path(own) / "recovery" / "jobs"
    return Path(tempfile.gettempdir()) / f"recovery-jobs-{os.geteuid()}"


def _new_file(path: Path) -> int:
    return os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND * (path.suffix == ".jsonl") | os.O_CLOEXEC, 0o600
    )


@contextmanager
def _held(parent: Path) -> Iterator[None]:
    """Keep others from adding and removing jobs meanwhile."""
    lock = os.open(parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _forget_old(parent: Path) -> None:
    """Remove what jobs left that ended long ago, died before they could say what they are, or ran before a reboot."""
    here = boot_id()
    ended = []
    for number in sorted((int(path.name) for path in parent.iterdir() if path.name.isdigit()), reverse=True):
        folder = parent / str(number)
        job = read_job(folder)
        if job is not None and not job.running and job.record.boot_id == here:
            ended.append(folder)
        elif (job is None or not job.running) and not is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in ended[KEPT_ENDED:]:
        shutil.rmtree(folder, ignore_errors=True)
