"""The interface from the command line: which machine, which terminal."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from recovery.jobs.folder import jobs_folder
from tui.glyphs import Terminal, this_terminal

#: Frames a second on a line of 115,200 bits a second: a whole screen is some 4,000 bytes.
_SLOW_FRAMES = "4"


def start(recording: Path | None) -> None:
    """Run until the person leaves.  ``recording``: a file, or the name of one that ships."""
    terminal = this_terminal()
    if terminal.slow:
        os.environ.setdefault("TEXTUAL_FPS", _SLOW_FRAMES)
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    _log_to_file()
    _run(terminal, recording)


def _run(terminal: Terminal, recording: Path | None) -> None:
    from tui.app import RecoveryApp  # after the environment says how to draw
    from tui.machine import LocalMachine, Machine

    machine: Machine
    if recording is None:
        machine = LocalMachine()
        RecoveryApp(machine, terminal).run()
        return
    from tui.recorded import recorded_machine

    with recorded_machine(recording) as machine:
        RecoveryApp(machine, terminal).run()


def _log_to_file() -> None:
    """What modules log must not be drawn over the screen."""
    place = jobs_folder().parent / "interface.log"
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.FileHandler(place)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.root.handlers = [handler]
