"""Random access to a captured disk: the pieces of its image file, opened and checked as they are asked for."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from recovery.devices.mapfile import parse_map
from recovery.errors import DeviceError, RecoveryError, RepositoryDamaged, UsageError
from recovery.extent import Extent, Extents
from recovery.image.layout import Layout, TooManyPieces, make_layout, zero_id, zeros
from recovery.image.manifest import MANIFEST_NAME, ImageDisk, Manifest, decode_manifest
from recovery.progress import Progress, Side
from recovery.repository.format import ID_BYTES, BlobType, Node, decode_ids
from recovery.repository.index import Location
from recovery.repository.repository import Repository, StoredSnapshot, scratch
from recovery.repository.store import FileKind
from recovery.units import KIB, MIB, worker_count

#: So much of a disk is loaded at once, and so many of these windows are under way.  Small, so that what a worker reads
#: is still in its processor's cache when it is opened: 16 MiB took an eighth longer.
_WINDOW_BYTES = 4 * MIB
_WINDOWS_AHEAD = 8
#: Blobs of one pack that lie nearer to each other than this are read in one go.
_PACK_GAP_BYTES = 256 * KIB
_CACHED_PIECES = 8


class SystemImage:
    """A snapshot of whole disks, opened: its manifest and its files."""

    def __init__(self, repository: Repository, stored: StoredSnapshot, problems: Sequence[str] = ()) -> None:
        """``problems``: what is wrong with the repository's index.

        Raises UsageError when the snapshot is not a system image, RepositoryDamaged.
        """
        self.repository, self.stored, self.problems = repository, stored, tuple(problems)
        self._nodes = {node.name: node for node in repository.load_tree(stored.snapshot.tree).nodes}
        if MANIFEST_NAME not in self._nodes:
            raise UsageError(
                f"the snapshot {stored.id[:8]} is not a system image: it holds files",
                "'recovery snapshots' shows which are; files come back with 'restic restore'.",
            )
        self.manifest: Manifest = decode_manifest(b"".join(self.file(MANIFEST_NAME)))

    def node(self, name: str) -> Node:
        """A file of the snapshot.  Raises RepositoryDamaged when it is missing."""
        if name not in self._nodes:
            raise RepositoryDamaged(f"the image lacks its file {name!r}", "Run 'restic check'; use another snapshot.")
        return self._nodes[name]

    def file(self, name: str) -> Iterator[bytes]:
        """The content of a small file, blob by blob."""
        ids = decode_ids(bytes(self.node(name).content))
        for at in range(0, len(ids), ID_BYTES):
            yield self.repository.load_blob(BlobType.DATA, ids[at : at + ID_BYTES])

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a small text file, without holding it whole."""
        rest = b""
        for piece in self.file(name):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def disk(self, name: str | None = None) -> DiskImage:
        """One of its disks; the only one when ``name`` is None."""
        return DiskImage(self, self.manifest.disk(name))


@dataclass(frozen=True, slots=True)
class LoadedPiece:
    """A piece of a disk: its range, what of it is used, its content (zeros where it is not used), the SHA-256 of that,
    why it is missing (then it is zeros), and whether the target holds it already."""

    extent: Extent
    used: Extents
    data: bytes | memoryview
    digest: bytes
    damage: str = ""
    held: bool = False


