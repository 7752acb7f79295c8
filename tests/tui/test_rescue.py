"""Save files from a broken disk, driven by keys: what cannot be read is named, and the source is never written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from recovery.destination import Destination, looks_like_repository
from tests.support.badblocks import with_bad_blocks
from tests.support.disks import MIB, loop, mounted, sha256
from tests.support.hanging_child import hanging
from tests.support.images import PARTITION_START, gpt_disk
from tests.tui.restoring import stop
from tests.tui.support import FileMachine, app_for, jobs_in, says, until
from tests.tui.world import choose, reaches, running
from tui.job_view import JobView
from tui.rescue import WayScreen
from tui.screens.browse import BrowseScreen
from tui.screens.capture_review import CaptureReview
from tui.screens.copy_review import CopyReview
from tui.screens.disks import DisksScreen
from tui.screens.home import HomeScreen
from tui.screens.job import JobScreen, ResultScreen
from tui.screens.password import NewPasswordScreen
from tui.screens.place import PlaceScreen
from tui.screens.rescue_places import CopyToScreen, OpenScreen
from tui.screens.salvage import BrokenDiskScreen, KindScreen, SalvageReview
from tui.widgets.disk_list import DiskList

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and captures disks, which only root may"),
]

SIZE, PARTITION = 48 * MIB, 32 * MIB


class MountingMachine(FileMachine):
    """A machine of image files that can mount the first partition of each."""

    def __init__(self, folder: Path, media: Path, stick: Destination) -> None:
        super().__init__(folder, [stick])
        self.media = media
        self.given_back: list[Path] = []

    def mount(self, device: Path, *, read_only: bool = False, unclean: bool = False) -> Destination:
        assert read_only
        made = Destination(str(device), str(self.media), "ext4", "", PARTITION, MIB, True, ())
        self._mounted.append(made)
        return made

    def unmount(self, folder: Path) -> None:
        self.given_back.append(folder)


@contextmanager
def stick(folder: Path) -> Iterator[Destination]:
    folder.mkdir()
    yield Destination("/dev/sdx1", str(folder), "ext4", "stick", 1 << 40, 1 << 36, False, ())


async def test_files_are_copied_off_a_filesystem_that_is_only_read(tmp_path: Path) -> None:
    disks = tmp_path / "disks"
    disks.mkdir()
    disk = gpt_disk(disks / "sda.img", SIZE, PARTITION, content_mib=2)
    before = sha256(disk)
    with (
        stick(tmp_path / "stick") as place,
        loop(disk, offset=PARTITION_START, size=PARTITION, read_only=True) as device,
        mounted(device, tmp_path / "media", "ro,noload") as media,
        jobs_in(tmp_path / "jobs"),
    ):
        machine = MountingMachine(disks, media, place)
        async with app_for(machine).run_test(size=(80, 24)) as pilot:
            app = pilot.app
            await until(pilot, says(pilot, "sda.img"))
            await pilot.press("down", "down", "enter")
            await until(pilot, lambda: isinstance(app.screen, WayScreen))
            await pilot.press("down", "enter")
            await until(pilot, lambda: isinstance(app.screen, OpenScreen))
            await until(pilot, says(pilot, "sda.img1"))
            places = app.screen.query_one("#places", OptionList)
            places.highlighted = [option.id for option in places.options].index(f"mount:{disk}1")
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, BrowseScreen))
            await until(pilot, says(pilot, "folder/", "text"))
            files = app.screen.query_one("#files", OptionList)
            files.highlighted = next(n for n, row in enumerate(files.options) if "folder/" in str(row.prompt))
            await pilot.press("enter")
            await until(pilot, says(pilot, "In: folder", "random-1"))
            await pilot.press("backspace")
            await until(pilot, says(pilot, "the top folder"))
            await pilot.press("space")
            await until(pilot, says(pilot, "Marked: 2 files"))
            await pilot.press("tab", "tab", "enter")
            await until(pilot, lambda: isinstance(app.screen, CopyToScreen))
            await until(pilot, says(pilot, "Cannot be chosen: It is on a disk that is to be saved itself"))
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, CopyReview))
            await until(pilot, says(pilot, "2 files, 2.00 MiB"))
            assert not (tmp_path / "stick/saved-files").exists()
            await pilot.press("tab", "enter")
            await until(pilot, lambda: isinstance(app.screen, ResultScreen))
            await until(pilot, says(pilot, "All of the files were copied"))
            await pilot.press("enter")
            await until(pilot, lambda: machine.given_back == [media])
        copied = tmp_path / "stick/saved-files/folder"
        assert sorted(path.name for path in copied.iterdir()) == ["random-0", "random-1"]
        for path in copied.iterdir():
            assert path.read_bytes() == (media / "folder" / path.name).read_bytes()
    assert sha256(disk) == before


async def test_files_are_saved_off_a_disk_whose_table_and_superblock_are_gone(tmp_path: Path) -> None:
    disks = tmp_path / "disks"
    disks.mkdir()
    disk = gpt_disk(disks / "sda.img", SIZE, PARTITION, content_mib=2)
    files = {path.name: path.read_bytes() for path in (disks / "sda.img.files/folder").iterdir()}
    shutil.rmtree(disks / "sda.img.files")
    with disk.open("r+b") as file:
        for place in (0, SIZE - 34 * 512, PARTITION_START):
            file.seek(place)
            file.write(bytes(34 * 512))
    before = sha256(disk)
    with stick(tmp_path / "stick") as place, jobs_in(tmp_path / "jobs"):
        async with app_for(FileMachine(disks, [place])).run_test(size=(80, 24)) as pilot:
            app = pilot.app
            await until(pilot, says(pilot, "sda.img"))
            await pilot.press("down", "down", "enter")
            await until(pilot, lambda: isinstance(app.screen, WayScreen))
            await pilot.press("down", "down", "enter")
            await until(pilot, lambda: isinstance(app.screen, BrokenDiskScreen))
            await until(pilot, lambda: bool(app.screen.query_one("#list", DiskList).highlighted is not None))
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, KindScreen))
            await pilot.press("enter")
            await choose(pilot, CopyToScreen, "sdx1")
            await until(pilot, lambda: isinstance(app.screen, SalvageReview))
            await until(pilot, says(pilot, "To be saved: All files", "is not known before"))
            assert not (tmp_path / "stick/saved-files").exists()
            await pilot.press("tab", "enter")
            await until(pilot, lambda: isinstance(app.screen, ResultScreen))
            await until(pilot, says(pilot, "All files that were found are whole", "Damaged: 0", "its copies was used"))
    (saved,) = (tmp_path / "stick/saved-files").rglob("folder")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == files
    assert sha256(disk) == before


@contextmanager
def silent(tmp_path: Path) -> Iterator[MountingMachine]:
    """A machine with a disk that is opened by way of a folder with one file, which stops answering after 1 MiB."""
    disks = tmp_path / "disks"
    disks.mkdir()
    gpt_disk(disks / "sda.img", SIZE, PARTITION, content_mib=2)
    (tmp_path / "precious").write_bytes(b"x" * 4 * MIB)
    with (
        stick(tmp_path / "stick") as place,
        hanging(tmp_path / "precious", MIB, 2 * MIB) as file,
        jobs_in(tmp_path / "jobs"),
    ):
        yield MountingMachine(disks, file.parent, place)


async def until_copying(pilot: Pilot[None]) -> JobScreen:
    """From the first screen to the work, all files of the first disk chosen."""
    await until(pilot, says(pilot, "sda.img"))
    await pilot.press("down", "down", "enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, WayScreen))
    await pilot.press("down", "enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, OpenScreen))
    await choose(pilot, OpenScreen, "sda.img1")
    await until(pilot, lambda: isinstance(pilot.app.screen, BrowseScreen))
    await until(pilot, says(pilot, "4.00 MiB"))
    await pilot.press("space", "tab", "tab", "enter")
    await choose(pilot, CopyToScreen, "sdx1")
    await until(pilot, lambda: isinstance(pilot.app.screen, CopyReview))
    await until(pilot, says(pilot, "1 file, 4.00 MiB"))
    await pilot.press("tab", "enter")
    return await reaches(pilot, JobScreen)


async def test_copying_from_a_disk_that_stops_answering_says_so_and_can_be_left(tmp_path: Path) -> None:
    with silent(tmp_path) as machine:
        async with app_for(machine).run_test(size=(80, 24)) as pilot:
            screen = await until_copying(pilot)
            await until(pilot, lambda: screen.view is not None and screen.view.progress is not None)
            await until(pilot, says(pilot, "It waits for the disk that is read"))
            await stop(pilot)
            await until(pilot, says(pilot, "It was told to stop", "Stop at once ..."))
            await pilot.press("s")
            await until(pilot, says(pilot, "Stop it at once?"))
            await pilot.press("tab", "enter")
            await until(pilot, says(pilot, "It does not end, because a device does not answer", "can be left"))
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))
    await until(pilot, lambda: not running())  # the device is gone, and so is what waited for it
    assert not (tmp_path / "stick/saved-files/precious").read_bytes()[MIB:].strip(b"x")


async def test_an_image_of_a_disk_with_bad_sectors_names_what_is_lost(tmp_path: Path) -> None:
    original = gpt_disk(tmp_path / "sda.img", SIZE, PARTITION, content_mib=2)
    content = original.read_bytes()
    start = -(-content.index((tmp_path / "sda.img.files/folder/random-1").read_bytes()[:4096]) // 4096) * 4096
    with (
        stick(tmp_path / "stick") as place,
        with_bad_blocks(original, [start], tmp_path) as disk,
        jobs_in(tmp_path / "jobs"),
    ):
        async with app_for(FileMachine(disk.parent, [place])).run_test(size=(80, 24)) as pilot:
            app = pilot.app
            await until(pilot, says(pilot, "disk.img"))
            await pilot.press("down", "down", "enter")
            await until(pilot, lambda: isinstance(app.screen, WayScreen))
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, DisksScreen))
            await until(pilot, says(pilot, "No disk is marked"))
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, WayScreen))
            await pilot.press("enter")
            await until(pilot, says(pilot, "No disk is marked"))
            await pilot.press("space", "tab", "tab", "enter")
            await until(pilot, lambda: isinstance(app.screen, PlaceScreen))
            await until(pilot, says(pilot, "Make a new repository"))
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, NewPasswordScreen))
            await pilot.press("a", "enter", "a", "enter")
            await until(pilot, lambda: isinstance(app.screen, CaptureReview))
            await until(pilot, says(pilot, "[ ] Audit", "will be read"))
            await pilot.press("tab", "enter")
            await until(pilot, lambda: isinstance(app.screen, ResultScreen))
            await until(pilot, says(pilot, "incomplete", "4.00 KiB could not be read", "folder/random-1"))
            view = app.screen.view
            assert isinstance(view, JobView)
            assert view.summary is not None
    assert looks_like_repository(tmp_path / "stick/recovery")
    assert view.summary["unreadable_bytes"] == 4096
