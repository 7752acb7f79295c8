"""How long work may take, before it begins: judged by the kinds of the disks alone, and said no finer than that."""

from __future__ import annotations

from collections.abc import Sequence

from recovery.devices.disk import Disk
from recovery.units import MIB, worker_count

#: What disks of a kind keep up for hours, in MiB a second: the lower end of what is sold.
_NVME, _FLASH, _ROTATING, _USB, _CARD = 800, 350, 110, 70, 25
#: What one processor reads, hashes, compresses and encrypts at the usual level, in MiB a second.
_PROCESSOR = 120

ROUGHLY = "judging by the kind of the disks. The real pace is shown once it has begun"


def pace(disk: Disk | None) -> float:
    """Bytes a second that a disk may keep up; of one that is not known, those of a USB disk."""
    if disk is None or disk.transport == "usb":
        return _USB * MIB
    if disk.transport == "mmc":
        return _CARD * MIB
    if disk.rotational:
        return _ROTATING * MIB
    return (_NVME if disk.transport == "nvme" else _FLASH) * MIB


def capture_seconds(
    sources: Sequence[Disk], read_bytes: int, stored_bytes: int, destination: Disk | None
) -> tuple[float, float]:
    """Seconds to store ``read_bytes`` of the sources as ``stored_bytes``, and to read those back."""
    reading = read_bytes / min(pace(disk) for disk in sources)
    storing = stored_bytes / pace(destination)
    return max(reading, read_bytes / (_PROCESSOR * MIB * worker_count()), storing), storing


def write_seconds(target: Disk, written_bytes: int, source: Disk | None) -> float:
    """Seconds to write and to read back."""
    return written_bytes / min(pace(target), pace(source)) + written_bytes / pace(target)


def duration(seconds: float) -> str:
    """``700`` as "about 10 minutes": in steps as coarse as the estimate."""
    minutes = seconds / 60
    if minutes < 1:
        return "about a minute"
    for step, most in ((1, 10), (5, 60), (15, 120)):
        if minutes <= most:
            rounded = max(step, round(minutes / step) * step)
            return "about a minute" if rounded == 1 else f"about {rounded} minutes"
    return f"about {round(minutes / 60)} hours"
