"""What the copying of files off a broken disk says, as a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recovery.cli.output import Output
from recovery.errors import Cancelled, ExitCode
from recovery.inventory import shown
from recovery.progress import Progress
from recovery.salvage.copy import copy_files
from recovery.units import counted, format_bytes

if TYPE_CHECKING:
    from recovery.cli.requests import CopyRequest

_SHOWN = 50


def copy_out(request: CopyRequest, output: Output, progress: Progress) -> ExitCode:
    """Copy the files, and tell what could not be."""
    with output.work(progress):
        try:
            done = copy_files(request.sources, request.root, request.target, progress)
        except Cancelled as stopped:
            stopped.hint = f"What was copied until now is in {shown(str(request.target))}; the last may be cut off."
            raise
    output.event(
        "summary",
        files=done.files,
        copied_bytes=done.bytes,
        unreadable_bytes=done.lost_bytes,
        problem_count=done.problem_count,
        problems=[{"path": path, "problem": problem} for path, problem in done.problems],
        target=str(request.target),
    )
    output.say(f"Copied to {request.target}: {counted(done.files, 'file')}, {format_bytes(done.bytes)}.")
    for path, problem in done.problems[:_SHOWN]:
        output.say(f"  {path}: {problem}")
    if done.problem_count > _SHOWN:
        output.say(f"  and {done.problem_count - _SHOWN} more")
    return ExitCode.DONE if done.complete else ExitCode.INCOMPLETE
