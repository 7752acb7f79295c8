"""Where to, or where from: the places that may hold a repository."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from textual.widgets import Button, OptionList, Static
from textual.widgets.option_list import Option

from recovery.destination import Destination, NotClosed
from recovery.devices.disk import Disk
from recovery.errors import RecoveryError, Refused
from recovery.formatting import FormatPlan
from recovery.inventory import DiskReport, shown
from recovery.places import Folder, look_into
from tui.modals import Note, Question
from tui.screens.base import StepScreen
from tui.screens.erase import EraseScreen, WhichDiskScreen
from tui.screens.folder import FolderScreen
from tui.screens.place_entries import NEW_FOLDER, WRITING, Entry, Place, Purpose, Seen, disk_of, entries, fresh_folder
from tui.verdicts import keeps_images
from tui.whereabouts import paths_of

if TYPE_CHECKING:
    from tui.app import RecoveryApp

__all__ = ["Place", "PlaceScreen"]

T = TypeVar("T")

#: A mounted filesystem that does not answer is not waited for any longer.
_PATIENCE_SECONDS = 15.0
_NOT_CLOSED = (
    "The filesystem on {device} was not closed cleanly: it was in use when its machine stopped. Before anything can be "
    "stored there, what was left unfinished is put in order, and that writes to it.\n\n"
    "If it is a disk that is to be rescued, do not. If it is the disk that you keep images on, it is all right."
)
#: What stands above the list.
_ABOUT: dict[Purpose, str] = {
    "store": "An image is kept in a folder on another disk, which is called a repository.",
    "read": "Images lie in a folder that is called a repository, mostly on a USB disk.",
}
_UNFINISHED = "{} is being erased, and would be left neither empty nor usable."


class _Left(Exception):
    """The screen was left meanwhile: nobody waits for what comes now."""


class PlaceScreen(StepScreen[Place]):
    """A list of places; what is not mounted is mounted when it is chosen."""

    HELP = (
        "A repository is a folder that holds system images. It is kept on another disk than the one that is saved: a "
        "USB disk, a second disk in the machine, or a share on the network that is mounted here.\n\n"
        "A disk is divided into partitions; a partition holds a filesystem, which is what folders and files lie in. "
        "To mount a filesystem is to make its folders available here: the program does it when you choose it. To look "
        "at a repository, nothing is written to its disk.\n\n"
        "A snapshot is one saved state in a repository: a system image, or a copy of files.\n\n"
        "Plug a disk in: it appears in the list. What cannot be chosen is at the end of the list, with the reason."
    )
    DEFAULT_CSS = """
    PlaceScreen #places { height: 1fr; }
    PlaceScreen #status { height: auto; }
    """

    def __init__(
        self,
        purpose: Purpose,
        *,
        kept_off: Collection[Disk] = (),
        needed_bytes: int = 0,
        chosen: Place | None = None,
        title: str = "",
    ) -> None:
        """``purpose``: "store" (a place that is written to) or "read".

        ``kept_off``: the disks that are read, where nothing may be stored; ``needed_bytes``: what may be.
        """
        super().__init__()
        self.TITLE = title or (  # type: ignore[misc]
            "Where is the image to be kept?" if purpose == "store" else "Where are the images kept?"
        )
        self._purpose: Purpose = purpose
        self._kept_off, self._needed_bytes = kept_off, needed_bytes
        self._chosen = self._typed = chosen
        self._entries: list[Entry] = []
        self._known = False
        self._makeshift = ""
        self._mounted: tuple[tuple[Destination, tuple[Folder, ...]], ...] = ()
        self._busy = False
        #: What was mounted from here.
        self._opened: set[Path] = set()

    def body(self) -> Iterable[Any]:
        """The list, and what is being done."""
        if self._purpose in _ABOUT:
            yield Static(_ABOUT[self._purpose], id="about", markup=False)
        yield OptionList(id="places", markup=False)
        yield Static("Looking for places ...", id="status", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and a look once more."""
        yield Button("Back", id="back", compact=True)
        yield Button("Look again", id="again", compact=True)

    def on_mount(self) -> None:
        """Follow the disks."""
        self.query_one("#places").focus()
        self.recovery.surveyed.subscribe(self, self._surveyed)
        self._begin_looking()

    def _surveyed(self, reports: tuple[DiskReport, ...]) -> None:
        self._begin_looking()

    def pressed(self, name: str) -> None:
        """Look again."""
        self.recovery.look()
        self._begin_looking()

    def answer(self, value: Any) -> None:
        """What was mounted from here and is not the answer is given back: its disk may be the target of a restore."""
        super().answer(value)
        others = (
            {folder for folder in self._opened if not value.folder.is_relative_to(folder)}
            if isinstance(value, Place)
            else set()  # they are given back at the end of the journey
        )
        if others:
            self.recovery.begin(partial(self.recovery.give_back, others))

    # -- looking

    def _begin_looking(self) -> None:
        self.run_worker(self._look(), group="look", exclusive=True)

    async def _look(self) -> None:
        """What is mounted; the disks are known already, or come by themselves."""
        said = ""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                self._mounted = await self.recovery.ask(_look_at_mounted, self.recovery.machine.destinations)
        except TimeoutError:
            said = "A filesystem that is mounted does not answer. What else was found is listed."
        except RecoveryError as error:
            said = f"What is mounted could not be listed: {error.message}"
        if self._busy:
            return
        self._show()
        self._say(said or ("" if self.recovery.reports is not None else "Looking at the disks ..."))
        self._remember()  # last: it may begin this anew

    def _remember(self) -> None:
        """On which disks there are images: whoever is to overwrite one later is told."""
        for made, folders in self._mounted:
            disk = disk_of(made.device, self.recovery.reports or ())
            filled = [shown(str(folder.folder)) for folder in folders if folder.snapshots]
            if disk is not None and filled:
                self.recovery.remember_images(disk, filled)

    def _show(self) -> None:
        """The list anew; the pointer stays with its line, else goes to what was chosen before.

        There is none before the disks are known, and none stays where it only came for want of a disk: who presses
        Enter at once means the first of them.
        """
        places = self.query_one("#places", OptionList)
        pointed = places.highlighted_option
        before = pointed.id if pointed is not None and pointed.id != self._makeshift else None
        seen = Seen(self._mounted, self.recovery.reports or ())
        found = entries(
            seen, self._purpose, kept_off=self._paths_kept_off(), needed_bytes=self._needed_bytes, typed=self._typed
        )
        known = self.recovery.reports is not None
        if (found, known) == (self._entries, self._known):
            return
        self._entries, self._known = found, known
        places.set_options(Option(_prompt(entry), id=entry.key, disabled=bool(entry.problem)) for entry in found)
        usable = [number for number, entry in enumerate(found) if not entry.problem]
        same = [number for number in usable if found[number].key == before]
        chosen = [n for n in usable if self._chosen is not None and _leads_to(found[n], self._chosen)]
        at = next(iter((chosen if before is None else same) or usable), None)
        self._makeshift = found[at].key if at is not None and found[at].action in ("erase", "folder") else ""
        places.highlighted = at if known else None

    def _say(self, sentence: str) -> None:
        status = self.query_one("#status", Static)
        status.update(sentence)
        status.display = bool(sentence)

    # -- choosing

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Give the place, or do what must be done before."""
        event.stop()
        entry = next((entry for entry in self._entries if entry.key == event.option.id), None)
        if entry is None or self._busy:
            return
        place = entry.place
        if place is not None and self._purpose == "files" and entry.key.startswith("new:"):
            self._begin(lambda: self._make_folder_in(place))
            return
        if place is not None:
            self.answer(place)
            return
        match entry.action:
            case "mount":
                self._begin(lambda: self._use_device(entry))
            case "erase":
                self._begin(self._erase)
            case "folder":
                self._begin(self._name_folder)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it for as long as this screen is there: a disk may take its time, and nobody has to wait for it."""

        async def guarded() -> None:
            with contextlib.suppress(_Left):
                await work()

        self.recovery.begin(guarded)

    async def _use_device(self, entry: Entry, unclean: bool = False, disk: Disk | None = None) -> None:
        """Mount it; where it holds one repository, or room for one, that is the answer.

        ``disk``: the one that was asked about; else the one that is listed now.
        """
        device = entry.device
        assert device is not None
        machine, borrowed = self.recovery.machine, self.recovery.borrowed
        disk = disk or disk_of(str(device), self.recovery.reports or ())

        def mount() -> Destination:
            if disk is not None:
                machine.check_same(disk)
            made = machine.mount(device, read_only=self._purpose not in WRITING, unclean=unclean)
            return borrowed.add(made)

        try:
            made = await self._working(f"Mounting {device.name} ...", mount)
        except NotClosed:
            text = _NOT_CLOSED.format(device=device.name)
            buttons = [("cancel", "Cancel"), ("mount", "Put it in order and use it")]
            if await self.recovery.push_screen_wait(Question("Not closed cleanly", text, buttons)) == "mount":
                await self._use_device(entry, unclean=True, disk=disk)
            return
        await self._take(made)

    async def _take(self, made: Destination) -> None:
        self._opened.add(Path(made.folder))
        self.recovery.look()  # its disk is in use now
        if not self.on_top:  # the person reads the help: the list shows it
            self._begin_looking()
        elif self._purpose == "look":
            self.answer(Place(Path(made.folder), True, made.device, made.free_bytes))
        elif self._purpose == "files":
            await self._make_folder_in(Place(Path(made.folder), False, made.device, made.free_bytes))
        elif len(made.repositories) == 1:
            self.answer(Place(Path(made.repositories[0]), True, made.device, made.free_bytes))
        elif not made.repositories and self._purpose == "store":
            self.answer(Place(Path(made.folder) / NEW_FOLDER, False, made.device, made.free_bytes))
        else:
            if not made.repositories:
                text = (
                    f"No repository was found on {Path(made.device).name}: neither its top folder is one, nor a folder "
                    "in it. If it is deeper inside, choose: Another folder."
                )
                await self.recovery.push_screen_wait(Note("No repository there", text))
            self._begin_looking()

    async def _make_folder_in(self, place: Place) -> None:
        """A name for a folder that is not there yet; it is made when the work begins."""
        folder = await self._working("Looking for a free name ...", partial(fresh_folder, place.folder))
        self.answer(Place(folder, False, place.device, place.free_bytes))

    async def _erase(self) -> None:
        """Which disk, what is on it, the name typed; then a new filesystem."""
        report = await self.recovery.push_screen_wait(WhichDiskScreen(self._kept_off))
        if report is None:
            return
        machine = self.recovery.machine
        plan = await self._working(f"Looking at {report.disk.name} ...", partial(machine.plan_format, report.disk))
        if plan.disk.path in self._paths_kept_off():
            raise Refused(f"{plan.disk.path} is to be saved itself", "Choose another disk for the image.")
        if not await self.recovery.push_screen_wait(EraseScreen(plan, keeps_images(report))):
            return
        # Not left from now on; what does it takes that back.
        self.recovery.unfinished = _UNFINISHED.format(shown(plan.short_name))
        made = await self._working(
            f"Erasing {report.disk.name} and making a filesystem on it ...",
            partial(_erased, self.recovery, plan),
        )
        await self._take(made)

    def _paths_kept_off(self) -> frozenset[str]:
        return paths_of(self._kept_off, self.recovery.reports or ())

    async def _name_folder(self) -> None:
        """A folder that is typed."""
        before = str(self._typed.folder) if self._typed is not None else ""
        place = await self.recovery.push_screen_wait(FolderScreen(self._purpose, self._kept_off, before))
        if place is not None:
            self.answer(place)

    async def _working(self, sentence: str, question: Callable[[], T]) -> T:
        """Ask the machine, and say so meanwhile.  The screen can be left, and what was begun goes on: raises _Left."""
        self._busy = True
        self._say(sentence)
        try:
            found = await self.recovery.ask(question)
        finally:
            self._busy = False
            if self in self.app.screen_stack:
                self._say("")
        if self not in self.app.screen_stack:
            raise _Left
        return found


