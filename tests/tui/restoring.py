"""What a person does at a disk that is to be overwritten."""

from __future__ import annotations

import os
import signal

from textual.pilot import Pilot
from textual.widgets import Button, Input

from tests.tui.support import says, statics, until
from tests.tui.world import reaches, running, types
from tui.screens.job import JobScreen, ResultScreen
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


async def agree_and_stop(pilot: Pilot[None], name: str) -> str:
    """Agree, and stop the work as soon as it is seen; what its result says, on one line."""
    (job,) = running()
    os.kill(job.pid, signal.SIGSTOP)  # it would be done before anybody could press a key
    try:
        await agree(pilot, name)
        await stop(pilot)
    finally:
        os.kill(job.pid, signal.SIGCONT)
    await reaches(pilot, ResultScreen)
    return " ".join(statics(pilot).split())


async def stop(pilot: Pilot[None]) -> None:
    """Stop the work that is watched, and say so when asked."""
    await reaches(pilot, JobScreen)
    await pilot.press("s")
    await until(pilot, says(pilot, "Stop this work?"))
    await pilot.click("#stop")
    await reaches(pilot, JobScreen)
