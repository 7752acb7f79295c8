"""Where to: disks that are mounted, erased or refused by the list of places, driven by keys on a recorded machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from recovery.destination import Destination, NotClosed
from recovery.devices.disk import Disk
from recovery.inventory import DiskReport
from recovery.surveyor import SILENT
from tests.support.images import MIB, gpt_disk
from tests.tui.support import FileMachine, app_for, says, until
from tui.machine import Machine
from tui.modals import Note, Question
from tui.recorded import RecordedMachine, recorded_machine
from tui.screens.base import BACK
from tui.screens.erase import EraseScreen, WhichDiskScreen
from tui.screens.folder import FolderScreen
from tui.screens.place import Place, PlaceScreen
from tui.widgets.disk_list import DiskList

pytestmark = pytest.mark.asyncio


#: A disk to be saved, an old stick, and a disc that the system was started from.
_RECORDING = {
    "about": "For tests.",
    "machine": {"hostname": "recovery", "product": "Small"},
    "disks": [
        {
            "name": name,
            "size_bytes": 64 * MIB,
            "model": "Model",
            "serial": name,
            "transport": "usb",
            "boot_medium": name == "sdc",
            "table": "gpt",
            "partitions": [
                {"type": "L", "size_bytes": 40 * MIB, "filesystem": {"kind": "ext4", "label": f"old-{name}"}},
                {"type": "L", "size_bytes": 8 * MIB},
            ],
        }
        for name in ("sda", "sdb", "sdc")
    ],
}


@contextmanager
def recorded(folder: Path, recording: dict[str, Any] = _RECORDING) -> Iterator[RecordedMachine]:
    """That machine."""
    file = folder / "small.json"
    file.write_text(json.dumps(recording))
    (folder / "machine").mkdir()
    with recorded_machine(file, folder / "machine") as machine:
        yield machine


class Asked:
    """A list of places, and what it gave."""

    def __init__(self, pilot: Pilot[None], screen: PlaceScreen) -> None:
        self.pilot, self.screen = pilot, screen
        self.answers: list[object] = []

    @property
    def on_top(self) -> object:
        return self.pilot.app.screen

    async def choose(self, key: str) -> None:
        """Choose the line of that name."""
        places = self.screen.query_one("#places", OptionList)
        await until(self.pilot, lambda: key in [option.id for option in places.options])
        places.highlighted = [option.id for option in places.options].index(key)
        await self.pilot.press("enter")

    async def shown(self, screen: type, *words: str) -> None:
        await until(self.pilot, lambda: isinstance(self.on_top, screen))
        await until(self.pilot, says(self.pilot, *words))


@asynccontextmanager
async def asked(machine: Machine, screen: PlaceScreen) -> AsyncIterator[Asked]:
    async with app_for(machine).run_test(size=(80, 24)) as pilot:  # type: ignore[arg-type]
        app = pilot.app
        await until(pilot, lambda: app.reports is not None)  # type: ignore[attr-defined]
        found = Asked(pilot, screen)

        async def ask() -> None:
            found.answers.append(await app.push_screen_wait(screen))

        app.begin(ask)  # type: ignore[attr-defined]
        await until(pilot, lambda: app.screen is screen)
        yield found


def sda(machine: Machine) -> list[Disk]:
    """What was chosen to be saved."""
    for _ in range(6):  # a busy machine may have to look more than once
        found = [report.disk for report in machine.survey() if report.disk.path == "/dev/sda"]
        if found:
            break
    return found


def partitions(machine: Machine) -> list[int]:
    """Of each disk, how many; a busy machine may have to look more than once."""
    for _ in range(6):
        reports = machine.survey()
        if not any(SILENT in report.findings for report in reports):
            break
    return [len(report.partitions) for report in reports]


async def test_a_disk_is_erased_only_by_its_name_and_becomes_the_place(tmp_path: Path) -> None:
    with recorded(tmp_path) as machine:
        async with asked(machine, PlaceScreen("store", kept_off=sda(machine))) as places:
            pilot = places.pilot
            await places.choose("erase")
            await places.shown(WhichDiskScreen, "it is to be saved", "this system was started from it")
            disks = places.pilot.app.screen.query_one(DiskList)
            assert [option.id for option in disks.options if not option.disabled] == ["/dev/sdb"]
            await pilot.press("enter")
            await places.shown(EraseScreen, "will be lost", "old-sdb", "Type sdb to erase it")
            assert pilot.app.focused is not None
            assert pilot.app.focused.id == "back"
            await pilot.press("tab", "enter")
            await places.shown(EraseScreen, "Its name was not typed", "Nothing was erased")
            await pilot.press(*"sda", "enter", "enter")
            await places.shown(EraseScreen, "sda is not its name")
            await pilot.press("escape")
            await places.shown(PlaceScreen)
            assert partitions(machine) == [2, 2, 2]
            await places.choose("erase")
            await places.shown(WhichDiskScreen, "sdb")
            await pilot.press("enter")
            await places.shown(EraseScreen, "Type sdb to erase it")
            pilot.app.screen.query_one("#name", Input).focus()
            await pilot.press(*"sdb", "enter", "enter")
            await until(pilot, lambda: bool(places.answers))
        (place,) = places.answers
        assert isinstance(place, Place)
        assert (place.folder.name, place.exists, place.device) == ("recovery", False, "/dev/sdb1")
        assert partitions(machine) == [2, 1, 2]


class UncleanMachine(FileMachine):
    """Its one filesystem was not closed cleanly."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.mended = False

    def destinations(self) -> list[Destination]:
        return []

    def mount(self, device: Path, *, read_only: bool = False, unclean: bool = False) -> Destination:
        if not unclean:
            raise NotClosed(f"{device}: it was not closed cleanly", "Mounting it writes to it.")
        self.mended = True
        return Destination(str(device), str(self.folder), "ext4", "", 1 << 40, 1 << 39, False, ())


