"""A person looks into a repository: what they see and do is judged by sfdisk, restic and the files."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList

from recovery.destination import Destination
from tests.support.disks import MIB, run, umount
from tests.support.restic import restic_binaries, restic_version
from tests.tui.restoring import agree, agree_and_stop
from tests.tui.support import FileMachine, app_for, says, screen_text, statics, until
from tests.tui.world import NEW, OLD, World, choose, living_in, make_world, reaches, running, types
from tui.app import RecoveryApp
from tui.contents import is_read_only
from tui.look import LookJourney
from tui.screens.contents import ContentsScreen, DetailsScreen
from tui.screens.forget import ForgetReview
from tui.screens.job import ResultScreen
from tui.screens.partition import PartScreen
from tui.screens.place import PlaceScreen

RESTIC = next((program for program in reversed(restic_binaries()) if restic_version(program) >= (0, 17)), None)
needs_restic = pytest.mark.skipif(RESTIC is None, reason="no restic of 0.17 or newer, which opens without a password")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), OLD)
    if RESTIC is not None:
        restic(world.repository, "backup", "--host", "desk", world.disk(NEW))
    return world


@pytest.fixture
def world(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    if RESTIC is not None:
        use(RESTIC, monkeypatch)
    with living_in(made, tmp_path, own_repository=True) as there:
        yield there


def use(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This restic is the one that is installed."""
    monkeypatch.setattr("recovery.command.SEARCH_PATH", f"{program.parent}:{os.environ['PATH']}:/usr/sbin:/sbin")


def restic(repository: Path, *words: str | Path) -> str:
    assert RESTIC is not None
    line = [RESTIC, "--repo", repository, "--insecure-no-password", "--no-cache", *words]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout


async def until_details(pilot: Pilot[None], app: RecoveryApp, number: int = 0) -> None:
    """From the first screen to the details of what the list has at that place."""
    await until(pilot, lambda: app.reports is not None)
    app.begin(lambda: LookJourney(app).run())
    await choose(pilot, PlaceScreen, "recovery")
    await reaches(pilot, ContentsScreen)
    rows = app.screen.query_one("#images", OptionList)
    await until(pilot, lambda: rows.option_count > number)
    await choose(pilot, ContentsScreen, rows.options[number].id or "")
    await reaches(pilot, DetailsScreen)


