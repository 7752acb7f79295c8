"""A disk is copied by a person at the screen; judged by sfdisk, e2fsck and the bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, OptionList

from tests.support.disks import sfdisk_json, sha256
from tests.tui.restoring import agree, through_work, until_plan
from tests.tui.support import app_for, says, screen_text, statics, until
from tests.tui.world import (
    NEW,
    OLD,
    SMALL,
    World,
    choose,
    living_in,
    make_disks,
    reaches,
    running,
    same_filesystem,
    sound,
)
from tui.app import RecoveryApp
from tui.clone import CloneJourney
from tui.screens.finished import FinishedScreen
from tui.screens.target import SourceScreen, TargetScreen

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_disks(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(made: World, tmp_path: Path) -> Iterator[World]:
    with living_in(made, tmp_path) as there:
        yield there


async def until_targets(pilot: Pilot[None], app: RecoveryApp) -> None:
    """From the first screen to the choice of the target, with ``OLD`` as the source."""
    await until(pilot, lambda: app.reports is not None)
    app.begin(lambda: CloneJourney(app).run())
    await choose(pilot, SourceScreen, OLD)
    await reaches(pilot, TargetScreen)


async def test_a_disk_is_copied_onto_a_larger_one_and_stays_as_it_is(world: World) -> None:
    before = sha256(world.disk(OLD))
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_targets(pilot, app)
        await choose(pilot, TargetScreen, NEW)
        review = await until_plan(pilot)
        assert app.focused is review.query_one("#back")
        assert says(pilot, "Afterwards, from disk old.img", "will be lost")(), screen_text(pilot)
        await agree(pilot, NEW)
        await through_work(pilot)
        await reaches(pilot, FinishedScreen)
        assert "new.img and old.img now hold the same" in statics(pilot)
    assert sha256(world.disk(OLD)) == before
    assert sfdisk_json(world.disk(NEW))["id"] == sfdisk_json(world.disk(OLD))["id"]
    sound(world.disk(NEW))
    assert same_filesystem(world.disk(OLD), world.disk(NEW))


async def test_the_source_and_a_smaller_disk_cannot_be_chosen_as_targets(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_targets(pilot, app)
        await until(pilot, says(pilot, "It fits", "It is the disk that is copied", "too small"))
        rows = app.screen.query(OptionList).first()
        assert {Path(option.id or "").name for option in rows.options if option.disabled} == {OLD, SMALL}


async def test_a_source_that_is_another_disk_by_now_is_not_copied(world: World, tmp_path: Path) -> None:
    before = sha256(world.disk(NEW))
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_targets(pilot, app)
        shutil.copyfile(world.disk(OLD), tmp_path / "another.img")
        (tmp_path / "another.img").replace(world.disk(OLD))
        await choose(pilot, TargetScreen, NEW)
        await until(pilot, says(pilot, "Nothing was written", "no longer", "file id was"))
        assert app.screen.query_one("#start", Button).disabled
    assert sha256(world.disk(NEW)) == before


async def test_going_back_from_the_review_ends_the_job_and_writes_nothing(world: World) -> None:
    before = sha256(world.disk(NEW))
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_targets(pilot, app)
        await choose(pilot, TargetScreen, NEW)
        await until_plan(pilot)
        assert running()
        await pilot.press("escape")
        await reaches(pilot, TargetScreen)
        assert not running()
    assert sha256(world.disk(NEW)) == before
