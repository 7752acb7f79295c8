"""``recovery capture``, ``restore``, ``clone``, ``verify``: disks into the repository, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from recovery.cli.options import Common
from recovery.cli.output import Output
from recovery.cli.report import (
    capture_document,
    restore_document,
    restore_plan_document,
    show_capture_plan,
    show_restore_plan,
    tell_capture,
    tell_restore,
    tell_verify,
    verify_document,
)
from recovery.cli.repository import Snapshot, open_image
from recovery.errors import Cancelled, DeviceError, ExitCode, Refused, RepositoryDamaged, UsageError
from recovery.image.capture import CaptureOptions, capture
from recovery.image.capture_plan import Choice, check_space, plan_capture
from recovery.image.clone import clone
from recovery.image.layout import CHUNK_BYTES
from recovery.image.machine import this_machine
from recovery.image.restore import restore
from recovery.image.restore_plan import RestorePlan, plan_clone, plan_restore
from recovery.image.verify import verify
from recovery.progress import Progress
from recovery.repository.repository import Repository
from recovery.units import KIB, MIB, parse_bytes

Level = Annotated[int, typer.Option("--level", metavar="1-19", help="zstd's compression level.", min=1, max=19)]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not read back what was written.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; the plan is still checked.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop; nothing is written.")]
BreakMembers = Annotated[
    bool, typer.Option("--break-members", help="Overwrite a member of an array, volume group or pool.")
]
Differential = Annotated[
    bool, typer.Option("--differential", help="Read the target first and write only what it does not hold already.")
]
Target = Annotated[Path, typer.Argument(metavar="TARGET", help="The disk or image file that is overwritten.")]
Only = Annotated[
    str | None, typer.Option("--only", metavar="N[,N...]", help="Only these partitions.", show_default=False)
]
Without = Annotated[
    str | None, typer.Option("--without", metavar="N[,N...]", help="Not these partitions.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("capture")(capture_command)
    app.command("restore")(restore_command)
    app.command("clone")(clone_command)
    app.command("verify")(verify_command)


def capture_command(
    context: typer.Context,
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE", help="Disks or raw image files.")],
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
    only: Only = None,
    without: Without = None,
    level: Level = 3,
    no_verify: NoVerify = False,
    no_space_check: Annotated[bool, typer.Option("--no-space-check", help="Start although it may not fit.")] = False,
    dry_run: DryRun = False,
    host: Annotated[
        str, typer.Option(metavar="NAME", help="The machine's name in the snapshot.", show_default=False)
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="A further tag for the snapshot.", show_default=False)
    ] = None,
    chunk_size: Annotated[str, typer.Option(help="Size of a chunk; keep it for a repository.", hidden=True)] = "",
) -> None:
    """Capture disks as a system image.  The sources are only read."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    output, progress = Output(common.json), Progress()
    choice = Choice(_numbers(only), _numbers(without) or frozenset())
    if len(sources) > 1 and (only or without):
        raise UsageError("--only and --without go with one disk", "Capture the disks one by one.")
    chunk_bytes = _chunk_bytes(chunk_size)
    repository = common.open()
    with output.work(progress) as work, repository.lock() as lock, ExitStack() as held:
        for problem in repository.load_index(present_only=True):
            output.warn(problem)
        plan = plan_capture(
            sources,
            repository,
            progress,
            held,
            choice=choice,
            chunk_bytes=chunk_bytes,
            machine_uuid=this_machine().uuid,
            level=level,
        )
        with work.paused():
            show_capture_plan(output, plan, repository.store)
        if not no_space_check:
            check_space(plan, repository.store)
        if dry_run:
            return
        options = CaptureOptions(
            level=level, verify=not no_verify, chunk_bytes=chunk_bytes, hostname=host, tags=tuple(tag or ())
        )
        try:
            result = capture(repository, lock, plan, progress, options)
        except Cancelled as stopped:
            stopped.hint = "What was stored until now is kept: the next capture of this disk goes on from there."
            raise
    output.event("summary", **capture_document(result))
    tell_capture(output, result)
    if not result.complete:
        raise typer.Exit(ExitCode.INCOMPLETE)


