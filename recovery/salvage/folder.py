"""The new folder that files are saved into."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from recovery.errors import DestinationFull, DeviceError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(to: Path) -> None:
    """Make it, unless it is there and empty.  Raises UsageError, DeviceError."""
    try:
        to.mkdir(parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise UsageError(f"{to} is not empty", "Name a new folder: nothing that is there is replaced.")
    except OSError as error:
        raise DeviceError(f"the folder {to} cannot be made: {error.strerror}", "Name another one.") from error


def expect_room(error: OSError, to: Path) -> None:
    """Raise DestinationFull when that is what the error says."""
    if error.errno in FULL:
        raise DestinationFull(f"there is no room left in {to}", "What was saved until now is there.") from error


def sync_folder(folder: Path) -> None:
    """Have the filesystem of ``folder``, and no other, write out what it holds in memory.  Raises DeviceError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(file):
            reason = os.strerror(ctypes.get_errno())
            raise DeviceError(f"what was saved to {folder} is not all stored: {reason}", "Save it again.")
    finally:
        os.close(file)
