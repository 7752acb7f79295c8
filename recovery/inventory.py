"""What is in this machine: every disk with its table, its partitions and what is on each; for ``recovery disks``."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recovery.devices.disk import Disk, disk_for, list_disks
from recovery.devices.health import Health
from recovery.devices.probe import Content, probe
from recovery.devices.table import PartitionTable, TableEntry, examine_table
from recovery.devices.usage import printable
from recovery.errors import DeviceError
from recovery.extent import Extent
from recovery.filesystems.fill import used_bytes
from recovery.filesystems.living import system_on
from recovery.units import format_bytes

#: Names for the partition types met most; for the rest the type as the table writes it.
_TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft data",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "0x05": "extended",
    "0x0f": "extended",
    "0x07": "NTFS/exFAT",
    "0x0b": "FAT32",
    "0x0c": "FAT32",
    "0x0e": "FAT16",
    "0x82": "Linux swap",
    "0x83": "Linux",
    "0x85": "extended",
    "0x8e": "Linux LVM",
    "0xef": "EFI system",
    "0xfd": "Linux RAID",
}


class PartitionReport(msgspec.Struct, frozen=True):
    """A partition, and what is on it: None when nothing is recognised.

    ``used_bytes`` is about how much of it holds data (None: not known); ``system`` what lives there, in words, empty
    when that is not known.
    """

    entry: TableEntry
    content: Content | None
    used_bytes: int | None = None
    system: str = ""


class DiskReport(msgspec.Struct, frozen=True):
    """A disk, its table (None: none that can be read), what lies straight on it, its partitions, and what is amiss.

    ``used_bytes`` and ``system`` are, as those of a partition, of what lies straight on it.  ``health`` is None where
    the disk was not asked for it.
    """

    disk: Disk
    table: PartitionTable | None
    content: Content | None
    partitions: tuple[PartitionReport, ...]
    findings: tuple[str, ...]
    used_bytes: int | None = None
    system: str = ""
    health: Health | None = None


def survey(paths: Sequence[Path] = ()) -> list[DiskReport]:
    """Look at the disks and image files named, or at all disks of the machine when none is.

    A disk that cannot be read is told in its report.  Raises DeviceError only for a name that is no disk.
    """
    disks = [disk_for(path) for path in paths] if paths else list_disks()
    return [survey_disk(disk) for disk in disks]


def survey_disk(disk: Disk) -> DiskReport:
    """Look at one disk.  Reads only; what cannot be read is a finding."""
    findings: list[str] = []
    table: PartitionTable | None = None
    try:
        reading = examine_table(disk.place, disk.size_bytes, disk.logical_sector_bytes)
        table = reading.table
        findings += reading.findings if table is None else table.findings
    except DeviceError as error:
        findings.append(_sentence(error))
    content = _probe(disk, Extent(0, disk.size_bytes), findings)
    if content is not None and content.kind == "table":
        content = None
    used, system = _life(disk, Extent(0, disk.size_bytes), content)
    entries = table.entries if table is not None else ()
    partitions = [_survey_partition(disk, entry, findings) for entry in entries]
    if disk.boot_medium and table is not None:  # made for discs and sticks alike: as a disc it has other sectors
        findings = [finding for finding in findings if finding not in table.findings]
    return DiskReport(disk, table, content, tuple(partitions), tuple(dict.fromkeys(findings)), used, system)


def _survey_partition(disk: Disk, entry: TableEntry, findings: list[str]) -> PartitionReport:
    if entry.role == "extended" or entry.offset >= disk.size_bytes:
        return PartitionReport(entry, None)
    extent = Extent(entry.offset, min(entry.end, disk.size_bytes) - entry.offset)
    content = _probe(disk, extent, findings)
    return PartitionReport(entry, content, *_life(disk, extent, content, entry.type))


def _life(disk: Disk, extent: Extent, content: Content | None, partition_type: str = "") -> tuple[int | None, str]:
    """How full it is, and what lives there."""
    used = used_bytes(disk.place, extent, content)
    return used, system_on(disk.place, extent, content, partition_type, disk.logical_sector_bytes)


def render(reports: Iterable[DiskReport]) -> RenderableType:
    """The reports for a terminal at least 80 columns wide; terminal escapes in labels and names are made harmless."""
    parts: list[RenderableType] = []
    for report in reports:
        parts.append(_headline(report))
        if report.partitions or report.content is not None:
            parts.append(Padding(_rows(report), (0, 0, 0, 2)))
        for finding in report.findings:
            parts.append(Padding(Text(f"! {shown(finding)}", style="yellow"), (0, 0, 0, 2)))
        if report.health is not None:
            mark, style = ("! ", "yellow") if report.health.dying else ("", "")
            parts.append(Padding(Text(mark + shown(" ".join(report.health.sentences)), style=style), (0, 0, 0, 2)))
        parts.append(Text())
    return Group(*parts[:-1]) if parts else Text("No disks were found.")


def shown(text: str) -> str:
    """``text`` with control characters, terminal escapes and what reorders text made visible and harmless."""
    return "".join(
        character if unicodedata.category(character)[0] != "C" else character.encode("unicode_escape").decode()
        for character in text
    )


def _probe(disk: Disk, extent: Extent, findings: list[str]) -> Content | None:
    try:
        return probe(disk.place, extent, disk.logical_sector_bytes)
    except DeviceError as error:
        findings.append(_sentence(error))
        return None


def _sentence(error: DeviceError) -> str:
    message = printable(error.message)
    return message if message.endswith(".") else f"{message}."


def _headline(report: DiskReport) -> Text:
    disk = report.disk
    model = " ".join(word for word in (disk.vendor, disk.model) if word)
    facts = [format_bytes(disk.size_bytes), model, disk.transport or ""]
    facts += [f"serial {disk.serial}"] if disk.serial else []
    if report.table is not None:
        facts.append(f"{report.table.label} table")
    elif report.content is None and not report.findings:
        facts.append("no partition table")
    size, physical = disk.logical_sector_bytes, disk.physical_sector_bytes
    if (size, physical) != (512, 512):
        facts.append(f"sectors of {size} bytes" if size == physical else f"sectors of {size}/{physical} bytes")
    marks = {
        "removable": disk.removable,
        "read-only": disk.read_only,
        "write-protected": disk.write_protected,
        "the medium this system was started from": disk.boot_medium,
    }
    facts += [word for word, true in marks.items() if true]
    text = Text(shown(disk.path), style="bold")
    text.append(f"  {shown(', '.join(fact for fact in facts if fact))}", style="not bold")
    if disk.in_use:
        text.append(f"\n  in use: {shown('; '.join(disk.in_use))}", style="not bold cyan")
    return text


def _rows(report: DiskReport) -> Table:
    rows = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    rows.add_column("#", justify="right", no_wrap=True)
    rows.add_column("start", justify="right", no_wrap=True)
    rows.add_column("size", justify="right", no_wrap=True)
    rows.add_column("used", justify="right", no_wrap=True)
    rows.add_column("type", overflow="fold")
    rows.add_column("content", no_wrap=True)
    rows.add_column("label or name, system", overflow="fold")
    if report.content is not None:
        size = format_bytes(report.disk.size_bytes)
        rows.add_row("-", "0 B", size, *_used_and_content(report, "whole disk", None))
    for partition in report.partitions:
        entry = partition.entry
        kind = _TYPES.get(entry.type, entry.type)
        places = (str(entry.number), format_bytes(entry.offset), format_bytes(entry.length))
        rows.add_row(*places, *_used_and_content(partition, kind, entry.name))
    return rows


def _used_and_content(report: DiskReport | PartitionReport, kind: str, name: str | None) -> tuple[Text, ...]:
    content = report.content
    used = format_bytes(report.used_bytes) if report.used_bytes is not None else ""
    label = (content.label if content is not None else None) or name
    repeats = report.system.startswith(kind) or report.system == label or content is None
    lives = "\n".join(shown(words) for words in (label, "" if repeats else report.system) if words)
    return Text(used), _cell(kind), _cell(content.type if content is not None else None), Text(lives)


def _cell(text: str | None) -> Text:
    return Text(shown(text or ""))
