"""The interface under test: on a terminal that is not there, over image files that stand for disks."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Static

from recovery.destination import Destination
from recovery.devices.disk import Disk
from recovery.inventory import DiskReport, survey
from tui.app import RecoveryApp
from tui.glyphs import Terminal
from tui.machine import LocalMachine

#: Everything takes its time where other programs run too.
PATIENCE_SECONDS = 60.0


class FileMachine(LocalMachine):
    """A machine whose disks are the image files of a folder; ``mounted`` stand for filesystems that are mounted."""

    def __init__(self, folder: Path, mounted: Sequence[Destination] = ()) -> None:
        super().__init__()
        self.folder = folder
        self._mounted = list(mounted)

    def survey(self) -> list[DiskReport]:
        """The files, by name."""
        files = sorted(self.folder.glob("*.img"))
        return survey(files) if files else []

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Files come and go when the test looks again."""
        return lambda: None

    def place(self, disk: Disk) -> Path:
        """The file."""
        return disk.place

    def destinations(self) -> list[Destination]:
        """What the test says."""
        return self._mounted


@contextmanager
def jobs_in(folder: Path) -> Iterator[None]:
    """Jobs started meanwhile keep their run folders there."""
    before = os.environ.get("RECOVERY_JOBS")
    os.environ["RECOVERY_JOBS"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["RECOVERY_JOBS"]
        else:
            os.environ["RECOVERY_JOBS"] = before


def app_for(machine: LocalMachine, terminal: Terminal | None = None) -> RecoveryApp:
    """The program on that machine."""
    return RecoveryApp(machine, terminal)


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for ``condition``; fails with what the screen shows."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"waited for {seconds} s in vain; the screen shows:\n{screen_text(pilot)}"
        await asyncio.sleep(0.02)
        await pilot.pause()


def screen_text(pilot: Pilot[None]) -> str:
    """What the terminal shows, line by line, without colours."""
    screen = pilot.app.screen
    return "\n".join(
        "".join(segment.text for segment in strip).rstrip() for strip in screen._compositor.render_strips()
    )


def says(pilot: Pilot[None], *words: str) -> Callable[[], bool]:
    """Whether the terminal shows all these words."""
    return lambda: all(word in screen_text(pilot) for word in words)


def statics(pilot: Pilot[None]) -> str:
    """The words of all texts on the screen, also those that are scrolled away."""
    return "\n".join(str(text.content) for text in pilot.app.screen.query(Static))
