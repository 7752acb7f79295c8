"""NTFS: dirty or hibernated, and where the boot sectors and the first records of the file table lie.

What ``ntfs-3g.probe`` says of a mount for writing decides: it looks at the log file and for a hibernated Windows, and
on our read-only loop device it can write nothing.  The dirty flag of the volume stops partclone itself.  Source of the
boot sector: the Linux-NTFS project's documentation ("$Boot").
"""

from __future__ import annotations

import struct

from recovery.command import run
from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, not_closed_cleanly
from recovery.units import KIB

#: Exit statuses of ntfs-3g.probe (its manual page).
_UNCLEAN = {13: "it is inconsistent", 14: "Windows is hibernated in it", 15: "its log file holds changes"}


def inspect(source: FilesystemSource) -> Inspection:
    """Raises CaptureWhole for a volume that Windows did not shut down, and for one that cannot be told."""
    boot = source.read(0, 512)
    (sector_bytes, cluster_code) = struct.unpack_from("<HB", boot, 11)
    (table, table_mirror) = struct.unpack_from("<QQ", boot, 48)
    if boot[3:11] != b"NTFS    " or sector_bytes < 256 or not cluster_code:
        raise CaptureWhole("its NTFS boot sector is damaged")
    cluster_sectors = cluster_code if cluster_code <= 0x80 else 1 << (256 - cluster_code)
    cluster = sector_bytes * cluster_sectors
    probed = run(
        ["ntfs-3g.probe", "--readwrite", source.device],
        needed_for="seeing whether an NTFS filesystem was closed cleanly",
        timeout_seconds=600,
        check=False,
    )
    if probed.status in _UNCLEAN:
        raise not_closed_cleanly("NTFS", _UNCLEAN[probed.status])
    if not probed.ok:
        raise CaptureWhole(f"NTFS that ntfs-3g does not read: {probed.reason}")
    records = 16 * KIB
    return Inspection(Extents([(0, 8 * KIB), (table * cluster, records), (table_mirror * cluster, 4 * KIB)]))
