"""What is in a repository: its system images, and snapshots of files; and one of them with all that is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from recovery.errors import RecoveryError
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.inventory import shown
from recovery.units import format_bytes
from tui.contents import StoredFiles, list_files
from tui.images import Listing, StoredImage, disk_words
from tui.screens.base import StepScreen
from tui.screens.images import IMAGE_WORDS, ImagesScreen
from tui.widgets.disk_bar import DiskBar, content_words, segments_of_image

#: What is wanted of an image: to put it back, to have it checked, or gone.
Wanted = Literal["restore", "verify", "audit", "forget"]


class ContentsScreen(ImagesScreen):
    """System images and snapshots of files, each to be looked at."""

    TITLE = "What is in this repository"
    HELP = (
        IMAGE_WORDS + "\n\nFiles: a snapshot of files is a copy of some files and folders, not of a disk. The program "
        "restic made it, and puts it back. It is listed here, and can be forgotten."
    )
    files: tuple[StoredFiles, ...] = ()

    async def _read(self, newest: int | None) -> None:
        try:
            self.files = await self.recovery.ask(list_files, self._repository)
        except RecoveryError:
            self.files = ()  # what follows tells why
        await super()._read(newest)

    def show(self, listing: Listing) -> None:
        """The images, and the files below them."""
        super().show(listing)
        words = self.query_one("#narrow", Input).value.lower().split()
        rows = self.query_one("#images", OptionList)
        fitting = [one for one in self.files if all(word in _text(one) for word in words)]
        rows.add_options(Option(_row(one), id=one.id) for one in fitting)
        if rows.highlighted is None and fitting:
            rows.highlighted = rows.get_option_index(fitting[0].id)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Files are an answer too."""
        for one in self.files:
            if one.id == event.option.id:
                event.stop()
                event.prevent_default()
                self.answer(one)
                return


class DetailsScreen(StepScreen[Wanted]):
    """One system image or snapshot of files; what is to be done with it."""

    TITLE = "What was saved"
    HELP = (
        "Used: what a partition held when it was saved; only that was read and stored. A partition is a part of a "
        "disk; a filesystem is what folders and files lie in.\n\n"
        "Restore puts the image back onto a disk.\n\n"
        "Verify reads all that is stored for this image, and says whether it is in order. It can take as long as the "
        "capture did.\n\n"
        "Audit does that, and also looks whether everything that the image's filesystems need is in it.\n\n"
        "Forget removes it from the repository, and frees the space that nothing else needs. You are shown before what "
        "goes and what stays."
    )
    DEFAULT_CSS = """
    DetailsScreen #facts { height: 1fr; }
    DetailsScreen #facts Static { height: auto; }
    """

    def __init__(self, of: StoredImage | StoredFiles) -> None:
        super().__init__()
        self._of = of

    def body(self) -> Iterable[Any]:
        """All that is known of it."""
        with VerticalScroll(id="facts", can_focus=False):
            yield Static(Group(*self._facts()), id="text")

    def buttons(self) -> Iterable[Button]:
        """What can be done with it; nothing that harms has the focus."""
        yield Button("Back", id="back", compact=True)
        if isinstance(self._of, StoredImage):
            yield Button("Restore", id="restore", compact=True)
            yield Button("Verify", id="verify", compact=True)
            yield Button("Audit", id="audit", compact=True)
        yield Button("Forget", id="forget", compact=True)

    def on_mount(self) -> None:
        """The text can be scrolled at once."""
        self.query_one("#facts").focus()

    def pressed(self, name: str) -> None:
        """That is wanted."""
        self.answer(name)

    def _facts(self) -> Iterable[RenderableType]:
        if isinstance(self._of, StoredFiles):
            yield from _files_facts(self._of)
            return
        image = self._of
        yield Text(f"System image {image.id[:8]} of {image.machine}, {image.when}", style="bold")
        added = f"  It added {format_bytes(image.new_bytes)} to the repository." if image.new_bytes is not None else ""
        yield Text(f"{image.hardware or 'Maker and model of the machine are not known'}.{added}\n")
        yield from (Text(f"{mark}\n", style="yellow") for mark in image.marks())
        for disk in image.manifest.disks if image.manifest else ():
            yield from self._disk(disk)

    def _disk(self, disk: ImageDisk) -> Iterable[RenderableType]:
        yield Text(f"{disk_words(disk)}  {format_bytes(disk.used_bytes)} saved", style="bold")
        yield DiskBar(segments_of_image(disk), self.recovery.terminal.glyphs)
        yield from (Text(shown(_partition(part))) for part in disk.partitions if part.role != "extended")
        if disk.unreadable_bytes:
            yield Text(f"{format_bytes(disk.unreadable_bytes)} of it could not be read.", style="yellow")
        yield from (Text(shown(finding), style="yellow") for finding in disk.findings)
        yield Text("")


def _partition(part: ImagePartition) -> str:
    name = f"Partition {part.number}" if part.number else "The whole disk"
    words = [name, format_bytes(part.length), content_words(part.content) or "nothing that is recognised"]
    saved = {
        "map": f"{format_bytes(part.used_bytes)} used",
        "swap-header": "swap: needs no saving but its first bytes",
        "left-out": "left out of the image",
    }
    words.append(saved.get(part.method, "saved whole"))
    words += ["was not closed cleanly"] if part.clean is False else []
    return "  ".join(words)


def _files_facts(files: StoredFiles) -> Sequence[RenderableType]:
    paths = "\n".join(f"  {path}" for path in files.paths)
    return [
        Text(f"Files of {files.machine}, {files.when}", style="bold"),
        Text(f"\nFiles and folders were saved here, not disks:\n\n{paths}\n"),
        Text("They are put back with the program restic, which made it. Its number there is " + files.id[:8] + "."),
    ]


def _row(files: StoredFiles) -> RenderableType:
    new = f"  added: {format_bytes(files.new_bytes)}" if files.new_bytes is not None else ""
    lines = [
        Text(f"{files.when}  {files.machine}  Files{new}", style="bold", no_wrap=True, overflow="ellipsis"),
        Text(f"  {', '.join(files.paths)}", no_wrap=True, overflow="ellipsis"),
    ]
    return Padding(Group(*lines), (0, 0, 1, 0))


def _text(files: StoredFiles) -> str:
    """What is searched."""
    return " ".join([files.when, files.machine, "files", *files.paths]).lower()
