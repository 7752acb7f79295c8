"""What a capture will read, how much it will store, and what it does to be sure of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from recovery.devices.disk import Disk
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.inventory import DiskReport, shown
from recovery.jobs.watching import Watcher
from recovery.units import format_bytes
from tui.estimates import ROUGHLY, capture_seconds, duration
from tui.screens.review import ReviewScreen
from tui.verdicts import is_dying
from tui.widgets.disk_bar import DiskBar, segments_of_image
from tui.widgets.disk_list import headline
from tui.widgets.tick import Tick

_VERIFY = (
    "Read everything back afterwards: finds faulty disks, cables and memory. It takes about as long as storing did."
)
_AUDIT = "Audit: compare the image with the files of its filesystems. It reads the image once more, and takes longest."
_FAILING = (
    "This disk is failing. What is easy to read is read first, places that are hard to read last. It may take hours "
    "longer than is said here, and can be finished early: the image then holds what was read until then, and can be "
    "completed later."
)


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How sure the image is to be; ``verify``: what was stored is read back."""

    verify: bool = True
    audit: bool = False


class CaptureReview(ReviewScreen):
    """The plan of a capture."""

    TITLE = "Review: what will be saved"
    HELP = (
        "This is what will be saved. The disks are only read; something is stored only in the repository, only after "
        "you choose Start. Going back changes nothing.\n\n"
        "In use: only what a filesystem uses is read; a part whose filesystem was not closed cleanly, or is not known, "
        "is read whole. What is stored is compressed, and what the repository knows already is not stored again.\n\n"
        "Reading back: what was stored is read from the destination once more and compared. It finds counterfeit "
        "sticks, bad cables and bad memory.\n\n"
        "An audit opens the image and looks whether every file of its filesystems is in it. Both can be done later too."
    )
    WAITING = "Looking at the disks, and reading samples. Nothing is stored before you agree ..."
    START = "Start"
    DEFAULT_CSS = """
    CaptureReview Tick { margin: 0; }
    """

    def __init__(
        self,
        spawn: Callable[[], Watcher],
        reports: Sequence[DiskReport],
        where: str,
        destination: Disk | None,
        options: CaptureOptions,
        keep: Callable[[CaptureOptions], None],
    ) -> None:
        """``reports``: the disks, in the order of the request; ``where``: the repository, on ``destination`` if known.

        ``options``: as they were left; ``keep`` is told of each change.
        """
        super().__init__(spawn)
        self._reports, self._where, self._options, self._keep = tuple(reports), where, options, keep
        self._destination = destination

    def draw(self, plan: dict[str, Any]) -> Sequence[RenderableType]:
        """Each disk, and the sums."""
        disks = msgspec.convert(plan["disks"], tuple[ImageDisk, ...])
        lines: list[RenderableType] = []
        for report, disk in zip(self._reports, disks, strict=True):
            lines.append(Text(headline(report), style="bold", no_wrap=True, overflow="ellipsis"))
            lines.append(DiskBar(segments_of_image(disk), self.recovery.terminal.glyphs))
            lines += [Padding(Text(sentence), (0, 0, 0, 2)) for sentence in _parts(disk)]
            if is_dying(report):
                lines.append(Text(_FAILING, style="yellow"))
        predicted, free = int(plan["predicted_bytes"]), int(plan["free_bytes"])
        lines.append(
            Text(
                f"{format_bytes(int(plan['used_bytes']))} will be read. About {format_bytes(predicted)} will be stored "
                f"in {self._where}, where {format_bytes(free)} are free."
            )
        )
        sources = [report.disk for report in self._reports]
        seconds, again = capture_seconds(sources, int(plan["used_bytes"]), predicted, self._destination)
        lines.append(Text(f"Time: {duration(seconds)}, and {duration(again)} to read it back, {ROUGHLY}."))
        return lines

    def options(self) -> Iterable[Any]:
        """How sure the image is to be."""
        yield Tick(_VERIFY, on=self._options.verify, id="verify")
        yield Tick(_AUDIT, on=self._options.audit, id="audit")

    def on_tick_changed(self, event: Tick.Changed) -> None:
        """They go with the agreement: the plan stays as it is."""
        event.stop()
        self._options = CaptureOptions(
            verify=self.query_one("#verify", Tick).on, audit=self.query_one("#audit", Tick).on
        )
        self._keep(self._options)

    def confirmation(self) -> str:
        """Yes, and how."""
        verify = "verify" if self._options.verify else "no-verify"
        return f"yes {verify} {'audit' if self._options.audit else 'no-audit'}"


def _parts(disk: ImageDisk) -> list[str]:
    """What of each partition is read, where that is not simply what is in use."""
    return [sentence for part in disk.partitions if (sentence := _part(part))]


def _part(part: ImagePartition) -> str:
    where = f"Partition {part.number}" if part.number else "The disk"
    match part.method:
        case "left-out":
            return f"{where} is left out of the image."
        case "whole":
            reason = f": {shown(part.reason)}" if part.reason else ""
            return f"{where} is read whole ({format_bytes(part.length)}){reason}."
    return f"{where}: {shown(part.reason)}." if part.reason else ""
