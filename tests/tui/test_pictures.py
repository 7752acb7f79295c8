"""Pictures of a screen of each journey on the recorded laptop, at both sizes, compared with those that are kept.

``pytest tests/tui/test_pictures.py --snapshot-update`` draws them anew; look at what changed before it is kept.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.support import jobs_in, says, until
from tests.tui.world import choose, reaches
from tui.app import RecoveryApp
from tui.recorded import RecordedMachine, recorded_machine
from tui.screens.disks import DisksScreen
from tui.screens.images import ImagesScreen
from tui.screens.partition import WHOLE, PartScreen
from tui.screens.place import PlaceScreen
from tui.screens.target import TargetScreen
from tui.screens.tools import ToolsScreen

Compare = Callable[..., bool]
Road = Callable[[Pilot[None]], Awaitable[Any]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where made disks are kept from one test to the next."""
    return tmp_path_factory.mktemp("laptop")


@pytest.fixture
def machine(cache: Path, tmp_path: Path) -> Iterator[RecordedMachine]:
    with recorded_machine(Path("laptop"), tmp_path / "machine", cache) as made:
        yield made


@pytest.fixture(autouse=True)
def one_time_zone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    with jobs_in(tmp_path / "jobs"):
        yield
    monkeypatch.undo()
    time.tzset()


async def home(pilot: Pilot[None]) -> None:
    await until(pilot, says(pilot, "3 disks were found", "Windows"))


async def begin(pilot: Pilot[None], downs: int) -> None:
    await home(pilot)
    await pilot.press(*["down"] * downs, "enter")


async def capture(pilot: Pilot[None]) -> None:
    await begin(pilot, 0)
    await reaches(pilot, DisksScreen)
    await until(pilot, says(pilot, "To be saved: nvme0n1"))


async def restore(pilot: Pilot[None]) -> None:
    await begin(pilot, 1)
    await choose(pilot, PlaceScreen, "sda1")
    await choose(pilot, ImagesScreen)
    await choose(pilot, PartScreen, WHOLE)
    await reaches(pilot, TargetScreen)
    await until(pilot, says(pilot, "It fits"))


async def rescue(pilot: Pilot[None]) -> None:
    await begin(pilot, 2)
    await until(pilot, says(pilot, "What can be saved", "An image of the whole disk"))


async def look(pilot: Pilot[None]) -> None:
    await begin(pilot, 3)
    await choose(pilot, PlaceScreen, "sda1")
    await until(pilot, says(pilot, "anna-laptop"))


async def clone(pilot: Pilot[None]) -> None:
    await begin(pilot, 4)
    await until(pilot, says(pilot, "Step 1", "nvme0n1"))


async def tools(pilot: Pilot[None]) -> None:
    await begin(pilot, 5)
    await reaches(pilot, ToolsScreen)
    await until(pilot, says(pilot, "battery"))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize("road", [home, capture, restore, rescue, look, clone, tools], ids=lambda road: road.__name__)
def test_the_screen_is_as_it_was_drawn(
    road: Road, size: tuple[int, int], machine: RecordedMachine, snap_compare: Compare
) -> None:
    assert snap_compare(RecoveryApp(machine), terminal_size=size, run_before=road)
