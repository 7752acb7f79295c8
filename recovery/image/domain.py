"""Which bytes of a whole disk are used: its table, its gaps, its end, and what each partition uses.

The rules are those of the design, "What counts as used"; the law behind them: unknown means used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from recovery.devices.probe import Content, probe
from recovery.devices.table import PartitionTable, table_extents
from recovery.errors import UsageError
from recovery.extent import Extent, Extents
from recovery.filesystems import Usage, used_extents
from recovery.progress import Progress
from recovery.units import MIB

#: The number under which what lies straight on a disk without a table goes.
WHOLE_DISK = 0

#: Of a larger gap only this much of its start and its end, where boot loaders and metadata lie.
GAP_EDGE = 16 * MIB
SMALL_GAP = 64 * MIB
DISK_END = 16 * MIB

#: partclone spends most of a small map asleep, so several run side by side even on one core.
_MAPS_AT_ONCE = 4
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PartitionDomain:
    """One partition (or, number 0, what lies straight on a disk without a table).

    ``extent`` is where it lies on the disk, in bytes, cut off at the disk's end; ``usage`` counts from its start and is
    None for a partition that was left out.
    """

    number: int
    extent: Extent
    content: Content | None
    usage: Usage | None

    @property
    def used(self) -> Extents:
        """The bytes of the disk that this partition uses; none when it was left out."""
        return self.usage.used.shift(self.extent.offset) if self.usage else Extents()


@dataclass(frozen=True, slots=True)
class DiskDomain:
    """The used bytes of a disk, in whole sectors, and how each partition came to its share, in the table's order."""

    used: Extents
    partitions: tuple[PartitionDomain, ...]


def disk_domain(
    path: Path,
    size_bytes: int,
    logical_sector_bytes: int,
    table: PartitionTable | None,
    *,
    contents: Mapping[int, Content | None] | None = None,
    include: Collection[int] | None = None,
    exclude: Collection[int] = (),
    progress: Progress | None = None,
    scratch: Path | None = None,
) -> DiskDomain:
    """The used bytes of the disk or image file ``path`` of ``size_bytes``.

    ``contents`` is what is known to be on the partitions, by number; what it does not name is probed.  With ``include``
    only those partitions are captured, without those of ``exclude``; table, gaps and the disk's end always are, but for
    what of the end lies in a partition that was left out.
    Raises UsageError for a partition that the disk does not have, DeviceError when the disk cannot be read,
    Cancelled when ``progress`` says so.
    """
    progress = progress or Progress()
    places = _places(size_bytes, table)
    chosen = _chosen(path, table, places, include, exclude)
    known = dict(contents or {})
    for number in chosen:
        progress.check()
        if number not in known and places[number].length:
            known[number] = probe(path, places[number], logical_sector_bytes)

    def usage_of(number: int) -> Usage:
        return _usage(
            path, places[number], table, number, known.get(number), logical_sector_bytes, scratch, progress.check
        )

    usages = _side_by_side(usage_of, {number: places[number].length for number in chosen}, progress)
    partitions = tuple(
        PartitionDomain(number, place, known.get(number), usages.get(number)) for number, place in places.items()
    )
    left_out = Extents(place for number, place in places.items() if number not in usages)
    disk = Extent(0, size_bytes)
    end_start = max(0, size_bytes - DISK_END)
    used = _around_partitions(size_bytes, table, Extents(places.values()))
    used = used.union(Extents([(end_start, size_bytes - end_start)]).subtract(left_out))
    used = used.union(Extents(extent for partition in partitions for extent in partition.used))
    return DiskDomain(used.align(logical_sector_bytes, size_bytes).clip(disk), partitions)


def _places(size_bytes: int, table: PartitionTable | None) -> dict[int, Extent]:
    """Where each partition lies, within the disk; an extended partition is only a container of gaps and others."""
    if table is None:
        return {WHOLE_DISK: Extent(0, size_bytes)}
    places = {}
    for entry in table.entries:
        if entry.role != "extended":
            offset, end = min(entry.offset, size_bytes), min(entry.end, size_bytes)
            places[entry.number] = Extent(offset, max(0, end - offset))
    return places


def _chosen(
    path: Path,
    table: PartitionTable | None,
    places: Mapping[int, Extent],
    include: Collection[int] | None,
    exclude: Collection[int],
) -> list[int]:
    for number in (*(include or ()), *exclude):
        if number not in places:
            container = table is not None and any(entry.number == number for entry in table.entries)
            what = "is only the container of the logical partitions" if container else "does not exist"
            has = ", ".join(str(place) for place in places) or "none"
            raise UsageError(f"partition {number} of {path} {what}", f"Partitions that can be chosen: {has}.")
    return [number for number in places if (include is None or number in include) and number not in exclude]


def _around_partitions(size_bytes: int, table: PartitionTable | None, partitioned: Extents) -> Extents:
    """The table's own bytes, and of every gap the part that counts as used."""
    gaps = partitioned.invert(Extent(0, size_bytes))
    if table is None:
        return gaps
    # A table that could not be read whole does not say what is unpartitioned.
    kept = Extents(part for gap in gaps for part in _of_gap(gap)) if table.complete else gaps
    return kept.union(table_extents(table, size_bytes))


def _of_gap(gap: Extent) -> Iterator[Extent]:
    if gap.length <= SMALL_GAP:
        yield gap
    else:
        yield Extent(gap.offset, GAP_EDGE)
        yield Extent(gap.end - GAP_EDGE, GAP_EDGE)


def _usage(
    path: Path,
    place: Extent,
    table: PartitionTable | None,
    number: int,
    content: Content | None,
    logical_sector_bytes: int,
    scratch: Path | None,
    interrupt: Callable[[], None],
) -> Usage:
    entry = next((entry for entry in table.entries if entry.number == number), None) if table else None
    if entry is not None and entry.length != place.length:
        where = "reaches beyond" if place.length else "lies behind"
        return Usage(Extents([(0, place.length)]), "whole", f"it {where} the end of the disk")
    return used_extents(path, place, content, logical_sector_bytes, scratch, interrupt)


def _side_by_side(usage_of: Callable[[int], Usage], lengths: Mapping[int, int], progress: Progress) -> dict[int, Usage]:
    """The usage of every number in ``lengths`` (number to bytes); a few at a time."""
    progress.phase("finding the used areas", sum(lengths.values()))
    with ThreadPoolExecutor(_MAPS_AT_ONCE, thread_name_prefix="map") as pool:
        running: dict[Future[Usage], int] = {pool.submit(usage_of, number): number for number in lengths}
        usages: dict[int, Usage] = {}
        pending = set(running)
        try:
            while pending:
                progress.check()
                done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    usages[running[future]] = future.result()
                    progress.advance(lengths[running[future]])
        finally:
            for future in pending:
                future.cancel()
    return usages
