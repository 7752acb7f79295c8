"""Damage to a repository: found, named by partition and range, survived with ``--partial``."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import MIB, read_at, run, sha256
from tests.support.fleet import SMALL_BYTES, Fleet, check_filesystem, equal_ranges, noise, small_disk
from tests.support.program import Ran, recovery, refused, restic
from tests.support.restic import restic_binaries, restic_version

pytestmark = pytest.mark.disk

RESTIC = restic_binaries()[-1]

#: Every chunk is of its own, and lies at a multiple of this from the start of its partition.
CHUNK = 2 * MIB
UNKNOWN = 53 * MIB


@dataclass(frozen=True)
class Blob:
    """Where a blob lies: by restic's own index."""

    pack: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Captured:
    """A repository with an image; ``chunks`` and ``index`` are as restic reads them from tree and index."""

    disk: Fleet
    repository: Path
    nodes: dict[str, list[str]]
    index: dict[str, tuple[str, dict[str, Any]]]

    def copy(self, folder: Path) -> Captured:
        shutil.copytree(self.repository, folder / "repository")
        return replace(self, repository=folder / "repository")

    def blob(self, blob_id: str) -> Blob:
        pack, blob = self.index[blob_id]
        return Blob(self.repository / "data" / pack[:2] / pack, blob["offset"], blob["length"])

    def blob_at(self, offset: int) -> Blob:
        """The blob that holds the byte ``offset`` of the disk: counted out from the blobs' own lengths."""
        position = 0
        for blob_id in self.nodes["disk.img"]:
            _, blob = self.index[blob_id]
            length = blob.get("uncompressed_length") or blob["length"] - 32
            if position <= offset < position + length:
                return self.blob(blob_id)
            position += length
        raise AssertionError(offset)

    def verified(self, status: int = 22) -> Ran:
        return recovery("verify", "latest", "--json", repository=self.repository, status=status)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """Partition 4 was captured alone before, so that its chunks, the table and the gaps lie in a pack of their own."""
    folder = tmp_path_factory.mktemp("verify")
    disk = small_disk(folder / "disk.img", folder)
    repository = folder / "repository"
    recovery("init", repository=repository)
    recovery("capture", disk.image, "--only", "4", repository=repository)
    captured = recovery("capture", disk.image, "--json", repository=repository)
    tree_id = json.loads(restic(RESTIC, "snapshots", "--json", repository=repository))[-1]["tree"]
    assert captured.event("summary")["known_bytes"] > 8 * MIB
    tree = json.loads(restic(RESTIC, "cat", "blob", tree_id, repository=repository))
    index = {}
    for path in (repository / "index").iterdir():
        packs = json.loads(restic(RESTIC, "cat", "index", path.name, repository=repository))["packs"]
        index.update({blob["id"]: (pack["id"], blob) for pack in packs for blob in pack["blobs"]})
    return Captured(disk, repository, {node["name"]: node["content"] for node in tree["nodes"]}, index)


