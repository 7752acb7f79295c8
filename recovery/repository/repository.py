"""A restic repository: made, opened, locked; its blobs, snapshots and trees read; its small files written.

New blobs in bulk go through ``packer.py``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from recovery.errors import DeviceError, NoRepository, RecoveryError, RepositoryDamaged, UsageError, WrongPassword
from recovery.repository.crypto import DoesNotAuthenticate, Key, make_key_file, open_key_file
from recovery.repository.format import (
    READ_VERSIONS,
    SEAL_BYTES,
    BlobType,
    Config,
    IndexFile,
    IndexPack,
    LockFile,
    PackedBlob,
    Snapshot,
    Tree,
    decode_header,
    decode_header_length,
    decode_json,
    decompress,
    encode_json,
    pack_unpacked,
    unpack_unpacked,
)
from recovery.repository.index import Index, Location
from recovery.repository.lock import REFRESH_SECONDS, Lock, user_name
from recovery.repository.polynomial import random_irreducible
from recovery.repository.store import FileKind, LocalStore, file_name, store_error

log = logging.getLogger(__name__)

T = TypeVar("T")

_KINDS: dict[FileKind, str] = {FileKind.INDEX: "index file", FileKind.SNAPSHOT: "snapshot", FileKind.LOCK: "lock"}


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot and its id (64 hex digits)."""

    id: str
    snapshot: Snapshot


