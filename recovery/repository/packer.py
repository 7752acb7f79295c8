"""New blobs into packs, packs into the repository, and the index that names them published.

::

    worker threads      plain -> compressed -> sealed             (seal_blob)
    the caller's thread sealed blobs -> pack, in the order given  (PackWriter.add)
    one writer thread   pack -> stable storage -> read back and checked -> index, published every minute

The queue between the last two holds one pack, so memory stays flat and a slow destination slows the source.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import queue
import threading
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import zstandard

from recovery.errors import DeviceError, RecoveryError, RepositoryDamaged
from recovery.progress import Progress, Side
from recovery.repository.crypto import DoesNotAuthenticate
from recovery.repository.format import (
    BlobType,
    IndexPack,
    PackedBlob,
    decode_header,
    decode_header_length,
    encode_header,
    encode_header_length,
)
from recovery.repository.index import Location, index_pack
from recovery.repository.lock import Lock
from recovery.repository.repository import Repository
from recovery.repository.store import FileKind, file_name
from recovery.units import MIB, worker_count

log = logging.getLogger(__name__)

PACK_BYTES = 32 * MIB
#: Packs are cut by entries too: restic refuses a header of more than 16 MiB (about 400,000 entries).
PACK_BLOBS = 20_000
PUBLISH_SECONDS = 60.0
#: What waits to be published takes some 300 bytes of memory a blob; an index file of restic holds 50,000 at most.
PUBLISH_BLOBS = 20_000

#: The place of what lies on no disk: behind all of them.
_NO_PLACE = (1 << 32) - 1

_compressors = threading.local()


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """A blob ready to be packed.  ``raw_length`` in bytes, 0 when it is not compressed."""

    type: BlobType
    id: bytes
    sealed: bytes | bytearray
    raw_length: int


@dataclass(slots=True)
class _Pack:
    """A pack being filled."""

    pieces: list[bytes | bytearray] = field(default_factory=list)
    blobs: list[PackedBlob] = field(default_factory=list)
    length: int = 0
    place: int = _NO_PLACE


def compressor(level: int) -> zstandard.ZstdCompressor:
    """This thread's compressor: its context is made once and used again."""
    made: dict[int, zstandard.ZstdCompressor] = _compressors.__dict__.setdefault("by_level", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level)
    return made[level]


def seal_blob(
    repository: Repository, kind: BlobType, blob_id: bytes, plain: bytes | memoryview, level: int
) -> SealedBlob:
    """Compress (version 2 only) and seal one blob; safe in any thread."""
    if repository.config.version == 1 or len(plain) == 0:
        return SealedBlob(kind, blob_id, repository.key.seal(plain), 0)
    compressed = compressor(level).compress(plain)
    return SealedBlob(kind, blob_id, repository.key.seal(compressed), len(plain))


