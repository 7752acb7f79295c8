"""Images that lack one extent that their filesystem needs, as a wrong used-map would make them.

Which bytes a filesystem needs is asked of programs that the audit does not ask: debugfs, xfs_bmap, the file items of
btrfs's trees, ntfsinfo, mshowfat.
"""

from __future__ import annotations

import os
import random
import re
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from recovery.extent import Extents
from recovery.image.audit import AuditResult, audit
from recovery.image.capture import CaptureOptions, capture
from recovery.image.capture_plan import CapturePlan, Choice, plan_capture
from recovery.image.layout import make_layout
from recovery.image.view import SystemImage
from recovery.progress import Progress
from recovery.repository.repository import Repository, StoredSnapshot
from tests.support.disks import KIB, MIB, loop, mounted, overwrite, read_at, run, umount
from tests.support.fleet import Fleet, Place
from tests.support.program import PASSWORD

#: By "data", "metadata" and "log": (offset, length) in bytes from the partition's start.
Needed = dict[str, list[tuple[int, int]]]

_SAMPLE = 40  # files that are asked for, where each costs a process


def enrich(fleet: Fleet, at: Path) -> None:
    """What makes filesystems keep more than the simplest metadata: a file in a thousand pieces, a long folder."""
    for kind in ("ext4", "xfs", "btrfs", "ntfs"):
        with fleet.device(fleet.place(kind)) as device, ExitStack() as stack:
            if kind == "ntfs":
                at.mkdir(exist_ok=True)
                run("ntfs-3g", device, at)
                stack.callback(umount, at)
            else:
                stack.enter_context(mounted(device, at))
            with (at / "holey").open("wb") as file:
                for number in range(1000):
                    file.seek(number * 16 * KIB)
                    file.write(os.urandom(4 * KIB))
            (at / "long folder").mkdir()
            for number in range(600):
                (at / "long folder" / f"a file with a rather long name, so that folders grow: {number}").touch()


def needed(fleet: Fleet, kind: str, at: Path, seed: int) -> Needed:
    """Bytes that the filesystem needs, by its own tools; of the files only some, chosen by ``seed``."""
    place = fleet.place(kind)
    chosen = random.Random(seed)
    with fleet.device(place, read_only=True) as device:
        if kind == "vfat":
            return _fat(fleet, place, chosen)
        if kind == "ntfs":
            return _ntfs(device)
        if kind == "btrfs":
            return _btrfs(device)
        return _ext4(device, at, chosen) if kind == "ext4" else _xfs(device, at, chosen)


def needed_after_crash(kind: str, image: Path, work: Path, seed: int) -> Needed:
    """The same of a crashed ext4, XFS or btrfs on ``image``: what it has now and needs after its replay too.

    What the replay writes it need not have had; a btrfs writes its metadata elsewhere, but what was logged stays.
    """
    copy, at = work / "replayed.img", work / "replayed"
    run("cp", "--sparse=always", image, copy)
    with loop(copy) as device, mounted(device, at, "nouuid" if kind == "xfs" else "defaults"):
        pass
    with loop(copy, read_only=True) as device:
        chosen = random.Random(seed)
        read = {"ext4": partial(_ext4, at=at, chosen=chosen), "xfs": partial(_xfs, at=at, chosen=chosen)}
        found = read.get(kind, _btrfs)(device)
    kept = {name: [place for place in found[name] if read_at(image, *place) == read_at(copy, *place)] for name in found}
    if kind == "btrfs":
        with loop(image, read_only=True) as device:
            return {"data": kept["data"], "log": _btrfs_log(device)}
    return {**kept, "log": found["log"]}


