"""Our locks and restic's, held by programs that are alive, killed, or paused; and several of us at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import MIB
from tests.support.images import (
    LOCKED,
    PASSWORD,
    PROJECT,
    domain_ranges,
    environment,
    equal_where,
    events,
    gpt_disk,
    recovery,
    recovery_line,
    restic,
    restic_check,
)
from tests.support.program import job_of
from tests.support.restic import restic_binaries, restic_id, restic_version

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="captures disks, which only root may")]

each_restic = pytest.mark.parametrize("program", restic_binaries(), ids=restic_id)

#: Holds a lock until its standard input ends.
HOLDER = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as our program does
from pathlib import Path
from recovery.repository.repository import Repository
with Repository.open(Path(sys.argv[1]), sys.argv[2]).lock(exclusive=sys.argv[3] == "exclusive") as lock:
    lock.check()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt_disk(tmp_path_factory.mktemp("disk") / "disk.img", 96 * MIB, 40 * MIB, seed=3, content_mib=3)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("empty") / "repository"
    recovery(repository, "init")
    return repository


@pytest.fixture
def repository(empty: Path, tmp_path: Path) -> Path:
    shutil.copytree(empty, tmp_path / "repository")
    return tmp_path / "repository"


def locks(repository: Path) -> list[Path]:
    """The lock files; not what is still being written, which has another name."""
    return sorted(path for path in (repository / "locks").iterdir() if len(path.name) == 64)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        assert process.poll() is None, "the program ended too early"
        time.sleep(0.002)


@contextmanager
def held(repository: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another live process of ours that holds a lock."""
    line = [sys.executable, "-c", HOLDER, str(repository), PASSWORD, kind]
    with subprocess.Popen(line, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield holder
        finally:
            holder.communicate(timeout=60)
        assert holder.returncode == 0


def test_an_exclusive_lock_of_a_live_program_stops_every_command_that_needs_one(
    repository: Path, disk: Path, tmp_path: Path
) -> None:
    recovery(repository, "capture", disk)
    with held(repository, "exclusive") as holder:
        for words in (["capture", disk], ["restore", "latest", tmp_path / "out", "--yes"], ["verify"]):
            ended = recovery(repository, *words, status=LOCKED)
            assert f"process {holder.pid}" in ended.stderr
            assert "restic unlock" in ended.stderr
        recovery(repository, "snapshots")
        assert len(locks(repository)) == 1
    assert not locks(repository)
    assert not (tmp_path / "out").exists()
    recovery(repository, "capture", disk)


@each_restic
def test_restic_sees_our_shared_lock_and_does_not_prune(program: Path, repository: Path) -> None:
    status = LOCKED if restic_version(program) >= (0, 17) else 1
    with held(repository, "shared") as holder:
        listed = restic(program, repository, "list", "locks", "--no-lock").stdout.decode().split()
        assert [path.name for path in locks(repository)] == listed
        assert len(listed) == 1
        ended = restic(program, repository, "forget", "--keep-last", "1", "--prune", status=status)
        assert f"locked by PID {holder.pid}" in ended.stderr.decode()
        restic(program, repository, "snapshots")  # shared locks live side by side
        restic(program, repository, "unlock")  # and a live one is not unlocked
        assert len(locks(repository)) == 1
    restic(program, repository, "prune")


@each_restic
def test_restic_sees_our_exclusive_lock(program: Path, repository: Path) -> None:
    status = LOCKED if restic_version(program) >= (0, 17) else 1
    with held(repository, "exclusive"):
        ended = restic(program, repository, "snapshots", status=status)
        assert "locked exclusively" in ended.stderr.decode()


@each_restic
def test_a_prune_of_restic_under_way_stops_us_until_it_has_ended(program: Path, repository: Path, disk: Path) -> None:
    recovery(repository, "capture", disk)
    line: list[str | Path] = [program, "--no-cache", "prune"]
    with subprocess.Popen(line, env=environment(repository), stdout=subprocess.DEVNULL) as pruning:
        wait_for(lambda: locks(repository), pruning)  # it waits a moment before it goes on, so it is caught there
        pruning.send_signal(signal.SIGSTOP)
        try:
            ended = recovery(repository, "capture", disk, status=LOCKED)
            assert f"locked exclusively by process {pruning.pid}" in ended.stderr
        finally:
            pruning.send_signal(signal.SIGCONT)
    assert pruning.returncode == 0
    recovery(repository, "capture", disk)
    assert not locks(repository)


@each_restic
def test_what_a_killed_prune_left_needs_a_persons_unlock(program: Path, repository: Path, disk: Path) -> None:
    line: list[str | Path] = [program, "--no-cache", "prune"]
    with subprocess.Popen(line, env=environment(repository), stdout=subprocess.DEVNULL) as pruning:
        wait_for(lambda: locks(repository), pruning)
        pruning.kill()
    assert len(locks(repository)) == 1
    ended = recovery(repository, "capture", disk, status=LOCKED)
    assert "restic unlock" in ended.stderr
    assert len(locks(repository)) == 1
    restic(program, repository, "unlock")
    assert not locks(repository)
    recovery(repository, "capture", disk)


@each_restic
def test_what_we_leave_when_we_are_killed_is_passed_over_by_both(program: Path, repository: Path, disk: Path) -> None:
    line = recovery_line("capture", disk)
    with subprocess.Popen(line, cwd=PROJECT, env=environment(repository), stderr=subprocess.DEVNULL) as capturing:
        wait_for(lambda: locks(repository), capturing)
        os.kill(job_of(capturing), signal.SIGKILL)
    assert len(locks(repository)) == 1
    recovery(repository, "capture", disk)
    restic(program, repository, "unlock")
    assert not locks(repository)
    restic(program, repository, "forget", "--keep-last", "1", "--prune")
    restic_check(program, repository)


@each_restic
def test_restics_question_whether_we_live_does_not_end_us(program: Path, repository: Path, disk: Path) -> None:
    """``restic unlock`` sends SIGHUP to each process of this host that a lock names."""
    line = recovery_line("capture", disk)
    with subprocess.Popen(line, cwd=PROJECT, env=environment(repository), stderr=subprocess.DEVNULL) as capturing:
        wait_for(lambda: locks(repository), capturing)
        os.kill(job := job_of(capturing), signal.SIGSTOP)
        restic(program, repository, "unlock")
        assert len(locks(repository)) == 1
        os.kill(job, signal.SIGCONT)
    assert capturing.returncode == 0
    recovery(repository, "verify")


def test_a_lock_taken_away_in_the_middle_ends_a_capture_before_it_publishes(repository: Path, disk: Path) -> None:
    program = restic_binaries()[-1]
    line = recovery_line("capture", disk)
    with subprocess.Popen(line, cwd=PROJECT, env=environment(repository), stderr=subprocess.PIPE) as capturing:
        wait_for(lambda: locks(repository), capturing)
        os.kill(job := job_of(capturing), signal.SIGSTOP)
        restic(program, repository, "unlock", "--remove-all")
        os.kill(job, signal.SIGCONT)
        assert b"removed by somebody else" in capturing.communicate(timeout=240)[1]
    assert capturing.returncode == LOCKED
    assert list((repository / "snapshots").iterdir()) == list((repository / "index").iterdir()) == []
    restic(program, repository, "prune")  # the packs that nothing names are tidied up
    restic_check(program, repository)


def test_a_capture_that_is_interrupted_takes_its_lock_with_it(repository: Path, disk: Path) -> None:
    line = recovery_line("capture", disk)
    with subprocess.Popen(line, cwd=PROJECT, env=environment(repository), stderr=subprocess.DEVNULL) as capturing:
        wait_for(lambda: locks(repository), capturing)
        capturing.send_signal(signal.SIGINT)
    assert capturing.returncode == 130
    assert not locks(repository)
    assert not list((repository / "snapshots").iterdir())


def test_several_captures_at_once_all_succeed_and_all_restore(repository: Path, disk: Path, tmp_path: Path) -> None:
    """Two of the same disk and one of another: they store the same chunks without knowing of each other."""
    other = gpt_disk(tmp_path / "other.img", 96 * MIB, 40 * MIB, seed=4, content_mib=3)
    disks = [disk, disk, other]
    running = [
        subprocess.Popen(
            recovery_line("capture", "--json", source),
            cwd=PROJECT,
            env=environment(repository),
            stdout=subprocess.PIPE,
            text=True,
        )
        for source in disks
    ]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert not locks(repository)
    for program in restic_binaries():
        restic_check(program, repository)
    for source, text in zip(disks, said, strict=True):
        ended: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], 0, text)
        snapshot = events(ended, "summary")[0]["snapshot_id"]
        target = tmp_path / "restored.img"
        target.unlink(missing_ok=True)
        recovery(repository, "restore", snapshot, target, "--yes")
        name = source.with_suffix(".domain").name
        used = domain_ranges(restic(restic_binaries()[-1], repository, "dump", snapshot, f"/{name}").stdout.decode())
        assert sum(end - start for start, end in used) > 3 * MIB
        assert equal_where(source, target, used)
