"""``recovery jobs``, ``attach``, ``cancel``: operations that run, whoever started them."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import msgspec
import typer
from rich.table import Table

from recovery.cli.options import Common
from recovery.cli.output import Output, line
from recovery.cli.screen import Screen
from recovery.errors import ExitCode
from recovery.inventory import shown
from recovery.jobs.control import Status
from recovery.jobs.folder import DIED, Job, find_job, list_jobs
from recovery.jobs.watching import attach, status_of

_RESULTS = {
    ExitCode.DONE: "done",
    ExitCode.INCOMPLETE: "done, incomplete",
    ExitCode.CANCELLED: "cancelled",
    ExitCode.REFUSED: "refused",
}

JobName = Annotated[str | None, typer.Argument(metavar="JOB", help="Its number; the one that runs, if only one does.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("jobs")(jobs_command)
    app.command("attach")(attach_command)
    app.command("cancel")(cancel_command)
    app.command("finish")(finish_command)


class JobLine(msgspec.Struct, frozen=True):
    """One job in the answer of ``recovery jobs --json``.  ``state``: running, asking, ended, died."""

    id: str
    kind: str
    what: str
    state: str
    pid: int
    started: str
    exit_code: int | None
    phase: str | None
    percent_done: float | None
    bytes_done: int | None
    total_bytes: int | None
    bytes_per_second: int | None


def jobs_command(context: typer.Context, json: Common.Json = False) -> None:
    """List the operations that run.  And those that ended since the system was started."""
    output = Output(context.obj.merged(json=json).json)
    found = [(job, status_of(job)) for job in list_jobs()]
    if output.json:
        output.document([_document(job, status) for job, status in found])
        return
    if not found:
        output.say("No job is running, and none has ended.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("Job", "Started", "Kind", "What", "State"):
        table.add_column(heading, overflow="fold")
    for job, status in found:
        record = job.record
        table.add_row(job.id, f"{record.started:%Y-%m-%d %H:%M}", record.kind, shown(record.what), _state(job, status))
    output.show(table)


def attach_command(context: typer.Context, job: JobName = None, json: Common.Json = False) -> None:
    """Watch a job.  What it said so far, then live.  Ctrl-C stops the job, Ctrl-\\ leaves it running."""
    output = Output(context.obj.merged(json=json).json)
    screen = Screen(output)
    with screen.signals(), attach(find_job(job)) as watcher:
        code = screen.show(watcher, late=True)
    sys.exit(code)


def cancel_command(
    context: typer.Context,
    job: JobName = None,
    now: Annotated[bool, typer.Option("--now", help="At once, not at the next safe point.")] = False,
    json: Common.Json = False,
) -> None:
    """Stop a job at its next safe point.  Waits until it has ended, and says what it said of it."""
    _end(job, Output(context.obj.merged(json=json).json), "stop" if now else "cancel")


def finish_command(context: typer.Context, job: JobName = None, json: Common.Json = False) -> None:
    """End a capture with what was read by now: bad areas are gone into no further, and are zeros in the image.

    What can be read easily is read in any case.  Waits until it has ended, and says what it said of it.
    """
    _end(job, Output(context.obj.merged(json=json).json), "finish")


def _end(job: str | None, output: Output, how: Literal["cancel", "stop", "finish"]) -> None:
    found = find_job(job)
    if not found.running:
        output.say(f"Job {found.id} has ended already: {_state(found, None)}.")
        output.event("ended", job=found.id, exit_code=found.exit_code)
        return
    with attach(found) as watcher:
        code = Screen(output).end(watcher, how)
    output.event("ended", job=found.id, exit_code=code)
    if not output.json:
        output.say(f"Job {found.id} has ended: {_result(code)}.")


def _document(job: Job, status: Status | None) -> JobLine:
    now = status.progress if status else None
    state = "died" if job.died else "ended" if not job.running else "asking" if status and status.asks else "running"
    return JobLine(
        id=job.id,
        kind=job.record.kind,
        what=job.record.what,
        state=state,
        pid=job.pid,
        started=job.record.started.isoformat(),
        exit_code=job.exit_code,
        phase=now.phase if now else None,
        percent_done=now.ratio if now else None,
        bytes_done=now.done_bytes if now else None,
        total_bytes=now.total_bytes if now else None,
        bytes_per_second=round(now.bytes_per_second) if now else None,
    )


def _state(job: Job, status: Status | None) -> str:
    if job.died:
        return "died: its process was killed"
    if job.exit_code is not None:
        return _result(job.exit_code)
    if status is None:
        return "running"
    words = ["waits for its plan to be confirmed"] if status.asks else []
    words += [line(status.progress)] if status.progress else []
    words += ["stopping"] if status.cancelling else []
    return ", ".join(words or ["running"])


def _result(code: int) -> str:
    if code == DIED:
        return "died: its process was killed"
    return _RESULTS.get(ExitCode(code), f"failed ({code})") if code in list(ExitCode) else f"failed ({code})"
