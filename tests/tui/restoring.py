"""What a person does at a disk that is to be overwritten."""

from __future__ import annotations

from textual.pilot import Pilot
from textual.widgets import Button, Input

from tests.tui.support import statics, until
from tests.tui.world import reaches, types
from tui.screens.job import ResultScreen
from tui.screens.overwrite import OverwriteReview


async def until_plan(pilot: Pilot[None]) -> OverwriteReview:
    """The review, with its plan."""
    review = await reaches(pilot, OverwriteReview)
    await until(pilot, lambda: not review.query_one("#start", Button).disabled)
    return review


async def agree(pilot: Pilot[None], name: str) -> None:
    """Type the name and press Enter."""
    pilot.app.screen.query_one("#typed", Input).focus()
    await types(pilot, name)
    await pilot.press("enter")


async def through_work(pilot: Pilot[None]) -> None:
    """From the running job to its end, which must be a good one."""
    result = await reaches(pilot, ResultScreen)
    assert result.view.exit_code == 0, statics(pilot)
    await pilot.press("enter")
