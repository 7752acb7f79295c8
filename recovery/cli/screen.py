"""A screen that watches a job: prints what it says, draws its bar, passes on what a person wants.

Ctrl-C stops the job at its next safe point, a second one at once; Ctrl-\\ leaves the screen and lets the job run on,
as does whatever else ends the screen: a closed terminal, a lost line, a signal.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Literal

import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from recovery.cli.output import PLAIN_SECONDS, TERMINAL_SECONDS, Output, bar, line, print_raw
from recovery.errors import ExitCode
from recovery.jobs.control import Order
from recovery.jobs.events import SCREEN_ONLY
from recovery.jobs.watching import Watcher

_POLL_SECONDS = 0.1
#: After so long a job that was to end at once is killed, and after as long again it is left alone: the kernel holds it.
_STUBBORN_SECONDS = 5.0
_DETACHES = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class _Left(BaseException):
    """The screen is to end, and not its job."""


class _Line(msgspec.Struct):
    message_type: str
    text: str = ""
    message: str = ""
    hint: str = ""
    code: int = 0


class Screen:
    """Shows one job, from wherever it is, until it ends."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._watcher: Watcher | None = None
        self._interrupts = 0
        self._detached = 0
        self._asking = False
        self._woken = -1
        self._live: Live | None = None
        self._drawn = time.monotonic()
        self._stopped_at: float | None = None
        self._killed = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take interrupts for the job, and other ends for this screen, for the time of the block."""
        self._woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        woken_before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, *_DETACHES)}
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken_before)
            os.close(self._woken)
            os.close(waker)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Acts at once, for the screen may be waiting where it prints: behind a pipe that nobody empties."""
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._watcher is not None:
                self._interrupt(self._watcher, self._interrupts)
        elif self._detached:
            os._exit(128 + number)
        else:
            self._detached = number
            if self._watcher is not None:
                raise _Left

    def show(self, watcher: Watcher, *, late: bool = False) -> int:
        """Follow the job to its end; its exit code, or that of a screen that left it before.

        ``late``: it may have said much already, of which only what still matters is shown.
        """
        try:
            self._watcher = watcher
            if self._detached:
                raise _Left
            for number in range(self._interrupts):  # that came before it could be told
                self._interrupt(watcher, number + 1)
            if late:
                for data in in_short(watcher.events()):
                    self._print(data)
            return self._follow(watcher)
        except _Left:
            self._say_goodbye(watcher)
            os._exit(128 + self._detached)  # an ordinary end would wait until somebody reads what is still buffered
        except OSError:  # the terminal is gone, or whoever read from us
            self._say_goodbye(watcher)
            return ExitCode.BUG
        finally:
            self._watcher = None

    def end(self, watcher: Watcher, how: Literal["cancel", "stop", "finish"]) -> int:
        """Stop the job, at its next safe point or at once, or have it finish early, and see how it ends.

        An interrupt leaves it alone.
        """
        watcher.events()
        watcher.order(Order(how))
        self._stopped_at = time.monotonic() if how == "stop" else None
        with self.signals():
            code = self._follow(watcher, quietly=True)
        if self._interrupts or self._detached:
            self._say_goodbye(watcher)
        return code

    def _follow(self, watcher: Watcher, *, quietly: bool = False) -> int:
        """Until it ends; ``quietly``: without a bar, and only until an interrupt comes."""
        while not (quietly and (self._interrupts or self._detached)):
            ended = watcher.ended  # before the last lines are read
            for data in watcher.events():
                self._print(data)
            if ended:
                self._wipe()
                return self._end(watcher)
            if not self._insist(watcher):
                break
            if not quietly:
                self._draw(watcher)
            self._wait(watcher)
        return ExitCode.CANCELLED

    def _wait(self, watcher: Watcher) -> None:
        """Until there may be something to do; an answer that is typed is passed on."""
        typed = sys.stdin.fileno() if self._asking else self._woken
        if typed in watcher.wait(_POLL_SECONDS, self._woken, typed) and self._asking:
            answer = os.read(typed, 4096)
            if not answer:
                os.tcgetpgrp(typed)  # raises OSError when the line is gone: then nobody has answered
            self._asking = False
            watcher.order(Order("answer", answer.decode(errors="surrogateescape")))
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _print(self, data: bytes) -> None:
        said = msgspec.json.decode(data, type=_Line)
        kind, output = said.message_type, self._output
        if kind == "status" and not output.json:
            return
        self._wipe()
        if kind == "log":
            output.diagnose(said.text)
        elif output.json:
            if kind not in SCREEN_ONLY:
                print_raw(data)
        elif kind == "text":
            output.say(said.text)
        elif kind == "warning":
            output.warn(said.message)
        elif kind == "error":
            output.failure(said.message, said.hint, said.code)
        elif kind == "question":
            self._ask(said.text)
        elif kind == "answered" and self._asking:
            self._asking = False
            output.say()

    def _ask(self, question: str) -> None:
        self._asking = self._output.can_ask
        self._output.prompt(question)
        if not self._asking:
            self._output.say()

    def _interrupt(self, watcher: Watcher, number: int) -> None:
        if self._asking:
            watcher.order(Order("answer"))
        elif number == 1:
            watcher.order(Order("cancel"))
        else:
            watcher.order(Order("stop"))
            self._stopped_at = self._stopped_at or time.monotonic()

    def _insist(self, watcher: Watcher) -> bool:
        """See that a job that was to end at once does; whether it is worth waiting for."""
        if self._stopped_at is None:
            return True
        waited = time.monotonic() - self._stopped_at
        if waited > _STUBBORN_SECONDS and not self._killed:
            self._killed = True
            watcher.kill()
        if waited < 2 * _STUBBORN_SECONDS:
            return True
        self._output.failure(
            f"job {watcher.id} does not end: it is stuck in the kernel",
            "A device does not answer. It ends when the device does, or is unplugged; 'recovery jobs' shows it.",
            ExitCode.CANCELLED,
        )
        return False

    def _end(self, watcher: Watcher) -> int:
        code, said = watcher.exit_code()
        if not said:
            self._output.failure(
                f"job {watcher.id} died: its process was killed",
                "What was being written is unfinished. See the kernel's log (dmesg): memory may have run out.",
                code,
            )
        return code

    def _say_goodbye(self, watcher: Watcher) -> None:
        said = f"Job {watcher.id} goes on without this screen: recovery attach {watcher.id}"
        if self._asking:
            said = f"Job {watcher.id} was not confirmed: it ends with its last screen, and nothing is written."
        with suppress(OSError):
            self._wipe()
            self._output.diagnose(said)

    def _draw(self, watcher: Watcher) -> None:
        if self._output.json:
            return
        now = time.monotonic()
        if now - self._drawn >= (TERMINAL_SECONDS if self._output.live else PLAIN_SECONDS):
            self._drawn = now
            watcher.order(Order("status"))
        status, watcher.status = watcher.status, None
        if status is None:
            return
        if status.progress is None:
            self._wipe()
        elif not self._output.live:
            self._output.diagnose(line(status.progress))
        else:
            if self._live is None:
                self._live = Live(console=self._output.errors, transient=True, auto_refresh=False)
                self._live.start()
            keys = f"Job {watcher.id}: Ctrl-C stops it, Ctrl-\\ leaves it running"
            self._live.update(Group(bar(status.progress), Text(keys, "dim")), refresh=True)

    def _wipe(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def in_short(events: list[bytes]) -> list[bytes]:
    """Without what is over: old counters, questions that were answered."""
    kinds = [msgspec.json.decode(data, type=_Line).message_type for data in events]
    answered = max((number for number, kind in enumerate(kinds) if kind == "answered"), default=-1)
    return [
        data
        for number, (data, kind) in enumerate(zip(events, kinds, strict=True))
        if kind not in ("status", "answered") and not (kind == "question" and number < answered)
    ]
