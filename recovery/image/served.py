"""The partitions of a captured disk as files, through FUSE; a read of what was not captured is noted.

::

    with served_image(image) as view:
        view.partition("sda", 2)          a file of the partition's length; unused bytes read as zeros
        view.noted("sda", 2)              the unused bytes that were read since this was asked last

The child opens the repository itself: its folder and its opened key come over standard input, where nobody else reads.
``python -m recovery.image.served FOLDER`` is the child; see ``recovery.devices.fuse``.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from recovery.devices.fuse import VirtualFile, read_spec, serve, served
from recovery.errors import RecoveryError
from recovery.extent import Extent, Extents
from recovery.image.layout import zero_id
from recovery.image.manifest import ImagePartition
from recovery.image.view import DiskImage, SystemImage
from recovery.repository.crypto import Key
from recovery.repository.format import BlobType, Config, Snapshot
from recovery.repository.repository import Repository, StoredSnapshot
from recovery.repository.store import FileKind, LocalStore
from recovery.units import MIB

#: Opened chunks that are kept, because a checker reads here and there: an eighth of the memory that is free, within
#: these bounds.  Metadata that does not fit costs: each node of a tree then opens a chunk of 2 MiB.
_CACHE_BYTES = (64 * MIB, 512 * MIB)
#: Room for the list of noted reads; a longer one is cut, and says so.
_NOTED_BYTES = 4 * MIB
_NOTED_EXTENTS = 50_000


class ServeSpec(msgspec.Struct, frozen=True):
    """What the child is told.  The key is the repository's secret."""

    folder: str
    encrypt: bytes
    mac_k: bytes
    mac_r: bytes
    config: Config
    snapshot: str


class Noted(msgspec.Struct, frozen=True):
    """Unused bytes that were read: ``(offset, length)`` from the partition's start, and how many reads met some.

    ``cut``: there were more of them than are listed.
    """

    extents: tuple[tuple[int, int], ...] = ()
    reads: int = 0
    cut: bool = False


class ServedImage:
    """The folder with the partitions of an image, and its lists of noted reads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def partition(self, disk: str, number: int) -> Path:
        """The file that stands for a partition (0: for the whole disk)."""
        return self._folder / _file_name(disk, number)

    def noted(self, disk: str, number: int) -> Noted:
        """What of the unused was read there since this was asked last."""
        with (self._folder / f"{_file_name(disk, number)}.noted").open("rb", buffering=0) as file:
            return msgspec.json.decode(b"".join(iter(lambda: file.read(MIB), b"")), type=Noted)


@contextmanager
def served_image(image: SystemImage) -> Iterator[ServedImage]:
    """Serve all partitions of an image for the time of the block.  It needs root.

    Raises DeviceError when FUSE cannot be had here.
    """
    repository = image.repository
    key = repository.key
    spec = ServeSpec(
        str(repository.store.root.resolve()), key.encrypt, key.mac_k, key.mac_r, repository.config, image.stored.id
    )
    with served(__name__, spec, needed_for="looking at what was captured") as folder:
        yield ServedImage(folder)


def _file_name(disk: str, number: int) -> str:
    return f"{disk}.{number}"


class _Chunks:
    """The opened chunks of all disks, the latest of them kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._limit = min(max(free // 8, _CACHE_BYTES[0]), _CACHE_BYTES[1])

    def get(self, disk: DiskImage, index: int, length: int) -> bytes:
        """Piece ``index`` of ``disk``, ``length`` bytes.  Raises OSError when it cannot be had."""
        name = (disk.record.name, index)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        if disk.id_of(index) == zero_id(length):
            return bytes(length)
        try:
            plain = disk.repository.load_blob(BlobType.DATA, disk.id_of(index))
        except RecoveryError as error:
            raise OSError(errno.EIO, error.message) from error
        if len(plain) != length:
            raise OSError(errno.EIO, "a chunk has a wrong length")
        self._kept[name] = plain
        self._bytes += length
        while self._bytes > self._limit:
            self._bytes -= len(self._kept.popitem(last=False)[1])
        return plain


class CapturedPartition:
    """A partition of a captured disk: what is unused reads as zeros, and is noted."""

    def __init__(self, disk: DiskImage, partition: ImagePartition, chunks: _Chunks) -> None:
        self._disk, self._chunks = disk, chunks
        self._offset, self._length = partition.offset, partition.length
        self._edges: list[tuple[int, int]] = []
        self._reads = 0

    @property
    def size_bytes(self) -> int:
        """The partition's length."""
        return self._length

    def read(self, offset: int, length: int) -> bytes:
        """As VirtualFile."""
        end = self._offset + min(offset + length, self._length)
        at = self._offset + offset
        self._note(Extent(at, max(0, end - at)))
        out = bytearray()
        while at < end:
            index = self._disk.layout.index_at(at)
            extent, hole = self._disk.layout[index]
            until = min(extent.end, end)
            if hole:
                out += bytes(until - at)
            else:
                out += self._chunks.get(self._disk, index, extent.length)[at - extent.offset : until - extent.offset]
            at = until
        return bytes(out)

    def write(self, offset: int, data: bytes) -> None:
        """As VirtualFile; it cannot be written to."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def noted(self) -> Noted:
        """What of the unused was read since the last call."""
        extents = Extents(self._edges)
        cut = len(extents) > _NOTED_EXTENTS
        listed = [(e.offset, e.length) for e, _ in zip(extents, range(_NOTED_EXTENTS), strict=False)]
        answer = Noted(tuple(listed), self._reads, cut)
        self._edges, self._reads = [], 0
        return answer

    def _note(self, extent: Extent) -> None:
        if self._disk.used.covers(extent):
            return
        self._reads += 1
        self._edges += self._disk.used.clip(extent).invert(extent).shift(-self._offset)
        if len(self._edges) > 4 * _NOTED_EXTENTS:
            self._edges = list(Extents(self._edges))


class _NotedFile:
    """A partition's noted reads as JSON, made anew, and begun anew, by each read of its start."""

    def __init__(self, partition: CapturedPartition) -> None:
        self._partition = partition
        self._text = b""

    @property
    def size_bytes(self) -> int:
        return _NOTED_BYTES

    def read(self, offset: int, length: int) -> bytes:
        if offset == 0:
            self._text = msgspec.json.encode(self._partition.noted())
        return self._text[offset : offset + length].ljust(min(length, _NOTED_BYTES - offset))

    def write(self, offset: int, data: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _files(spec: ServeSpec) -> dict[str, VirtualFile]:
    repository = Repository(LocalStore(Path(spec.folder)), Key(spec.encrypt, spec.mac_k, spec.mac_r), spec.config)
    repository.load_index(mend=True)
    stored = repository.load_unpacked(FileKind.SNAPSHOT, spec.snapshot, Snapshot)
    image = SystemImage(repository, StoredSnapshot(spec.snapshot, stored))
    chunks = _Chunks()
    files: dict[str, VirtualFile] = {}
    for record in image.manifest.disks:
        disk = image.disk(record.name)
        for partition in record.partitions:
            if partition.method != "left-out":
                shown = CapturedPartition(disk, partition, chunks)
                name = _file_name(record.name, partition.number)
                files[name], files[f"{name}.noted"] = shown, _NotedFile(shown)
    return files


def main() -> None:
    """The child."""
    serve(_files(read_spec(ServeSpec)))


if __name__ == "__main__":
    main()
