"""A list of disks that a person can recognise, and choose from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from recovery.inventory import DiskReport, shown
from recovery.units import format_bytes
from tui.glyphs import Glyphs
from tui.whereabouts import is_same
from tui.widgets.disk_bar import DiskBar

_TRANSPORTS = {
    "usb": "USB",
    "nvme": "NVMe",
    "ata": "SATA",
    "scsi": "SCSI",
    "virtio": "virtual disk",
    "mmc": "memory card",
    "md": "RAID array",
    "dm": "multipath",
    "file": "image file",
    "loop": "loop device",
}


def transport(kind: str | None) -> str:
    """How a disk is connected, as people call it."""
    return _TRANSPORTS.get(kind or "", kind or "")


#: Why a disk cannot be chosen, in a sentence; None when it can.
Why = Callable[[DiskReport], str | None]
#: What is worth knowing of a disk that can be chosen, in a sentence; empty when nothing is.
Note = Callable[[DiskReport], str]


def headline(report: DiskReport) -> str:
    """Name, size, model, serial and how it is connected: what stands on its label and in the shop's bill."""
    disk = report.disk
    words = [disk.name, format_bytes(disk.size_bytes), " ".join(word for word in (disk.vendor, disk.model) if word)]
    words += [transport(disk.transport)]
    words += ["removable"] if disk.removable else []
    words += [f"serial {disk.serial}"] if disk.serial else []
    return shown("  ".join(word for word in words if word))


def remarks(report: DiskReport) -> list[str]:
    """What else a person should know of the disk."""
    disk = report.disk
    found = ["This is the stick or disc that this system was started from."] if disk.boot_medium else []
    found += [f"In use: {'; '.join(disk.in_use)}."] if disk.in_use else []
    found += ["It cannot be written: it is read-only by its hardware."] if disk.read_only else []
    return [shown(sentence) for sentence in (*found, *report.findings)]


def card(
    report: DiskReport, glyphs: Glyphs, mark: str = "", problem: str | None = None, note: str = ""
) -> RenderableType:
    """One disk: its headline, its bar, and remarks."""
    parts: list[RenderableType] = [
        Text(f"{mark} {headline(report)}".strip(), style="bold", no_wrap=True, overflow="ellipsis"),
        DiskBar(report, glyphs),
    ]
    if problem:
        parts.append(Text(f"Cannot be chosen: {problem}", style="yellow"))
    else:
        parts += [Text(note)] if note else []
        parts += [Text(sentence, style="yellow") for sentence in remarks(report)]
    return Padding(Group(*parts), (0, 0, 1, 0))


class DiskList(OptionList):
    """Disks to choose from: one (``Chosen`` is posted), or several by marks (``Marked``)."""

    class Chosen(Message):
        """A disk was chosen."""

        def __init__(self, report: DiskReport) -> None:
            super().__init__()
            self.report = report

    class Marked(Message):
        """The marks changed."""

        def __init__(self, reports: tuple[DiskReport, ...]) -> None:
            super().__init__()
            self.reports = reports

    def __init__(
        self,
        glyphs: Glyphs,
        *,
        why_not: Why = lambda report: None,
        note: Note = lambda report: "",
        several: bool = False,
        marked: Sequence[str] = (),
        chosen: str = "",
        id: str | None = None,
    ) -> None:
        """``why_not`` disables a disk with a reason.  ``marked``, ``chosen``: paths of disks, from before."""
        super().__init__(id=id, markup=False)
        self._glyphs, self._why_not, self._note, self._several = glyphs, why_not, note, several
        self._marked = set(marked)
        self._wanted = chosen
        self._reports: dict[str, DiskReport] = {}

    @property
    def marked(self) -> tuple[DiskReport, ...]:
        """The disks that are marked, in the order of the list."""
        return tuple(report for path, report in self._reports.items() if path in self._marked)

    @property
    def pointed(self) -> DiskReport | None:
        """The disk under the pointer."""
        option = self.highlighted_option
        return self._reports.get(option.id or "") if option is not None else None

    def show(self, reports: Sequence[DiskReport]) -> None:
        """Show these disks; the pointer and marks stay with their disks."""
        found = {report.disk.path: report for report in reports}
        problems = {path: self._why_not(report) for path, report in found.items()}
        before = self.pointed.disk.path if self.pointed is not None else self._wanted
        replaced = {
            path
            for path, report in found.items()
            if path in self._reports and not is_same(report.disk, self._reports[path].disk)
        }
        self._reports = found
        lost = {path for path in self._marked if path not in found or problems[path] or path in replaced}
        self._marked -= lost
        options = [
            Option(
                card(report, self._glyphs, self._mark(path, problems[path]), problems[path], self._note(report)),
                id=path,
                disabled=problems[path] is not None,
            )
            for path, report in found.items()
        ]
        self.set_options(options)
        usable = [number for number, path in enumerate(found) if problems[path] is None]
        at = [number for number in usable if list(found)[number] == before]
        self.highlighted = next(iter((*at, *usable)), None)
        if lost:
            self.post_message(self.Marked(self.marked))

    def mark(self, paths: Collection[str]) -> None:
        """Mark these disks, of those that are shown and can be chosen, and no others."""
        usable = {path for path, report in self._reports.items() if self._why_not(report) is None}
        self._marked = usable.intersection(paths)
        self.show(list(self._reports.values()))
        self.post_message(self.Marked(self.marked))

    def _mark(self, path: str, problem: str | None) -> str:
        if not self._several:
            return ""
        if problem is not None:
            return "[-]"
        return f"[{self._glyphs.chosen if path in self._marked else ' '}]"

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Choose, or turn the mark."""
        event.stop()
        path = event.option.id or ""
        report = self._reports[path]
        if not self._several:
            self.post_message(self.Chosen(report))
            return
        self._marked ^= {path}
        self.replace_option_prompt(path, card(report, self._glyphs, self._mark(path, None), None, self._note(report)))
        self.post_message(self.Marked(self.marked))

    def on_key(self, event: events.Key) -> None:
        """Space is as good as Enter."""
        if event.key == "space":
            event.stop()
            self.action_select()
