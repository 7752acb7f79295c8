"""Verify: the packs that a system image lies in are hashed whole, each of its blobs authenticated and hashed.

What is damaged is told as ranges of disks and partitions; everything else stays restorable.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from recovery.errors import RecoveryError, RepositoryDamaged
from recovery.extent import Extent, Extents
from recovery.image.layout import zero_id
from recovery.image.manifest import MANIFEST_NAME
from recovery.image.view import DiskImage, SystemImage
from recovery.progress import Progress, Side
from recovery.repository.crypto import DoesNotAuthenticate
from recovery.repository.format import ID_BYTES, BlobType, decode_header, decode_header_length, decode_ids
from recovery.repository.index import Index, Location
from recovery.repository.repository import Repository
from recovery.repository.store import FileKind
from recovery.units import worker_count
from recovery.work_map import Cell, DiskWork


@dataclass(frozen=True, slots=True)
class Damage:
    """A range of a disk that cannot be restored: the used bytes lost, the partition (None: outside of any), and why."""

    disk: str
    extent: Extent
    used: Extents
    partition: int | None
    reason: str


@dataclass(slots=True)
class VerifyResult:
    """What a verification found.  ``pack_problems`` are damages to packs, whether or not they hit this image."""

    packs: int = 0
    pack_bytes: int = 0
    blobs: int = 0
    damages: list[Damage] = field(default_factory=list)
    pack_problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.damages and not self.pack_problems


@dataclass(frozen=True, slots=True)
class _PackCheck:
    """One pack's result: what is wrong with it as a file, and its damaged blobs, each with why."""

    problems: tuple[str, ...]
    damaged: dict[bytes, str]
    blobs: int


def verify(image: SystemImage, progress: Progress) -> VerifyResult:
    """Check one image.  Raises RepositoryDamaged when its tree, manifest or maps are damaged: then all is lost."""
    result = VerifyResult(pack_problems=list(image.problems))
    repository = image.repository
    disks = [image.disk(disk.name) for disk in image.manifest.disks]
    sizes = dict(repository.store.list(FileKind.PACK))
    wanted, missing = _by_pack(image, disks, sizes)
    progress.map([DiskWork(disk.record.name, disk.record.size_bytes, disk.used) for disk in disks])
    progress.phase("verify", sum(sizes.get(pack.hex(), 0) for pack in wanted))
    damaged = dict(missing)
    for check in _check_packs(repository, wanted, disks, sizes, progress):
        result.pack_problems += check.problems
        result.blobs += check.blobs
        damaged.update(check.damaged)
    result.packs, result.pack_bytes = len(wanted), sum(sizes.get(pack.hex(), 0) for pack in wanted)
    lost = {blob_id: reason for blob_id, reason in damaged.items() if not _whole_elsewhere(repository, blob_id)}
    for number, disk in enumerate(disks):
        found = list(_damages(disk, lost))
        result.damages += found
        for damage in found:
            progress.mark(number, damage.used, Cell.UNREADABLE)
    return result


def _by_pack(
    image: SystemImage, disks: list[DiskImage], sizes: dict[str, int]
) -> tuple[dict[bytes, list[array[int]]], dict[bytes, str]]:
    """The pieces that each pack holds, by disk (numbers of pieces), and the blobs that no pack holds.

    Of several packs that hold a blob, one that is there is taken.
    """
    packs: dict[bytes, list[array[int]]] = {}
    missing: dict[bytes, str] = {}
    index = image.repository.index
    for number, disk in enumerate(disks):
        for piece in range(len(disk.layout)):
            blob_id = disk.id_of(piece)
            place = _place(index, BlobType.DATA, blob_id, sizes)
            if place is None:
                missing[blob_id] = f"its blob {blob_id.hex()[:8]} is in no pack"
            else:
                packs.setdefault(place.pack, [array("I") for _ in disks])[number].append(piece)
    for pack in _small_packs(image, sizes):
        packs.setdefault(pack, [array("I") for _ in disks])
    return packs, missing


def _place(index: Index, kind: BlobType, blob_id: bytes, sizes: dict[str, int]) -> Location | None:
    """Where a blob lies: in a pack that is there, if any is."""
    places = list(index.find_all(kind, blob_id))
    return next((place for place in places if place.pack.hex() in sizes), places[0] if places else None)


def _small_packs(image: SystemImage, sizes: dict[str, int]) -> Iterator[bytes]:
    """The packs that hold the image's tree, manifest and maps."""
    index = image.repository.index
    small = [name for disk in image.manifest.disks for name in (disk.domain, disk.map)]
    wanted = [(BlobType.TREE, bytes.fromhex(image.stored.snapshot.tree))]
    wanted += [(BlobType.DATA, blob_id) for name in [*small, MANIFEST_NAME] for blob_id in _ids(image, name)]
    for kind, blob_id in wanted:
        place = _place(index, kind, blob_id, sizes)
        if place is not None:
            yield place.pack


