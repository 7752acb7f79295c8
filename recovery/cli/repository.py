"""``recovery init``, ``snapshots``, ``show``, ``forget``: the repository and what is in it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.table import Table

from recovery.cli.forgetting import confirm, in_words, show_preview
from recovery.cli.options import Common
from recovery.cli.output import Output
from recovery.cli.report import tell_lost
from recovery.image.capture_plan import check_build_date
from recovery.image.manifest import TAG, TAG_INCOMPLETE, ImageDisk, Manifest
from recovery.image.view import SystemImage
from recovery.inventory import shown
from recovery.progress import Progress
from recovery.repository.repository import Repository, StoredSnapshot
from recovery.restic import forget, forget_preview
from recovery.units import format_bytes

Snapshot = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="An id, a unique prefix of one, or 'latest'.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("init")(init)
    app.command("snapshots")(snapshots)
    app.command("show")(show)
    app.command("forget")(forget_command)


def init(
    context: typer.Context,
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
    no_clock_check: Annotated[
        bool, typer.Option("--no-clock-check", help="Do it although the clock is before this system's date.")
    ] = False,
    format_version: Annotated[int, typer.Option(help="restic's repository format, 1 or 2.", min=1, max=2)] = 2,
) -> None:
    """Make a repository.  A folder in restic's format, encrypted with the password."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    output = Output(common.json)
    folder = common.folder()
    if not no_clock_check:
        check_build_date()
    made = Repository.init(folder, common.password(twice=True), version=format_version)
    output.event("initialized", id=made.config.id, repository=str(folder))
    output.say(f"Made the repository {folder}.")
    if common.no_password:
        output.say("Its password is empty: whoever holds the folder can read it.")
    else:
        output.say("Keep the password: without it nothing in the repository can be read by anyone.")


class SnapshotLine(msgspec.Struct, frozen=True):
    """One snapshot in the answer of ``recovery snapshots --json``."""

    id: str
    short_id: str
    time: str
    hostname: str
    kind: str
    incomplete: bool
    paths: list[str]
    tags: list[str]
    size_bytes: int | None


def snapshots(
    context: typer.Context,
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
) -> None:
    """List what a repository holds.  System images and file snapshots, oldest first."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    output = Output(common.json)
    found, problems = common.open().snapshots()
    for problem in problems:
        output.warn_beside(problem)
    lines = [_line(stored) for stored in found]
    if output.json:
        output.document(lines)
        return
    if not lines:
        output.say("The repository holds no snapshot yet.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "Time", "Host", "What", "Size", "Source"):
        table.add_column(heading, justify="right" if heading == "Size" else "left", overflow="fold")
    for stored, line in zip(found, lines, strict=True):
        size = format_bytes(line.size_bytes) if line.size_bytes is not None else ""
        what = f"{line.kind}{', incomplete' if line.incomplete else ''}"
        paths = " ".join(path.removeprefix("/system-image/") for path in line.paths)
        time = f"{stored.snapshot.time.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(line.short_id, time, shown(line.hostname), what, size, shown(paths))
    output.show(table)


def _line(stored: StoredSnapshot) -> SnapshotLine:
    snapshot = stored.snapshot
    tags = snapshot.tags or []
    return SnapshotLine(
        id=stored.id,
        short_id=stored.id[:8],
        time=snapshot.time.isoformat(),
        hostname=snapshot.hostname,
        kind="system image" if TAG in tags else "files",
        incomplete=TAG_INCOMPLETE in tags,
        paths=snapshot.paths,
        tags=tags,
        size_bytes=snapshot.summary.total_bytes_processed if snapshot.summary else None,
    )


class ShowDocument(msgspec.Struct, frozen=True):
    """The answer of ``recovery show --json``."""

    id: str
    manifest: Manifest


def show(
    context: typer.Context,
    snapshot: Snapshot = "latest",
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
) -> None:
    """Show one system image.  Its machine, its disks, and what of them was captured."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    output = Output(common.json)
    image = open_image(common.open(), snapshot, output)
    if output.json:
        output.document(ShowDocument(image.stored.id, image.manifest))
        return
    manifest, machine = image.manifest, image.manifest.machine
    output.say(f"System image {image.stored.id[:8]} of {manifest.created:%Y-%m-%d %H:%M:%S}")
    name_plate = " ".join(word for word in (machine.vendor, machine.product) if word) or "unknown hardware"
    firmware = {"uefi": ", started by UEFI", "bios": ", started by BIOS", "": ""}[machine.firmware]
    output.say(f"Captured on {image.stored.snapshot.hostname or 'an unnamed machine'} ({name_plate}{firmware})")
    for disk in manifest.disks:
        _show_disk(output, disk)


