"""ext2, ext3, ext4: what ``dumpe2fs`` says of every block group, and ``debugfs`` of the journal.

Source of the superblock's fields: the kernel's documentation, "ext4 Data Structures and Algorithms".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from recovery.command import Completed, run
from recovery.extent import Extent, Extents
from recovery.filesystems.walk.view import Area, NotAudited, Unreadable, View

_SECONDS = 3600
_HAS_JOURNAL = 0x4

_GROUP = re.compile(rb"^Group (\d+): \(Blocks (\d+)-(\d+)\)")
_METADATA = re.compile(
    rb"((?:Primary|Backup) superblock|Group descriptors?|Reserved GDT blocks|Block bitmap|Inode bitmap|Inode table)"
    rb" at (\d+)(?:-(\d+))?"
)
_FREE = re.compile(rb"^  Free blocks: ?(.*)$")


def allocation(view: View) -> Iterator[Area]:
    """Superblocks, descriptors, bitmaps and inode tables by name; then all that is not free."""
    said, complaint = _dumpe2fs(view)
    block, first, count = _sizes(said, complaint)
    yield from _fixed(said, block, first)
    free = [
        _blocks(part, block)
        for line in said.stdout.splitlines()
        for found in [_FREE.match(line)]
        if found
        for part in found[1].split(b", ")
        if part
    ]
    yield Area("blocks that it calls allocated", Extents(free).invert(Extent(0, min(count * block, view.size_bytes))))
    if complaint:
        raise Unreadable(f"dumpe2fs finds fault: {complaint}")


def before_replay(view: View) -> Iterator[Area]:
    """Of a filesystem that was not closed: what has its fixed place, and every block of the journal."""
    superblock = view.read(1024, 1024, "the superblock")
    (features,) = struct.unpack_from("<I", superblock, 0x5C)
    (journal,) = struct.unpack_from("<I", superblock, 0xE0)
    said, complaint = _dumpe2fs(view)
    block, first, _ = _sizes(said, complaint)
    yield from _fixed(said, block, first)
    if not features & _HAS_JOURNAL or not journal:  # none, or on another device
        return
    listed = run(
        ["debugfs", "-c", "-R", f"blocks <{journal}>", view.path], needed_for="auditing ext", timeout_seconds=_SECONDS,
        check=False, interrupt=view.interrupt,
    )  # fmt: skip
    numbers = sorted(int(word) for word in listed.stdout.split() if word.isdigit() and int(word))
    if not numbers:
        raise Unreadable(f"its journal cannot be found: {listed.reason}")
    yield Area("the journal", Extents((number * block, block) for number in numbers))


def _dumpe2fs(view: View) -> tuple[Completed, str]:
    """What it prints, and what it complains of."""
    said = run(
        ["dumpe2fs", view.path], needed_for="auditing ext", timeout_seconds=_SECONDS, check=False,
        interrupt=view.interrupt,
    )  # fmt: skip
    complaint = b"".join(said.stderr.splitlines()[1:]).decode(errors="replace")  # the first line is its version
    if "unsupported" in complaint:
        raise NotAudited(f"dumpe2fs is too old for it: {complaint}")
    return said, complaint


def _sizes(said: Completed, complaint: str) -> tuple[int, int, int]:
    """The size of a block in bytes, the number of the first one, and how many there are."""
    sizes = dict(re.findall(rb"^(Block size|First block|Block count): +(\d+)$", said.stdout, re.M))
    if not said.ok or len(sizes) != 3:
        raise Unreadable(f"dumpe2fs cannot read it: {complaint or said.reason}")
    return int(sizes[b"Block size"]), int(sizes[b"First block"]), int(sizes[b"Block count"])


def _fixed(said: Completed, block: int, first: int) -> Iterator[Area]:
    """Superblocks, descriptors, bitmaps and inode tables."""
    yield Area("the boot area and the superblock", Extents([(0, max(2048, first * block))]))
    group = "?"
    metadata: dict[str, list[tuple[int, int]]] = {}
    for line in said.stdout.splitlines():
        if found := _GROUP.match(line):
            group = found[1].decode()
            continue
        for name, start, end in _METADATA.findall(line):
            what = f"the {name.decode()[0].lower()}{name.decode()[1:]} of block group {group}"
            extent = (int(start) * block, (int(end or start) - int(start) + 1) * block)
            metadata.setdefault(what, []).append(extent)
    for what, extents in metadata.items():
        yield Area(what, Extents(extents))


def _blocks(text: bytes, block: int) -> tuple[int, int]:
    first, _, last = text.partition(b"-")
    return int(first) * block, (int(last or first) - int(first) + 1) * block
