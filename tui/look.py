"""Look into a repository: what was saved, whether it is sound, and what may go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recovery.cli.requests import ForgetRequest, VerifyRequest
from recovery.cli.spawn import spawn
from recovery.errors import RecoveryError
from recovery.repository.repository import Repository
from tui.contents import StoredFiles, is_read_only, made_writable
from tui.images import StoredImage
from tui.job_view import JobView
from tui.journey import Journey, Step
from tui.modals import Question
from tui.restore import RestoreJourney
from tui.screens.base import BACK, LEAVE, StepScreen
from tui.screens.contents import ContentsScreen, DetailsScreen, Wanted
from tui.screens.forget import ForgetReview
from tui.screens.job import JobScreen
from tui.screens.password import OpenRepository, password_screen
from tui.screens.place import Place, PlaceScreen

if TYPE_CHECKING:
    from tui.app import RecoveryApp

_READ_ONLY = (
    "The disk of this repository was opened for reading only, so that nothing on it changes while you look. To forget "
    "something, it must be opened for writing."
)


class LookJourney(Journey):
    """Repository, password, what is in it, one of them; and what is wanted of that, until the person goes back."""

    title = "Look at what was saved"

    def __init__(self, app: RecoveryApp) -> None:
        super().__init__(app)
        self.place: Place | None = None
        self.opened: OpenRepository | None = None
        self.chosen: StoredImage | StoredFiles | None = None
        self.wanted: Wanted | None = None
        self._inside = False

    async def run(self) -> None:
        """What is wanted is done, and then the list is shown anew."""
        await super().run()
        while self.wanted is not None:
            wanted, self.wanted, self._inside = self.wanted, None, True
            try:
                if await self._do(wanted) is LEAVE:
                    return
            except RecoveryError as error:
                await self.app.tell(error)
            await super().run()

    def steps(self) -> Sequence[Step]:
        """From the repository to one thing in it."""
        return [
            Step("Where from", self._place_screen, self._keep("place")),
            Step("Password", self._password_screen, self._keep("opened")),
            Step("What is in it", self._contents_screen, self._keep("chosen")),
            Step("One of them", self._details_screen, self._keep("wanted")),
        ]

    def _place_screen(self) -> StepScreen[Any] | None:
        return None if self._inside else PlaceScreen("read", chosen=self.place)

    def _password_screen(self) -> StepScreen[Any] | None:
        if self._inside:
            return None
        assert self.place is not None
        return password_screen(self.place, self.opened)

    def _contents_screen(self) -> StepScreen[Any]:
        assert self.opened is not None
        return ContentsScreen(self.opened.repository, chosen=self.chosen.id if self.chosen else "")

    def _details_screen(self) -> StepScreen[Any]:
        assert self.chosen is not None
        return DetailsScreen(self.chosen)

    # -- what is wanted

    async def _do(self, wanted: Wanted) -> object:
        """Gives ``LEAVE`` when the journey is over with it."""
        assert self.opened is not None
        assert self.chosen is not None
        if wanted == "restore":
            assert isinstance(self.chosen, StoredImage)
            await RestoreJourney(self.app, opened=self.opened, image=self.chosen).run()
            return None
        if wanted == "forget":
            return await self._forget(self.chosen)
        request = VerifyRequest(self.chosen.id, audit=wanted == "audit")
        watcher = await self.app.ask(spawn, request, self.opened.folder, self.opened.password)
        return await self._show(JobView(watcher), "Audit the image" if wanted == "audit" else "Verify the image")

    async def _forget(self, chosen: StoredImage | StoredFiles) -> object:
        opened = await self._writable()
        if opened is None:
            return None
        request = ForgetRequest((chosen.id,))
        review = ForgetReview(partial(spawn, request, opened.folder, opened.password))
        review.journey, review.step = self.title, "Forget"
        answer: Any = await self.app.push_screen_wait(review)
        return None if answer is BACK else await self._show(answer, "Forget")

    async def _show(self, view: JobView, step: str) -> object:
        screen = JobScreen(view, offers=())
        screen.journey, screen.step = self.title, step
        return await self.app.push_screen_wait(screen)

    async def _writable(self) -> OpenRepository | None:
        """The repository on a filesystem that can be written; None when the person would rather not."""
        assert self.opened is not None
        if not await self.app.ask(is_read_only, self.opened.folder):
            return self.opened
        buttons = [("stay", "Leave it as it is"), ("open", "Open it for writing")]
        if await self.app.push_screen_wait(Question("Open the disk for writing?", _READ_ONLY, buttons)) != "open":
            return None
        folder: Path = await self.app.ask(made_writable, self.app.machine, self.opened.folder)
        repository = await self.app.ask(Repository.open, folder, self.opened.password)
        self.opened = replace(self.opened, folder=folder, repository=repository)
        return self.opened
