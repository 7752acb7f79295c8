"""libparted's reading of a partition table.

libparted opens for writing, repairs what it reads, and ends the whole program by an assertion at some damaged tables.
So it is never given a disk, but a sparse one in memory that holds copies of the table's sectors, and it runs in a
process of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from recovery.command import run
from recovery.errors import DeviceError

_CHILD = Path(__file__).with_name("libparted_child.py")
_MAX_FILE_BYTES = 1 << 62
_SECONDS = 30


class PartedEntry(msgspec.Struct, frozen=True):
    """A partition as libparted reads it; offset and length in bytes."""

    number: int
    offset: int
    length: int
    name: str
    extended: bool


class LibpartedView(msgspec.Struct, frozen=True):
    """What libparted sees: the label (None: none, or refused with ``refusal``) and where partitions lie."""

    label: str | None
    entries: tuple[PartedEntry, ...] = ()
    refusal: str = ""


def ask_libparted(size_bytes: int, overlays: Sequence[tuple[int, bytes]], sector_bytes: int) -> LibpartedView:
    """Let libparted read a disk of ``size_bytes`` that holds only ``overlays`` (offset, bytes)."""
    if not 0 < size_bytes <= _MAX_FILE_BYTES:
        return LibpartedView(None, refusal="the disk has no sensible size")
    with scratch_disk(size_bytes, overlays) as scratch:
        try:
            ended = run(
                [sys.executable, "-I", _CHILD, scratch, str(sector_bytes)],
                needed_for="reading a partition table",
                timeout_seconds=_SECONDS,
                environment={"PARTED_SECTOR_SIZE": str(sector_bytes)},
                check=False,
            )
        except DeviceError:
            return LibpartedView(None, refusal="it does not come to an end")
    if ended.status < 0:
        return LibpartedView(None, refusal="it fails at it")
    if not ended.ok:
        raise DeviceError(
            f"libparted cannot be used: {ended.reason}", "Is pyparted (python3-parted) installed for this Python?"
        )
    return msgspec.json.decode(ended.stdout, type=LibpartedView)


@contextmanager
def scratch_disk(size_bytes: int, overlays: Sequence[tuple[int, bytes]]) -> Iterator[Path]:
    """A sparse disk in memory of ``overlays`` (offset, bytes) and zeros elsewhere, under a name others can open."""
    descriptor = os.memfd_create("partition table")
    try:
        try:
            os.ftruncate(descriptor, size_bytes)
            for offset, data in overlays:
                os.pwrite(descriptor, data[: max(0, size_bytes - offset)], offset)
        except OSError as error:
            raise DeviceError(f"A copy of a partition table in memory failed: {error.strerror}.") from error
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)