def forget_command(
    context: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="SNAPSHOT...", help="Ids, unique prefixes of ids, or 'latest'.")
    ],
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be forgotten.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    no_prune: Annotated[
        bool, typer.Option("--no-prune", help="Leave what only they used where it is; no space comes free.")
    ] = False,
) -> None:
    """Forget snapshots.  restic removes them, and what only they used, for ever."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    output = Output(common.json)
    root, password = common.folder(), common.password()
    repository = Repository.open(root, password)
    ids = list(dict.fromkeys(repository.find_snapshot(name).id for name in names))
    progress = Progress()
    with output.work(progress):
        progress.phase("looking at what would be forgotten")
        preview = forget_preview(root, password, ids, prune=not no_prune, interrupt=progress.check)
    output.event("plan", removed=preview.removed, kept=preview.kept, freed_bytes=preview.freed_bytes)
    show_preview(output, preview)
    if dry_run:
        return
    if not yes:
        confirm(output)
    with output.work(progress):
        result = forget(root, password, ids, prune=not no_prune, progress=progress)
    output.event("summary", **msgspec.structs.asdict(result))
    count = in_words(len(result.removed))
    if no_prune:
        output.say(f"Forgot {count}. The space is not free yet: 'restic prune' frees it.")
    else:
        sizes = (
            f"{format_bytes(result.freed_bytes)} came free; the repository holds {format_bytes(result.remaining_bytes)}"
        )
        output.say(f"Forgot {count}. {sizes}.")


def open_image(repository: Repository, snapshot: str, output: Output) -> SystemImage:
    """The system image called ``snapshot``; the index is loaded for it, and what is wrong with that told."""
    stored = repository.find_snapshot(snapshot, tag=TAG)
    problems = repository.load_index(mend=True)
    for problem in problems:
        output.warn(problem)
    return SystemImage(repository, stored, problems)


def _show_disk(output: Output, disk: ImageDisk) -> None:
    words = [disk.model, disk.serial and f"serial {disk.serial}", disk.transport]
    output.say()
    output.say(f"{disk.name}: {format_bytes(disk.size_bytes)}, {', '.join(word for word in words if word)}")
    label = disk.table.label.upper() if disk.table else "no partition table"
    output.say(f"  {label}, sectors of {disk.logical_sector_bytes} bytes, {format_bytes(disk.used_bytes)} captured")
    table = Table(box=None, pad_edge=False)
    for heading in ("  No", "Start", "Size", "What", "Label", "Captured"):
        table.add_column(heading, justify="right" if heading in ("  No", "Start", "Size") else "left")
    for part in disk.partitions:
        content = part.content
        what = content.type if content else "unknown"
        captured = {
            "map": f"{format_bytes(part.used_bytes)} used",
            "swap-header": "its header",
            "whole": "whole",
            "left-out": "left out",
        }.get(part.method, part.method)
        reason = f": {part.reason}" if part.reason else ""
        table.add_row(
            str(part.number),
            format_bytes(part.offset),
            format_bytes(part.length),
            shown(what),
            shown(content.label or "") if content else "",
            shown(captured + reason),
        )
    if disk.partitions:
        output.show(table)
    for finding in disk.findings:
        output.say(f"  {finding}")
    if disk.unreadable_bytes:
        output.say(f"  Incomplete: {format_bytes(disk.unreadable_bytes)} could not be read:")
        for area in disk.unreadable:
            where = f", partition {area.partition}" if area.partition is not None else ""
            output.say(f"    {area.length} bytes at {area.offset}{where}")
        tell_lost(output, disk)
