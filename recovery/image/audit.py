"""Audit: is everything that a filesystem needs in its image?  A wrong used-map cannot be noticed by any checksum.

Each partition that was captured by a map is shown as a file in which unused bytes read as zeros and are noted, and is
looked at by three routes, none of which knows the map: what the filesystem calls allocated, where every file lies, and
its own checker (``recovery.filesystems.walk``).

What of the view differs from the source lies in unused bytes.  So a route that read none of those saw the source
itself: faults that it finds were there before the capture, and are remarked, not held against the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import msgspec

from recovery.devices.table import PartitionTable, table_extents
from recovery.errors import DeviceError, ProgramMissing
from recovery.extent import Extent, Extents
from recovery.filesystems.walk import btrfs, checkers, exfat, ext, f2fs, fat, mounted, ntfs, xfs
from recovery.filesystems.walk.view import Area, Missing, NotAudited, Unreadable, View
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.image.served import Noted, ServedImage, served_image
from recovery.image.view import DiskImage, SystemImage
from recovery.progress import Progress
from recovery.units import KIB, MIB, format_bytes

#: So many findings of one route are named one by one.
_NAMED = 50

#: Boot loaders and the metadata of arrays lie within this distance of a partition or of the disk's ends.
_EDGE = 16 * MIB

#: At the end of a partition a checker looks whether it can be read at all.
_LAST_BYTES = 4 * KIB


class Finding(msgspec.Struct, frozen=True):
    """Something that is missing or wrong.

    ``route`` found it: ``allocation``, ``files``, ``checker``, ``reads`` (a tool needed what was not captured) or
    ``layout``.  ``offset`` is where on the disk the first of ``missing_bytes`` lies (None: nowhere in particular).
    """

    route: str
    message: str
    offset: int | None = None
    missing_bytes: int = 0


class PartitionAudit(msgspec.Struct, frozen=True):
    """What was found of one partition (0: the whole disk; None: what lies outside of all partitions).

    ``routes`` are those that were gone to their end.  ``remarks`` tell of faults that are not the image's, and of
    routes that could not be gone.  ``harmless_bytes`` are unused bytes that a checker or the kernel read although the
    filesystem calls them free.  ``not_audited`` is why nothing can be said of it, empty when something can.
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


@dataclass(frozen=True, slots=True)
class _Readers:
    """How a kind of filesystem tells what it needs."""

    allocation: Callable[[View], Iterator[Area]]
    files: Callable[[View], Iterator[Area]] | None = None


_READERS = {
    "ext2": _Readers(ext.allocation),
    "ext3": _Readers(ext.allocation),
    "ext4": _Readers(ext.allocation),
    "xfs": _Readers(xfs.allocation),
    "btrfs": _Readers(btrfs.allocation),
    "vfat": _Readers(fat.allocation, fat.files),
    "exfat": _Readers(exfat.allocation, exfat.files),
    "ntfs": _Readers(ntfs.allocation, ntfs.files),
    "f2fs": _Readers(f2fs.allocation),
}


def audit(image: SystemImage, progress: Progress) -> AuditResult:
    """Audit all partitions of an image.  It needs root.

    Raises DeviceError when the image cannot be shown through FUSE here, RepositoryDamaged, Cancelled.
    """
    chosen = [(disk, partition) for disk in image.manifest.disks for partition in disk.partitions]
    progress.phase("audit", sum(partition.used_bytes for _, partition in chosen))
    found: list[PartitionAudit] = []
    disks = {disk.name: image.disk(disk.name) for disk in image.manifest.disks}
    with served_image(image) as served:
        for record in image.manifest.disks:
            if record.table is not None:
                found.append(_audit_gaps(disks[record.name], record, record.table))
        for record, partition in chosen:
            progress.check()
            found.append(_audit_partition(disks[record.name], record, partition, served, progress))
            progress.advance(partition.used_bytes)
    return AuditResult(tuple(found))


def _audit_gaps(disk: DiskImage, record: ImageDisk, table: PartitionTable) -> PartitionAudit:
    """The table and what lies around the partitions."""
    places = Extents((p.offset, p.length) for p in record.partitions)
    gaps = places.invert(Extent(0, record.size_bytes))
    near = [
        (max(0, edge - _EDGE), 2 * _EDGE)
        for edge in (0, record.size_bytes, *(e for p in places for e in (p.offset, p.end)))
    ]
    needed = gaps.intersect(Extents(near)).union(table_extents(table, record.size_bytes))
    missing = needed.subtract(disk.used)
    found = Missing("the partition table and what lies around the partitions", missing)
    findings = (_missing("layout", found, 0),) if missing else ()
    return PartitionAudit(record.name, None, table.label, findings=findings, routes=("layout",))


def _audit_partition(
    disk: DiskImage, record: ImageDisk, partition: ImagePartition, served: ServedImage, progress: Progress
) -> PartitionAudit:
    kind = partition.content.type if partition.content else ""
    name = partial(PartitionAudit, record.name, partition.number, kind)
    if partition.method == "left-out":
        return name(remarks=("it was left out of the image",))
    place = Extent(partition.offset, partition.length)
    used = disk.used.clip(place).shift(-place.offset)
    if partition.method in ("whole", "swap-header"):
        needed = Extents([(0, place.length if partition.method == "whole" else 4 * KIB)])
        missing = Missing("bytes that were to be captured", needed.subtract(used))
        findings = (_missing("layout", missing, place.offset),) if missing.extents else ()
        return name(findings=findings, routes=("layout",), remarks=(f"captured: {partition.method}",))
    readers = _READERS.get(kind)
    if readers is None:
        return name(not_audited=f"nothing here tells what a {kind or 'nameless'} filesystem needs")
    view = View(
        served.partition(record.name, partition.number), kind, place.length, record.logical_sector_bytes, used,
        progress.check,
    )  # fmt: skip
    return _Audit(view, readers, place.offset, lambda: served.noted(record.name, partition.number)).run(name)


