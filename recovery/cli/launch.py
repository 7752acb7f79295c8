"""From a request to a job, and the screen that the command line then is."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType

from recovery.cli import failures
from recovery.cli.output import Output, Work
from recovery.cli.screen import Screen
from recovery.devices.power import kept_awake, on_battery
from recovery.errors import DeviceError, ExitCode
from recovery.inventory import shown
from recovery.jobs.running import RunningJob
from recovery.jobs.watching import start
from recovery.progress import Progress

#: Set to anything: an operation runs in the process that was started, for profilers and debuggers.
FOREGROUND_VARIABLE = "RECOVERY_NO_JOB"

Operation = Callable[[Output, Progress], ExitCode]


def launch(kind: str, what: str, operation: Operation, output: Output, *, foreground: bool = False) -> int:
    """Do ``operation`` as a job and show it until it ends; its exit code.

    ``foreground``: it is over soon, and needs no job.
    """
    if foreground:
        return operation(output, Progress())
    if os.environ.get(FOREGROUND_VARIABLE):
        return _attended(f"{kind} {what}", operation, output, Progress())
    width = Console().width
    can_ask = output.can_ask

    def work(job: RunningJob) -> int:
        return in_job(job, operation, can_ask=can_ask, width=width)

    screen = Screen(output)
    with screen.signals():  # before it starts: an interrupt right behind must reach the job
        try:
            watcher = start(kind, what, work)
        except (DeviceError, OSError) as error:
            reason = error.message if isinstance(error, DeviceError) else error.strerror
            output.warn(f"this runs in the foreground, and ends with this screen: {reason}")
            watcher = None
        if watcher is not None:
            with watcher:
                return screen.show(watcher)
    return _attended(f"{kind} {what}", operation, output, Progress())


def in_job(job: RunningJob, operation: Operation, *, can_ask: bool, width: int) -> int:
    """In the job's process: do the operation; the exit code."""
    output = RecordedOutput(job, can_ask, width)
    try:
        return _attended(job.what, operation, output, job.progress)
    except Exception as error:  # noqa: BLE001 - the last place that can tell a person
        return failures.tell(error, output)


def _attended(what: str, operation: Operation, output: Output, progress: Progress) -> ExitCode:
    """Do it while the machine is kept awake."""
    battery = on_battery()
    if battery is not None:
        level = f" ({battery})" if battery else ""
        output.warn(f"this machine runs on battery{level}: connect it to power before it is empty")
    with kept_awake(what):
        return operation(output, progress)


class RecordedOutput(Output):
    """What a job says is recorded, in both forms; each screen shows the one it wants."""

    def __init__(self, job: RunningJob, can_ask: bool, width: int) -> None:
        super().__init__(json=False)
        self._job = job
        self._can_ask = can_ask
        self._width = width

    def event(self, kind: str, **fields: Any) -> None:
        self._job.record(kind, **fields)

    def say(self, text: str = "") -> None:
        self._job.record("text", text=shown(text))

    def show(self, renderable: RenderableType) -> None:
        drawn = Console(file=io.StringIO(), width=self._width, highlight=False)
        with drawn.capture() as captured:
            drawn.print(renderable)
        for line in captured.get().splitlines():
            self._job.record("text", text=line)

    def warn(self, text: str) -> None:
        self._job.record("warning", message=text)

    def diagnose(self, text: str) -> None:
        self._job.record("log", text=text)

    def failure(self, message: str, hint: str, code: int) -> None:
        self._job.record("error", code=int(code), message=message, hint=hint)

    @property
    def can_ask(self) -> bool:
        return self._can_ask

    def ask(self, question: str) -> str:
        return self._job.ask(question)

    @contextmanager
    def work(self, progress: Progress) -> Iterator[Work]:
        with self._job.working():
            yield Work(self)
