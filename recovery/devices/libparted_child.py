"""Prints what libparted reads from a disk as JSON; a program of its own, started by ``libparted.py``.

The only user of pyparted.  It imports nothing of this package, so that it can be run by its path.  Exit status 0: the
answer is on standard output; anything else, death by a signal among it: libparted could not make sense of the table.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import _ped

#: pyparted's exceptions have no common base of their own.
_ERRORS: tuple[type[Exception], ...] = (
    _ped.PartedException,
    _ped.DeviceException,
    _ped.DiskException,
    _ped.DiskLabelException,
    _ped.GeometryException,
    _ped.IOException,
    _ped.PartitionException,
    _ped.UnknownDeviceException,
    _ped.UnknownTypeException,
    UnicodeDecodeError,
    ValueError,
    TypeError,
    IndexError,
)


def main(path: str, sector_bytes: int) -> int:
    """Print label and partitions (offset and length in bytes) of the disk at ``path``, or why there are none."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        device = _ped.device_get(path)
        if device.sector_size != sector_bytes:
            raise ValueError(f"it cannot read sectors of {sector_bytes} bytes")
        disk = _ped.Disk(device)
        answer = {"label": disk.type.name, "entries": _entries(disk, sector_bytes), "refusal": ""}
    except _ERRORS as error:
        lines = str(error).splitlines() or [type(error).__name__]
        answer = {
            "label": None,
            "entries": [],
            "refusal": lines[0].removeprefix(f"{path}: ").replace(f" on {path}", ""),
        }
    sys.stdout.write(json.dumps(answer))
    return 0


def _entries(disk: Any, sector_bytes: int) -> list[dict[str, Any]]:
    found = []
    partition = disk.next_partition()
    while partition is not None:
        if partition.num > 0:
            found.append(
                {
                    "number": partition.num,
                    "offset": partition.geom.start * sector_bytes,
                    "length": partition.geom.length * sector_bytes,
                    "name": _name(partition),
                    "extended": bool(partition.type & _ped.PARTITION_EXTENDED),
                }
            )
        try:
            partition = disk.next_partition(partition)
        except _ERRORS:
            break
    return found


def _name(partition: Any) -> str:
    try:
        return str(partition.get_name() or "")
    except _ERRORS:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
