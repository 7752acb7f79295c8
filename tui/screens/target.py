"""Which disk is overwritten: each judged by whether it fits, and by whether it may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.widgets import Button, Static

from recovery.devices.disk import Disk
from recovery.errors import RecoveryError
from recovery.inventory import DiskReport
from recovery.surveyor import SILENT
from tui.screens.base import StepScreen
from tui.verdicts import is_dying
from tui.widgets.disk_list import DiskList

#: What is asked of disks is shown after so long although some have not answered, and then not waited for any longer.
_SHOW_SECONDS, _PATIENCE_SECONDS = 1.0, 15.0
_UNDER_WAY = "It is being looked at ..."
_SILENT = "It does not answer. It may be broken, or badly plugged in."

#: Why a disk does not fit, in a sentence; None when it does.
Misfit = Callable[[DiskReport], str | None]
#: How it fits, in a sentence.
Fit = Callable[[DiskReport], str]


class JudgedDisksScreen(StepScreen[DiskReport]):
    """A list of disks that follows what is plugged in; those that cannot be chosen say why."""

    DEFAULT_CSS = """
    JudgedDisksScreen #list { height: auto; max-height: 1fr; }
    JudgedDisksScreen #status { height: auto; }
    """
    EMPTY: ClassVar[str] = "There is no disk that can be chosen. Plug one in: it will appear here."

    def __init__(self, *, chosen: str = "") -> None:
        """``chosen``: path of the disk that was chosen before."""
        super().__init__()
        self._chosen = chosen
        self._problems: dict[str, str | None] = {}
        self._seen: tuple[tuple[DiskReport, ...], dict[str, str | None]] | None = None

    def judge(self, disk: Disk) -> list[str]:
        """Why the engine would refuse it; asked beside the interface's thread, because it may hang."""
        raise NotImplementedError

    def misfit(self, report: DiskReport) -> str | None:
        """What is known at once to speak against it."""
        return None

    def note(self, report: DiskReport) -> str:
        """What is worth knowing of a disk that can be chosen."""
        return ""

    def body(self) -> Iterable[Any]:
        """The list, and what is going on."""
        glyphs = self.recovery.terminal.glyphs
        yield DiskList(glyphs, why_not=self._why_not, note=self.note, chosen=self._chosen, id="list")
        yield Static("Looking at the disks ...", id="status", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and a look once more."""
        yield Button("Back", id="back", compact=True)
        yield Button("Look again", id="again", compact=True)

    def on_mount(self) -> None:
        """Follow the disks."""
        self.query_one("#list").focus()
        self.recovery.surveyed.subscribe(self, self._surveyed)
        if self.recovery.reports is not None:
            self._surveyed(self.recovery.reports)

    def pressed(self, name: str) -> None:
        """Look again: what was in the way may be gone."""
        self.recovery.look()
        self._surveyed(self.recovery.reports or ())

    def _surveyed(self, reports: tuple[DiskReport, ...]) -> None:
        self.run_worker(self._judge_all(reports), name="judge", group="judge", exclusive=True)

    def _why_not(self, report: DiskReport) -> str | None:
        return self._problems.get(report.disk.path, _UNDER_WAY)

    async def _judge_all(self, reports: tuple[DiskReport, ...]) -> None:
        """Show them as soon as all have answered, or after a moment with those that have."""
        judged = {report.disk.path: self._at_once(report) for report in reports}
        self._problems = {path: problem for path, problem in judged.items() if problem is not None}
        asked = {
            asyncio.ensure_future(self._ask(report.disk)): report.disk.path
            for report in reports
            if report.disk.path not in self._problems
        }
        try:
            pending = set(asked)
            for seconds in (_SHOW_SECONDS, _PATIENCE_SECONDS):
                if pending:
                    done, pending = await asyncio.wait(pending, timeout=seconds)
                    self._problems |= {asked[task]: task.result() for task in done}
                self._show(reports)
                if not pending:
                    return
            self._problems |= {asked[task]: _SILENT for task in pending}
            self._show(reports)
        finally:
            for task in asked:
                task.cancel()

    def _at_once(self, report: DiskReport) -> str | None:
        return _SILENT if SILENT in report.findings else self.misfit(report)

    async def _ask(self, disk: Disk) -> str | None:
        try:
            return " ".join(await self.recovery.ask(self.judge, disk)) or None
        except RecoveryError as error:
            return error.message

    def _show(self, reports: Sequence[DiskReport]) -> None:
        usable = [report for report in reports if self._why_not(report) is None]
        usable.sort(key=is_dying)  # the pointer is at the first
        others = [report for report in reports if self._why_not(report) is not None]
        seen = ((*usable, *others), dict(self._problems))
        if seen != self._seen:
            self._seen = seen
            self.query_one("#list", DiskList).show(seen[0])
        self.query_one("#status", Static).update("" if usable else self.EMPTY)

    def on_disk_list_chosen(self, event: DiskList.Chosen) -> None:
        """This one."""
        event.stop()
        self.answer(event.report)


class TargetScreen(JudgedDisksScreen):
    """The disk that is overwritten."""

    TITLE = "Onto which disk? What it holds now will be lost."
    HELP = (
        "The target is the disk that is overwritten. What it holds now is lost; you will be shown once more what that "
        "is before anything is written, and asked to type the disk's name.\n\n"
        "Compare the size, the model and the serial number with the label on the disk itself. Names such as sda can "
        "change from one start to the next.\n\n"
        "Disks that cannot be chosen are at the end of the list, with the reason. Mounted means that a filesystem on "
        "the disk is in use at this moment; read-only, that the disk itself refuses to be written. A sector is the "
        "smallest piece that a disk reads or writes, mostly 512 bytes; a system only fits a disk with sectors of the "
        "size that it was made for."
    )

    def __init__(
        self,
        misfit: Misfit,
        fit: Fit,
        *,
        repository: Path | None = None,
        sources: Sequence[Disk] = (),
        chosen: str = "",
    ) -> None:
        """``repository``: the folder that is read, ``sources``: the disks that are."""
        super().__init__(chosen=chosen)
        self._misfit, self._fit = misfit, fit
        self._repository, self._sources = repository, tuple(sources)

    def judge(self, disk: Disk) -> list[str]:
        """As the engine will."""
        return self.recovery.machine.target_problems(disk, self._repository, self._sources)

    def misfit(self, report: DiskReport) -> str | None:
        """By its size."""
        return self._misfit(report)

    def note(self, report: DiskReport) -> str:
        """How it fits; and that another should be chosen, if it is so."""
        if is_dying(report):
            return f"Choose another if you can: what is written to a failing disk may be lost. {self._fit(report)}"
        return self._fit(report)


class SourceScreen(JudgedDisksScreen):
    """The disk that is copied."""

    TITLE = "Which disk is copied?"
    HELP = (
        "The source is the disk that is read. Nothing is written to it. It must not be in use: a filesystem that is "
        "mounted changes while it is read.\n\n"
        "Disks that cannot be chosen are at the end of the list, with the reason."
    )

    def judge(self, disk: Disk) -> list[str]:
        """As the engine will."""
        return self.recovery.machine.source_problems(disk, None)
