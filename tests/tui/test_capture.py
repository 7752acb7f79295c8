"""Capture this machine, driven by keys: real disks' images, a real repository, real jobs; restic judges the image."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList

from recovery.destination import Destination
from recovery.jobs.folder import list_jobs
from recovery.repository.repository import Repository
from tests.support.disks import KIB, MIB, blank, loop, mounted, partitioned, run
from tests.support.faulty_disk import Faults, faulty_disk
from tests.support.images import PASSWORD, domain_ranges, equal_where, gpt_disk, restic
from tests.support.program import recovery
from tests.support.restic import restic_binaries
from tests.tui.support import FileMachine, app_for, jobs_in, says, screen_text, statics, until
from tui.modals import Question
from tui.screens.capture_review import CaptureReview
from tui.screens.disks import DisksScreen, PartitionsScreen
from tui.screens.earlier import EarlierScreen
from tui.screens.home import HomeScreen
from tui.screens.job import JobScreen, ResultScreen
from tui.screens.password import NewPasswordScreen, UnlockScreen
from tui.screens.place import PlaceScreen
from tui.widgets.disk_list import DiskList

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(os.geteuid() != 0, reason="captures disks, which only root may"),
]

RESTIC = restic_binaries()[-1]
SIZE, PARTITION = 48 * MIB, 32 * MIB


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two disks with ext4."""
    folder = tmp_path_factory.mktemp("disks")
    gpt_disk(folder / "sda.img", SIZE, PARTITION, content_mib=2)
    gpt_disk(folder / "sdb.img", SIZE, PARTITION, seed=2, content_mib=2)
    return folder


@dataclass
class Bench:
    """The program on a machine with two disks and a stick that is mounted."""

    pilot: Pilot[None]
    machine: FileMachine
    stick: Path

    async def shown(self, screen: type, *words: str) -> None:
        """Wait until that screen is there, and shows these words."""
        await until(self.pilot, lambda: isinstance(self.pilot.app.screen, screen))
        await until(self.pilot, says(self.pilot, *words))

    def focused(self) -> str | None:
        """What has the focus."""
        found = self.pilot.app.focused
        return found.id if found is not None else None

    async def go_to(self, name: str) -> None:
        """Tab until that widget has the focus."""
        for _ in range(20):
            if self.focused() == name:
                return
            await self.pilot.press("tab")
        raise AssertionError(f"the keyboard does not reach {name}:\n{screen_text(self.pilot)}")

    async def to_places(self) -> None:
        """From the first screen over the disks."""
        await self.pilot.press("enter")
        await self.shown(DisksScreen, "To be saved: sda.img, sdb.img")
        await until(self.pilot, lambda: self.focused() == "continue")
        await self.pilot.press("enter")
        await self.shown(PlaceScreen, "sdx1")

    async def to_review(self, password: str = PASSWORD) -> None:
        """Over the places, with the first that is there, and a new password."""
        await self.to_places()
        await self.pilot.press("enter")
        await self.shown(NewPasswordScreen, "nobody can read the images")
        await self.pilot.press(*password.replace(" ", "_"), "enter", *password.replace(" ", "_"), "enter")
        await self.shown(CaptureReview, "will be stored")


def destination(folder: Path, *repositories: Path, read_only: bool = False) -> Destination:
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    return Destination(
        "/dev/sdx1", str(folder), "ext4", "stick", 2 * free, free, read_only, tuple(map(str, repositories))
    )


@asynccontextmanager
async def bench(disks: Path, stick: Path, *repositories: Path) -> AsyncIterator[Bench]:
    stick.mkdir(exist_ok=True)
    machine = FileMachine(disks, [destination(stick, *repositories)])
    with jobs_in(stick.parent / "jobs"):
        async with app_for(machine).run_test(size=(80, 24)) as pilot:
            await until(pilot, says(pilot, "sdb.img"))
            yield Bench(pilot, machine, stick)


def snapshots(repository: Path) -> list[Path]:
    return list((repository / "snapshots").iterdir())


