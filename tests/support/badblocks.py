"""Real read errors: a file on btrfs whose data was changed underneath.

The blocks no longer fit their checksums, so the kernel answers every read of them with EIO, as a dying disk does.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.disks import MIB, blank, loop, mounted, run

#: btrfs checks, and therefore loses, this much at a time.
BLOCK = 4096


@contextmanager
def with_bad_blocks(disk: Path, bad: Sequence[int], scratch: Path) -> Iterator[Path]:
    """A copy of ``disk`` of which the 4096 bytes at each offset of ``bad`` cannot be read.

    Those blocks must be like no other of the disk: they are found underneath by what they hold.
    """
    size = disk.stat().st_size
    carrier = blank(scratch / "carrier.img", size + 160 * MIB)
    run("mkfs.btrfs", "-q", "-msingle", "-dsingle", carrier)
    with loop(carrier) as device, mounted(device, scratch / "carrier", "noatime"):
        run("cp", "--sparse=never", "--reflink=never", disk, scratch / "carrier" / "disk.img")
    _damage(carrier, disk, bad)
    with loop(carrier) as device, mounted(device, scratch / "carrier", "noatime"):
        copy = scratch / "carrier" / "disk.img"
        for offset in bad:
            assert not _readable(copy, offset), f"the block at {offset} can still be read"
        yield copy
    carrier.unlink()


def _damage(carrier: Path, disk: Path, bad: Sequence[int]) -> None:
    with carrier.open("r+b") as below, disk.open("rb") as source, mmap.mmap(below.fileno(), 0) as view:
        for offset in bad:
            source.seek(offset)
            content = source.read(BLOCK)
            place = view.find(content)
            assert place >= 0, f"the block at {offset} is not there"
            assert view.find(content, place + 1) < 0, f"the block at {offset} is not the only one of its kind"
            view[place : place + BLOCK] = bytes(byte ^ 0xFF for byte in content)


def _readable(path: Path, offset: int) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            file.read(BLOCK)
    except OSError:
        return False
    return True


def ddrescue_map(source: Path, scratch: Path, *options: str) -> list[tuple[int, int]]:
    """(offset, length) of what GNU ddrescue could not read, from its own map."""
    made = scratch / "ddrescue.map"
    run("ddrescue", "--quiet", "--force", *options, source, scratch / "ddrescue.out", made, check=False)
    (scratch / "ddrescue.out").unlink()
    return areas_of(made.read_text(), "-")


def areas_of(text: str, status: str) -> list[tuple[int, int]]:
    """(offset, length) of the blocks of a ddrescue map that have a status."""
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")][1:]
    return [(int(offset, 0), int(length, 0)) for offset, length, found in lines if found == status]
