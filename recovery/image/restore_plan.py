"""What a restore or clone will overwrite, made before anything starts, and why it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from recovery.devices.blockio import SourceReader
from recovery.devices.disk import Disk, DiskIdentity, check_identity, disk_for, identity
from recovery.devices.probe import Content, probe
from recovery.devices.safety import members, target_problems
from recovery.devices.table import PartitionTable, TableEntry, examine_table, table_extents
from recovery.devices.table_plan import plan_table_for_target, refuse_too_small
from recovery.errors import Refused, RepositoryDamaged, UsageError
from recovery.extent import Extent, Extents
from recovery.image.capture_plan import PlannedDisk
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.image.target import HEAD_BYTES, TargetPlan
from recovery.image.view import DiskImage
from recovery.units import format_bytes


@dataclass(frozen=True, slots=True)
class Target:
    """What is overwritten: a disk, an image file, or (``disk`` is None) a file that will be made.

    ``contents`` is what each of its partitions, or the whole, holds now, by a name for people.
    """

    path: Path
    disk: Disk | None
    size_bytes: int
    logical_sector_bytes: int
    identity: DiskIdentity | None = None
    table: PartitionTable | None = None
    contents: tuple[tuple[str, Content | None], ...] = ()

    @property
    def short_name(self) -> str:
        """What is typed to confirm."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What will be written onto ``target``.

    ``breaks`` says what else stops working (a member of an array or pool is hit); ``findings`` what is worth knowing.
    ``source`` is what of the image is written: the whole disk, or the range of one partition; ``damaged`` is what of
    the table's places the repository could not give back, with why; ``unreadable`` what of them the source of a clone
    could not.
    """

    target: Target
    source: Extent
    layout: TargetPlan
    partition: ImagePartition | None = None
    breaks: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    damaged: tuple[tuple[Extent, str], ...] = ()
    unreadable: Extents = field(default_factory=Extents)

    @property
    def create_bytes(self) -> int | None:
        """Size of the file to be made; None when the target exists."""
        return self.target.size_bytes if self.target.disk is None else None

    def check_target(self) -> None:
        """Raise Refused when the target is not what it was when the plan was made, or came into use since.

        A block device is open exclusively by now; a file must be asked for.
        """
        if self.target.identity is None:
            return
        now = disk_for(self.target.path)
        if now.is_image_file and now.in_use:
            raise Refused(f"{self.target.path} came into use: {'; '.join(now.in_use)}", "Let go of it, and try again.")
        table = examine_table(self.target.path, now.size_bytes, now.logical_sector_bytes).table
        check_identity(self.target.identity, identity(now, table.uuid if table else None))


def plan_restore(
    image: DiskImage,
    target_path: Path,
    *,
    repository: Path | None,
    partition: int | None = None,
    to_partition: int | None = None,
    accept_breaks: bool = False,
    partial: bool = False,
) -> RestorePlan:
    """What writing ``image`` onto ``target_path`` will do.

    With ``partial`` the place of the partition table may be damaged in the repository.
    Raises Refused, UsageError, DeviceError, RepositoryDamaged.
    """
    record = image.record
    if partition is None and to_partition is not None:
        raise UsageError("--to-partition needs --partition", "Say which partition of the image is meant.")
    chosen = None if partition is None else _chosen_partition(record, partition)
    length = record.size_bytes if chosen is None else chosen.length
    target = _look_at_target(target_path, record, length, repository, (), accept_breaks)
    if chosen is not None:
        (head,), damaged = _table_places(image, [_first(chosen)], target_path, partial)
        return replace(_partition_plan(target, image.used, chosen, to_partition, head), damaged=damaged)
    (head, tail), damaged = _table_places(image, _ends(record.size_bytes), target_path, partial)
    return replace(_whole_disk_plan(target, record, image.used, head, tail), damaged=damaged)


def _table_places(
    image: DiskImage, places: Sequence[Extent], target_path: Path, partial: bool
) -> tuple[list[bytes], tuple[tuple[Extent, str], ...]]:
    """What is written last: the bytes of ``places``, and what of them is damaged (zeros then, with ``partial``)."""
    damaged = tuple(damage for extent in places for damage in image.damage(extent))
    if damaged and not partial:
        hit, why = damaged[0]
        raise RepositoryDamaged(
            f"bytes {hit.offset} to {hit.end} cannot be had: {why}; {target_path} is untouched",
            "'recovery verify' says what is hit; --partial writes the rest, and a GPT from its other copy.",
        )
    content = [
        bytes(extent.length) if any(_overlap(extent, hit) for hit, _ in damaged) else image.read(*extent)
        for extent in places
    ]
    return content, damaged


def _overlap(one: Extent, other: Extent) -> bool:
    return one.offset < other.end and other.offset < one.end


def plan_clone(source: PlannedDisk, target_path: Path, *, accept_breaks: bool = False) -> RestorePlan:
    """What copying a disk onto ``target_path`` will do.  Raises as ``plan_restore``."""
    record = source.record
    target = _look_at_target(target_path, record, record.size_bytes, None, (source.disk,), accept_breaks)
    with SourceReader(source.disk.place, record.logical_sector_bytes) as reader:
        (head, lost), (tail, lost_too) = (
            _read(reader, extent, source.domain.used) for extent in _ends(record.size_bytes)
        )
    plan = _whole_disk_plan(target, record, source.domain.used, head, tail)
    return replace(plan, unreadable=lost.union(lost_too))


def _ends(size_bytes: int) -> tuple[Extent, Extent]:
    """The first and the last MiB of a disk."""
    edge = min(HEAD_BYTES, size_bytes)
    return Extent(0, edge), Extent(size_bytes - edge, edge)


def _first(partition: ImagePartition) -> Extent:
    """The first MiB of a partition, where its superblock lies."""
    return Extent(partition.offset, min(HEAD_BYTES, partition.length))


def _read(reader: SourceReader, extent: Extent, used: Extents) -> tuple[bytes, Extents]:
    """The used bytes of ``extent``, zeros elsewhere, and what of them could not be read."""
    buffer = bytearray(extent.length)
    lost = reader.read(extent, used, memoryview(buffer))
    return bytes(buffer), lost


def _chosen_partition(record: ImageDisk, number: int) -> ImagePartition:
    for partition in record.partitions:
        if partition.number == number and partition.method != "left-out":
            return partition
        if partition.number == number:
            raise UsageError(f"partition {number} was left out of this image", "Choose another image.")
    there = ", ".join(str(p.number) for p in record.partitions if p.method != "left-out") or "none"
    raise UsageError(f"the image of {record.name} holds no partition {number}", f"It holds: {there}.")


def _look_at_target(
    path: Path,
    record: ImageDisk,
    length: int,
    repository: Path | None,
    sources: Sequence[Disk],
    accept_breaks: bool,
) -> Target:
    """The target as it is now.  Raises Refused, with every reason, when it may not be overwritten."""
    if not path.exists():
        return _new_file(path, record, length, repository)
    disk = disk_for(path)
    problems = target_problems(disk, repository=repository, sources=sources)
    sector_bytes = disk.logical_sector_bytes
    if disk.is_image_file:
        sector_bytes = record.logical_sector_bytes  # a file has no sectors of its own
    elif sector_bytes != record.logical_sector_bytes:
        problems.append(
            f"{disk.path} has sectors of {sector_bytes} bytes, the image was made of a disk with "
            f"{record.logical_sector_bytes}: its partition table and filesystems would not be found."
        )
    if problems:
        raise Refused(f"{path} cannot be overwritten: {' '.join(problems)}", "'recovery disks' lists what there is.")
    table = examine_table(path, disk.size_bytes, sector_bytes).table
    contents = tuple(_contents(path, disk.size_bytes, sector_bytes, table))
    breaks = members(disk, dict(contents))
    if breaks and not accept_breaks:
        raise Refused(
            f"overwriting {path} breaks more than that disk. {' '.join(breaks)}",
            "If that is meant, say so with --break-members.",
        )
    named = identity(disk, table.uuid if table else None)
    return Target(path, disk, disk.size_bytes, sector_bytes, named, table, contents)


def _new_file(path: Path, record: ImageDisk, length: int, repository: Path | None) -> Target:
    if not path.parent.is_dir():
        raise UsageError(f"{path} does not exist, nor does its folder", "'recovery disks' lists the disks there are.")
    if path.parent.stat().st_dev == Path("/dev").stat().st_dev:  # a mistyped device, not a file in /dev/shm
        raise UsageError(f"there is no device {path}", "'recovery disks' lists the disks there are.")
    if repository is not None and path.parent.resolve().is_relative_to(repository.resolve()):
        raise Refused(f"{path} lies inside the repository folder {repository}", "Name a file elsewhere.")
    return Target(path, None, length, record.logical_sector_bytes)


def _contents(
    path: Path, size_bytes: int, sector_bytes: int, table: PartitionTable | None
) -> list[tuple[str, Content | None]]:
    if table is None:
        return [("the whole disk", probe(path, Extent(0, size_bytes), sector_bytes))]
    disk = Extent(0, size_bytes)
    places = [(entry, Extents([entry.extent]).clip(disk)) for entry in table.entries if entry.role != "extended"]
    return [
        (f"partition {entry.number}", probe(path, place[0], sector_bytes) if place else None) for entry, place in places
    ]


def _whole_disk_plan(target: Target, record: ImageDisk, used: Extents, head: bytes, tail: bytes) -> RestorePlan:
    refuse_too_small(record.table, record.size_bytes, target.size_bytes)
    planned = plan_table_for_target(head, tail, record.size_bytes, target.size_bytes, record.logical_sector_bytes)
    table = Extents((offset, len(data)) for offset, data in planned.writes)
    body = used.subtract(table)
    if record.table is not None and record.table.label == "gpt" and target.size_bytes > record.size_bytes:
        # The copy at the old end has moved: left where it was, it would be a second, stale one.
        old_copy = table_extents(record.table, record.size_bytes).clip(_ends(record.size_bytes)[1])
        body = body.subtract(old_copy)
    unused = _unused(Extent(0, target.size_bytes), body.union(table), target)
    places = [entry.extent for entry in (*(record.table.entries if record.table else ()), *_present(target))]
    areas = (Extent(0, target.size_bytes), Extent(0, record.size_bytes), *_clipped(places, target.size_bytes))
    layout = TargetPlan(body=body, table=planned.writes, unused=unused, areas=areas)
    return RestorePlan(
        target, Extent(0, record.size_bytes), layout, breaks=(), findings=(*record.findings, *planned.findings)
    )


def _partition_plan(
    target: Target, used: Extents, chosen: ImagePartition, to_partition: int | None, head: bytes
) -> RestorePlan:
    source = Extent(chosen.offset, chosen.length)
    place = Extent(0, target.size_bytes) if to_partition is None else _target_partition(target, to_partition)
    if to_partition is None and target.disk is not None and (target.table is not None or not target.disk.is_image_file):
        raise UsageError(
            f"a partition of the image would be written over the whole of {target.path}",
            "Say which of its partitions is meant with --to-partition M, or name a file.",
        )
    if place.length < source.length:
        what = f"partition {to_partition} of {target.path}" if to_partition is not None else str(target.path)
        raise Refused(
            f"{what} holds {place.length} bytes ({format_bytes(place.length)}), and partition {chosen.number} of the "
            f"image needs {source.length} ({format_bytes(source.length)})",
            "Choose a partition of at least that size.",
        )
    body = used.clip(source).subtract(Extents([_first(chosen)]))
    shift = place.offset - source.offset
    written = body.shift(shift).union(Extents([(place.offset, len(head))]))
    layout = TargetPlan(
        body=body,
        shift=shift,
        table=((place.offset, head),) if head else (),
        unused=_unused(place, written, target),
        areas=(place,),
    )
    return RestorePlan(target, source, layout, partition=chosen)


def _target_partition(target: Target, number: int) -> Extent:
    entries = {entry.number: entry for entry in _present(target) if entry.role != "extended"}
    if number not in entries:
        there = ", ".join(str(known) for known in entries) or "none"
        raise UsageError(f"{target.path} has no partition {number}", f"It has: {there}.")
    extent = entries[number].extent
    if extent.end > target.size_bytes:
        raise Refused(f"partition {number} of {target.path} reaches beyond the disk's end", "Mend its table first.")
    return extent


def _present(target: Target) -> tuple[TableEntry, ...]:
    return target.table.entries if target.table else ()


def _clipped(places: Sequence[Extent], size_bytes: int) -> list[Extent]:
    return [Extent(p.offset, min(p.end, size_bytes) - p.offset) for p in places if p.offset < size_bytes and p.length]


def _unused(place: Extent, written: Extents, target: Target) -> Extents:
    """What of ``place`` is not written; a file that will be made is empty already."""
    if target.disk is None:
        return Extents()
    return written.invert(place)
