"""What the first screen offers, and what each begins."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recovery.errors import RecoveryError
from tui.capture import CaptureJourney
from tui.clone import CloneJourney
from tui.look import LookJourney
from tui.rescue import RescueJourney
from tui.restore import RestoreJourney
from tui.screens.tools import ToolsScreen

if TYPE_CHECKING:
    from tui.app import RecoveryApp


@dataclass(frozen=True, slots=True)
class Entry:
    """``begin`` runs until the person is back."""

    name: str
    label: str
    begin: Callable[[RecoveryApp], Coroutine[Any, Any, None]]


async def _capture(app: RecoveryApp) -> None:
    await CaptureJourney(app).run()


async def _restore(app: RecoveryApp) -> None:
    await RestoreJourney(app).run()


async def _rescue(app: RecoveryApp) -> None:
    await RescueJourney(app).run()


async def _look(app: RecoveryApp) -> None:
    await LookJourney(app).run()


async def _clone(app: RecoveryApp) -> None:
    await CloneJourney(app).run()


async def _tools(app: RecoveryApp) -> None:
    await app.push_screen_wait(ToolsScreen())


ENTRIES = (
    Entry("capture", "Capture this machine: save whole disks as a system image", _capture),
    Entry("restore", "Restore a machine: put a system image back onto a disk", _restore),
    Entry("rescue", "Save files from a broken disk", _rescue),
    Entry("look", "Look at what was saved before: what is in it, is it in order", _look),
    Entry("clone", "Copy a disk directly onto another disk", _clone),
    Entry("tools", "Tools: disk health, keyboard, network, clock, shell, switch off", _tools),
)


async def begin_entry(app: RecoveryApp, name: str) -> None:
    """Begin the entry called ``name``; disks that were mounted for it are given back after it."""
    try:
        await next(entry for entry in ENTRIES if entry.name == name).begin(app)
    except RecoveryError as error:
        await app.tell(error)
    await app.give_back()
