"""The first screen: the disks as they come and go, and what runs."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList
from textual.worker import WorkerFailed

from recovery.cli.requests import CaptureRequest
from recovery.cli.spawn import spawn
from recovery.devices.disk import Disk
from recovery.devices.health import Health, read_health
from recovery.errors import DeviceError
from recovery.inventory import DiskReport
from recovery.jobs.folder import list_jobs
from recovery.repository.repository import Repository
from tests.support.disks import KIB, MIB, blank
from tests.support.hanging_child import hanging
from tests.tui.support import FileMachine, app_for, jobs_in, says, screen_text, until
from tui.screens.disks import DisksScreen
from tui.screens.home import HomeScreen
from tui.screens.job import JobScreen

pytestmark = pytest.mark.asyncio

CHUNK = 256 * KIB


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the machine's disks are; jobs are kept apart."""
    (tmp_path / "disks").mkdir()
    with jobs_in(tmp_path / "jobs"):
        yield tmp_path / "disks"


async def test_a_disk_that_is_plugged_in_appears_and_one_that_is_pulled_out_goes(folder: Path) -> None:
    app = app_for(FileMachine(folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "No disk was found"))
        blank(folder / "sda.img", 32 * MIB)
        app.look()
        await until(pilot, says(pilot, "One disk was found", "sda.img", "32.0 MiB"))
        shutil.copyfile(folder / "sda.img", folder / "sdb.img")
        (folder / "sda.img").unlink()
        app.look()
        await until(pilot, says(pilot, "One disk was found", "sdb.img"))
        assert "sda.img" not in screen_text(pilot)


async def test_an_interface_that_is_started_again_comes_back_to_the_job_that_runs(folder: Path) -> None:
    source, repository = folder.parent / "source", folder.parent / "repository"
    source.write_bytes(random.Random(3).randbytes(16 * CHUNK))
    Repository.init(repository, "")
    with hanging(source, 9 * CHUNK, 9 * CHUNK + 4 * KIB) as disk:
        with spawn(CaptureRequest(sources=(disk,), chunk_bytes=CHUNK), repository) as watcher:
            app = app_for(FileMachine(folder))
            async with app.run_test(size=(80, 24)) as pilot:
                await until(pilot, lambda: isinstance(app.screen, JobScreen))
                await until(pilot, says(pilot, "Stop"))
                await pilot.press("escape")
                await until(pilot, lambda: isinstance(app.screen, HomeScreen))
                await until(pilot, says(pilot, "Running: capture"))
                await pilot.press("shift+tab", "enter")
                await until(pilot, lambda: isinstance(app.screen, JobScreen))
            assert [job.running for job in list_jobs()] == [True]
            watcher.kill()


async def test_enter_pressed_twice_begins_one_journey(folder: Path) -> None:
    blank(folder / "a.img", MIB)
    app = app_for(FileMachine(folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "One disk was found"))
        menu = app.screen.query_one("#menu", OptionList)
        menu.action_select()
        menu.action_select()  # both keys were there before the first screen was
        await until(pilot, lambda: isinstance(app.screen, DisksScreen))
        await pilot.pause(0.5)
        assert [type(screen) for screen in app.screen_stack[1:]] == [HomeScreen, DisksScreen]


async def test_what_the_system_refuses_is_told_and_a_machine_that_tells_of_no_disk_is_looked_at(folder: Path) -> None:
    class Refusing(FileMachine):
        def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
            raise DeviceError("there is no netlink", "")

    app = app_for(Refusing(folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "No disk was found"))

        async def work() -> None:
            await app.ask((folder / "gone").read_bytes)

        app.begin(work)
        await until(pilot, says(pilot, "This did not work", "could not be used: No such file"))


async def test_an_interface_that_breaks_shows_no_values_and_logs_where(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_for(FileMachine(folder))

    async def work() -> None:
        password = "night-watch"
        raise AssertionError(len(password))

    async def run() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, says(pilot, "No disk was found"))
            app.begin(work)
            await until(pilot, lambda: not app.is_running)

    with pytest.raises(WorkerFailed):
        await run()
    assert not app._exit_renderables, "Textual's picture of an error shows what variables hold"
    assert "in work" in caplog.text
    assert "night-watch" not in caplog.text.replace('password = "night-watch"', "")


async def test_disks_that_cannot_be_listed_are_told_and_looked_for_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(FileMachine):
        broken = True

        def survey(self) -> list[DiskReport]:
            if self.broken:
                raise DeviceError("udev does not answer", "")
            return super().survey()

    monkeypatch.setattr("tui.app._FAILED_SECONDS", 0.1)
    blank(folder / "a.img", MIB)
    machine = Silent(folder)
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "could not be listed: udev does not answer", "tried again"))
        machine.broken = False
        await until(pilot, says(pilot, "One disk was found", "a.img"))
        assert "could not be listed" not in screen_text(pilot)


async def test_the_program_is_not_left_while_it_erases_a_disk(folder: Path) -> None:
    app = app_for(FileMachine(folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "No disk was found"))
        app.unfinished = "sdb is being erased."
        await pilot.press("f10")
        await until(pilot, says(pilot, "Not now", "sdb is being erased. Wait until that has ended."))
        await pilot.press("enter")
        app.unfinished = ""
        await pilot.press("f10")
        await until(pilot, says(pilot, "Leave the program?"))


class DyingDisk(FileMachine):
    """Its disk a tells of its death; b cannot be asked."""

    def health(self, disk: Disk) -> Health:
        if disk.name == "b.img":
            raise DeviceError("b has no SMART", "")
        return read_health(b'{"device": {"protocol": "ATA"}, "smart_status": {"passed": false}}')


async def test_a_dying_disk_is_said_to_be_dying_on_the_first_screen(folder: Path) -> None:
    blank(folder / "a.img", MIB)
    blank(folder / "b.img", MIB)
    app = app_for(DyingDisk(folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "THIS DISK IS DYING", "The disk itself says that it is"))
        shown = screen_text(pilot)
        assert shown.count("THIS DISK IS DYING") == 1
        assert shown.index("a.img") < shown.index("THIS DISK IS DYING") < shown.index("b.img")


async def test_without_a_job_nothing_is_said_of_jobs(folder: Path) -> None:
    app = app_for(FileMachine(folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "No disk was found"))
        assert isinstance(app.screen, HomeScreen)
        assert "Running" not in screen_text(pilot)


async def test_nothing_is_drawn_while_nothing_happens(folder: Path) -> None:
    app = app_for(FileMachine(folder))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "No disk was found"))
        await pilot.press("end", "enter")
        await until(pilot, says(pilot, "Keyboard layout"))
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.focused, Input))
        field = app.focused
        assert isinstance(field, Input)
        await pilot.pause(1.2)
        assert field._cursor_visible
        assert not field.cursor_blink
