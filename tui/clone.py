"""Copy a disk directly onto another disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recovery.cli.requests import CloneRequest
from recovery.cli.spawn import spawn
from recovery.errors import ExitCode
from recovery.image.boot import has_boot_parts
from recovery.image.fit import misfit
from recovery.inventory import DiskReport, shown
from recovery.jobs.watching import Watcher
from tui.job_view import JobView
from tui.journey import Journey, Step
from tui.restore import breaks_of, fit_words
from tui.screens.base import StepScreen
from tui.screens.finished import FinishedScreen
from tui.screens.job import JobScreen
from tui.screens.overwrite import BreaksScreen, Options, Overwrite, OverwriteReview
from tui.screens.target import SourceScreen, TargetScreen
from tui.widgets.disk_bar import segments

if TYPE_CHECKING:
    from tui.app import RecoveryApp


class CloneJourney(Journey):
    """Source, target; review; the work; what to do next."""

    title = "Copy a disk"

    def __init__(self, app: RecoveryApp) -> None:
        super().__init__(app)
        self.source: DiskReport | None = None
        self.target: DiskReport | None = None
        self.options = Options()
        self.view: JobView | None = None

    def steps(self) -> Sequence[Step]:
        """From the source to the copy."""
        return [
            Step("From which disk", self._source_screen, self._keep("source")),
            Step("Onto which disk", self._target_screen, self._keep("target")),
            Step("What breaks", self._breaks_screen, lambda accepted: None),
            Step("Review", self._review_screen, self._keep("view"), final=True),
            Step("Work", self._job_screen, lambda wanted: None, final=True),
            Step("Next", self._finished_screen, lambda answer: None, final=True),
        ]

    def _source_screen(self) -> StepScreen[Any]:
        return SourceScreen(chosen=self.source.disk.path if self.source else "")

    def _target_screen(self) -> StepScreen[Any]:
        assert self.source is not None
        source = self.source.disk

        def wrong(report: DiskReport) -> str | None:
            if report.disk.path == source.path:
                return "It is the disk that is copied."
            return misfit(report.disk, source.size_bytes, source.logical_sector_bytes)

        return TargetScreen(
            wrong,
            lambda report: fit_words(source.size_bytes, report.disk.size_bytes),
            sources=(source,),
            chosen=self.target.disk.path if self.target else "",
        )

    def _breaks_screen(self) -> StepScreen[Any] | None:
        assert self.target is not None
        breaks = breaks_of(self.target)
        return BreaksScreen(breaks) if breaks else None

    def _review_screen(self) -> StepScreen[Any]:
        assert self.source is not None
        assert self.target is not None
        overwrite = Overwrite(
            self.target,
            self.app.machine.place(self.target.disk),
            tuple(segments(self.source, self.target.disk.size_bytes)),
            shown(f"disk {self.source.disk.name}"),
            recorded=self.app.machine.recorded,
            source_disk=self.source.disk,
        )
        return OverwriteReview(self._spawn, overwrite, self.options, self._keep("options"))

    def _spawn(self) -> Watcher:
        assert self.source is not None
        assert self.target is not None
        return spawn(
            CloneRequest(
                source=self.app.machine.place(self.source.disk),
                target=self.app.machine.place(self.target.disk),
                differential=self.options.differential,
                break_members=bool(breaks_of(self.target)),
                chosen=self.app.machine.chosen(self.source.disk),
            )
        )

    def _job_screen(self) -> StepScreen[Any]:
        assert self.view is not None
        return JobScreen(self.view)

    def _finished_screen(self) -> StepScreen[Any] | None:
        assert self.view is not None
        if self.view.exit_code not in (ExitCode.DONE, ExitCode.INCOMPLETE) or self.target is None:
            return None
        name = self.app.machine.place(self.target.disk).name
        return FinishedScreen(
            name,
            whole=True,
            starts=self.source is not None and has_boot_parts(self.source.table),
            sound=self.view.exit_code == ExitCode.DONE,
            twin=self.source.disk.name if self.source else "",
        )
