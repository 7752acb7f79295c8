"""Sources with unreadable areas: told, mapped, zero-filled, and everything else is right."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recovery.devices.blockio import SourceReader, TargetWriter
from recovery.errors import DeviceError
from recovery.extent import Extent, Extents
from tests.support.badblocks import BLOCK, areas_of, ddrescue_map, with_bad_blocks
from tests.support.disks import KIB, MIB, loop, overwrite, read_at, run
from tests.support.faulty_disk import Faults, faulty_disk
from tests.support.fleet import (
    SMALL_BYTES,
    Fleet,
    check_filesystem,
    equal_ranges,
    noise,
    small_disk,
    used_by_partclone,
)
from tests.support.program import Ran, recovery, restic, start
from tests.support.restic import restic_binaries

pytestmark = pytest.mark.disk

RESTIC = restic_binaries()[-1]

#: Of the partition with nothing known on it, which is captured whole: one block, two together, the last of all.
UNKNOWN = 53 * MIB
IN_UNKNOWN = [UNKNOWN + 3 * BLOCK, UNKNOWN + 5 * MIB, UNKNOWN + 5 * MIB + BLOCK, UNKNOWN + 8 * MIB - BLOCK]
#: In the gap between the table and the first partition.
IN_GAP = 600 * KIB


@dataclass
class Failing:
    """A disk with bad areas, and its capture."""

    whole: Fleet
    source: Path
    bad: list[tuple[int, int]]
    ddrescue: list[tuple[int, int]]
    repository: Path
    captured: Ran
    work: Path

    def dump(self, name: str) -> bytes:
        return restic(RESTIC, "dump", "latest", f"/{name}", repository=self.repository)


def block_of_a_file(disk: Fleet) -> int:
    """Where on the disk the first block of the ext4's last file lies."""
    place = disk.place("ext4")
    content = random.Random(5).randbytes(12 * MIB)[-MIB:][:BLOCK]
    with disk.image.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        found = view.find(content, place.offset)
    assert place.offset < found < place.offset + place.length
    return found


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("disk")
    made = small_disk(folder / "disk.img", folder)
    overwrite(made.image, IN_GAP, random.Random(9).randbytes(BLOCK))
    return made


@pytest.fixture(scope="module")
def failing(disk: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failing]:
    work = tmp_path_factory.mktemp("failing")
    bad = sorted([*IN_UNKNOWN, IN_GAP, block_of_a_file(disk)])
    with with_bad_blocks(disk.image, bad, work) as source:
        repository = work / "repository"
        recovery("init", repository=repository)
        oracle = ddrescue_map(source, work)
        captured = recovery("capture", source, repository=repository, status=3)
        yield Failing(disk, source, joined(bad), oracle, repository, captured, work)


def joined(blocks: list[int]) -> list[tuple[int, int]]:
    areas: list[tuple[int, int]] = []
    for offset in blocks:
        if areas and sum(areas[-1]) == offset:
            areas[-1] = (areas[-1][0], areas[-1][1] + BLOCK)
        else:
            areas.append((offset, BLOCK))
    return areas


def test_the_map_names_what_ddrescue_finds_unreadable(failing: Failing) -> None:
    assert areas_of(failing.dump("disk.map").decode(), "-") == failing.bad
    assert failing.ddrescue == failing.bad


def test_the_map_of_what_is_used_does_not_change(failing: Failing) -> None:
    used = areas_of(failing.dump("disk.domain").decode(), "+")
    for offset, length in failing.bad:
        assert any(o <= offset and offset + length <= o + n for o, n in used)


def test_the_image_has_zeros_there_and_all_else(failing: Failing) -> None:
    image = failing.work / "image"
    image.write_bytes(failing.dump("disk.img"))
    read = areas_of(failing.dump("disk.map").decode(), "+")
    assert equal_ranges(image, failing.whole.image, read)
    for offset, length in failing.bad:
        assert read_at(image, offset, length) == bytes(length)
    assert image.stat().st_size == SMALL_BYTES


