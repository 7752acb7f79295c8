"""Byte layout of a restic repository, and nothing else: pure encoding and decoding.

Source: restic's design document ("Repository Format", "Pack Format", "Indexing", "Snapshots", "Trees and
Data", "Locks", "Keys").  All JSON goes through typed structs; unknown fields are ignored, as restic does.

Pack file::

    sealed blob 1 | ... | sealed blob n | sealed header | length of the sealed header, uint32 little-endian

Header entry, 37 bytes, or 41 when the blob is compressed::

    offset  bytes
    0       1      type: 0 data, 1 tree, 2 compressed data, 3 compressed tree
    1       4      length of the sealed blob, uint32 little-endian
    5       4      compressed blobs only: length of the plain blob, uint32 little-endian
    5 or 9  32     id: SHA-256 of the plain blob
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import zstandard

from recovery.errors import RepositoryDamaged
from recovery.units import MIB

#: Repository versions that this program reads.
READ_VERSIONS = (1, 2)

#: An authenticated, encrypted text is this much longer than its plaintext: a 16-byte nonce and a 16-byte MAC.
SEAL_BYTES = 32

#: restic refuses a longer pack header.
MAX_HEADER_BYTES = 16 * MIB

#: First byte of a compressed "unpacked" file (index, snapshot, lock) of version 2; plain ones begin with { or [.
COMPRESSED_MARK = b"\x02"

#: What decompresses to more than this is refused, a file or a blob: it would not fit in memory.
MAX_UNPACKED_BYTES = 1024 * MIB

ID_BYTES = 32

T = TypeVar("T")

#: A time with its zone, as RFC 3339 wants it: two times can always be compared.
Time = Annotated[datetime, msgspec.Meta(tz=True)]

_threads = threading.local()
_LENGTH = struct.Struct("<I")
_PLAIN_ENTRY = struct.Struct("<BI32s")
_COMPRESSED_ENTRY = struct.Struct("<BII32s")


class BlobType(StrEnum):
    """What a blob holds: a piece of a file, or a folder."""

    DATA = "data"
    TREE = "tree"


class PackedBlob(NamedTuple):
    """Where a blob lies in its pack.  Bytes; ``raw_length`` 0 means not compressed."""

    type: BlobType
    id: bytes
    offset: int
    length: int
    raw_length: int

    @property
    def plain_length(self) -> int:
        """Length of the blob's content."""
        return self.raw_length or self.length - SEAL_BYTES


def encode_header(blobs: Iterable[PackedBlob]) -> bytes:
    """The plain pack header of ``blobs``, which must be in pack order and without gaps."""
    out = bytearray()
    for blob in blobs:
        kind = 1 if blob.type is BlobType.TREE else 0
        if blob.raw_length:
            out += _COMPRESSED_ENTRY.pack(kind + 2, blob.length, blob.raw_length, blob.id)
        else:
            out += _PLAIN_ENTRY.pack(kind, blob.length, blob.id)
    return bytes(out)


def decode_header(header: bytes) -> list[PackedBlob]:
    """The blobs that a plain pack header names.  Raises RepositoryDamaged when it is not one."""
    blobs: list[PackedBlob] = []
    position = offset = 0
    while position < len(header):
        kind = header[position]
        entry = _COMPRESSED_ENTRY if kind in (2, 3) else _PLAIN_ENTRY
        if kind > 3 or position + entry.size > len(header):
            raise RepositoryDamaged("a pack header is malformed", "Run 'restic check' on the repository.")
        fields = entry.unpack_from(header, position)
        length, raw_length, blob_id = fields[1], fields[2] if entry is _COMPRESSED_ENTRY else 0, fields[-1]
        blobs.append(PackedBlob(BlobType.TREE if kind & 1 else BlobType.DATA, blob_id, offset, length, raw_length))
        position += entry.size
        offset += length
    return blobs


def encode_header_length(sealed_header_bytes: int) -> bytes:
    """The last four bytes of a pack."""
    return _LENGTH.pack(sealed_header_bytes)


def decode_header_length(last_four: bytes, pack_bytes: int) -> int:
    """Length of the sealed header of a pack of ``pack_bytes``.  Raises RepositoryDamaged when it cannot be."""
    (length,) = _LENGTH.unpack(last_four)
    if not SEAL_BYTES <= length <= min(MAX_HEADER_BYTES, pack_bytes - 4):
        raise RepositoryDamaged("a pack ends in an impossible header length", "Run 'restic check' on the repository.")
    return int(length)


class Config(msgspec.Struct, frozen=True):
    """The file ``config``."""

    version: int
    id: str
    chunker_polynomial: str


class KeyFile(msgspec.Struct, frozen=True):
    """A file under ``keys/``: the master keys, sealed with a key derived from the password by scrypt."""

    created: Time
    username: str
    hostname: str
    kdf: str
    N: int
    r: int
    p: int
    salt: bytes
    data: bytes


class MacKey(msgspec.Struct, frozen=True):
    """Poly1305-AES key, 16 bytes each."""

    k: bytes
    r: bytes


class MasterKey(msgspec.Struct, frozen=True):
    """What a key file holds, sealed."""

    mac: MacKey
    encrypt: bytes


