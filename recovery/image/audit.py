"""Audit: is everything that a filesystem needs in its image?  A wrong used-map cannot be noticed by any checksum.

Each partition that was captured by a map is shown as a file in which unused bytes read as zeros and are noted
(``served``), and is looked at by routes that do not know the map (``audit_partition``).  What was to be captured whole
must be there whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from recovery.devices.table import PartitionTable, table_extents
from recovery.extent import Extent, Extents
from recovery.filesystems.walk.view import Missing, View
from recovery.image.audit_partition import READERS, Finding, Routes, finding_of
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.image.served import ServedImage, served_image
from recovery.image.view import DiskImage, SystemImage
from recovery.progress import Progress
from recovery.units import KIB, MIB

#: Boot loaders and the metadata of arrays lie within this distance of a partition or of the disk's ends.
_EDGE = 16 * MIB
_SWAP_HEADER = 4 * KIB


class PartitionAudit(msgspec.Struct, frozen=True):
    """What was found of one partition (0: the whole disk; None: what lies outside of all partitions).

    ``routes`` are those that were gone to their end, over so many ``files``.  ``remarks`` tell of faults that are not
    the image's, and of routes that could not be gone.  ``harmless_bytes`` are unused bytes that a checker or the kernel
    read although the filesystem calls them free.  ``not_audited`` is why nothing can be said, empty when something can.
    """

    disk: str
    number: int | None
    filesystem: str
    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    files: int = 0
    harmless_bytes: int = 0
    not_audited: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was looked at and nothing was found."""
        return not self.findings and not self.not_audited


class AuditResult(msgspec.Struct, frozen=True):
    """The partitions of an image, in order."""

    partitions: tuple[PartitionAudit, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found; what could not be audited does not count as found."""
        return not any(partition.findings for partition in self.partitions)


def audit(image: SystemImage, progress: Progress) -> AuditResult:
    """Audit all partitions of an image.  It needs root.

    Raises DeviceError when the image cannot be shown through FUSE here, RepositoryDamaged, Cancelled.
    """
    records = image.manifest.disks
    progress.phase("audit", sum(partition.used_bytes for record in records for partition in record.partitions))
    found: list[PartitionAudit] = []
    with served_image(image) as served:
        for record in records:
            disk = image.disk(record.name)
            if record.table is not None:
                found.append(_around_partitions(disk, record, record.table))
            for partition in record.partitions:
                progress.check()
                found.append(_partition(disk, record, partition, served, progress))
                progress.advance(partition.used_bytes)
    return AuditResult(tuple(found))


def _around_partitions(disk: DiskImage, record: ImageDisk, table: PartitionTable) -> PartitionAudit:
    """The table, and what lies near the partitions and the disk's ends."""
    places = Extents((partition.offset, partition.length) for partition in record.partitions)
    edges = [0, record.size_bytes, *(edge for place in places for edge in (place.offset, place.end))]
    near = Extents((max(0, edge - _EDGE), 2 * _EDGE) for edge in edges)
    gaps = places.invert(Extent(0, record.size_bytes)).intersect(near)
    missing = gaps.union(table_extents(table, record.size_bytes)).subtract(disk.used)
    what = "the partition table and what lies around the partitions"
    findings = (finding_of("layout", Missing(what, missing), 0),) if missing else ()
    return PartitionAudit(record.name, None, table.label, findings=findings, routes=("layout",))


def _partition(
    disk: DiskImage, record: ImageDisk, partition: ImagePartition, served: ServedImage, progress: Progress
) -> PartitionAudit:
    kind = partition.content.type if partition.content else ""
    result = partial(PartitionAudit, record.name, partition.number, kind)
    if partition.method == "left-out":
        return result(not_audited="it was left out of the image")
    place = Extent(partition.offset, partition.length)
    used = disk.used.clip(place).shift(-place.offset)
    if partition.method != "map":
        return _all_there(result, partition, used)
    if kind not in READERS:
        return result(not_audited=f"nothing here tells what a {kind or 'nameless'} filesystem needs")
    path = served.partition(record.name, partition.number)
    view = View(path, kind, place.length, record.logical_sector_bytes, used, progress.check)
    routes = Routes(view, READERS[kind], place.offset, partial(served.noted, record.name, partition.number))
    routes.go(closed=partition.clean is not False)
    told = bool(routes.gone or routes.findings)
    return result(
        findings=tuple(routes.findings),
        remarks=tuple(routes.remarks) if told else (),
        routes=tuple(routes.gone),
        files=routes.files,
        harmless_bytes=routes.harmless_bytes,
        not_audited="" if told else "; ".join(routes.remarks),
    )


def _all_there(result: Callable[..., PartitionAudit], partition: ImagePartition, used: Extents) -> PartitionAudit:
    """A partition that was captured whole, or swap space of which only the header was."""
    length = min(_SWAP_HEADER, partition.length) if partition.method == "swap-header" else partition.length
    missing = Extents([(0, length)]).subtract(used)
    what = "the header of the swap space" if partition.method == "swap-header" else "a partition to be captured whole"
    findings = (finding_of("layout", Missing(what, missing), partition.offset),) if missing else ()
    return result(findings=findings, routes=("layout",))