async def test_from_the_first_screen_to_an_image_that_restic_gives_back(disks: Path, tmp_path: Path) -> None:
    before = {disk: hashlib.sha256(disk.read_bytes()).digest() for disk in disks.glob("*.img")}
    async with bench(disks, tmp_path / "stick") as screen:
        await screen.to_review()
        repository = screen.stick / "recovery"
        assert screen.focused() == "back"
        assert not snapshots(repository)
        await screen.go_to("start")
        await screen.pilot.press("enter")
        await screen.shown(ResultScreen, "The system image was made", "read back from the medium and is right")
        await screen.go_to("verify")
        await screen.pilot.press("enter")
        await screen.shown(ResultScreen, "The system image is in order")
        await screen.pilot.press("enter")
        await screen.shown(HomeScreen, "What do you want to do?")
    key = {"RESTIC_PASSWORD": PASSWORD.replace(" ", "_")}
    for disk, digest in before.items():
        dumped = tmp_path / disk.name
        dumped.write_bytes(restic(RESTIC, repository, "dump", "latest", f"/{disk.name}", more=key).stdout)
        domain = restic(RESTIC, repository, "dump", "latest", f"/{disk.stem}.domain", more=key).stdout.decode()
        assert equal_where(disk, dumped, domain_ranges(domain))
        assert hashlib.sha256(disk.read_bytes()).digest() == digest


async def test_an_image_that_was_begun_before_is_completed_when_that_is_wanted(disks: Path, tmp_path: Path) -> None:
    (tmp_path / "disks").mkdir()
    disk, stick = tmp_path / "disks/sda.img", tmp_path / "stick"
    disk.write_bytes((disks / "sda.img").read_bytes())
    repository = stick / "recovery"
    recovery("init", "--no-password", repository=repository)
    with faulty_disk(Faults(str(disk), unreadable=((40 * MIB, 64 * KIB),))) as source:
        recovery("capture", source, "--no-password", "--patience", "0", repository=repository, status=3)
    assert len(snapshots(repository)) == 1
    machine = FileMachine(tmp_path / "disks", [destination(stick, repository)])
    with jobs_in(tmp_path / "jobs"):
        async with app_for(machine).run_test(size=(80, 24)) as pilot:
            screen = Bench(pilot, machine, stick)
            await until(pilot, says(pilot, "sda.img"))
            await pilot.press("enter")
            await screen.shown(DisksScreen, "To be saved: sda.img")
            await until(pilot, lambda: screen.focused() == "continue")
            await pilot.press("enter")
            await screen.shown(PlaceScreen, "The repository")
            await pilot.press("enter")
            await screen.shown(EarlierScreen, "lacks", "Complete it", "Make a new image")
            await pilot.press("enter")
            await screen.shown(CaptureReview, "will be stored")
            await screen.go_to("start")
            await pilot.press("enter")
            await screen.shown(ResultScreen, "The system image was made")
    assert len(snapshots(repository)) == 2
    dumped = tmp_path / "dumped"
    name = f"{source.name}.img"
    bare = ["--insecure-no-password", "dump", "latest"]
    dumped.write_bytes(restic(RESTIC, repository, *bare, f"/{name}", more={"RESTIC_PASSWORD": ""}).stdout)
    domain = restic(RESTIC, repository, *bare, f"/{source.name}.domain", more={"RESTIC_PASSWORD": ""})
    assert equal_where(disk, dumped, domain_ranges(domain.stdout.decode()))


async def test_a_capture_that_is_stopped_makes_no_image_and_says_so(disks: Path, tmp_path: Path) -> None:
    async with bench(disks, tmp_path / "stick") as screen:
        await screen.to_review()
        (job,) = list_jobs()
        assert job.pid is not None
        os.kill(job.pid, signal.SIGSTOP)  # so that it is in the middle of it however quick it is
        try:
            await screen.go_to("start")
            await screen.pilot.press("enter")
            await screen.shown(JobScreen)
            await screen.pilot.press("s")
            await screen.shown(Question, "Stop this work?", "image is made of this run")
            assert screen.focused() == "go"
            await screen.pilot.press("tab", "enter")
        finally:
            os.kill(job.pid, signal.SIGCONT)
        await screen.shown(ResultScreen, "It was stopped before its end")
        assert not snapshots(screen.stick / "recovery")
        assert not list((screen.stick / "recovery/locks").iterdir())


async def test_a_disk_that_is_another_one_by_now_is_not_saved(disks: Path, tmp_path: Path) -> None:
    async with bench(disks, tmp_path / "stick") as screen:
        await screen.to_places()
        shutil.copyfile(disks / "sda.img", tmp_path / "another.img")
        (tmp_path / "another.img").replace(disks / "sda.img")
        await screen.pilot.press("enter")
        await screen.shown(NewPasswordScreen)
        await screen.pilot.press("a", "enter", "a", "enter")
        await screen.shown(CaptureReview, "Nothing was written", "no longer", "file id was")
        assert not snapshots(screen.stick / "recovery")


