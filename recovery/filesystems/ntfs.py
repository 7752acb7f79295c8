"""NTFS: dirty or hibernated, and where the boot sectors and the first records of the file table lie.

The dirty flag stands in the volume's own record.  What ``ntfs-3g.probe`` says of a mount for writing decides besides:
it looks at the log file and for a hibernated Windows, and on our read-only loop device it can write nothing.

Source: the Linux-NTFS project's documentation ("$Boot", "$Volume", "FILE Record").
"""

from __future__ import annotations

import struct

from recovery.command import run
from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, beyond_recovery
from recovery.units import KIB

_VOLUME = 3  # the number of the volume's file record
_VOLUME_INFORMATION, _END, _DIRTY = 0x70, 0xFFFFFFFF, 0x1

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
    (record_code,) = struct.unpack_from("<b", boot, 64)
    record_bytes = record_code * cluster if record_code > 0 else 1 << -record_code
    if not 512 <= record_bytes <= 64 * KIB:
        raise CaptureWhole("its NTFS boot sector is damaged")
    if _volume_flags(source.read(table * cluster + _VOLUME * record_bytes, record_bytes)) & _DIRTY:
        raise beyond_recovery("NTFS", "it is marked dirty")
    probed = run(
        ["ntfs-3g.probe", "--readwrite", source.device],
        needed_for="seeing whether an NTFS filesystem was closed cleanly",
        timeout_seconds=600,
        check=False,
    )
    if probed.status in _UNCLEAN:
        raise beyond_recovery("NTFS", _UNCLEAN[probed.status])
    if not probed.ok:
        raise CaptureWhole(f"NTFS that ntfs-3g does not read: {probed.reason}")
    first_records = 16 * record_bytes
    return Inspection(
        Extents([(0, 8 * KIB), (table * cluster, first_records), (table_mirror * cluster, 4 * record_bytes)])
    )


def _volume_flags(record: bytes) -> int:
    """The flags in $VOLUME_INFORMATION of the volume's file record."""
    (signature, fixups, fixup_count) = struct.unpack_from("<4sHH", record)
    if signature != b"FILE":
        raise CaptureWhole("NTFS whose volume record is damaged")
    mended = bytearray(record)
    for number in range(1, fixup_count):
        # The last two bytes of each 512 are kept in the header, to tell torn writes.
        place = number * 512 - 2
        if mended[place : place + 2] != record[fixups : fixups + 2]:
            raise CaptureWhole("NTFS whose volume record is damaged")
        mended[place : place + 2] = record[fixups + 2 * number : fixups + 2 * number + 2]
    (position,) = struct.unpack_from("<H", mended, 20)
    while position + 8 <= len(mended):
        (kind, length) = struct.unpack_from("<II", mended, position)
        if kind == _VOLUME_INFORMATION:
            (value,) = struct.unpack_from("<H", mended, position + 20)
            return int(struct.unpack_from("<H", mended, position + value + 10)[0])
        if kind == _END or length < 16:
            break
        position += length
    raise CaptureWhole("NTFS whose volume record says nothing of its state")
