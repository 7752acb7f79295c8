"""The first screen: what was found, what can be done, what is running."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from textual.containers import VerticalScroll
from textual.widgets import Button, OptionList, Static
from textual.widgets.option_list import Option

from recovery.devices.live import medium_check
from recovery.errors import UsageError
from recovery.inventory import DiskReport, shown
from recovery.jobs.folder import Job, list_jobs
from recovery.jobs.watching import attach, status_of
from tui.glyphs import Glyphs
from tui.screens.base import PlainScreen
from tui.screens.job import JobScreen
from tui.screens.menu import ENTRIES, begin_entry
from tui.widgets.disk_list import card

_JOBS_SECONDS = 2.0
_QUESTION, _ANSWERED = (f'{{"message_type":"{kind}"'.encode() for kind in ("question", "answered"))


class HomeScreen(PlainScreen[None]):
    """What do you want to do?"""

    TITLE = "Recovery"
    can_go_back = False
    HELP = (
        "This program saves whole machines, and brings them back.\n\n"
        "A system image is a copy of everything on a disk: the system, programs and files. It is kept in a repository, "
        "which is a folder on another disk. From it the whole machine can be put back, also onto a new disk.\n\n"
        "Nothing is written to any disk until you were shown what will happen and agreed to it."
    )

    def body(self) -> Iterable[Any]:
        """Jobs, choices, disks."""
        yield Static("What do you want to do? Arrow keys move, Enter chooses, F1 explains.", id="title")
        yield Static("", id="medium", classes="warning", markup=False)
        yield OptionList(id="jobs", markup=False)
        yield OptionList(*(Option(entry.label, id=entry.name) for entry in ENTRIES), id="menu", markup=False)
        with VerticalScroll(id="disks"):
            yield Static("Looking at the disks of this machine ...", classes="found", markup=False)

    def buttons(self) -> Iterable[Button]:
        """None: the list is enough."""
        return ()

    def on_mount(self) -> None:
        """Follow disks and jobs."""
        self.query_one("#menu").focus()
        self.recovery.surveyed.subscribe(self, self.show_disks)
        if self.recovery.reports is not None or self.recovery.trouble:
            self.show_disks(self.recovery.reports or ())
        self._jobs: list[tuple[str, str]] = []
        self._show_jobs()
        self.set_interval(_JOBS_SECONDS, self._show_jobs)
        self.recovery.begin(self._come_back)
        self.recovery.begin(self._judge_medium)

    def show_disks(self, reports: tuple[DiskReport, ...]) -> None:
        """What was found."""
        glyphs: Glyphs = self.recovery.terminal.glyphs
        place = self.query_one("#disks", VerticalScroll)
        place.remove_children()
        if self.recovery.trouble:
            words = f"The disks could not be listed: {self.recovery.trouble}. It is tried again."
            place.mount(Static(words, classes="warning", markup=False))
            return
        if not reports:
            place.mount(Static("No disk was found. Plug one in: it will appear here.", markup=False))
            return
        words = "One disk was found" if len(reports) == 1 else f"{len(reports)} disks were found"
        fills = f"{glyphs.used} used, {glyphs.free} free, {glyphs.unknown} unknown"
        words += f" ({fills}); Tab and arrow keys show all:"
        place.mount(Static(words, classes="found"), *(Static(card(report, glyphs)) for report in reports))

    def _show_jobs(self) -> None:
        running = [job for job in list_jobs() if job.running]
        lines = [(job.id, _line(job)) for job in running]
        if lines == self._jobs:
            return
        self._jobs = lines
        jobs = self.query_one("#jobs", OptionList)
        jobs.clear_options()
        jobs.add_options([Option(text, id=name) for name, text in lines])
        jobs.highlighted = 0 if lines else None
        jobs.display = bool(lines)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Begin what was chosen, or show the job."""
        event.stop()
        name = event.option.id or ""
        if event.option_list.id == "jobs":
            self.begin(lambda: self._watch(name))
        else:
            self.begin(lambda: begin_entry(self.recovery, name))

    async def _judge_medium(self) -> None:
        """What the check of the medium found, where one was asked for when the machine was started."""
        machine = self.recovery.machine
        check = await self.recovery.ask(medium_check) if machine.live and not machine.recorded else None
        if check is None:
            return
        words = "The stick or disc that this system was started from was checked, and is in order."
        if not check.passed:
            names = shown(", ".join(check.damaged))
            words = f"The stick or disc that this system was started from is DAMAGED ({names}). Make a new one."
        self.query_one("#medium", Static).update(words)
        self.query_one("#medium").display = True

    async def _come_back(self) -> None:
        """To what runs: the interface may have broken, or its line been lost."""
        job = await self.recovery.ask(_newest_at_work) if self.recovery.attaches else None
        if job is not None:
            self.begin(partial(self._watch, job))  # unless the person has begun something meanwhile

    async def _watch(self, job: str) -> None:
        await self.recovery.push_screen_wait(JobScreen(job))


def _newest_at_work() -> str | None:
    """The number of a job that runs, and does not wait for an answer; whoever asked for that has its screen."""
    running = [job for job in list_jobs() if job.running]
    newest_first = sorted(running, key=lambda job: job.record.started, reverse=True)
    return next((job.id for job in newest_first if not _asks(job)), None)


def _asks(job: Job) -> bool:
    """Whether it waits for an answer; by its events where it is too busy to tell."""
    status = status_of(job)
    if status is not None:
        return status.asks
    try:
        with attach(job) as watcher:
            lines = watcher.events()
    except UsageError:
        return True  # it is gone
    kinds = [line for line in lines if line.startswith((_QUESTION, _ANSWERED))]
    return bool(kinds) and kinds[-1].startswith(_QUESTION)


def _line(job: Job) -> str:
    return shown(f"Running: {job.record.kind} {job.record.what}, since {job.record.started:%H:%M}. Enter shows it.")
