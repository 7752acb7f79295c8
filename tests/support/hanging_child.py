"""Serves a disk of which some bytes are never answered, as a dying disk behind a bad bridge does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from recovery.devices.fuse import read_spec, serve, served


class Spec(msgspec.Struct):
    """The file behind it, and from where to where no read is answered."""

    disk: str
    start: int
    end: int


class _Hanging:
    def __init__(self, spec: Spec) -> None:
        self._file = Path(spec.disk).open("rb")  # noqa: SIM115 - until the process ends
        self._spec = spec
        self.size_bytes = Path(spec.disk).stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        while offset < self._spec.end and offset + length > self._spec.start:
            time.sleep(3600)
        return os.pread(self._file.fileno(), length, offset)

    def write(self, offset: int, data: bytes) -> None:
        raise PermissionError


@contextmanager
def hanging(disk: Path, start: int, end: int) -> Iterator[Path]:
    """``disk`` as a file of which the bytes from ``start`` to ``end`` are never answered."""
    spec = Spec(str(disk), start, end)
    with served("tests.support.hanging_child", spec, needed_for="a disk that hangs") as folder:
        yield folder / "disk.img"


if __name__ == "__main__":
    serve({"disk.img": _Hanging(read_spec(Spec))}, threads=True)
