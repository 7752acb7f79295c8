#!/usr/bin/env python3
"""Write the bootable image to a USB stick, and read it back: make usb DISK=/dev/sdX

The rules of a restore hold: a disk that is in use, holds the running system or the image itself, or belongs to an array
is refused; what the stick holds is shown; its short name is typed; its identity is looked at again under an exclusive
open.  Order, so that a stick that was cut off does not start: the places of its old tables are wiped, then the image
behind its first MiB is written, at last that; then all of it is read back past the cache and compared.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import typer  # noqa: E402

from recovery.cli import failures  # noqa: E402
from recovery.cli.output import Output  # noqa: E402
from recovery.devices.blockio import TargetWriter  # noqa: E402
from recovery.devices.disk import Disk, DiskIdentity, check_identity, disk_for, identity  # noqa: E402
from recovery.devices.probe import Content, probe  # noqa: E402
from recovery.devices.protection import released  # noqa: E402
from recovery.devices.safety import members, target_problems  # noqa: E402
from recovery.devices.table import examine_table  # noqa: E402
from recovery.errors import Cancelled, DeviceError, RecoveryError, Refused, UsageError  # noqa: E402
from recovery.extent import Extent, Extents  # noqa: E402
from recovery.image.compare import Expected, compare_pieces  # noqa: E402
from recovery.inventory import render, shown, survey_disk  # noqa: E402
from recovery.progress import Progress  # noqa: E402
from recovery.units import GIB, MIB, format_bytes  # noqa: E402

IMAGE = ROOT / "build" / "recovery-amd64.iso"

#: What is larger is seldom a stick.
_LARGE_BYTES = 300 * GIB
#: A GPT's second copy, its table and its header, fills the last 34 sectors at most.
_BACKUP_SECTORS, _SECTOR_BYTES = 34, 512
_STICKS = ("usb", "mmc")


def main(
    disk: Annotated[Path, typer.Argument(metavar="DISK", help="The stick, such as /dev/sdX; all on it is lost.")],
    image: Annotated[Path, typer.Option(metavar="FILE", help="The image.")] = IMAGE,
    any_disk: Annotated[
        bool, typer.Option("--any-disk", help="Also a disk that is not removable, or is large for a stick.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Write the bootable image to a USB stick, and read it back."""
    output, progress = Output(json=False), Progress()
    size_bytes = _check_image(image)
    stick = disk_for(disk)
    before = _identity(stick)
    _check_stick(stick, image, size_bytes, any_disk=any_disk)
    _show(output, stick, image, size_bytes)
    if not yes:
        _confirm(output, stick)
    with output.work(progress):
        _write(stick, before, image, size_bytes, progress)
    output.say(f"{image.name} is on {stick.path}, was read back and is equal. The stick can be unplugged.")


def _check_image(image: Path) -> int:
    """The size of the image.  Raises UsageError for what is none, DeviceError when its checksum is wrong."""
    try:
        size_bytes = image.stat().st_size
        content = probe(image, Extent(0, size_bytes))
        sums = image.parent / "SHA256SUMS"
        lines = sums.read_text().splitlines() if sums.is_file() else []
    except OSError as error:
        raise UsageError(f"there is no image {image}", "'make image' makes it.") from error
    if content is None or content.type != "iso9660":
        raise UsageError(f"{image} is no bootable image", "'make image' makes it.")
    expected = {name.lstrip("*"): digest for digest, _, name in (line.partition(" ") for line in lines)}
    expected = {name.strip(): digest for name, digest in expected.items()}
    if image.name in expected:
        with image.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected[image.name]:
            raise DeviceError(f"{image} is not what {sums} says", "Make it anew: 'make image'.")
    return size_bytes


def _check_stick(stick: Disk, image: Path, size_bytes: int, *, any_disk: bool) -> None:
    """Raise Refused, with every reason, when the image must not be written there."""
    problems = target_problems(stick, sources=[disk_for(image)])
    problems += members(stick, dict(_contents(stick)))
    if stick.size_bytes < size_bytes:
        problems.append(
            f"{stick.path} holds {format_bytes(stick.size_bytes)}, the image has {format_bytes(size_bytes)}."
        )
    if stick.logical_sector_bytes != _SECTOR_BYTES:
        problems.append(f"{stick.path} has sectors of {stick.logical_sector_bytes} bytes: nothing starts from it.")
    if problems:
        raise Refused(
            f"{stick.path} cannot become the stick: {' '.join(problems)}", "'recovery disks' lists what there is."
        )
    if any_disk or stick.is_image_file:
        return
    if not stick.removable and stick.transport not in _STICKS:
        raise Refused(f"{stick.path} is not removable", "If it is meant, say --any-disk (make usb ANY_DISK=1).")
    if stick.size_bytes > _LARGE_BYTES:
        raise Refused(
            f"{stick.path} holds {format_bytes(stick.size_bytes)}, which is large for a stick",
            "If it is meant, say --any-disk (make usb ANY_DISK=1).",
        )


