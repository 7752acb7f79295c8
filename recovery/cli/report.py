"""What a plan and a result say: in sentences and tables for people, as plain values for ``--json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table

from recovery.cli.output import Output
from recovery.extent import Extent, Extents
from recovery.image.boot import BootPlan, BootResult
from recovery.image.capture import CaptureResult
from recovery.image.capture_plan import CapturePlan
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.image.restore import RestoreResult
from recovery.image.restore_plan import RestorePlan
from recovery.image.target import TargetState
from recovery.image.verify import VerifyResult
from recovery.image.view import SystemImage
from recovery.inventory import shown
from recovery.units import counted, format_bytes

if TYPE_CHECKING:
    from recovery.image.audit import AuditResult, PartitionAudit

_SHOWN_AREAS = 20


# -- capture


def show_capture_plan(output: Output, plan: CapturePlan, destination: object) -> None:
    """What will be read, how large it will be, and the room there is."""
    output.event(
        "plan",
        disks=[planned.record for planned in plan.disks],
        used_bytes=plan.used_bytes,
        predicted_bytes=plan.predicted_bytes,
        free_bytes=plan.free_bytes,
    )
    if plan.earlier is not None:
        output.say(f"The incomplete image {plan.earlier.stored.id[:8]} is completed: what it lacks is read.")
    for planned in plan.disks:
        record = planned.record
        model = f", {record.model}" if record.model else ""
        serial = f", serial {record.serial}" if record.serial else ""
        output.say(f"Source {planned.disk.path}: {format_bytes(record.size_bytes)}{model}{serial}")
        table = Table(box=None, pad_edge=False, show_header=False)
        for part in record.partitions:
            what = part.content.type if part.content else "unknown"
            label = f'"{part.content.label}"' if part.content and part.content.label else ""
            number = f"  partition {part.number}" if part.number else "  the whole disk"
            table.add_row(number, format_bytes(part.length), shown(f"{what} {label}".strip()), shown(_how(part)))
        if record.partitions:
            output.show(table)
        for finding in record.findings:
            output.say(f"  {finding}")
    output.say(
        f"{format_bytes(plan.used_bytes)} will be read; about {format_bytes(plan.predicted_bytes)} will be stored in "
        f"{destination}, which has {format_bytes(plan.free_bytes)} free."
    )


def _how(part: ImagePartition) -> str:
    match part.method:
        case "map":
            return f"{format_bytes(part.used_bytes)} used{f' ({part.reason})' if part.reason else ''}"
        case "swap-header":
            return "swap: only its header"
        case "left-out":
            return "left out"
        case _:
            return f"whole: {part.reason}"


def capture_document(result: CaptureResult) -> dict[str, Any]:
    """The summary of a capture."""
    return {
        "snapshot_id": result.snapshot_id,
        "used_bytes": result.used_bytes,
        "read_bytes": result.read_bytes,
        "new_bytes": result.new_bytes,
        "known_bytes": result.known_bytes,
        "stored_bytes": result.stored_bytes,
        "unreadable_bytes": result.unreadable_bytes,
        "unreadable": {name: list(areas) for name, areas in result.unreadable.items() if areas},
        "verified": result.verified,
        "complete": result.complete,
        "died": result.died,
        "lost": {disk.name: [msgspec.structs.asdict(lost) for lost in disk.lost] for disk in result.manifest.disks},
    }


def tell_capture(output: Output, result: CaptureResult) -> None:
    """What was captured, and whether it is whole."""
    state = "Captured" if result.complete else "Captured INCOMPLETELY"
    output.say(
        f"{state}: system image {result.snapshot_id[:8]}. {format_bytes(result.read_bytes)} read, "
        f"{format_bytes(result.new_bytes)} of it new, {format_bytes(result.stored_bytes)} stored."
    )
    for name, why in result.died.items():
        output.say(f"{name}: {why}. What was read of it until then is in the image.")
    for disk in result.manifest.disks:
        _tell_areas(output, f"{disk.name}: could not be read", result.unreadable.get(disk.name, Extents()), disk)
        tell_lost(output, disk)
    if not result.complete:
        output.say(
            "What could not be read is zeros in the image, and marked so. Copy what matters soon: the disk fails. "
            "'recovery capture --continue' tries once more what is missing."
        )
    if result.verified:
        output.say("What was stored was read back from the medium and is right.")
    else:
        output.say("What was stored was NOT read back (--no-verify).")


def tell_lost(output: Output, disk: ImageDisk) -> None:
    """Whose the bytes are that could not be read."""
    for lost in disk.lost:
        where = f"of partition {lost.partition}" if lost.partition else "of what is on the disk"
        output.say(f"Lost {where}:")
        for file in lost.files[:_SHOWN_AREAS]:
            output.say(f"  {shown(file.name)}: {format_bytes(file.lost_bytes)}")
        more = lost.more + max(0, len(lost.files) - _SHOWN_AREAS)
        if more:
            output.say(f"  and {more} more files: 'recovery show --json' names them")
        if lost.own_bytes:
            output.say(f"  the filesystem's own: {format_bytes(lost.own_bytes)}")
        if lost.free_bytes:
            output.say(f"  free space: {format_bytes(lost.free_bytes)}, no loss")
        for name in lost.unfollowed[:_SHOWN_AREAS]:
            output.say(f"  cannot be looked at any more: {shown(name)}")
        if lost.untold:
            output.say(f"  not all can be said: {shown(lost.untold)}")


def _tell_areas(output: Output, what: str, areas: Extents, disk: ImageDisk) -> None:
    if not areas:
        return
    output.say(f"  {what}: {format_bytes(areas.total_bytes)} in {counted(len(areas), 'area')}")
    for area, _ in zip(areas, range(_SHOWN_AREAS), strict=False):
        output.say(f"    {area.length} bytes at byte {area.offset}{_partition_at(disk, area)}")
    if len(areas) > _SHOWN_AREAS:
        output.say(f"    and {len(areas) - _SHOWN_AREAS} more; 'recovery show' lists them")


def _partition_at(disk: ImageDisk, area: Extent) -> str:
    for part in disk.partitions:
        if part.offset <= area.offset < part.offset + part.length:
            return f", partition {part.number}" if part.number else ""
    return ""


# -- restore and clone


def show_restore_plan(output: Output, plan: RestorePlan, record: ImageDisk, boot: BootPlan) -> None:
    """What the target is and holds now, beside what it will become."""
    target = plan.target
    if target.disk is None:
        output.say(f"Target {target.path}: a new file of {format_bytes(target.size_bytes)}")
    else:
        disk = target.disk
        words = [disk.model, disk.serial and f"serial {disk.serial}", disk.transport]
        known = ", ".join(word for word in words if word)
        output.say(f"Target {target.path}: {format_bytes(target.size_bytes)}{f', {known}' if known else ''}")
        if disk.write_protected:
            output.say("  It is write-protected until this plan is confirmed, and again afterwards.")
        output.say("  It holds now:")
        present = [(where, content) for where, content in target.contents if content is not None]
        for where, content in present:
            label = f' "{content.label}"' if content and content.label else ""
            output.say(f"    {where}: {content.type if content else ''}{label}")
        if not present:
            output.say("    nothing that is recognised")
    if plan.partition is None:
        output.say(f"  It will become {record.name}, {format_bytes(record.size_bytes)}:")
        for part in record.partitions:
            if part.method != "left-out":
                what = part.content.type if part.content else "unknown"
                label = f' "{part.content.label}"' if part.content and part.content.label else ""
                where = f"partition {part.number}" if part.number else "the whole disk"
                output.say(f"    {where}: {format_bytes(part.length)}, {what}{label}")
    else:
        what = plan.partition.content.type if plan.partition.content else "unknown"
        output.say(f"  Bytes {plan.source.offset + plan.layout.shift} and following become partition")
        output.say(f"  {plan.partition.number} of {record.name}: {format_bytes(plan.source.length)}, {what}")
    for broken in plan.breaks:
        output.say(f"  BREAKS MORE: {broken}")
    for finding in (*plan.findings, *boot.sentences):
        output.say(f"  {finding}")
    if boot.fallback:
        output.say("  A loader is added to its EFI system partition where every firmware looks, if none is there.")
    output.say(f"{format_bytes(plan.layout.written.total_bytes)} will be written.")


def restore_plan_document(plan: RestorePlan, boot: BootPlan) -> dict[str, Any]:
    """The plan of a restore or clone."""
    return {
        "target": str(plan.target.path),
        "target_bytes": plan.target.size_bytes,
        "target_identity": plan.target.identity,
        "target_holds": {where: content.type if content else None for where, content in plan.target.contents},
        "source_offset": plan.source.offset,
        "source_bytes": plan.source.length,
        "partition": plan.partition.number if plan.partition else None,
        "written_bytes": plan.layout.written.total_bytes,
        "unused_bytes": plan.layout.unused.total_bytes,
        "breaks": list(plan.breaks),
        "findings": list(plan.findings),
        "boot_entries": [{"label": entry.label, "loader": entry.loader} for entry in boot.entries],
        "boot": list(boot.sentences),
    }


def restore_document(result: RestoreResult, boot: BootResult) -> dict[str, Any]:
    """The summary of a restore or clone."""
    return {
        "state": result.state.name.lower(),
        "written_bytes": result.written_bytes,
        "kept_bytes": result.kept_bytes,
        "discarded_bytes": result.discarded_bytes,
        "damaged": [{"offset": e.offset, "length": e.length, "reason": reason} for e, reason in result.damaged],
        "unreadable": list(result.unreadable),
        "verified": result.verified,
        "complete": result.complete,
        "stale_table": result.stale_table,
        "boot": boot,
    }


def tell_restore(output: Output, plan: RestorePlan, result: RestoreResult) -> None:
    """What was written, and whether it is whole."""
    name = plan.target.path
    kept = f", {format_bytes(result.kept_bytes)} were there already" if result.kept_bytes else ""
    output.say(f"{format_bytes(result.written_bytes)} written{kept}; {name} is {result.state.value}.")
    if result.state is TargetState.NOT_VERIFIED:
        output.say("It was NOT read back (--no-verify).")
    for extent, reason in result.damaged[:_SHOWN_AREAS]:
        output.say(
            f"  Zeros, because the repository is damaged: {extent.length} bytes at byte {extent.offset}: {reason}"
        )
    for extent, _ in zip(result.unreadable, range(_SHOWN_AREAS), strict=False):
        output.say(f"  Zeros, because the source could not be read: {extent.length} bytes at byte {extent.offset}")
    if result.stale_table:
        output.say("The kernel still goes by the old partition table: reboot or replug the disk before you mount it.")
    if not result.complete:
        output.say("The disk is NOT whole: check its filesystems before you use it.")


# -- verify


def verify_document(image: SystemImage, result: VerifyResult) -> dict[str, Any]:
    """The summary of a verification."""
    return {
        "snapshot_id": image.stored.id,
        "sound": result.sound,
        "packs": result.packs,
        "pack_bytes": result.pack_bytes,
        "blobs": result.blobs,
        "unreadable_bytes": sum(disk.unreadable_bytes for disk in image.manifest.disks),
        "pack_problems": result.pack_problems,
        "damages": [
            {
                "disk": damage.disk,
                "offset": damage.extent.offset,
                "length": damage.extent.length,
                "partition": damage.partition,
                "used_bytes": damage.used.total_bytes,
                "reason": damage.reason,
            }
            for damage in result.damages
        ],
    }


def tell_verify(output: Output, image: SystemImage, result: VerifyResult) -> None:
    """Whether the image is sound, and else what is hit."""
    output.say(
        f"System image {image.stored.id[:8]}: {counted(result.packs, 'pack')} ({format_bytes(result.pack_bytes)}) "
        f"hashed whole, {counted(result.blobs, 'blob')} opened and hashed."
    )
    unreadable = sum(disk.unreadable_bytes for disk in image.manifest.disks)
    if unreadable:
        output.say(
            f"It is incomplete: {format_bytes(unreadable)} could not be read from the disk when it was made, and are "
            "zeros in it."
        )
    if result.sound:
        output.say("All of what it holds is sound." if unreadable else "All of it is sound.")
        return
    for problem in result.pack_problems:
        output.say(f"  {problem}")
    for damage in result.damages[:_SHOWN_AREAS]:
        where = f"partition {damage.partition}" if damage.partition is not None else "outside of the partitions"
        output.say(
            f"  {damage.disk}, {where}: {format_bytes(damage.used.total_bytes)} used within bytes "
            f"{damage.extent.offset} to {damage.extent.end}: {damage.reason}"
        )
    if len(result.damages) > _SHOWN_AREAS:
        output.say(f"  and {len(result.damages) - _SHOWN_AREAS} more (--json lists all)")
    if result.damages:
        output.say("The rest is restorable: 'recovery restore --partial' writes zeros there, and names them.")
    else:
        output.say("No used byte of this image is hit. Run 'restic check' and repair the repository soon.")


# -- audit


def audit_document(result: AuditResult | None) -> dict[str, Any] | None:
    """What an audit found, for the summary; None when there was none."""
    if result is None:
        return None
    return {"passed": result.passed, "partitions": [_audited(partition) for partition in result.partitions]}


def _audited(partition: PartitionAudit) -> dict[str, Any]:
    return {"passed": partition.passed, **msgspec.to_builtins(partition)}


def tell_audit(output: Output, result: AuditResult) -> None:
    """What was audited, and what is missing."""
    for partition in result.partitions:
        number = partition.number
        where = "around the partitions" if number is None else f"partition {number}" if number else "the whole disk"
        state = "NOT SOUND" if partition.findings else "not audited" if partition.not_audited else "nothing is missing"
        looked = f" ({', '.join(partition.routes)}{f', {partition.files} files' if partition.files else ''})"
        output.say(f"  {partition.disk}, {where} {partition.filesystem}: {state}{looked if partition.routes else ''}")
        if partition.not_audited:
            output.say(f"    {partition.not_audited}")
        for remark in partition.remarks:
            output.say(f"    {remark}")
        for finding in partition.findings[:_SHOWN_AREAS]:
            place = f" (from byte {finding.offset})" if finding.offset is not None else ""
            output.say(f"    {finding.route}: {finding.message}{place}")
        if len(partition.findings) > _SHOWN_AREAS:
            output.say(f"    and {len(partition.findings) - _SHOWN_AREAS} more (--json lists all)")
    if result.passed:
        output.say("The audit found nothing that is missing.")
    else:
        output.say("The image lacks what its filesystems need: keep the source until another image of it passes.")
