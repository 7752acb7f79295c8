"""Writing a disk: the part that restore and clone share.

Order, so that a target cut off at any instant never looks whole::

    1. the first MiB is wiped, and the old backup of the table (from here on: partly written; of one partition: its
       first MiB)
    2. what will not be used is discarded, and stale signatures there are wiped
    3. the body, in disk order
    4. synced; then the table: its backup at the end, at last the first MiB
    5. synced; everything is read back and compared, unless switched off
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from recovery.devices.blockio import TargetWriter
from recovery.errors import DeviceError, RepositoryDamaged
from recovery.extent import Extent, Extents
from recovery.image.compare import Expected, compare_pieces
from recovery.image.view import LoadedPiece
from recovery.progress import Progress, Side
from recovery.units import GIB, KIB, MIB
from recovery.work_map import Cell

#: What is written last: boot code, table, and whatever lies before the first partition.
HEAD_BYTES = MIB

_ZEROS = bytes(MIB)

#: Unused areas that are shorter than this are not worth telling a device.
_DISCARD_BYTES = 64 * KIB

#: Where filesystems, arrays and pools keep signatures: near both ends, and btrfs' copies (its on-disk format).
_SIGNATURE_END_BYTES = MIB
_BTRFS_MIRRORS = (Extent(64 * MIB, 4 * KIB), Extent(256 * GIB, 4 * KIB))


class TargetState(StrEnum):
    """What a target is after an operation, in the words that the user is told."""

    UNTOUCHED = "untouched"
    PARTLY_WRITTEN = (
        "partly written: it holds neither its old nor its new content, and must be restored again "
        "(--differential goes on where it stopped)"
    )
    NOT_VERIFIED = "written but not verified"
    VERIFIED = "written, read back and found equal"


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What will be written where.  Bytes.

    ``body`` holds extents of the source that are written at ``offset + shift``; ``table`` holds ``(offset, bytes)`` of
    the target, written last, the first MiB (the first here) at the very end; ``unused`` extents of the target that
    nothing is written to, ``areas`` ranges of it (the whole, and each partition, old and new) at whose ends stale
    signatures are wiped; ``wiped`` is what becomes zeros before anything else: the places of tables, old and new.
    """

    body: Extents
    shift: int = 0
    table: tuple[tuple[int, bytes], ...] = ()
    unused: Extents = field(default_factory=Extents)
    areas: tuple[Extent, ...] = ()
    wiped: Extents = field(default_factory=Extents)

    @property
    def table_places(self) -> Extents:
        """Where on the target ``table`` is written."""
        return Extents((offset, len(data)) for offset, data in self.table)

    @property
    def written(self) -> Extents:
        """Every byte of the target that is written with content."""
        return self.body.shift(self.shift).union(self.table_places)

    def stale(self) -> Extents:
        """Where old signatures may lie that nothing else overwrites."""
        places: list[Extent] = []
        for area in self.areas:
            edge = min(_SIGNATURE_END_BYTES, area.length)
            places += [Extent(area.offset, edge), Extent(area.end - edge, edge)]
            places += [Extent(area.offset + m.offset, m.length) for m in _BTRFS_MIRRORS if m.end <= area.length]
        return Extents(places).intersect(self.unused)


@dataclass(slots=True)
class Written:
    """What was done to a target.  ``kept_bytes`` it held already; ``damaged`` holds extents of the source that are
    zeros now, with why."""

    state: TargetState = TargetState.UNTOUCHED
    written_bytes: int = 0
    kept_bytes: int = 0
    discarded_bytes: int = 0
    damaged: list[tuple[Extent, str]] = field(default_factory=list)


class PieceDigests:
    """What each piece written should read back as: 44 bytes a piece."""

    def __init__(self) -> None:
        self._offsets, self._lengths, self._digests = array("Q"), array("I"), bytearray()

    def add(self, extent: Extent, digest: bytes) -> None:
        """The piece ``extent`` of the source, reduced to what of it was written, has this SHA-256."""
        self._offsets.append(extent.offset)
        self._lengths.append(extent.length)
        self._digests += digest

    def __iter__(self) -> Iterator[tuple[Extent, bytes]]:
        for number, (offset, length) in enumerate(zip(self._offsets, self._lengths, strict=True)):
            yield Extent(offset, length), bytes(self._digests[32 * number : 32 * number + 32])