def _ids(image: SystemImage, name: str) -> Iterator[bytes]:
    ids = decode_ids(bytes(image.node(name).content))
    return (ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES))


def _check_packs(
    repository: Repository,
    wanted: dict[bytes, list[array[int]]],
    disks: list[DiskImage],
    sizes: dict[str, int],
    progress: Progress,
) -> Iterator[_PackCheck]:
    """Check packs, as many at a time as there are processors, so that memory holds only those."""
    workers = worker_count()
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        under_way: list[tuple[bytes, Future[_PackCheck]]] = []

        def collect(pack: bytes, future: Future[_PackCheck]) -> _PackCheck:
            check = future.result()
            progress.advance(sizes.get(pack.hex(), 0))
            _mark(wanted[pack], disks, check, progress)
            return check

        try:
            for pack, pieces in wanted.items():
                progress.check()
                ids = {disk.id_of(piece) for disk, numbers in zip(disks, pieces, strict=True) for piece in numbers}
                under_way.append((pack, pool.submit(_check_pack, repository, pack, ids, progress)))
                if len(under_way) > workers:
                    yield collect(*under_way.pop(0))
            while under_way:
                progress.check()
                yield collect(*under_way.pop(0))
        finally:
            pool.shutdown(cancel_futures=True)


def _mark(pieces: list[array[int]], disks: list[DiskImage], check: _PackCheck, progress: Progress) -> None:
    """Show on the map what was checked."""
    for number, (disk, held) in enumerate(zip(disks, pieces, strict=True)):
        for piece in held:
            extent, hole = disk.layout[piece]
            if not hole:
                damaged = bool(check.damaged) and disk.id_of(piece) in check.damaged
                progress.mark(number, disk.used.clip(extent), Cell.UNREADABLE if damaged else Cell.CHECKED)


def _check_pack(repository: Repository, pack: bytes, ids: Iterable[bytes], progress: Progress) -> _PackCheck:
    name = pack.hex()
    problems: list[str] = []
    damaged: dict[bytes, str] = {}
    try:
        with progress.waits(Side.SOURCE):
            data = repository.store.load_uncached(FileKind.PACK, name)
    except RecoveryError as error:
        return _all_lost(f"the pack {name[:8]} cannot be read: {error.message}", ids)
    if hashlib.sha256(data).digest() != pack:
        problems.append(f"the pack {name[:8]} is damaged: its content is not what its name says")
        header = _header_problem(repository, data)
        if header:
            problems.append(f"the header of pack {name[:8]} {header}")
    count = 0
    for blob_id in ids:
        place = next((p for p in repository.index.find_all(BlobType.DATA, blob_id) if p.pack == pack), None)
        if place is None:
            continue
        count += 1
        try:
            _open_blob(repository, data, blob_id, place)
        except RepositoryDamaged as error:
            damaged[blob_id] = error.message
    return _PackCheck(tuple(problems), damaged, count)


def _open_blob(repository: Repository, data: memoryview, blob_id: bytes, place: Location) -> None:
    if place.offset + place.length > len(data):
        raise RepositoryDamaged(f"the pack {place.pack.hex()[:8]} was cut short", "Run 'restic check'.")
    repository.open_blob(data[place.offset : place.offset + place.length], blob_id, place)


def _all_lost(reason: str, ids: Iterable[bytes]) -> _PackCheck:
    return _PackCheck((reason,), dict.fromkeys(ids, reason), 0)


def _header_problem(repository: Repository, data: memoryview) -> str:
    try:
        length = decode_header_length(bytes(data[-4:]), len(data))
        decode_header(repository.key.open(data[len(data) - 4 - length : -4]))
    except DoesNotAuthenticate:
        return "does not authenticate"
    except (RepositoryDamaged, ValueError):
        return "is malformed"
    return ""


def _whole_elsewhere(repository: Repository, blob_id: bytes) -> bool:
    """Whether another pack holds a whole copy."""
    try:
        repository.load_blob(BlobType.DATA, blob_id)
    except RecoveryError:
        return False
    return True


def _damages(disk: DiskImage, lost: dict[bytes, str]) -> Iterator[Damage]:
    if not lost:
        return
    partitions = [p for p in disk.record.partitions if p.method != "left-out"]
    for piece, (extent, hole) in enumerate(disk.layout):
        blob_id = disk.id_of(piece)
        if hole or blob_id not in lost or blob_id == zero_id(extent.length):
            continue
        used = disk.used.clip(extent)
        for partition in partitions:
            inside = used.clip(Extent(partition.offset, partition.length))
            if inside:
                yield Damage(disk.record.name, extent, inside, partition.number, lost[blob_id])
                used = used.subtract(inside)
        if used:
            yield Damage(disk.record.name, extent, used, None, lost[blob_id])
