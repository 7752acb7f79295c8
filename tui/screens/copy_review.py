"""What is copied where, before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from recovery.errors import RecoveryError
from recovery.inventory import shown
from recovery.jobs.watching import Watcher
from recovery.salvage.copy import measure
from recovery.units import counted, format_bytes
from tui.job_view import JobView
from tui.screens.base import StepScreen

_SHOWN = 8


class CopyReview(StepScreen[JobView]):
    """Starts the job when it is agreed to; gives its view."""

    TITLE = "Review: what will be copied"
    HELP = (
        "The files that were marked are copied into a new folder; nothing that is there already is replaced. The disk "
        "that they come from is only read.\n\n"
        "Where a part of a file cannot be read, the copy has zeros there, and the file is named at the end; the rest "
        "is copied all the same."
    )
    DEFAULT_CSS = "CopyReview #all { height: 1fr; }"

    def __init__(
        self, paths: tuple[Path, ...], root: Path, target: Path, free_bytes: int, spawn: Callable[[], Watcher]
    ) -> None:
        """``paths`` below ``root`` go to ``target``, where ``free_bytes`` are free; ``spawn`` starts it."""
        super().__init__()
        self._paths, self._root, self._target = paths, root, target
        self._free_bytes, self._spawn = free_bytes, spawn
        self._busy = False

    def body(self) -> Iterable[Any]:
        """From, to, how much."""
        names = [shown(str(path.relative_to(self._root))) for path in self._paths]
        names = [name if name != "." else "everything" for name in names]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        with VerticalScroll(id="all", can_focus=False):
            yield Static(f"To be copied: {', '.join(names[:_SHOWN])}{more}", classes="text", markup=False)
            yield Static(f"Into the new folder {shown(str(self._target))}", classes="text", markup=False)
            yield Static("Counting the files ...", id="size", classes="text", markup=False)
        yield Static("", id="said", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """The harmless one first."""
        yield Button("Cancel", id="back", compact=True)
        yield Button("Start", id="start", compact=True)

    def on_mount(self) -> None:
        """Count meanwhile: on a broken disk that may take long, and is not waited for."""
        self.query_one("#back").focus()
        self.run_worker(self._measure(), exclusive=True, group="measure")

    async def _measure(self) -> None:
        size = await self.recovery.ask(measure, self._paths)
        free = f"{format_bytes(self._free_bytes)} are free there."
        words = f"{counted(size.files, 'file')}, {format_bytes(size.bytes)}; {free}"
        if size.bytes > self._free_bytes:
            words += " That is too much: go back, and mark less or choose a larger disk."
        self.query_one("#size", Static).update(words)

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
