"""Which system image: of which machine, of when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from recovery.errors import RecoveryError
from recovery.inventory import shown
from recovery.repository.repository import Repository
from recovery.units import format_bytes
from tui.images import Listing, StoredImage, disk_words, list_images
from tui.screens.base import StepScreen

#: So many are read at first: each costs two reads far apart.
NEWEST = 50
#: From so many on a field appears that narrows the list.
_MANY = 6
_OLDER = "older"

IMAGE_WORDS = (
    "A system image is a copy of one or several whole disks of a machine, as they were at one time. The repository is "
    "the folder that holds the images. The list has the newest image first, with the name of the machine, its disks "
    "and their sizes.\n\n"
    "Added: what this image added to the repository. Images share what is equal, so each of them is whole although "
    "little was added for it.\n\n"
    "Incomplete: something could not be read from the disk when the image was made. What could be read is in it."
)


class ImagesScreen(StepScreen[StoredImage]):
    """The images of a repository, the newest first; gives one whose manifest could be read."""

    TITLE = "Which system image?"
    HELP: ClassVar[str] = IMAGE_WORDS
    DEFAULT_CSS = """
    ImagesScreen #narrow { display: none; margin: 0 0 1 0; }
    ImagesScreen #images { height: auto; max-height: 1fr; }
    ImagesScreen #status { height: auto; }
    """

    def __init__(self, repository: Repository, *, chosen: str = "") -> None:
        """``chosen``: the id of the image that was chosen before."""
        super().__init__()
        self._repository, self._chosen = repository, chosen
        self.listing: Listing | None = None

    def body(self) -> Iterable[Any]:
        """A field to narrow the list, the list, remarks."""
        yield Input(placeholder="Show only images that contain: a machine's name, a date, a disk's model", id="narrow")
        yield OptionList(id="images", markup=False)
        yield Static("Reading which images there are ...", id="status", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back."""
        yield Button("Back", id="back", compact=True)

    def on_mount(self) -> None:
        """Read them."""
        self.query_one("#images").focus()
        self.run_worker(self._read(NEWEST))

    async def _read(self, newest: int | None) -> None:
        try:
            self.listing = await self.recovery.ask(list_images, self._repository, newest)
        except RecoveryError as error:
            self.query_one("#status", Static).update(f"{error.message}\n{error.hint}".strip())
            self.query_one("#back").focus()
            return
        many = len(self.listing.images) + self.listing.older > _MANY
        self.query_one("#narrow").display = many
        self.show(self.listing)

    def show(self, listing: Listing) -> None:
        """Show those that contain what was typed."""
        words = self.query_one("#narrow", Input).value.lower().split()
        images = [image for image in listing.images if all(word in _text(image) for word in words)]
        options = [Option(_row(image), id=image.id, disabled=image.manifest is None) for image in images]
        if listing.older and not words:
            options.append(Option(f"Read {listing.older} older images too", id=_OLDER))
        rows = self.query_one("#images", OptionList)
        rows.set_options(options)
        wanted = [number for number, image in enumerate(images) if image.id == self._chosen and image.manifest]
        usable = [number for number, option in enumerate(options) if not option.disabled]
        rows.highlighted = next(iter((*wanted, *usable)), None)
        status = self.query_one("#status", Static)
        status.update("\n".join(_remarks(listing, found=bool(images))))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list."""
        event.stop()
        if self.listing is not None:
            self.show(self.listing)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """To the list."""
        event.stop()
        self.query_one("#images").focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """This one, or the older ones too."""
        event.stop()
        if event.option.id == _OLDER:
            self.query_one("#status", Static).update("Reading the older images too ...")
            self.run_worker(self._read(None))
            return
        for image in self.listing.images if self.listing else ():
            if image.id == event.option.id:
                self.answer(image)


def _row(image: StoredImage) -> RenderableType:
    hardware = f"  ({image.hardware})" if image.hardware else ""
    new = f"  added: {format_bytes(image.new_bytes)}" if image.new_bytes is not None else ""
    lines: list[RenderableType] = [
        Text(f"{image.when}  {image.machine}{hardware}{new}", style="bold", no_wrap=True, overflow="ellipsis")
    ]
    if image.manifest is not None:
        lines += [Text(f"  {disk_words(disk)}", no_wrap=True, overflow="ellipsis") for disk in image.manifest.disks]
    else:
        lines.append(Text(f"  Cannot be chosen: {image.problem}", style="yellow"))
    lines += [Text(f"  {mark}", style="yellow") for mark in image.marks()]
    return Padding(Group(*lines), (0, 0, 1, 0))


def _text(image: StoredImage) -> str:
    """What is searched."""
    disks = [disk_words(disk) for disk in image.manifest.disks] if image.manifest else []
    return " ".join([image.when, image.machine, image.hardware, *disks, *image.marks()]).lower()


def _remarks(listing: Listing, *, found: bool) -> Sequence[str]:
    said: list[str] = []
    if not listing.images:
        said.append("There is no system image in this repository.")
    elif not found:
        said.append("No image contains what was typed.")
    if listing.files:
        words = "1 entry holds" if listing.files == 1 else f"{listing.files} entries hold"
        said.append(f"{words} files and not disks, and cannot be restored here.")
    said += [f"Cannot be read: {shown(problem)}" for problem in listing.problems]
    return said
