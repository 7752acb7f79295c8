"""Which filesystems a broken disk holds: by its table, by what is recognised, by the copies of what is not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from recovery.devices.disk import Disk
from recovery.devices.probe import Content, probe
from recovery.devices.table import examine_table
from recovery.errors import DeviceError, RecoveryError
from recovery.extent import Extent
from recovery.progress import Progress
from recovery.salvage.btrfs import Btrfs, NotBtrfs
from recovery.salvage.entry import Filesystem
from recovery.salvage.exfat import Exfat, NotExfat
from recovery.salvage.ext import Ext, NotExt
from recovery.salvage.fat import Fat, NotFat
from recovery.salvage.medium import BadArea, Medium, Window
from recovery.salvage.ntfs import NotNtfs, Ntfs
from recovery.salvage.scan import Proposal, scan
from recovery.salvage.xfs import NotXfs, Xfs

log = logging.getLogger(__name__)

#: What opens a filesystem in a window, by blkid's name of it.
_READERS: dict[str, Callable[[Window], Filesystem]] = {
    "ext2": Ext,
    "ext3": Ext,
    "ext4": Ext,
    "btrfs": Btrfs,
    "xfs": Xfs,
    "exfat": Exfat,
    "ntfs": Ntfs,
    "vfat": Fat,
}
_REFUSALS = (NotBtrfs, NotExfat, NotExt, NotFat, NotNtfs, NotXfs, BadArea)


@dataclass(frozen=True, slots=True)
class Volume:
    """A place on the disk that holds, or held, a filesystem.

    ``number``: of its partition, 0 for the whole disk.  ``filesystem`` is None where nothing of it can be followed,
    with the reason in ``problem``.
    """

    number: int
    extent: Extent
    kind: str
    label: str
    filesystem: Filesystem | None
    problem: str = ""

    @property
    def name(self) -> str:
        """A name for its folder, and in sentences."""
        return f"partition {self.number}" if self.number else "the whole disk"


@dataclass(frozen=True, slots=True)
class Found:
    """The volumes in the order of the disk; what is to be told of the disk: what is amiss, and what was made up for."""

    volumes: tuple[Volume, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()


def find_volumes(disk: Disk, medium: Medium, progress: Progress, *, search: bool = False) -> Found:
    """By the table, or, with ``search`` or where there is nothing else to go by, by a scan of the whole disk.

    Raises DeviceError when the disk is gone, Cancelled.
    """
    findings: list[str] = []
    notes: list[str] = []
    try:
        reading = examine_table(disk.place, disk.size_bytes, disk.logical_sector_bytes)
    except DeviceError as error:
        table = None
        findings.append(f"Its partition table cannot be read: {error.message}.")
    else:
        table = reading.table
        findings += reading.findings if table is None else table.findings
    volumes: list[Volume] = []
    if not search:
        places = [(0, Extent(0, disk.size_bytes))]
        if table is not None and table.entries:
            places = [(entry.number, entry.extent) for entry in table.entries if entry.role != "extended"]
        found = [_volume(disk, medium, number, extent) for number, extent in places]
        volumes = [volume for volume in found if volume is not None]
    if not volumes:
        volumes = [_proposed(medium, number, one) for number, one in enumerate(scan(medium, progress), start=1)]
        if not volumes and not search:
            by_force = _volume(disk, medium, 0, Extent(0, disk.size_bytes), forced=True)
            volumes = [by_force] if by_force is not None and by_force.filesystem is not None else []
        elif volumes:
            notes.append("There is no partition table to go by: what lies where was found by a search of the disk.")
    return Found(tuple(volumes), tuple(findings), tuple(notes))


def _proposed(medium: Medium, number: int, proposal: Proposal) -> Volume:
    try:
        filesystem: Filesystem | None = _READERS[proposal.kind](Window(medium, proposal.extent))
        problem = ""
    except _REFUSALS as error:
        filesystem, problem = None, str(error)
    except RecoveryError:
        raise
    except Exception:  # as above
        log.exception("a reader was led astray")
        filesystem, problem = None, "its damage cannot be followed"
    label = getattr(filesystem, "label", "") or proposal.label
    return Volume(number, proposal.extent, proposal.kind, label, filesystem, problem)


def _volume(disk: Disk, medium: Medium, number: int, extent: Extent, *, forced: bool = False) -> Volume | None:
    """None for what holds no files, as swap does; a whole disk without a sign of any is looked into if ``forced``."""
    content = _content(disk, extent)
    label = (content.label or "") if content is not None else ""
    if content is not None and content.kind == "filesystem":
        reader = _READERS.get(content.type)
        if reader is None:
            return Volume(number, extent, content.type, label, None, f"{content.type} is not read here yet")
        readers = [reader]
    elif not number and not forced and (content is None or content.kind == "table"):
        return None  # a search of the disk tells where what is on it begins
    elif content is None or content.kind in ("other", "table"):
        readers = list(dict.fromkeys(_READERS.values()))
    elif content.kind == "swap":
        return None
    else:
        return Volume(number, extent, content.type, label, None, f"it is {content.type}, and is not opened here yet")
    reasons: list[str] = []
    for reader in readers:
        try:
            filesystem = reader(Window(medium, extent))
        except _REFUSALS as error:
            reasons.append(str(error))
        except RecoveryError:
            raise
        except Exception:  # whatever a damaged filesystem makes a reader do
            log.exception("a reader was led astray")
            reasons.append("its damage cannot be followed")
        else:
            found = getattr(filesystem, "kind", "") or (content.type if content is not None else "")
            return Volume(number, extent, found, getattr(filesystem, "label", "") or label, filesystem)
    kind = content.type if content is not None else ""
    return Volume(number, extent, kind, label, None, "; ".join(reasons) if kind else "nothing on it is recognised")


def _content(disk: Disk, extent: Extent) -> Content | None:
    """What blkid says; it gives up where it cannot read."""
    usable = Extent(extent.offset, max(0, min(extent.end, disk.size_bytes) - extent.offset))
    try:
        return probe(disk.place, usable, disk.logical_sector_bytes)
    except DeviceError:
        return None
