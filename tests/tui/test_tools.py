"""The tools show what independent programs say, and leave the machine only when that was meant."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from msgspec import structs
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from recovery.cli.requests import CaptureRequest
from recovery.cli.spawn import spawn
from recovery.devices.disk import Disk
from recovery.devices.health import Health
from recovery.devices.live import live_system
from recovery.errors import DeviceError, UsageError
from recovery.jobs.folder import list_jobs
from recovery.jobs.watching import Watcher
from recovery.repository.repository import Repository
from tests.support.disks import MIB, blank, partitioned
from tests.support.images import PASSWORD
from tests.support.live import live
from tests.tui.support import FileMachine, app_for, jobs_in, says, screen_text, until
from tui.clock import editable_now, parse, zones
from tui.leaving import stop_jobs
from tui.machine import Leave
from tui.network import Link, Network, look_at_network
from tui.screens.tools import ToolsScreen


class Tools(FileMachine):
    """A live machine that notes how it was left; its battery and its disks' health are what the test says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.live = True
        self.left: list[Leave] = []
        self.level: str | None = None
        self.told: Health | None = None

    def leave(self, how: Leave) -> None:
        self.left.append(how)

    def battery(self) -> str | None:
        return self.level

    def health(self, disk: Disk) -> Health:
        if self.told is None:
            raise DeviceError(f"{disk.name} has no SMART", "It may be connected through an adapter.")
        return self.told


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tools]:
    live(tmp_path, monkeypatch)
    live_system.cache_clear()
    with jobs_in(tmp_path / "jobs"):
        yield Tools(tmp_path)
    live_system.cache_clear()


@pytest.fixture
def waiting_job(machine: Tools, tmp_path: Path) -> Iterator[Watcher]:
    """A capture that has made its plan and waits to be agreed to."""
    blank(tmp_path / "source.img", 4 * MIB)
    Repository.init(tmp_path / "repository", PASSWORD)
    request = CaptureRequest(sources=(tmp_path / "source.img",), review=True)
    with spawn(request, tmp_path / "repository", PASSWORD) as watcher:
        ends = time.monotonic() + 60
        while not any(b'"question"' in line for line in watcher.events()):
            assert time.monotonic() < ends, "the capture does not ask"
            watcher.wait(0.05)
        yield watcher


async def choose(pilot: Pilot[None], name: str) -> None:
    """Choose an entry of the tools."""
    tools = pilot.app.screen.query_one("#tools", OptionList)
    tools.highlighted = tools.get_option_index(name)
    await pilot.press("enter")
    await pilot.pause()


def names(pilot: Pilot[None]) -> list[str | None]:
    return [option.id for option in pilot.app.screen.query_one("#tools", OptionList).options]


async def test_the_machine_is_switched_off_after_a_question_whose_first_answer_is_no(machine: Tools) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ToolsScreen())
        await choose(pilot, "poweroff")
        await until(pilot, says(pilot, "Nothing is running"))
        await pilot.press("enter")
        await pilot.pause()
        assert machine.left == []
        await choose(pilot, "poweroff")
        await until(pilot, says(pilot, "Nothing is running"))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: machine.left == ["poweroff"])


async def test_while_a_job_runs_the_machine_is_left_only_after_the_job_was_stopped(
    machine: Tools, waiting_job: Watcher
) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ToolsScreen())
        await choose(pilot, "reboot")
        await until(pilot, says(pilot, "should not restart now", "capture"))
        await pilot.press("enter")
        await pilot.pause()
        assert machine.left == []
        assert [job.running for job in list_jobs()] == [True]
        await choose(pilot, "reboot")
        await until(pilot, says(pilot, "should not restart now"))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: machine.left == ["reboot"])
        assert [job.running for job in list_jobs()] == [False]


def test_a_job_that_does_not_stop_keeps_the_machine_running_and_is_named(
    waiting_job: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = list_jobs()[0]
    subprocess.run(["kill", "-STOP", str(job.pid)], check=True)
    try:
        with pytest.raises(DeviceError, match=f"job {job.id} does not stop"):
            stop_jobs([job], seconds=0.5)
    finally:
        subprocess.run(["kill", "-CONT", str(job.pid)], check=True)
    stop_jobs([job])
    assert not list_jobs()[0].running


async def test_another_system_is_not_restarted_from_here(machine: Tools) -> None:
    machine.live = False
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ToolsScreen())
        assert names(pilot) == ["disks", "keyboard", "network", "logs", "clock"]
        await choose(pilot, "clock")
        await until(pilot, says(pilot, "not here"))
        assert not app.screen.query(Input)


async def test_a_machine_on_battery_says_so(machine: Tools) -> None:
    machine.level = "43 %"
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ToolsScreen())
        await until(pilot, says(pilot, "runs on its battery (43 % full)"))


async def test_all_tools_and_the_battery_fit_the_smallest_screen(machine: Tools) -> None:
    machine.level = "43 %"
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ToolsScreen())
        await until(pilot, says(pilot, "battery", "Disks:", "Switch this machine off", "Back", "F1 Help"))


async def test_the_shell_says_how_to_come_back_and_where_there_is_none(machine: Tools) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ToolsScreen())
        await choose(pilot, "shell")
        await until(pilot, says(pilot, "type exit"))
        await pilot.press("tab", "enter")
        await until(pilot, says(pilot, "A shell cannot be shown here"))