class DiskImage:
    """One captured disk.

    Opening it compares the list of blobs with the manifest's layout: a tree that was shortened (``restic repair
    snapshots`` drops damaged blobs) would shift all that follows, and is refused with RepositoryDamaged.
    """

    def __init__(self, image: SystemImage, record: ImageDisk) -> None:
        self.repository, self.record = image.repository, record
        domain = parse_map(image.lines(record.domain), record.domain)
        read = parse_map(image.lines(record.map), record.map)
        self.used: Extents = domain.get("+", Extents())
        self.unreadable: Extents = self.used.subtract(read.get("+", Extents()))
        node = image.node(record.image)
        self.ids = decode_ids(bytes(node.content))
        count = len(self.ids) // ID_BYTES
        changed = RepositoryDamaged(
            f"the image file {record.image} was changed after it was captured: it has {count} blobs and {node.size} "
            f"bytes where {record.layout.pieces} and {record.size_bytes} belong",
            "A repair may have dropped a damaged blob; all behind it would be shifted. Use another snapshot.",
        )
        if count != record.layout.pieces or node.size != record.size_bytes:
            raise changed
        try:
            self.layout: Layout = make_layout(
                record.size_bytes, record.layout.chunk_bytes, record.layout.grid, self.used, count
            )
        except TooManyPieces as error:
            raise changed from error
        if len(self.layout) != count:
            raise changed
        if self.used.total_bytes != record.used_bytes or self.unreadable.subtract(self.used):
            raise RepositoryDamaged(
                f"the maps of {record.image} do not agree with its manifest",
                "Use another snapshot; run 'restic check'.",
            )
        self._pieces: OrderedDict[int, bytes] = OrderedDict()

    def id_of(self, index: int) -> bytes:
        """The blob id of piece ``index``."""
        return self.ids[index * ID_BYTES : (index + 1) * ID_BYTES]

    def missing(self, within: Extent) -> list[str]:
        """For each piece there whose blob is in no pack, whose pack is gone or cut, or whose length is wrong: why."""
        return [why for extent, why in self.lacking() if extent.end > within.offset and extent.offset < within.end]

    def lacking(self) -> Iterator[tuple[Extent, str]]:
        """Each piece whose blob is in no pack, whose pack is gone or cut, or whose length is wrong, and why."""
        sizes = dict(self.repository.store.list(FileKind.PACK))
        for index, (extent, hole) in enumerate(self.layout):
            if hole or self.id_of(index) == zero_id(extent.length):
                continue
            problem = self._place_problem(self.id_of(index), extent.length, sizes)
            if problem:
                yield extent, problem

    def _place_problem(self, blob_id: bytes, length: int, pack_sizes: dict[str, int]) -> str:
        problem = f"its blob {blob_id.hex()[:8]} is in no pack"
        for place in self.repository.index.find_all(BlobType.DATA, blob_id):
            pack = place.pack.hex()
            if place.plain_length != length:
                problem = f"its blob {blob_id.hex()[:8]} has {place.plain_length} bytes where {length} belong"
            elif pack not in pack_sizes:
                problem = f"its pack {pack[:8]} is missing"
            elif pack_sizes[pack] < place.offset + place.length:
                problem = f"its pack {pack[:8]} was cut short"
            else:
                return ""
        return problem

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``, fewer at the end.  Raises RepositoryDamaged."""
        end = min(offset + length, self.record.size_bytes)
        out = bytearray()
        while offset < end:
            index = self.layout.index_at(offset)
            extent, hole = self.layout[index]
            until = min(extent.end, end)
            out += bytes(until - offset) if hole else self._piece(index)[offset - extent.offset : until - extent.offset]
            offset = until
        return bytes(out)

    def damage(self, within: Extent) -> list[tuple[Extent, str]]:
        """The pieces that touch ``within`` and cannot be had, each with why."""
        pieces = self.load(self.used.clip(within))
        return [(piece.extent, piece.damage) for piece in pieces if piece.damage]

    def _piece(self, index: int) -> bytes:
        if index in self._pieces:
            self._pieces.move_to_end(index)
        else:
            plain = self.repository.load_blob(BlobType.DATA, self.id_of(index))
            if len(plain) != self.layout[index].extent.length:
                raise RepositoryDamaged(f"a chunk of {self.record.image} has a wrong length", "Run 'recovery verify'.")
            self._pieces[index] = plain
            if len(self._pieces) > _CACHED_PIECES:
                self._pieces.popitem(last=False)
        return self._pieces[index]

    def load(self, wanted: Extents, *, hashed: bool = True, progress: Progress | None = None) -> Iterator[LoadedPiece]:
        """The pieces that touch ``wanted``, in disk order, holes left out; several processors open them ahead.

        A piece that cannot be had comes as zeros, with its damage named.  Without ``hashed`` the caller compares hashes
        itself, after it has used the pieces.
        """
        workers = worker_count()
        told = progress or Progress()
        with ThreadPoolExecutor(workers, thread_name_prefix="load") as pool:
            under_way: deque[tuple[list[int], list[Future[dict[bytes, bytes | str]]]]] = deque()
            try:
                for window in self._windows(wanted):
                    under_way.append(
                        (window, [pool.submit(self._open_span, span, hashed, told) for span in self._spans(window)])
                    )
                    if len(under_way) >= _WINDOWS_AHEAD:
                        yield from self._finished(*under_way.popleft())
                while under_way:
                    yield from self._finished(*under_way.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def pieces(self, wanted: Extents) -> Iterator[tuple[int, Extent]]:
        """Number and range of each piece that touches ``wanted``, in disk order, holes left out."""
        last = -1
        for extent in wanted:
            index = max(last + 1, self.layout.index_at(extent.offset))
            while index < len(self.layout) and self.layout[index].extent.offset < extent.end:
                piece = self.layout[index]
                if not piece.hole:
                    yield index, piece.extent
                last = index
                index += 1

    def zero_bytes(self, wanted: Extents) -> int:
        """How many of the bytes lie in pieces of nothing but zeros."""
        pieces = ((extent, self.id_of(index)) for index, extent in self.pieces(wanted))
        return sum(wanted.clip(extent).total_bytes for extent, blob_id in pieces if blob_id == zero_id(extent.length))

    def _windows(self, wanted: Extents) -> Iterator[list[int]]:
        window: list[int] = []
        length = 0
        for index, extent in self.pieces(wanted):
            window.append(index)
            length += extent.length
            if length >= _WINDOW_BYTES:
                yield window
                window, length = [], 0
        if window:
            yield window

    def _spans(self, window: Iterable[int]) -> Iterator[list[tuple[bytes, Location]]]:
        """The blobs of a window, grouped so that each group is one read of one pack."""
        places: dict[bytes, Location] = {}
        for index in window:
            blob_id = self.id_of(index)
            place = self.repository.index.find(BlobType.DATA, blob_id)
            if place is not None and blob_id != zero_id(self.layout[index].extent.length):
                places[blob_id] = place
        span: list[tuple[bytes, Location]] = []
        for blob_id, place in sorted(places.items(), key=lambda item: item[1][:2]):
            if span:
                last = span[-1][1]
                if place.pack != last.pack or place.offset - last.offset - last.length > _PACK_GAP_BYTES:
                    yield span
                    span = []
            span.append((blob_id, place))
        if span:
            yield span

    def _open_span(
        self, span: list[tuple[bytes, Location]], hashed: bool, progress: Progress
    ) -> dict[bytes, bytes | str]:
        """Read one range of a pack and open its blobs; for a damaged one, any other copy, or else what is wrong."""
        start = span[0][1].offset
        end = max(place.offset + place.length for _, place in span)
        opened: dict[bytes, bytes | str] = {}
        pack = span[0][1].pack.hex()
        try:
            with progress.waits(Side.SOURCE):
                sealed = self.repository.store.load_range(
                    FileKind.PACK, pack, start, end - start, lambda length: scratch("span", length)
                )
        except (RepositoryDamaged, DeviceError):
            sealed = memoryview(b"")
        for blob_id, place in span:
            try:
                part = sealed[place.offset - start : place.offset - start + place.length]
                opened[blob_id] = self.repository.open_blob(part, blob_id, place, hashed=hashed)
            except RepositoryDamaged:
                opened[blob_id] = self._any_copy(blob_id)
        return opened

    def _any_copy(self, blob_id: bytes) -> bytes | str:
        try:
            return self.repository.load_blob(BlobType.DATA, blob_id)
        except RecoveryError as error:
            return error.message

    def _finished(self, window: list[int], futures: list[Future[dict[bytes, bytes | str]]]) -> Iterator[LoadedPiece]:
        opened: dict[bytes, bytes | str] = {}
        for future in futures:
            opened.update(future.result())
        for index in window:
            extent, blob_id = self.layout[index].extent, self.id_of(index)
            used = self.used.clip(extent)
            if blob_id == zero_id(extent.length):
                yield LoadedPiece(extent, used, zeros(extent.length), blob_id)
                continue
            plain = opened.get(blob_id, f"its blob {blob_id.hex()[:8]} is in no pack")
            if isinstance(plain, bytes) and len(plain) != extent.length:
                plain = f"its blob {blob_id.hex()[:8]} has {len(plain)} bytes where {extent.length} belong"
            if isinstance(plain, str):
                yield LoadedPiece(extent, used, bytes(extent.length), zero_id(extent.length), plain)
            else:
                yield LoadedPiece(extent, used, plain, blob_id)
