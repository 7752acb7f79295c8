"""``recovery salvage``: files off what is broken."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from recovery.cli.launch import launch
from recovery.cli.operations import operation_of
from recovery.cli.options import Common
from recovery.cli.output import Output
from recovery.cli.requests import SalvageRequest
from recovery.errors import UsageError
from recovery.progress import Progress
from recovery.salvage.choose import FileKind


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("salvage")(salvage_command)
    app.command("scan")(scan_command)


def salvage_command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A disk, a partition or a raw image file.")],
    json: Common.Json = False,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="The new folder for the files.", show_default=False)
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Only say what is found; nothing is saved.")] = False,
    path: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only files that fit: *.odt, home/anna/*.", show_default=False),
    ] = None,
    kind: Annotated[
        list[FileKind] | None, typer.Option(help="Only files of this kind.", show_default=False, case_sensitive=False)
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Only from this partition.", show_default=False)
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Search the disk for filesystems, whatever its table says.")
    ] = False,
) -> None:
    """Save files off a disk whose filesystems do not open.  The source is only read; what is not whole is named."""
    if listing == (to is not None):
        raise UsageError("say either --to FOLDER or --list", "--list shows what is found, and saves nothing.")
    request = SalvageRequest(
        source=source,
        target=to,
        patterns=tuple(path or ()),
        kinds=frozenset(kind or ()),
        partitions=frozenset(partition) if partition else None,
        search=search,
    )
    output = Output(context.obj.merged(json=json).json)
    sys.exit(launch(request.kind, request.what, operation_of(request, None), output, foreground=listing))


def scan_command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A disk or a raw image file.")],
    json: Common.Json = False,
) -> None:
    """Search a disk for filesystems.  For one whose partition table is gone; nothing is written."""
    from recovery.cli.salvaging import scan_disk

    output = Output(context.obj.merged(json=json).json)
    sys.exit(scan_disk(source, output, Progress()))
