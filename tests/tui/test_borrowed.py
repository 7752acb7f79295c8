"""Filesystems that were mounted for the person are given back, and never while something uses them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery import destination
from recovery.cli.requests import CaptureRequest
from recovery.cli.spawn import spawn
from recovery.repository.repository import Repository
from tests.support.disks import MIB, blank, run, umount
from tests.tui.support import app_for, jobs_in, says, until
from tests.tui.test_places import asked, recorded
from tests.tui.world import choose, reaches
from tui.app import RecoveryApp
from tui.borrowed import Borrowed
from tui.modals import Note
from tui.screens.home import HomeScreen
from tui.screens.menu import begin_entry
from tui.screens.place import Place, PlaceScreen

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[destination.Destination]:
    """A filesystem that is mounted."""
    point = tmp_path / "stick"
    point.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16m", "recovery-test", point)
    try:
        yield destination.Destination("/dev/sdz1", str(point), "tmpfs", "", 16 * MIB, 16 * MIB, False, ())
    finally:
        if os.path.ismount(point):
            umount(point)


def give_back(folder: Path) -> None:
    destination.unmount(folder)


@needs_root
def test_what_is_in_use_stays_and_is_given_back_the_next_time(mounted: destination.Destination, tmp_path: Path) -> None:
    borrowed, point = Borrowed(give_back), Path(mounted.folder)
    with jobs_in(tmp_path / "jobs"):
        assert borrowed.give_back() == ()
        borrowed.add(mounted)
        with (point / "open").open("w"):
            assert borrowed.give_back() == ()
            assert point.is_mount()
        assert borrowed.give_back() == ("/dev/sdz1",)
        assert not point.is_mount()
        assert borrowed.give_back() == (), "only once"


@needs_root
def test_while_a_job_runs_nothing_is_given_back(mounted: destination.Destination, tmp_path: Path) -> None:
    borrowed, point = Borrowed(give_back), Path(mounted.folder)
    borrowed.add(mounted)
    source = blank(tmp_path / "source.img", 4 * MIB)
    Repository.init(tmp_path / "repository", "")
    with jobs_in(tmp_path / "jobs"):
        request = CaptureRequest(sources=(source,), review=True)  # it waits to be agreed to
        with spawn(request, tmp_path / "repository") as watcher:
            while not any(b'"question"' in line for line in watcher.events()):
                watcher.wait(0.05)
            assert borrowed.give_back() == ()
            assert point.is_mount()
            watcher.kill()
            while not watcher.ended:
                watcher.wait(0.1)
        assert borrowed.give_back() == ("/dev/sdz1",)


@pytest.mark.asyncio
async def test_a_disk_that_was_opened_to_look_at_can_be_unplugged_after_it(tmp_path: Path) -> None:
    with jobs_in(tmp_path / "jobs"), recorded(tmp_path) as machine:
        app = app_for(machine)  # type: ignore[arg-type]
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.reports is not None)
            app.begin(lambda: begin_entry(app, "look"))
            await choose(pilot, PlaceScreen, "/dev/sdb1")
            await until(pilot, says(pilot, "No repository there"))
            assert [made.device for made in machine.destinations()] == ["/dev/sdb1"]
            await pilot.press("enter")
            await reaches(pilot, PlaceScreen)
            await pilot.press("escape")
            await reaches(pilot, HomeScreen)
            await until(pilot, lambda: not machine.destinations())
            await until(pilot, lambda: "sdb1 is no longer open: you can unplug the disk." in told(app))


@pytest.mark.asyncio
@pytest.mark.parametrize("inside", [False, True])
async def test_what_was_opened_on_the_way_is_given_back_when_the_place_is_chosen(tmp_path: Path, inside: bool) -> None:
    with jobs_in(tmp_path / "jobs"), recorded(tmp_path) as machine:
        screen = PlaceScreen("read")
        async with asked(machine, screen) as places:
            await places.choose("mount:/dev/sdb1")
            await places.shown(Note, "No repository there")
            await places.pilot.press("enter")
            await places.shown(PlaceScreen, "No repository was found in it")
            (made,) = machine.destinations()
            chosen = Path(made.folder) / "deep" if inside else tmp_path / "elsewhere"
            screen.answer(Place(chosen, True, "", 1))
            await until(places.pilot, lambda: bool(places.answers))
            if inside:
                await places.pilot.pause(1)
                assert machine.destinations() == [made]
            else:
                await until(places.pilot, lambda: not machine.destinations())


def told(app: RecoveryApp) -> list[str]:
    return [notification.message for notification in app._notifications]
