"""Details of a disk, and what it says of its own health (SMART)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Static

from recovery.devices.health import Health
from recovery.errors import RecoveryError
from recovery.inventory import DiskReport, PartitionReport, shown
from recovery.units import format_bytes
from tui.screens.base import PlainScreen
from tui.screens.facts import FactsScreen, paragraph, table
from tui.widgets.disk_bar import DiskBar, content_words
from tui.widgets.disk_list import DiskList, headline, remarks, transport

_TABLES = {"gpt": "GPT", "msdos": "MBR"}
_WORDS = (
    "Serial number and WWN name one single disk: they stand on its label too. A sector is the smallest piece of a "
    "disk that is read or written. A partition is a part of a disk; the partition table says where each one lies, and "
    "has one of two forms, GPT or MBR.\n\n"
    "SMART is what a disk notes about its own health: areas that could not be read, areas it has replaced by spare "
    "ones, how long it was on. A disk that fails often says so here before; one that says nothing may fail all the "
    "same."
)


class DisksScreen(PlainScreen[None]):
    """Of which disk?"""

    TITLE = "Disks"
    HELP = "Choose a disk to see its details and its health. Nothing is written to it.\n\n" + _WORDS
    DEFAULT_CSS = "DisksScreen #list { height: 1fr; }"

    def body(self) -> Iterable[Any]:
        """All of them; each can be looked at."""
        yield Static("Which disk do you want to know more of?", classes="text", markup=False)
        yield DiskList(self.recovery.terminal.glyphs, id="list")

    def on_mount(self) -> None:
        """Follow the disks."""
        self.query_one("#list").focus()
        self.recovery.surveyed.subscribe(self, self._show)
        self._show(self.recovery.reports or ())

    def _show(self, reports: tuple[DiskReport, ...]) -> None:
        self.query_one("#list", DiskList).show(reports)

    def on_disk_list_chosen(self, event: DiskList.Chosen) -> None:
        """Its details."""
        event.stop()
        self.app.push_screen(HealthScreen(event.report))


class HealthScreen(FactsScreen):
    """One disk: what it is, what lies on it, what it says of itself."""

    TITLE = "A disk, and its health"
    HELP = _WORDS
    WAITING = "Asking the disk for its health; one that is failing may take long to answer ..."

    def __init__(self, report: DiskReport) -> None:
        super().__init__()
        self._report = report

    def body(self) -> Iterable[Any]:
        """What the disk says comes first; what is known already stands below it at once."""
        with VerticalScroll(id="facts"):
            yield Static(Text(f"{headline(self._report)}\n", style="bold"), id="which")
            yield Static(f"{self.WAITING}\n", id="text", markup=False)
            yield Static(Group(*self._details()), id="details")

    def find(self) -> list[RenderableType]:
        """What the disk says."""
        try:
            health = self.recovery.machine.health(self._report.disk)
        except RecoveryError as error:
            hint = f" {error.hint}" if error.hint else ""
            reason = error.message[:1].upper() + error.message[1:]
            return [paragraph(f"Health: not known. {reason.rstrip('.')}.{hint}")]
        return health_facts(health)

    def _details(self) -> list[RenderableType]:
        report, disk = self._report, self._report.disk
        spinning = "rotating" if disk.rotational else "no moving parts"
        rows = [
            ("Device", disk.path),
            ("Model", " ".join(word for word in (disk.vendor, disk.model) if word) or "not told"),
            ("Serial number", disk.serial or "not told"),
            ("WWN", disk.wwn or "not told"),
            ("Size", f"{format_bytes(disk.size_bytes)} ({disk.size_bytes:,} bytes)"),
            ("Sector size", f"{disk.logical_sector_bytes} bytes, {disk.physical_sector_bytes} inside the disk"),
            ("Kind", f"{transport(disk.transport)}, {spinning}"),
            ("Partition table", _TABLES.get(report.table.label, report.table.label) if report.table else "none"),
        ]
        facts: list[RenderableType] = [
            DiskBar(report, self.recovery.terminal.glyphs),
            Text(""),
            table((name, shown(value)) for name, value in rows),
        ]
        facts += [Text(_partition(part)) for part in report.partitions]
        facts += [Text(sentence, style="yellow") for sentence in remarks(report)]
        return facts


def health_facts(health: Health) -> list[RenderableType]:
    """Sentences first, the worst first among them; figures below."""
    verdict = {True: "passed", False: "failed: it expects to break soon"}
    figures: list[tuple[str, object, str]] = [
        ("Its own verdict", verdict.get(health.passed) if health.passed is not None else None, ""),
        ("Health is told as", health.kind or None, ""),
        ("Temperature", health.temperature_celsius, " degrees Celsius"),
        ("Switched on for", health.power_on_hours, " hours"),
        ("Sectors replaced", health.reallocated_sectors, ""),
        ("Sectors waiting", health.pending_sectors, " that could not be read and wait to be replaced"),
        ("Sectors lost", health.uncorrectable_sectors, " that it could not read by itself"),
        ("Data lost", health.media_errors, " times it could not give back what was stored"),
        ("Errors on the way", health.transfer_errors, " between the disk and the computer: often a cable"),
        ("Life used up", health.percentage_used, " % of what its maker expects"),
    ]
    facts: list[RenderableType] = []
    if health.dying:
        facts.append(paragraph("This disk loses data, or is about to. Save what is on it now.", "bold"))
    facts += [paragraph(shown(sentence)) for sentence in health.sentences]
    rows = [(name, f"{value}{unit}") for name, value, unit in figures if value is not None]
    return [*facts, table(rows)] if rows else facts


def _partition(part: PartitionReport) -> str:
    entry = part.entry
    holds = part.system or content_words(part.content) or "nothing that is recognised"
    words = [f"Partition {entry.number}", format_bytes(entry.length), holds]
    words += [f"about {format_bytes(part.used_bytes)} used"] if part.used_bytes is not None else []
    return shown("  ".join(words))
