"""Captures: several disks, chosen partitions, what a second one adds, interrupts, a full destination."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from recovery.repository.repository import Repository
from tests.support.disks import MIB, blank, loop, mounted, overwrite, partitioned, run, sha256, umount
from tests.support.fleet import SMALL_BYTES, Fleet, equal_ranges, noise, small_disk
from tests.support.program import PASSWORD, Ran, interrupt_when, recovery, refused, restic, start
from tests.support.restic import restic_binaries

pytestmark = pytest.mark.disk

RESTIC = restic_binaries()[-1]


@dataclass(frozen=True)
class Captured:
    """A disk and the repository with its image."""

    disk: Fleet
    repository: Path
    first: dict[str, Any]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    folder = tmp_path_factory.mktemp("capture")
    disk = small_disk(folder / "disk.img", folder)
    before = sha256(disk.image)
    repository = folder / "repository"
    recovery("init", repository=repository)
    ran = recovery("capture", disk.image, "--json", repository=repository)
    yield Captured(disk, repository, ran.event("summary"))
    assert sha256(disk.image) == before, "a source was written to"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    recovery("init", repository=tmp_path / "repository")
    return tmp_path / "repository"


def summary(ran: Ran) -> dict[str, Any]:
    return ran.event("summary")


def dump(repository: Path, name: str, snapshot: str = "latest") -> bytes:
    return restic(RESTIC, "dump", snapshot, f"/{name}", repository=repository)


def stored_bytes(repository: Path) -> int:
    return sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())


def test_an_unchanged_disk_adds_only_metadata(captured: Captured) -> None:
    before = stored_bytes(captured.repository)
    again = summary(recovery("capture", captured.disk.image, "--json", repository=captured.repository))
    assert captured.first["new_bytes"] > 12 * MIB
    assert again["new_bytes"] == 0
    assert again["stored_bytes"] < 20_000
    assert stored_bytes(captured.repository) - before < 40_000


def test_the_manifest_says_what_sfdisk_and_blkid_say(captured: Captured) -> None:
    manifest = json.loads(dump(captured.repository, "system.json"))
    disk = manifest["disks"][0]
    table = json.loads(run("sfdisk", "--json", captured.disk.image))["partitiontable"]
    assert manifest["version"] == "1.0"
    assert (disk["size_bytes"], disk["logical_sector_bytes"]) == (SMALL_BYTES, 512)
    assert disk["table"]["uuid"].lower() == table["id"].lower()
    assert [(p["offset"], p["length"]) for p in disk["partitions"]] == [
        (entry["start"] * 512, entry["size"] * 512) for entry in table["partitions"]
    ]
    ext4 = disk["partitions"][1]["content"]
    with captured.disk.device(captured.disk.place("ext4"), read_only=True) as device:
        said = run("blkid", "-p", "-o", "value", "-s", "UUID", device).strip()
    assert (ext4["type"], ext4["label"], ext4["uuid"]) == ("ext4", "small", said)
    assert disk["used_bytes"] == captured.first["used_bytes"]
    assert any(name.startswith("partclone.") for name in manifest["tools"])


def test_a_block_device_and_its_file_share_every_chunk(captured: Captured) -> None:
    with loop(captured.disk.image, read_only=True) as device:
        again = summary(recovery("capture", device, "--json", repository=captured.repository))
    assert again["new_bytes"] == 0


def test_a_partition_that_moved_to_another_disk_and_place_is_known(captured: Captured, tmp_path: Path) -> None:
    source = captured.disk.place("unknown")
    script = "label: gpt\nstart=3MiB, size=1MiB\nstart=11534848s, size=8MiB\n".replace("11534848s", "22529")
    other = partitioned(tmp_path / "other.img", 40 * MIB, script)
    with captured.disk.image.open("rb") as file:
        file.seek(source.offset)
        overwrite(other, 22529 * 512, file.read(source.length))
    moved = summary(recovery("capture", other, "--json", repository=captured.repository))
    assert moved["known_bytes"] >= 8 * MIB
    assert moved["stored_bytes"] < 64 * 1024


def test_a_partition_captured_alone_is_known(captured: Captured) -> None:
    alone = recovery("capture", captured.disk.image, "--only", "2", "--json", repository=captured.repository)
    assert summary(alone)["stored_bytes"] < 64 * 1024
    methods = {p["number"]: p["method"] for p in alone.event("plan")["disks"][0]["partitions"]}
    assert methods == {1: "left-out", 2: "map", 3: "left-out", 4: "left-out"}


def test_partitions_left_out_are_zeros_in_the_image(captured: Captured, tmp_path: Path) -> None:
    ran = recovery("capture", captured.disk.image, "--without", "4", "--json", repository=captured.repository)
    image = tmp_path / "image"
    image.write_bytes(dump(captured.repository, "disk.img", summary(ran)["snapshot_id"]))
    assert image.stat().st_size == SMALL_BYTES
    unknown = captured.disk.place("unknown")
    with image.open("rb") as file:
        file.seek(unknown.offset)
        assert file.read(unknown.length) == bytes(unknown.length)
    assert equal_ranges(image, captured.disk.image, [(0, MIB), (61 * MIB, 3 * MIB)])


@pytest.mark.parametrize(
    "words", [("--only", "7"), ("--without", "0"), ("--only", "x"), ("--only", ""), ("--only", "1,,2")]
)
def test_partitions_that_do_not_exist_cannot_be_chosen(words: tuple[str, str], captured: Captured) -> None:
    refused("capture", captured.disk.image, *words, repository=captured.repository, status=2)


def test_two_disks_of_one_name_go_into_one_snapshot(captured: Captured, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = noise(tmp_path / "other" / "disk.img", 5 * MIB)
    system = noise(tmp_path / "system.json", 3 * MIB, seed=3)
    ran = recovery("capture", captured.disk.image, other, system, "--json", repository=repository)
    names = [disk["name"] for disk in ran.event("plan")["disks"]]
    assert len(set(names)) == 3
    assert names[:2] == ["disk", "disk-2"]
    assert dump(repository, "disk-2.img") == other.read_bytes()
    assert dump(repository, f"{names[2]}.img") == system.read_bytes()
    message = refused("restore", "latest", tmp_path / "x.img", "--yes", repository=repository, status=2)
    assert "--disk" in message
    assert "disk-2" in message
    recovery("restore", "latest", tmp_path / "x.img", "--disk", "disk-2", "--yes", repository=repository)
    assert (tmp_path / "x.img").read_bytes() == other.read_bytes()
    recovery("verify", repository=repository)
    assert "disk-2" in recovery("show", repository=repository).said


def test_a_disk_named_twice_is_refused(captured: Captured, tmp_path: Path) -> None:
    image = captured.disk.image
    (tmp_path / "link").symlink_to(image)
    for twice in ((image, image), (image, tmp_path / "link"), (image, image.parent / "." / image.name)):
        assert "twice" in refused("capture", *twice, repository=captured.repository, status=2)


def test_a_disk_with_a_name_that_is_no_text_is_captured(repository: Path, tmp_path: Path) -> None:
    disk = noise(tmp_path / "näme \udcff\n.img", 2 * MIB)
    assert summary(recovery("capture", disk, "--json", repository=repository))["used_bytes"] == 2 * MIB
    recovery("show", repository=repository)
    recovery("snapshots", repository=repository)
    recovery("restore", "latest", tmp_path / "back.img", "--yes", repository=repository)
    assert (tmp_path / "back.img").read_bytes() == disk.read_bytes()


def test_a_filesystem_straight_on_the_disk_comes_back(repository: Path, tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk.img", 32 * MIB)
    run("mkfs.ext4", "-q", "-Lstraight", disk)
    with loop(disk) as device, mounted(device, tmp_path / "mount") as at:
        (at / "file").write_bytes(random.Random(1).randbytes(5 * MIB))
    used = summary(recovery("capture", disk, "--json", repository=repository))["used_bytes"]
    assert 5 * MIB < used < 30 * MIB
    target = noise(tmp_path / "target.img", 32 * MIB)
    recovery("restore", "latest", target, "--yes", repository=repository)
    run("e2fsck", "-f", "-n", target)
    with loop(target, read_only=True) as device, mounted(device, tmp_path / "mount", "ro,noload") as at:
        assert (at / "file").read_bytes() == random.Random(1).randbytes(5 * MIB)


def test_a_blank_disk_is_captured_and_costs_nothing(repository: Path, tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk.img", 64 * MIB)
    before = stored_bytes(repository)
    recovery("capture", disk, repository=repository)
    assert stored_bytes(repository) - before < 20_000
    target = noise(tmp_path / "target.img", 64 * MIB)
    recovery("restore", "latest", target, "--yes", repository=repository)
    assert equal_ranges(disk, target, [(0, 64 * MIB)])


def test_an_interrupt_keeps_what_was_stored(repository: Path, tmp_path: Path) -> None:
    disk = noise(tmp_path / "disk.img", 150 * MIB)
    _incompressible(disk)
    process = start("capture", disk, "--level", "1", "--json", repository=repository)
    ran = interrupt_when(process, lambda: any((repository / "data").glob("??/" + "?" * 64)))
    assert ran.status == 130
    last = ran.events[-1]
    assert (last["message_type"], last["code"]) == ("error", 130)
    assert last["hint"]
    assert list((repository / "locks").iterdir()) == []
    assert recovery("snapshots", "--json", repository=repository).document == []
    restic(RESTIC, "check", "--read-data", repository=repository)
    again = summary(recovery("capture", disk, "--level", "1", "--json", repository=repository))
    assert again["known_bytes"] >= 30 * MIB, "what was published was stored again"
    assert again["known_bytes"] + again["new_bytes"] == 150 * MIB


def test_a_second_interrupt_ends_at_once(repository: Path, tmp_path: Path) -> None:
    disk = noise(tmp_path / "disk.img", 200 * MIB)
    _incompressible(disk)
    process = start("capture", disk, "--level", "19", "--json", repository=repository)
    assert process.stdout is not None
    phases = (json.loads(line).get("phase") for line in process.stdout)
    assert "capture" in phases, "it ended before it could be interrupted"
    ran = interrupt_when(process, lambda: True, times=2)
    assert ran.status == 130
    recovery("capture", noise(tmp_path / "small.img", MIB), repository=repository)


def _incompressible(disk: Path) -> None:
    made = random.Random(17)
    with disk.open("r+b") as file:
        for _ in range(disk.stat().st_size // MIB):
            file.write(made.randbytes(MIB))


@pytest.fixture
def small_place(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-osize=70m", "none", folder)
    try:
        yield folder
    finally:
        umount(folder)


def test_a_destination_that_will_not_hold_it_is_told_before(small_place: Path, tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk.img", 120 * MIB)
    _incompressible(disk)
    recovery("init", repository=small_place / "r")
    message = refused("capture", disk, repository=small_place / "r", status=23)
    assert "120 MiB" in message
    assert list((small_place / "r" / "data").glob("??/*")) == []


def test_a_destination_that_runs_full_is_an_error_and_stays_whole(small_place: Path, tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk.img", 120 * MIB)
    _incompressible(disk)
    recovery("init", repository=small_place / "r")
    message = refused("capture", disk, "--no-space-check", "--level", "1", repository=small_place / "r", status=23)
    assert "no room left" in message
    assert list((small_place / "r" / "locks").iterdir()) == []
    (tmp_path / "small.img").write_bytes(b"small" * 1000)
    restic(RESTIC, "check", "--read-data", repository=small_place / "r")
    assert list((small_place / "r").rglob("*-tmp-*")) == []


def test_a_dry_run_reads_and_stores_nothing(captured: Captured, repository: Path) -> None:
    before = stored_bytes(repository)
    ran = recovery("capture", captured.disk.image, "--dry-run", "--json", repository=repository)
    assert ran.event("plan")["predicted_bytes"] > 12 * MIB
    assert stored_bytes(repository) == before
    assert recovery("snapshots", "--json", repository=repository).document == []


def test_every_line_of_json_is_an_event(captured: Captured, repository: Path) -> None:
    ran = recovery("capture", captured.disk.image, "--json", repository=repository)
    assert {event["message_type"] for event in ran.events} >= {"plan", "summary"}
    assert ran.events[-1]["message_type"] == "summary"
    assert ran.err == ""


def test_a_clock_behind_the_newest_snapshot_is_refused_unless_that_one_was_wrong(
    captured: Captured, repository: Path
) -> None:
    recovery("capture", captured.disk.image, repository=repository)
    opened = Repository.open(repository, PASSWORD)
    (known,) = opened.snapshots()[0]
    ahead = opened.save_snapshot(structs.replace(known.snapshot, time=datetime.now(UTC) + timedelta(hours=3)))
    assert f"newest snapshot, {ahead[:8]}" in refused("capture", captured.disk.image, repository=repository)
    recovery("capture", captured.disk.image, "--no-clock-check", repository=repository)
    assert len(recovery("snapshots", "--json", repository=repository).document) == 3