@dataclass
class _Audit:
    """The audit of one partition under way."""

    view: View
    readers: _Readers
    offset: int
    noted: Callable[[], Noted]
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    free: Extents | None = None
    probes: Extents = field(default_factory=Extents)
    files: int = 0
    harmless: int = 0

    def run(self, name: Callable[..., PartitionAudit]) -> PartitionAudit:
        """Go all routes."""
        self.noted()
        self._allocation()
        self._files()
        self._checker()
        not_audited = "" if self.routes or self.findings else "; ".join(self.remarks)
        return name(
            findings=tuple(self.findings),
            remarks=() if not_audited else tuple(self.remarks),
            routes=tuple(self.routes),
            files=self.files,
            harmless_bytes=self.harmless,
            not_audited=not_audited,
        )

    def _allocation(self) -> None:
        allocated: list[Extents] = []
        failed = ""
        try:
            if self.view.kind == "xfs":
                self.probes = xfs.free_list(self.view)
            for area in self.readers.allocation(self.view):
                self._expect("allocation", area)
                allocated.append(area.extents)
            self.routes.append("allocation")
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.remarks.append(f"what is allocated could not be told: {error}")
        except Unreadable as error:
            failed = str(error)
        self._end_strict("allocation", failed)
        if "allocation" in self.routes:
            everything = Extents(extent for extents in allocated for extent in extents)
            self.free = everything.invert(Extent(0, self.view.size_bytes))

    def _files(self) -> None:
        if self.readers.files is not None:
            failed = ""
            try:
                for area in self.readers.files(self.view):
                    self.files += 1
                    self._expect("files", area)
                self.routes.append("files")
            except Unreadable as error:
                failed = str(error)
            self._end_strict("files", failed)
        elif mounted.can_walk(self.view.kind):
            self._walk_mounted()

    def _walk_mounted(self) -> None:
        faults: list[str] = []
        try:
            walked = mounted.walk(self.view)
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.remarks.append(f"its files were not walked: {error}")
            return
        except Unreadable as error:
            faults.append(str(error))
        else:
            self.files += walked.files
            for missing in walked.missing:
                self._expect("files", Area(missing.what, missing.extents))
            faults += walked.unreadable
            if walked.unmapped:
                self.remarks.append(f"of {walked.unmapped} files the kernel does not say where they lie")
            self.routes.append("files")
        self._judge("files", faults)

    def _checker(self) -> None:
        try:
            name, words = checkers.check(self.view)
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.remarks.append(f"not checked: {error}")
            return
        self.routes.append("checker")
        self._judge("checker", [f"{name}: {words}"] if words else [])

    # -- what it comes to

    def _judge(self, route: str, faults: list[str]) -> None:
        """Faults of a route that reads ahead: the image's when it read anything unused, else the source's own."""
        noted = self._noted()
        self.harmless += (noted.intersect(self.free) if self.free is not None else noted).total_bytes
        if not noted and not self.findings:
            self.remarks += [f"{fault} (in what was captured as it was: not the image's fault)" for fault in faults]
            return
        for fault in faults:
            self._add(Finding(route, fault))

    def _end_strict(self, route: str, failed: str) -> None:
        """A route that reads nothing but what it needs: each unused byte that it read is missing."""
        for missing in self.view.missed:
            self._add(_missing("reads", missing, self.offset))
        noted = self._noted()
        for missing in self.view.missed:
            noted = noted.subtract(missing.extents)
        self.view.missed.clear()
        if noted:
            self._add(_missing("reads", Missing("what the filesystem's own tool needed to read", noted), self.offset))
        if failed and (self.findings or noted):
            self._add(Finding(route, failed))
        elif failed:
            self.remarks.append(f"{route}: {failed} (in what was captured as it was: not the image's fault)")

    def _noted(self) -> Extents:
        """Unused bytes that were read since the last call, without what is known to mean nothing."""
        noted = Extents(
            extent for extent in self.noted().extents if extent[1] > 1
        )  # single bytes: NTFS finding its end
        last = max(0, self.view.size_bytes - _LAST_BYTES)
        return noted.subtract(self.probes).subtract(Extents([(last, _LAST_BYTES)]))

    def _expect(self, route: str, area: Area) -> None:
        missing = self.view.missing_of(area)
        if missing is not None:
            self._add(_missing(route, missing, self.offset))

    def _add(self, finding: Finding) -> None:
        if sum(known.route == finding.route for known in self.findings) < _NAMED:
            self.findings.append(finding)


def _missing(route: str, missing: Missing, partition_offset: int) -> Finding:
    first = missing.extents[0].offset + partition_offset
    size = format_bytes(missing.extents.total_bytes)
    return Finding(route, f"{missing.what}: {size} not captured", first, missing.extents.total_bytes)
