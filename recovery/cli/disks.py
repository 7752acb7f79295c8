"""``recovery disks``, ``destination``, ``protect``, ``unprotect``: what is in this machine, and what may be written."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from recovery.cli.erase import erase_disk
from recovery.cli.options import Common
from recovery.cli.output import Output
from recovery.destination import Candidate, Destination, look, mount, set_protection, unmount
from recovery.devices.disk import disk_for
from recovery.devices.health import health as ask_health
from recovery.errors import Cancelled, DeviceError, Refused, UsageError
from recovery.inventory import DiskReport, render, shown
from recovery.surveyor import survey_apart
from recovery.units import format_bytes

#: A disk that is dying answers late; one that has not within this time is told as one that does not answer.
_SURVEY_SECONDS = 60.0

Paths = Annotated[list[Path] | None, typer.Argument(metavar="DISK", help="Disks or raw image files; all if none.")]
DiskPath = Annotated[Path, typer.Argument(metavar="DISK", help="A whole disk, such as /dev/sda.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("disks")(disks)
    app.command("destination")(destination_command)
    app.command("protect")(protect_command)
    app.command("unprotect")(unprotect_command)


def disks(
    context: typer.Context,
    paths: Paths = None,
    health: Annotated[
        bool, typer.Option("--health", help="Ask the disks for their health, too; that may wake them.")
    ] = False,
    json: Common.Json = False,
) -> None:
    """Show the disks of this machine.  Their partitions, too, and what is on them."""
    output = Output(context.obj.merged(json=json).json)
    reports = survey_apart(paths or (), seconds=_SURVEY_SECONDS)
    if health:
        reports = [_with_health(report) for report in reports]
    if output.json:
        output.document(reports)
        return
    if not reports:
        output.say("No disk was found.")
    output.show(render(reports))


def _with_health(report: DiskReport) -> DiskReport:
    try:
        return replace(report, health=ask_health(report.disk))
    except DeviceError as error:
        return replace(report, findings=(*report.findings, error.message))


def destination_command(
    context: typer.Context,
    partition: Annotated[
        Path, typer.Argument(metavar="PARTITION", help="A partition with a filesystem, such as /dev/sdb1.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Where; /media/LABEL if none.", show_default=False)
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="To restore from it: nothing is written, no journal replayed.")
    ] = False,
    unmount_: Annotated[
        bool, typer.Option("--unmount", help="Unmount it (PARTITION or its folder), and protect its disk again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, also if it was not closed cleanly.")] = False,
    format_: Annotated[
        bool, typer.Option("--format", help="Erase PARTITION, a whole disk, first, and make a filesystem on it.")
    ] = False,
    break_members: Annotated[
        bool, typer.Option("--break-members", help="Erase also a member of an array, volume group or pool.")
    ] = False,
    json: Common.Json = False,
) -> None:
    """Mount a place for a repository.  The disk of that filesystem may be written until it is unmounted."""
    output = Output(context.obj.merged(json=json).json)
    if format_:
        if folder is not None or read_only or unmount_:
            raise UsageError(
                "--format goes with a disk alone", "What is made is mounted below /media; it can be moved afterwards."
            )
        made = erase_disk(output, partition, yes=yes, break_members=break_members)
        if output.json:
            output.document(made)
        else:
            _tell(output, made)
        return
    if unmount_:
        _unmount(output, partition)
        return
    candidate = look(partition, read_only=read_only)
    if candidate.unclean and not read_only and not yes:
        _confirm(output, candidate)
    made = mount(candidate, folder, read_only=read_only)
    if output.json:
        output.document(made)
        return
    _tell(output, made, candidate.unclean)


def protect_command(context: typer.Context, disk: DiskPath, json: Common.Json = False) -> None:
    """Have every write to a disk refused.  The live system does so with each disk that appears."""
    _set_protection(context, disk, json, on=True)


def unprotect_command(context: typer.Context, disk: DiskPath, json: Common.Json = False) -> None:
    """Let programs write to a protected disk.  To repair it, or to make filesystems on it.

    A restore does that by itself, and only for its confirmed target.
    """
    _set_protection(context, disk, json, on=False)


def _set_protection(context: typer.Context, path: Path, json: bool, *, on: bool) -> None:
    output = Output(context.obj.merged(json=json).json)
    disk = disk_for(path)
    changed = set_protection(disk, on=on)
    if output.json:
        output.document({"disk": disk.path, "write_protected": on, "changed": changed})
    elif on:
        output.say(f"{disk.path} is write-protected." if changed else f"{disk.path} was write-protected already.")
    elif changed:
        output.say(f"{disk.path} may be written now, by any program, until 'recovery protect {disk.path}'.")
    else:
        output.say(f"{disk.path} was not write-protected.")


def _unmount(output: Output, place: Path) -> None:
    done = unmount(place)
    if output.json:
        output.document(done)
        return
    if done.held:
        output.say(f"Unmounted {done.folder}; do not unplug it yet, it is still in use: {'; '.join(done.held)}.")
    else:
        output.say(f"Unmounted {done.folder}: it can be unplugged.")
    for disk in done.write_protected:
        output.say(f"{disk} is write-protected again.")


def _confirm(output: Output, candidate: Candidate) -> None:
    """Have it said that a filesystem may be brought up to date: that writes to it before anything else does."""
    what = f"{candidate.node}: {candidate.unclean}; mounting it writes to it"
    if not output.can_ask:
        raise Refused(what, "Say --yes if it is the right one, or --read-only to look at it as it is.")
    output.warn(f"{what}. If it is the disk to be rescued, stop here.")
    answer = output.ask(f"Type {shown(candidate.node.name)} to mount it, anything else to stop: ").strip()
    if answer != candidate.node.name:
        raise Cancelled(f"not confirmed; {candidate.node} is untouched", "Nothing was written.")


def _tell(output: Output, made: Destination, unclean: str = "") -> None:
    label = f' "{made.label}"' if made.label else ""
    room = "" if made.read_only else f", {format_bytes(made.free_bytes)} free"
    how = ", for reading only" if made.read_only else ""
    output.say(
        f"{made.device} ({made.filesystem}{label}, {format_bytes(made.size_bytes)}{room}) is mounted at "
        f"{made.folder}{how}."
    )
    if made.read_only and unclean:
        output.say(f"  Mind: {unclean}. What was written last may be missing.")
    for folder in made.repositories:
        output.say(f"  The repository in it:   export RESTIC_REPOSITORY={shlex.quote(folder)}")
    if not made.repositories and not made.read_only:
        output.say(f"  Make a repository:      recovery init -r {shlex.quote(f'{made.folder}/recovery')}")
    output.say(f"  When all is done:       recovery destination --unmount {shlex.quote(made.folder)}")
