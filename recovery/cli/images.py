"""``recovery capture``, ``restore``, ``clone``, ``verify``: disks into the repository, and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from recovery.cli.launch import launch
from recovery.cli.operations import operation_of
from recovery.cli.options import Common
from recovery.cli.output import Output
from recovery.cli.repository import Snapshot
from recovery.cli.requests import CaptureRequest, CloneRequest, Request, RestoreRequest, VerifyRequest
from recovery.errors import UsageError
from recovery.image.layout import CHUNK_BYTES
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
BootEntry = Annotated[
    bool | None,
    typer.Option(
        "--boot-entry/--no-boot-entry",
        help="Write the image's boot entries to this machine's firmware, and put them first [in the live system: yes].",
        show_default=False,
    ),
]
FallbackLoader = Annotated[
    bool,
    typer.Option(
        "--fallback-loader", help="Add a loader to its EFI partition where every firmware looks, if none is there."
    ),
]
Audit = Annotated[
    bool, typer.Option("--audit", help="Look whether all that the filesystems need is in the image (needs root).")
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
    no_clock_check: Annotated[
        bool, typer.Option("--no-clock-check", help="Start although the clock is behind the newest snapshot.")
    ] = False,
    patience: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", min=0, help="For how long to go into bad areas, last.", show_default=False),
    ] = None,
    continues: Annotated[
        bool, typer.Option("--continue", help="Complete the newest incomplete image: read only what it lacks.")
    ] = False,
    interim: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="Publish an incomplete image so often, while a disk fails.")
    ] = 3,
    audit: Audit = False,
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
    output = Output(common.json)
    if continues and (only or without):
        raise UsageError("--only and --without have no say with --continue", "What the image is to hold is in it.")
    if len(sources) > 1 and (only or without):
        raise UsageError("--only and --without go with one disk", "Capture the disks one by one.")
    request = CaptureRequest(
        sources=tuple(sources),
        only=_numbers(only),
        without=_numbers(without) or frozenset(),
        level=level,
        verify=not no_verify,
        space_check=not no_space_check,
        clock_check=not no_clock_check,
        hostname=host,
        tags=tuple(tag or ()),
        chunk_bytes=_chunk_bytes(chunk_size),
        dry_run=dry_run,
        audit=audit,
        patience_seconds=None if patience is None else 60 * patience,
        continues=continues,
        interim_seconds=60 * interim,
    )
    repository = common.open()
    _launch(request, repository, output, foreground=dry_run)


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
    partial_: Annotated[bool, typer.Option("--partial", help="Write zeros where the repository is damaged.")] = False,
    differential: Differential = False,
    break_members: BreakMembers = False,
    boot_entry: BootEntry = None,
    fallback_loader: FallbackLoader = False,
) -> None:
    """Write a captured disk back.  The whole, or one partition of it, onto TARGET, which is overwritten."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    if partition is not None and fallback_loader:
        raise UsageError("--fallback-loader goes with a whole disk", "Leave it out, or restore the whole disk.")
    request = RestoreRequest(
        snapshot=snapshot,
        target=target,
        disk=disk,
        partition=partition,
        to_partition=to_partition,
        verify=not no_verify,
        partial=partial_,
        differential=differential,
        break_members=break_members,
        boot_entry=boot_entry,
        fallback_loader=fallback_loader,
        confirmed=yes,
        dry_run=dry_run,
    )
    repository = common.open()
    _launch(request, repository, Output(common.json), foreground=dry_run)


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
    boot_entry: BootEntry = None,
    fallback_loader: FallbackLoader = False,
) -> None:
    """Copy a disk onto another.  Used parts only, without a repository."""
    request = CloneRequest(
        source=source,
        target=target,
        verify=not no_verify,
        differential=differential,
        break_members=break_members,
        boot_entry=boot_entry,
        fallback_loader=fallback_loader,
        confirmed=yes,
        dry_run=dry_run,
    )
    output = Output(context.obj.merged(json=json).json)
    _launch(request, None, output, foreground=dry_run)


def verify_command(
    context: typer.Context,
    snapshot: Snapshot = "latest",
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
    audit: Audit = False,
) -> None:
    """Check that an image can be restored.  Its packs are hashed, its blobs opened and hashed."""
    common: Common = context.obj.merged(repo, password_file, no_password, json)
    request = VerifyRequest(snapshot, audit)
    repository = common.open()
    _launch(request, repository, Output(common.json))


def _launch(request: Request, repository: Repository | None, output: Output, *, foreground: bool = False) -> NoReturn:
    """Do it as a job, be its screen, and end with its exit code."""
    operation = operation_of(request, repository)
    sys.exit(launch(request.kind, request.what, operation, output, foreground=foreground))


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
