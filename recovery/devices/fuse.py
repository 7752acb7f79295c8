"""Files that do not exist, served to the kernel through FUSE for the time of a ``with`` block.

::

    parent                                   child: python -m MODULE, in a mount namespace of its own
    served(MODULE, spec) -- spec as JSON --> builds its VirtualFiles, serve(files)
      yields a folder    <-- "ready" -------
      loop device, fsck, ... on folder/NAME  answers reads and writes
    end of the block     -- end of input --> ends, and with it the mount, whatever became of the parent

The mount lies in the child's own namespace and is reached through ``/proc/PID/root``: nothing stays mounted when
either of the two is killed.  Who is not root gets a user namespace with it, where the kernel allows that.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mfusepy
import msgspec

from recovery.command import companion

log = logging.getLogger(__name__)

T = TypeVar("T")

_READY = b"ready"


class VirtualFile(Protocol):
    """A file of fixed size.  Both methods may raise OSError, which the reader or writer gets."""

    @property
    def size_bytes(self) -> int:
        """Its size in bytes; it does not change."""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``, fewer at the end."""

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``, all of it inside of the file."""


@contextmanager
def served(module: str, spec: msgspec.Struct, *, needed_for: str, inherited: Sequence[int] = ()) -> Iterator[Path]:
    """The folder with the files that ``python -m module`` serves; ``spec`` is what ``read_spec`` gives it.

    ``inherited``: descriptors that it gets too.
    Raises DeviceError when FUSE cannot be had here, or what the child gave as its reason.
    """
    with tempfile.TemporaryDirectory(prefix="recovery-view-") as folder:
        # Slave: our mount stays ours, but what is unmounted elsewhere does not live on in our namespace.
        namespaces = ["--mount", "--propagation", "slave"]
        namespaces += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        arguments = ["unshare", *namespaces, sys.executable, "-m", module, folder]
        first = msgspec.json.encode(spec) + b"\n"
        with companion(arguments, needed_for=needed_for, first=first, ready=_READY, inherited=inherited) as child:
            yield Path(f"/proc/{child.process_id}/root{folder}")


def read_spec(form: type[T]) -> T:
    """In the child: what the parent passed to ``served``."""
    return msgspec.json.decode(sys.stdin.buffer.readline(), type=form)


def serve(files: Mapping[str, VirtualFile], *, threads: bool = False) -> None:
    """In the child: serve ``files`` by their names until the parent closes our input.  Does not return.

    One request at a time, unless ``threads``: a view needs no locks then, and is about as fast.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    mfusepy.FUSE(
        _Folder(files),
        sys.argv[1],
        foreground=True,
        nothreads=not threads,
        direct_io=True,
        fsname="recovery",
        subtype="view",
    )
    os._exit(0)


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


class _Folder(mfusepy.Operations):  # type: ignore[misc]
    """One folder of virtual files."""

    use_ns = True

    def __init__(self, files: Mapping[str, VirtualFile]) -> None:
        self._files = {f"/{name}": file for name, file in files.items()}

    def init(self, path: str) -> None:
        sys.stdout.buffer.write(_READY + b"\n")
        sys.stdout.buffer.flush()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._file(path).size_bytes}

    def readdir(self, path: str, fh: int) -> Iterable[str]:
        return [".", "..", *(name[1:] for name in self._files)]

    def open(self, path: str, flags: int) -> int:
        self._file(path)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._file(path).read(offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        file = self._file(path)
        if offset + len(data) > file.size_bytes:
            raise mfusepy.FuseOSError(errno.ENOSPC)
        file.write(offset, data)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        if length != self._file(path).size_bytes:
            raise mfusepy.FuseOSError(errno.EPERM)
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return 0

    def _file(self, path: str) -> VirtualFile:
        try:
            return self._files[path]
        except KeyError as error:
            raise mfusepy.FuseOSError(errno.ENOENT) from error
