"""Every screen answers keys while a disk is dying, and while one does not answer at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.tui.lag import deafness
from tests.tui.support import jobs_in, says, screen_text, until
from tui.app import RecoveryApp
from tui.recorded import RecordedMachine, recorded_machine
from tui.recorded_format import find_recording
from tui.screens.home import HomeScreen
from tui.screens.menu import ENTRIES

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
