"""XFS: what ``xfs_db`` says of the free space of every allocation group; everything else is allocated.

Source of the layout of the headers: "XFS Algorithms & Data Structures".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from recovery.command import run
from recovery.extent import Extent, Extents
from recovery.filesystems.walk.view import Area, Unreadable, View

_SECONDS = 3600
_FREE = re.compile(rb"^ *(\d+) +(\d+) +(\d+)$")


def allocation(view: View) -> Iterator[Area]:
    """The headers of the allocation groups and the log by name; then all that is not free."""
    yield from before_replay(view)
    superblock = view.read(0, 512, "the superblock")
    (block, blocks) = struct.unpack_from(">IQ", superblock, 4)
    (group_blocks,) = struct.unpack_from(">I", superblock, 84)
    said = run(
        ["xfs_db", "-r", "-f", "-c", "freesp -d", view.path], needed_for="auditing XFS", timeout_seconds=_SECONDS,
        check=False, interrupt=view.interrupt,
    )  # fmt: skip
    free = []
    for line in said.stdout.splitlines():
        if found := _FREE.match(line):
            group, start, length = (int(number) for number in found.groups())
            free.append(((group * group_blocks + start) * block, length * block))
    yield Area("blocks that it calls allocated", Extents(free).invert(Extent(0, blocks * block)))
    complaints = [line for line in said.stderr.splitlines() if line.strip()]
    if not said.ok or complaints or b"pct" not in said.stdout:
        raise Unreadable(f"xfs_db finds fault: {said.reason if not complaints else complaints[0].decode()}")


def before_replay(view: View) -> Iterator[Area]:
    """The headers of the allocation groups, and the log: where they lie no replay changes."""
    superblock = view.read(0, 512, "the superblock")
    (magic, block, blocks) = struct.unpack_from(">4sIQ", superblock)
    (log_start,) = struct.unpack_from(">Q", superblock, 48)
    (group_blocks, groups, _, log_blocks, _, sector) = struct.unpack_from(">IIIIHH", superblock, 84)
    log2_group = superblock[124]
    whole = 0 < blocks * block <= view.size_bytes and groups * group_blocks < blocks + group_blocks
    if magic != b"XFSB" or not group_blocks or not whole:
        raise Unreadable("its superblock is no XFS superblock")
    for group in range(groups):
        yield Area(
            f"the headers of allocation group {group}",
            Extents([(group * group_blocks * block, max(4 * sector, block))]),
        )
    if log_start:  # or it is on another device
        log = (log_start >> log2_group) * group_blocks + (log_start & ((1 << log2_group) - 1))
        yield Area("the log", Extents([(log * block, log_blocks * block)]))


def free_list(view: View) -> Extents:
    """The blocks that each allocation group keeps for its trees; ``xfs_repair`` reads them, and nothing is in them."""
    superblock = view.read(0, 512, "the superblock")
    (block,) = struct.unpack_from(">I", superblock, 4)
    (group_blocks, groups, _, _, _, sector) = struct.unpack_from(">IIIIHH", superblock, 84)
    kept = []
    for group in range(groups):
        start = group * group_blocks * block
        header = view.read(start + sector, sector, "a free space header")
        listed = view.read(start + 3 * sector, sector, "a free list")
        (first, last, count) = struct.unpack_from(">III", header, 40)
        numbers = [
            n for (n,) in struct.iter_unpack(">I", listed[36 if listed[:4] == b"XAFL" else 0 :][: sector // 4 * 4 - 36])
        ]
        if first < len(numbers) and last < len(numbers) and count:
            chosen = numbers[first : last + 1] if first <= last else numbers[first:] + numbers[: last + 1]
            kept += [(start + number * block, block) for number in chosen if number < group_blocks]
    return Extents(kept)