class LockFile(msgspec.Struct, frozen=True):
    """A file under ``locks/``."""

    time: Time
    exclusive: bool
    hostname: str = ""
    username: str = ""
    pid: int = 0
    uid: int = 0
    gid: int = 0


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a backup did, inside its snapshot (restic 0.17 and later show it)."""

    backup_start: Time
    backup_end: Time
    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    data_blobs: int = 0
    tree_blobs: int = 0
    data_added: int = 0
    data_added_packed: int = 0
    total_files_processed: int = 0
    total_bytes_processed: int = 0


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file under ``snapshots/``."""

    time: Time
    tree: str
    paths: list[str]
    parent: str | None = None
    hostname: str = ""
    username: str = ""
    uid: int = 0
    gid: int = 0
    excludes: list[str] | None = None
    tags: list[str] | None = None
    original: str | None = None
    program_version: str = ""
    summary: Summary | None = None


class IndexBlob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob in an index file."""

    id: str
    type: BlobType
    offset: int
    length: int
    uncompressed_length: int = 0


class IndexPack(msgspec.Struct, frozen=True):
    """A pack in an index file."""

    id: str
    blobs: list[IndexBlob] | None


class IndexFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file under ``index/``."""

    packs: list[IndexPack] | None = []
    supersedes: list[str] | None = []


class Node(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An entry of a tree.  ``content`` stays raw JSON: for a disk it is millions of ids.

    Fields stand in restic's order, and those without a default are always written, as restic does: it refuses to
    rewrite a tree that it would write otherwise (``cannot encode tree without losing information``).
    """

    name: str
    type: str
    mode: int = 0
    mtime: str = ""
    atime: str = ""
    ctime: str = ""
    uid: int
    gid: int
    user: str = ""
    group: str = ""
    inode: int = 0
    size: int = 0
    links: int = 0
    linktarget: str = ""
    content: msgspec.Raw = msgspec.Raw()
    subtree: str | None = None


class Tree(msgspec.Struct, frozen=True):
    """A folder."""

    nodes: list[Node]


def decode_ids(content: bytes) -> bytes:
    """The raw 32-byte ids, joined, of a JSON list of hex ids.  Raises RepositoryDamaged."""
    if not content or content == b"null":
        return b""
    compact = content.translate(None, b'",[] \n\r\t')
    try:
        ids = bytes.fromhex(compact.decode("ascii"))
    except ValueError as error:
        raise RepositoryDamaged("a file's list of blobs is malformed", "Run 'restic check'.") from error
    if len(ids) % ID_BYTES:
        raise RepositoryDamaged("a file's list of blobs is malformed", "Run 'restic check'.")
    return ids


def decode_json(data: bytes, kind: type[T], what: str) -> T:
    """``data`` as ``kind``.  Raises RepositoryDamaged, naming ``what``, when it is something else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RepositoryDamaged(f"{what} is malformed: {error}", "Run 'restic check' on the repository.") from error


def encode_time(time: datetime) -> str:
    """As Go writes it in JSON: no zeros at the end of the fraction, and Z for UTC."""
    local, zone = time.replace(tzinfo=None).isoformat(), time.isoformat()[-6:]
    if "." in local:
        local = local.rstrip("0")
    return local + ("Z" if zone == "+00:00" else zone)


def encode_json(value: Any) -> bytes:
    """Compact JSON; times in RFC 3339, bytes in base64, as Go writes them."""
    return msgspec.json.encode(value)


def pack_unpacked(plain: bytes, version: int) -> bytes:
    """How an index, snapshot or lock file is laid out before it is sealed."""
    if version == 1:
        return plain
    return COMPRESSED_MARK + zstandard.ZstdCompressor(level=3).compress(plain)


def unpack_unpacked(data: bytes, what: str) -> bytes:
    """The JSON of an opened index, snapshot or lock file.  Raises RepositoryDamaged."""
    if data[:1] in (b"{", b"["):
        return data
    if data[:1] != COMPRESSED_MARK:
        raise RepositoryDamaged(f"{what} has an unknown encoding", "A newer restic may have written it.")
    return decompress(memoryview(data)[1:], None, what)


def decompress(data: bytes | memoryview, expected_bytes: int | None, what: str) -> bytes:
    """Decompress one zstd frame, at most to ``expected_bytes``.  Raises RepositoryDamaged.

    restic's encoder does not always write the content size, so memory is bounded by us.
    """
    limit = MAX_UNPACKED_BYTES if expected_bytes is None else min(expected_bytes, MAX_UNPACKED_BYTES)
    try:
        frame = zstandard.get_frame_parameters(data)
        known = frame.content_size != zstandard.CONTENTSIZE_UNKNOWN
        if known and frame.content_size > limit:
            raise RepositoryDamaged(f"{what} decompresses to more than it should", "Run 'restic check'.")
        plain = _decompressor().decompress(data) if known else _decompress_stream(data, limit, what)
    except zstandard.ZstdError as error:
        raise RepositoryDamaged(f"{what} does not decompress: {error}", "Run 'restic check'.") from error
    except MemoryError as error:
        raise RepositoryDamaged(
            f"{what} decompresses to more than there is memory", "Use a machine with more memory; run 'restic check'."
        ) from error
    if expected_bytes is not None and len(plain) != expected_bytes:
        raise RepositoryDamaged(f"{what} has {len(plain)} bytes where {expected_bytes} belong", "Run 'restic check'.")
    return plain


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's decompressor: its context is made once and used again."""
    made: zstandard.ZstdDecompressor | None = getattr(_threads, "decompressor", None)
    if made is None:
        made = _threads.decompressor = zstandard.ZstdDecompressor()
    return made


def _decompress_stream(data: bytes | memoryview, limit: int, what: str) -> bytes:
    out = bytearray()
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        while piece := reader.read(MIB):
            out += piece
            if len(out) > limit:
                raise RepositoryDamaged(f"{what} decompresses to more than it should", "Run 'restic check'.")
    return bytes(out)
