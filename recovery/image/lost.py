"""What was lost with the bytes that could not be read: which files and folders, what of the filesystem's own.

Every partition that lost something is looked through in the image itself, by the routes of the audit: the question is
the same, "whose is what is not there?".  The disk is not read.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping

from recovery.errors import DeviceError, ProgramMissing
from recovery.extent import Extent, Extents
from recovery.filesystems.walk import mounted
from recovery.filesystems.walk.replayed import brought_up_to_date
from recovery.filesystems.walk.view import Missing, NotAudited, Unreadable, View
from recovery.image.audit_partition import READERS
from recovery.image.manifest import ImageDisk, ImagePartition, LostFile, LostNames
from recovery.image.served import ServedImage, served_image
from recovery.image.view import SystemImage
from recovery.progress import Progress

log = logging.getLogger(__name__)

#: So many files of a partition are named.
_NAMED = 1000
#: What following damaged metadata may end in.
_NONSENSE = (struct.error, ArithmeticError, ValueError, IndexError)


def name_lost(image: SystemImage, lost: Mapping[str, Extents], progress: Progress) -> dict[str, tuple[LostNames, ...]]:
    """By disk, what was lost of each partition that lost something; ``lost``: which bytes, by disk.  It needs root.

    Raises DeviceError when the image cannot be shown through FUSE here, RepositoryDamaged, Cancelled.
    """
    found: dict[str, tuple[LostNames, ...]] = {}
    with served_image(image) as served:
        for record in image.manifest.disks:
            gone = lost.get(record.name, Extents())
            touched = [part for part in record.partitions if gone.clip(Extent(part.offset, part.length))]
            found[record.name] = tuple(_of_partition(record, part, gone, served, progress) for part in touched)
    return found


def _of_partition(
    record: ImageDisk, partition: ImagePartition, lost: Extents, served: ServedImage, progress: Progress
) -> LostNames:
    place = Extent(partition.offset, partition.length)
    gone = lost.clip(place).shift(-place.offset)
    kind = partition.content.type if partition.content else ""
    if kind not in READERS:
        return LostNames(
            partition.number, gone.total_bytes, untold=f"nothing here tells what {kind or 'it'} holds where"
        )
    view = View(
        served.partition(record.name, partition.number),
        kind,
        place.length,
        record.logical_sector_bytes,
        Extents([(0, place.length)]).subtract(gone),
        progress.check,
    )
    looking = _Looking(view, gone)
    try:
        if partition.clean is False:
            with brought_up_to_date(view) as copy:
                looking.view = copy
                looking.go()
        else:
            looking.go()
    except (NotAudited, Unreadable, ProgramMissing, DeviceError) as error:
        looking.untold.append(str(error))
    return looking.names(partition.number)


class _Looking:
    """Whose the bytes ``gone`` of one view are, which are all that is missing of it."""

    def __init__(self, view: View, gone: Extents) -> None:
        self.view, self._gone = view, gone
        self._files: list[LostFile] = []
        self._of_files = Extents()
        self._free: Extents | None = None
        self._more = 0
        self._unfollowed: list[str] = []
        self.untold: list[str] = []

    def go(self) -> None:
        """First what is free, then the files."""
        readers = READERS[self.view.kind]
        allocated: list[Extent] = []
        if self._each("what is allocated", (area.extents for area in readers.allocation(self.view)), allocated):
            self._free = self._gone.subtract(Extents(sorted(allocated)))
        if readers.files is not None:
            missing = (self.view.missing_of(area) for area in readers.files(self.view))
            self._each("its files", (self._add(found) for found in missing if found), [])
        elif mounted.can_walk(self.view.kind):
            walked = mounted.walk(self.view)
            for found in walked.missing:
                self._add(found)
            self._more += walked.more
            self._unfollowed += walked.unreadable

    def _each(self, what: str, extents: Iterator[Extents], into: list[Extent]) -> bool:
        """Collect what a reader names; whether it came to its end."""
        try:
            for found in extents:
                into += found
        except (Unreadable, *_NONSENSE) as error:
            self.untold.append(f"{what} could not be followed to the end: {error}")
            return False
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.untold.append(f"{what}: {error}")
            return False
        return True

    def _add(self, found: Missing) -> Extents:
        inside = found.extents.intersect(self._gone)
        if inside and len(self._files) < _NAMED:
            self._files.append(LostFile(found.what, inside.total_bytes))
        elif inside:
            self._more += 1
        self._of_files = self._of_files.union(inside)
        return inside

    def names(self, number: int) -> LostNames:
        """What it came to."""
        free = self._free.subtract(self._of_files) if self._free is not None else Extents()
        own = self._gone.subtract(self._of_files).subtract(free)
        return LostNames(
            number,
            self._gone.total_bytes,
            tuple(sorted(self._files, key=lambda file: file.name)),
            self._more,
            free.total_bytes,
            own.total_bytes,
            tuple(self._unfollowed[:_NAMED]),
            "; ".join(self.untold),
        )
