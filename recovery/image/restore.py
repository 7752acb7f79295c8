"""Restore: repository -> packs -> chunks -> extents -> disk.  The mirror image of ``capture.py``."""

from __future__ import annotations

from dataclasses import dataclass

from recovery.extent import Extent, Extents
from recovery.image.restore_plan import RestorePlan
from recovery.image.target import TargetState, Written, read_back, write_target
from recovery.image.view import DiskImage
from recovery.progress import Progress


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did; bytes of the image.

    ``damaged`` lists what the repository could not give back, ``unreadable`` what the capture could not read: both
    are zeros on the target.  ``stale_table``: the kernel still goes by the target's old partition table.
    """

    state: TargetState
    written_bytes: int
    discarded_bytes: int
    damaged: tuple[tuple[Extent, str], ...]
    unreadable: Extents
    verified: bool
    stale_table: bool

    @property
    def complete(self) -> bool:
        """Whether every used byte of the source is on the target."""
        return not self.damaged and not self.unreadable


def restore(
    image: DiskImage, plan: RestorePlan, progress: Progress, *, verify: bool = True, partial: bool = False
) -> RestoreResult:
    """Write what ``plan`` says.

    Raises Refused when the target is not the one that was planned for, DeviceError, DestinationFull, Cancelled; each
    says which state the target is in.
    """
    written = Written()
    with plan.open_target(written) as target:
        # Every chunk is authenticated as it is opened; its hash is compared with its id where it is read back.
        pieces = image.load(plan.layout.body, hashed=partial)
        digests = write_target(target, plan.layout, pieces, written, progress, partial=partial)
        if verify:
            sector_bytes = plan.target.logical_sector_bytes
            read_back(target, plan.layout, digests, written, progress, sector_bytes, lambda at: image.read(*at))
        stale_table = plan.partition is None and not target.reread_table()
    return RestoreResult(
        state=written.state,
        written_bytes=written.written_bytes,
        discarded_bytes=written.discarded_bytes,
        damaged=tuple(dict.fromkeys([*plan.damaged, *written.damaged])),
        unreadable=image.unreadable.clip(plan.source),
        verified=verify,
        stale_table=stale_table,
    )
