"""Save files from a broken disk: what can be done for it now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from recovery.cli.requests import CopyRequest
from recovery.cli.spawn import spawn
from recovery.jobs.watching import Watcher
from tui.capture import CaptureJourney
from tui.job_view import JobView
from tui.journey import Journey, Step
from tui.salvage import RESCUE_TITLE, FilesOfLost
from tui.screens.base import BACK, LEAVE, StepScreen
from tui.screens.browse import BrowseScreen
from tui.screens.choice import Choice, ChoiceScreen
from tui.screens.copy_review import CopyReview
from tui.screens.job import JobScreen
from tui.screens.place import Place
from tui.screens.place_entries import disk_of
from tui.screens.rescue_places import CopyToScreen, OpenScreen

if TYPE_CHECKING:
    from tui.app import RecoveryApp

_TITLE = RESCUE_TITLE


class WayScreen(ChoiceScreen):
    """Gives "image", "files" or "lost"."""

    TITLE = "What can be saved"
    HELP = (
        "A disk that begins to fail gets worse with every hour that it runs. Save what matters most first, and switch "
        "it off when you do not need it.\n\n"
        "An image is a copy of the whole disk, in a repository (a folder on another disk). What cannot be read "
        "is zeros in it and marked so, and the files that it belongs to are named at the end. Later the image can be "
        "put onto a new disk, which is then looked into in peace.\n\n"
        "Files can be copied directly where the filesystem (what folders and files lie in) can still be opened. Where "
        "it cannot, this program reads it itself, and tells of each file whether it is whole. The "
        "disk is only read in all cases: nothing on it is changed."
    )

    def choices(self) -> Sequence[Choice]:
        """The three ways that there are."""
        return (
            Choice(
                "image",
                "An image of the whole disk, although parts of it cannot be read",
                (
                    Text(
                        "Everything that the disk still gives is saved: choose this first when it makes noises, is "
                        "slow, or was reported as failing. Which files are lost is named at the end."
                    ),
                ),
            ),
            Choice(
                "files",
                "Files and folders of a filesystem that can still be opened",
                (
                    Text(
                        "It is opened for reading only; you choose folders, and they are copied to another disk. "
                        "Quicker when only a few files matter."
                    ),
                ),
            ),
            Choice(
                "lost",
                "Files of a filesystem that does not open any more",
                (
                    Text(
                        "The disk is searched for them: also when its partitions are gone, or it was overwritten in "
                        "part. Which files are whole, damaged or lost is told."
                    ),
                ),
            ),
        )


class RescueJourney(Journey):
    """An image of a disk with read errors, or files off it."""

    title = _TITLE

    async def run(self) -> None:
        """The way first; who goes back from its first screen chooses again."""
        way = ""
        while True:
            screen = WayScreen(way)
            screen.journey, screen.step = self.title, "What can be saved"
            answer: Any = await self.app.push_screen_wait(screen)
            if answer is BACK or answer is LEAVE:
                return
            way = str(answer)
            journey = self._journey(way)
            await journey.run()
            if journey.view is not None:
                return

    def _journey(self, way: str) -> ImageOfBroken | FilesOfBroken | FilesOfLost:
        match way:
            case "image":
                return ImageOfBroken(self.app, unmarked=True)
            case "files":
                return FilesOfBroken(self.app)
        return FilesOfLost(self.app)


class ImageOfBroken(CaptureJourney):
    """A capture goes on where a disk cannot be read, and says what is lost."""

    title = _TITLE


class FilesOfBroken(Journey):
    """A filesystem, opened for reading only; marks; a new folder elsewhere; the copying."""

    title = _TITLE

    def __init__(self, app: RecoveryApp) -> None:
        super().__init__(app)
        self.source: Place | None = None
        self.marked: tuple[Path, ...] = ()
        self.target: Place | None = None
        self.view: JobView | None = None

    async def run(self) -> None:
        """To the copies; then the filesystem is given back, so that an image of its disk can be made."""
        await super().run()
        await self.app.give_back()

    def steps(self) -> Sequence[Step]:
        """From the filesystem to the copies."""
        return [
            Step("Filesystem", lambda: OpenScreen(chosen=self.source), self._keep_source),
            Step("Files", self._files_screen, self._keep("marked")),
            Step("Where to", self._target_screen, self._keep("target")),
            Step("Review", self._review_screen, self._keep("view"), final=True),
            Step("Work", self._job_screen, lambda wanted: None, final=True),
        ]

    def _keep_source(self, source: Place) -> None:
        if self.source is None or self.source.folder != source.folder:
            self.marked = ()
        self.source = source

    def _files_screen(self) -> StepScreen[Any]:
        assert self.source is not None
        return BrowseScreen(self.source.folder, self.marked)

    def _target_screen(self) -> StepScreen[Any]:
        assert self.source is not None
        disk = disk_of(self.source.device, self.app.reports or ())
        return CopyToScreen(kept_off=[disk] if disk is not None else (), chosen=self.target)

    def _review_screen(self) -> StepScreen[Any]:
        assert self.source is not None
        assert self.target is not None
        return CopyReview(self.marked, self.source.folder, self.target.folder, self.target.free_bytes, self._spawn)

    def _spawn(self) -> Watcher:
        assert self.source is not None
        assert self.target is not None
        return spawn(CopyRequest(self.marked, self.source.folder, self.target.folder))

    def _job_screen(self) -> StepScreen[Any]:
        assert self.view is not None
        return JobScreen(self.view, offers=())