async def test_back_keeps_what_was_chosen(disks: Path, tmp_path: Path) -> None:
    async with bench(disks, tmp_path / "stick") as screen:
        pilot = screen.pilot
        await pilot.press("enter")
        await screen.shown(DisksScreen, "To be saved: sda.img, sdb.img")
        await screen.go_to("list")
        await pilot.press("down", "space")
        await screen.shown(DisksScreen, "To be saved: sda.img;")
        await screen.go_to("continue")
        await pilot.press("enter")
        await screen.shown(PlaceScreen, "sdx1")
        await pilot.press("enter")
        await screen.shown(NewPasswordScreen)
        await pilot.press("a", "enter", "b", "enter")
        await screen.shown(NewPasswordScreen, "The two lines differ")
        await pilot.press("backspace", "a", "enter")
        await screen.shown(CaptureReview, "will be stored")
        await screen.go_to("audit")
        await pilot.press("space", "escape")
        await screen.shown(UnlockScreen, "protected by a password")
        assert pilot.app.screen.query_one("#password-0", Input).value == "a"
        await pilot.press("enter")
        await screen.shown(CaptureReview, "will be stored", "[x] Audit")
        await pilot.press("escape")
        await screen.shown(UnlockScreen)
        await pilot.press("escape")
        await screen.shown(PlaceScreen, "The repository")
        await pilot.press("escape")
        await screen.shown(DisksScreen, "To be saved: sda.img;")
        assert [report.disk.name for report in pilot.app.screen.query_one(DiskList).marked] == ["sda.img"]
        assert not snapshots(screen.stick / "recovery")


async def test_without_a_password_nothing_is_typed_and_the_screen_is_passed_over_later(
    disks: Path, tmp_path: Path
) -> None:
    async with bench(disks, tmp_path / "stick") as screen:
        await screen.to_places()
        await screen.pilot.press("enter")
        await screen.shown(NewPasswordScreen, "Whoever holds the disk can read everything on it")
        await screen.go_to("without")
        await screen.pilot.press("space")
        assert not screen.pilot.app.screen.query_one("#field").display
        await screen.go_to("make")
        await screen.pilot.press("enter")
        await screen.shown(CaptureReview, "will be stored")
        await screen.pilot.press("escape")
        await screen.shown(PlaceScreen, "The repository")
        await screen.pilot.press("enter")
        await screen.shown(CaptureReview, "will be stored")
        await screen.pilot.press("escape")
        await screen.shown(PlaceScreen)
    assert Repository.open(screen.stick / "recovery", "").snapshots() == ([], [])


async def test_a_disk_in_use_cannot_be_chosen_and_says_why(disks: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(disks, tmp_path / "disks", ignore=shutil.ignore_patterns("*.files")))
    with loop(own / "sda.img", offset=MIB, size=PARTITION) as device, mounted(device, tmp_path / "mounted"):
        async with bench(own, tmp_path / "stick") as screen:
            await screen.pilot.press("enter")
            await screen.shown(DisksScreen, "To be saved: sdb.img;", "Cannot be chosen: it is in use")
            options = screen.pilot.app.screen.query_one(DiskList)
            assert [option.disabled for option in options.options] == [True, False]


@contextmanager
def small_stick(folder: Path, size_bytes: int) -> Iterator[None]:
    image = blank(folder.with_suffix(".img"), size_bytes)
    run("mkfs.ext2", "-q", "-F", "-m0", "-N600", image)
    with loop(image) as device, mounted(device, folder):
        yield


async def test_what_does_not_fit_is_told_before_anything_is_stored(disks: Path, tmp_path: Path) -> None:
    with small_stick(tmp_path / "stick", 4 * MIB):
        async with bench(disks, tmp_path / "stick") as screen:
            await screen.to_places()
            await screen.shown(PlaceScreen, "Cannot be chosen: It is full")
            places = screen.pilot.app.screen.query_one("#places", OptionList)
            places.highlighted = [option.id for option in places.options].index("folder")
            await screen.pilot.press("enter", *f"{tmp_path}/stick/images", "enter")
            await screen.shown(NewPasswordScreen)
            await screen.pilot.press("a", "enter", "a", "enter")
            await screen.shown(CaptureReview, "cannot be done", "will be stored", "free")
            assert screen.pilot.app.screen.query_one("#start", Button).disabled
            assert not list((tmp_path / "stick/images/data").glob("*/*"))