def _erased(app: RecoveryApp, plan: FormatPlan) -> Destination:
    """Erase it, in a thread."""
    try:
        return app.borrowed.add(app.machine.format(plan))
    finally:
        app.unfinished = ""


def _look_at_mounted(
    destinations: Callable[[], list[Destination]],
) -> tuple[tuple[Destination, tuple[Folder, ...]], ...]:
    return tuple((made, tuple(_repositories_in(made))) for made in destinations())


def _repositories_in(made: Destination) -> Iterator[Folder]:
    """Those that were found when it was mounted, and the one that was made since."""
    since = str(Path(made.folder) / NEW_FOLDER)
    for place in sorted({*made.repositories, since}):
        folder = look_into(Path(place))
        if place in made.repositories or folder.repository:
            yield folder


def _leads_to(entry: Entry, place: Place) -> bool:
    """Whether choosing the entry gives, or gave, the place."""
    return entry.place is not None and entry.place.folder == place.folder


def _prompt(entry: Entry) -> RenderableType:
    lines: list[RenderableType] = [
        Text(entry.title, style="bold", overflow="fold"),
        Padding(Text(entry.detail), (0, 0, 0, 2)),
    ]
    if entry.problem:
        lines.append(Padding(Text(f"Cannot be chosen: {entry.problem}", style="yellow"), (0, 0, 0, 2)))
    return Group(*lines)
