"""Filesystems on a disk whose partition table is gone: found by what each begins with, and by its copies elsewhere.

Nothing is written: what is found is a proposal, with what speaks for it, and files are read through it as it is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recovery.extent import Extent
from recovery.progress import Progress
from recovery.salvage.medium import Medium
from recovery.units import GIB, KIB, MIB

_PIECE_BYTES, _OVERLAP_BYTES, _SECTOR = 4 * MIB, 4096, 512
#: Smaller ones are no filesystems that anybody misses, but accidents.
_LEAST_BYTES, _MOST_BYTES = 256 * KIB, 1 << 60
_MOST_GROUPS, _EVIDENCE_KEPT = 4096, 4


@dataclass(frozen=True, slots=True)
class Proposal:
    """A filesystem that seems to be, or to have been, on ``extent``.

    ``signs``: how much speaks for it; ``evidence``: the first of that.
    """

    extent: Extent
    kind: str
    label: str
    evidence: tuple[str, ...]
    signs: int = 1


@dataclass(frozen=True, slots=True)
class _Sign:
    """What stands ``inside`` bytes from a multiple of a sector.

    ``judge`` makes proposals of the sectors from there: a copy does not always say which it is, and fits several.
    """

    pattern: re.Pattern[bytes]
    inside: int
    judge: Callable[[int, bytes], Iterator[Proposal]]


def scan(medium: Medium, progress: Progress) -> list[Proposal]:
    """Search the whole disk.  Raises DeviceError, Cancelled.

    Where proposals overlap, the one with more evidence stays; then one that begins where partitions do.
    """
    progress.phase("scan", medium.size_bytes)
    found: dict[tuple[Extent, str], Proposal] = {}
    for at in range(0, medium.size_bytes, _PIECE_BYTES):
        progress.check()
        length = min(_PIECE_BYTES + _OVERLAP_BYTES, medium.size_bytes - at)
        data, _ = medium.read(Extent(at, length))
        for proposal in _in_piece(at, data):
            key = proposal.extent, proposal.kind
            known = found.get(key)
            if known is not None:
                evidence = (*known.evidence, *proposal.evidence)[:_EVIDENCE_KEPT]
                label = known.label or proposal.label
                proposal = Proposal(proposal.extent, proposal.kind, label, evidence, known.signs + 1)
            found[key] = proposal
        progress.advance(min(_PIECE_BYTES, length))
    return _without_overlap(list(found.values()))


def _in_piece(at: int, data: bytes) -> Iterator[Proposal]:
    for sign in _SIGNS:
        for match in sign.pattern.finditer(data):
            start = match.start() - sign.inside
            if start < 0 or (at + start) % _SECTOR or start >= _PIECE_BYTES:
                continue
            raw = data[start : start + _OVERLAP_BYTES].ljust(_OVERLAP_BYTES, b"\0")
            for proposal in sign.judge(at + start, raw):
                if proposal.extent.offset >= 0 and _LEAST_BYTES <= proposal.extent.length <= _MOST_BYTES:
                    yield proposal


def _without_overlap(proposals: list[Proposal]) -> list[Proposal]:
    kept: list[Proposal] = []
    for proposal in sorted(proposals, key=lambda one: (-one.signs, one.extent.offset % MIB != 0, one.extent)):
        extent = proposal.extent
        if all(extent.end <= other.extent.offset or other.extent.end <= extent.offset for other in kept):
            kept.append(proposal)
    return sorted(kept, key=lambda one: one.extent.offset)


def _ext(at: int, raw: bytes) -> Iterator[Proposal]:
    (blocks,) = struct.unpack_from("<I", raw, 4)
    first, size = struct.unpack_from("<II", raw, 20)
    per_group, per_group_inodes = struct.unpack_from("<I4xI", raw, 32)
    incompat = struct.unpack_from("<I", raw, 0x60)[0]
    blocks |= struct.unpack_from("<I", raw, 0x150)[0] << 32 if incompat & 0x80 else 0
    (group,) = struct.unpack_from("<H", raw, 0x5A)
    if size > 6 or first > 1 or not blocks or not per_group_inodes or not 256 <= per_group <= 65536 * 8:
        return
    block = 1024 << size
    if struct.unpack_from("<I", raw, 0x4C)[0] > 1 or group * per_group >= blocks:
        return
    start = at - (group * per_group + first) * block if group else at - 1024
    yield Proposal(Extent(start, blocks * block), "ext4", _label(raw[0x78:0x88]), (_said(at, "superblock"),))


def _xfs(at: int, raw: bytes) -> Iterator[Proposal]:
    """Each group begins so, and none says which it is."""
    block, blocks = struct.unpack_from(">IQ", raw, 4)
    per_group, groups = struct.unpack_from(">II", raw, 84)
    version = struct.unpack_from(">H", raw, 100)[0] & 0xF
    if block not in (512 << power for power in range(8)) or version not in (4, 5) or not blocks or not per_group:
        return
    if not 0 < groups <= _MOST_GROUPS or not (groups - 1) * per_group < blocks <= groups * per_group:
        return
    for number in range(groups):
        extent = Extent(at - number * per_group * block, blocks * block)
        yield Proposal(extent, "xfs", _label(raw[108:120]), (_said(at, "superblock"),))


def _btrfs(at: int, raw: bytes) -> Iterator[Proposal]:
    place, size = struct.unpack_from("<Q", raw, 48)[0], struct.unpack_from("<Q", raw, 112)[0]
    if place in (64 * KIB, 64 * MIB, 256 * GIB) and size:
        yield Proposal(Extent(at - place, size), "btrfs", _label(raw[299:555]), (_said(at, "superblock"),))


def _ntfs(at: int, raw: bytes) -> Iterator[Proposal]:
    """The copy is the sector behind the last that is counted."""
    sector, cluster = struct.unpack_from("<HB", raw, 11)
    (sectors,) = struct.unpack_from("<Q", raw, 40)
    if sector in (512, 1024, 2048, 4096) and cluster and sectors and raw[510:512] == b"\x55\xaa":
        for start in (at, at - sectors * sector):
            yield Proposal(Extent(start, (sectors + 1) * sector), "ntfs", "", (_said(at, "boot sector"),))


def _exfat(at: int, raw: bytes) -> Iterator[Proposal]:
    (sectors,) = struct.unpack_from("<Q", raw, 72)
    if 9 <= raw[108] <= 12 and sectors and raw[510:512] == b"\x55\xaa":
        for start in (at, at - (12 << raw[108])):
            yield Proposal(Extent(start, sectors << raw[108]), "exfat", "", (_said(at, "boot sector"),))


def _fat(at: int, raw: bytes) -> Iterator[Proposal]:
    sector, cluster, reserved, tables = struct.unpack_from("<HBHB", raw, 11)
    sectors = struct.unpack_from("<H", raw, 19)[0] or struct.unpack_from("<I", raw, 32)[0]
    sane = sector in (512, 1024, 2048, 4096) and cluster.bit_count() == 1 and reserved and tables in (1, 2)
    if not sane or not sectors or raw[510:512] != b"\x55\xaa":
        return
    large = raw[82:87] == b"FAT32"
    label = (raw[71:82] if large else raw[43:54]).decode("cp437").strip()
    for start in (at, at - 6 * sector) if large else (at,):
        extent = Extent(start, sectors * sector)
        yield Proposal(extent, "vfat", "" if label == "NO NAME" else label, (_said(at, "boot sector"),))


def _label(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode(errors="backslashreplace")


def _said(at: int, what: str) -> str:
    return f"its {what} or a copy of it at byte {at}"


_SIGNS = (
    _Sign(re.compile(rb"\x53\xef[\x00-\x07]\x00[\x01-\x03]\x00", re.DOTALL), 56, _ext),
    _Sign(re.compile(rb"XFSB\x00"), 0, _xfs),
    _Sign(re.compile(rb"_BHRfS_M"), 64, _btrfs),
    _Sign(re.compile(rb"NTFS    "), 3, _ntfs),
    _Sign(re.compile(rb"EXFAT   "), 3, _exfat),
    _Sign(re.compile(rb"FAT32   "), 82, _fat),
    _Sign(re.compile(rb"FAT1[26]   "), 54, _fat),
)