async def test_an_image_is_shown_with_its_disks_and_partitions(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await until(pilot, says(pilot, "System image", "old  96.0 MiB", "Partition 1  40.0 MiB  ext4", "used"))
        assert says(pilot, "Back", "Restore", "Verify", "Audit", "Forget")(), screen_text(pilot)


@needs_restic
async def test_files_are_listed_and_said_to_be_files(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app, 1)
        await until(pilot, says(pilot, "Files of desk", "Files and folders were saved here, not disks", "restic"))
        assert {button.id for button in app.screen.query(Button)} == {"back", "forget"}


@pytest.mark.parametrize("check", ["verify", "audit"])
async def test_an_image_is_checked_by_a_job_and_the_list_comes_back(world: World, check: str) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click(f"#{check}")
        result = await reaches(pilot, ResultScreen)
        assert result.view.kind == "verify"
        assert result.view.exit_code == 0, statics(pilot)
        assert result.view.summary is not None
        assert (result.view.summary["audit"] is not None) == (check == "audit")
        await pilot.press("enter")
        await reaches(pilot, ContentsScreen)


async def test_a_damaged_image_is_said_to_be_damaged(world: World) -> None:
    for pack in (world.repository / "data").glob("*/*"):
        if pack.stat().st_size > MIB:  # holds data, not lists
            with pack.open("r+b") as file:
                file.seek(100)
                file.write(b"damage")
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#verify")
        result = await reaches(pilot, ResultScreen)
        assert result.view.exit_code == 22
        await until(pilot, says(pilot, "NOT in order"))


async def test_an_image_that_was_looked_at_can_be_put_back(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#restore")
        await reaches(pilot, PartScreen)
        await pilot.press("escape")
        await reaches(pilot, ContentsScreen)


async def test_back_leads_from_the_details_to_the_list_to_the_places(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.press("escape")
        await reaches(pilot, ContentsScreen)
        await pilot.press("escape")
        await reaches(pilot, PlaceScreen)


@needs_restic
async def test_forgetting_shows_what_goes_and_stays_and_needs_the_word(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#forget")
        review = await reaches(pilot, ForgetReview)
        await until(pilot, lambda: not review.query_one("#start", Button).disabled)
        assert app.focused is review.query_one("#back")
        said = screen_text(pilot)
        assert said.index("removed, for ever") < said.index("system image of") < said.index("This stays (1 snapshot)")
        assert said.index("This stays") < said.index("files of desk")
        assert "will come free" in said
        review.query_one("#typed", Input).focus()
        await types(pilot, "yes")
        await pilot.press("enter")
        await until(pilot, says(pilot, "Nothing was removed"))
        assert len(restic(world.repository, "list", "snapshots").split()) == 2
        review.query_one("#typed", Input).value = ""
        await types(pilot, "forget")
        await pilot.press("enter")
        result = await reaches(pilot, ResultScreen)
        assert result.view.exit_code == 0, statics(pilot)
        await until(pilot, says(pilot, "It was forgotten", "came free"))
        await pilot.press("enter")
        await reaches(pilot, ContentsScreen)
        await until(pilot, says(pilot, "There is no system image in this repository", "desk"))
    assert len(restic(world.repository, "list", "snapshots").split()) == 1
    restic(world.repository, "check", "--read-data")


async def test_a_restic_too_old_for_repositories_without_password_is_said_to_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = next((program for program in restic_binaries() if restic_version(program) < (0, 17)), None)
    if old is None:
        pytest.skip("no restic older than 0.17 is here")
    use(old, monkeypatch)
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#forget")
        await until(pilot, says(pilot, "cannot be done", "restic 0.17 or newer"))
        assert app.screen.query_one("#start", Button).disabled
        assert not app.screen.query_one("#start", Button).display
        assert not app.screen.query_one("#agreeing").display
        assert "To agree" not in screen_text(pilot)


@needs_restic
async def test_going_back_from_the_review_forgets_nothing(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#forget")
        review = await reaches(pilot, ForgetReview)
        await until(pilot, lambda: not review.query_one("#start", Button).disabled)
        await pilot.press("escape")
        await reaches(pilot, ContentsScreen)
        assert not running()
    assert len(restic(world.repository, "list", "snapshots").split()) == 2


@needs_restic
async def test_forgetting_that_is_stopped_says_what_is_left(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#forget")
        review = await reaches(pilot, ForgetReview)
        await until(pilot, lambda: not review.query_one("#start", Button).disabled)
        said = await agree_and_stop(pilot, "forget")
        assert "It was stopped before its end" in said
    left = len(restic(world.repository, "list", "snapshots").split())
    assert left in (1, 2)
    assert ("nothing was forgotten" in said) == (left == 2), said
    restic(world.repository, "check", "--read-data")


@needs_restic
async def test_nothing_is_forgotten_while_another_machine_stores_and_it_is_said_why(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#forget")
        review = await reaches(pilot, ForgetReview)
        await until(pilot, lambda: not review.query_one("#start", Button).disabled)
        with storing(world.repository):
            await agree(pilot, "forget")
            result = await reaches(pilot, ResultScreen)
        assert result.view.exit_code not in (0, 3)
        said = " ".join(statics(pilot).split())
        assert "It did not work" in said
        assert "is being used by PID" in said
        assert "Wait until that has ended" in said
    assert len(restic(world.repository, "list", "snapshots").split()) == 2


@contextmanager
def storing(repository: Path) -> Iterator[None]:
    """Somebody else is storing into the repository meanwhile: restic, which waits for what it is to store."""
    assert RESTIC is not None
    line = [RESTIC, "--repo", repository, "--insecure-no-password", "--no-cache", "backup", "--stdin"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as other:
        try:
            while not any((repository / "locks").iterdir()):
                assert other.poll() is None
                time.sleep(0.05)
            yield
        finally:
            other.kill()


class Stick(FileMachine):
    """A machine whose stick is mounted for reading, until it is to be written."""

    def __init__(self, world: World) -> None:
        self.point = world.repository.parent
        [stick] = world.machine().destinations()
        super().__init__(world.disks, [structs.replace(stick, read_only=True)])

    def mount(self, device: Path, *, read_only: bool = False, unclean: bool = False) -> Destination:
        assert str(device) == "/dev/sdz1"
        run("mount", "-o", "remount,bind,rw", self.point)
        return structs.replace(self.destinations()[0], read_only=False)


@pytest.fixture
def stick(world: World) -> Iterator[Stick]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    point = world.repository.parent
    run("mount", "--bind", point, point)
    try:
        run("mount", "-o", "remount,bind,ro", point)
        yield Stick(world)
    finally:
        umount(point)


@needs_restic
async def test_a_disk_opened_for_reading_is_opened_for_writing_only_when_that_is_wanted(stick: Stick) -> None:
    app = app_for(stick)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_details(pilot, app)
        await pilot.click("#forget")
        await until(pilot, says(pilot, "opened for reading only"))
        await pilot.press("enter")
        await reaches(pilot, ContentsScreen)
        assert is_read_only(stick.point)
        await choose(pilot, ContentsScreen)
        await reaches(pilot, DetailsScreen)
        await pilot.click("#forget")
        await until(pilot, says(pilot, "opened for reading only"))
        await pilot.press("tab", "enter")
        review = await reaches(pilot, ForgetReview)
        await until(pilot, lambda: not review.query_one("#start", Button).disabled)
        assert not is_read_only(stick.point)
        await pilot.press("escape")
        await reaches(pilot, ContentsScreen)
