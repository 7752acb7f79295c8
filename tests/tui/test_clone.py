"""A disk is copied by a person at the screen; judged by sfdisk, e2fsck and the bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, OptionList

from tests.support.disks import MIB, run, sfdisk_json, sha256, umount
from tests.tui.restoring import agree, agree_and_stop, through_work, until_plan
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
from tui.screens.job import ResultScreen
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


async def test_a_copy_that_is_stopped_says_in_what_state_the_disk_is(world: World) -> None:
    before = [sha256(world.disk(name)) for name in (OLD, NEW)]
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_targets(pilot, app)
        await choose(pilot, TargetScreen, NEW)
        await until_plan(pilot)
        said = await agree_and_stop(pilot, NEW)
    assert "It was stopped before its end" in said
    after = [sha256(world.disk(name)) for name in (OLD, NEW)]
    assert after[0] == before[0]
    assert ("untouched" in said) == (after[1] == before[1])


async def test_a_copy_that_fails_midway_says_so_and_in_what_state_the_disk_is(world: World, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small)
    try:
        run("truncate", "-s", "128M", small / NEW)
        world.disk(NEW).unlink()
        world.disk(NEW).symlink_to(small / NEW)
        before = sha256(world.disk(OLD))
        app = app_for(world.machine())
        async with app.run_test(size=(80, 24)) as pilot:
            await until_targets(pilot, app)
            await choose(pilot, TargetScreen, NEW)
            await until_plan(pilot)
            (small / "other").write_bytes(b"x" * (20 * MIB))  # the disk takes 4 MiB, and then no more
            await agree(pilot, NEW)
            result = await reaches(pilot, ResultScreen)
            assert result.view.exit_code not in (0, 3), statics(pilot)
            said = " ".join(statics(pilot).split())
            assert "It did not work" in said
            assert "partly written" in said
        assert sha256(world.disk(OLD)) == before
    finally:
        umount(small)


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
