"""XFS: is its log empty, and where its allocation groups and its log lie.

Sources: "XFS Algorithms & Data Structures" (superblock, allocation groups); the state of the log is what
``xfs_logprint -t`` finds between its head and its tail.
"""

from __future__ import annotations

import struct

from recovery.command import run
from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, NotClosedCleanly, beyond_recovery
from recovery.units import MIB

#: Features up to and including parent pointers (Linux 6.10); newer ones may hold data that the map does not know.
_KNOWN_RO_COMPAT, _KNOWN_INCOMPAT, _NEEDS_REPAIR = 0xF, 0xFF, 0x10
#: partclone counts blocks over allocation groups in 32 bits.
_MAX_BLOCKS = 1 << 32
_MIN_GROUP = 1 * MIB


def inspect(source: FilesystemSource, *, ask_closed: bool = True) -> Inspection:
    """Raises CaptureWhole for a log that is not empty, parts on other devices, or features that are not known."""
    superblock = source.read(0, 512)
    (magic, block_bytes, blocks, realtime_blocks) = struct.unpack_from(">4sIQQ", superblock)
    (log_start, root_inode) = struct.unpack_from(">QQ", superblock, 48)
    (group_blocks, groups, _, log_blocks, version, sector_bytes) = struct.unpack_from(">IIIIHH", superblock, 84)
    (log2_inodes_per_block, log2_group_blocks) = superblock[123], superblock[124]
    (ro_compat, incompat) = struct.unpack_from(">II", superblock, 212)
    group_bytes = group_blocks * block_bytes
    if magic != b"XFSB" or group_bytes < _MIN_GROUP or groups * group_blocks > blocks + group_blocks:
        raise CaptureWhole("its XFS superblock is damaged")
    if realtime_blocks or not log_start:
        raise CaptureWhole("XFS with a log or realtime data on another device")
    if blocks > _MAX_BLOCKS:
        raise CaptureWhole("XFS of more than 2^32 blocks, which partclone miscounts")
    if version & 0xF == 5 and (ro_compat & ~_KNOWN_RO_COMPAT or incompat & ~_KNOWN_INCOMPAT):
        raise CaptureWhole("XFS with features that this program does not know")
    if version & 0xF == 5 and incompat & _NEEDS_REPAIR:
        raise beyond_recovery("XFS", "it is marked as in need of repair")
    if ask_closed:
        _check_log(source)

    def place(block: int) -> int:
        """The byte offset of an XFS block number, whose upper bits are the group."""
        group, inside = block >> log2_group_blocks, block & ((1 << log2_group_blocks) - 1)
        return int(group * group_bytes + inside * block_bytes)

    required = [(group * group_bytes, 4 * sector_bytes) for group in range(groups)]
    required.append((place(log_start), log_blocks * block_bytes))
    required.append((place(root_inode >> log2_inodes_per_block), block_bytes))
    return Inspection(Extents(required))


def _check_log(source: FilesystemSource) -> None:
    printed = run(
        ["xfs_logprint", "-t", source.device],
        needed_for="seeing whether an XFS filesystem was closed cleanly",
        timeout_seconds=600,
        check=False,
    )
    if b"state: <DIRTY>" in printed.stdout:
        raise NotClosedCleanly("XFS", "its log holds changes that are not in place yet")
    if not printed.ok or b"state: <CLEAN>" not in printed.stdout:
        raise CaptureWhole(f"the log of XFS could not be examined: {printed.reason}")
