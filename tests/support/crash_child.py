"""The process behind a recording disk: ``python -m tests.support.crash_child FOLDER IMAGE RECORD``.

It serves the file IMAGE as FOLDER/disk, appends every write and flush to RECORD, and ends with its input.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mfusepy

from tests.support.crash import ENTRY, FLUSH


class Disk(mfusepy.Operations):  # type: ignore[misc]
    """One file, ``/disk``."""

    use_ns = True

    def __init__(self, image: Path, log: Path) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self._size = os.lseek(self._image, 0, os.SEEK_END)

    def init(self, path: str) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._size}

    def readdir(self, path: str, fh: int) -> Iterable[str]:
        return [".", "..", "disk"]

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        os.pwrite(self._image, data, offset)
        os.write(self._log, ENTRY.pack(offset, len(data)) + data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        os.write(self._log, ENTRY.pack(FLUSH, 0))
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        return 0


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def main() -> None:
    folder, image, log = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    mfusepy.FUSE(Disk(Path(image), Path(log)), folder, foreground=True, nothreads=True, direct_io=True)
    os._exit(0)


if __name__ == "__main__":
    main()
