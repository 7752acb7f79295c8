"""A folder for a repository, typed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from textual.widgets import Button, Input, Static

from recovery.devices.disk import Disk
from recovery.errors import RecoveryError
from recovery.places import Folder, look_into
from tui.machine import Machine
from tui.screens.base import PlainScreen
from tui.screens.place_entries import WRITING, Place, Purpose
from tui.whereabouts import paths_of

_QUESTIONS: dict[Purpose, str] = {
    "store": "Where is the repository, or where is it to be made?",
    "read": "Where is the repository?",
    "look": "Where are the files?",
    "files": "Where do the copies go? It must be a new or an empty folder.",
}


class FolderScreen(PlainScreen[Place | None]):
    """Gives the place that was named; None when the person went back."""

    TITLE = "Which folder?"
    HELP = (
        "Type the whole name of a folder, beginning with /: for example /mnt/backup/recovery. To store, it may be a "
        "new or an empty folder, or one that is a repository already. To read, it must be a repository.\n\n"
        "A repository is a folder that holds system images. A share of the network is used in the same way: mount it "
        "(Tools, Shell), and name its folder here."
    )
    DEFAULT_CSS = "FolderScreen #problem { height: auto; margin: 1 0 0 0; }"

    def __init__(self, purpose: Purpose, kept_off: Collection[Disk] = (), before: str = "") -> None:
        """``kept_off``: disks where nothing may be stored; ``before``: what was typed at another time."""
        super().__init__()
        self._purpose: Purpose = purpose
        self._kept_off, self._before = kept_off, before
        self._asking = False

    def body(self) -> Iterable[Any]:
        """A line to type in."""
        yield Static(
            f"{_QUESTIONS[self._purpose]} Type the folder's name, beginning with /.", classes="text", markup=False
        )
        yield Input(self._before, id="folder")
        yield Static("", id="problem", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and on."""
        yield Button("Back", id="back", compact=True)
        yield Button("Continue", id="continue", compact=True)

    def on_mount(self) -> None:
        """Typing at once."""
        self.query_one("#folder").focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter is as good as Continue."""
        event.stop()
        self.pressed("continue")

    def pressed(self, name: str) -> None:
        """See what the folder is."""
        text = self.query_one("#folder", Input).value.strip()
        if not text.startswith("/"):
            self._say("Its name must begin with /, for example /mnt/backup.")
        elif not self._asking:
            self._asking = True
            self._say("Looking at it ...")
            self.run_worker(self._check(Path(text)), exclusive=True)

    def _say(self, sentence: str) -> None:
        self.query_one("#problem", Static).update(sentence)

    async def _check(self, folder: Path) -> None:
        try:
            found, problem = await self.recovery.ask(
                _judge, folder, self._purpose, self.recovery.machine, self._sources()
            )
        finally:
            self._asking = False
        self._say(problem)
        if not problem:
            self.answer(Place(found.folder, found.repository, found.device, found.free_bytes))

    def _sources(self) -> list[Any]:
        reports = self.recovery.reports or ()
        paths = paths_of(self._kept_off, reports)
        return [report.disk for report in reports if report.disk.path in paths]


def _folder_problem(folder: Path, *, new: bool) -> str:
    try:
        if not folder.exists():
            return "" if new else "There is no such folder."
        if not folder.is_dir():
            return "It is a file, not a folder."
        return "It is not empty: name a new folder." if new and any(folder.iterdir()) else ""
    except OSError as error:
        return f"It cannot be looked into: {error.strerror}."


def _judge(folder: Path, purpose: Purpose, machine: Machine, sources: list[Any]) -> tuple[Folder, str]:
    """What it is, and why it cannot be used; for a thread that may hang."""
    found = look_into(folder)
    if found.fleeting and purpose in WRITING:
        return found, "It lies in the memory of this machine: all in it is lost when the machine is switched off."
    if purpose in ("look", "files"):
        problem = _folder_problem(folder, new=purpose == "files")
        if problem or purpose == "look":
            return found, problem
    elif found.problem:
        return found, found.problem
    if purpose == "read":
        return (
            found,
            "" if found.repository else "It is no repository: something that every repository has is missing.",
        )
    if found.read_only:
        return found, "It cannot be written: it lies on something that is read-only, or mounted for reading only."
    try:
        problems = [problem for disk in sources for problem in machine.source_problems(disk, folder)]
    except RecoveryError as error:
        problems = [error.message]
    return found, " ".join(problems)
