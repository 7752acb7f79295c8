"""The byte layout: round trips, bytes written by hand, and input that nobody should have written."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from recovery.errors import RepositoryDamaged
from recovery.repository import format as form
from recovery.repository.format import (
    BlobType,
    Config,
    IndexBlob,
    IndexFile,
    IndexPack,
    KeyFile,
    LockFile,
    Node,
    PackedBlob,
    Snapshot,
    Tree,
    decode_header,
    decode_header_length,
    decode_ids,
    decode_json,
    decompress,
    encode_header,
    encode_header_length,
    encode_json,
    encode_time,
    pack_unpacked,
    unpack_unpacked,
)

KINDS = [Config, KeyFile, LockFile, Snapshot, IndexFile, Tree]
UINT32 = st.integers(0, 2**32 - 1)
IDS = st.binary(min_size=32, max_size=32)


@st.composite
def packs(draw: st.DrawFn) -> list[PackedBlob]:
    blobs, offset = [], 0
    for _ in range(draw(st.integers(0, 8))):
        length = draw(UINT32)
        blobs.append(PackedBlob(draw(st.sampled_from(BlobType)), draw(IDS), offset, length, draw(UINT32)))
        offset += length
    return blobs


@given(packs())
def test_a_header_comes_back_as_it_was(blobs: list[PackedBlob]) -> None:
    assert decode_header(encode_header(blobs)) == blobs


def test_a_header_is_laid_out_as_restic_documents_it() -> None:
    header = (
        bytes([0]) + (100).to_bytes(4, "little") + b"a" * 32
        + bytes([3]) + (200).to_bytes(4, "little") + (5000).to_bytes(4, "little") + b"b" * 32
        + bytes([1]) + (300).to_bytes(4, "little") + b"c" * 32
        + bytes([2]) + (400).to_bytes(4, "little") + (7000).to_bytes(4, "little") + b"d" * 32
    )  # fmt: skip
    blobs = [
        PackedBlob(BlobType.DATA, b"a" * 32, 0, 100, 0),
        PackedBlob(BlobType.TREE, b"b" * 32, 100, 200, 5000),
        PackedBlob(BlobType.TREE, b"c" * 32, 300, 300, 0),
        PackedBlob(BlobType.DATA, b"d" * 32, 600, 400, 7000),
    ]
    assert encode_header(blobs) == header
    assert decode_header(header) == blobs
    assert [blob.plain_length for blob in blobs] == [68, 5000, 268, 7000]


@given(st.lists(st.integers(0, 5).flatmap(lambda kind: st.binary(min_size=30, max_size=40).map(bytes([kind]).__add__))))
def test_any_bytes_are_a_header_or_are_refused_as_damaged(entries: list[bytes]) -> None:
    with contextlib.suppress(RepositoryDamaged):
        blobs = decode_header(b"".join(entries))
        assert [blob.offset for blob in blobs] == [sum(b.length for b in blobs[:n]) for n in range(len(blobs))]


@pytest.mark.parametrize("data", [b"\x04" + bytes(40), b"\x00" + bytes(35), b"\x02" + bytes(39), b"\xff"])
def test_a_header_that_is_cut_or_of_unknown_kind_is_refused(data: bytes) -> None:
    with pytest.raises(RepositoryDamaged):
        decode_header(data)


@given(st.integers(32, 2**24), st.integers(0, 2**25))
def test_a_header_length_is_believed_only_when_it_fits_its_pack(length: int, pack_bytes: int) -> None:
    last_four = encode_header_length(length)
    if length <= pack_bytes - 4:
        assert decode_header_length(last_four, pack_bytes) == length
    else:
        with pytest.raises(RepositoryDamaged):
            decode_header_length(last_four, pack_bytes)


@pytest.mark.parametrize("length", [0, 31, 2**24 + 1, 2**32 - 1])
def test_an_impossible_header_length_is_refused(length: int) -> None:
    with pytest.raises(RepositoryDamaged):
        decode_header_length(length.to_bytes(4, "little"), 2**33)


# -- JSON


def test_an_index_file_is_written_with_the_fields_that_restic_documents() -> None:
    blobs = [IndexBlob("aa" * 32, BlobType.DATA, 0, 150), IndexBlob("bb" * 32, BlobType.TREE, 150, 40, 99)]
    written = json.loads(encode_json(IndexFile(packs=[IndexPack("cc" * 32, blobs)])))
    assert written == {
        "packs": [
            {
                "id": "cc" * 32,
                "blobs": [
                    {"id": "aa" * 32, "type": "data", "offset": 0, "length": 150},
                    {"id": "bb" * 32, "type": "tree", "offset": 150, "length": 40, "uncompressed_length": 99},
                ],
            }
        ]
    }


@given(st.lists(st.builds(IndexBlob, IDS.map(bytes.hex), st.sampled_from(BlobType), UINT32, UINT32, UINT32)))
def test_an_index_file_comes_back_as_it_was(blobs: list[IndexBlob]) -> None:
    file = IndexFile(packs=[IndexPack("00" * 32, blobs)])
    for version in (1, 2):
        data = unpack_unpacked(pack_unpacked(encode_json(file), version), "it")
        assert decode_json(data, IndexFile, "it") == file


@given(
    st.lists(
        st.builds(
            Node,
            name=st.text(),
            type=st.just("file"),
            uid=st.integers(0, 2**32 - 1),
            gid=st.integers(0, 2**32 - 1),
            mode=st.integers(0, 2**32 - 1),
            size=st.integers(0, 2**63 - 1),
            content=st.lists(IDS.map(bytes.hex)).map(lambda ids: msgspec.Raw(json.dumps(ids).encode())),
        ),
        max_size=4,
    )
)
def test_a_tree_comes_back_as_it_was(nodes: list[Node]) -> None:
    back = decode_json(encode_json(Tree(nodes)), Tree, "it").nodes
    assert [node.name for node in back] == [node.name for node in nodes]
    assert [decode_ids(bytes(node.content)) for node in back] == [decode_ids(bytes(node.content)) for node in nodes]
    assert [(node.mode, node.size) for node in back] == [(node.mode, node.size) for node in nodes]


def test_what_restic_writes_and_we_do_not_know_is_passed_over() -> None:
    text = """{"time":"2024-05-06T07:08:09.123456789+02:00","tree":"ab","paths":["/x"],"hostname":"h","future":[{}],
        "program_version":"restic 0.99","summary":{"backup_start":"2024-05-06T07:08:09Z",
        "backup_end":"2024-05-06T07:08:10Z","files_new":3,"more":1.5}}"""
    snapshot = decode_json(text.encode(), Snapshot, "it")
    assert snapshot.time == datetime(2024, 5, 6, 5, 8, 9, 123457, UTC)
    assert snapshot.summary is not None
    assert snapshot.summary.files_new == 3


@given(st.datetimes(timezones=st.integers(-839, 839).map(lambda m: timezone(timedelta(minutes=m)))))
def test_a_time_comes_back_as_it_was(time: datetime) -> None:
    assert msgspec.json.decode(f'"{encode_time(time)}"', type=datetime) == time


@pytest.mark.parametrize(
    ("microsecond", "hours", "text"),
    [(0, 0, "05Z"), (500000, 0, "05.5Z"), (31340, 2, "05.03134+02:00"), (0, -3, "05-03:00"), (1, 0, "05.000001Z")],
)
def test_a_time_has_no_zeros_at_its_end(microsecond: int, hours: int, text: str) -> None:
    time = datetime(2024, 1, 2, 3, 4, 5, microsecond, timezone(timedelta(hours=hours)))
    assert encode_time(time) == f"2024-01-02T03:04:{text}"


ID_LIST_DAMAGE = [b'["ab"]', b'["' + b"g" * 64 + b'"]', b"{}", b"5", b'["' + b"a" * 63 + b'"]', b'["\xff"]', b"true"]


@pytest.mark.parametrize("content", ID_LIST_DAMAGE)
def test_a_list_of_blobs_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(RepositoryDamaged):
        decode_ids(content)


@pytest.mark.parametrize("content", [b"", b"null", b"[]"])
def test_an_empty_file_has_no_blobs(content: bytes) -> None:
    assert decode_ids(content) == b""


@given(st.lists(IDS))
def test_a_list_of_blobs_comes_back_as_it_was(ids: list[bytes]) -> None:
    assert decode_ids(json.dumps([i.hex() for i in ids]).encode()) == b"".join(ids)


SCALARS = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=8)
FIELDS = sorted({field for kind in [*KINDS, IndexPack, IndexBlob, Node] for field in kind.__struct_fields__} | {"N"})
VALUES = st.recursive(
    SCALARS | st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-01T00:00:00", "data", "ab" * 32, "AAAA", "scrypt"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(VALUES, st.sampled_from(KINDS))
def test_any_json_is_what_it_should_be_or_is_refused_as_damaged(value: Any, kind: type[msgspec.Struct]) -> None:
    with contextlib.suppress(RepositoryDamaged):
        assert isinstance(decode_json(json.dumps(value).encode(), kind, "it"), kind)


@given(st.binary(max_size=80), st.sampled_from(KINDS))
def test_any_bytes_are_refused_as_damaged_and_named(data: bytes, kind: type[msgspec.Struct]) -> None:
    with pytest.raises(RepositoryDamaged, match="the thing"):
        decode_json(b"\xff" + data, kind, "the thing")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deep", [b'{"x":' + b"[" * 200_000, b'{"x":' * 200_000, b'{"nodes":' + b"[" * 200_000])
def test_json_nested_without_end_is_refused_as_damaged(kind: type[msgspec.Struct], deep: bytes) -> None:
    with pytest.raises(RepositoryDamaged):
        decode_json(deep, kind, "it")


@pytest.mark.parametrize("time", ["2024-01-01T00:00:00", "yesterday", "2024-13-01T00:00:00Z", ""])
def test_a_time_without_its_zone_or_none_at_all_is_refused(time: str) -> None:
    """Times of several snapshots are compared, which Python refuses for a time without a zone."""
    with pytest.raises(RepositoryDamaged):
        decode_json(json.dumps({"time": time, "tree": "ab", "paths": []}).encode(), Snapshot, "it")


# -- compression


@given(st.binary(max_size=300))
def test_any_bytes_unpack_or_are_refused_as_damaged(data: bytes) -> None:
    for given_bytes in (data, b"\x02" + data, b"\x02\x28\xb5\x2f\xfd" + data):
        with contextlib.suppress(RepositoryDamaged):
            unpack_unpacked(given_bytes, "it")
        with contextlib.suppress(RepositoryDamaged):
            assert len(decompress(given_bytes[1:], 5, "it")) == 5


@given(st.binary(max_size=2000), st.integers(0, 30))
def test_a_cut_frame_is_refused_whether_or_not_it_says_its_size(plain: bytes, cut: int) -> None:
    stream = zstandard.ZstdCompressor().compressobj()
    for frame in (zstandard.ZstdCompressor().compress(plain), stream.compress(plain) + stream.flush()):
        assert decompress(frame, len(plain), "it") == plain
        if cut and plain:
            with pytest.raises(RepositoryDamaged):
                decompress(frame[: -min(cut, len(frame))], len(plain), "it")


def test_a_frame_that_says_it_holds_terabytes_is_refused_before_memory_is_taken() -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + (2**42).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(RepositoryDamaged, match="more than it should"):
        unpack_unpacked(b"\x02" + frame, "it")


def test_a_bomb_that_hides_its_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MAX_UNPACKED_BYTES", 4 << 20)
    stream = zstandard.ZstdCompressor().compressobj()
    bomb = stream.compress(bytes(64 << 20)) + stream.flush()
    with pytest.raises(RepositoryDamaged, match="more than it should"):
        unpack_unpacked(b"\x02" + bomb, "it")


@pytest.mark.parametrize("expected", [99, 101])
def test_a_blob_of_another_length_than_its_index_says_is_refused(expected: int) -> None:
    with pytest.raises(RepositoryDamaged):
        decompress(zstandard.ZstdCompressor().compress(bytes(100)), expected, "it")


@pytest.mark.parametrize("data", [b"", b"\x03{}", b"hello"])
def test_an_unknown_encoding_is_refused(data: bytes) -> None:
    with pytest.raises(RepositoryDamaged, match="unknown encoding"):
        unpack_unpacked(data, "it")
