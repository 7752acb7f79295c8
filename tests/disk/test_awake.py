"""A job keeps the machine awake for as long as it lives, and no longer; there is no logind here, so a program that
writes down what it is asked for, and runs what it is given as the real one does, stands for systemd-inhibit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank
from tests.support.live import Live, live
from tests.support.program import job_of, on_terminal, recovery, start

pytestmark = pytest.mark.disk

_INHIBIT = """#!/bin/sh
echo "$@" >>{log}
while [ "${{1#--}}" != "$1" ]; do shift; done
"$@"
echo "let go" >>{log}
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    """A live system with systemd, on battery."""
    made = live(tmp_path, monkeypatch)
    (made.root / "run/systemd/system").mkdir(parents=True)
    battery = made.root / "sys/class/power_supply/BAT0"
    battery.mkdir(parents=True)
    for name, text in {"type": "Battery", "status": "Discharging", "capacity": "43"}.items():
        (battery / name).write_text(f"{text}\n")
    program = tmp_path / "bin" / "systemd-inhibit"
    program.parent.mkdir()
    program.write_text(_INHIBIT.format(log=tmp_path / "log"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return made


def source(tmp_path: Path) -> Path:
    image = blank(tmp_path / "source.img", 8 * MIB)
    image.write_bytes(os.urandom(8 * MIB))
    return image


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []


def test_a_job_holds_a_lock_while_it_works_and_tells_of_the_battery(system: Live, tmp_path: Path) -> None:
    image = source(tmp_path)
    ran = recovery("clone", image, tmp_path / "copy.img", "--yes")
    assert "runs on battery (43 %)" in ran.said
    asked, ended = log(tmp_path)
    for word in ("shutdown", "sleep", "idle", "handle-lid-switch", "handle-power-key", "--mode=block", str(image)):
        assert word in asked
    assert ended == "let go"


def test_a_dry_run_and_a_question_hold_none(system: Live, tmp_path: Path) -> None:
    recovery("clone", source(tmp_path), tmp_path / "copy.img", "--dry-run")
    recovery("disks", tmp_path / "source.img")
    assert log(tmp_path) == []


def test_the_lock_goes_with_a_job_that_is_killed(system: Live, tmp_path: Path) -> None:
    image = source(tmp_path)
    held: list[int] = []

    def look() -> None:
        assert len(log(tmp_path)) == 1

    ran = on_terminal("clone", image, tmp_path / "copy.img", answer=b"no\n", question="Type", before=look)
    assert ran.status == 130
    assert log(tmp_path)[1:] == ["let go"]
    (tmp_path / "log").unlink()
    screen = start("clone", image, tmp_path / "copy.img", "--yes")
    held.append(job_of(screen))
    while not log(tmp_path) and screen.poll() is None:
        time.sleep(0.002)
    os.kill(held[0], signal.SIGKILL)
    screen.communicate(timeout=60)
    ends = time.monotonic() + 60
    while log(tmp_path)[1:] != ["let go"]:
        assert time.monotonic() < ends, "the lock is still held"
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["fails", "says-nothing", "missing"])
def test_a_machine_that_cannot_be_kept_awake_works_all_the_same(
    how: str, system: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "systemd-inhibit"
    if how == "missing":
        (system.root / "run/systemd/system").rmdir()
    else:
        program.write_text("#!/bin/sh\n" + ("exit 1\n" if how == "fails" else "sleep 60\n"))
    recovery("clone", source(tmp_path), tmp_path / "copy.img", "--yes")
    assert (tmp_path / "copy.img").read_bytes() == (tmp_path / "source.img").read_bytes()
    assert log(tmp_path) == []