class PackWriter:
    """Writes packs of blobs into a repository, for the time of a ``with`` block.

    At a clean end, and also when the operation was cancelled or failed elsewhere, what was collected is written and
    published, so that the next run finds it.  Errors of the writer thread are raised by the next call.
    """

    def __init__(
        self,
        repository: Repository,
        lock: Lock,
        *,
        verify: bool = True,
        pack_bytes: int = PACK_BYTES,
        publish_seconds: float = PUBLISH_SECONDS,
        progress: Progress | None = None,
    ) -> None:
        self._progress = progress or Progress()
        self._repository, self._lock = repository, lock
        self._verify, self._pack_bytes, self._publish_seconds = verify, pack_bytes, publish_seconds
        self._open = {BlobType.DATA: _Pack(), BlobType.TREE: _Pack()}
        self._claimed: set[tuple[BlobType, bytes]] = set()
        self._queue: queue.Queue[_Pack | threading.Event | None] = queue.Queue(maxsize=1)
        self._unpublished: list[IndexPack] = []
        self._published_at = time.monotonic()
        self._scratch: mmap.mmap | None = None
        self._failure: RecoveryError | None = None
        self._thread = threading.Thread(target=self._write_packs, name="pack writer", daemon=True)
        self.written_bytes = 0
        self._written = bytearray()
        #: Of each pack written: the first place of the map that it holds something of.
        self._places = array("L")

    def __enter__(self) -> PackWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.finish()
        except RecoveryError as failed:
            if failed is not error:
                log.warning("what was stored last could not be published: %s", failed.message)

    def claim(self, kind: BlobType, blob_id: bytes) -> bool:
        """Whether the repository lacks this blob and nobody else of this run is storing it: then it is the caller's."""
        with self._repository.index_guard:
            if (kind, blob_id) in self._claimed or self._repository.index.has(kind, blob_id):
                return False
            self._claimed.add((kind, blob_id))
            return True

    def add(self, blob: SealedBlob, place: int | None = None) -> None:
        """Append a claimed blob to the pack of its kind; blocks while the destination is busy.

        ``place``: where the map of the work shows it; they come in order.
        """
        self._raise_failure()
        pack = self._open[blob.type]
        if place is not None:
            pack.place = min(pack.place, place)
        pack.blobs.append(PackedBlob(blob.type, blob.id, pack.length, len(blob.sealed), blob.raw_length))
        pack.pieces.append(blob.sealed)
        pack.length += len(blob.sealed)
        if pack.length >= self._pack_bytes or len(pack.blobs) >= PACK_BLOBS:
            self._send(blob.type)

    def publish(self) -> None:
        """Write what is collected, publish it, and wait for that.  Raises what went wrong."""
        for kind in BlobType:
            if self._open[kind].blobs and self._failure is None:
                self._send(kind)
        done = threading.Event()
        self._queue.put(done)
        with self._progress.waits(Side.DESTINATION):
            done.wait()
        self._raise_failure()

    def finish(self) -> None:
        """Write what is collected, publish it, and end the writer thread.  Raises what went wrong."""
        if self._thread.is_alive():
            for kind in BlobType:
                if self._open[kind].blobs and self._failure is None:
                    self._send(kind)
            self._queue.put(None)
            self._thread.join()
        self._raise_failure()
        if self._unpublished:
            raise DeviceError("not everything that was stored could be published", "Run it again.")

    def check_medium(self, progress: Progress) -> None:
        """Hash every pack of this run once more as the medium gives it back, oldest first; call after ``finish``.

        Each was read back when it was written.  But a counterfeit stick keeps what is newest and loses what is older:
        only now does that show.  Raises DeviceError; the packs that are lost are removed, so that no later run counts
        on them.
        """
        if not self._verify:
            return
        progress.phase("check the medium", self.written_bytes)
        lost: list[str] = []
        workers = worker_count()
        with ThreadPoolExecutor(workers, thread_name_prefix="medium") as pool:
            names = [self._written[at : at + 32].hex() for at in range(0, len(self._written), 32)]
            for first in range(0, len(names), workers):
                progress.check()
                group = names[first : first + workers]
                with progress.waits(Side.DESTINATION):
                    sizes = list(pool.map(self._whole_bytes, group))
                for name, size in zip(group, sizes, strict=True):
                    progress.advance(size or 0)
                    if size is None:
                        lost.append(name)
                if not lost:
                    following = first + workers
                    place = self._places[following] if following < len(self._places) else _NO_PLACE
                    progress.check_written_before(place)
        for name in lost:
            self._repository.store.remove(FileKind.PACK, name)
        if lost:
            raise DeviceError(
                f"{len(lost)} of {len(names)} packs that were right when they were written are lost now",
                "The destination holds less than it says (a counterfeit?) or is failing: use another. "
                "No image was published.",
            )

    def _whole_bytes(self, name: str) -> int | None:
        """Size of a pack that the medium gives back whole; None when it does not."""
        try:
            data = self._repository.store.load_uncached(FileKind.PACK, name)
        except RecoveryError:
            return None
        return len(data) if hashlib.sha256(data).hexdigest() == name else None

    def _send(self, kind: BlobType) -> None:
        pack, self._open[kind] = self._open[kind], _Pack()
        self._queue.put(pack)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write_packs(self) -> None:
        while (sent := self._queue.get()) is not None:
            if self._failure is not None:
                pass  # the caller is told at its next call; until then its packs are let go
            elif isinstance(sent, _Pack):
                self._guarded(partial(self._write_and_publish, sent))
            else:
                self._guarded(self._publish)
            if not isinstance(sent, _Pack):
                sent.set()
        self._guarded(self._publish)  # of a full destination too: the pack that did not fit is gone

    def _guarded(self, step: Callable[[], None]) -> None:
        """Take a step of the writer thread; what goes wrong first is kept for its owner, whatever it is."""
        try:
            step()
        except RecoveryError as error:
            self._failure = self._failure or error
        except Exception as error:
            log.exception("the pack writer failed")
            self._failure = self._failure or DeviceError(
                f"writing to the repository failed: {type(error).__name__}: {error}",
                "Run it again; if it repeats, report it.",
            )

    def _write_and_publish(self, pack: _Pack) -> None:
        self._write(pack)
        waiting = sum(len(pack.blobs or ()) for pack in self._unpublished)
        if waiting >= PUBLISH_BLOBS or time.monotonic() - self._published_at >= self._publish_seconds:
            self._publish()

    def _write(self, pack: _Pack) -> None:
        with self._progress.waits(Side.DESTINATION):
            self._lock.settle()
        header = self._repository.key.seal(encode_header(pack.blobs))
        pieces = [*pack.pieces, header, encode_header_length(len(header))]
        name = file_name(pieces)
        with self._progress.waits(Side.DESTINATION):
            self._repository.store.save(FileKind.PACK, name, pieces)
        if self._verify:
            self._read_back(name, pack.blobs)
        pack_id = bytes.fromhex(name)
        self._unpublished.append(index_pack(pack_id, pack.blobs))
        with self._repository.index_guard:
            self._repository.index.add_pack(pack_id, pack.blobs)
            self._claimed.difference_update((blob.type, blob.id) for blob in pack.blobs)
        self.written_bytes += pack.length + len(header) + 4
        self._progress.count("stored_bytes", pack.length + len(header) + 4)
        self._written += pack_id
        self._places.append(pack.place)

    def _read_back(self, name: str, blobs: list[PackedBlob]) -> None:
        """Check a pack as the medium gives it back: every blob opened and hashed, and the header."""
        if self._scratch is None:
            self._scratch = mmap.mmap(-1, self._pack_bytes + 24 * MIB)
        try:
            with self._progress.waits(Side.DESTINATION):
                data = self._repository.store.load_uncached(FileKind.PACK, name, self._scratch)
            check_pack(self._repository, name, data, blobs)
        except RepositoryDamaged as error:
            self._repository.store.remove(FileKind.PACK, name)
            raise DeviceError(
                f"a pack that was just written does not read back as it was written: {error.message}",
                "The destination, its cable or this machine's memory is faulty. Nothing of this pack was published; "
                "try another destination, and test the memory.",
            ) from error

    def _publish(self) -> None:
        self._published_at = time.monotonic()
        if not self._unpublished:
            return
        with self._progress.waits(Side.DESTINATION):
            self._lock.check()
            self._repository.save_index(self._unpublished)
        self._unpublished = []


def check_pack(repository: Repository, name: str, data: memoryview, blobs: list[PackedBlob]) -> None:
    """Open and hash ``blobs`` of the pack ``name`` and compare its header with them.  Raises RepositoryDamaged."""
    damaged = RepositoryDamaged(f"the header of pack {name[:8]} is damaged", "Run 'restic check --read-data'.")
    header_length = decode_header_length(bytes(data[-4:]), len(data))
    start = len(data) - 4 - header_length
    try:
        header = repository.key.open(data[start:-4])
    except DoesNotAuthenticate as error:
        raise damaged from error
    if decode_header(header) != blobs or start != sum(blob.length for blob in blobs):
        raise damaged
    pack_id = bytes.fromhex(name)
    for blob in blobs:
        place = Location(pack_id, blob.offset, blob.length, blob.raw_length)
        repository.open_blob(data[blob.offset : blob.offset + blob.length], blob.id, place)