def restore_command(
    context: typer.Context,
    snapshot: Snapshot,
    target: Target,
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
    disk: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which disk of the image.", show_default=False)
    ] = None,
    partition: Annotated[int | None, typer.Option(metavar="N", help="Only this partition.", show_default=False)] = None,
    to_partition: Annotated[
        int | None, typer.Option(metavar="M", help="Into this partition of TARGET.", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    no_verify: NoVerify = False,
    partial: Annotated[bool, typer.Option("--partial", help="Write zeros where the repository is damaged.")] = False,
    differential: Differential = False,
    break_members: BreakMembers = False,
) -> None:
    """Write a captured disk, or one partition of it, onto TARGET, which is overwritten."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    output, progress = Output(common.json), Progress()
    repository = common.open()
    with _shared_lock(repository, output) as settle:
        image = open_image(repository, snapshot, output).disk(disk)
        plan = plan_restore(
            image,
            target,
            repository=repository.store.root,
            partition=partition,
            to_partition=to_partition,
            accept_breaks=break_members,
            partial=partial,
        )
        missing = image.missing(plan.source)
        if missing and not partial:
            raise RepositoryDamaged(
                f"the repository lacks {len(missing)} chunks of this image, the first because {missing[0]}; "
                f"{target} is untouched",
                "'recovery verify' says what is hit; --partial writes the rest and zeros there.",
            )
        show_restore_plan(output, plan, image.record)
        output.event("plan", **restore_plan_document(plan))
        if dry_run:
            return
        _confirm(output, plan, yes)
        settle()
        with output.work(progress):
            result = restore(image, plan, progress, verify=not no_verify, partial=partial, differential=differential)
    output.event("summary", **restore_document(result))
    tell_restore(output, plan, result)
    if not result.complete:
        raise typer.Exit(ExitCode.INCOMPLETE)


def clone_command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The disk or image file that is read.")],
    target: Target,
    json: Common.Json = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    no_verify: NoVerify = False,
    differential: Differential = False,
    break_members: BreakMembers = False,
) -> None:
    """Copy a disk onto another, used parts only, without a repository."""
    output, progress = Output(context.obj.merged(json=json).json), Progress()
    with ExitStack() as held:
        with output.work(progress):
            planned = plan_capture([source], None, progress, held).disks[0]
            plan = plan_clone(planned, target, accept_breaks=break_members)
        show_restore_plan(output, plan, planned.record)
        output.event("plan", **restore_plan_document(plan))
        if dry_run:
            return
        _confirm(output, plan, yes)
        with output.work(progress):
            result = clone(planned, plan, progress, verify=not no_verify, differential=differential)
    output.event("summary", **restore_document(result))
    tell_restore(output, plan, result)
    if not result.complete:
        raise typer.Exit(ExitCode.INCOMPLETE)


def verify_command(
    context: typer.Context,
    snapshot: Snapshot = "latest",
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
) -> None:
    """Check that a system image can be restored: hash its packs, open and hash its blobs."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    output, progress = Output(common.json), Progress()
    repository = common.open()
    with _shared_lock(repository, output) as settle:
        image = open_image(repository, snapshot, output)
        settle()
        with output.work(progress):
            result = verify(image, progress)
    output.event("summary", **verify_document(image, result))
    tell_verify(output, image, result)
    if not result.sound:
        raise typer.Exit(ExitCode.REPOSITORY_DAMAGED)


@contextmanager
def _shared_lock(repository: Repository, output: Output) -> Iterator[Callable[[], None]]:
    """A reader's lock, and what to call before the long work begins.

    A repository on a read-only medium is read without one: nothing can change it there.
    """
    with ExitStack() as held:
        try:
            lock = held.enter_context(repository.lock())
        except DeviceError as error:
            output.warn(f"the repository cannot be locked, and is read as it is: {error.message}")
            yield lambda: None
            return
        yield lock.settle


def _confirm(output: Output, plan: RestorePlan, yes: bool) -> None:
    """Have the target's short name typed.  Raises Cancelled, or Refused where nobody can be asked."""
    if yes:
        return
    if output.json or not sys.stdin.isatty():
        raise Refused("the plan was not confirmed, and there is nobody to ask", "Say --yes when the plan is right.")
    name = plan.target.short_name
    try:
        typed = input(f"Type {name} to overwrite it, anything else to stop: ")
    except (EOFError, KeyboardInterrupt):
        typed = ""
        output.say()
    if typed.strip() != name:
        raise Cancelled(f"not confirmed; {plan.target.path} is untouched", "Nothing was written.")


def _numbers(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    try:
        return frozenset(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is not a list of partition numbers", "Write for example 1,3.") from None


def _chunk_bytes(text: str) -> int:
    size = parse_bytes(text) if text else CHUNK_BYTES
    if size % (64 * KIB) or not 64 * KIB <= size <= 8 * MIB:
        raise UsageError(f"a chunk of {size} bytes cannot be", "A multiple of 64 KiB, from 64 KiB to 8 MiB.")
    return size
