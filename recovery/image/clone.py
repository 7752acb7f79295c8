"""Clone: disk -> used extents -> disk, without a repository; planned, written and read back as a restore is."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from recovery.extent import Extent, Extents
from recovery.image.capture_plan import PlannedDisk
from recovery.image.compare import Expected, TargetHasher
from recovery.image.layout import zero_id, zeros
from recovery.image.restore import RestoreResult, map_target
from recovery.image.restore_plan import RestorePlan
from recovery.image.target import TargetPlan, Written, read_back, write_target
from recovery.image.view import LoadedPiece
from recovery.progress import Progress, Side
from recovery.work_map import Cell

#: Chunks read ahead of the one that is written.
_AHEAD = 4


def clone(
    source: PlannedDisk, plan: RestorePlan, progress: Progress, *, verify: bool = True, differential: bool = False
) -> RestoreResult:
    """Copy ``source`` as ``plan`` says; ``differential``: only what the target does not hold already.

    Raises as ``restore``.
    """
    written = Written()
    unreadable: list[tuple[int, int]] = []
    map_target(plan, plan.unreadable, progress)
    with plan.open_target(written) as target, ExitStack() as held:
        hasher = None
        if differential:
            target.drop_cache()
            sector_bytes = plan.target.logical_sector_bytes
            hasher = TargetHasher(target, plan.layout.shift, sector_bytes, progress, held)
        pieces = _read_ahead(source, plan.layout, unreadable, hasher, progress)
        digests = write_target(target, plan.layout, pieces, written, progress, partial=True)
        source.guard.check()
        if verify:
            read_back(target, plan.layout, digests, written, progress, plan.target.logical_sector_bytes)
        stale_table = not target.reread_table()
    return RestoreResult(
        state=written.state,
        written_bytes=written.written_bytes,
        discarded_bytes=written.discarded_bytes,
        damaged=(),
        unreadable=plan.unreadable.union(Extents(unreadable)),
        verified=verify,
        stale_table=stale_table,
        kept_bytes=written.kept_bytes,
    )


def _read_ahead(
    source: PlannedDisk,
    layout: TargetPlan,
    unreadable: list[tuple[int, int]],
    hasher: TargetHasher | None,
    progress: Progress,
) -> Iterator[LoadedPiece]:
    """The pieces of the source that touch the body of ``layout``, in order, read and hashed ahead of the writer.

    With a ``hasher`` each is compared with what the target holds there.
    """
    under_way: deque[tuple[Future[tuple[LoadedPiece, Extents]], memoryview]] = deque()
    buffers = source.reader.buffers
    ahead = min(_AHEAD, buffers.count - 2)
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:

        def finished() -> Iterator[LoadedPiece]:
            future, buffer = under_way.popleft()
            piece, lost = future.result()
            if lost:
                unreadable.extend(lost)
                progress.count("unreadable_bytes", lost.total_bytes)
                progress.mark(0, lost.intersect(layout.body).shift(layout.shift), Cell.UNREADABLE)
            yield piece
            buffers.give(buffer)

        for extent, hole in source.layout:
            if hole or not layout.body.clip(extent):
                continue
            buffer = buffers.take()
            under_way.append((pool.submit(_read_piece, source, extent, buffer, hasher, progress), buffer))
            if len(under_way) > ahead:
                yield from finished()
        while under_way:
            yield from finished()


def _read_piece(
    source: PlannedDisk, extent: Extent, buffer: memoryview, hasher: TargetHasher | None, progress: Progress
) -> tuple[LoadedPiece, Extents]:
    used = source.domain.used.clip(extent)
    data: bytes | memoryview
    if Extents([source.reader.hole]).covers(extent):
        data, digest, lost = zeros(extent.length), zero_id(extent.length), Extents()
    else:
        with progress.waits(Side.SOURCE):
            lost = source.reader.read(extent, used, buffer)
        data = buffer[: extent.length]
        digest = hashlib.sha256(data).digest()
    held = hasher is not None and hasher.digest(Expected(extent, used, digest)) == digest
    return LoadedPiece(extent, used, data, digest, held=held), lost
