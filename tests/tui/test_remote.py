"""Remote help: off unless asked for; its password is nowhere but on the screen; over when it is switched off."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from recovery.command import find_program
from recovery.devices.live import live_system
from recovery.errors import DeviceError, Refused
from tests.support.images import PROJECT
from tests.support.live import live
from tests.tui.support import FileMachine, app_for, says, screen_text, until
from tui.app import RecoveryApp
from tui.remote import make_password, remote_help, switch_off, switch_on
from tui.screens.remote import RemoteScreen

_FORM = r"\d{4}-\d{4}-\d{4}"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a real server, a real password database and a real client showed."""
    if os.geteuid() != 0:
        pytest.skip("namespaces of the test's own need root")
    for program in ("sshd", "ssh", "chpasswd", "unshare", "ss"):
        if find_program(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("remote")
    folder.chmod(0o755)
    line = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc"]
    line += [sys.executable, "-m", "tests.support.remote_help", str(folder)]
    ended = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=240)
    if ended.stderr.startswith("unshare: "):
        pytest.skip(f"no namespaces of the test's own can be had here: {ended.stderr.strip()}")
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_nothing_listens_before_it_is_asked_for(seen: dict[str, Any]) -> None:
    assert not seen["before"]
    assert seen["locked before"]


def test_the_password_that_is_shown_lets_in_and_another_does_not(seen: dict[str, Any]) -> None:
    assert seen["right password"] == 0
    assert seen["wrong password"] == 255


def test_every_screen_of_the_machine_can_show_the_password_and_no_other_user_read_it(seen: dict[str, Any]) -> None:
    assert seen["shown again"]
    assert seen["the same for who switches it on too"]
    assert seen["mode"] == "0o600"
    assert not seen["password told"]


def test_the_fingerprint_that_is_shown_is_the_servers(seen: dict[str, Any]) -> None:
    assert seen["key"]


def test_logging_in_lands_in_the_interface_with_the_job_that_runs(seen: dict[str, Any]) -> None:
    assert seen["lands in the interface"], seen["screen"]
    assert seen["interfaces"] == 1


def test_switching_off_ends_server_password_and_sessions_but_no_job(seen: dict[str, Any]) -> None:
    assert not seen["after"]
    assert seen["refused"] == 255
    assert seen["locked after"]
    assert not seen["kept after"]
    assert seen["off"]
    assert seen["session ended"]
    assert seen["interface ended"]
    assert seen["job runs"] == [True]


# -- the screen, with notes of what the programs of the system are given


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A live system whose ``chpasswd`` and ``systemctl`` write down their arguments and input into ``ran``."""
    live(tmp_path, monkeypatch)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("chpasswd", "systemctl"):
        text = f'#!/bin/sh\necho "{name} $*: $(cat)" >>{tmp_path}/ran\n[ ! -e {tmp_path}/broken-$1 ]\n'
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setattr("recovery.command.SEARCH_PATH", f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin")
    for name in ("SSH_CONNECTION", "SSH_TTY", "TEXTUAL_DRIVER"):
        monkeypatch.delenv(name, raising=False)
    live_system.cache_clear()
    yield tmp_path
    live_system.cache_clear()


async def until_on(pilot: Pilot[None], app: RecoveryApp) -> str:
    """Switch it on by keys; the password that is shown."""
    await app.push_screen(RemoteScreen())
    await until(pilot, says(pilot, "Remote help is off"))
    await pilot.press("tab", "enter")
    await until(pilot, says(pilot, "Remote help is on"))
    found = re.search(_FORM, screen_text(pilot))
    assert found is not None
    return found[0]


def test_passwords_differ_and_can_be_read_aloud() -> None:
    made = {make_password() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(_FORM, password) for password in made)


async def test_it_is_switched_on_shown_on_another_screen_and_switched_off(
    system: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = app_for(FileMachine(system))
    async with app.run_test(size=(80, 24)) as pilot:
        password = await until_on(pilot, app)
        assert says(pilot, "Switch off", "F1 Help")(), screen_text(pilot)
        await pilot.press("escape")
        await app.push_screen(RemoteScreen())
        await until(pilot, says(pilot, password))
        await pilot.press("tab", "enter")
        await until(pilot, says(pilot, "Switch remote help off?"))
        await pilot.press("enter")
        await until(pilot, says(pilot, password))
        assert remote_help() is not None
        await pilot.click("#off")
        await until(pilot, says(pilot, "Switch remote help off?"))
        await pilot.press("tab", "enter")
        await until(pilot, says(pilot, "Remote help is off"))
    assert (system / "ran").read_text().splitlines() == [
        f"chpasswd : root:{password}",
        "systemctl start ssh.service: ",
        "systemctl stop ssh.service: ",
        "chpasswd --encrypted: root:*",
    ]
    assert remote_help() is None
    assert password not in caplog.text


async def test_a_server_that_does_not_start_leaves_nothing_switched_on(system: Path) -> None:
    (system / "broken-start").touch()
    app = app_for(FileMachine(system))
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(RemoteScreen())
        await until(pilot, says(pilot, "Remote help is off"))
        await pilot.press("tab", "enter")
        await until(pilot, says(pilot, "This did not work", "systemctl"))
        await pilot.press("enter")
        await until(pilot, says(pilot, "Remote help is off"))
    assert (system / "ran").read_text().splitlines()[-1] == "chpasswd --encrypted: root:*"
    assert remote_help() is None


def test_a_server_that_does_not_stop_loses_its_password_all_the_same_and_that_is_told(system: Path) -> None:
    switch_on()
    (system / "broken-stop").touch()
    with pytest.raises(DeviceError, match="systemctl"):
        switch_off()
    assert (system / "ran").read_text().splitlines()[-1] == "chpasswd --encrypted: root:*"


def test_another_system_is_left_alone(tmp_path: Path, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOVERY_LIVE_ROOT", str(tmp_path / "elsewhere"))
    live_system.cache_clear()
    for switch in (switch_on, switch_off):
        with pytest.raises(Refused):
            switch()
    assert not (system / "ran").exists()


async def test_who_is_connected_this_way_is_told_that_their_own_screen_ends(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_for(FileMachine(system))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_on(pilot, app)
        monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 5000 192.0.2.2 22")
        await pilot.click("#off")
        await until(pilot, says(pilot, "your screen ends too"))
