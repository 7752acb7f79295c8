"""A machine is restored by a person at the screen; judged by sfdisk, e2fsck and the bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList

from recovery.jobs.control import Order
from recovery.jobs.watching import attach
from tests.support.disks import run, sfdisk_json, sha256
from tests.support.images import PARTITION_START
from tests.support.members import lvm_member
from tests.tui.restoring import agree, agree_and_stop, through_work, until_plan
from tests.tui.support import app_for, says, screen_text, statics, until
from tests.tui.world import (
    NEW,
    OLD,
    SMALL,
    World,
    choose,
    living_in,
    make_world,
    reaches,
    running,
    same_filesystem,
    sound,
)
from tui.app import RecoveryApp
from tui.restore import RestoreJourney
from tui.screens.finished import FinishedScreen
from tui.screens.images import ImagesScreen
from tui.screens.overwrite import BreaksScreen, OverwriteReview
from tui.screens.partition import ImageDiskScreen, PartScreen, TargetPartitionScreen
from tui.screens.place import PlaceScreen
from tui.screens.target import TargetScreen
from tui.widgets.tick import Tick

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), OLD, before=(OLD, SMALL))


@pytest.fixture
def world(made: World, tmp_path: Path) -> Iterator[World]:
    with living_in(made, tmp_path) as there:
        yield there


async def until_review(pilot: Pilot[None], app: RecoveryApp, target: str = NEW, part: str = "whole") -> None:
    """From the first screen to the plan of restoring the image onto ``target``."""
    await until(pilot, lambda: app.reports is not None)
    app.begin(lambda: RestoreJourney(app).run())
    await choose(pilot, PlaceScreen, "recovery")
    await choose(pilot, ImagesScreen)
    await choose(pilot, PartScreen, part)
    await choose(pilot, TargetScreen, target)


async def test_a_whole_disk_is_restored_onto_a_larger_one(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app)
        review = await until_plan(pilot)
        assert app.focused is review.query_one("#back")
        assert says(pilot, "Now:", "Afterwards", "60.0 MiB", "40.0 MiB", "will be lost")(), screen_text(pilot)
        await agree(pilot, NEW)
        await through_work(pilot)
        await reaches(pilot, FinishedScreen)
    old, new = sfdisk_json(world.disk(OLD)), sfdisk_json(world.disk(NEW))
    assert new["id"] == old["id"]
    assert [(p["start"], p["size"], p["uuid"]) for p in new["partitions"]] == [
        (p["start"], p["size"], p["uuid"]) for p in old["partitions"]
    ]
    sound(world.disk(NEW))
    assert same_filesystem(world.disk(OLD), world.disk(NEW))
    run("sfdisk", "--verify", world.disk(NEW))


async def test_one_partition_is_restored_and_the_table_stays(world: World) -> None:
    before = sfdisk_json(world.disk(NEW))
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app, part="1")
        await choose(pilot, TargetPartitionScreen, "1")
        await until_plan(pilot)
        assert says(pilot, "partition 1 of new.img holds now will be lost")(), screen_text(pilot)
        await agree(pilot, NEW)
        await through_work(pilot)
        await reaches(pilot, FinishedScreen)
        assert "restart" not in statics(pilot).lower()
    assert sfdisk_json(world.disk(NEW)) == before
    sound(world.disk(NEW))
    assert same_filesystem(world.disk(OLD), world.disk(NEW))


async def test_a_target_that_is_too_small_cannot_be_chosen_and_says_by_how_much(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.reports is not None)
        app.begin(lambda: RestoreJourney(app).run())
        await choose(pilot, PlaceScreen, "recovery")
        await choose(pilot, ImagesScreen)
        await choose(pilot, PartScreen, "whole")
        await reaches(pilot, TargetScreen)
        await until(pilot, says(pilot, "It fits", "32.0 MiB less"))
        rows = app.screen.query(OptionList).first()
        assert {Path(option.id or "").name for option in rows.options if option.disabled} == {SMALL}
        await pilot.press("end")
        assert rows.highlighted_option is not None
        assert not (rows.highlighted_option.id or "").endswith(SMALL)


async def test_a_wrong_name_is_said_and_writes_nothing(world: World) -> None:
    before = sha256(world.disk(NEW))
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app)
        await until_plan(pilot)
        await agree(pilot, "old.img")
        await until(pilot, says(pilot, "Nothing was written: old.img is not its name"))
        app.screen.query_one("#typed", Input).value = ""
        await pilot.click("#start")
        await until(pilot, says(pilot, "Nothing was written: Nothing was typed"))
        assert isinstance(app.screen, OverwriteReview)
        assert running()
        app.screen.query_one("#back").focus()
        await pilot.press("enter")
        await reaches(pilot, TargetScreen)
        assert not running()
    assert sha256(world.disk(NEW)) == before


async def test_back_keeps_what_was_chosen(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app, part="1")
        await choose(pilot, TargetPartitionScreen, "1")
        review = await until_plan(pilot)
        review.query_one("#differential", Tick).focus()
        await pilot.press("space")
        await until(pilot, lambda: review.query_one("#start", Button).disabled)
        await until_plan(pilot)
        await pilot.press("escape")
        await reaches(pilot, TargetPartitionScreen)
        await pilot.press("escape")
        for kind, ending in ((TargetScreen, NEW), (PartScreen, "1"), (ImagesScreen, "")):
            await reaches(pilot, kind)
            await until(pilot, lambda: app.screen.query(OptionList).first().highlighted_option is not None)
            option = app.screen.query(OptionList).first().highlighted_option
            assert option is not None
            assert (option.id or "").endswith(ending)
            await pilot.press("escape")
        await choose(pilot, PlaceScreen, "recovery")
        await choose(pilot, ImagesScreen)
        await choose(pilot, PartScreen, "1")
        await choose(pilot, TargetScreen, NEW)
        await choose(pilot, TargetPartitionScreen, "1")
        review = await until_plan(pilot)
        assert review.query_one("#differential", Tick).on


async def test_a_disk_that_changed_places_with_another_is_not_overwritten(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.reports is not None)
        app.begin(lambda: RestoreJourney(app).run())
        await choose(pilot, PlaceScreen, "recovery")
        await choose(pilot, ImagesScreen)
        await choose(pilot, PartScreen, "whole")
        await reaches(pilot, TargetScreen)
        await until(pilot, says(pilot, "It fits"))
        other = world.disk(NEW).with_suffix(".other")
        run("cp", "--sparse=always", world.disk(NEW), other)
        other.replace(world.disk(NEW))
        before = sha256(world.disk(NEW))
        await choose(pilot, TargetScreen, NEW)
        review = await reaches(pilot, OverwriteReview)
        await until(pilot, says(pilot, "is not the one that you chose"))
        assert review.query_one("#start", Button).disabled
        assert not running()
    assert sha256(world.disk(NEW)) == before


async def test_a_member_of_a_volume_group_needs_its_own_agreement(world: World) -> None:
    run("wipefs", "--all", "--offset", "0x438", f"{world.disk(NEW)}", check=False)
    with world.disk(NEW).open("r+b") as disk:
        disk.seek(PARTITION_START)
        disk.write(bytes(64 << 10))
    lvm_member(world.disk(NEW), PARTITION_START)
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app)
        screen = await reaches(pilot, BreaksScreen)
        assert "LVM volume group" in statics(pilot)
        assert app.focused is screen.query_one("#back")
        await pilot.click("#accept")
        await until_plan(pilot)
        assert says(pilot, "This breaks more than the disk")(), screen_text(pilot)
        await pilot.press("escape")
        await reaches(pilot, BreaksScreen)


async def test_a_damaged_repository_is_told_and_gives_the_rest_when_asked(made: World, tmp_path: Path) -> None:
    with living_in(made, tmp_path, own_repository=True) as world:
        packs = sorted(world.repository.glob("data/*/*"), key=lambda path: path.stat().st_size)
        with packs[-1].open("r+b") as pack:
            pack.seek(100)
            pack.write(bytes(4096))
        before = sha256(world.disk(NEW))
        app = app_for(world.machine())
        async with app.run_test(size=(80, 24)) as pilot:
            await until_review(pilot, app)
            review = await reaches(pilot, OverwriteReview)
            await until(pilot, says(pilot, "Nothing was written", "cannot be had"))
            assert review.query_one("#start", Button).disabled
            assert "--" not in screen_text(pilot)
            assert sha256(world.disk(NEW)) == before
            review.query_one("#partial", Tick).focus()
            await pilot.press("space")
            await until_plan(pilot)
            await pilot.press("escape")
            await reaches(pilot, TargetScreen)


async def test_an_image_whose_description_is_lost_is_listed_and_cannot_be_chosen(made: World, tmp_path: Path) -> None:
    with living_in(made, tmp_path, own_repository=True) as world:
        for pack in world.repository.glob("data/*/*"):
            pack.unlink()
        app = app_for(world.machine())
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.reports is not None)
            app.begin(lambda: RestoreJourney(app).run())
            await choose(pilot, PlaceScreen, "recovery")
            await reaches(pilot, ImagesScreen)
            await until(pilot, says(pilot, "Cannot be chosen"))
            rows = app.screen.query(OptionList).first()
            assert [option.disabled for option in rows.options] == [True, True]


async def test_a_restore_that_is_stopped_says_in_what_state_the_disk_is(world: World) -> None:
    before = sha256(world.disk(NEW))
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app)
        await until_plan(pilot)
        said = await agree_and_stop(pilot, NEW)
    assert any(state in said for state in ("is untouched", "partly written", "written but not verified"))
    assert ("untouched" in said) == (sha256(world.disk(NEW)) == before)


async def test_a_job_that_dies_before_it_was_agreed_to_is_told_and_wrote_nothing(world: World) -> None:
    before = sha256(world.disk(NEW))
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app)
        review = await until_plan(pilot)
        (job,) = running()
        os.kill(job.pid, signal.SIGKILL)
        await until(pilot, says(pilot, "Nothing was written", "ended without a word"))
        assert review.query_one("#start", Button).disabled
        await pilot.press("escape")
        await reaches(pilot, TargetScreen)
    assert sha256(world.disk(NEW)) == before


async def test_a_plan_that_is_agreed_to_at_another_screen_goes_on_at_this_one(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app)
        await until_plan(pilot)
        (job,) = running()
        with attach(job) as other:
            other.order(Order("answer", NEW))
            while not other.ended:  # this screen does not come to look before it is over
                other.wait(0.1)
        await through_work(pilot)
    assert same_filesystem(world.disk(OLD), world.disk(NEW))


async def test_going_back_just_after_a_plan_was_agreed_to_elsewhere_shows_what_was_done(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until_review(pilot, app)
        review = await until_plan(pilot)
        (job,) = running()
        with attach(job) as other:
            other.order(Order("answer", NEW))
            while not other.ended:  # this screen does not come to look before the key is pressed
                other.wait(0.1)
        review.action_back()
        await through_work(pilot)
    assert same_filesystem(world.disk(OLD), world.disk(NEW))


async def test_the_disks_of_an_image_are_put_back_one_after_the_other(world: World) -> None:
    app = app_for(world.machine())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.reports is not None)
        app.begin(lambda: RestoreJourney(app).run())
        await choose(pilot, PlaceScreen, "recovery")
        await reaches(pilot, ImagesScreen)
        await until(pilot, lambda: app.screen.query(OptionList).first().option_count == 2)
        await pilot.press("down", "enter")
        await choose(pilot, ImageDiskScreen, "small")
        await choose(pilot, PartScreen, "whole")
        await choose(pilot, TargetScreen, NEW)
        await until_plan(pilot)
        await agree(pilot, NEW)
        await through_work(pilot)
        await reaches(pilot, FinishedScreen)
        assert "old" in statics(pilot)
        await pilot.click("#next")
        await reaches(pilot, ImageDiskScreen)
        assert says(pilot, "put back just now")(), screen_text(pilot)
    assert sfdisk_json(world.disk(NEW))["id"] == sfdisk_json(world.disk(SMALL))["id"]
    assert same_filesystem(world.disk(SMALL), world.disk(NEW))