def test_the_snapshot_is_tagged_incomplete(failing: Failing) -> None:
    listed = recovery("snapshots", "--json", repository=failing.repository).document
    assert listed[0]["incomplete"] is True
    assert set(listed[0]["tags"]) == {"system-image", "incomplete"}
    assert "incomplete" in recovery("snapshots", repository=failing.repository).said


def test_the_summary_names_areas_and_partitions(failing: Failing) -> None:
    said = failing.captured.said
    assert "INCOMPLETELY" in said
    for offset, length in failing.bad:
        assert f"{length} bytes at byte {offset}" in said
    assert f"{2 * BLOCK} bytes at byte {UNKNOWN + 5 * MIB}, partition 4" in said
    assert f"{BLOCK} bytes at byte {IN_GAP}, partition" not in said


def test_show_names_areas_and_partitions(failing: Failing) -> None:
    said = recovery("show", "latest", repository=failing.repository).said
    for offset, length in failing.bad:
        assert f"{length} bytes at {offset}" in said
    disk = recovery("show", "latest", "--json", repository=failing.repository).document["manifest"]["disks"][0]
    assert [(area["offset"], area["length"]) for area in disk["unreadable"]] == failing.bad
    assert disk["unreadable_bytes"] == sum(length for _, length in failing.bad)
    named = {area["offset"]: area.get("partition") for area in disk["unreadable"]}
    assert named[UNKNOWN + 3 * BLOCK] == 4
    assert named[IN_GAP] is None
    assert 2 in named.values()


def test_what_could_be_read_is_sound(failing: Failing) -> None:
    recovery("verify", "latest", repository=failing.repository)