def written_by_replay(kind: str, image: Path, extent: tuple[int, int], work: Path) -> bool:
    """Whether a crashed filesystem comes to the same without these bytes: its log holds them too."""
    copy, at = work / "tried.img", work / "tried"
    run("cp", "--sparse=always", image, copy)
    try:
        for blanked in (False, True):
            if blanked:
                run("cp", "--sparse=always", image, copy)
                overwrite(copy, extent[0], bytes(extent[1]))
            with loop(copy) as device, mounted(device, at, "nouuid" if kind == "xfs" else "defaults"):
                pass
            if not blanked:
                after = read_at(copy, *extent)
        return read_at(copy, *extent) == after
    except AssertionError:  # it does not mount
        return False


def _files_and_folders(at: Path) -> tuple[list[Path], list[Path]]:
    """Plain files that are not empty, and folders, in a fixed order."""
    files, folders = [], []
    for folder, _, names in os.walk(at):
        folders.append(Path(folder))
        files += [Path(folder, name) for name in names if _is_filled(Path(folder, name))]
    return sorted(files), sorted(folders)


def _is_filled(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _ext4(device: Path, at: Path, chosen: random.Random) -> Needed:
    with mounted(device, at, "ro,noload"):
        files, folders = ([path.stat().st_ino for path in paths] for paths in _files_and_folders(at))
    block = int(re.findall(r"^Block size:\s+(\d+)", run("debugfs", "-R", "stats", device), re.M)[0])

    def blocks(inode: int) -> list[tuple[int, int]]:
        said = run("debugfs", "-R", f"blocks <{inode}>", device)
        return [(int(word) * block, block) for word in said.split() if int(word)]

    some = chosen.sample(files, min(_SAMPLE, len(files)))
    metadata = [extent for inode in folders for extent in blocks(inode)]
    for inode in [*some, *folders]:
        metadata.append(
            (int(re.findall(r"block (\d+),", run("debugfs", "-R", f"imap <{inode}>", device))[0]) * block, block)
        )
    said = run("debugfs", "-R", "stats", device)
    for bitmap, inodes in re.findall(r"block bitmap at (\d+), inode bitmap at (\d+)", said):
        metadata += [(int(bitmap) * block, block), (int(inodes) * block, block)]
    metadata += [(0, block), (block, block)]
    return {"data": [e for inode in some for e in blocks(inode)], "metadata": metadata, "log": blocks(8)}


def _xfs(device: Path, at: Path, chosen: random.Random) -> Needed:
    said = run(
        "xfs_db", "-r", "-c", "sb 0", "-c", "p logstart logblocks agblocks blocksize inopblog agblklog agcount", device
    )
    sb = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", said)}
    block, group = sb["blocksize"], sb["agblocks"] * sb["blocksize"]

    def place(number: int, bits: int) -> int:
        return (number >> bits) * group + (number & ((1 << bits) - 1)) * block

    log = [(place(sb["logstart"], sb["agblklog"]), sb["logblocks"] * block)]
    metadata = [(number * group, block) for number in range(sb["agcount"])]
    for number in range(sb["agcount"]):
        roots = run(
            "xfs_db", "-r", "-c", f"agf {number}", "-c", "p bnoroot cntroot", "-c", f"agi {number}", "-c",
            "p root free_root", device,
        )  # fmt: skip
        metadata += [(number * group + int(root) * block, block) for root in re.findall(r"= (\d+)", roots)]
    with mounted(device, at, "ro,norecovery,nouuid"):
        files, folders = _files_and_folders(at)

        def mapped(path: Path, *options: str) -> list[tuple[int, int]]:
            lines = run("xfs_bmap", *options, "-v", path).splitlines()
            found = [re.search(r"\]: +(\d+)\.\.(\d+) ", line) for line in lines]
            return [(int(f[1]) * 512, (int(f[2]) - int(f[1]) + 1) * 512) for f in found if f]

        some = chosen.sample(files, min(_SAMPLE, len(files)))
        some += [at / "holey"] if (at / "holey").exists() else []
        data = [extent for path in some for extent in mapped(path)]
        for path in [*chosen.sample(folders, min(_SAMPLE, len(folders))), at / "long folder"]:
            metadata += mapped(path) if path.exists() else []
        metadata += mapped(at / "odd" / "empty", "-a") if (at / "odd" / "empty").exists() else []
        for path in some:
            inode = path.stat().st_ino
            metadata.append((place(inode >> sb["inopblog"], sb["agblklog"]), block))
    return {"data": data, "metadata": metadata, "log": log}


def _btrfs(device: Path) -> Needed:
    said = run("btrfs", "inspect-internal", "dump-tree", device)
    node, places = _btrfs_places(device)
    data = re.findall(r"extent data disk byte ([1-9]\d*) nr (\d+)", said)
    nodes = {int(word) for word in re.findall(r"^(?:leaf|node) (\d+) (?:items|level)", said, re.M)}
    return {
        "data": [place for logical, length in data for place in places(int(logical), int(length))],
        "metadata": [
            *((start, 4 * KIB) for start in (64 * KIB, 64 * MIB)),
            *(place for logical in nodes for place in places(logical, node)),
        ],
    }


def _btrfs_log(device: Path) -> list[tuple[int, int]]:
    """Both copies of every node of the log trees; none where nothing was logged."""
    root = re.findall(r"^log_root\s+(\d+)", run("btrfs", "inspect-internal", "dump-super", device), re.M)[0]
    node, places = _btrfs_places(device)
    if root == "0":
        return []
    said = run("btrfs", "inspect-internal", "dump-tree", "--follow", "-b", root, device)
    for logged in re.findall(r"bytenr (\d+) byte_limit", said):
        said += run("btrfs", "inspect-internal", "dump-tree", "--follow", "-b", logged, device)
    nodes = {int(word) for word in re.findall(r"^(?:leaf|node) (\d+) (?:items|level)", said, re.M)}
    return [place for logical in nodes for place in places(logical, node)]


def _btrfs_places(device: Path) -> tuple[int, Callable[[int, int], list[tuple[int, int]]]]:
    """The size of a node, and what tells where on the device a range of logical addresses lies, every copy of it."""
    said = run("btrfs", "inspect-internal", "dump-tree", "-t", "chunk", device)
    node = int(re.findall(r"^nodesize\s+(\d+)", run("btrfs", "inspect-internal", "dump-super", device), re.M)[0])
    chunks = [
        (int(logical), int(length), [int(offset) for offset in re.findall(r"stripe \d+ devid \d+ offset (\d+)", rest)])
        for logical, length, rest in re.findall(
            r"CHUNK_ITEM (\d+)\).*?length (\d+) owner(.*?)(?=\n\titem|\Z|\n\w)", said, re.S
        )
    ]

    def physical(logical: int, length: int) -> list[tuple[int, int]]:
        inside = [(start, places) for start, size, places in chunks if start <= logical < start + size]
        return [(logical - start + place, length) for start, places in inside for place in places]

    return node, physical


def _ntfs(device: Path) -> Needed:
    cluster = int(re.findall(r"Cluster Size: (\d+)", run("ntfsinfo", "-f", "-m", device))[0])
    found: Needed = {"data": [], "metadata": [], "log": []}
    for inode in [*range(12), *range(24, 700)]:
        said = run("ntfsinfo", "-f", "-v", "-i", str(inode), device, check=False)
        for attribute in re.split(r"^Dumping attribute ", said, flags=re.M)[1:]:
            if inode == 8:  # the list of bad clusters names the whole disk
                continue
            for start, length in re.findall(r"^\t\t\t0x[0-9a-f]+\t\t(0x[0-9a-f]+)\t\t(0x[0-9a-f]+)$", attribute, re.M):
                is_data = inode >= 24 and attribute.startswith("$DATA")
                category = "log" if inode == 2 else "data" if is_data else "metadata"
                found[category].append((int(start, 16) * cluster, int(length, 16) * cluster))
    return found


def _fat(fleet: Fleet, place: Place, chosen: random.Random) -> Needed:
    inside = f"{fleet.image}@@{place.offset}"
    info = run("minfo", "-i", inside, "::")

    def number(name: str) -> int:
        return int(re.findall(rf"^{re.escape(name)}[:=] ?(\d+)", info, re.M)[0])

    sector, reserved = number("sector size"), number("reserved (boot) sectors")
    tables = number("fats") * number("Big fatlen") * sector
    cluster, data_start = number("cluster size") * sector, reserved * sector + tables

    def clusters(path: str) -> list[tuple[int, int]]:
        found = re.findall(r"<(\d+)(?:-(\d+))?>", run("mshowfat", "-i", inside, path))
        return [
            (data_start + (int(first) - 2) * cluster, (int(last or first) - int(first) + 1) * cluster)
            for first, last in found
        ]

    listed = run("mdir", "-i", inside, "-b", "-/", "::").splitlines()
    files = [path for path in listed if not path.endswith("/")]
    folders = [path.rstrip("/") for path in listed if path.endswith("/") and path != "::/"]
    metadata = [(0, sector), (number("infoSector location") * sector, sector), (reserved * sector, tables)]
    metadata += [(data_start, cluster), *(place for folder in folders for place in clusters(folder))]
    data = [place for path in chosen.sample(files, min(_SAMPLE, len(files))) for place in clusters(path)]
    return {"data": data, "metadata": metadata}


def one_extent(found: Needed, block: int, seed: int) -> tuple[str, tuple[int, int]]:
    """Its category and one extent: the whole of what lies in one piece, or a part of it, in whole blocks."""
    chosen = random.Random(seed)
    category = sorted(found)[seed % len(found)]
    offset, length = chosen.choice(found[category])
    blocks = max(1, length // block)
    count = chosen.choice([1, chosen.randint(1, blocks), blocks])
    start = chosen.randint(0, blocks - count)
    return category, (offset + start * block, min(count * block, length))


class Captures:
    """Captures of one partition of a disk, each without some bytes that belong in it; a ``with`` block."""

    def __init__(self, fleet: Fleet, kind: str, repository: Repository) -> None:
        self._place, self._repository, self._held = fleet.place(kind), repository, ExitStack()
        choice = Choice(include=frozenset({self._place.number}))
        self._plan = plan_capture([fleet.image], None, Progress(), self._held, choice=choice)

    def __enter__(self) -> Captures:
        return self

    def __exit__(self, *problem: object) -> None:
        self._held.close()

    @staticmethod
    def open(folder: Path) -> Repository:
        """A repository that the program made, its index loaded."""
        repository = Repository.open(folder, PASSWORD)
        repository.load_index()
        return repository

    def captured(self, *removed: tuple[int, int]) -> tuple[Repository, StoredSnapshot]:
        """Capture without ``removed`` (offset, length) of the partition."""
        plan = _without(self._plan, Extents(removed).shift(self._place.offset))
        with self._repository.lock() as lock:
            made = capture(self._repository, lock, plan, Progress(), CaptureOptions(level=1, verify=False))
        self._repository.load_index()
        return self._repository, self._repository.find_snapshot(made.snapshot_id)

    def audit_without(self, *removed: tuple[int, int]) -> AuditResult:
        """Capture without ``removed`` (offset, length) of the partition, and audit that."""
        return audit(SystemImage(*self.captured(*removed)), Progress())


def _without(plan: CapturePlan, removed: Extents) -> CapturePlan:
    (planned,) = plan.disks
    used = planned.domain.used.subtract(removed)
    assert used.total_bytes == planned.domain.used.total_bytes - removed.total_bytes, "it was not in the map at all"
    layout = make_layout(planned.disk.size_bytes, planned.record.layout.chunk_bytes, planned.record.layout.grid, used)
    record = msgspec.structs.replace(
        planned.record,
        used_bytes=used.total_bytes,
        layout=msgspec.structs.replace(planned.record.layout, pieces=len(layout)),
    )
    domain = replace(planned.domain, used=used)
    return replace(plan, disks=(replace(planned, domain=domain, layout=layout, record=record),))
