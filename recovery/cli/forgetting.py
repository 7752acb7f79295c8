"""What the forgetting of snapshots says, as a job: what goes and what stays, a typed word, the space that came free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from recovery.cli.output import Output
from recovery.errors import Cancelled, ExitCode, Refused
from recovery.image.manifest import TAG
from recovery.progress import Progress
from recovery.repository.repository import Repository
from recovery.restic import ForgetPreview, forget, forget_preview
from recovery.units import counted, format_bytes

if TYPE_CHECKING:
    from recovery.cli.requests import ForgetRequest

#: What is typed to agree.
WORD = "forget"


def forget_snapshots(
    request: ForgetRequest, repository: Repository, password: str, output: Output, progress: Progress
) -> ExitCode:
    """Show what would go, have it confirmed, and have restic forget it and free its space."""
    root = repository.store.root
    ids = list(dict.fromkeys(repository.find_snapshot(name).id for name in request.snapshots))
    with output.work(progress):
        progress.phase("looking at what would be forgotten")
        preview = forget_preview(root, password, ids, interrupt=progress.check)
    output.event("plan", **msgspec.to_builtins(preview))
    show_preview(output, preview)
    confirm(output)
    with output.work(progress):
        result = forget(root, password, ids, progress=progress)
    output.event("summary", **msgspec.to_builtins(result))
    output.say(
        f"Forgot {in_words(len(result.removed))}. {format_bytes(result.freed_bytes)} came free; the repository holds "
        f"{format_bytes(result.remaining_bytes)}."
    )
    return ExitCode.DONE


def show_preview(output: Output, preview: ForgetPreview) -> None:
    """What goes, how many stay, what comes free."""
    output.say(f"To be forgotten, for ever ({len(preview.removed)}):")
    for line in preview.removed:
        kind = "system image" if TAG in (line.tags or ()) else "files"
        paths = " ".join(path.removeprefix("/system-image/") for path in line.paths)
        when = f"{line.time.astimezone():%Y-%m-%d %H:%M}"
        output.say(f"  {line.id[:8]}  {when}  {kind} of {line.hostname or '?'}: {paths}")
    output.say(f"{in_words(len(preview.kept)).capitalize()} will stay.")
    if preview.freed_bytes is not None:
        output.say(f"About {format_bytes(preview.freed_bytes)} will come free.")


def confirm(output: Output) -> None:
    """Have the word typed.  Raises Cancelled, or Refused where nobody can be asked."""
    if not output.can_ask:
        raise Refused("forgetting was not confirmed, and there is nobody to ask", "Say --yes when the plan is right.")
    if output.ask(f"Type {WORD} to forget them, anything else to stop: ").strip() != WORD:
        raise Cancelled("not confirmed; nothing was forgotten", "The repository is as it was.")


def in_words(count: int) -> str:
    """So many snapshots."""
    return counted(count, "snapshot") if count else "no snapshot"
