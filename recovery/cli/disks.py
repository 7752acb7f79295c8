"""``recovery disks``: what is in this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recovery.cli.options import Common
from recovery.cli.output import Output
from recovery.inventory import render, survey

Paths = Annotated[list[Path] | None, typer.Argument(metavar="DISK", help="Disks or raw image files; all if none.")]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("disks")(disks)


def disks(context: typer.Context, paths: Paths = None, json: Common.Json = False) -> None:
    """Show the disks of this machine, their partitions, and what is on them."""
    output = Output(context.obj.merged(json=json).json)
    reports = survey(paths or ())
    if output.json:
        output.document(reports)
        return
    if not reports:
        output.say("No disk was found.")
    output.show(render(reports))
