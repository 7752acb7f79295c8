"""A disk with every filesystem, filled with this machine's own files, comes back from the repository as it was.

The target holds noise, another partition table and old superblocks before, so that what is not written shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import MIB, loop, read_at, run, sfdisk_json, sha256
from tests.support.fleet import (
    Facts,
    Fleet,
    Place,
    check_filesystem,
    contents,
    equal_ranges,
    make_fleet,
    noise,
    plant_old_signatures,
    signatures,
    used_by_partclone,
    workplace,
)
from tests.support.program import Ran, recovery

pytestmark = pytest.mark.disk

KINDS = ["vfat", "ext4", "xfs", "btrfs", "ntfs", "exfat", "f2fs", "swap"]
WITH_FILES = ["vfat", "ext4", "xfs", "btrfs", "ntfs", "exfat"]

#: Table, sector size, and whether the target is a block device.
CASES = [("gpt", 512, False), ("dos", 512, True), ("gpt", 4096, True)]


@dataclass
class Cycle:
    """What was before, and what came back."""

    source: Fleet
    target: Fleet
    work: Path
    before: dict[str, Facts]
    hash_before: str
    hash_after: str
    captured: Ran
    planted: dict[str, list[tuple[str, int]]]
    restored: Ran


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def cycle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cycle]:
    label, sector_bytes, block_device = request.param
    with workplace(tmp_path_factory.mktemp("cycle"), f"cycle-{label}-{sector_bytes}", 2500 * MIB) as work:
        yield _cycle(work, label, sector_bytes, block_device)


def _cycle(work: Path, label: str, sector_bytes: int, block_device: bool) -> Cycle:
    source = make_fleet(work, label, sector_bytes, 28 * MIB)
    before = {kind: contents(source, source.place(kind), work / "at") for kind in WITH_FILES}
    hash_before = sha256(source.image)
    repository = work / "repository"
    recovery("init", repository=repository)
    captured = recovery("capture", source.image, "--level", "1", "--audit", repository=repository)
    target = source.on(noise(work / "target.img", source.image.stat().st_size))
    old_table = "label: gpt\nstart=5MiB, size=50MiB\nstart=77MiB, size=100MiB\nstart=333MiB, size=60MiB\n"
    with ExitStack() as stack:
        device = stack.enter_context(loop(target.image, sector_bytes=sector_bytes))
        run("sfdisk", "--quiet", "--wipe=never", "--no-reread", "--no-tell-kernel", device, input=old_table)
    plant_old_signatures(target.image, target.places, work)
    planted = {p.kind: signatures(target.image, p.offset, p.length, sector_bytes) for p in target.places}
    with ExitStack() as stack:
        place = stack.enter_context(loop(target.image, sector_bytes=sector_bytes)) if block_device else target.image
        restored = recovery("restore", "latest", place, "--yes", repository=repository)
    return Cycle(source, target, work, before, hash_before, sha256(source.image), captured, planted, restored)


def partition(cycle: Cycle, kind: str) -> tuple[Place, Place]:
    return cycle.source.place(kind), cycle.target.place(kind)


def test_the_source_is_not_written_to(cycle: Cycle) -> None:
    assert cycle.hash_after == cycle.hash_before


def test_the_table_is_the_same_for_sfdisk_which_finds_no_fault(cycle: Cycle) -> None:
    def table(fleet: Fleet) -> dict[str, Any]:
        said = sfdisk_json(fleet.image, fleet.sector_bytes)
        nodes = said.pop("device")
        for entry in said["partitions"]:
            entry["node"] = entry["node"].removeprefix(nodes)
        return said

    assert table(cycle.target) == table(cycle.source)
    with loop(cycle.target.image, sector_bytes=cycle.source.sector_bytes, read_only=True) as device:
        assert "No errors detected" in run("sfdisk", "--verify", device)


@pytest.mark.parametrize("kind", WITH_FILES)
def test_every_file_is_as_it_was(kind: str, cycle: Cycle) -> None:
    after = contents(cycle.target, cycle.target.place(kind), cycle.work / "at")
    before = cycle.before[kind]
    assert len(before) > 100
    assert {path: fact for path, fact in after.items() if before.get(path) != fact} == {}
    assert after.keys() == before.keys()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "swap"])
def test_its_own_checker_finds_no_fault(kind: str, cycle: Cycle) -> None:
    check_filesystem(cycle.target, cycle.target.place(kind))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "swap"])
def test_all_that_partclone_calls_used_is_equal(kind: str, cycle: Cycle) -> None:
    place = cycle.source.place(kind)
    if kind == "f2fs" and cycle.source.sector_bytes == 4096:  # partclone does not know it: whole
        used = [(place.offset, place.length)]
    else:
        used = used_by_partclone(cycle.source, place, cycle.work)
        assert sum(length for _, length in used) < place.length
    assert sum(length for _, length in used) > MIB
    assert equal_ranges(cycle.source.image, cycle.target.image, used)


def test_all_but_unused_areas_is_equal(cycle: Cycle) -> None:
    """What no filesystem's map speaks of: the table, the gaps, the disk's end."""
    size = cycle.source.image.stat().st_size
    position, between = 0, []
    for place in sorted(cycle.source.places, key=lambda place: place.offset):
        between.append((position, place.offset - position))
        position = place.offset + place.length
    between.append((position, size - position))
    assert equal_ranges(cycle.source.image, cycle.target.image, between)


def test_ntfs_has_its_backup_boot_sector_at_the_end_of_its_partition(cycle: Cycle) -> None:
    place, sector = cycle.target.place("ntfs"), cycle.target.sector_bytes
    first = read_at(cycle.target.image, place.offset, sector)
    assert first[3:7] == b"NTFS"
    assert read_at(cycle.target.image, place.offset + place.length - sector, sector) == first


def test_swap_keeps_its_label_and_uuid(cycle: Cycle) -> None:
    def known(fleet: Fleet) -> str:
        with fleet.device(fleet.place("swap"), read_only=True) as device:
            return run("blkid", "-p", "-o", "udev", device)

    assert "ID_FS_UUID=" in known(cycle.source)
    assert known(cycle.target) == known(cycle.source)


@pytest.mark.parametrize("kind", KINDS)
def test_no_signature_is_left_of_what_was_there_before(kind: str, cycle: Cycle) -> None:
    place, sector_bytes = cycle.source.place(kind), cycle.source.sector_bytes
    assert cycle.planted[kind] != []
    wanted = signatures(cycle.source.image, place.offset, place.length, sector_bytes)
    assert signatures(cycle.target.image, place.offset, place.length, sector_bytes) == wanted


def test_no_signature_is_left_of_the_old_table(cycle: Cycle) -> None:
    size, sector_bytes = cycle.source.image.stat().st_size, cycle.source.sector_bytes
    wanted = signatures(cycle.source.image, 0, size, sector_bytes)
    assert signatures(cycle.target.image, 0, size, sector_bytes) == wanted


def test_filesystems_that_partclone_maps_are_not_captured_whole(cycle: Cycle) -> None:
    whole = [line for line in cycle.captured.out.splitlines() if "whole:" in line]
    if cycle.source.sector_bytes == 4096:  # F2FS with such sectors: Debian 13's partclone maps it, Debian 12's does not
        whole = [line for line in whole if "f2fs" not in line]
    assert whole == []


def test_the_audit_finds_nothing_missing_and_leaves_nothing_out(cycle: Cycle) -> None:
    assert "The audit found nothing that is missing" in cycle.captured.said
    assert cycle.captured.said.count(": nothing is missing (") == len(KINDS) + 1  # and what lies around them
    assert cycle.captured.said.count("(allocation, files, checker, ") == len(WITH_FILES)


def test_the_result_says_that_it_was_read_back(cycle: Cycle) -> None:
    assert "read back and found equal" in cycle.restored.said
