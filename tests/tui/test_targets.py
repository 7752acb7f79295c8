"""The screens of a restore on their own: what hangs, what is offered where, what a list says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, OptionList

from recovery.devices.disk import Disk
from recovery.devices.health import Health
from recovery.errors import DeviceError
from recovery.image.manifest import ImageDisk, ImagePartition, LayoutRecord, Machine, Manifest
from recovery.jobs.watching import Watcher
from recovery.repository.repository import Repository
from recovery.units import GIB, MIB
from tests.support.disks import MIB as MEBIBYTE
from tests.support.disks import partitioned
from tests.support.repositories import fresh_repository
from tests.tui.support import FileMachine, app_for, jobs_in, says, screen_text, statics, until
from tui.app import RecoveryApp
from tui.images import Listing, StoredImage
from tui.job_words import plain_hint
from tui.machine import Leave
from tui.screens.base import BACK
from tui.screens.browse import BrowseScreen
from tui.screens.disks import PartitionsScreen
from tui.screens.finished import FinishedScreen
from tui.screens.images import ImagesScreen
from tui.screens.partition import PartScreen
from tui.screens.review import ReviewScreen
from tui.screens.target import TargetScreen
from tui.verdicts import is_dying


class SlowMachine(FileMachine):
    """One of its disks does not answer when it is asked whether it may be overwritten."""

    def __init__(self, folder: Path, slow: str) -> None:
        super().__init__(folder)
        self.slow = slow
        self.failing = ""
        self.answer = threading.Event()
        self.live = True
        self.left: list[Leave] = []

    def target_problems(self, disk: Disk, repository: Path | None, sources: Sequence[Disk] = ()) -> list[str]:
        if disk.name == self.slow:
            self.answer.wait(60)
        return super().target_problems(disk, repository, sources)

    def leave(self, how: Leave) -> None:
        self.left.append(how)

    def health(self, disk: Disk) -> Health:
        return Health(kind="ATA", passed=disk.name != self.failing, dying=disk.name == self.failing)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SlowMachine]:
    for name in ("one.img", "two.img"):
        partitioned(tmp_path / name, 16 * MEBIBYTE, "label: dos\nsize=8MiB, type=83\n")
    made = SlowMachine(tmp_path, "one.img")
    with jobs_in(tmp_path / "jobs"):
        yield made
    made.answer.set()


async def test_a_disk_that_hangs_holds_up_no_other(machine: SlowMachine) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.reports is not None)
        await app.push_screen(TargetScreen(lambda report: None, lambda report: "It fits."))
        await until(pilot, says(pilot, "It fits.", "It is being looked at"))
        rows = app.screen.query(OptionList).first()
        usable = [Path(option.id or "").name for option in rows.options if not option.disabled]
        assert usable == ["two.img"]
        machine.answer.set()
        await until(pilot, lambda: not any(option.disabled for option in rows.options))


async def test_a_disk_that_is_dying_is_the_last_and_another_is_advised(machine: SlowMachine) -> None:
    machine.slow, machine.failing = "", "one.img"
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: any(is_dying(report) for report in app.reports or ()))
        await app.push_screen(TargetScreen(lambda report: None, lambda report: "It fits."))
        await until(pilot, says(pilot, "Choose another if you can"))
        rows = app.screen.query(OptionList).first()
        assert [Path(option.id or "").name for option in rows.options] == ["two.img", "one.img"]
        assert rows.highlighted == 0


async def test_a_disk_that_images_were_seen_on_says_so_wherever_it_is_listed(machine: SlowMachine) -> None:
    machine.slow = ""
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.reports is not None)
        app.remember_images(
            next(r.disk for r in app.reports or () if r.disk.name == "two.img"), ["/media/store/recovery"]
        )
        await app.push_screen(TargetScreen(lambda report: None, lambda report: "It fits."))
        await until(pilot, says(pilot, "System images are kept on it: the repository /media/store/recovery."))


async def test_what_stands_behind_the_last_that_can_be_chosen_is_seen_too(machine: SlowMachine) -> None:
    machine.slow = ""
    for number in range(6):
        partitioned(machine.folder / f"more{number}.img", 16 * MEBIBYTE, "label: dos\nsize=8MiB, type=83\n")
    app = app_for(machine)
    small = "it is far too small"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.reports or ()) == 8)
        await app.push_screen(
            TargetScreen(lambda report: small if report.disk.name == "two.img" else None, lambda report: "It fits.")
        )
        await until(pilot, says(pilot, "It fits."))
        assert small not in screen_text(pilot)
        await pilot.press("end")
        await until(pilot, says(pilot, small))


async def test_a_partition_that_machines_start_from_is_left_out_with_a_warning(machine: SlowMachine) -> None:
    table = "label: gpt\nsize=4MiB, type=uefi\nsize=4MiB, type=linux\n"
    partitioned(machine.folder / "three.img", 16 * MEBIBYTE, table)
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.reports or ()) == 3)
        report = next(report for report in app.reports or () if report.disk.name == "three.img")
        await app.push_screen(PartitionsScreen(report, frozenset()))
        await pilot.press("down", "space")
        await until(pilot, says(pilot, "[ ] 2"))
        assert "does not start" not in screen_text(pilot)
        await pilot.press("up", "space")
        await until(pilot, says(pilot, "started from partition 1", "not start"))


async def test_an_empty_folder_is_said_to_be_empty(machine: SlowMachine, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(BrowseScreen(tmp_path / "inside"))
        await until(pilot, says(pilot, "This folder is empty."))
        await pilot.press("home", "space")
        await until(pilot, says(pilot, "There is nothing to copy in it"))


async def test_a_disk_that_is_plugged_in_appears(machine: SlowMachine) -> None:
    machine.slow = ""
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.reports is not None)
        await app.push_screen(TargetScreen(lambda report: None, lambda report: "It fits."))
        await until(pilot, says(pilot, "one.img", "two.img"))
        partitioned(machine.folder / "three.img", 16 * MEBIBYTE, "label: dos\nsize=8MiB, type=83\n")
        app.look()
        await until(pilot, says(pilot, "three.img"))


async def test_restart_and_switch_off_are_offered_in_the_live_system_only(machine: SlowMachine) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(FinishedScreen("sda", whole=True, starts=True, sound=True))
        await until(pilot, says(pilot, "Take out the stick"))
        app.screen.query_one("#reboot").focus()
        await pilot.press("space")
        await until(pilot, says(pilot, "Restart?"))
        assert machine.left == []
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, FinishedScreen))
        await pilot.click("#poweroff")
        await until(pilot, says(pilot, "Switch off?"))
        await pilot.click("#leave")
        await until(pilot, lambda: machine.left == ["poweroff"])
        machine.live = False
        await app.push_screen(FinishedScreen("sda", whole=True, starts=True, sound=True))
        await until(pilot, says(pilot, "Put sda into the machine"))
        assert [button.id for button in app.screen.query(Button)] == ["home"]


async def test_what_is_not_known_to_start_is_not_said_to(machine: SlowMachine) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(FinishedScreen("sdb", whole=True, starts=False, sound=False))
        await until(pilot, says(pilot, "Not everything on it is as it was", "holds no part that a machine starts"))
        assert "should start from sdb" not in screen_text(pilot)


def image(number: int, *, machine: str = "laptop", unreadable: int = 0, left_out: bool = False) -> StoredImage:
    """An image, a day older than the one before."""
    parts = [ImagePartition(1, MIB, GIB, "primary", "map", MIB), ImagePartition(2, 2 * GIB, GIB, "primary", "whole", 1)]
    if left_out:
        parts[1] = ImagePartition(2, 2 * GIB, GIB, "primary", "left-out", 0)
    disk = ImageDisk(
        "sda", "sda.img", "sda.domain", "sda.map", 4 * GIB, 512, 512, LayoutRecord(MIB, (), 0), MIB, unreadable,
        model="Samsung SSD 870", serial=f"S{number}", partitions=tuple(parts),
    )  # fmt: skip
    when = datetime(2026, 11, 20, 12, tzinfo=UTC) - timedelta(days=number)
    manifest = Manifest("1.0", when, "1", Machine(vendor="LENOVO", product="T480"), (disk,))
    return StoredImage(f"{number:064x}", machine, "LENOVO T480", when, GIB, bool(unreadable), manifest)


class Listed(ImagesScreen):
    """Shows a listing that the test made."""

    def __init__(self, repository: Repository, listing: Listing) -> None:
        super().__init__(repository)
        self.made = listing

    async def _read(self, newest: int | None) -> None:
        self.listing = self.made
        self.query_one("#narrow").display = True
        self.show(self.made)


async def listed(pilot: Pilot[None], app: RecoveryApp, folder: Path, listing: Listing) -> OptionList:
    await app.push_screen(Listed(fresh_repository(folder / "repository"), listing))
    await until(pilot, lambda: isinstance(app.screen, Listed) and bool(app.screen.query(OptionList).first().options))
    return app.screen.query(OptionList).first()


async def test_the_list_of_images_says_what_each_lacks(machine: SlowMachine) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        listing = Listing((image(0), image(1, unreadable=5 * MIB), image(2, left_out=True)), files=2, problems=("x",))
        await listed(pilot, app, machine.folder, listing)
        shown = " ".join(screen_text(pilot).split())
        assert "Incomplete: 5.00 MiB could not be read" in shown
        assert "Partition 2 of sda was left out" in shown
        assert "2 entries hold files" in statics(pilot)
        assert "Cannot be read: x" in statics(pilot)


async def test_a_long_list_of_images_is_narrowed_by_typing(machine: SlowMachine) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        images = (*(image(number) for number in range(8)), image(9, machine="server"))
        rows = await listed(pilot, app, machine.folder, Listing(images))
        assert [option.id for option in rows.options] == [found.id for found in images]
        app.screen.query_one("#narrow").focus()
        await pilot.press(*"server")
        await until(pilot, lambda: [option.id for option in rows.options] == [images[-1].id])
        await pilot.press("x")
        await until(pilot, says(pilot, "No image contains what was typed"))


async def test_a_plan_that_is_never_made_can_be_left(machine: SlowMachine) -> None:
    asked = threading.Event()

    def spawn() -> Watcher:
        asked.set()
        machine.answer.wait(60)
        raise DeviceError("it was too late", "Try again.")

    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        answers: list[object] = []
        await app.push_screen(ReviewScreen(spawn), answers.append)
        await until(pilot, asked.is_set)
        await pilot.press("escape")
        await until(pilot, says(pilot, "Going back"))
        assert answers == []
        await pilot.press("escape")
        await until(pilot, lambda: answers == [BACK])


async def test_a_job_that_cannot_be_started_is_told_with_what_to_do(machine: SlowMachine) -> None:
    def spawn() -> Watcher:
        raise DeviceError("the disk sdx does not answer", "Look at its cable.")

    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(ReviewScreen(spawn))
        await until(pilot, says(pilot, "Nothing was written", "The disk sdx does not answer.", "Look at its cable."))
        assert app.screen.query_one("#start", Button).disabled


async def test_space_chooses_as_enter_does(machine: SlowMachine) -> None:
    app = app_for(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        answers: list[str | None] = []
        record = image(0).manifest
        assert record is not None
        await app.push_screen(PartScreen(record.disks[0]), answers.append)
        await until(pilot, says(pilot, "Only partition 2"))
        await pilot.press("end", "space")
        await until(pilot, lambda: answers == ["2"])


@pytest.mark.parametrize(
    ("hint", "plain"),
    [
        ("Choose a target of at least that size, or restore single partitions.",) * 2,
        ("'recovery verify' says what is hit; --partial writes the rest.", ""),
        ("Free some space there. If that is meant, say so with --break-members.", "Free some space there."),
    ],
)
def test_hints_for_a_prompt_are_not_shown_on_a_screen(hint: str, plain: str) -> None:
    assert plain_hint(hint) == plain
