"""Whether an incomplete image of the same disks is completed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from textual.widgets import Button, OptionList, Static
from textual.widgets.option_list import Option

from recovery.devices.disk import Disk
from recovery.errors import RecoveryError
from recovery.image.continuing import incomplete_image
from recovery.image.view import SystemImage
from recovery.repository.repository import Repository
from recovery.units import format_bytes
from tui.screens.base import StepScreen

_COMPLETE, _ANEW = "complete", "anew"


class EarlierScreen(StepScreen[bool]):
    """Gives whether it is completed; passed over when there is none."""

    TITLE = "An image of this was begun before: complete it?"
    HELP = (
        "When a disk is failing, some of it may not be readable the first time. To complete an image, only what is "
        "missing in it is read, and the disk is spared. A disk often gives more when it has cooled down, or lies "
        "another way round.\n\n"
        "What was read before is not read again, so this is only for a disk that was not used since then. That is "
        "looked at before anything is stored.\n\n"
        "The image that was begun stays as it is; the completed one stands beside it."
    )
    DEFAULT_CSS = """
    EarlierScreen #choices { height: auto; max-height: 1fr; }
    EarlierScreen #words { margin: 0 0 1 0; }
    """

    def __init__(self, repository: Repository, disks: Sequence[Disk], before: bool | None = None) -> None:
        """``before``: what was chosen, when the person comes back."""
        super().__init__()
        self._repository, self._disks, self._before = repository, disks, before

    def body(self) -> Iterable[Any]:
        """What is known of it, and the choice."""
        yield Static("Looking for earlier images ...", id="words", markup=False)
        yield OptionList(
            Option("Complete it: read only what is missing in it", id=_COMPLETE),
            Option("Make a new image: read all again", id=_ANEW),
            id="choices",
            markup=False,
        )

    def buttons(self) -> Iterable[Button]:
        """Back."""
        yield Button("Back", id="back", compact=True)

    def on_mount(self) -> None:
        """Perhaps there is none."""
        self.query_one("#choices").display = False
        self.query_one("#back").focus()
        self.run_worker(self._look(), exclusive=True)

    async def _look(self) -> None:
        try:
            found = await self.recovery.ask(incomplete_image, self._repository, self._disks)
        except RecoveryError:  # whatever is wrong with the repository, the capture itself tells it
            found = None
        if found is None:
            self.passed_over = True
            self.answer(False)
            return
        self.query_one("#words", Static).update(_words(found))
        choices = self.query_one("#choices", OptionList)
        choices.display = True
        choices.highlighted = 1 if self._before is False else 0
        choices.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """This."""
        event.stop()
        self.answer(event.option.id == _COMPLETE)


def _words(image: SystemImage) -> str:
    missing = sum(disk.unreadable_bytes for disk in image.manifest.disks)
    when = f"{image.stored.snapshot.time.astimezone():%Y-%m-%d %H:%M}"
    return f"An image of {when} lacks {format_bytes(missing)} of what is in use."
