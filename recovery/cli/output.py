"""What is printed: answers, events, the bar of a running operation; for people or, with ``--json``, for programs.

``--json`` gives one document for a question, and for work one line an event, named as restic names them: ``status``
while it runs, ``error``, ``summary`` at the end.  A terminal shows a live bar; piped, a plain line now and then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from recovery.command import kill_running
from recovery.errors import ExitCode, RecoveryError
from recovery.inventory import shown
from recovery.jobs.events import encode_event
from recovery.jobs.running import STALLED_SECONDS, StatusLines
from recovery.progress import Progress, ProgressSnapshot
from recovery.units import format_bytes, format_seconds

#: How often a bar is drawn, and a plain line printed.
TERMINAL_SECONDS, PLAIN_SECONDS = 0.2, 15.0
_JSON_SECONDS = 1.0
_STOPS = (signal.SIGINT, signal.SIGTERM)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to those who know what to do; rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Output:
    """Prints for one command."""

    def __init__(self, json: bool) -> None:
        self.json = json
        self._out = _Console(highlight=False, soft_wrap=True)
        self.errors: Console = _Console(stderr=True, highlight=False, soft_wrap=True)
        self.terminal = threading.Lock()
        self.wanted = threading.Event()

    # -- answers

    def document(self, value: Any) -> None:
        """The JSON answer to a question."""
        print_raw(msgspec.json.format(msgspec.json.encode(value), indent=2))

    def event(self, kind: str, **fields: Any) -> None:
        """One line of JSON; nothing without ``--json``."""
        if self.json:
            print_raw(encode_event(kind, fields))

    def say(self, text: str = "") -> None:
        """A line for people; nothing with ``--json``."""
        if not self.json:
            self._out.print(shown(text), markup=False)

    def lines(self, lines: list[str]) -> None:
        """Many plain lines for people at once, which are then forgotten; nothing with ``--json``."""
        if not self.json and lines:
            print_raw("\n".join(line if line.isprintable() else shown(line) for line in lines).encode())
        lines.clear()

    def show(self, renderable: RenderableType) -> None:
        """A table for people, as wide as the terminal; nothing with ``--json``."""
        if not self.json:
            _Console(highlight=False).print(renderable)

    def warn(self, text: str) -> None:
        """Something that the user should read although the work goes on."""
        if self.json:
            self.event("warning", message=text)
        else:
            self.errors.print(shown(f"Warning: {text}"), markup=False)

    def warn_beside(self, text: str) -> None:
        """As ``warn``, beside the one document that answers a question: on standard error even with ``--json``."""
        self.errors.print(shown(f"Warning: {text}"), markup=False)

    def diagnose(self, text: str) -> None:
        """What helps to find a fault, or stands beside the work: on standard error."""
        self.errors.print(shown_lines(text), markup=False)

    def failure(self, message: str, hint: str, code: int) -> None:
        """Why the command ends."""
        if self.json:
            self.event("error", code=int(code), message=message, hint=hint)
            return
        self.errors.print(shown(f"Error: {_sentence(message)}"), markup=False)
        if hint:
            self.errors.print(shown(f"       {hint}"), markup=False)

    # -- questions

    @property
    def live(self) -> bool:
        """Whether a bar can be drawn."""
        return not self.json and self.errors.is_terminal

    @property
    def can_ask(self) -> bool:
        """Whether there is a person to answer."""
        return not self.json and sys.stdin.isatty()

    def prompt(self, question: str) -> None:
        """Print a question, so that the answer is typed behind it."""
        sys.stdout.write(question)
        sys.stdout.flush()

    def ask(self, question: str) -> str:
        """What a person answers; empty when they decline."""
        try:
            return input(question)
        except (EOFError, KeyboardInterrupt):
            self.say()
            return ""

    # -- work

    @contextmanager
    def work(self, progress: Progress) -> Iterator[Work]:
        """Show ``progress`` for the time of the block.  A first interrupt cancels it, a second ends at once."""
        ended = threading.Event()
        previous = {number: signal.signal(number, self._stopper(progress)) for number in _STOPS}
        show = self._show_events if self.json else self._show_bar if self.errors.is_terminal else self._show_lines
        thread = threading.Thread(target=show, args=(progress, ended), name="progress", daemon=True)
        thread.start()
        try:
            yield Work(self)
        finally:
            ended.set()
            thread.join(timeout=5)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stopper(self, progress: Progress) -> Any:
        def stop(number: int, frame: FrameType | None) -> None:
            try:
                progress.check()
            except RecoveryError:
                kill_running()
                with contextlib.suppress(OSError, ValueError):
                    self.failure("stopped at once", "What was being written is unfinished.", ExitCode.CANCELLED)
                os._exit(ExitCode.CANCELLED)  # waiting for threads could take for ever: one may be stuck in a device
            progress.cancel()
            with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                self.warn("stopping at the next safe point; once more stops at once")

        return stop

    def _show_events(self, progress: Progress, ended: threading.Event) -> None:
        lines = StatusLines(progress)
        while not ended.wait(_JSON_SECONDS):
            self.event("status", **lines.fields())
        self.event("status", **lines.fields(last=True))

    def _show_lines(self, progress: Progress, ended: threading.Event) -> None:
        while not ended.wait(PLAIN_SECONDS):
            self.errors.print(line(progress.snapshot()), markup=False)

    def _show_bar(self, progress: Progress, ended: threading.Event) -> None:
        while not ended.is_set():
            with self.terminal:  # a bar is never drawn into a table
                with Live(console=self.errors, transient=True, auto_refresh=False) as live:
                    while not (ended.wait(TERMINAL_SECONDS) or self.wanted.is_set()):
                        live.update(bar(progress.snapshot()), refresh=True)
            while self.wanted.is_set() and not ended.wait(TERMINAL_SECONDS):
                pass


class Work:
    """A running operation that is being shown."""

    def __init__(self, output: Output) -> None:
        self._output = output

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away for the time of the block, to print something else."""
        self._output.wanted.set()
        try:
            with self._output.terminal:
                yield
        finally:
            self._output.wanted.clear()


def shown_lines(text: str) -> str:
    """As ``shown``, line by line."""
    return "\n".join(shown(line) for line in text.splitlines())


def print_raw(data: bytes) -> None:
    """A line on standard output, whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def line(now: ProgressSnapshot) -> str:
    """A running operation in one line."""
    waiting = f"waiting for the {now.waits_for} for {now.stalled_seconds:.0f} s"
    stalled = now.stalled_seconds >= STALLED_SECONDS
    if not now.total_bytes:
        return f"{now.phase}, {waiting}" if stalled else f"{now.phase} ..."
    parts = [
        f"{now.phase}: {100 * (now.ratio or 0):.0f} %",
        f"{format_bytes(now.done_bytes)} of {format_bytes(now.total_bytes)}",
        f"{format_bytes(now.bytes_per_second)}/s",
    ]
    if stalled:
        parts.append(waiting)
    elif now.remaining_seconds is not None:
        parts.append(f"{format_seconds(now.remaining_seconds)} left")
    lost = now.counters.get("unreadable_bytes", 0)
    if lost:
        parts.append(f"{format_bytes(lost)} unreadable")
    return ", ".join(parts)


def bar(now: ProgressSnapshot) -> RenderableType:
    """A running operation as a bar, and the line."""
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=now.total_bytes or None, completed=now.done_bytes, width=24), line(now))
    return row


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
