"""Every screen answers keys while a disk is dying, and while one does not answer at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button

from tests.tui.lag import deafness
from tests.tui.support import jobs_in, says, screen_text, until
from tests.tui.world import choose, reaches
from tui.app import RecoveryApp
from tui.recorded import RecordedMachine, recorded_machine
from tui.recorded_format import find_recording
from tui.rescue import WayScreen
from tui.screens.browse import BrowseScreen
from tui.screens.capture_review import CaptureReview
from tui.screens.disks import DisksScreen
from tui.screens.health import DisksScreen as ListOfDisks
from tui.screens.home import HomeScreen
from tui.screens.job import JobScreen, ResultScreen
from tui.screens.menu import ENTRIES
from tui.screens.password import NewPasswordScreen
from tui.screens.place import PlaceScreen
from tui.screens.rescue_places import OpenScreen
from tui.screens.tools import ToolsScreen
from tui.widgets.disk_list import DiskList

pytestmark = pytest.mark.asyncio

#: What a key may wait for a disk or anything else; what Textual computes for a new screen comes on top (30-50 ms).
_SECONDS = 0.1


@pytest.fixture(params=["dying", "hanging"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordedMachine]:
    recording = find_recording(Path("dying-disk"))
    if request.param == "hanging":
        told = json.loads(recording.read_bytes())
        told["disks"][0]["faults"] = {"hangs_after_bytes": 0}
        recording = tmp_path / "hanging.json"
        recording.write_text(json.dumps(told))
    with jobs_in(tmp_path / "jobs"), recorded_machine(recording, tmp_path / "machine") as made:
        yield made


async def test_every_screen_answers_a_key_at_once(machine: RecordedMachine) -> None:
    app = RecoveryApp(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "What do you want to do"))
        async with deafness() as found:
            for number in range(len(ENTRIES)):
                await visit(pilot, number)
            await until(pilot, says(pilot, "disks were found"))
    assert found.heard > len(ENTRIES)
    print(f"deaf for {found.longest_seconds:.3f} s at most, held up for {found.held_seconds:.3f} s of it")
    assert found.held_seconds < _SECONDS


async def test_what_lies_behind_the_first_screens_answers_a_key_at_once(machine: RecordedMachine) -> None:
    hanging = machine.recording.disks[0].faults.hangs_after_bytes is not None
    app = RecoveryApp(machine)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, says(pilot, "disks were found"))
        async with deafness() as found:
            await tools(pilot)
            if not hanging:
                await files(pilot)
            await to_review(pilot, "sdb" if hanging else "sda")  # what does not answer cannot be marked
            if hanging:
                await pilot.press("tab", "f1", "escape", "escape", "escape")  # the second does not wait for the job
            else:
                review = app.screen
                await until(pilot, lambda: not review.query_one("#start", Button).disabled)
                await pilot.press("tab", "tab", "tab", "tab")
                review.query_one("#start", Button).press()
                await reaches(pilot, JobScreen)
                await pilot.press("tab", "f1", "escape")
                await reaches(pilot, ResultScreen)
                await pilot.press("f1", "escape")
    print(f"deaf for {found.longest_seconds:.3f} s at most, held up for {found.held_seconds:.3f} s of it")
    assert found.held_seconds < _SECONDS


async def tools(pilot: Pilot[None]) -> None:
    """Each of them, and the health of the disk that is dying."""
    await pilot.press("end", "enter")
    for name in ("disks", "keyboard", "network", "logs", "clock"):
        await choose(pilot, ToolsScreen, name)
        await until(pilot, lambda: not isinstance(pilot.app.screen, ToolsScreen))
        if name == "disks":
            await choose(pilot, ListOfDisks, "sda")
            await until(pilot, lambda: not isinstance(pilot.app.screen, ListOfDisks))
            await pilot.press("down", "pagedown", "escape")
            await reaches(pilot, ListOfDisks)
        await pilot.press("tab", "f1", "escape", "escape")
    await reaches(pilot, ToolsScreen)
    await pilot.press("escape")
    await reaches(pilot, HomeScreen)


async def files(pilot: Pilot[None]) -> None:
    """Of the dying disk."""
    await pilot.press("home", "down", "down", "enter")
    await reaches(pilot, WayScreen)
    await pilot.press("down", "enter")
    await choose(pilot, OpenScreen, "/dev/sda3")
    await reaches(pilot, BrowseScreen)
    await pilot.press("down", "up", "tab", "f1", "escape", "escape")
    await reaches(pilot, OpenScreen)
    await pilot.press("escape", "escape")
    await reaches(pilot, HomeScreen)


async def to_review(pilot: Pilot[None], disk: str) -> None:
    """Of an image of that disk, on another disk, with a password."""
    await pilot.press("home", "down", "down", "enter")
    await reaches(pilot, WayScreen)
    await pilot.press("home", "enter")
    screen = await reaches(pilot, DisksScreen)
    disks = screen.query_one(DiskList)

    def is_marked() -> bool:
        """A disk that takes long to answer cannot be marked before it did."""
        if [report.disk.name for report in disks.marked] != [disk]:
            disks.mark([f"/dev/{disk}"])
        return says(pilot, f"To be saved: {disk}")()

    await until(pilot, is_marked)
    screen.query_one("#continue", Button).press()
    await choose(pilot, PlaceScreen, "/dev/sdc1")
    await reaches(pilot, NewPasswordScreen)
    await pilot.press("a", "enter", "a", "enter")
    await reaches(pilot, CaptureReview)


async def visit(pilot: Pilot[None], number: int) -> None:
    """Go into what the first screen offers there, press keys, and come back."""
    await pilot.press("home", *["down"] * number, "enter")
    await until(pilot, lambda: not isinstance(pilot.app.screen, HomeScreen))
    await pilot.press("down", "up", "tab", "f1")
    await until(pilot, says(pilot, "Help:"))
    await pilot.press("escape")
    await until(pilot, lambda: "Help:" not in screen_text(pilot))
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))
