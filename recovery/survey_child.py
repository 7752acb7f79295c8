"""The program that ``surveyor.py`` starts: looks at disks one after the other, as it is told.

Requests and answers are lines of JSON.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from recovery.devices.disk import Disk, disk_for, list_disks
from recovery.errors import DeviceError, RecoveryError
from recovery.inventory import DiskReport, survey_disk


class Look(msgspec.Struct, frozen=True):
    """Look at the disk or image file ``path`` (bytes, as a file name is); without one, list the disks."""

    path: bytes | None = None


class Seen(msgspec.Struct, frozen=True):
    """An answer.

    To a path first its ``disk``, of which nothing was opened yet, then its ``report`` or why there is none; to a list
    ``disks``, of which none was opened.
    """

    disk: Disk | None = None
    report: DiskReport | None = None
    disks: list[Disk] | None = None
    error: str = ""
    hint: str = ""


def main() -> None:
    """Serve requests until the input ends."""
    try:
        for line in sys.stdin.buffer:
            request = msgspec.json.decode(line, type=Look)
            if request.path is None:
                _send(Seen(disks=list_disks(opening=False)))
                continue
            try:
                _look(Path(os.fsdecode(request.path)))
            except RecoveryError as error:
                _send(Seen(error=error.message, hint=error.hint))
    except BrokenPipeError:
        pass  # nobody is left to tell


def _look(path: Path) -> None:
    unopened = disk_for(path, opening=False)
    _send(Seen(disk=unopened))
    try:
        disk = disk_for(path)
    except DeviceError as error:
        _send(Seen(report=DiskReport(unopened, None, None, (), (error.message,))))
    else:
        _send(Seen(report=survey_disk(disk)))


def _send(seen: Seen) -> None:
    data = msgspec.json.encode(seen) + b"\n"
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
