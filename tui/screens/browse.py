"""Folders and files of a filesystem, with marks on what is to be copied."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import Button, OptionList, Static
from textual.widgets.option_list import Option

from recovery.errors import RecoveryError
from recovery.inventory import shown
from recovery.salvage.copy import Size, measure
from recovery.units import counted, format_bytes
from tui.screens.base import StepScreen

#: So many entries of a folder are listed; a larger one can be marked as a whole.
_LISTED = 500
_HERE, _UP = "here", "up"


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a folder; ``size_bytes``: of a file."""

    path: Path
    folder: bool
    size_bytes: int


class BrowseScreen(StepScreen[tuple[Path, ...]]):
    """Gives the files and folders that were marked."""

    TITLE = "Which files are to be copied?"
    HELP = (
        "These are the folders and files of the filesystem that was opened. It is open for reading only: nothing on it "
        "can be changed or deleted here.\n\n"
        "Enter opens a folder, Space marks what is under the pointer, also a whole folder with all that is in it. "
        "Backspace goes one folder up. The line below the list says how much is marked.\n\n"
        "Documents and pictures of people are in 'Users' (Windows) or 'home' (Linux)."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("backspace", "up", "Folder up", key_display="Backspace")]
    DEFAULT_CSS = """
    BrowseScreen #path { height: auto; text-style: bold; }
    BrowseScreen #files { height: 1fr; }
    BrowseScreen #status { height: auto; }
    """

    def __init__(self, root: Path, marked: tuple[Path, ...] = ()) -> None:
        """``root``: the top folder; ``marked``: from before."""
        super().__init__()
        self._root = self._at = root
        self._marked = set(marked)
        self._listed: dict[str, Listed] = {}

    def body(self) -> Iterable[Any]:
        """Where, what is there, how much is marked."""
        yield Static("", id="path", markup=False)
        yield OptionList(id="files", markup=False)
        yield Static("", id="status", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and on."""
        yield Button("Back", id="back", compact=True)
        yield Button("Copy what is marked ...", id="copy", compact=True)

    def on_mount(self) -> None:
        """From the top."""
        self.query_one("#files").focus()
        self._open(self._root)
        self._count()

    # -- looking

    def _open(self, folder: Path, pointed: Path | None = None) -> None:
        self._say_path(f"Looking into {shown(str(folder))} ...")
        self.run_worker(self._list(folder, pointed), group="list", exclusive=True)

    async def _list(self, folder: Path, pointed: Path | None) -> None:
        try:
            found, more = await self.recovery.ask(list_folder, folder)
        except RecoveryError as error:
            self._say_path(f"The folder {shown(folder.name)} cannot be read: {error.message}.")
            return
        self._at = folder
        inside = folder.relative_to(self._root)
        self._say_path(f"In: {shown(str(inside)) if inside.parts else 'the top folder'}")
        self._listed = {str(number): entry for number, entry in enumerate(found)}
        files = self.query_one("#files", OptionList)
        rows = [] if folder == self._root else [Option("    .. (one folder up)", id=_UP)]
        rows.append(Option(self._line_here(), id=_HERE))
        rows += [Option(self._line(entry), id=name) for name, entry in self._listed.items()]
        if not found:
            rows.append(Option("    This folder is empty.", disabled=True))
        if more:
            rows.append(Option(f"    and {more} more: mark the whole folder to copy them", disabled=True))
        files.set_options(rows)
        at = [number for number, row in enumerate(rows) if (e := self._listed.get(row.id or "")) and e.path == pointed]
        files.highlighted = next(iter(at), min(len(rows) - 1, 1))

    def _line_here(self) -> str:
        return f"{self._mark(self._at)} Everything in this folder"

    def _line(self, entry: Listed) -> str:
        what = "folder" if entry.folder else format_bytes(entry.size_bytes)
        return f"{self._mark(entry.path)} {shown(entry.path.name)}{os.sep if entry.folder else ''}  {what}"

    def _mark(self, path: Path) -> str:
        inside = any(parent in self._marked for parent in path.parents)
        return f"[{self.recovery.terminal.glyphs.chosen if path in self._marked or inside else ' '}]"

    def _say_path(self, words: str) -> None:
        self.query_one("#path", Static).update(words)

    def _say(self, words: str) -> None:
        self.query_one("#status", Static).update(words)

    # -- marking

    def _count(self) -> None:
        if not self._marked:
            self._say("Nothing is marked. Space marks what is under the pointer.")
            return
        self._say(f"Marked: {len(self._marked)}. Counting ...")
        self.run_worker(self._measure(tuple(self._marked)), group="measure", exclusive=True)

    async def _measure(self, marked: tuple[Path, ...]) -> None:
        size: Size = await self.recovery.ask(measure, marked)
        if set(marked) == self._marked:
            empty = "" if size.files else " There is nothing to copy in it."
            self._say(f"Marked: {counted(size.files, 'file')}, {format_bytes(size.bytes)}.{empty}")

    def _turn(self, path: Path) -> None:
        if any(parent in self._marked for parent in path.parents):
            self._say("It is in a folder that is marked, and is copied with it.")
            return
        self._marked ^= {path}
        if path in self._marked:  # what is in it is copied with it
            self._marked = {other for other in self._marked if path not in other.parents}
        files = self.query_one("#files", OptionList)
        files.replace_option_prompt(_HERE, self._line_here())
        for name, entry in self._listed.items():
            if path in (entry.path, self._at):  # of a large folder, drawing every line again takes its time
                files.replace_option_prompt(name, self._line(entry))
        self._count()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Open a folder; mark anything else."""
        event.stop()
        name = event.option.id or ""
        entry = self._listed.get(name)
        if name == _UP:
            self.action_up()
        elif name == _HERE:
            self._turn(self._at)
        elif entry is not None and entry.folder:
            self._open(entry.path)
        elif entry is not None:
            self._turn(entry.path)

    def on_key(self, event: events.Key) -> None:
        """Space marks, also a folder."""
        files = self.query_one("#files", OptionList)
        option = files.highlighted_option
        if event.key != "space" or self.focused is not files or option is None:
            return
        event.stop()
        entry = self._listed.get(option.id or "")
        if option.id == _HERE:
            self._turn(self._at)
        elif entry is not None:
            self._turn(entry.path)

    def action_up(self) -> None:
        """One folder up."""
        if self._at != self._root:
            self._open(self._at.parent, self._at)

    def pressed(self, name: str) -> None:
        """On, with what is marked."""
        if self._marked:
            self.answer(tuple(sorted(self._marked)))
        else:
            self._count()


def list_folder(folder: Path) -> tuple[list[Listed], int]:
    """Folders first, then files, by name; and how many more there are.  Raises OSError; for a thread that may hang."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
                found.append(Listed(Path(entry.path), stat.S_ISDIR(status.st_mode), status.st_size))
            except OSError:  # it is named, and the copy says what is wrong with it
                found.append(Listed(Path(entry.path), False, 0))
    found.sort(key=lambda entry: (not entry.folder, entry.path.name.lower()))
    return found[:_LISTED], max(0, len(found) - _LISTED)