class Repository:
    """An open repository."""

    def __init__(self, store: LocalStore, key: Key, config: Config) -> None:
        self.store, self.key, self.config = store, key, config
        self.index = Index()
        self.index_guard = threading.Lock()

    # -- making and opening

    @classmethod
    def init(cls, folder: Path, password: str, *, version: int = 2) -> Repository:
        """Make a repository in ``folder``, with two key files: one flipped bit in an only key would lose all.

        Raises UsageError when one is there already, DeviceError or DestinationFull when it cannot be written.
        """
        store = LocalStore(folder)
        if store.exists():
            raise UsageError(f"{folder} already holds a repository", "Use it as it is, or name another folder.")
        _take_over(store)
        store.create()
        key = Key.generate()
        for _ in range(2):
            data = make_key_file(key, password, datetime.now(UTC).astimezone(), user_name(), socket.gethostname())
            store.save(FileKind.KEY, file_name([data]), [data])
        config = Config(version, secrets.token_hex(32), f"{random_irreducible():x}")
        store.save(FileKind.CONFIG, "", [key.seal(encode_json(config))])
        return cls(store, key, config)

    @classmethod
    def open(cls, folder: Path, password: str) -> Repository:
        """Open the repository in ``folder``.

        Raises NoRepository (none there, or of an unknown version), WrongPassword, RepositoryDamaged.
        """
        store = LocalStore(folder)
        if not store.exists():
            raise NoRepository(
                f"{folder} holds no repository (its file 'config' is missing)",
                "Check the path and that the disk is mounted, or make one with 'recovery init'.",
            )
        key = _find_key(store, password)
        try:
            plain = key.open(store.load(FileKind.CONFIG, ""))
        except DoesNotAuthenticate as error:
            raise RepositoryDamaged(
                "the repository's file 'config' is damaged: it does not authenticate",
                "Restore that file from a copy of the repository.",
            ) from error
        config = decode_json(plain, Config, "the repository's file 'config'")
        if config.version not in READ_VERSIONS:
            raise NoRepository(
                f"the repository has format version {config.version}, and this program reads 1 and 2",
                "Use a newer version of this program.",
            )
        return cls(store, key, config)

    def lock(self, *, exclusive: bool = False, refresh_seconds: float = REFRESH_SECONDS) -> Lock:
        """A lock for a ``with`` block.  Entering it raises RepositoryLocked when another one excludes it."""
        return Lock(
            self.store,
            self.seal_unpacked,
            lambda name: self.load_unpacked(FileKind.LOCK, name, LockFile),
            exclusive=exclusive,
            refresh_seconds=refresh_seconds,
        )

    # -- small files

    def save_unpacked(self, kind: FileKind, value: msgspec.Struct) -> str:
        """Write an index, snapshot or lock file; its name."""
        name, sealed = self.seal_unpacked(value)
        self.store.save(kind, name, [sealed])
        return name

    def seal_unpacked(self, value: msgspec.Struct) -> tuple[str, bytes | bytearray]:
        """Name and content of an index, snapshot or lock file."""
        sealed = self.key.seal(pack_unpacked(encode_json(value), self.config.version))
        return file_name([sealed]), sealed

    def load_unpacked(self, kind: FileKind, name: str, form: type[T]) -> T:
        """Read an index, snapshot or lock file.  Raises RepositoryDamaged, naming it."""
        what = f"the {_KINDS[kind]} {name[:8]}"
        data = self.store.load(kind, name)
        try:
            plain = self.key.open(data)
        except DoesNotAuthenticate as error:
            raise RepositoryDamaged(f"{what} is damaged: it does not authenticate", "Run 'restic check'.") from error
        return decode_json(unpack_unpacked(plain, what), form, what)

    # -- index

    def load_index(self, *, mend: bool = False, present_only: bool = False) -> list[str]:
        """Read every index file; what is wrong with them, in sentences.

        Hold a lock first, or a concurrent prune may make it wrong.  A writer asks for ``present_only``: it must not
        count on packs that are gone.  A reader asks to ``mend``: what a damaged index file named is read from the packs
        themselves.  Otherwise a damaged one raises RepositoryDamaged, one that cannot be read DeviceError.
        """
        index = Index()
        problems: list[str] = []
        absent: list[str] = []
        sizes = dict(self.store.list(FileKind.PACK)) if present_only else None
        for name, _ in self.store.list(FileKind.INDEX):
            try:
                absent += self._enter_index_file(index, name, sizes)
            except (RepositoryDamaged, DeviceError) as error:
                if not mend:
                    raise
                problems.append(error.message)
        if problems:
            problems += self._index_from_packs(index)
        if absent:
            problems.append(
                f"{len(absent)} packs that the index names are missing or cut short (the first is {absent[0][:8]}): "
                "what lay in them is stored again where it is met"
            )
        with self.index_guard:
            self.index = index
        return problems

    def _enter_index_file(self, index: Index, name: str, sizes: dict[str, int] | None) -> list[str]:
        file = self.load_unpacked(FileKind.INDEX, name, IndexFile)
        try:
            return index.add_file(file, sizes)
        except (ValueError, struct.error) as error:
            raise RepositoryDamaged(
                f"the index file {name[:8]} is malformed: {error}",
                "'restic repair index' makes it anew ('restic rebuild-index' before 0.16).",
            ) from error

    def _index_from_packs(self, index: Index) -> list[str]:
        """Enter the packs that no whole index file names, by their own headers; those that cannot be read."""
        known = {pack.hex() for pack in index.packs()}
        problems: list[str] = []
        for name, size in self.store.list(FileKind.PACK):
            if name not in known:
                try:
                    index.add_pack(bytes.fromhex(name), self.load_header(name, size))
                except (RepositoryDamaged, DeviceError, struct.error) as error:
                    problems.append(f"the pack {name[:8]} is in no whole index, and its header is damaged: {error}")
        return problems

    def load_header(self, name: str, size: int) -> list[PackedBlob]:
        """The blobs of a pack of ``size`` bytes, by its own header.  Raises RepositoryDamaged."""
        if size < 4 + SEAL_BYTES:
            raise RepositoryDamaged(f"the pack {name[:8]} was cut short", "Run 'restic check'.")
        length = decode_header_length(bytes(self.store.load_range(FileKind.PACK, name, size - 4, 4)), size)
        try:
            header = self.key.open(self.store.load_range(FileKind.PACK, name, size - 4 - length, length))
        except DoesNotAuthenticate as error:
            raise RepositoryDamaged(f"the header of pack {name[:8]} is damaged", "Run 'restic check'.") from error
        return decode_header(header)

    def save_index(self, packs: Iterable[IndexPack]) -> str:
        """Publish packs; they must be on stable storage."""
        return self.save_unpacked(FileKind.INDEX, IndexFile(packs=list(packs)))

    # -- blobs

    def load_blob(self, blob_type: BlobType, blob_id: bytes) -> bytes:
        """The content of a blob, checked against its id.

        When it lies in several packs, any whole copy serves.  Raises RepositoryDamaged when none is whole,
        DeviceError when the last one cannot be read.
        """
        problem: RecoveryError | None = None
        for place in self.index.find_all(blob_type, blob_id):
            try:
                sealed = self.store.load_range(FileKind.PACK, place.pack.hex(), place.offset, place.length)
                return self.open_blob(sealed, blob_id, place)
            except (RepositoryDamaged, DeviceError) as error:
                problem = error
        raise problem or RepositoryDamaged(f"the blob {blob_id.hex()[:8]} is in no pack", "Run 'restic check'.")

    def open_blob(self, sealed: bytes | memoryview, blob_id: bytes, place: Location, *, hashed: bool = True) -> bytes:
        """Authenticate, decrypt, decompress and hash.  Raises RepositoryDamaged.

        Without ``hashed`` the caller compares the content's hash with the id at a later place itself.
        """
        what = f"the blob {blob_id.hex()[:8]} in pack {place.pack.hex()[:8]}"
        try:
            opened = self.key.open_into(sealed, scratch("opened", len(sealed)))
        except DoesNotAuthenticate as error:
            raise RepositoryDamaged(f"{what} is damaged: it does not authenticate", "Run 'recovery verify'.") from error
        plain = decompress(opened, place.raw_length, what) if place.raw_length else bytes(opened)
        if hashed and hashlib.sha256(plain).digest() != blob_id:
            raise RepositoryDamaged(f"{what} is damaged: it has another content", "Run 'recovery verify'.")
        return plain

    def load_tree(self, tree_id: str) -> Tree:
        """A folder."""
        try:
            blob_id = bytes.fromhex(tree_id)
        except ValueError as error:
            raise RepositoryDamaged(f"{tree_id!r} is not the id of a tree", "Run 'restic check'.") from error
        data = self.load_blob(BlobType.TREE, blob_id)
        return decode_json(data, Tree, f"the tree {tree_id[:8]}")

    # -- snapshots

    def snapshots(self) -> tuple[list[StoredSnapshot], list[str]]:
        """All snapshots, oldest first, and what is wrong with those that cannot be read."""
        found: list[StoredSnapshot] = []
        problems: list[str] = []
        for name, _ in self.store.list(FileKind.SNAPSHOT):
            try:
                found.append(StoredSnapshot(name, self.load_unpacked(FileKind.SNAPSHOT, name, Snapshot)))
            except (RepositoryDamaged, DeviceError) as error:
                problems.append(error.message)
        return sorted(found, key=lambda s: s.snapshot.time), problems

    def find_snapshot(self, name: str, tag: str | None = None) -> StoredSnapshot:
        """The snapshot called ``name``: an id, a unique prefix of one, or ``latest`` (of those with ``tag``).

        Raises UsageError when there is none or more than one.
        """
        found, problems = self.snapshots()
        if name == "latest":
            for problem in problems:
                log.warning("a snapshot cannot be read, and may have been the latest: %s", problem)
            tagged = [s for s in found if tag is None or tag in (s.snapshot.tags or [])]
            if tagged:
                return tagged[-1]
            raise UsageError(
                "the repository holds no snapshot of that kind", "'recovery snapshots' lists what there is."
            )
        matching = [s for s in found if s.id.startswith(name.lower())] if name else []
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise UsageError(f"{len(matching)} snapshots begin with {name!r}", "Write more digits of the id.")
        if problems:
            raise RepositoryDamaged(
                f"no readable snapshot begins with {name!r}; {'; '.join(problems)}", "Run 'restic check'."
            )
        raise UsageError(f"no snapshot begins with {name!r}", "'recovery snapshots' lists what there is.")

    def save_snapshot(self, snapshot: Snapshot) -> str:
        """Publish a snapshot; everything that it names must be published before.  Its id."""
        return self.save_unpacked(FileKind.SNAPSHOT, snapshot)


