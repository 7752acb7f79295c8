"""The program as its user runs it: a process of its own, judged by exit status, words and files.

Nothing here imports the code under test.
"""

from __future__ import annotations

import atexit
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse"
#: A folder that stands for / where the marks of a live system are looked for.
LIVE_VARIABLE = "RECOVERY_LIVE_ROOT"
_PROGRAM = [sys.executable, "-c", "from recovery.cli import main; main()"]
#: The same, but that a key of a repository that it makes is derived in no time: every command that opens one does that.
QUICK_KEYS = "from recovery.repository import crypto; crypto.SCRYPT_N = 1 << 10; from recovery.cli import main; main()"


@dataclass(frozen=True)
class Ran:
    """How a run of the program ended."""

    arguments: tuple[str, ...]
    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that a person would have read, in one line, so that the width of a terminal does not matter."""
        return " ".join((self.out + " " + self.err).split())

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of ``--json``; raises when one of them is not JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, kind: str) -> dict[str, Any]:
        """The only event of that kind."""
        found = [event for event in self.events if event["message_type"] == kind]
        assert len(found) == 1, self
        return found[0]

    @property
    def document(self) -> Any:
        """The one JSON document that answers a question."""
        return json.loads(self.out)


@cache
def jobs_folder() -> Path:
    """Where the jobs of this run of the tests are, apart from anybody else's; removed at its end."""
    folder = tempfile.mkdtemp(prefix="recovery-test-jobs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def environment(repository: Path | None) -> dict[str, str]:
    """Where the program finds itself, its repository, its password, and puts its jobs."""
    unset = ("RESTIC_", "RECOVERY_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(unset) or name == LIVE_VARIABLE}
    clean |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "RESTIC_PASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
    clean["RECOVERY_JOBS"] = str(jobs_folder())
    if repository is not None:
        clean["RESTIC_REPOSITORY"] = str(repository)
    return clean


def recovery(
    *arguments: str | Path, repository: Path | None = None, status: int | None = 0, quick_keys: bool = True
) -> Ran:
    """Run the program to its end; ``status`` is what it must exit with (None: anything).

    ``quick_keys``: a repository that it makes gets some, and is otherwise as it always is.
    Whatever happens, it must neither show a traceback nor call itself faulty.
    """
    words = tuple(str(argument) for argument in arguments)
    ended = subprocess.run(
        [sys.executable, "-c", QUICK_KEYS, *words] if words[:1] == ("init",) and quick_keys else [*_PROGRAM, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(repository),
        check=False,
        timeout=250,
    )
    ran = Ran(words, ended.returncode, ended.stdout.decode(), ended.stderr.decode())
    assert "Traceback" not in ran.out + ran.err, ran.out + ran.err
    assert "this is a bug" not in ran.said.lower(), ran.said
    assert status is None or ran.status == status, f"{words} exited with {ran.status}:\n{ran.out}{ran.err}"
    return ran


def refused(*arguments: str | Path, repository: Path | None = None, status: int = 20) -> str:
    """Run what must not be done; the message, which must come with a hint."""
    ran = recovery(*arguments, repository=repository, status=status)
    lines = ran.err.strip().splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    assert len(errors) == 1, ran
    assert len(lines) > errors[0] + 1, f"no hint: {lines}"
    assert lines[errors[0] + 1].startswith("       "), lines
    return " ".join(ran.err.split())


def restic(program: Path, *arguments: str | Path, repository: Path, status: int | None = 0) -> bytes:
    """What stock restic prints."""
    ended = subprocess.run(
        [str(program), "--no-cache", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(repository),
        check=False,
    )
    assert status is None or ended.returncode == status, ended.stderr.decode()
    return ended.stdout


def start(*arguments: str | Path, repository: Path | None = None) -> subprocess.Popen[bytes]:
    """The program, running; its outputs are pipes."""
    return subprocess.Popen(
        [*_PROGRAM, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(repository),
    )


def job_of(screen: subprocess.Popen[bytes]) -> int:
    """The process that does the work, of which the one that was started is only the screen; waits until it is there."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        for entry in Path("/proc").iterdir():
            with suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
                if fields and int(fields[1]) == screen.pid and int(fields[3]) == int(entry.name):  # it leads a session
                    return int(entry.name)
        assert screen.poll() is None, f"it ended too early, with {screen.returncode}"
        time.sleep(0.005)
    raise AssertionError("no job was started")


def interrupt_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], times: int = 1) -> Ran:
    """Send an interrupt as soon as ``ready``; the process must not have ended before."""
    ends = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, f"it ended too early: {process.communicate()}"
        assert time.monotonic() < ends, "it never came so far"
        time.sleep(0.005)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    out, err = process.communicate(timeout=120)
    ran = Ran((), process.returncode, out.decode(), err.decode())
    assert "Traceback" not in ran.out + ran.err, ran
    return ran


def on_terminal(
    *arguments: str | Path,
    answer: bytes,
    question: str,
    repository: Path | None = None,
    before: Callable[[], object] = lambda: None,
) -> Ran:
    """Run the program on a terminal of its own and type ``answer`` when ``question`` is asked; ``before`` that."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover - this is the program
        os.execve(_PROGRAM[0], [*_PROGRAM, *map(str, arguments)], environment(repository))
    shown = b""
    asked = False
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        if not select.select([terminal], [], [], 1)[0]:
            if asked and answer < b" ":  # an interrupt just before the program waits is lost, as a person's would be
                os.write(terminal, answer)
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not data:
            break
        shown += data
        if not asked and question.encode() in shown:
            asked = True
            before()
            os.write(terminal, answer)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    text = shown.decode(errors="replace").replace("\r", "")
    assert asked, text
    assert "Traceback" not in text, text
    return Ran(tuple(map(str, arguments)), os.waitstatus_to_exitcode(status), text, "")