def flip(path: Path, offset: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def test_a_sound_image_is_said_to_be(sound: Captured) -> None:
    said = recovery("verify", "latest", repository=sound.repository).said
    assert "All of it is sound" in said
    assert sound.verified(0).event("summary")["sound"] is True


def test_a_flipped_byte_in_a_chunk_is_named_by_partition_and_range(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    hit = UNKNOWN + CHUNK
    blob = damaged.blob_at(hit + 5)
    flip(blob.pack, blob.offset + blob.length // 2)
    summary = damaged.verified().event("summary")
    assert [(d["disk"], d["offset"], d["length"], d["partition"]) for d in summary["damages"]] == [
        ("disk", hit, CHUNK, 4)
    ]
    assert summary["sound"] is False
    said = recovery("verify", repository=damaged.repository, status=22).said
    assert "disk, partition 4" in said
    assert f"bytes {hit} to {hit + CHUNK}" in said
    restic(RESTIC, "dump", "latest", "/disk.img", repository=damaged.repository, status=1)


def test_damage_to_a_chunk_in_the_gap_is_in_no_partition(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    blob = damaged.blob_at(SMALL_BYTES - 512)
    flip(blob.pack, blob.offset + blob.length // 2)
    damages = damaged.verified().event("summary")["damages"]
    assert [damage["partition"] for damage in damages] == [None]
    assert damages[0]["offset"] + damages[0]["length"] == SMALL_BYTES


def test_a_flipped_byte_in_a_header_hits_no_byte_of_the_image(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    pack = damaged.blob_at(UNKNOWN).pack
    flip(pack, pack.stat().st_size - 10)
    summary = damaged.verified().event("summary")
    assert summary["damages"] == []
    assert any(pack.name[:8] in problem for problem in summary["pack_problems"])
    recovery("restore", "latest", tmp_path / "target.img", "--yes", repository=damaged.repository)


def test_a_missing_pack_loses_what_was_in_it(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    pack = damaged.blob_at(UNKNOWN + CHUNK).pack
    pack.unlink()
    damages = damaged.verified().event("summary")["damages"]
    inside = [damage["offset"] for damage in damages if damage["partition"] == 4]
    assert inside == [UNKNOWN + number * CHUNK for number in range(4)]
    assert {damage["partition"] for damage in damages} == {4, None}


def test_a_pack_cut_short_loses_only_its_end(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    blob = damaged.blob_at(UNKNOWN + 2 * CHUNK)
    blob.pack.chmod(0o600)
    with blob.pack.open("r+b") as file:
        file.truncate(blob.offset + 10)
    damages = damaged.verified().event("summary")["damages"]
    offsets = {damage["offset"] for damage in damages}
    assert UNKNOWN + 2 * CHUNK in offsets
    assert UNKNOWN + CHUNK not in offsets


def test_restore_stops_at_damage_that_it_meets(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    blob = damaged.blob_at(UNKNOWN + CHUNK)
    flip(blob.pack, blob.offset + 40)
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    message = refused("restore", "latest", target, "--yes", repository=damaged.repository, status=22)
    assert "partly written" in message
    assert "--partial" in message
    assert str(UNKNOWN + CHUNK) in message
    assert read_at(target, 0, MIB) == bytes(MIB), "a target that was left half done looks whole"


def test_restore_does_not_begin_when_a_pack_is_missing(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    damaged.blob_at(UNKNOWN + CHUNK).pack.unlink()
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    before = sha256(target)
    message = refused("restore", "latest", target, "--yes", repository=damaged.repository, status=22)
    assert "untouched" in message
    assert "--partial" in message
    assert sha256(target) == before


def zeros(summary: dict[str, Any]) -> list[tuple[int, int]]:
    return [(damage["offset"], damage["length"]) for damage in summary["damaged"]]


def test_partial_restores_the_rest_byte_for_byte(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    for offset in (UNKNOWN + CHUNK, UNKNOWN + 3 * CHUNK):
        blob = damaged.blob_at(offset)
        flip(blob.pack, blob.offset + 40)
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    ran = recovery("restore", "latest", target, "--yes", "--partial", "--json", repository=damaged.repository, status=3)
    summary = ran.event("summary")
    assert zeros(summary) == [(UNKNOWN + CHUNK, CHUNK), (UNKNOWN + 3 * CHUNK, CHUNK)]
    for offset, length in zeros(summary):
        assert read_at(target, offset, length) == bytes(length)
    kept = [(UNKNOWN, CHUNK), (UNKNOWN + 2 * CHUNK, CHUNK), (0, MIB), (61 * MIB, 3 * MIB)]
    assert equal_ranges(target, sound.disk.image, kept)
    copy = sound.disk.on(target)
    check_filesystem(copy, copy.place("ext4"))
    check_filesystem(copy, copy.place("vfat"))


@pytest.mark.parametrize("offset", [0, SMALL_BYTES - 512], ids=["first", "last"])
def test_partial_restores_the_table_from_its_other_copy(offset: int, sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    blob = damaged.blob_at(offset)
    flip(blob.pack, blob.offset + 20)
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    refused("restore", "latest", target, "--yes", repository=damaged.repository, status=22)
    ran = recovery("restore", "latest", target, "--yes", "--partial", "--json", repository=damaged.repository, status=3)
    assert any(o <= offset < o + n for o, n in zeros(ran.event("summary")))
    assert "No errors detected" in run("sfdisk", "--verify", target)
    assert "No problems found" in run("sgdisk", "-v", target)
    assert equal_ranges(target, sound.disk.image, [(UNKNOWN, 8 * MIB)])
    copy = sound.disk.on(target)
    check_filesystem(copy, copy.place("ext4"))


def test_damage_outside_of_the_partition_does_not_matter_to_its_restore(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    blob = damaged.blob_at(UNKNOWN + CHUNK)
    flip(blob.pack, blob.offset + 40)
    recovery("restore", "latest", tmp_path / "p2", "--partition", "2", "--yes", repository=damaged.repository)
    refused("restore", "latest", tmp_path / "p4", "--partition", "4", "--yes", repository=damaged.repository, status=22)


def test_a_second_copy_of_a_damaged_chunk_heals_it(sound: Captured, tmp_path: Path) -> None:
    """The second copy comes from a capture that did not know of the first: its index was away."""
    both = sound.copy(tmp_path)
    away = tmp_path / "index"
    shutil.copytree(both.repository / "index", away)
    for path in (both.repository / "index").iterdir():
        path.unlink()
    first = sound.blob_at(UNKNOWN + CHUNK)
    recovery("capture", sound.disk.image, repository=both.repository)
    for path in away.iterdir():
        shutil.copy(path, both.repository / "index" / path.name)
    pack = both.repository / first.pack.relative_to(sound.repository)
    flip(pack, first.offset + 40)
    oldest = recovery("snapshots", "--json", repository=both.repository).document[1]["id"]
    summary = recovery("verify", oldest, "--json", repository=both.repository, status=None).event("summary")
    assert summary["damages"] == []
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    recovery("restore", oldest, target, "--yes", repository=both.repository)
    assert equal_ranges(target, sound.disk.image, [(UNKNOWN, 8 * MIB)])


@pytest.mark.parametrize("file", ["system.json", "disk.domain", "disk.map"])
def test_a_damaged_small_file_of_the_image_is_one_clear_error(file: str, sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    blob = damaged.blob(damaged.nodes[file][0])
    flip(blob.pack, blob.offset + 20)
    refused("verify", repository=damaged.repository, status=22)
    target = tmp_path / "target.img"
    refused("restore", "latest", target, "--yes", "--partial", repository=damaged.repository, status=22)
    assert not target.exists()


@pytest.mark.skipif(restic_version(RESTIC) < (0, 16), reason="restic 0.16 or newer has 'repair snapshots'")
def test_an_image_that_restic_shortened_is_refused(sound: Captured, tmp_path: Path) -> None:
    damaged = sound.copy(tmp_path)
    damaged.blob_at(UNKNOWN + CHUNK).pack.unlink()
    restic(RESTIC, "repair", "index", repository=damaged.repository)
    restic(RESTIC, "repair", "snapshots", "--forget", repository=damaged.repository)
    message = refused("verify", "latest", repository=damaged.repository, status=22)
    assert "was changed after it was captured" in message
    target = tmp_path / "target.img"
    refused("restore", "latest", target, "--yes", "--partial", repository=damaged.repository, status=22)
    assert not target.exists()