def test_a_restore_is_incomplete_too_and_names_the_areas(failing: Failing, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    ran = recovery("restore", "latest", target, "--yes", repository=failing.repository, status=3)
    for offset, length in failing.bad:
        assert f"{length} bytes at byte {offset}" in ran.said
        assert read_at(target, offset, length) == bytes(length)
    assert "NOT whole" in ran.said
    assert equal_ranges(target, failing.whole.image, areas_of(failing.dump("disk.map").decode(), "+"))
    copy = failing.whole.on(target)
    check_filesystem(copy, copy.place("ext4"))


def test_the_restore_of_a_whole_partition_of_it_is_complete(failing: Failing, tmp_path: Path) -> None:
    recovery("restore", "latest", tmp_path / "esp.img", "--partition", "1", "--yes", repository=failing.repository)
    recovery(
        "restore", "latest", tmp_path / "x.img", "--partition", "4", "--yes", repository=failing.repository, status=3
    )


def test_a_clone_names_the_areas(failing: Failing, tmp_path: Path) -> None:
    ran = recovery("clone", failing.source, tmp_path / "copy.img", "--yes", status=3)
    for offset, length in failing.bad:
        assert f"{length} bytes at byte {offset}" in ran.said
    assert equal_ranges(tmp_path / "copy.img", failing.whole.image, areas_of(failing.dump("disk.map").decode(), "+"))


def test_a_block_device_is_read_around_its_bad_areas_too(failing: Failing) -> None:
    with loop(failing.source, read_only=True) as device:
        ran = recovery("capture", device, "--json", repository=failing.repository, status=3)
    areas = next(iter(ran.event("summary")["unreadable"].values()))
    assert [
        (area["offset"], area["length"]) if isinstance(area, dict) else tuple(area) for area in areas
    ] == failing.bad
    assert ran.event("summary")["known_bytes"] > 0.9 * ran.event("summary")["used_bytes"]


def test_errors_in_unused_areas_alone_do_not_matter(disk: Fleet, tmp_path: Path) -> None:
    place = disk.place("ext4")
    used = used_by_partclone(disk, place, tmp_path)
    free = next(o + n for (o, n), (following, _) in itertools.pairwise(used) if following - o - n > MIB)
    free = -(-free // BLOCK) * BLOCK + 16 * BLOCK
    copy = tmp_path / "disk.img"
    run("cp", "--sparse=always", disk.image, copy)
    overwrite(copy, free, random.Random(11).randbytes(BLOCK))
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    with with_bad_blocks(copy, [free], tmp_path) as source:
        assert ddrescue_map(source, tmp_path) == [(free, BLOCK)]
        said = recovery("capture", source, repository=repository).said
    assert "INCOMPLETE" not in said
    assert recovery("snapshots", "--json", repository=repository).document[0]["incomplete"] is False


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_disk_whose_table_cannot_be_read_is_captured_by_its_other_copy(
    where: str, disk: Fleet, tmp_path: Path
) -> None:
    """With the first or the last 4096 bytes gone; the target gets a sound table again."""
    copy = tmp_path / "disk.img"
    run("cp", "--sparse=always", disk.image, copy)
    bad = 0 if where == "first" else SMALL_BYTES - BLOCK
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    with with_bad_blocks(copy, [bad], tmp_path) as source:
        recovery("capture", source, repository=repository, status=3)
        recovery("clone", source, tmp_path / "clone.img", "--yes", status=3)
    recovery("restore", "latest", tmp_path / "target.img", "--yes", repository=repository, status=3)
    for made in ("clone.img", "target.img"):
        target = tmp_path / made
        assert "No errors detected" in run("sfdisk", "--verify", target)
        assert "No problems found" in run("sgdisk", "-v", target)
        on_target = disk.on(target)
        check_filesystem(on_target, on_target.place("ext4"))


def test_what_can_be_read_of_the_source_was_not_written_to(failing: Failing) -> None:
    position = 0
    for offset, length in [*failing.bad, (SMALL_BYTES, 0)]:
        assert equal_ranges(failing.source, failing.whole.image, [(position, offset - position)])
        position = offset + length


def test_a_disk_that_is_pulled_out_is_said_to_have_gone(tmp_path: Path) -> None:
    """The kernel gives a disk that went away no size, and reads of it end at once."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4 * MIB))
    with loop(image) as device, SourceReader(device, 512) as source:
        os.truncate(image, 0)
        run("losetup", "--set-capacity", device)
        run("blockdev", "--flushbufs", device)
        with pytest.raises(DeviceError, match="went away while it was read") as told:
            source.read(Extent(0, MIB), Extents([(0, MIB)]), memoryview(bytearray(MIB)))
    assert "cable" in told.value.hint


def test_a_target_that_is_pulled_out_is_said_to_have_gone_and_not_to_be_full(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4 * MIB))
    with loop(image) as device, TargetWriter(device) as target:
        target.write(0, b"x" * 4096)
        target.sync()
        os.truncate(image, 0)
        run("losetup", "--set-capacity", device)
        with pytest.raises(DeviceError, match="went away while it was written") as told:
            target.write(4096, b"x" * 4096)
    assert "cable" in told.value.hint


def test_all_else_is_read_before_bad_areas_are_gone_into(tmp_path: Path) -> None:
    size, chunk = 160 * MIB, 2 * MIB
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(12).randbytes(size))
    areas = [(21 * MIB + 64 * KIB, 64 * KIB), (24 * MIB, 4 * KIB), (101 * MIB, 2 * MIB), (size - 4 * KIB, 4 * KIB)]
    log = tmp_path / "reads"
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    with faulty_disk(Faults(str(disk), unreadable=tuple(areas), log=str(log))) as source:
        recovery("disks", source)
        log.write_text("")
        recovery("capture", source, "--no-verify", repository=repository, status=3)
    name = f"{source.name}.map"
    lost = areas_of(restic(RESTIC, "dump", "latest", f"/{name}", repository=repository).decode(), "-")
    assert lost == areas
    reads = [line.split() for line in log.read_text().splitlines()]
    bad = {number for start, length in areas for number in range(start // chunk, (start + length - 1) // chunk + 1)}
    good = [at for at, read in enumerate(reads) if len(read) == 3 and int(read[0]) // chunk not in bad]
    first_of_each = {int(reads[at][0]) // chunk: at for at in reversed(good)}
    assert len(first_of_each) == size // chunk - len(bad)
    all_else_was_read = max(first_of_each.values())
    failed = [at for at, read in enumerate(reads) if read[3:] == ["!"]]
    before = sum(at < all_else_was_read for at in failed)
    assert before < len(failed) / 50, f"{before} of {len(failed)} failures came before the last of the good was read"


@pytest.mark.parametrize("way", ["patience", "finish"])
def test_bad_areas_are_gone_into_only_for_as_long_as_is_wanted(tmp_path: Path, way: str) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(13).randbytes(32 * MIB))
    areas = [(5 * MIB, MIB), (20 * MIB, 128 * KIB)]
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    # Sector by sector, the first area alone would take many minutes.
    faults = Faults(str(disk), unreadable=tuple(areas), slow_seconds=0.2 if way == "finish" else 0.0)
    with faulty_disk(faults) as source:
        if way == "patience":
            ended = recovery("capture", source, "--patience", "0", repository=repository, status=3)
        else:
            screen = start("capture", source, "--json", repository=repository)
            assert screen.stdout is not None
            for line in screen.stdout:
                if json.loads(line).get("put_off_bytes"):
                    break
            ended = recovery("finish", repository=repository, status=0)
            assert "bad areas are gone into no further" in ended.said
            screen.communicate(timeout=60)
            assert screen.returncode == 3
        name = source.name
    told = restic(RESTIC, "dump", "latest", f"/{name}.map", repository=repository).decode()
    read = areas_of(told, "+")
    left = sorted(areas_of(told, "/") + areas_of(told, "*"))
    assert left
    assert not areas_of(told, "-")  # nothing was gone into to its end
    assert 32 * MIB - sum(length for _, length in read) <= 2 * 2 * MIB
    assert all(any(o <= start and start + length <= o + n for o, n in left) for start, length in areas)
    image = tmp_path / "image"
    image.write_bytes(restic(RESTIC, "dump", "latest", f"/{name}.img", repository=repository))
    assert equal_ranges(image, disk, read)
    assert all(read_at(image, offset, length) == bytes(length) for offset, length in left)
    assert "incomplete" in recovery("snapshots", repository=repository).said
    target = tmp_path / "target.img"
    recovery("restore", "latest", target, "--yes", repository=repository, status=3)
    assert equal_ranges(target, disk, read)


def test_a_disk_that_dies_while_bad_areas_are_gone_into_leaves_an_image_of_all_else(tmp_path: Path) -> None:
    disk, trigger = tmp_path / "disk.img", tmp_path / "dead"
    disk.write_bytes(random.Random(14).randbytes(32 * MIB))
    area = (5 * MIB, 10 * MIB)
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    faults = Faults(str(disk), unreadable=(area,), slow_seconds=0.05, trigger=str(trigger))
    with faulty_disk(faults) as source:
        screen = start("capture", source, "--json", repository=repository)
        assert screen.stdout is not None
        for line in screen.stdout:
            said = json.loads(line)
            if said.get("put_off_bytes") and said["bytes_done"] >= 18 * MIB:
                trigger.touch()
                break
        out, _ = screen.communicate(timeout=120)
        trigger.unlink()
        assert screen.returncode == 3, out
        name = source.name
    read = areas_of(restic(RESTIC, "dump", "latest", f"/{name}.map", repository=repository).decode(), "+")
    assert sum(length for _, length in read) >= 20 * MIB
    image = tmp_path / "image"
    image.write_bytes(restic(RESTIC, "dump", "latest", f"/{name}.img", repository=repository))
    assert equal_ranges(image, disk, read)
