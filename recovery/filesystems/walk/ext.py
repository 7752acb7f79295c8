"""ext2, ext3, ext4: what ``dumpe2fs`` says of every block group."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recovery.command import run
from recovery.extent import Extent, Extents
from recovery.filesystems.walk.view import Area, NotAudited, Unreadable, View

_SECONDS = 3600

_GROUP = re.compile(rb"^Group (\d+): \(Blocks (\d+)-(\d+)\)")
_METADATA = re.compile(
    rb"((?:Primary|Backup) superblock|Group descriptors?|Reserved GDT blocks|Block bitmap|Inode bitmap|Inode table)"
    rb" at (\d+)(?:-(\d+))?"
)
_FREE = re.compile(rb"^  Free blocks: ?(.*)$")


def allocation(view: View) -> Iterator[Area]:
    """Superblocks, descriptors, bitmaps and inode tables by name; then all that is not free."""
    said = run(
        ["dumpe2fs", view.path], needed_for="auditing ext", timeout_seconds=_SECONDS, check=False,
        interrupt=view.interrupt,
    )  # fmt: skip
    complaint = b"".join(said.stderr.splitlines()[1:]).decode(errors="replace")  # the first line is its version
    if "unsupported" in complaint:
        raise NotAudited(f"dumpe2fs is too old for it: {complaint}")
    sizes = dict(re.findall(rb"^(Block size|First block|Block count): +(\d+)$", said.stdout, re.M))
    if not said.ok or len(sizes) != 3:
        raise Unreadable(f"dumpe2fs cannot read it: {complaint or said.reason}")
    block, first, count = (int(sizes[name]) for name in (b"Block size", b"First block", b"Block count"))
    yield Area("the boot area and the superblock", Extents([(0, max(2048, first * block))]))
    free: list[tuple[int, int]] = []
    group = "?"
    metadata: dict[str, list[tuple[int, int]]] = {}
    for line in said.stdout.splitlines():
        if found := _GROUP.match(line):
            group = found[1].decode()
        elif found := _FREE.match(line):
            free += [_blocks(part, block) for part in found[1].split(b", ") if part]
        else:
            for name, start, end in _METADATA.findall(line):
                what = f"the {name.decode()[0].lower()}{name.decode()[1:]} of block group {group}"
                extent = (int(start) * block, (int(end or start) - int(start) + 1) * block)
                metadata.setdefault(what, []).append(extent)
    for what, extents in metadata.items():
        yield Area(what, Extents(extents))
    yield Area("blocks that it calls allocated", Extents(free).invert(Extent(0, min(count * block, view.size_bytes))))
    if complaint:
        raise Unreadable(f"dumpe2fs finds fault: {complaint}")


def _blocks(text: bytes, block: int) -> tuple[int, int]:
    first, _, last = text.partition(b"-")
    return int(first) * block, (int(last or first) - int(first) + 1) * block