async def test_a_wrong_password_is_told_and_what_was_typed_stays(disks: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    Repository.init(stick / "images", "right")
    async with bench(disks, stick, stick / "images") as screen:
        await screen.to_places()
        await screen.pilot.press("enter")
        await screen.shown(UnlockScreen, "protected by a password")
        await screen.pilot.press(*"wright", "enter")
        await screen.shown(UnlockScreen, "does not open it")
        line = screen.pilot.app.screen.query_one("#password-0", Input)
        assert (line.value, line.password) == ("wright", True)
        await screen.go_to("show")
        await screen.pilot.press("space")
        await screen.shown(UnlockScreen, "wright")
        assert "wright" not in repr(line)
        await screen.go_to("password-0")
        await screen.pilot.press("home", "delete", "enter")
        await screen.shown(CaptureReview, "will be stored")
        await screen.pilot.press("escape")


async def test_the_last_partition_that_is_marked_cannot_be_left_out(disks: Path, tmp_path: Path) -> None:
    two = tmp_path / "disks"
    two.mkdir()
    run("truncate", "-s", str(SIZE), two / "one.img")
    run("sfdisk", "--quiet", two / "one.img", input="label: gpt\nsize=8MiB, type=L\nsize=8MiB, type=L\n")
    partitioned(two / "sdb.img", SIZE, "label: gpt\nsize=8MiB, type=L\n")
    async with bench(two, tmp_path / "stick") as screen:
        pilot = screen.pilot
        await pilot.press("enter")
        await screen.shown(DisksScreen, "To be saved: one.img, sdb.img")
        assert pilot.app.screen.query_one("#partitions", Button).disabled
        await screen.go_to("list")
        await pilot.press("down", "space")
        await screen.shown(DisksScreen, "To be saved: one.img;")
        await screen.go_to("partitions")
        await pilot.press("enter")
        await screen.shown(PartitionsScreen, "[✓] 1", "[✓] 2")
        await pilot.press("space", "down", "space")
        await screen.go_to("done")
        await pilot.press("enter")
        await screen.shown(PartitionsScreen, "nothing to save")
        await screen.go_to("parts")
        await pilot.press("up", "space")
        await screen.go_to("done")
        await pilot.press("enter")
        await screen.shown(DisksScreen, "Left out: partition 2")


async def test_a_disk_that_is_plugged_in_appears_and_one_that_went_loses_its_mark(disks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disks"
    folder.mkdir()
    table = "label: gpt\nsize=8MiB, type=L\n"
    for name in ("sda.img", "sdb.img"):
        partitioned(folder / name, SIZE, table)
    async with bench(folder, tmp_path / "stick") as screen:
        await screen.pilot.press("enter")
        await screen.shown(DisksScreen, "To be saved: sda.img, sdb.img")
        partitioned(folder / "sdc.img", SIZE, table)
        (folder / "sda.img").unlink()
        screen.pilot.app.look()  # type: ignore[attr-defined]
        await screen.shown(DisksScreen, "sdc.img", "To be saved: sdb.img;")
        (folder / "sdc.img").replace(folder / "sdb.img")  # another one under its name
        screen.pilot.app.look()  # type: ignore[attr-defined]
        await screen.shown(DisksScreen, "sdb.img", "No disk is marked")


async def test_places_say_what_they_are_and_a_folder_can_be_typed(disks: Path, tmp_path: Path) -> None:
    async with bench(disks, tmp_path / "stick") as screen:
        pilot = screen.pilot
        await screen.to_places()
        places = pilot.app.screen.query_one("#places", OptionList)
        keys = [option.id for option in places.options]
        kept_off = [option.id for option in places.options if option.disabled]
        assert kept_off == [f"mount:{disks}/{name}.img1" for name in ("sda", "sdb")]
        places.highlighted = keys.index("folder")
        await pilot.press("enter", *"backup", "enter")
        await until(pilot, says(pilot, "must begin with /"))
        await pilot.press("home", *f"{tmp_path}/typed/", "enter")
        await screen.shown(NewPasswordScreen)
        assert f"{tmp_path}/typed/backup" in statics(pilot)