async def test_what_was_not_closed_is_put_in_order_only_after_asking(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "sda.img", 32 * MIB, 16 * MIB, content_mib=1)
    machine = UncleanMachine(tmp_path)
    async with asked(machine, PlaceScreen("store")) as places:
        await places.choose(f"mount:{disk}1")
        await places.shown(Question, "was not closed cleanly", "do not")
        await places.pilot.press("enter")  # Cancel has the focus
        await places.shown(PlaceScreen)
        assert not machine.mended
        await places.choose(f"mount:{disk}1")
        await places.shown(Question, "was not closed cleanly")
        await places.pilot.press("tab", "enter")
        await until(places.pilot, lambda: bool(places.answers))
    assert machine.mended
    assert places.answers == [Place(tmp_path / "recovery", False, f"{disk}1", 1 << 39)]


async def test_a_filesystem_of_a_disk_that_took_the_place_of_the_one_asked_about_is_not_touched(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "sda.img", 32 * MIB, 16 * MIB, content_mib=1)
    machine = UncleanMachine(tmp_path)
    async with asked(machine, PlaceScreen("store")) as places:
        await places.choose(f"mount:{disk}1")
        await places.shown(Question, "was not closed cleanly")
        shutil.copyfile(disk, tmp_path / "another")
        (tmp_path / "another").replace(disk)
        places.pilot.app.look()  # type: ignore[attr-defined]
        await places.pilot.press("tab", "enter")
        await places.shown(Note, "This did not work", "no longer", "file id was")
    assert not machine.mended


