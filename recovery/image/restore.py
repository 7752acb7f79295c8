"""Restore: repository -> packs -> chunks -> extents -> disk.  The mirror image of ``capture.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from recovery.devices.blockio import TargetWriter
from recovery.extent import Extent, Extents
from recovery.image.compare import Expected, compare_pieces
from recovery.image.restore_plan import RestorePlan
from recovery.image.target import TargetPlan, TargetState, Written, read_back, write_target
from recovery.image.view import DiskImage
from recovery.progress import Progress
from recovery.work_map import Cell, DiskWork


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did; bytes of the image.

    ``damaged`` lists what the repository could not give back, ``unreadable`` what the capture could not read: both
    are zeros on the target.  ``stale_table``: the kernel still goes by the target's old partition table.
    ``kept_bytes`` were on the target already (only a differential restore looks).
    """

    state: TargetState
    written_bytes: int
    discarded_bytes: int
    damaged: tuple[tuple[Extent, str], ...]
    unreadable: Extents
    verified: bool
    stale_table: bool
    kept_bytes: int = 0

    @property
    def complete(self) -> bool:
        """Whether every used byte of the source is on the target."""
        return not self.damaged and not self.unreadable


def restore(
    image: DiskImage,
    plan: RestorePlan,
    progress: Progress,
    *,
    verify: bool = True,
    partial: bool = False,
    differential: bool = False,
) -> RestoreResult:
    """Write what ``plan`` says; ``differential``: of that only what the target does not hold already.

    Raises Refused when the target is not the one that was planned for, DeviceError, DestinationFull, Cancelled; each
    says which state the target is in.
    """
    written = Written()
    map_target(plan, image.unreadable.clip(plan.source), progress)
    with plan.open_target(written) as target:
        layout = _what_differs(target, image, plan, progress) if differential else plan.layout
        # Every chunk is authenticated as it is opened; its hash is compared with its id where it is read back.
        pieces = image.load(layout.body, hashed=partial, progress=progress)
        digests = write_target(target, layout, pieces, written, progress, partial=partial)
        if verify:
            sector_bytes = plan.target.logical_sector_bytes
            read_back(target, layout, digests, written, progress, sector_bytes, lambda at: image.read(*at))
        stale_table = plan.partition is None and not target.reread_table()
    return RestoreResult(
        state=written.state,
        written_bytes=written.written_bytes,
        discarded_bytes=written.discarded_bytes,
        damaged=tuple(dict.fromkeys([*plan.damaged, *written.damaged])),
        unreadable=image.unreadable.clip(plan.source),
        verified=verify,
        stale_table=stale_table,
        kept_bytes=plan.layout.body.total_bytes - layout.body.total_bytes,
    )


def map_target(plan: RestorePlan, unreadable: Extents, progress: Progress) -> None:
    """The map of a restore or clone is that of the target; ``unreadable`` extents of the source become zeros on it."""
    layout = plan.layout
    progress.map([DiskWork(plan.target.short_name, plan.target.size_bytes, layout.written)])
    progress.mark(0, unreadable.intersect(layout.body).shift(layout.shift), Cell.UNREADABLE)


def _what_differs(target: TargetWriter, image: DiskImage, plan: RestorePlan, progress: Progress) -> TargetPlan:
    """The layout without the pieces that the target holds.  It is read past the cache, before anything is written.

    A piece that lies where the restore wipes first, or in part where the table is written, is written in any case.
    """
    layout = plan.layout
    differing: list[Extent] = []

    def candidates() -> Iterator[Expected]:
        for index, extent in image.pieces(layout.body):
            body = layout.body.clip(extent)
            wiped = layout.wiped.clip(Extent(extent.offset + layout.shift, extent.length))
            if wiped or body != image.used.clip(extent):
                differing.extend(body)
                progress.advance(body.total_bytes)
            else:
                yield Expected(extent, body, image.id_of(index))

    target.drop_cache()
    progress.phase("compare", layout.body.total_bytes)
    sector_bytes = plan.target.logical_sector_bytes
    for piece, held in compare_pieces(target, layout.shift, candidates(), progress, sector_bytes):
        if held:
            progress.mark(0, piece.body.shift(layout.shift), Cell.KNOWN)
        else:
            differing.extend(piece.body)
        progress.advance(piece.body.total_bytes)
    return replace(layout, body=Extents(sorted(differing)))
