"""The index in memory, against a dictionary."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.repository.format import BlobType, IndexBlob, IndexFile, IndexPack, PackedBlob
from recovery.repository.index import BlobTable, Index, Location, index_pack

#: Few ids, many of them alike in the bytes that are hashed, so that probing and duplicates are met.
IDS = st.builds(lambda head, tail: bytes([head]) * 8 + bytes([tail]) * 24, st.integers(0, 3), st.integers(0, 40))
BLOBS = st.builds(
    PackedBlob, st.sampled_from(BlobType), IDS, st.integers(0, 2**32 - 1), st.integers(32, 2**32 - 1), st.just(0)
)


@given(st.lists(st.lists(BLOBS, max_size=30), max_size=12), st.lists(IDS))
def test_finds_every_place_of_every_blob_and_no_other(packs: list[list[PackedBlob]], others: list[bytes]) -> None:
    index, model = Index(), defaultdict(list)
    for number, blobs in enumerate(packs):
        pack = bytes([number]) * 32
        index.add_pack(pack, blobs)
        for blob in blobs:
            model[blob.type, blob.id].append(Location(pack, blob.offset, blob.length, 0))
    for kind in BlobType:
        for blob_id in [*others, *(key[1] for key in model)]:
            places = model.get((kind, blob_id), [])
            assert list(index.find_all(kind, blob_id)) == places
            assert index.has(kind, blob_id) == bool(places)
            assert index.find(kind, blob_id) == (places[0] if places else None)
    assert len(index) == sum(map(len, packs))
    assert list(index.packs()) == [bytes([number]) * 32 for number in range(len(packs))]


def test_what_an_index_file_says_is_found_as_what_a_pack_says() -> None:
    blobs = [PackedBlob(BlobType.DATA, b"a" * 32, 0, 100, 0), PackedBlob(BlobType.TREE, b"b" * 32, 100, 50, 70)]
    one, other = Index(), Index()
    one.add_pack(b"p" * 32, blobs)
    other.add_file(IndexFile(packs=[index_pack(b"p" * 32, blobs)]))
    for blob in blobs:
        assert one.find(blob.type, blob.id) == other.find(blob.type, blob.id) is not None
    found = other.find(BlobType.TREE, b"b" * 32)
    assert found is not None
    assert (found.length, found.plain_length) == (50, 70)


def test_grows_through_many_blobs_and_takes_at_most_100_bytes_each() -> None:
    table = BlobTable()
    worst = 0.0
    for number in range(70_000):
        blob_id = struct.pack("<QQ", number * 0x9E3779B97F4A7C15 % 2**64, number) + bytes(16)
        table.add(blob_id, number % 7, number, number + 32, 0)
        if number > 1000 and number % 500 == 0:
            worst = max(worst, table.memory_bytes() / len(table))
    assert len(table) == 70_000
    for number in range(0, 70_000, 97):
        blob_id = struct.pack("<QQ", number * 0x9E3779B97F4A7C15 % 2**64, number) + bytes(16)
        assert list(table.find(blob_id)) == [(number % 7, number, number + 32, 0)]
        assert blob_id[:-1] + b"x" not in table
    assert worst <= 100


HOSTILE: list[dict[str, Any]] = [
    {"id": "ab"}, {"id": ""}, {"id": "zz" * 32}, {"id": "ab" * 33}, {"id": "ab " * 32 + "ab"}, {"offset": -1},
    {"offset": 2**32}, {"length": -5}, {"length": 2**70}, {"uncompressed_length": -1}, {"uncompressed_length": 2**33},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_blob_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    blob = msgspec.structs.replace(IndexBlob("ab" * 32, BlobType.DATA, 0, 100), **change)
    with pytest.raises((ValueError, struct.error)):
        Index().add_file(IndexFile(packs=[IndexPack("cd" * 32, [blob])]))


@pytest.mark.parametrize("pack", ["", "ab", "zz" * 32, "ab" * 40])
def test_a_pack_that_cannot_be_is_refused(pack: str) -> None:
    with pytest.raises(ValueError):
        Index().add_file(IndexFile(packs=[IndexPack(pack, [])]))
