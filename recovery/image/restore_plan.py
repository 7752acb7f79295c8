"""What a restore or clone will overwrite, made before anything starts, and why it is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from recovery.devices.blockio import SourceReader, TargetWriter
from recovery.devices.disk import Disk, DiskIdentity, check_identity, disk_for, identity
from recovery.devices.probe import Content, probe
from recovery.devices.protection import released
from recovery.devices.safety import members, target_problems
from recovery.devices.table import PartitionTable, TableEntry, examine_table, table_extents
from recovery.devices.table_plan import plan_table_for_target, refuse_too_small
from recovery.errors import DestinationFull, RecoveryError, Refused, RepositoryDamaged, UsageError
from recovery.extent import Extent, Extents
from recovery.image.capture_plan import PlannedDisk
from recovery.image.fit import other_sectors
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.image.target import HEAD_BYTES, TargetPlan, TargetState, Written
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

    @contextmanager
    def open_target(self, written: Written) -> Iterator[TargetWriter]:
        """The target, held exclusively, checked once more, and its write protection taken off for that time.

        Every error within tells which state it is in; a file that was made for this is removed then.
        """
        name = str(self.target.path)
        try:
            with ExitStack() as held:
                protection = held.enter_context(released())
                writer = held.enter_context(TargetWriter(self.target.path, create_bytes=self.create_bytes))
                self.check_target()
                if self.target.disk is not None:
                    protection.take_off(writer.fileno(), self.target.disk)
                yield writer
        except RecoveryError as error:
            if self.create_bytes is not None and written.state is TargetState.PARTLY_WRITTEN:
                self.target.path.unlink(missing_ok=True)
                error.message = f"{error.message}; the new file {name} was removed"
            else:
                error.message = f"{error.message}; {name} is {written.state.value}"
            raise

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
    target = _look_at_target(target_path, record, length, repository, ())
    breaks = _breaks(target, to_partition, accept_breaks)
    if chosen is not None:
        (head,), damaged = _table_places(image, [_first(chosen)], target_path, partial)
        plan = _partition_plan(target, image.used, chosen, to_partition, head)
    else:
        (head, tail), damaged = _table_places(image, _ends(record.size_bytes), target_path, partial)
        plan = _whole_disk_plan(target, record, image.used, head, tail)
    _check_room(plan, lambda: image.zero_bytes(plan.layout.body))
    return replace(plan, damaged=damaged, breaks=breaks)


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
    target = _look_at_target(target_path, record, record.size_bytes, None, (source.disk,))
    breaks = _breaks(target, None, accept_breaks)
    with SourceReader(source.disk.place, record.logical_sector_bytes) as reader:
        (head, lost), (tail, lost_too) = (
            _read(reader, extent, source.domain.used) for extent in _ends(record.size_bytes)
        )
        plan = _whole_disk_plan(target, record, source.domain.used, head, tail)
        _check_room(plan, lambda: reader.hole_bytes(plan.layout.body))
    return replace(plan, unreadable=lost.union(lost_too), breaks=breaks)


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
) -> Target:
    """The target as it is now.  Raises Refused, with every reason, when it may not be overwritten."""
    try:
        there = path.exists()
    except OSError as error:
        raise UsageError(f"{path} cannot be looked at: {error.strerror}", "Check the path.") from error
    if not there:
        return _new_file(path, record, length, repository)
    disk = disk_for(path)
    problems = target_problems(disk, repository=repository, sources=sources)
    wrong = other_sectors(disk, record.logical_sector_bytes)
    problems += [wrong] if wrong is not None else []
    if problems:
        raise Refused(f"{path} cannot be overwritten: {' '.join(problems)}", "'recovery disks' lists what there is.")
    sector_bytes = record.logical_sector_bytes
    table = examine_table(path, disk.size_bytes, sector_bytes).table
    contents = tuple(_contents(path, disk.size_bytes, sector_bytes, table))
    named = identity(disk, table.uuid if table else None)
    return Target(path, disk, disk.size_bytes, sector_bytes, named, table, contents)


def _breaks(target: Target, to_partition: int | None, accepted: bool) -> tuple[str, ...]:
    """What else stops working: the target, or the one partition of it, is a member of something.  Raises Refused."""
    if target.disk is None:
        return ()
    hit = {
        where: content
        for where, content in target.contents
        if to_partition is None or where == _partition_name(to_partition)
    }
    breaks = tuple(members(target.disk, hit))
    if breaks and not accepted:
        raise Refused(
            f"overwriting {target.path} breaks more than that disk. {' '.join(breaks)}",
            "If that is meant, say so with --break-members.",
        )
    return breaks


def _partition_name(number: int) -> str:
    return f"partition {number}"


def _check_room(plan: RestorePlan, zero_bytes: Callable[[], int]) -> None:
    """Raise DestinationFull when the target is a file and what will be written has no room where it lies.

    ``zero_bytes``: how much of it is zeros, which a file has without room for them.
    """
    target = plan.target
    if target.disk is not None and not target.disk.is_image_file:
        return
    allocated = target.path.stat().st_blocks * 512 if target.disk is not None else 0
    status = os.statvfs(target.path if target.disk is not None else target.path.parent)
    free, needed = status.f_bavail * status.f_frsize, plan.layout.written.total_bytes - allocated
    if needed > free:
        needed -= zero_bytes()
    if needed > free:
        raise DestinationFull(
            f"{format_bytes(needed)} will be written to {target.path}, and there are {format_bytes(free)} free; "
            "it is untouched",
            "Free some space there, or name another place.",
        )


def _new_file(path: Path, record: ImageDisk, length: int, repository: Path | None) -> Target:
    if not path.parent.is_dir():
        raise UsageError(f"{path} does not exist, nor does its folder", "'recovery disks' lists the disks there are.")
    folder, devices = path.parent.resolve(), Path("/dev")
    if folder.is_relative_to(devices) and folder.stat().st_dev == devices.stat().st_dev:  # not a file in /dev/shm
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
        (_partition_name(entry.number), probe(path, place[0], sector_bytes) if place else None)
        for entry, place in places
    ]


def _whole_disk_plan(target: Target, record: ImageDisk, used: Extents, head: bytes, tail: bytes) -> RestorePlan:
    refuse_too_small(record.table, record.size_bytes, target.size_bytes)
    planned = plan_table_for_target(head, tail, record.size_bytes, target.size_bytes, record.logical_sector_bytes)
    left_out = [part for part in record.partitions if part.method == "left-out"]
    kept, lost = _kept(target, left_out)
    writes = tuple(_without(kept, planned.writes))  # a partition may begin within the first MiB
    table = Extents((offset, len(data)) for offset, data in writes)
    body = used.subtract(table)
    if record.table is not None and record.table.label == "gpt" and target.size_bytes > record.size_bytes:
        # The copy at the old end has moved: left where it was, it would be a second, stale one.
        old_copy = table_extents(record.table, record.size_bytes).clip(_ends(record.size_bytes)[1])
        body = body.subtract(old_copy.subtract(Extents(entry.extent for entry in record.table.entries)))
    unused = _unused(Extent(0, target.size_bytes), body.union(table), target).subtract(kept)
    places = [entry.extent for entry in (*(record.table.entries if record.table else ()), *_present(target))]
    areas = (Extent(0, target.size_bytes), Extent(0, record.size_bytes), *_clipped(places, target.size_bytes))
    # A GPT's second copy fills the last 34 sectors at most: the old one must not outlive the first by a moment.
    tail_bytes = min(34 * record.logical_sector_bytes, target.size_bytes)
    old_end = Extents([(target.size_bytes - tail_bytes, tail_bytes)]).subtract(kept)
    layout = TargetPlan(body=body, table=writes, unused=unused, areas=areas, wiped=table.union(old_end))
    findings = (*record.findings, *planned.findings, *lost)
    return RestorePlan(target, Extent(0, record.size_bytes), layout, findings=findings)


def _without(kept: Extents, writes: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for offset, data in writes:
        for run in Extents([(offset, len(data))]).subtract(kept):
            yield run.offset, data[run.offset - offset : run.end - offset]


def _kept(target: Target, left_out: Sequence[ImagePartition]) -> tuple[Extents, list[str]]:
    """Partitions that the image lacks and the target has at the same place: they stay.  And what is to be told."""
    present = {entry.extent for entry in _present(target)}
    kept: list[Extent] = []
    told: list[str] = []
    for part in left_out:
        extent = Extent(part.offset, part.length)
        if extent in present:
            kept.append(extent)
            told.append(f"Partition {part.number} was left out of the image: what the target holds there stays.")
        else:
            told.append(
                f"Partition {part.number} was left out of the image: it will be in the table, without content, "
                "and what the target holds there is lost."
            )
    return Extents(kept), told


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
        wiped=Extents([(place.offset, len(head))]),
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
