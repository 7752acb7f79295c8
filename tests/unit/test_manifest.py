"""``system.json``: read back, of other versions, and damaged."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.errors import RepositoryDamaged, UsageError
from recovery.image.manifest import (
    ImageDisk,
    ImagePartition,
    LayoutRecord,
    Machine,
    Manifest,
    UnreadableArea,
    decode_manifest,
    encode_manifest,
)


def _disk(name: str) -> ImageDisk:
    return ImageDisk(
        name=name,
        image=f"{name}.img",
        domain=f"{name}.domain",
        map=f"{name}.map",
        size_bytes=1 << 40,
        logical_sector_bytes=512,
        physical_sector_bytes=4096,
        layout=LayoutRecord(2 << 20, (0, 1 << 20), 12),
        used_bytes=5,
        unreadable=(UnreadableArea(512, 512, 1), UnreadableArea(4096, 512)),
        partitions=(ImagePartition(1, 1 << 20, 1 << 30, "data", "map", 4096, tool="partclone.extfs 0.3.23"),),
        findings=("the primary GPT is damaged",),
    )


MANIFEST = Manifest(
    "1.0", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "0.1", Machine(hostname="h"), (_disk("sda"), _disk("sdb"))
)
FIELDS = json.loads(encode_manifest(MANIFEST))


def test_comes_back_as_it_was_and_a_person_can_read_it() -> None:
    data = encode_manifest(MANIFEST)
    assert decode_manifest(data) == MANIFEST
    assert data.count(b"\n") > 20


@pytest.mark.parametrize("version", ["1.0", "1.99", "0.9"])
def test_a_minor_version_may_say_more(version: str) -> None:
    data = json.dumps({**FIELDS, "version": version, "new": {"x": [1]}}).encode()
    assert decode_manifest(data).disks == MANIFEST.disks


@pytest.mark.parametrize("version", ["2.0", "17.3"])
def test_a_newer_major_version_is_refused_with_a_way_out(version: str) -> None:
    with pytest.raises(UsageError, match=version) as raised:
        decode_manifest(json.dumps({"version": version, "all": "different"}).encode())
    assert "restic dump" in raised.value.hint


@pytest.mark.parametrize(
    "change",
    [{"version": "x"}, {"version": 1}, {"version": ""}, {"disks": None}, {"created": "never"}, {"machine": 5}],
    ids=str,
)
def test_a_malformed_one_is_damaged(change: dict[str, Any]) -> None:
    with pytest.raises(RepositoryDamaged):
        decode_manifest(json.dumps({**FIELDS, **change}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"size_bytes": -1},
        {"size_bytes": 2**70},
        {"layout": {"chunk_bytes": 0, "grid": [0], "pieces": 1}},
        {"layout": {"chunk_bytes": -4096, "grid": [0], "pieces": 1}},
        {"layout": {"chunk_bytes": 1, "grid": [0], "pieces": 1}},
        {"layout": {"chunk_bytes": 4096, "grid": [-1], "pieces": 1}},
        {"logical_sector_bytes": 0},
        {"partitions": [{**FIELDS["disks"][0]["partitions"][0], "offset": -1}]},
        {"partitions": [{**FIELDS["disks"][0]["partitions"][0], "length": -1}]},
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_damage(change: dict[str, Any]) -> None:
    disk = {**FIELDS["disks"][0], **change}
    with pytest.raises(RepositoryDamaged):
        decode_manifest(json.dumps({**FIELDS, "disks": [disk]}).encode())


@pytest.mark.parametrize("data", [b"", b"null", b"\xff\xfe", b"{", b'{"version":' + b"[" * 200_000])
def test_bytes_that_are_no_manifest_are_damaged(data: bytes) -> None:
    with pytest.raises(RepositoryDamaged):
        decode_manifest(data)


@given(st.integers(0, len(encode_manifest(MANIFEST)) - 1), st.integers(0, 255))
def test_one_changed_byte_is_read_or_damaged_or_newer(position: int, value: int) -> None:
    data = bytearray(encode_manifest(MANIFEST))
    data[position] = value
    with contextlib.suppress(RepositoryDamaged, UsageError):
        assert len(decode_manifest(bytes(data)).disks) == 2


def test_the_only_disk_needs_no_name_and_of_several_one_is_chosen() -> None:
    assert MANIFEST.disk("sdb").name == "sdb"
    with pytest.raises(UsageError, match="sda, sdb"):
        MANIFEST.disk(None)
    with pytest.raises(UsageError, match="no disk 'sdc'"):
        MANIFEST.disk("sdc")
    alone = Manifest("1.0", MANIFEST.created, "0.1", MANIFEST.machine, (_disk("sda"),))
    assert alone.disk(None).name == "sda"
