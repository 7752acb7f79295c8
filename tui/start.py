"""The interface from the command line: which machine, which terminal; and again, when it broke."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from recovery.errors import DeviceError
from recovery.jobs.folder import jobs_folder
from tui.glyphs import Terminal, this_terminal

if TYPE_CHECKING:
    from textual.driver import Driver

    from tui.machine import Machine

#: What Textual reads when it is loaded.  On a slow line: few frames, and no keys' protocol that is shown as text.
_DRAWING = {"TEXTUAL_ANIMATIONS": "none"}
_SLOW_DRAWING = {"TEXTUAL_FPS": "8", "TEXTUAL_DISABLE_KITTY_KEY": "1"}
#: An interface that breaks more often than so within so many seconds is not started again.
_BREAKS, _BREAKS_SECONDS = 3, 60.0
_PAUSE_SECONDS = 3.0
_HUNG_UP_SECONDS = 5


def start(recording: Path | None, port: int | None = None) -> None:
    """Run until the person leaves.  ``recording``: a file, or the name of one that ships.

    ``port``: in browsers of this machine, which are served there; None: on this terminal.  Raises UsageError for a
    recording that is none, or a port that cannot be had.
    """
    if port is not None:
        from tui.serve import serve

        serve(recording, port)
        return
    terminal = this_terminal()
    for name, value in {**_DRAWING, **(_SLOW_DRAWING if terminal.slow else {})}.items():
        os.environ.setdefault(name, value)
    log = log_to_file()
    signal.signal(signal.SIGHUP, _hung_up)
    with _machine(recording) as machine:
        sys.exit(until_left(lambda attaches: _run(machine, terminal, attaches=attaches), log))


def _hung_up(number: int, frame: FrameType | None) -> None:
    """The terminal is gone: a line was lost, a connection ended.  Nobody can see this interface any more."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_HUNG_UP_SECONDS)  # should drawing on what is gone get stuck
    sys.exit(0)


def until_left(run: Callable[[bool], int], log: Path | None, pause_seconds: float = _PAUSE_SECONDS) -> int:
    """Call ``run`` until it gives 0: the person has left.  What it gave when it broke too often.

    ``run`` is told whether to begin with the job that runs: not any more after that broke it twice.
    """
    broke: list[float] = []
    while (code := run(len(broke) < _BREAKS - 1)) != 0:
        broke = [*(at for at in broke if time.monotonic() - at < _BREAKS_SECONDS), time.monotonic()]
        place = f" What happened is in {log}." if log is not None else ""
        _say(f"\nThe interface ended because of an error in it. No job was stopped by that.{place}")
        if len(broke) >= _BREAKS:
            _say("It ended so several times, and is not started again: 'recovery jobs' shows jobs.")
            break
        _say("It starts again ...")
        time.sleep(pause_seconds)
    return code


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def log_to_file() -> Path | None:
    """What modules log must not be drawn over the screen: where it goes instead, if there is a place for it."""
    logging.root.handlers = [logging.NullHandler()]
    try:
        place = jobs_folder().parent / "interface.log"
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = logging.FileHandler(place)
    except (DeviceError, OSError):
        return None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.root.handlers = [handler]
    return place


def _machine(recording: Path | None) -> AbstractContextManager[Machine]:
    if recording is not None:
        from tui.recorded import recorded_machine

        return recorded_machine(recording)
    from tui.machine import LocalMachine

    return nullcontext(LocalMachine())


def _run(machine: Machine, terminal: Terminal, *, attaches: bool) -> int:
    from tui.app import RecoveryApp  # after the environment says how to draw
    from tui.page_driver import PageDriver
    from tui.slow_line import AsciiDriver, SlowLineDriver

    driver: type[Driver] | None = AsciiDriver if terminal.ascii else SlowLineDriver if terminal.slow else None
    if "web_driver" in os.environ.get("TEXTUAL_DRIVER", ""):
        driver = PageDriver
    app = RecoveryApp(machine, terminal, driver, attaches=attaches)
    app.run()
    return app.return_code or 0