def _take_over(store: LocalStore) -> None:
    """See that ``init`` may use the folder, and clear away what an ``init`` that was cut off left in it.

    Its keys must go: they open with the same password, but belong to no ``config``.  Raises UsageError.
    """
    try:
        inside = {entry.name for entry in store.root.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return  # ``create`` makes it, or says why not
    except OSError as error:
        raise store_error(error, f"looking into {store.root}") from error
    if not inside:
        return
    if "keys" not in inside:
        raise UsageError(f"{store.root} is not empty", "Name a new or an empty folder.")
    if any(any(store.list(kind)) for kind in (FileKind.PACK, FileKind.INDEX, FileKind.SNAPSHOT)):
        raise UsageError(
            f"{store.root} holds a repository that lost its file 'config'",
            "Restore that file from a copy of the repository, or name another folder.",
        )
    for name, _ in list(store.list(FileKind.KEY)):
        store.remove(FileKind.KEY, name)


def _find_key(store: LocalStore, password: str) -> Key:
    refused: WrongPassword | None = None
    damaged: list[str] = []
    for name, _ in store.list(FileKind.KEY):
        try:
            data = store.load(FileKind.KEY, name)
            whole = hashlib.sha256(data).hexdigest() == name
            return open_key_file(data, password)
        except WrongPassword as error:
            if whole:
                refused = error
            else:
                damaged.append(f"keys/{name[:8]} does not have the content that its name says")
        except (RepositoryDamaged, DeviceError) as error:
            damaged.append(f"keys/{name[:8]}: {error.message}")
    for problem in damaged:
        log.warning("a key file is damaged: %s", problem)
    if refused:
        raise WrongPassword(f"the password does not open the repository {store}", refused.hint) from refused
    if damaged:
        raise RepositoryDamaged(
            f"no key file of the repository {store} is whole: {'; '.join(damaged)}",
            "Restore the folder 'keys' from a copy of the repository.",
        )
    raise RepositoryDamaged(f"the repository {store} has no key file", "Restore the folder 'keys' from a copy.")


_rooms = threading.local()


def scratch(name: str, length: int) -> bytearray:
    """At least ``length`` bytes of this thread's own, used again at each call with that name: new pages cost."""
    rooms: dict[str, bytearray] = _rooms.__dict__
    if name not in rooms or len(rooms[name]) < length:
        rooms[name] = bytearray(length)
    return rooms[name]


def process_identity() -> tuple[str, int, int]:
    """User name, user id and group id that a snapshot names."""
    return user_name(), os.getuid(), os.getgid()
