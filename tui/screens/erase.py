"""Erase a disk for a new repository: which one, what is on it, its name typed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Button, Input, Static

from recovery.devices.disk import Disk
from recovery.formatting import FormatPlan
from recovery.inventory import DiskReport, shown
from recovery.surveyor import SILENT
from tui.screens.base import PlainScreen
from tui.whereabouts import paths_of
from tui.widgets.disk_list import DiskList, card

_EXT4 = (
    "The disk gets one partition with an ext4 filesystem, which Linux reads; Windows does not. Then the repository is "
    "made in it."
)


class WhichDiskScreen(PlainScreen[DiskReport | None]):
    """Gives the disk to be erased; None when the person went back."""

    TITLE = "Which disk is to be erased?"
    HELP = (
        "Choose the disk that the repository is to be kept on. Everything that is on it now will be lost; before that, "
        "you are shown what it holds and asked once more.\n\n"
        "Each disk is drawn as a bar of its partitions, which are the parts it is divided into. The disks that are to "
        "be saved, the stick that this system was started from, and disks in use cannot be chosen."
    )

    def __init__(self, kept_off: Collection[Disk] = ()) -> None:
        """``kept_off``: disks that are read."""
        super().__init__()
        self._kept_off = kept_off

    def body(self) -> Iterable[Any]:
        """The disks."""
        yield DiskList(self.recovery.terminal.glyphs, why_not=self._why_not, id="list")

    def on_mount(self) -> None:
        """Follow the disks."""
        self.query_one("#list").focus()
        self.recovery.surveyed.subscribe(self, self._show)
        self._show(self.recovery.reports or ())

    def _show(self, reports: tuple[DiskReport, ...]) -> None:
        self.query_one("#list", DiskList).show(reports)

    def _why_not(self, report: DiskReport) -> str | None:
        disk = report.disk
        if disk.path in paths_of(self._kept_off, self.recovery.reports or ()):
            return "it is to be saved: an image cannot be kept on the disk that it is made of."
        if disk.boot_medium:
            return "this system was started from it."
        if SILENT in report.findings:
            return "it does not answer."
        if disk.in_use:
            return f"it is in use: {shown('; '.join(disk.in_use))}."
        if disk.read_only:
            return "it is read-only by its hardware."
        return None

    def on_disk_list_chosen(self, event: DiskList.Chosen) -> None:
        """The answer."""
        event.stop()
        self.dismiss(event.report)


class EraseScreen(PlainScreen[bool]):
    """What is on the disk, and its short name to be typed; gives whether it is to be erased."""

    TITLE = "Erase this disk?"
    HELP = (
        "Everything on the disk that is shown will be lost, and cannot be brought back. To make sure that it is the "
        "right one, type its short name as it stands there; then choose the button.\n\n" + _EXT4
    )
    DEFAULT_CSS = """
    EraseScreen #present { height: 1fr; }
    EraseScreen #present-text { height: auto; }
    EraseScreen #problem { height: auto; }
    """

    def __init__(self, plan: FormatPlan, images: str = "") -> None:
        """``images``: what is known of images on it, in a sentence."""
        super().__init__()
        self._plan, self._images = plan, images

    @property
    def _short_name(self) -> str:
        return shown(self._plan.short_name)

    def body(self) -> Iterable[Any]:
        """What is lost, and where to type."""
        with VerticalScroll(id="present", can_focus=False):
            yield Static(self._present(), id="present-text", markup=False)
        yield Static(f"Type {self._short_name} to erase it:", id="label", markup=False)
        yield Input(id="name")
        yield Static("", id="problem", classes="warning", markup=False)

    def _present(self) -> RenderableType:
        lines: list[RenderableType] = [
            Text("This disk will be erased. All that it holds now will be lost:\n", style="bold"),
            card(self._plan.report, self.recovery.terminal.glyphs),
        ]
        lines += [Text(f"{self._images}\n", style="bold yellow")] if self._images else []
        lines += [
            Text(f"It breaks more than this disk: {shown(broken)}\n", style="yellow") for broken in self._plan.breaks
        ]
        lines.append(Text(_EXT4))
        return Group(*lines)

    def buttons(self) -> Iterable[Button]:
        """The harmless one first."""
        yield Button("Cancel", id="back", compact=True)
        yield Button("Erase it and make a repository", id="erase", compact=True)

    def on_mount(self) -> None:
        """Harmless first."""
        self.query_one("#back").focus()

    def action_back(self) -> None:
        """Nothing is erased."""
        self.dismiss(False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The button is what erases: Enter here only goes there."""
        event.stop()
        self.query_one("#erase").focus()

    def pressed(self, name: str) -> None:
        """Erase it, if the name is right."""
        typed = self.query_one("#name", Input).value.strip()
        if typed == self._short_name:
            self.dismiss(True)
            return
        words = f"{shown(typed)} is not its name." if typed else "Its name was not typed."
        self.query_one("#problem", Static).update(f"{words} Type {self._short_name}. Nothing was erased.")
        self.query_one("#name").focus()
