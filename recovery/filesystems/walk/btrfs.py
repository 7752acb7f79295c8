"""btrfs on one device: what ``btrfs inspect-internal dump-tree`` says of its extent tree and its chunks."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import msgspec

from recovery.command import Completed, run
from recovery.extent import Extent, Extents
from recovery.filesystems.walk.view import Area, Unreadable, View
from recovery.units import GIB, KIB, MIB

_SECONDS = 3600
_SUPERBLOCKS = (64 * KIB, 64 * MIB, 256 * GIB)
_ITEM = re.compile(rb"key \((\d+) (EXTENT_ITEM|METADATA_ITEM) (\d+)\)")
_CHUNK = re.compile(rb"key \(FIRST_CHUNK_TREE CHUNK_ITEM (\d+)\)")
_LENGTH = re.compile(rb"^\s+length (\d+) owner \d+ stripe_len \d+ type (\S+)")
_NODE = re.compile(rb"^(?:leaf|node) (\d+) (?:items|level)", re.M)
_ROOT = re.compile(rb"^\s+generation \d+ root_dirid \d+ bytenr (\d+) ", re.M)
_STRIPE = re.compile(rb"^\s+stripe \d+ devid \d+ offset (\d+)")


class Chunk(msgspec.Struct, frozen=True):
    """``length`` bytes of logical addresses from ``logical`` on, and where each copy begins on the device."""

    logical: int
    length: int
    copies: tuple[int, ...]


def chunks(view: View) -> list[Chunk]:
    """Where logical addresses lie.  Raises Unreadable."""
    found: list[Chunk] = []
    logical = length = 0
    for line in _dump(view, "chunk", "CHUNK_ITEM|length [0-9]+ owner|stripe [0-9]+ devid").stdout.splitlines():
        if key := _CHUNK.search(line):
            logical = int(key[1])
        elif size := _LENGTH.match(line):
            length = int(size[1])
            found.append(Chunk(logical, length, ()))
        elif (stripe := _STRIPE.match(line)) and found:
            found[-1] = Chunk(logical, length, (*found[-1].copies, int(stripe[1])))
    if not found:
        raise Unreadable("its chunk tree cannot be read")
    return sorted(found, key=lambda chunk: chunk.logical)


def allocation(view: View) -> Iterator[Area]:
    """The superblocks, and every copy of what the extent tree lists: tree nodes and data."""
    superblock = view.read(_SUPERBLOCKS[0], 4 * KIB, "the superblock")
    (node,) = struct.unpack_from("<I", superblock, 148)
    if superblock[64:72] != b"_BHRfS_M" or not node:
        raise Unreadable("its superblock is no btrfs superblock")
    copies = [(place, 4 * KIB) for place in _SUPERBLOCKS if place + 4 * KIB <= view.size_bytes]
    yield Area("the superblocks", Extents(copies))
    known = chunks(view)
    nodes: list[tuple[int, int]] = []
    data: list[tuple[int, int]] = []
    for logical, kind, length in _ITEM.findall(_dump(view, "extent", " key [(]").stdout):
        if kind == b"METADATA_ITEM":
            nodes.append((int(logical), node))
        else:
            data.append((int(logical), int(length)))
    if not nodes:
        raise Unreadable("its extent tree cannot be read")
    yield Area("nodes of its trees", physical(Extents(nodes), known))
    yield Area("data that its extent tree lists", physical(Extents(data), known))


def logs(view: View) -> Iterator[Area]:
    """Every copy of the nodes of its log trees, which no extent tree lists; none when it was closed cleanly."""
    superblock = view.read(_SUPERBLOCKS[0], 4 * KIB, "the superblock")
    (root,) = struct.unpack_from("<Q", superblock, 96)
    (node,) = struct.unpack_from("<I", superblock, 148)
    if not root:
        return
    pending, nodes = [root], set[int]()
    while pending:
        said = _inspect(
            view, "a log tree", ["--follow", "-b", str(pending.pop())], "^(leaf|node) [0-9]+ |^.*bytenr [0-9]+ "
        )
        nodes.update(int(number) for number in _NODE.findall(said.stdout))
        pending += [int(number) for number in _ROOT.findall(said.stdout) if int(number) not in nodes]
    yield Area("nodes of its log trees", physical(Extents((place, node) for place in sorted(nodes)), chunks(view)))


def physical(logical: Extents, known: list[Chunk]) -> Extents:
    """Every copy of logical addresses, on the device.  Raises Unreadable when some lie outside of all chunks."""
    places: list[tuple[int, int]] = []
    mapped = 0
    for chunk in known:
        inside = logical.clip(Extent(chunk.logical, chunk.length))
        mapped += inside.total_bytes
        places += [(e.offset + copy - chunk.logical, e.length) for copy in chunk.copies for e in inside]
    if mapped != logical.total_bytes:
        raise Unreadable("its trees name addresses that are in no chunk")
    return Extents(places)


def _dump(view: View, tree: str, wanted: str) -> Completed:
    return _inspect(view, f"its {tree} tree", ["-t", tree], wanted)


def _inspect(view: View, what: str, which: list[str], wanted: str) -> Completed:
    """The lines of a tree that match ``wanted``; a tree's whole text would fill the memory."""
    script = 'path="$1" wanted="$2"; shift 2; btrfs inspect-internal dump-tree "$@" "$path" | grep -E "$wanted"'
    said = run(
        ["bash", "-o", "pipefail", "-c", script, "dump", view.path, wanted, *which],
        needed_for="auditing btrfs", timeout_seconds=_SECONDS, check=False, interrupt=view.interrupt,
    )  # fmt: skip
    if not said.ok:
        raise Unreadable(f"{what} cannot be read: {said.reason}")
    return said