def _contents(stick: Disk) -> Iterator[tuple[str, Content | None]]:
    report = survey_disk(stick)
    yield "the whole disk", report.content
    for partition in report.partitions:
        yield f"partition {partition.entry.number}", partition.content


def _show(output: Output, stick: Disk, image: Path, size_bytes: int) -> None:
    output.say("This will be overwritten, and all that is on it is lost:")
    output.show(render([survey_disk(stick)]))
    output.say(f"It becomes {image.name}, {format_bytes(size_bytes)}.")


def _confirm(output: Output, stick: Disk) -> None:
    if not output.can_ask:
        raise Refused("nobody confirmed, and there is nobody to ask", "Say --yes (make usb YES=1) when it is right.")
    name = stick.place.name
    if output.ask(f"Type {shown(name)} to overwrite it, anything else to stop: ").strip() != name:
        raise Cancelled(f"not confirmed; {stick.path} is untouched", "Nothing was written.")


def _identity(stick: Disk) -> DiskIdentity:
    table = examine_table(stick.place, stick.size_bytes, stick.logical_sector_bytes).table
    return identity(stick, table.uuid if table else None)


def _write(stick: Disk, before: DiskIdentity, image: Path, size_bytes: int, progress: Progress) -> None:
    """Write and read back.  Every error says which state the stick is in."""
    state = "is untouched"
    head = Extent(0, min(MIB, size_bytes))
    end = max(size_bytes, stick.size_bytes - _BACKUP_SECTORS * stick.logical_sector_bytes)
    tail = Extent(end, stick.size_bytes - end)
    try:
        with released() as protection, TargetWriter(stick.place) as target, image.open("rb") as source:
            check_identity(before, _identity(disk_for(stick.place)))
            protection.take_off(target.fileno(), stick)
            state = "is partly written, and does not start"
            first = source.read(head.length)
            expected = [_expected(head, first)]
            target.write(head.offset, bytes(head.length))
            target.write(tail.offset, bytes(tail.length))
            target.sync()
            progress.phase("write", size_bytes)
            while piece := source.read(MIB):
                progress.check()
                place = Extent(expected[-1].extent.end, len(piece))
                target.write(place.offset, piece)
                expected.append(_expected(place, piece))
                progress.advance(place.length)
            if expected[-1].extent.end != size_bytes:
                raise DeviceError(f"{image} changed while it was read", "Let nothing write to it, and try again.")
            progress.phase("sync")
            target.sync()
            target.write(head.offset, first)
            target.sync()
            state = "is written, but was not read back whole"
            expected.append(_expected(tail, bytes(tail.length)))
            _read_back(target, [piece for piece in expected if piece.extent.length], progress)
            target.reread_table()
    except RecoveryError as error:
        error.message = f"{error.message}; {stick.path} {state}"
        raise


def _expected(place: Extent, content: bytes) -> Expected:
    return Expected(place, Extents([place]), hashlib.sha256(content).digest())


def _read_back(target: TargetWriter, expected: list[Expected], progress: Progress) -> None:
    """Raise DeviceError where the stick does not give back what was written; it is read past the cache."""
    target.drop_cache()
    progress.phase("verify", sum(piece.extent.length for piece in expected))
    for piece, equal in compare_pieces(target, 0, iter(expected), progress, _SECTOR_BYTES):
        if not equal:
            raise DeviceError(
                f"{target.path} does not give back what was written at byte {piece.extent.offset}",
                "Use another stick: this one is faulty, or holds less than it says.",
            )
        progress.advance(piece.extent.length)


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command()(main)
        app(prog_name="usb", standalone_mode=False)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except Exception as error:  # noqa: BLE001 - the last place that can tell a person
        sys.exit(failures.tell(error, Output(json=False)))
