"""Pictures of the real interface on the recorded laptop.  ``python -m tests.tui.pictures FOLDER``"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from textual.pilot import Pilot

from tests.support.pictures import without_web_fonts
from tests.tui.support import says, until
from tests.tui.world import choose, types
from tui.app import RecoveryApp
from tui.recorded import recorded_machine
from tui.screens.images import ImagesScreen
from tui.screens.job import JobScreen
from tui.screens.partition import WHOLE, PartScreen
from tui.screens.place import PlaceScreen
from tui.screens.target import TargetScreen

SIZE = (110, 32)
_SHOWN_PART = 0.4


async def draw(folder: Path) -> None:
    """The first screen, the review of a restore, and the work."""
    with recorded_machine(Path("laptop")) as machine:
        app = RecoveryApp(machine)
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, says(pilot, "disks were found", "Windows"))
            picture(pilot, folder / "tui-home.svg")
            await restore(pilot, folder)


async def restore(pilot: Pilot[None], folder: Path) -> None:
    """To the review, and on to the work; the disks are those of the recording."""
    await pilot.press("down", "enter")
    await choose(pilot, PlaceScreen, "sda1")
    await choose(pilot, ImagesScreen)
    await choose(pilot, PartScreen, WHOLE)
    await choose(pilot, TargetScreen, "nvme0n1")
    await until(pilot, says(pilot, "will be lost"))
    picture(pilot, folder / "tui-review.svg")
    pilot.app.screen.query_one("#typed").focus()
    await types(pilot, "nvme0n1")
    await pilot.press("enter")
    await until(pilot, lambda: _done(pilot) > _SHOWN_PART)
    picture(pilot, folder / "tui-work.svg")


def _done(pilot: Pilot[None]) -> float:
    """How much of the phase that writes is done, 0 to 1."""
    screen = pilot.app.screen
    now = screen.view.progress if isinstance(screen, JobScreen) and screen.view is not None else None
    return (now.ratio or 0.0) if now is not None and now.phase == "write" else 0.0


def picture(pilot: Pilot[None], place: Path) -> None:
    """What the terminal shows now."""
    place.write_text(without_web_fonts(pilot.app.export_screenshot()))


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1])))
