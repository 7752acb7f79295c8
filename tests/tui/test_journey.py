"""A row of screens: forward, back with what was chosen, steps that are passed over, what cannot be gone back from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Static

from tests.tui.support import FileMachine, app_for, jobs_in, says, screen_text, until
from tui.journey import Journey, Step
from tui.screens.base import LEAVE, StepScreen
from tui.screens.home import HomeScreen

pytestmark = pytest.mark.asyncio


class Letter(StepScreen[str]):
    """Asks for one of two letters."""

    TITLE = "A letter"

    def __init__(self, chosen: str) -> None:
        super().__init__()
        self._chosen = chosen

    def body(self) -> Iterable[Any]:
        yield Static(f"Chosen before: {self._chosen or 'none'}", markup=False)

    def buttons(self) -> Iterable[Button]:
        yield Button("Back", id="back", compact=True)
        yield Button("A", id="a", compact=True)
        yield Button("B", id="b", compact=True)
        yield Button("Leave", id="leave", compact=True)

    def pressed(self, name: str) -> None:
        self.answer(LEAVE if name == "leave" else name)


class Letters(Journey):
    """Three letters; the second is only asked for after "b"; the last cannot be gone back from."""

    title = "Spell"

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.first = self.second = self.third = ""

    def steps(self) -> Sequence[Step]:
        def keep(name: str) -> Any:
            return lambda answer: setattr(self, name, answer)

        return [
            Step("First", lambda: Letter(self.first), keep("first")),
            Step("Second", lambda: Letter(self.second) if self.first == "b" else None, keep("second")),
            Step("Third", lambda: Letter(self.third), keep("third"), final=True),
            Step("End", lambda: Letter(""), lambda answer: None, final=True),
        ]


@pytest.fixture
def journey(tmp_path: Path) -> Any:
    with jobs_in(tmp_path / "jobs"):
        yield Letters(app_for(FileMachine(tmp_path)))


async def begin(pilot: Pilot[None], journey: Letters) -> None:
    await until(pilot, says(pilot, "No disk was found"))
    journey.app.begin(journey.run)
    await until(pilot, says(pilot, "Step 1: First"))


async def test_a_step_that_is_not_needed_is_passed_over_and_not_counted(journey: Letters) -> None:
    async with journey.app.run_test(size=(80, 24)) as pilot:
        await begin(pilot, journey)
        await pilot.click("#a")
        await until(pilot, says(pilot, "Spell", "Step 2: Third"))
        await pilot.press("escape")
        await until(pilot, says(pilot, "Step 1: First", "Chosen before: a"))
        await pilot.click("#b")
        await until(pilot, says(pilot, "Step 2: Second"))
        await pilot.click("#a")
        await until(pilot, says(pilot, "Step 3: Third"))


async def test_before_the_first_step_is_the_first_screen(journey: Letters) -> None:
    async with journey.app.run_test(size=(80, 24)) as pilot:
        await begin(pilot, journey)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))


async def test_what_has_begun_is_not_gone_back_from(journey: Letters) -> None:
    async with journey.app.run_test(size=(80, 24)) as pilot:
        await begin(pilot, journey)
        await pilot.click("#a")
        await until(pilot, says(pilot, "Step 2: Third"))
        await pilot.click("#b")
        await until(pilot, says(pilot, "Step 3: End"))
        await pilot.press("escape")
        await pilot.pause()
        assert "Step 3: End" in screen_text(pilot)
        assert journey.third == "b"
        await pilot.click("#a")
        await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))


async def test_a_journey_can_be_left_from_its_middle(journey: Letters) -> None:
    async with journey.app.run_test(size=(80, 24)) as pilot:
        await begin(pilot, journey)
        await pilot.click("#b")
        await until(pilot, says(pilot, "Step 2: Second"))
        await pilot.click("#leave")
        await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))
        assert journey.second == ""
