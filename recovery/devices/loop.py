"""Loop devices: read-only ones over a range of a disk, and writable ones over a copy-on-write view.

A program that reads a partition is given a read-only one and not the partition itself: the kernel refuses
every write to it, it works alike on block devices and on raw image files, and it needs no kernel that
scans partition tables.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recovery.command import run
from recovery.errors import DeviceError
from recovery.extent import Extent

log = logging.getLogger(__name__)


@contextmanager
def read_only_loop(path: Path, extent: Extent, logical_sector_bytes: int = 512) -> Iterator[Path]:
    """Attach ``extent`` (bytes) of ``path`` as a read-only block device for the time of the ``with`` block.

    Raises DeviceError when no loop device can be had.
    """
    place = ["--read-only", f"--offset={extent.offset}", f"--sizelimit={extent.length}"]
    with _attached(path, place, logical_sector_bytes) as device:
        yield device


@contextmanager
def view_loop(view: Path, logical_sector_bytes: int = 512) -> Iterator[Path]:
    """Attach a copy-on-write view, never a source, as a block device that may be written.

    Raises DeviceError when no loop device can be had.
    """
    with _attached(view, [], logical_sector_bytes) as device:
        yield device


@contextmanager
def _attached(path: Path, options: list[str], logical_sector_bytes: int) -> Iterator[Path]:
    arguments: list[str | Path] = ["losetup", "--find", "--show", *options]
    if logical_sector_bytes != 512:
        arguments.append(f"--sector-size={logical_sector_bytes}")
    attached = run([*arguments, path], needed_for=f"reading a part of {path}")
    device = Path(attached.stdout.decode().strip())
    # Detached while we hold it open, it goes when the last holder is gone: also when this process is killed.
    try:
        held = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        run(["losetup", "--detach", device], needed_for=f"releasing {device}", check=False)
        raise DeviceError(f"{device} cannot be opened: {error.strerror}", "See the kernel's log (dmesg).") from error
    try:
        detached = run(["losetup", "--detach", device], needed_for=f"releasing {device}", check=False)
        if not detached.ok:
            log.warning("loop device %s could not be released: %s", device, detached.reason)
        yield device
    finally:
        os.close(held)
