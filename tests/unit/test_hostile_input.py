"""Input that nobody should have written: refused as damaged, in bounded memory and time, and with no other error."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import struct
import tracemalloc
from datetime import UTC, datetime

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.devices.mapfile import encode_map, parse_map
from recovery.devices.table import PartitionTable, TableEntry
from recovery.errors import RecoveryError, RepositoryDamaged
from recovery.extent import Extent, Extents
from recovery.image.layout import TooManyPieces, make_layout
from recovery.image.manifest import (
    ImageDisk,
    ImagePartition,
    LayoutRecord,
    Machine,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from recovery.repository.crypto import Key, make_key_file, open_key_file
from recovery.repository.format import (
    BlobType,
    Config,
    IndexBlob,
    IndexFile,
    IndexPack,
    LockFile,
    PackedBlob,
    Snapshot,
    Tree,
    decode_header,
    decode_ids,
    decode_json,
    decompress,
    encode_header,
    encode_json,
)
from recovery.repository.index import Index
from tests.support.hostile import hostile_bytes, hostile_json, hostile_key, hostile_map

pytestmark = pytest.mark.timeout(60)  # bounded time

MIB = 1 << 20
seeds = st.integers(0, 2**32 - 1)
#: One failing case per seed is enough to know: its seed says all, so there is nothing to shrink.
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TABLE = PartitionTable(
    label="gpt",
    uuid="11111111-2222-3333-4444-555555555555",
    logical_sector_bytes=512,
    entries=(TableEntry(1, MIB, 8 * MIB, "0fc63daf-8483-4772-8e79-3d69d8477de4", name="x"),),
    own_extents=(Extent(0, 34 * 512), Extent(10 * MIB - 33 * 512, 33 * 512)),
)
MANIFEST = Manifest(
    version="1.0",
    created=datetime(2024, 1, 1, tzinfo=UTC),
    program_version="1",
    machine=Machine(hostname="h", firmware="uefi"),
    disks=(
        ImageDisk(
            name="sda", image="sda.img", domain="sda.domain", map="sda.map", size_bytes=10 * MIB,
            logical_sector_bytes=512, physical_sector_bytes=512, layout=LayoutRecord(2 * MIB, (0, MIB), 6),
            used_bytes=9 * MIB, table=TABLE, partitions=(ImagePartition(1, MIB, 8 * MIB, "primary", "whole", 8 * MIB),),
        ),
    ),
)  # fmt: skip
INDEX = IndexFile(
    packs=[
        IndexPack(
            "ab" * 32, [IndexBlob("cd" * 32, BlobType.DATA, 0, 100, 500), IndexBlob("ef" * 32, BlobType.TREE, 100, 60)]
        )
    ]
)
SNAPSHOT = Snapshot(datetime(2024, 1, 1, tzinfo=UTC), "ab" * 32, ["/x"], hostname="h", tags=["system-image"])
LOCK = LockFile(datetime(2024, 1, 1, tzinfo=UTC), True, "h", "u", 5, 0, 0)
TREE = json.loads('{"nodes":[{"name":"a","type":"file","uid":0,"gid":0,"size":5,"content":["' + "ab" * 32 + '"]}]}')


@quick
@given(seeds)
def test_a_hostile_map_is_areas_without_gap_or_is_refused(seed: int) -> None:
    chance = random.Random(seed)
    whole = encode_map(10 * MIB, {"+": Extents([(0, MIB), (3 * MIB, MIB)]), "-": Extents([(MIB, 512)])})
    with contextlib.suppress(RepositoryDamaged):
        areas = parse_map(hostile_map(chance, whole))
        every = sorted(extent for extents in areas.values() for extent in extents)
        assert [extent.offset for extent in every] == [0, *(extent.end for extent in every)][:-1]


@pytest.mark.parametrize("digits", [b"0x" + b"f" * 6000, b"9" * 6000, b"0" * 6000, b"0x" + b"0" * 6000])
def test_a_number_of_thousands_of_digits_in_a_map_is_refused_with_few_words(digits: bytes) -> None:
    with pytest.raises(RepositoryDamaged, match="where a number was expected") as refusal:
        parse_map(b"0x0 ? 1\n" + digits + b" 0x200 +\n")
    assert len(refusal.value.message) < 200


@quick
@given(seeds)
def test_a_hostile_manifest_says_only_what_can_be_or_is_refused(seed: int) -> None:
    made = hostile_json(random.Random(seed), json.loads(encode_manifest(MANIFEST)))
    with contextlib.suppress(RecoveryError):
        for disk in decode_manifest(made).disks:
            assert 0 <= disk.size_bytes <= 1 << 62
            assert 512 <= disk.layout.chunk_bytes <= 64 * MIB
            Extents(disk.table.own_extents if disk.table else ())
            Extents(entry.extent for entry in (disk.table.entries if disk.table else ()))
            Extents(Extent(partition.offset, partition.length) for partition in disk.partitions)


@pytest.mark.parametrize("entry", [{"offset": -5}, {"length": -1}, {"offset": 1 << 70}, {"length": 1 << 63}])
def test_a_manifest_whose_table_has_impossible_partitions_is_refused(entry: dict[str, int]) -> None:
    document = json.loads(encode_manifest(MANIFEST))
    document["disks"][0]["table"]["entries"][0].update(entry)
    with pytest.raises(RepositoryDamaged, match="manifest is malformed"):
        decode_manifest(json.dumps(document).encode())


@pytest.mark.parametrize("used", [Extents(), Extents([(0, 1 << 62)])])
def test_a_layout_of_more_pieces_than_expected_ends_at_once(used: Extents) -> None:
    """A manifest may call a disk exabytes large: that takes neither the memory nor the time of its pieces."""
    tracemalloc.start()
    try:
        with pytest.raises(TooManyPieces):
            make_layout(1 << 62, 512, (0, MIB), used, 1000)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@quick
@given(seeds)
def test_a_hostile_index_is_entered_or_refused(seed: int) -> None:
    made = hostile_json(random.Random(seed), json.loads(encode_json(INDEX)))
    index = Index()
    with contextlib.suppress(RepositoryDamaged, ValueError, struct.error):  # as its reader does
        index.add_file(decode_json(made, IndexFile, "it"))
    for blob_id in (bytes.fromhex("cd" * 32), bytes(32)):
        for place in index.find_all(BlobType.DATA, blob_id):
            assert 0 <= place.offset < 1 << 32
            assert 0 <= place.length < 1 << 32


@quick
@given(seeds)
def test_a_hostile_header_names_blobs_one_behind_the_other_or_is_refused(seed: int) -> None:
    blobs = [PackedBlob(BlobType.DATA, bytes([n]) * 32, 100 * n, 100, 500 * (n % 2)) for n in range(6)]
    with contextlib.suppress(RepositoryDamaged):
        found = decode_header(hostile_bytes(random.Random(seed), encode_header(blobs)))
        assert [blob.offset for blob in found] == [sum(b.length for b in found[:n]) for n in range(len(found))]


@quick
@given(seeds)
def test_hostile_snapshots_locks_configs_and_trees_are_what_they_should_be_or_are_refused(seed: int) -> None:
    chance = random.Random(seed)
    for value, form in ((SNAPSHOT, Snapshot), (LOCK, LockFile), (Config(2, "ab" * 32, "3d"), Config)):
        made = hostile_json(chance, json.loads(encode_json(value)))
        with contextlib.suppress(RepositoryDamaged):
            assert isinstance(decode_json(made, form, "it"), form)
    with contextlib.suppress(RepositoryDamaged):
        for node in decode_json(hostile_json(chance, TREE), Tree, "it").nodes:
            assert len(decode_ids(bytes(node.content))) % 32 == 0


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_a_key_file_with_absurd_parameters_is_refused_or_tried_with_bounded_memory(seed: int) -> None:
    whole = json.loads(_KEY_FILE)
    made = hostile_key(random.Random(seed), whole)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(RecoveryError):
        open_key_file(made, "password")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10  # KiB


@pytest.mark.parametrize(
    ("n", "r", "p"),
    [
        (1 << 40, 8, 1), (1 << 20, 1 << 20, 1), (1 << 15, 8, 1 << 20), (1 << 19, 8, 16), (1 << 19, 8, 2), (-2, 8, 1),
        (0, 8, 1), (1, 8, 1), (3, 8, 1), (1 << 15, 0, 1), (1 << 15, -8, -1), (1 << 15, 8, 0),
        (1 << 70, 1 << 70, 1 << 70),
    ],
)  # fmt: skip
def test_absurd_parameters_are_refused_before_any_work(n: int, r: int, p: int) -> None:
    made = json.dumps({**json.loads(_KEY_FILE), "N": n, "r": r, "p": p}).encode()
    with pytest.raises(RepositoryDamaged, match=r"scrypt|malformed"):
        open_key_file(made, "password")


_KEY_FILE = make_key_file(Key(bytes(32), bytes(16), bytes(16)), "password", datetime(2024, 1, 1, tzinfo=UTC), "u", "h")


def test_a_blob_that_claims_gigabytes_is_refused_before_memory_is_taken() -> None:
    """The frame and the index agree on 3 GiB of zeros."""
    stream = zstandard.ZstdCompressor().compressobj(size=3 << 30)
    block = bytes(16 * MIB)
    frame = b"".join(stream.compress(block) for _ in range(192)) + stream.flush()
    assert len(frame) < MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RepositoryDamaged, match="more than it should"):
        decompress(frame, 3 << 30, "the blob")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_what_has_no_room_in_memory_is_damage_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*arguments: object, **more: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("recovery.repository.format._decompressor", no_memory)
    with pytest.raises(RepositoryDamaged, match="memory"):
        decompress(zstandard.ZstdCompressor().compress(bytes(100)), 100, "the blob")