async def test_a_disk_is_shown_with_what_sfdisk_says_and_without_health_the_reason(
    machine: Tools, tmp_path: Path
) -> None:
    partitioned(tmp_path / "sda.img", 64 * MIB, "label: gpt\nsize=32MiB, name=one\nname=two\n")
    app = app_for(machine)
    async with app.run_test(size=(80, 40)) as pilot:
        await app.push_screen(ToolsScreen())
        await choose(pilot, "disks")
        await until(pilot, says(pilot, "sda.img"))
        await pilot.press("enter")
        await until(pilot, says(pilot, "Health: not known", "has no SMART"))
        shown = screen_text(pilot)
        assert shown.index("Health: not known") < shown.index("Sector size")
        for words in ("Partition 1", "Partition 2", "32.0 MiB", "67,108,864 bytes", "GPT", "image file"):
            assert words in shown, words


async def test_a_dying_disk_is_said_to_be_dying_before_any_figure(machine: Tools, tmp_path: Path) -> None:
    blank(tmp_path / "sda.img", MIB)
    machine.told = Health(
        kind="ATA", passed=False, pending_sectors=14, dying=True, sentences=("14 sectors wait to be replaced.",)
    )
    app = app_for(machine)
    async with app.run_test(size=(80, 40)) as pilot:
        await app.push_screen(ToolsScreen())
        await choose(pilot, "disks")
        await until(pilot, says(pilot, "sda.img"))
        await pilot.press("enter")
        await until(pilot, says(pilot, "Save what is on it now", "14 sectors wait", "Sectors waiting", "failed"))
        shown = screen_text(pilot)
        assert shown.index("Save what is on it now") < shown.index("14 sectors wait") < shown.index("Sectors waiting")
        assert "Temperature" not in shown


def test_the_network_is_what_ip_says() -> None:
    said = json.loads(subprocess.run(["ip", "-json", "addr"], capture_output=True, check=True).stdout)
    expected = {
        f"{address['local']}/{address['prefixlen']}"
        for link in said
        if "LOOPBACK" not in link["flags"]
        for address in link["addr_info"]
    }
    network = look_at_network()
    assert {address for link in network.links for address in link.addresses} == expected
    assert not any(address.startswith(("127.", "fe80")) for address in network.reachable)


CARD = Link("eth0", connected=True, hardware_address="", addresses=(), reachable=())
ADDRESSED = structs.replace(CARD, addresses=("192.0.2.9/24",), reachable=("192.0.2.9",))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Network((), (), ()), "No network card"),
        (Network((structs.replace(CARD, connected=False),), (), ()), "No cable is plugged in"),
        (Network((CARD,), (), ()), "no DHCP server answered"),
        (Network((ADDRESSED,), (), ()), "no gateway is known"),
        (Network((ADDRESSED,), ("192.0.2.1 through eth0",), ()), "has a way out"),
    ],
)
def test_a_network_that_lacks_something_says_what(network: Network, said: str) -> None:
    assert said in network.sentences[0]


def test_a_network_of_ones_own_has_no_card() -> None:
    code = "from tui.network import Link, Network, look_at_network as look; print(look().sentences[0])"
    line = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    if "unshare" in ended.stderr:
        pytest.skip(f"no network of the test's own can be had here: {ended.stderr.strip()}")
    assert ended.stdout == "No network card was found.\n"


async def test_network_and_logs_are_shown(machine: Tools, waiting_job: Watcher) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 40)) as pilot:
        await app.push_screen(ToolsScreen())
        await choose(pilot, "network")
        await until(pilot, says(pilot, "Gateway"))
        await pilot.press("escape")
        await choose(pilot, "logs")
        await until(pilot, says(pilot, "Job 1: capture"))
        await pilot.press("enter")
        await until(pilot, says(pilot, "File:", "Source"))


@pytest.mark.parametrize(
    "text", ["", "2026-13-01 10:00", "26-01-01 10:00", "2026-01-01", "1999-01-01 00:00", "now; rm"]
)
def test_a_time_that_cannot_be_right_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_a_time_that_is_shown_can_be_typed_back() -> None:
    assert parse(editable_now()) <= datetime.now()
    assert parse(" 2026-03-01 14:05 ") == datetime(2026, 3, 1, 14, 5)


async def test_the_clock_is_set_by_the_programs_of_the_system_with_what_was_typed(
    machine: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("date", "timedatectl"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/ran\n')
        (programs / name).chmod(0o755)
    monkeypatch.setattr("recovery.command.SEARCH_PATH", f"{programs}:/usr/bin:/bin")
    assert "Europe/Berlin" in zones()
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ToolsScreen())
        await choose(pilot, "clock")
        await until(pilot, lambda: bool(app.screen.query("#time")))
        field = app.screen.query_one("#time", Input)
        field.value = "tomorrow"
        field.focus()
        await pilot.press("enter")
        await until(pilot, says(pilot, "Nothing was changed", "2026-03-01 14:05"))
        assert not (tmp_path / "ran").exists()
        field.value = "2026-03-01 14:05"
        await pilot.press("enter")
        await until(pilot, says(pilot, "The clock was set"))
        zone = app.screen.query_one("#zone", Input)
        zone.value = "Europe/Berlin"
        zone.focus()
        await pilot.press("enter")
        await until(pilot, says(pilot, "The time zone is Europe/Berlin now"))
    assert (tmp_path / "ran").read_text() == "date --set=2026-03-01 14:05:00\ntimedatectl set-timezone Europe/Berlin\n"
