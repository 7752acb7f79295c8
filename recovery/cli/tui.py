"""``recovery tui``: the interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("tui")(tui_command)


def tui_command(
    machine: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Run on a recorded machine: 'laptop', 'server', 'dying-disk' or a file."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Show it in a browser of this machine, at an address that is printed.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="With --browser: which port of 127.0.0.1.")] = 8000,
) -> None:
    """Start the interface.  On this machine, or on a recorded one, to try it without risk."""
    from tui.start import start  # what draws is loaded for whoever wants to see it

    start(machine, port if browser else None)
