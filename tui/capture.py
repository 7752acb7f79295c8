"""Save whole disks as a system image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recovery.cli.requests import CaptureRequest, VerifyRequest
from recovery.cli.spawn import spawn
from recovery.inventory import shown
from recovery.jobs.watching import Watcher
from tui.job_view import JobView
from tui.journey import Journey, Step
from tui.screens.base import StepScreen
from tui.screens.capture_review import CaptureOptions, CaptureReview
from tui.screens.disks import DisksScreen, Sources
from tui.screens.earlier import EarlierScreen
from tui.screens.job import JobScreen
from tui.screens.password import OpenRepository, password_screen
from tui.screens.place import Place, PlaceScreen
from tui.screens.place_entries import disk_of

if TYPE_CHECKING:
    from tui.app import RecoveryApp


class CaptureJourney(Journey):
    """Disks, where to, password; review; the work; and what was stored checked, if that is wanted."""

    title = "Capture this machine"

    def __init__(self, app: RecoveryApp, *, unmarked: bool = False) -> None:
        """``unmarked``: no disk is marked to begin with."""
        super().__init__(app)
        self._unmarked = unmarked
        self.sources: Sources | None = None
        self.place: Place | None = None
        self.opened: OpenRepository | None = None
        #: Whether an incomplete image of the disks is completed.
        self.continues: bool | None = None
        self.options = CaptureOptions()
        self.view: JobView | None = None
        #: What the person wants next of the image: "verify", "audit", or nothing.
        self.wanted: str | None = None

    async def run(self) -> None:
        """To the image; then checks of it, as many as are wanted."""
        await super().run()
        snapshot = str(self.view.summary.get("snapshot_id", "")) if self.view and self.view.summary else ""
        while snapshot and self.wanted in ("verify", "audit"):
            self.wanted = await self._check(snapshot, audit=self.wanted == "audit")

    def steps(self) -> Sequence[Step]:
        """From the disks to the image."""
        return [
            Step("Disks", lambda: DisksScreen(self.sources, unmarked=self._unmarked), self._keep("sources")),
            Step("Where to", self._place_screen, self._keep("place")),
            Step("Password", self._password_screen, self._keep("opened")),
            Step("Earlier image", self._earlier_screen, self._keep("continues")),
            Step("Review", self._review_screen, self._keep("view"), final=True),
            Step("Work", self._job_screen, self._keep("wanted"), final=True),
        ]

    def _place_screen(self) -> StepScreen[Any]:
        assert self.sources is not None
        return PlaceScreen(
            "store", kept_off=self.sources.disks, needed_bytes=self.sources.used_bytes, chosen=self.place
        )

    def _password_screen(self) -> StepScreen[Any] | None:
        assert self.place is not None
        return password_screen(self.place, self.opened)

    def _earlier_screen(self) -> StepScreen[Any] | None:
        assert self.sources is not None
        assert self.opened is not None
        if self.sources.without:
            return None  # of some partitions only, an image is made anew
        return EarlierScreen(self.opened.repository, self.sources.disks, self.continues)

    def _review_screen(self) -> StepScreen[Any]:
        assert self.sources is not None
        assert self.opened is not None
        where = shown(str(self.opened.folder))
        destination = disk_of(self.place.device, self.app.reports or ()) if self.place is not None else None
        return CaptureReview(self._spawn, self.sources.reports, where, destination, self.options, self._keep("options"))

    def _job_screen(self) -> StepScreen[Any]:
        assert self.view is not None
        return JobScreen(self.view)

    def _spawn(self) -> Watcher:
        assert self.sources is not None
        assert self.opened is not None
        machine = self.app.machine
        chosen = [machine.chosen(report.disk) for report in self.sources.reports]
        request = CaptureRequest(
            sources=tuple(machine.place(report.disk) for report in self.sources.reports),
            chosen=tuple(disk for disk in chosen if disk is not None) if None not in chosen else (),
            without=self.sources.without,
            continues=bool(self.continues) and not self.sources.without,
            verify=self.options.verify,
            audit=self.options.audit,
            review=True,
        )
        return spawn(request, self.opened.folder, self.opened.password)

    async def _check(self, snapshot: str, *, audit: bool) -> str | None:
        """Verify or audit what was captured; what is wanted then."""
        assert self.opened is not None
        opened = self.opened
        request = VerifyRequest(snapshot, audit=audit)
        watcher = await self.app.ask(spawn, request, opened.folder, opened.password)
        screen = JobScreen(JobView(watcher))
        screen.journey, screen.step = self.title, "Audit the image" if audit else "Verify the image"
        answer = await self.app.push_screen_wait(screen)
        return answer if isinstance(answer, str) else None
