"""What will be done, before it is done: one job makes the plan, shows it here, and goes on when it is agreed to.

So the engine's own checks stand between the plan and the first byte: the job holds what it looked at, and compares
the answer itself.  Going back gives no answer, and the job ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Button, Static

from recovery.errors import RecoveryError
from recovery.inventory import shown
from recovery.jobs.watching import Watcher
from tui.job_view import Failure, JobView
from tui.job_words import battery_words, plain_hint
from tui.screens.base import BACK, StepScreen

_POLL_SECONDS = 0.2
#: After so long a word that it may take longer.
_LONG_SECONDS = 10.0
#: A job that was declined ends at its next safe point; after so long it is told to end at once, and then left alone.
_DECLINE_SECONDS, _STOP_SECONDS = 5.0, 2.0
_LONG = "This takes longer than usual: a disk may be slow to answer. Cancel goes back at any time."


class ReviewScreen(StepScreen[JobView]):
    """The plan of a job that waits to be agreed to; gives the job's view once it was.

    What is done differs by ``draw`` (the plan), ``consent`` and ``confirmation`` (how it is agreed to).
    """

    TITLE = "Review: what will be done"
    HELP = (
        "This is the plan. Nothing was written yet, and nothing will be before you agree here.\n\n"
        "A job is the work itself: it runs on its own and goes on even when this program ends. It has looked at the "
        "disks and waits for your answer. Going back ends it, and nothing has changed."
    )
    DEFAULT_CSS = """
    ReviewScreen #plan { height: 1fr; }
    ReviewScreen #plan-text { height: auto; }
    ReviewScreen #agreeing { height: auto; }
    ReviewScreen #said { height: auto; display: none; }
    """

    #: What stands there until the plan is made; the button that agrees.
    WAITING: ClassVar[str] = "Looking at the disks. Nothing is written before you agree ..."
    START: ClassVar[str] = "Start"

    def __init__(self, spawn: Callable[[], Watcher]) -> None:
        """``spawn`` starts the job, unconfirmed; it is called beside the interface's thread, and may raise."""
        super().__init__()
        self._spawn = spawn
        self._view: JobView | None = None
        self._asked = self._leaving = False
        self._changed = asyncio.Event()

    # -- what differs

    def draw(self, plan: dict[str, Any]) -> Sequence[RenderableType]:
        """The plan, from the job's ``plan`` event; its findings and warnings are added below it."""
        return [Text(str(plan))]

    def objection(self, plan: dict[str, Any]) -> str | None:
        """Why this plan is not to be agreed to although the engine would go on; None when nothing speaks against it."""
        return None

    def options(self) -> Iterable[Any]:
        """Widgets for choices that change the plan, above how it is agreed to; they call ``restart``."""
        return ()

    def consent(self) -> Iterable[Any]:
        """Widgets below the plan that are needed to agree."""
        return ()

    def confirmation(self) -> str | None:
        """What is answered when the person agrees; None when they have not agreed in full, and were told why."""
        return "yes"

    def failed(self, codes: Sequence[int]) -> None:
        """There is no plan to agree to, for errors with these exit codes; what can be done about it may be offered."""

    # -- the screen

    def body(self) -> Iterable[Any]:
        """The plan, and below it how it is agreed to."""
        with VerticalScroll(id="plan", can_focus=False):
            yield Static(self.WAITING, id="plan-text", markup=False)
        yield from self.options()
        with Vertical(id="agreeing"):
            yield from self.consent()
        yield Static("", id="said", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """The harmless one first."""
        yield Button("Cancel", id="back", compact=True)
        yield Button(self.START, id="start", compact=True, disabled=True)

    def on_mount(self) -> None:
        """The job begins."""
        self.query_one("#back").focus()
        self.run_worker(self._supervise(), name="review")

    def say(self, sentence: str) -> None:
        """Tell something below the plan; nothing when empty."""
        said = self.query_one("#said", Static)
        said.update(sentence)
        said.display = bool(sentence)

    def restart(self) -> None:
        """A choice that the plan depends on was changed: it is made anew."""
        self._changed.set()

    def pressed(self, name: str) -> None:
        """Agree."""
        if name == "start":
            self.agree()

    def agree(self) -> None:
        """Answer the job, if all that is needed was given."""
        if not self._asked or self._view is None or self._changed.is_set():
            return
        text = self.confirmation()
        if text is not None:
            self._view.answer(text)
            self.answer(self._view)

    def action_back(self) -> None:
        """Decline; a second time without waiting until the job has ended."""
        if self._leaving:
            self.answer(BACK)
        elif self.can_go_back:
            self._leaving = True
            self.say("Going back. What was begun is being stopped; nothing was written.")
            self._changed.set()

    # -- the job

    async def _supervise(self) -> None:
        """One job after the other, as often as the choices change; until the person goes back."""
        while not self._leaving:
            self._changed.clear()
            self._can_agree(True)
            self._show(Text(self.WAITING))
            try:
                self._view = JobView(await self.recovery.ask(self._spawn))
                await self._follow(self._view)
            except RecoveryError as error:
                self._fail([Failure(error.message, error.hint, error.exit_code)])
            await self._changed.wait()
            if self._view is not None:
                self._view.poll()
                if self._view.decided:  # just before, at another screen
                    self.answer(self._view)
                    return
            self._asked = False
            self.query_one("#start", Button).disabled = True
            await self._decline()
        self.answer(BACK)

    async def _follow(self, view: JobView) -> None:
        """Until the choices change, or the job ends: then it says why."""
        began = time.monotonic()
        while not self._changed.is_set():
            view.poll()
            if view.decided:
                self.answer(view)  # agreed to, or declined, at another screen
                return
            if view.ended:
                self._asked = False
                self.query_one("#start", Button).disabled = True
                self._fail(view.errors)
                return
            if view.question is not None and view.plan is not None and not self._asked:
                objection = self.objection(view.plan)
                if objection is not None:
                    await self._decline()
                    self._fail([Failure(objection)])
                    return
                self._asked = True
                battery = await self.recovery.ask(self.recovery.machine.battery)
                self._show(Group(*self.draw(view.plan), *_remarks(view, battery)))
                self.query_one("#start", Button).disabled = False
            if not self._asked and time.monotonic() - began > _LONG_SECONDS:
                began = float("inf")
                self._show(Text(f"{self.WAITING}\n\n{_LONG}"))
            await asyncio.sleep(_POLL_SECONDS)

    async def _decline(self) -> None:
        """Have the job end, which has written nothing; one that a disk holds is left to end by itself."""
        view, self._view = self._view, None
        if view is None:
            return
        view.answer("")
        for order, seconds in ((view.cancel, _DECLINE_SECONDS), (view.stop, _STOP_SECONDS)):
            ends = time.monotonic() + seconds
            if not view.ended:
                order()
            while not view.ended and time.monotonic() < ends:
                await asyncio.sleep(0.05)
                view.poll()
        view.close()

    def _fail(self, errors: Sequence[Failure]) -> None:
        self._show(_trouble(errors))
        self._can_agree(False)
        self.failed(tuple(error.code for error in errors))

    def _can_agree(self, can: bool) -> None:
        """What is there to agree with, unless there is nothing to agree to."""
        for name in ("#agreeing", "#start"):
            self.query_one(name).display = can
        if not can:
            self.query_one("#back").focus()

    def _show(self, renderable: RenderableType) -> None:
        self.query_one("#plan-text", Static).update(renderable)


def _remarks(view: JobView, battery: str | None) -> list[RenderableType]:
    """What is worth knowing before one agrees."""
    findings = [*([battery_words(battery)] if battery is not None else [])]
    findings += [*(view.plan or {}).get("findings", ()), *view.warnings]
    sentences = [shown(str(finding)) for finding in dict.fromkeys(findings)]
    return [Text(f"Note: {sentence[:1].upper()}{sentence[1:]}", style="yellow") for sentence in sentences]


def _trouble(errors: Sequence[Failure]) -> RenderableType:
    """Why there is no plan to agree to, and what to do next."""
    lines: list[RenderableType] = [Text("This cannot be done as it was chosen. Nothing was written.\n", style="bold")]
    for error in errors or [Failure("the job ended without a word", "Go back and try again.")]:
        message = shown(error.message)
        lines.append(Text(f"{message[:1].upper()}{message[1:].rstrip('.')}."))
        hint = plain_hint(error.hint)
        lines += [Text(f"\n{hint}")] if hint else []
    lines.append(Text("\nCancel goes back to the choices before."))
    return Group(*lines)