def write_target(
    target: TargetWriter,
    plan: TargetPlan,
    pieces: Iterable[LoadedPiece],
    written: Written,
    progress: Progress,
    *,
    partial: bool,
) -> PieceDigests:
    """Carry out ``plan``; ``pieces`` come in disk order.  What each should read back as.

    Without ``partial`` a damaged piece raises RepositoryDamaged; with it the piece becomes zeros and is named in
    ``written``.
    """
    written.state = TargetState.PARTLY_WRITTEN
    with progress.waits(Side.DESTINATION):
        _write_zeros(target, plan.wiped)
        target.sync()
        _clear_unused(target, plan, written, progress)
    progress.phase("write", plan.body.total_bytes)
    digests = PieceDigests()
    held_bytes = 0
    for piece in pieces:
        progress.check()
        if piece.damage:
            if not partial:
                raise RepositoryDamaged(
                    f"bytes {piece.extent.offset} to {piece.extent.end} cannot be had: {piece.damage}",
                    "'recovery verify' says what is hit; --partial writes the rest and zeros there.",
                )
            written.damaged.append((piece.extent, piece.damage))
        body = plan.body.clip(piece.extent)
        if piece.damage:
            progress.mark(0, body.shift(plan.shift), Cell.UNREADABLE)
        if piece.held:
            held_bytes += body.total_bytes
            progress.advance(body.total_bytes)
            progress.mark(0, body.shift(plan.shift), Cell.KNOWN)
            continue
        view = memoryview(piece.data)
        with progress.waits(Side.DESTINATION):
            for run in body:
                target.write(
                    run.offset + plan.shift, view[run.offset - piece.extent.offset : run.end - piece.extent.offset]
                )
                written.written_bytes += run.length
                progress.advance(run.length)
        progress.mark(0, body.shift(plan.shift), Cell.WRITTEN)
        digests.add(piece.extent, piece.digest if body == piece.used else _digest_of_part(piece, body))
    expected = plan.body.total_bytes - held_bytes
    written.kept_bytes += held_bytes
    if written.written_bytes != expected:
        raise RepositoryDamaged(
            f"{written.written_bytes} bytes were to be had where {expected} belong", "'recovery verify' says more."
        )
    progress.phase("sync")
    with progress.waits(Side.DESTINATION):
        target.sync()
        for offset, data in sorted(plan.table, reverse=True):
            target.write(offset, data)
            written.written_bytes += len(data)
            target.sync()
    progress.mark(0, plan.table_places, Cell.WRITTEN)
    written.state = TargetState.NOT_VERIFIED
    return digests


def _clear_unused(target: TargetWriter, plan: TargetPlan, written: Written, progress: Progress) -> None:
    progress.phase("discard")
    for extent in plan.unused:
        progress.check()
        if extent.length < _DISCARD_BYTES:
            continue
        if not target.discard(extent):
            break
        written.discarded_bytes += extent.length
    _write_zeros(target, plan.stale())


def _write_zeros(target: TargetWriter, extents: Extents) -> None:
    for extent in extents:
        for at in range(extent.offset, extent.end, len(_ZEROS)):
            target.write(at, _ZEROS[: min(len(_ZEROS), extent.end - at)])


def _digest_of_part(piece: LoadedPiece, body: Extents) -> bytes:
    """SHA-256 of the piece with zeros where it was not written: the table's place is written apart.

    Raises RepositoryDamaged when the piece is not what its own digest says: no read-back would compare that.
    """
    if hashlib.sha256(piece.data).digest() != piece.digest:
        raise RepositoryDamaged(
            f"the chunk at byte {piece.extent.offset} has another content than its name says", "Run 'recovery verify'."
        )
    part = bytearray(piece.extent.length)
    for run in body:
        low, high = run.offset - piece.extent.offset, run.end - piece.extent.offset
        part[low:high] = piece.data[low:high]
    return hashlib.sha256(part).digest()


def read_back(
    target: TargetWriter,
    plan: TargetPlan,
    digests: PieceDigests,
    written: Written,
    progress: Progress,
    sector_bytes: int,
    check_source: Callable[[Extent], object] = bool,
) -> None:
    """Read what was written past the cache and compare.

    Raises DeviceError at the first difference, or what ``check_source`` raises of that extent of the source.
    """
    target.drop_cache()
    progress.phase("verify", plan.body.total_bytes)
    expected = (Expected(extent, plan.body.clip(extent), digest) for extent, digest in digests)
    for piece, equal in compare_pieces(target, plan.shift, expected, progress, sector_bytes):
        if not equal:
            check_source(piece.extent)
            raise _differs(target, Extent(piece.extent.offset + plan.shift, piece.extent.length))
        progress.advance(piece.body.total_bytes)
        progress.mark(0, piece.body.shift(plan.shift), Cell.CHECKED)
    for offset, data in plan.table:
        if target.read(Extent(offset, len(data))) != data:
            raise _differs(target, Extent(offset, len(data)))
    progress.mark(0, plan.table_places, Cell.CHECKED)
    written.state = TargetState.VERIFIED


def _differs(target: TargetWriter, extent: Extent) -> DeviceError:
    return DeviceError(
        f"{target.path} does not give back what was written to bytes {extent.offset} to {extent.end}",
        "The target or its cable is faulty, or another program writes to it. Use another disk.",
    )
