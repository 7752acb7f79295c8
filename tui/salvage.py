"""Save files off a disk whose filesystems do not open any more: which disk, which files, where to; the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recovery.cli.requests import SalvageRequest
from recovery.cli.spawn import spawn
from recovery.inventory import DiskReport
from recovery.jobs.watching import Watcher
from recovery.salvage.choose import FileKind
from tui.job_view import JobView
from tui.journey import Journey, Step
from tui.screens.base import StepScreen
from tui.screens.job import JobScreen
from tui.screens.place import Place
from tui.screens.rescue_places import CopyToScreen
from tui.screens.salvage import BrokenDiskScreen, KindScreen, SalvageReview

RESCUE_TITLE = "Save files from a broken disk"

if TYPE_CHECKING:
    from tui.app import RecoveryApp


class FilesOfLost(Journey):
    """A disk; which files; a new folder elsewhere; the saving."""

    title = RESCUE_TITLE

    def __init__(self, app: RecoveryApp) -> None:
        super().__init__(app)
        self.source: DiskReport | None = None
        self.files = ""
        self.target: Place | None = None
        self.view: JobView | None = None

    async def run(self) -> None:
        """To the files; what was opened for them is given back."""
        await super().run()
        await self.app.give_back()

    def steps(self) -> Sequence[Step]:
        """From the disk to the files."""
        return [
            Step("From which disk", self._source_screen, self._keep("source")),
            Step("Which files", lambda: KindScreen(self.files), self._keep("files")),
            Step("Where to", self._target_screen, self._keep("target")),
            Step("Review", self._review_screen, self._keep("view"), final=True),
            Step("Work", self._job_screen, lambda wanted: None, final=True),
        ]

    def _source_screen(self) -> StepScreen[Any]:
        return BrokenDiskScreen(chosen=self.source.disk.path if self.source is not None else "")

    def _target_screen(self) -> StepScreen[Any]:
        assert self.source is not None
        return CopyToScreen(kept_off=[self.source.disk], chosen=self.target)

    def _review_screen(self) -> StepScreen[Any]:
        assert self.source is not None
        assert self.target is not None
        return SalvageReview(self.source, self.files, self.target, self._spawn)

    def _spawn(self) -> Watcher:
        assert self.source is not None
        assert self.target is not None
        kinds = frozenset({FileKind(self.files)}) if self.files != KindScreen.ALL else frozenset[FileKind]()
        return spawn(SalvageRequest(self.source.disk.place, self.target.folder, kinds=kinds))

    def _job_screen(self) -> StepScreen[Any]:
        assert self.view is not None
        return JobScreen(self.view, offers=())
