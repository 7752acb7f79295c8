"""Jobs outlive their screens: terminals that close, lines that are lost, screens that are killed, several at once.

A job is held still (SIGSTOP) while something happens to its screens, so that nothing depends on how quick it is.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from recovery.cli.requests import RestoreRequest, VerifyRequest
from recovery.cli.spawn import spawn
from recovery.errors import NoRepository, WrongPassword
from recovery.jobs.control import Order
from tests.support.disks import MIB, blank, run, sha256, umount
from tests.support.fleet import noise
from tests.support.program import PASSWORD, environment, job_of, recovery, refused, restic
from tests.support.restic import restic_binaries

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="captures disks, which only root may")]

RESTIC = restic_binaries()[-1]
PROGRAM = [sys.executable, "-c", "from recovery.cli import main; main()"]
SIZE = 24 * MIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise(tmp_path_factory.mktemp("disk") / "disk.img", SIZE)


@pytest.fixture(scope="module")
def captured(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("captured") / "repository"
    recovery("init", repository=repository)
    recovery("capture", disk, repository=repository)
    return repository


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("empty") / "repository"
    recovery("init", repository=repository)
    return repository


@pytest.fixture
def place(empty: Path, tmp_path: Path) -> Place:
    shutil.copytree(empty, tmp_path / "repository")
    return Place(tmp_path / "repository", tmp_path / "jobs")


class Place:
    """A repository, and a folder for jobs of its own."""

    def __init__(self, repository: Path, jobs: Path) -> None:
        self.repository, self.jobs = repository, jobs

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.repository) | {"RECOVERY_JOBS": str(self.jobs)}

    def start(self, *words: str | Path, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """The program, running: a screen."""
        return subprocess.Popen(
            [*PROGRAM, *map(str, words)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """The program, to its end: exit code, standard output and error."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert b"Traceback" not in out + err, err.decode()
        return process.returncode, out.decode(), err.decode()

    @contextmanager
    def held(self, *words: str | Path, stdout: int = subprocess.PIPE) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """A screen and its job, which stands still in the middle of its work until the block ends."""
        screen = self.start(*words, stdout=stdout)
        job = job_of(screen)
        wait_for(lambda: self.said("plan"))
        os.kill(job, signal.SIGSTOP)
        try:
            yield screen, job
        finally:
            with suppress(ProcessLookupError):
                os.kill(job, signal.SIGCONT)

    def list(self) -> list[dict[str, Any]]:
        """``recovery jobs --json``."""
        code, out, err = self.run("jobs", "--json")
        assert (code, err) == (0, "")
        found: list[dict[str, Any]] = json.loads(out)
        return found

    def exit_code(self) -> int | None:
        """What the newest job ended with, once its process is gone; None when it died without a word."""
        pid = self.pid()
        wait_for(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())
        words = self._state().split()
        return int(words[1]) if len(words) > 1 else None

    def said(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind, from the file of the newest job."""
        files = sorted(self.jobs.glob("*/events.jsonl"), key=lambda path: int(path.parent.name))
        lines = files[-1].read_bytes().split(b"\n")[:-1] if files else []
        return [event for event in map(json.loads, lines) if event["message_type"] == kind]

    def pid(self) -> int:
        """The process of the newest job."""
        return int(self._state().split()[0])

    def snapshots(self) -> list[Path]:
        return list((self.repository / "snapshots").iterdir())

    def _state(self) -> str:
        states = sorted(self.jobs.glob("*/state"), key=lambda path: int(path.parent.name))
        return states[-1].read_text()


class Terminal:
    """The program on a terminal of its own, as an SSH line or a console gives it."""

    def __init__(self, place: Place, *words: str | Path) -> None:
        self.shown = b""
        self.pid, self.line = pty.fork()
        if self.pid == 0:  # pragma: no cover - this is the program
            os.execve(PROGRAM[0], [*PROGRAM, *map(str, words)], place.environment)
        os.set_inheritable(self.line, False)  # another terminal's program would keep this line open

    def wait_for(self, text: str) -> None:
        """Read until ``text`` is shown."""
        ends = time.monotonic() + 60
        while text.encode() not in self.shown:
            assert time.monotonic() < ends, self.shown.decode()
            self._read()

    def type(self, keys: bytes) -> None:
        os.write(self.line, keys)

    def hang_up(self) -> None:
        """Close the line: the kernel sends SIGHUP to whoever was on it."""
        os.close(self.line)
        os.waitpid(self.pid, 0)

    def end(self) -> int:
        """Wait for the end of the program; its exit code."""
        ends = time.monotonic() + 120
        while self._read():
            assert time.monotonic() < ends, self.shown.decode()
        os.close(self.line)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self.line], [], [], 1)[0]:
            return True
        try:
            data = os.read(self.line, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.shown += data
        return bool(data)


def wait_for(ready: Callable[[], object], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.01)


def is_connected(screen: subprocess.Popen[bytes]) -> bool:
    """Whether a screen that came later holds a socket: that to the job."""
    for link in Path(f"/proc/{screen.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if str(link.readlink()).startswith("socket:"):
                return True
    return False


def assert_whole(place: Place) -> None:
    """The one job captured its disk, and nothing is wrong with the repository."""
    assert place.exit_code() == 0
    assert len(place.snapshots()) == 1
    assert list((place.repository / "locks").iterdir()) == []
    restic(RESTIC, "check", "--read-data", repository=place.repository)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_capture_goes_on_without_its_screen(number: signal.Signals, place: Place, disk: Path) -> None:
    with place.held("capture", disk) as (screen, _):
        screen.send_signal(number)
        _, err = screen.communicate(timeout=30)
        assert screen.returncode == (-number if number == signal.SIGKILL else 128 + number)
        assert place.list()[0]["state"] == "running"
        if number != signal.SIGKILL:
            assert b"recovery attach 1" in err
    assert_whole(place)


def test_a_capture_goes_on_when_its_terminal_is_closed(place: Place, disk: Path) -> None:
    terminal = Terminal(place, "capture", disk)
    terminal.wait_for("will be read")
    job = place.pid()
    os.kill(job, signal.SIGSTOP)
    terminal.hang_up()
    os.kill(job, signal.SIGCONT)
    assert_whole(place)


def test_ctrl_backslash_leaves_the_job_running(place: Place, disk: Path) -> None:
    terminal = Terminal(place, "capture", disk)
    terminal.wait_for("will be read")
    job = place.pid()
    os.kill(job, signal.SIGSTOP)
    terminal.type(b"\x1c")
    assert terminal.end() == 128 + signal.SIGQUIT
    assert b"recovery attach 1" in terminal.shown
    os.kill(job, signal.SIGCONT)
    assert_whole(place)


def test_a_capture_goes_on_when_nobody_reads_what_its_screen_prints(place: Place, disk: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    screen = place.start("capture", disk, stdout=write_end)
    os.close(write_end)
    assert b"recovery attach 1" in screen.communicate(timeout=60)[1]
    assert_whole(place)


@pytest.mark.parametrize(("number", "ends_with"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_screen_that_waits_behind_a_full_pipe_still_hears_signals(
    number: signal.Signals, ends_with: int, place: Place, disk: Path
) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while os.write(write_end, b"x" * 4096):
            pass
    os.set_blocking(write_end, True)
    with place.held("capture", disk, stdout=write_end) as (screen, _):
        os.close(write_end)
        time.sleep(0.3)  # until it waits in its first line; earlier it hears them anyway
        screen.send_signal(number)
        if number == signal.SIGTERM:
            screen.communicate(timeout=60)
            assert screen.returncode == 128 + number
    assert place.exit_code() == ends_with
    os.close(read_end)
    screen.communicate(timeout=60)


def test_two_screens_see_the_same_end(place: Place, disk: Path) -> None:
    with place.held("capture", disk, "--json") as (first, _):
        second, third = place.start("attach", "--json"), place.start("attach", "1")
        wait_for(lambda: is_connected(second) and is_connected(third))
    out, _ = first.communicate(timeout=60)
    late, _ = second.communicate(timeout=60)
    words, _ = third.communicate(timeout=60)
    assert (first.returncode, second.returncode, third.returncode) == (0, 0, 0)
    assert json.loads(late.splitlines()[-1]) == json.loads(out.splitlines()[-1])
    assert json.loads(late.splitlines()[0]) == json.loads(out.splitlines()[0])
    assert json.loads(out.splitlines()[-1])["message_type"] == "summary"
    assert b"will be read" in words
    assert b"Captured: system image" in words


def test_who_comes_too_late_still_sees_how_it_ended(place: Place, disk: Path) -> None:
    code, out, err = place.run("capture", disk, "--only", "5")
    assert code == 2
    again = place.run("attach", "1")
    assert again == (code, out, err)
    assert place.run("attach")[0] == 2  # none runs
    assert place.run("attach", "7")[0] == 2
    assert "ended already" in place.run("cancel", "1")[1]


def test_a_capture_is_cancelled_from_elsewhere(place: Place, disk: Path) -> None:
    with place.held("capture", disk) as (screen, _):
        cancelling = place.start("cancel", "1")
        wait_for(lambda: is_connected(cancelling))
    out, err = cancelling.communicate(timeout=60)
    assert cancelling.returncode == 0
    assert b"Job 1 has ended: cancelled." in out
    assert b"Stopped as asked" in err
    assert b"Stopped as asked" in screen.communicate(timeout=60)[1]
    assert screen.returncode == 130
    assert place.exit_code() == 130
    assert place.snapshots() == []
    assert list((place.repository / "locks").iterdir()) == []
    restic(RESTIC, "check", "--read-data", repository=place.repository)


def test_a_restore_that_is_ended_at_once_from_elsewhere_says_so_and_can_be_repeated(
    place: Place, captured: Path, tmp_path: Path
) -> None:
    place.repository = captured
    target = noise(tmp_path / "target.img", SIZE)
    with place.held("restore", "latest", target, "--yes") as (screen, _):
        cancelling = place.start("cancel", "--now", "--json")
        wait_for(lambda: is_connected(cancelling))
    last = json.loads(cancelling.communicate(timeout=60)[0].splitlines()[-1])
    assert (cancelling.returncode, last["message_type"]) == (0, "ended")
    screen.communicate(timeout=60)
    assert screen.returncode == last["exit_code"]
    if last["exit_code"] == 0:
        pytest.skip("it was done before it could be stopped")
    assert last["exit_code"] == 130
    restic(RESTIC, "unlock", repository=captured)
    recovery("restore", "latest", target, "--yes", repository=captured)


def test_a_job_that_takes_no_orders_any_more_is_killed_when_it_is_to_end_at_once(place: Place, disk: Path) -> None:
    with place.held("capture", disk) as (screen, _):
        code, out, err = place.run("cancel", "--now")
    assert (code, "died" in out, "died" in err) == (0, True, True)
    screen.communicate(timeout=60)
    assert screen.returncode == 137


def test_a_signal_to_the_job_cancels_it(place: Place, disk: Path) -> None:
    with place.held("capture", disk) as (screen, job):
        os.kill(job, signal.SIGTERM)
    assert b"Stopped as asked" in screen.communicate(timeout=60)[1]
    assert screen.returncode == 130
    assert place.snapshots() == []


def test_a_job_that_is_killed_is_said_to_have_died(place: Place, disk: Path) -> None:
    with place.held("capture", disk, "--json") as (screen, job):
        os.kill(job, signal.SIGKILL)
        out, _ = screen.communicate(timeout=60)
    assert screen.returncode == 137
    last = json.loads(out.splitlines()[-1])
    assert (last["message_type"], last["code"]) == ("error", 137)
    assert "died" in last["message"]
    assert place.exit_code() is None
    assert [(job["state"], job["exit_code"]) for job in place.list()] == [("died", None)]
    assert "died" in place.run("jobs")[1]
    assert place.run("attach", "1")[0] == 137
    assert place.snapshots() == []
    restic(RESTIC, "unlock", repository=place.repository)
    restic(RESTIC, "check", "--read-data", repository=place.repository)
    recovery("capture", disk, repository=place.repository)


def test_an_unanswered_question_ends_with_its_screen_and_nothing_is_written(
    place: Place, captured: Path, tmp_path: Path
) -> None:
    place.repository = captured
    target = noise(tmp_path / "target.img", SIZE)
    before = sha256(target)
    terminal = Terminal(place, "restore", "latest", target)
    terminal.wait_for("Type target.img")
    assert place.list()[0]["state"] == "asking"
    terminal.hang_up()
    assert place.exit_code() == 130
    assert "untouched" in place.said("error")[0]["message"]
    assert sha256(target) == before
    assert list((captured / "locks").iterdir()) == []


def test_another_screen_can_answer_and_the_plan_is_made_once(
    place: Place, captured: Path, disk: Path, tmp_path: Path
) -> None:
    place.repository = captured
    target = blank(tmp_path / "target.img", SIZE)
    first = Terminal(place, "restore", "latest", target)
    first.wait_for("Type target.img")
    second = Terminal(place, "attach")
    second.wait_for("Type target.img")
    first.hang_up()
    second.type(b"target.img\n")
    assert second.end() == 0
    assert len(place.said("plan")) == 1
    assert target.read_bytes() == disk.read_bytes()


def test_another_screen_can_deny(place: Place, captured: Path, tmp_path: Path) -> None:
    place.repository = captured
    target = noise(tmp_path / "target.img", SIZE)
    before = sha256(target)
    first = Terminal(place, "restore", "latest", target)
    first.wait_for("Type target.img")
    second = Terminal(place, "attach")
    second.wait_for("Type target.img")
    second.type(b"\x03")
    assert (first.end(), second.end()) == (130, 130)
    assert sha256(target) == before


def test_nobody_else_may_look_or_give_orders(place: Place, disk: Path) -> None:
    with place.held("capture", disk) as (screen, _):
        folder = place.jobs / "1"
        assert [stat.S_IMODE(path.stat().st_mode) for path in (place.jobs, folder)] == [0o700, 0o700]
        files = list(folder.iterdir())
        assert {path.name for path in files} == {"control", "events.jsonl", "job.json", "lock", "log", "state"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    screen.communicate(timeout=60)


def test_an_order_of_another_user_is_not_taken_even_if_the_folder_lets_them_in(place: Place, disk: Path) -> None:
    with open_folder() as folder:
        place.jobs = folder / "jobs"
        with place.held("capture", disk) as (screen, _):
            for path in (folder, folder / "jobs", folder / "jobs" / "1"):
                path.chmod(0o755)
            (folder / "jobs" / "1" / "control").chmod(0o666)
            child = os.fork()
            if child == 0:  # pragma: no cover - somebody else
                os.setuid(65534)
                intruder = socket.socket(socket.AF_UNIX)
                intruder.connect(str(folder / "jobs" / "1" / "control"))
                with suppress(OSError):
                    intruder.send(b'{"do":"stop"}\n')
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        screen.communicate(timeout=60)
        assert screen.returncode == 0


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody can reach."""
    path = Path(subprocess.check_output(["mktemp", "-d", "-p", "/dev/shm", "recovery-test.XXXXXX"], text=True).strip())
    try:
        yield path
    finally:
        run("rm", "-r", path)


def test_a_folder_of_somebody_else_is_not_used(place: Place, disk: Path) -> None:
    place.jobs.mkdir()
    os.chown(place.jobs, 65534, 65534)
    code, _, err = place.run("jobs")
    assert (code, "belongs to somebody else" in err) == (21, True)
    code, _, err = place.run("capture", disk)
    assert (code, "in the foreground" in err) == (0, True)
    assert list(place.jobs.iterdir()) == []


def test_no_secret_is_in_the_folder_or_among_the_arguments(place: Place, disk: Path) -> None:
    secret = PASSWORD.encode()
    with place.held("--verbose", "capture", disk) as (screen, job):
        assert secret not in Path(f"/proc/{job}/cmdline").read_bytes()
    screen.communicate(timeout=60)
    files = [path for path in (place.jobs / "1").iterdir() if path.is_file()]
    assert len(files) == 5
    assert not [path for path in files if secret in path.read_bytes()]


def test_a_full_folder_for_jobs_costs_words_and_not_the_job(place: Place, disk: Path) -> None:
    place.jobs.mkdir()
    run("mount", "-t", "tmpfs", "-osize=64k,mode=700", "none", place.jobs)
    try:
        with place.held("capture", disk) as (screen, _):
            with (place.jobs / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while filler.write(b"x" * 4096):
                    pass
        screen.communicate(timeout=60)
        assert screen.returncode == 0
        assert place.exit_code() == 0
        assert len(place.snapshots()) == 1
        place.said("summary")  # what is there are whole lines
        code, _, err = place.run("capture", disk)
        assert (code, "in the foreground" in err) == (0, True)
    finally:
        umount(place.jobs)


def test_what_is_not_long_is_no_job(place: Place, captured: Path, disk: Path, tmp_path: Path) -> None:
    place.repository = captured
    for words in (
        ("snapshots",),
        ("capture", disk, "--dry-run"),
        ("restore", "latest", tmp_path / "new.img", "--dry-run"),
    ):
        assert place.run(*words)[0] == 0
    assert place.list() == []


def test_what_stops_it_before_it_starts_is_no_job(place: Place, disk: Path, tmp_path: Path) -> None:
    refused("capture", disk, repository=tmp_path / "none", status=10)
    assert place.run("capture", disk, "--only", "x")[0] == 2
    assert place.list() == []


def test_a_program_with_threads_starts_a_job_and_answers_it(
    place: Place, captured: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOVERY_JOBS", str(place.jobs))
    place.repository = captured
    target = tmp_path / "odd \udcff name.img"
    idle = threading.Event()
    thread = threading.Thread(target=idle.wait)
    thread.start()
    try:
        for wrong, error in ((captured, WrongPassword), (tmp_path, NoRepository)):
            with pytest.raises(error):
                spawn(VerifyRequest("latest"), wrong, "wrong")
        with spawn(RestoreRequest("latest", target), captured, PASSWORD) as watcher:
            said: list[dict[str, Any]] = []
            while not watcher.ended:
                fresh = [json.loads(line) for line in watcher.events()]
                if any(event["message_type"] == "question" for event in fresh):
                    watcher.order(Order("answer", target.name))
                said += fresh
                watcher.wait(0.1)
            said += [json.loads(line) for line in watcher.events()]
            assert watcher.exit_code() == (0, True)
    finally:
        idle.set()
        thread.join()
    assert [event["state"] for event in said if event["message_type"] == "summary"] == ["verified"]
    assert target.read_bytes() == disk.read_bytes()
    assert [job["exit_code"] for job in place.list()] == [0]


def test_ended_jobs_are_listed(place: Place, captured: Path) -> None:
    place.repository = captured
    assert "none has ended" in place.run("jobs")[1]
    for _ in range(2):
        place.run("verify")
    assert [job["id"] for job in place.list()] == ["1", "2"]
    for line in place.run("jobs")[1].splitlines()[1:]:
        assert "verify" in line
        assert "done" in line
