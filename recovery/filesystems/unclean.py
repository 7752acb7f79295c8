"""What of a filesystem is used that was not closed cleanly: its map on disk is stale, a journal would still change it.

Two maps are united: the one as it lies on disk, and the one after the filesystem was brought up to date on a
copy-on-write view.  To them comes what the replay read, for the restored filesystem will be replayed in its
turn, and reads it again: log trees, and what was deleted but not yet given back.  Where one of these cannot be had, the
whole partition is used.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from recovery.devices.mapfile import MapError
from recovery.devices.overlay import overlay
from recovery.errors import DeviceError, ProgramMissing
from recovery.extent import Extent, Extents
from recovery.filesystems.mapped import Interrupt, Map, make_map
from recovery.filesystems.replay import Way
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, open_source, open_view

log = logging.getLogger(__name__)

#: What reading damaged metadata may end in.
NONSENSE = (struct.error, ArithmeticError, ValueError, IndexError)


def _no_areas(_: FilesystemSource) -> Extents:
    return Extents()


def _no_marks(_: FilesystemSource) -> Iterable[tuple[int, bytes]]:
    return ()


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a kind of filesystem is brought up to date.

    ``structure`` inspects it without asking whether it was closed.  ``ways`` are tried in turn, each on a view of its
    own.  ``closed_marks`` are laid over every view: without them programs refuse a filesystem marked dirty.
    ``areas`` are used areas of the filesystem as it lies there that partclone does not tell; ``by_partclone`` is
    whether it tells any of such a filesystem.
    """

    structure: Callable[[FilesystemSource], Inspection]
    ways: Callable[[FilesystemSource], tuple[Way, ...]]
    closed_marks: Callable[[FilesystemSource], Iterable[tuple[int, bytes]]] = _no_marks
    areas: Callable[[FilesystemSource], Extents] = _no_areas
    by_partclone: bool = True


@dataclass(frozen=True, slots=True)
class Unclean:
    """A partition whose filesystem was not closed cleanly, and how it is mapped."""

    path: Path
    extent: Extent
    sector_bytes: int
    program: str
    inspect: Callable[[FilesystemSource], Inspection]
    recovery: Recovery
    scratch: Path | None
    interrupt: Interrupt | None


def united_map(unclean: Unclean) -> Map:
    """Both maps and what the replay read.  Raises CaptureWhole, with the reason, where one of them cannot be had."""
    with open_source(unclean.path, unclean.extent, unclean.sector_bytes) as source:
        marks = tuple(unclean.recovery.closed_marks(source))
        ways = unclean.recovery.ways(source)
        used = _as_it_lies(unclean, source, marks)
    failures = []
    for way in ways:
        try:
            after = _after(unclean, way, marks)
        except (CaptureWhole, DeviceError, ProgramMissing, MapError) as error:
            failures.append(error.reason if isinstance(error, CaptureWhole) else error.message)
        except NONSENSE as error:
            log.warning("after a replay of what lies at byte %d of %s: %r", unclean.extent.offset, unclean.path, error)
            failures.append("its metadata make no sense after the replay")
        else:
            return Map(used.union(after.used), after.missed_bytes, after.tool)
    raise CaptureWhole("; ".join(failures) or "nothing here can bring it up to date", clean=False)


def _as_it_lies(unclean: Unclean, source: FilesystemSource, marks: tuple[tuple[int, bytes], ...]) -> Extents:
    recovery = unclean.recovery
    inspection = recovery.structure(source)
    used = recovery.areas(source).union(inspection.required).union(inspection.besides)
    if used.end > source.size_bytes:
        raise CaptureWhole("its filesystem reaches beyond the end of the partition")
    if not recovery.by_partclone:
        return used
    if not marks:
        return make_map(source, unclean.program, inspection, unclean.scratch, unclean.interrupt).used.union(used)
    with overlay(unclean.path, unclean.extent, scratch=unclean.scratch) as view:
        for offset, data in marks:
            view.lay_over(offset, data)
        with open_view(view, unclean.sector_bytes) as copy:
            made = make_map(copy, unclean.program, inspection, unclean.scratch, unclean.interrupt)
        view.source_read()
    return made.used.union(used)


def _after(unclean: Unclean, way: Way, marks: tuple[tuple[int, bytes], ...]) -> Map:
    """The map after the filesystem was brought up to date, and what of the source that needed."""
    with overlay(unclean.path, unclean.extent, scratch=unclean.scratch) as view:
        for offset, data in marks:
            view.lay_over(offset, data)
        with open_view(view, unclean.sector_bytes) as copy:
            try:
                way(copy.device, unclean.interrupt)
            except CaptureWhole:
                view.source_read()  # where the view is to blame, it says why
                raise
        read = view.source_read()
        with open_view(view, unclean.sector_bytes) as copy:
            inspection = unclean.inspect(copy)
            made = make_map(copy, unclean.program, inspection, unclean.scratch, unclean.interrupt)
        view.source_read()
    return Map(made.used.union(read), made.missed_bytes, made.tool)
