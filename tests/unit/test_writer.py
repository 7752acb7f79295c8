"""Chunks, small files and the root folder, as they come into the repository."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.devices.source_process import SharedBuffers
from recovery.image.layout import zero_id
from recovery.image.writer import ChunkWriter, store_file, store_tree
from recovery.repository.format import BlobType, Node, decode_ids
from recovery.repository.packer import PackWriter
from recovery.repository.repository import Repository
from tests.support.repositories import fresh_repository, reopened

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(params=[1, 2])
def repository(tmp_path: Path, request: pytest.FixtureRequest) -> Repository:
    return fresh_repository(tmp_path / "repository", request.param)


def _ids(joined: bytes | bytearray) -> list[bytes]:
    return [bytes(joined[at : at + 32]) for at in range(0, len(joined), 32)]


def _put(chunks: ChunkWriter, plain: bytes) -> None:
    buffer = chunks.buffer()
    buffer[: len(plain)] = plain
    chunks.put(buffer, len(plain))


def _content(generator: random.Random) -> bytes:
    """Zeros, or bytes that do not compress."""
    length = generator.choice([1, 512, 60 * KIB])
    return bytes(length) if generator.random() < 0.5 else generator.randbytes(length)


def test_ids_come_in_the_order_of_the_chunks_whatever_was_done_first(repository: Repository) -> None:
    """Chunks of very different cost, holes between them, some known and some met twice."""
    generator = random.Random(5)
    plains = [_content(generator) for _ in range(120)]
    plains += plains[10:40]
    expected: list[bytes] = []
    with repository.lock() as lock, PackWriter(repository, lock) as packs:
        with ChunkWriter(repository, packs, SharedBuffers(5, 64 * KIB), level=1) as chunks:
            for number, plain in enumerate(plains):
                _put(chunks, plain)
                expected.append(hashlib.sha256(plain).digest())
                if number % 7 == 0:
                    chunks.put_zeros(512 * KIB)
                    expected.append(zero_id(512 * KIB))
            ids = _ids(chunks.take_ids())
            assert chunks.take_ids() == b""
            counters = chunks.counters
    assert ids == expected
    other = reopened(repository)
    for plain in plains:
        assert other.load_blob(BlobType.DATA, hashlib.sha256(plain).digest()) == plain
    assert not any(other.load_blob(BlobType.DATA, zero_id(512 * KIB)))
    assert len(other.index) == len(set(expected))
    assert counters.new_bytes + counters.known_bytes >= sum(map(len, plains))


def test_a_second_run_stores_nothing_anew(repository: Repository) -> None:
    plains = [random.Random(number).randbytes(10 * KIB) for number in range(30)]
    written = []
    for _ in range(2):
        again = reopened(repository)
        with again.lock() as lock, PackWriter(again, lock) as packs:
            with ChunkWriter(again, packs, SharedBuffers(5, 64 * KIB), level=1) as chunks:
                for plain in plains:
                    _put(chunks, plain)
                chunks.flush()
                known = chunks.counters.known_bytes
        written.append(packs.written_bytes)
    assert written[0] > 300 * KIB
    assert written[1] == 0
    assert known == sum(map(len, plains))


def test_an_error_between_chunks_ends_the_workers_and_keeps_what_was_stored(repository: Repository) -> None:
    def fail() -> None:
        with repository.lock() as lock, PackWriter(repository, lock) as packs:
            with ChunkWriter(repository, packs, SharedBuffers(5, 64 * KIB), level=1) as chunks:
                _put(chunks, b"stored")
                chunks.flush()
                _put(chunks, b"under way")
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert reopened(repository).load_blob(BlobType.DATA, hashlib.sha256(b"stored").digest()) == b"stored"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from([b"", b"x", b"abc" * 1000, bytes(MIB - 1), b"q" * MIB, b"r" * (2 * MIB + 5)])))
def test_a_small_file_comes_back_whatever_pieces_it_came_in(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    repository = fresh_repository(tmp_path_factory.mktemp("r") / "repository")
    with repository.lock() as lock, PackWriter(repository, lock) as packs:
        ids, length = store_file(repository, packs, pieces, 1)
    other = reopened(repository)
    content = [other.load_blob(BlobType.DATA, blob_id) for blob_id in _ids(ids)]
    assert b"".join(content) == b"".join(pieces)
    assert length == sum(map(len, pieces))
    assert all(content)
    assert all(len(piece) <= MIB for piece in content)


def test_a_tree_is_sorted_json_named_by_its_hash(repository: Repository) -> None:
    """As restic wants it: entries by name, ended by a newline, the id is the hash of the text."""
    many = random.Random(1).randbytes(32 * 9000)
    files = [
        (Node(name="sda.map", type="file", uid=0, gid=0, size=1), bytearray(b"\x01" * 32)),
        (Node(name="sda.img", type="file", uid=0, gid=0, size=5, mode=0o600), bytearray(many)),
        (Node(name='odd "n\u00e4me"', type="file", uid=0, gid=0), bytearray()),
        (Node(name="sda.domain", type="file", uid=0, gid=0), bytearray(b"\x02" * 64)),
    ]
    with repository.lock() as lock, PackWriter(repository, lock) as packs:
        tree_id = store_tree(repository, packs, files, 1)
    other = reopened(repository)
    text = other.load_blob(BlobType.TREE, bytes.fromhex(tree_id))
    assert hashlib.sha256(text).hexdigest() == tree_id
    assert text.endswith(b"}\n")
    nodes = json.loads(text)["nodes"]
    names = [node["name"] for node in nodes]
    assert names == sorted(names, key=str.encode) == ['odd "n\u00e4me"', "sda.domain", "sda.img", "sda.map"]
    assert nodes[2]["content"] == [blob_id.hex() for blob_id in _ids(many)]
    assert (nodes[2]["size"], nodes[2]["mode"], nodes[2]["type"]) == (5, 0o600, "file")
    assert nodes[0]["content"] == []
    loaded = other.load_tree(tree_id).nodes
    assert [decode_ids(bytes(node.content)) for node in loaded] == [b"", b"\x02" * 64, many, b"\x01" * 32]


def test_the_same_tree_is_the_same_blob(repository: Repository) -> None:
    files = [(Node(name=name, type="file", uid=0, gid=0), bytearray(32)) for name in "ab"]
    with repository.lock() as lock, PackWriter(repository, lock) as packs:
        ids = {store_tree(repository, packs, order, 1) for order in (files, files[::-1])}
    assert len(ids) == 1
    assert len(reopened(repository).index) == 1
