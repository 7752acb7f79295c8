"""Blobs into packs, packs into the repository, and what is left when something fails on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.errors import Cancelled, DestinationFull, DeviceError, RepositoryDamaged, RepositoryLocked
from recovery.image.layout import zero_id
from recovery.image.writer import seal_zeros
from recovery.repository import packer
from recovery.repository.format import BlobType, IndexFile, decode_header, decode_header_length
from recovery.repository.packer import PackWriter, seal_blob
from recovery.repository.repository import Repository
from recovery.repository.store import Buffer, FileKind, LocalStore
from tests.support.repositories import fresh_repository, reopened

KIB, MIB = 1 << 10, 1 << 20


class FlippingStore(LocalStore):
    """A medium that changes a bit of the pack number ``flip`` behind our back, ``from_end`` bytes before its end."""

    flip, from_end, saved = 0, 1000, 0

    def save(self, kind: FileKind, name: str, pieces: list[Buffer]) -> None:  # type: ignore[override]
        super().save(kind, name, pieces)
        if kind is FileKind.PACK:
            if self.saved == self.flip:
                path = self.path(kind, name)
                data = bytearray(path.read_bytes())
                data[-self.from_end] ^= 0x10
                path.write_bytes(data)
            self.saved += 1


class FullStore(LocalStore):
    """A medium that has room for ``room`` packs; small files still fit."""

    room = 2

    def save(self, kind: FileKind, name: str, pieces: list[Buffer]) -> None:  # type: ignore[override]
        if kind is FileKind.PACK:
            self.room -= 1
            if self.room < 0:
                raise DestinationFull("there is no room left", "")
        super().save(kind, name, pieces)


def _content(number: int, length: int = 50 * KIB) -> bytes:
    return random.Random(number).randbytes(length)


def _add(repository: Repository, packs: PackWriter, plain: bytes, kind: BlobType = BlobType.DATA) -> bytes:
    blob_id = hashlib.sha256(plain).digest()
    if packs.claim(kind, blob_id):
        packs.add(seal_blob(repository, kind, blob_id, plain, 1))
    return blob_id


def _add_many(repository: Repository, packs: PackWriter, numbers: range, length: int = 50 * KIB) -> None:
    for number in numbers:
        _add(repository, packs, _content(number, length))


def _store(repository: Repository, count: int, error: BaseException | None = None) -> None:
    """Store ``count`` blobs in packs of two of 50 KiB; then raise ``error``."""
    with repository.lock() as lock, PackWriter(repository, lock, pack_bytes=100 * KIB) as packs:
        for number in range(count):
            _add(repository, packs, _content(number))
        if error is not None:
            raise error


def _names(repository: Repository, kind: FileKind) -> list[str]:
    return [name for name, _ in repository.store.list(kind)]


def _named_packs(repository: Repository) -> set[str]:
    files = (repository.load_unpacked(FileKind.INDEX, n, IndexFile) for n in _names(repository, FileKind.INDEX))
    return {pack.id for file in files for pack in file.packs or ()}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blobs=st.lists(st.tuples(st.binary(max_size=3000), st.sampled_from(BlobType)), max_size=30),
    version=st.sampled_from([1, 2]),
    pack_bytes=st.sampled_from([1, 500, 5000, 32 * MIB]),
)
def test_what_was_stored_is_found_and_read_by_the_next_program(
    tmp_path_factory: pytest.TempPathFactory,
    blobs: list[tuple[bytes, BlobType]],
    version: int,
    pack_bytes: int,
) -> None:
    repository = fresh_repository(tmp_path_factory.mktemp("r") / "repository", version)
    with repository.lock() as lock, PackWriter(repository, lock, pack_bytes=pack_bytes) as packs:
        ids = [_add(repository, packs, plain, kind) for plain, kind in blobs]
    other = reopened(repository)
    for (plain, kind), blob_id in zip(blobs, ids, strict=True):
        assert other.load_blob(kind, blob_id) == plain
    assert len(other.index) == len(set(blobs)) == len(repository.index)
    assert set(_names(repository, FileKind.PACK)) == _named_packs(repository)
    assert packs.written_bytes == sum(size for _, size in repository.store.list(FileKind.PACK))


@pytest.mark.parametrize("version", [1, 2])
def test_a_pack_is_what_restic_documents(tmp_path: Path, version: int) -> None:
    """Read with the plain description of the format alone: names, ends, header, blobs in order, one type a pack."""
    repository = fresh_repository(tmp_path / "repository", version)
    plains = {hashlib.sha256(p).digest(): p for p in (b"first", b"second" * 1000, b"")}
    with repository.lock() as lock, PackWriter(repository, lock) as packs:
        for plain in plains.values():
            _add(repository, packs, plain)
            _add(repository, packs, plain, BlobType.TREE)
    names = _names(repository, FileKind.PACK)
    assert len(names) == 2
    for name in names:
        data = repository.store.load(FileKind.PACK, name)
        assert hashlib.sha256(data).hexdigest() == name
        length = int.from_bytes(data[-4:], "little")
        assert decode_header_length(data[-4:], len(data)) == length
        blobs = decode_header(repository.key.open(data[-4 - length : -4]))
        assert {blob.id for blob in blobs} == set(plains)
        assert len({blob.type for blob in blobs}) == 1
        for blob in blobs:
            inner = repository.key.open(data[blob.offset : blob.offset + blob.length])
            if version == 1 or blob.raw_length == 0:
                assert inner == plains[blob.id]
            else:
                assert zstandard.ZstdDecompressor().decompressobj().decompress(inner) == plains[blob.id]
                assert blob.raw_length == len(plains[blob.id])
    (index,) = _names(repository, FileKind.INDEX)
    plain_index = repository.key.open(repository.store.load(FileKind.INDEX, index))
    if version == 1:
        assert {pack["id"] for pack in json.loads(plain_index)["packs"]} == set(names)
    else:
        assert plain_index[:1] == b"\x02"


def test_a_blob_is_stored_once(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository")
    for _ in range(2):
        with repository.lock() as lock, PackWriter(repository, lock) as packs:
            for _ in range(3):
                _add(repository, packs, b"the same")
    assert len(_names(repository, FileKind.PACK)) == len(_names(repository, FileKind.INDEX)) == 1


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository")
    with repository.lock() as lock, PackWriter(repository, lock):
        pass
    assert _names(repository, FileKind.INDEX) == _names(repository, FileKind.PACK) == []


def test_packs_are_cut_by_size_and_by_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = fresh_repository(tmp_path / "repository")
    monkeypatch.setattr(packer, "PACK_BLOBS", 10)
    with repository.lock() as lock, PackWriter(repository, lock, pack_bytes=200 * KIB) as packs:
        for number in range(8):
            _add(repository, packs, _content(number))
        for number in range(25):
            _add(repository, packs, b"small %d" % number)
    sizes = [size for _, size in repository.store.list(FileKind.PACK)]
    assert len(sizes) == 5
    assert max(sizes) < 260 * KIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("length", [1, 512 * KIB, 32 * MIB])
def test_a_blob_of_zeros_is_what_it_says(tmp_path: Path, version: int, length: int) -> None:
    repository = fresh_repository(tmp_path / "repository", version)
    with repository.lock() as lock, PackWriter(repository, lock) as packs:
        assert packs.claim(BlobType.DATA, zero_id(length))
        packs.add(seal_zeros(repository, length, 3))
    plain = reopened(repository).load_blob(BlobType.DATA, zero_id(length))
    assert len(plain) == length
    assert not any(plain)


# -- what fails


@pytest.mark.parametrize("from_end", [1, 3, 4, 5, 30, 60, 1000, 60 * KIB, 100 * KIB])
def test_a_medium_that_returns_other_bytes_is_noticed_and_the_pack_not_published(tmp_path: Path, from_end: int) -> None:
    repository = fresh_repository(tmp_path / "repository", store=FlippingStore)
    assert isinstance(repository.store, FlippingStore)
    repository.store.flip, repository.store.from_end = 1, from_end
    with pytest.raises(DeviceError, match="does not read back"):
        _store(repository, 12)
    assert len(_named_packs(repository)) == 1  # the one that was written before
    assert set(_names(repository, FileKind.PACK)) == _named_packs(repository)
    other = reopened(repository)
    found = [n for n in range(12) if other.index.has(BlobType.DATA, hashlib.sha256(_content(n)).digest())]
    assert found == [0, 1]
    assert [other.load_blob(BlobType.DATA, hashlib.sha256(_content(n)).digest()) for n in found] == [
        _content(0),
        _content(1),
    ]


def test_without_reading_back_it_is_not_noticed_until_it_is_read(tmp_path: Path) -> None:
    """What ``--no-verify`` means; and that the test above would fail without the reading back."""
    repository = fresh_repository(tmp_path / "repository", store=FlippingStore)
    with repository.lock() as lock, PackWriter(repository, lock, verify=False) as packs:
        blob_id = _add(repository, packs, _content(0))
    with pytest.raises(RepositoryDamaged, match=blob_id.hex()[:8]):
        reopened(repository).load_blob(BlobType.DATA, blob_id)


@pytest.mark.parametrize("error", [Cancelled("stopped", ""), DeviceError("the source broke", ""), KeyboardInterrupt()])
def test_what_was_collected_when_the_caller_fails_is_found_by_the_next_run(
    tmp_path: Path, error: BaseException
) -> None:
    repository = fresh_repository(tmp_path / "repository")
    with pytest.raises(type(error)):
        _store(repository, 5, error)
    other = reopened(repository)
    ids = [hashlib.sha256(_content(number)).digest() for number in range(5)]
    assert [other.load_blob(BlobType.DATA, blob_id) for blob_id in ids] == [_content(number) for number in range(5)]
    assert _names(repository, FileKind.LOCK) == []


def test_what_fitted_on_a_full_destination_is_published(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository", store=FullStore)
    with pytest.raises(DestinationFull):
        _store(repository, 20)
    assert len(_named_packs(repository)) == 2 == len(_names(repository, FileKind.PACK))
    assert len(reopened(repository).index) == 4


def test_a_lock_that_was_taken_away_stops_the_publishing(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository")
    with repository.lock() as lock:
        packs = PackWriter(repository, lock, pack_bytes=100 * KIB, publish_seconds=0)
        packs.__enter__()
        for number in range(4):
            _add(repository, packs, _content(number))
        while len(_names(repository, FileKind.INDEX)) < 2:
            pass
        for name in _names(repository, FileKind.LOCK):
            repository.store.remove(FileKind.LOCK, name)
        before = _named_packs(repository)
        with pytest.raises(RepositoryLocked):
            _add_many(repository, packs, range(10, 30))
        with pytest.raises(RepositoryLocked):
            packs.finish()
    assert _named_packs(repository) == before


def test_the_index_is_published_while_the_work_goes_on(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository")
    with repository.lock() as lock:
        with PackWriter(repository, lock, pack_bytes=100 * KIB, publish_seconds=0) as packs:
            for number in range(10):
                _add(repository, packs, _content(number))
            while len(_names(repository, FileKind.INDEX)) < 4:
                pass
            other = reopened(repository)
            assert other.load_blob(BlobType.DATA, hashlib.sha256(_content(0)).digest()) == _content(0)
    assert _named_packs(repository) == set(_names(repository, FileKind.PACK))


def test_a_failure_is_told_at_the_next_call_and_again_at_the_end(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository", store=FullStore)
    assert isinstance(repository.store, FullStore)
    repository.store.room = 0
    with repository.lock() as lock:
        packs = PackWriter(repository, lock, pack_bytes=1)
        packs.__enter__()
        with pytest.raises(DestinationFull):
            _add_many(repository, packs, range(1000), 100)
        for call in (packs.finish, lambda: packs.__exit__(None, None, None)):
            with pytest.raises(DestinationFull):
                call()
    assert _names(repository, FileKind.INDEX) == []


def test_a_damaged_copy_is_passed_over_for_a_whole_one(tmp_path: Path) -> None:
    """Two programs may have stored the same blob."""
    repository = fresh_repository(tmp_path / "repository")
    plain = os.urandom(1000)
    for _ in range(2):
        blind = Repository(repository.store, repository.key, repository.config)
        with blind.lock() as lock, PackWriter(blind, lock) as packs:
            blob_id = _add(blind, packs, plain)
    names = _names(repository, FileKind.PACK)
    assert len(names) == 2
    for broken in names:
        path = repository.store.path(FileKind.PACK, broken)
        whole = path.read_bytes()
        path.write_bytes(b"x" + whole[1:])
        assert reopened(repository).load_blob(BlobType.DATA, blob_id) == plain
        path.write_bytes(whole)
    for broken in names:
        path = repository.store.path(FileKind.PACK, broken)
        path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(RepositoryDamaged, match="does not authenticate"):
        reopened(repository).load_blob(BlobType.DATA, blob_id)
