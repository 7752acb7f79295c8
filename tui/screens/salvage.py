"""Which disk files are to be saved from, which of them, and the review before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from recovery.errors import RecoveryError
from recovery.inventory import DiskReport, shown
from recovery.jobs.watching import Watcher
from recovery.salvage.choose import FileKind
from recovery.units import format_bytes
from tui.job_view import JobView
from tui.screens.base import StepScreen
from tui.screens.choice import Choice, ChoiceScreen
from tui.screens.place import Place
from tui.screens.target import SourceScreen
from tui.widgets.disk_list import headline

_KINDS: dict[FileKind, tuple[str, str]] = {
    FileKind.DOCUMENTS: ("Documents", "Letters, tables, slides, PDF, notes, books, password stores."),
    FileKind.PICTURES: ("Pictures", "Photos, also as cameras write them, drawings, scans."),
    FileKind.MUSIC: ("Music and sound", "And the projects of programs that make some."),
    FileKind.VIDEOS: ("Videos", "Films, and the projects of programs that cut them."),
    FileKind.MAIL: ("Mail, addresses, calendars", "As Outlook, Thunderbird and others keep them."),
    FileKind.DATABASES: ("Databases", "Of programs and of servers."),
    FileKind.SETTINGS: ("Settings", "Of the system and of programs, keys among them."),
}


class BrokenDiskScreen(SourceScreen):
    """The disk that files are saved from; a dying one is as good as any."""

    TITLE = "From which disk?"
    HELP = (
        "The disk that holds the files. It is only read. Its filesystems (what folders and files lie in) need not open "
        "any more: they are read by this program itself, and where even the list of the disk's partitions (the parts "
        "that it is divided into) is gone, the whole disk is searched for them.\n\n"
        "Disks that cannot be chosen are at the end of the list, with the reason. Mounted means that a filesystem on "
        "it is open at this moment."
    )


class KindScreen(ChoiceScreen):
    """Gives ``ALL``, or the name of a kind of files."""

    ALL: ClassVar[str] = "all"
    TITLE = "Which files are to be saved?"
    HELP = (
        "On a disk that is dying, save first what matters most: less is read, and it is done sooner. You can come back "
        "for the rest.\n\n"
        "What a file is, is told by the end of its name (.odt, .jpg), and by the folder that it is in. A file whose "
        "name is lost is saved with all files only."
    )

    def choices(self) -> Sequence[Choice]:
        """All of them, then each kind."""
        everything = Choice(self.ALL, "All files", (Text("Everything that is found, with its folders."),))
        return (everything, *(Choice(kind, title, (Text(words),)) for kind, (title, words) in _KINDS.items()))


class SalvageReview(StepScreen[JobView]):
    """Starts the job when it is agreed to; gives its view."""

    TITLE = "Review: what will be saved"
    HELP = (
        "The files are saved into a new folder; nothing that is there already is replaced. The disk that they come "
        "from is only read.\n\n"
        "Whole is a file of which all could be read, and whose place on the disk nothing speaks against. Damaged is "
        "one of which something is missing: zeros stand for that. Lost is one of which only the name is left. A list "
        "of all that is not whole is kept beside the files.\n\n"
        "What is in no folder any more is put into the folder 'nameless'."
    )
    DEFAULT_CSS = "SalvageReview #all { height: 1fr; }"

    def __init__(self, source: DiskReport, files: str, target: Place, spawn: Callable[[], Watcher]) -> None:
        """``files``: the answer of ``KindScreen``; ``spawn`` starts it."""
        super().__init__()
        self._source, self._files, self._target, self._spawn = source, files, target, spawn
        self._busy = False

    def body(self) -> Iterable[Any]:
        """From, what, to."""
        what = "All files" if self._files == KindScreen.ALL else _KINDS[FileKind(self._files)][0]
        free, size = self._target.free_bytes, self._source.disk.size_bytes
        with VerticalScroll(id="all", can_focus=False):
            yield Static(f"From {headline(self._source)}", classes="text", markup=False)
            yield Static(f"To be saved: {what}.", classes="text", markup=False)
            into = f"Into the new folder {shown(str(self._target.folder))}, where {format_bytes(free)} are free."
            yield Static(into, classes="text", markup=False)
            room = f"the disk holds at most {format_bytes(size)}" if free < size else "there is room for all of it"
            words = f"How much there is, is not known before it was read; {room}."
            yield Static(words, classes="text", markup=False)
        yield Static("", id="said", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """The harmless one first."""
        yield Button("Cancel", id="back", compact=True)
        yield Button("Start", id="start", compact=True)

    def on_mount(self) -> None:
        """Nothing is begun by accident."""
        self.query_one("#back").focus()

    def pressed(self, name: str) -> None:
        """Start it."""
        if not self._busy:
            self._busy = True
            self.run_worker(self._start(), group="start")

    async def _start(self) -> None:
        try:
            watcher = await self.recovery.ask(self._spawn)
        except RecoveryError as error:
            self.query_one("#said", Static).update(f"{error.message}. {error.hint}")
        else:
            self.answer(JobView(watcher))
        finally:
            self._busy = False
