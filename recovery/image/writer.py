"""Blobs of a system image into the repository: chunks in parallel and in order, small files, the root tree.

::

    caller: read chunk into a pooled buffer
      workers (one a processor): SHA-256 -> known? -> compress, encrypt
        caller: in order -> PackWriter

A known chunk costs its hash alone.  Memory is bounded by the pool of buffers.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import msgspec
import zstandard

from recovery.devices.holes import is_zeros
from recovery.devices.source_process import SharedBuffers
from recovery.errors import RepositoryDamaged
from recovery.extent import Extents
from recovery.image.layout import zero_id
from recovery.progress import Progress
from recovery.repository.format import ID_BYTES, BlobType, Node
from recovery.repository.packer import PackWriter, SealedBlob, compressor, seal_blob
from recovery.repository.repository import Repository
from recovery.units import MIB, worker_count
from recovery.work_map import Cell

_MAX_UNDER_WAY = 1000
_FILE_PIECE_BYTES = MIB
_IDS_AT_ONCE = 4096

#: What a worker hands back: the chunk's id, and the sealed blob when it is new.
_Hashed = tuple[bytes, SealedBlob | None]


class Place(NamedTuple):
    """Where a chunk comes from: the number of its disk, and what of it is used there."""

    disk: int
    used: Extents


class _UnderWay(NamedTuple):
    """Chunks given, alike ``times``; ``counted`` bytes each.  ``at``: which place they take, if not the next."""

    future: Future[_Hashed]
    buffer: memoryview | None
    counted: int
    times: int
    place: Place | None
    at: int | None = None


def _done(blob_id: bytes, sealed: SealedBlob | None = None) -> Future[_Hashed]:
    done: Future[_Hashed] = Future()
    done.set_result((blob_id, sealed))
    return done


@dataclass(slots=True)
class StoreCounters:
    """What went into the repository, in bytes of disk content."""

    new_bytes: int = 0
    known_bytes: int = 0


class ChunkWriter:
    """Stores chunks in the order given and collects their ids; for the time of a ``with`` block."""

    def __init__(
        self,
        repository: Repository,
        packs: PackWriter,
        buffers: SharedBuffers,
        *,
        level: int,
        progress: Progress | None = None,
    ) -> None:
        """``buffers`` of one chunk each; all but one of them are under way at most."""
        self._progress = progress or Progress()
        self._repository, self._packs, self._level, self._buffers = repository, packs, level, buffers
        self._pool = ThreadPoolExecutor(worker_count(), thread_name_prefix="chunk")
        self._under_way: deque[_UnderWay] = deque()
        self.chunk_bytes = buffers.size
        self.ids = bytearray()
        self.counters = StoreCounters()

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)

    def buffer(self) -> memoryview:
        """A buffer of one chunk to fill and give to ``put``; waits for a free one, and stores what is done."""
        while len(self._under_way) >= self._buffers.count - 1:
            self._store_oldest()
        return self._buffers.take()

    def put(
        self, buffer: memoryview, length: int, place: Place | None = None, at: int | None = None, *, final: bool = True
    ) -> None:
        """Store the first ``length`` bytes of ``buffer``, which is not the caller's any more, as the next chunk.

        With ``at``, as the chunk of that number, which was put off; if that is not ``final``, it comes again.
        """
        future = self._pool.submit(self._hash_and_seal, buffer[:length])
        self._give(_UnderWay(future, buffer, length if final else 0, 1, place, at))

    def put_known(self, blob_id: bytes, at: int | None = None) -> None:
        """The next chunk, or the one that was put off as ``at``, is one that the repository holds."""
        self._give(_UnderWay(_done(blob_id), None, 0, 1, None, at))

    def put_off(self) -> None:
        """Leave the place of the next chunk open."""
        self._give(_UnderWay(_done(bytes(ID_BYTES)), None, 0, 1, None))

    def take_back(self, buffer: memoryview) -> None:
        """A buffer that was not filled."""
        self._buffers.give(buffer)

    def have_zeros(self, length: int) -> None:
        """Store a chunk of ``length`` zero bytes, without using it yet."""
        if self._packs.claim(BlobType.DATA, zero_id(length)):
            self._packs.add(seal_zeros(self._repository, length, self._level))

    def put_zeros(self, length: int) -> None:
        """Store ``length`` zero bytes, a piece of a hole, as the next blob."""
        self._put_zeros(length, 0, 1, None)

    def put_zero_chunks(self, count: int, place: Place | None = None) -> None:
        """Store the next ``count`` chunks, which are used and known to be nothing but zeros."""
        self._put_zeros(self.chunk_bytes, self.chunk_bytes, count, place)

    def _put_zeros(self, length: int, counted: int, times: int, place: Place | None) -> None:
        blob_id = zero_id(length)
        new = self._packs.claim(BlobType.DATA, blob_id)
        done = _done(blob_id, seal_zeros(self._repository, length, self._level) if new else None)
        self._give(_UnderWay(done, None, counted, times, place))

    def _give(self, chunks: _UnderWay) -> None:
        self._under_way.append(chunks)
        self._store_finished()

    def _store_finished(self) -> None:
        while self._under_way and (self._under_way[0].future.done() or len(self._under_way) > _MAX_UNDER_WAY):
            self._store_oldest()

    def flush(self) -> None:
        """Wait until every chunk given is stored."""
        while self._under_way:
            self._store_oldest()

    def take_ids(self) -> bytearray:
        """The ids of all blobs since the last call, joined."""
        self.flush()
        ids, self.ids = self.ids, bytearray()
        return ids

    def ids_so_far(self) -> bytearray:
        """A copy of what ``take_ids`` would give."""
        self.flush()
        return bytearray(self.ids)

    def _hash_and_seal(self, chunk: memoryview) -> _Hashed:
        zeros = chunk[0] == 0 and is_zeros(chunk)
        blob_id = zero_id(len(chunk)) if zeros else hashlib.sha256(chunk).digest()
        if not self._packs.claim(BlobType.DATA, blob_id):
            return blob_id, None
        return blob_id, seal_blob(self._repository, BlobType.DATA, blob_id, chunk, self._level)

    def _store_oldest(self) -> None:
        future, buffer, length, times, place, at = self._under_way.popleft()
        blob_id, sealed = future.result()
        if buffer is not None:
            self._buffers.give(buffer)
        if at is None:
            self.ids += blob_id * times
        else:
            self.ids[at * ID_BYTES : (at + 1) * ID_BYTES] = blob_id
        known = times
        if sealed is not None:
            self._packs.add(sealed, None if place is None else self._progress.place(place.disk, place.used[0].offset))
            self.counters.new_bytes += length
            self._progress.count("new_bytes", length)
            known -= 1
        self.counters.known_bytes += length * known
        self._progress.count("known_bytes", length * known)
        if place is not None:
            self._progress.mark(place.disk, place.used, Cell.KNOWN if sealed is None else Cell.WRITTEN)


def seal_zeros(repository: Repository, length: int, level: int) -> SealedBlob:
    """A blob of ``length`` zero bytes, made without holding them in memory."""
    if repository.config.version == 1:
        return SealedBlob(BlobType.DATA, zero_id(length), repository.key.seal(bytes(length)), 0)
    block = bytes(min(length, MIB))
    pieces = (block[: min(MIB, length - at)] for at in range(0, length, MIB))
    compressed = _compress(pieces, length, level)
    return SealedBlob(BlobType.DATA, zero_id(length), repository.key.seal(compressed), length)


def store_file(repository: Repository, packs: PackWriter, pieces: Iterable[bytes], level: int) -> tuple[bytearray, int]:
    """Store a small file, given in pieces of any size; the ids of its blobs, joined, and its length in bytes."""
    ids, length = bytearray(), 0
    for piece in _regroup(pieces, _FILE_PIECE_BYTES):
        blob_id = hashlib.sha256(piece).digest()
        if packs.claim(BlobType.DATA, blob_id):
            packs.add(seal_blob(repository, BlobType.DATA, blob_id, piece, level))
        ids += blob_id
        length += len(piece)
    return ids, length


def _regroup(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    collected = bytearray()
    for piece in pieces:
        collected += piece
        while len(collected) >= size:
            yield bytes(collected[:size])
            del collected[:size]
    if collected:
        yield bytes(collected)


def store_tree(repository: Repository, packs: PackWriter, files: Iterable[tuple[Node, bytearray]], level: int) -> str:
    """Store the root folder holding ``files`` (a node and the ids of its blobs); its id in hex.

    A disk's list of ids is long, so the JSON is never held whole: it is made twice, once to be hashed and once to be
    compressed.
    """
    entries = sorted(files, key=lambda entry: entry[0].name.encode())
    digest = hashlib.sha256()
    length = 0
    for piece in _tree_json(entries):
        digest.update(piece)
        length += len(piece)
    tree_id = digest.digest()
    if packs.claim(BlobType.TREE, tree_id):
        if repository.config.version == 1:
            blob = SealedBlob(BlobType.TREE, tree_id, repository.key.seal(b"".join(_tree_json(entries))), 0)
        else:
            compressed = _compress(_tree_json(entries), length, level)
            blob = SealedBlob(BlobType.TREE, tree_id, repository.key.seal(compressed), length)
        packs.add(blob)
    return tree_id.hex()


def _tree_json(entries: list[tuple[Node, bytearray]]) -> Iterator[bytes]:
    """The tree as restic writes it: compact, ended by a newline."""
    yield b'{"nodes":['
    for number, (node, ids) in enumerate(entries):
        if len(ids) % ID_BYTES:
            raise RepositoryDamaged("a list of blob ids was cut", "This is a bug: please report it.")
        head = msgspec.json.encode(node)
        yield (b"," if number else b"") + head[:-1] + b',"content":['
        step = _IDS_AT_ONCE * ID_BYTES
        for at in range(0, len(ids), step):
            hexed = ids[at : at + step].hex("\n", ID_BYTES).replace("\n", '","')
            yield f'{"," if at else ""}"{hexed}"'.encode()
        yield b"]}"
    yield b"]}\n"


def _compress(pieces: Iterable[bytes], length: int, level: int) -> bytes:
    stream = compressor(level).compressobj(size=length)
    out = [stream.compress(piece) for piece in pieces]
    out.append(stream.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH))
    return b"".join(out)