async def test_a_folder_that_is_no_repository_is_not_read_from(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    async with asked(FileMachine(tmp_path), PlaceScreen("read")) as places:
        pilot = places.pilot
        await places.choose("folder")
        await places.shown(FolderScreen)
        await pilot.press(*str(tmp_path / "empty"), "enter")
        await places.shown(FolderScreen, "It is no repository")
        await pilot.press("escape")
        await places.shown(PlaceScreen)
        await pilot.press("escape")
        await until(pilot, lambda: places.answers == [BACK])


async def test_a_filesystem_without_a_repository_is_said_to_have_none(tmp_path: Path) -> None:
    with recorded(tmp_path) as machine:
        async with asked(machine, PlaceScreen("read")) as places:
            await places.choose("mount:/dev/sda1")
            await places.shown(Note, "No repository was found on sda1")
            await places.pilot.press("enter")
            await places.shown(PlaceScreen, "Cannot be chosen: No repository was found in it")


async def test_a_filesystem_on_a_disk_that_is_saved_is_no_place_although_it_is_mounted(tmp_path: Path) -> None:
    with recorded(tmp_path) as machine:
        machine.mount(Path("/dev/sda1"))
        machine.mount(Path("/dev/sdb1"), read_only=True)
        async with asked(machine, PlaceScreen("store", kept_off=sda(machine))) as places:
            await places.shown(PlaceScreen, "a disk that is to be saved itself", "mounted for reading only")
            options = places.screen.query_one("#places", OptionList).options
            assert {option.id for option in options if option.disabled} == {"new:/dev/sda1", "mount:/dev/sdc1"}
            await places.choose("mount:/dev/sdb1")
            await until(places.pilot, lambda: bool(places.answers))
        (place,) = places.answers
        assert isinstance(place, Place)
        assert place.device == "/dev/sdb1"
        assert [made.read_only for made in machine.destinations()] == [False, False]


async def test_a_disk_to_be_saved_that_is_plugged_in_again_under_another_name_is_not_offered(tmp_path: Path) -> None:
    recording = json.loads(json.dumps(_RECORDING))
    again = {**recording["disks"][0], "name": "sdd", "plugged": False}
    recording["disks"].append(again)
    with recorded(tmp_path, recording) as machine:
        saved = sda(machine)
        async with asked(machine, PlaceScreen("store", kept_off=saved)) as places:
            await places.shown(PlaceScreen, "sdb1")
            await asyncio.to_thread(machine.unplug, "sda")
            await asyncio.to_thread(machine.plug, "sdd")
            options = places.screen.query_one("#places", OptionList)
            await until(
                places.pilot, lambda: "mount:/dev/sdd1" in [entry.id for entry in options.options if entry.disabled]
            )
            assert "mount:/dev/sdb1" in [option.id for option in options.options if not option.disabled]
            await places.choose("erase")
            await places.shown(WhichDiskScreen, "it is to be saved", "this system was started from it")
            disks = places.pilot.app.screen.query_one(DiskList)
            assert [option.id for option in disks.options if not option.disabled] == ["/dev/sdb"]


async def test_a_disk_with_too_little_room_says_so_before_it_is_mounted(tmp_path: Path) -> None:
    with recorded(tmp_path) as machine:
        async with asked(machine, PlaceScreen("store", needed_bytes=1 << 40)) as places:
            await places.shown(PlaceScreen, "sdb1: ext4", "perhaps too small for the 1.00 TiB in use")


class LateMachine(UncleanMachine):
    """The disks are found when the test lets them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go_on = threading.Event()

    def survey(self) -> list[DiskReport]:
        self.go_on.wait(60)
        return super().survey()


async def test_the_pointer_goes_to_the_first_disk_as_soon_as_disks_are_known(tmp_path: Path) -> None:
    machine = LateMachine(tmp_path)
    async with app_for(machine).run_test(size=(80, 24)) as pilot:
        screen = PlaceScreen("store")
        pilot.app.push_screen(screen)
        await until(pilot, says(pilot, "Another folder", "Looking at the disks"))
        await pilot.press("enter")
        assert pilot.app.screen is screen
        machine.go_on.set()
        places = screen.query_one("#places", OptionList)
        await until(pilot, lambda: places.highlighted_option is not None)
        assert places.highlighted_option is not None
        assert places.highlighted_option.id == "erase"
        disk = gpt_disk(tmp_path / "sda.img", 32 * MIB, 16 * MIB, content_mib=1)
        pilot.app.look()  # type: ignore[attr-defined]
        await until(pilot, says(pilot, "sda.img1"))
        assert places.highlighted_option.id == f"mount:{disk}1"


class SlowMachine(UncleanMachine):
    """Mounting takes until the test lets it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go_on = threading.Event()

    def mount(self, device: Path, *, read_only: bool = False, unclean: bool = False) -> Destination:
        self.go_on.wait(60)
        return super().mount(device, read_only=read_only, unclean=True)


async def test_the_list_can_be_left_while_a_filesystem_is_being_mounted(tmp_path: Path) -> None:
    disk = gpt_disk(tmp_path / "sda.img", 32 * MIB, 16 * MIB, content_mib=1)
    machine = SlowMachine(tmp_path)
    async with asked(machine, PlaceScreen("store")) as places:
        await places.choose(f"mount:{disk}1")
        await places.shown(PlaceScreen, "Mounting sda.img1")
        await places.pilot.press("escape")
        await until(places.pilot, lambda: places.answers == [BACK])
        machine.go_on.set()
        await until(places.pilot, lambda: machine.mended)
        await places.pilot.press("f1")
        await until(places.pilot, says(places.pilot, "Help"))
        assert places.answers == [BACK]
