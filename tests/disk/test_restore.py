"""Restoring whole disks onto targets of other sizes and kinds, single partitions, and the question before it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.captured import Captured, small_disk_captured
from tests.support.disks import (
    KIB,
    MIB,
    blank,
    loop,
    overwrite,
    partitioned,
    read_at,
    run,
    sfdisk_json,
    sha256,
    umount,
)
from tests.support.fleet import (
    SMALL_BYTES,
    check_filesystem,
    contents,
    equal_ranges,
    noise,
    signatures,
    used_by_partclone,
)
from tests.support.program import interrupt_when, on_terminal, recovery, refused, start

pytestmark = pytest.mark.disk


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return small_disk_captured(tmp_path_factory.mktemp("restore"))


def assert_restored(captured: Captured, target: Path, work: Path) -> None:
    disk, copy = captured.disk, captured.disk.on(target)
    ext4 = copy.place("ext4")
    check_filesystem(copy, ext4)
    check_filesystem(copy, copy.place("vfat"))
    assert contents(copy, ext4, work / "at") == contents(disk, ext4, work / "at")
    unknown = copy.place("unknown")
    assert equal_ranges(disk.image, target, [(unknown.offset, unknown.length)])
    assert equal_ranges(disk.image, target, used_by_partclone(disk, ext4, work))


@pytest.mark.parametrize("more", [512, 8 * MIB, 200 * MIB])
@pytest.mark.parametrize("old_gpt", [True, False], ids=["over-old-gpt", "over-noise"])
def test_a_larger_target_gets_its_backup_table_at_its_new_end(
    more: int, old_gpt: bool, captured: Captured, tmp_path: Path
) -> None:
    size = SMALL_BYTES + more
    target = noise(tmp_path / "target.img", size)
    if old_gpt:
        run("sfdisk", "--quiet", "--wipe=never", target, input="label: gpt\nsize=10MiB\nsize=30MiB\n")
    recovery("restore", "latest", target, "--yes", repository=captured.repository)
    assert_restored(captured, target, tmp_path)
    assert "No errors detected" in run("sfdisk", "--verify", target)
    assert "No problems found" in run("sgdisk", "-v", target)
    said = run("parted", "--script", target, "unit", "B", "print")
    assert f"{size}B" in said
    assert "Error" not in said
    assert "Warning" not in said
    ours, theirs = sfdisk_json(target), sfdisk_json(captured.disk.image)
    assert ours["lastlba"] == size // 512 - 34
    for table in (ours, theirs):
        table.pop("lastlba")
        device = table.pop("device")
        for entry in table["partitions"]:
            entry["node"] = entry["node"].removeprefix(device)
    assert ours == theirs
    assert read_at(target, size - 512, 8) == b"EFI PART"
    assert read_at(target, SMALL_BYTES - 512, 8) != b"EFI PART"
    assert [found for found, _ in signatures(target, 0, size)] == ["PMBR", "gpt", "gpt"]


def test_a_block_device_is_restored_and_keeps_nothing_of_before(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    with loop(target) as device:
        said = recovery("restore", "latest", device, "--yes", repository=captured.repository).said
        assert "read back and found equal" in said
    assert_restored(captured, target, tmp_path)
    for place in captured.disk.places:
        wanted = signatures(captured.disk.image, place.offset, place.length)
        assert signatures(target, place.offset, place.length) == wanted
    assert target.stat().st_blocks * 512 < 48 * MIB, "what is unused was not discarded"


def test_a_new_file_becomes_the_disk_and_is_sparse(captured: Captured, tmp_path: Path) -> None:
    target = tmp_path / "new.img"
    recovery("restore", "latest", target, "--yes", "--no-verify", repository=captured.repository)
    assert_restored(captured, target, tmp_path)
    assert run("sfdisk", "--verify", target)
    assert target.stat().st_size == SMALL_BYTES
    assert target.stat().st_blocks * 512 < 48 * MIB


def test_a_link_to_the_target_is_followed(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    (tmp_path / "link").symlink_to(target)
    recovery("restore", "latest", tmp_path / "link", "--yes", repository=captured.repository)
    assert (tmp_path / "link").is_symlink()
    assert_restored(captured, target, tmp_path)


# -- a single partition

NEIGHBOURS = "label: gpt\nsize=6MiB\nsize=30MiB\nsize=6MiB\n"


def test_a_partition_goes_into_another_disk_and_its_neighbours_stay(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", 48 * MIB)
    run("sfdisk", "--quiet", "--wipe=never", target, input=NEIGHBOURS)
    place = next(entry for entry in sfdisk_json(target)["partitions"] if entry["size"] == 30 * MIB // 512)
    offset = place["start"] * 512
    run("cp", target, tmp_path / "before.img")
    words = ("restore", "latest", target, "--partition", "2", "--to-partition", "2")
    recovery(*words, "--yes", repository=captured.repository)
    outside = [(0, offset), (offset + 30 * MIB, 48 * MIB - offset - 30 * MIB)]
    assert equal_ranges(target, tmp_path / "before.img", outside)
    with loop(target, offset=offset, size=30 * MIB, read_only=True) as device:
        run("e2fsck", "-f", "-n", device)
        found = run("wipefs", "--no-act", "--parsable", "--output", "TYPE", device).splitlines()
    assert found == ["ext4"]
    source = captured.disk.place("ext4")
    moved = noise(tmp_path / "compare.img", 1)
    moved.write_bytes(read_at(target, offset, source.length))
    used = [(o - source.offset, n) for o, n in used_by_partclone(captured.disk, source, tmp_path)]
    (tmp_path / "source.img").write_bytes(read_at(captured.disk.image, source.offset, source.length))
    assert equal_ranges(moved, tmp_path / "source.img", used)


def test_a_partition_goes_into_a_partition_of_a_block_device(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", 48 * MIB)
    run("sfdisk", "--quiet", "--wipe=never", target, input=NEIGHBOURS)
    offset = sfdisk_json(target)["partitions"][1]["start"] * 512
    with loop(target) as device:
        words = ("restore", "latest", device, "--partition", "4", "--to-partition", "2")
        recovery(*words, "--yes", repository=captured.repository)
    unknown = captured.disk.place("unknown")
    assert read_at(target, offset, unknown.length) == read_at(captured.disk.image, unknown.offset, unknown.length)


def test_a_partition_goes_into_a_new_file_of_its_size(captured: Captured, tmp_path: Path) -> None:
    target = tmp_path / "root.img"
    recovery("restore", "latest", target, "--partition", "2", "--yes", repository=captured.repository)
    assert target.stat().st_size == captured.disk.place("ext4").length
    run("e2fsck", "-f", "-n", target)


def test_a_partition_that_is_cut_off_half_way_does_not_look_whole(captured: Captured, tmp_path: Path) -> None:
    """Interrupted as soon as it writes: the place of the old superblock holds neither the old nor the new one."""
    target = blank(tmp_path / "target.img", captured.disk.place("ext4").length)
    run("mkfs.ext4", "-q", "-Lold", target)
    words = ("restore", "latest", target, "--partition", "2", "--yes")
    process = start(*words, "--json", repository=captured.repository)
    ran = interrupt_when(process, lambda: b"old" not in read_at(target, 1024, 1024))
    if ran.status == 0:
        pytest.skip("it was done before the interrupt came")
    assert ran.status == 130
    assert "partly written" in ran.out
    assert signatures(target, 0, target.stat().st_size) == []


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (("--partition", "2", "--to-partition", "1"), 20, [str(6 * MIB), str(28 * MIB)]),
        (("--partition", "9", "--to-partition", "1"), 2, ["no partition 9", "1, 2, 3, 4"]),
        (("--partition", "2", "--to-partition", "9"), 2, ["no partition 9", "1, 2, 3"]),
        (("--partition", "2"), 2, ["--to-partition"]),
        (("--to-partition", "2"), 2, ["--partition"]),
        (("--partition", "0", "--to-partition", "2"), 2, ["no partition 0"]),
        (("--partition", "-1", "--to-partition", "2"), 2, ["-1"]),
        (("--disk", "sdz"), 2, ["no disk 'sdz'", "disk"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_refused_and_writes_nothing(
    words: tuple[str, ...], status: int, expected: list[str], captured: Captured, tmp_path: Path
) -> None:
    target = partitioned(tmp_path / "target.img", 64 * MIB, NEIGHBOURS)
    before = sha256(target)
    message = refused("restore", "latest", target, *words, "--yes", repository=captured.repository, status=status)
    assert [part for part in expected if part not in message] == []
    assert sha256(target) == before


def test_an_extended_partition_is_no_partition_to_restore(tmp_path: Path) -> None:
    script = "label: dos\nsize=4MiB, type=83\ntype=f\nsize=4MiB, type=83\n"
    disk, repository = partitioned(tmp_path / "mbr.img", 16 * MIB, script), tmp_path / "repository"
    recovery("init", repository=repository)
    recovery("capture", disk, repository=repository)
    assert "1, 5" in refused(
        "restore", "latest", tmp_path / "x.img", "--partition", "2", "--yes", repository=repository, status=2
    )
    target = noise(tmp_path / "target.img", 16 * MIB)
    recovery("restore", "latest", target, "--yes", repository=repository)
    words = ("restore", "latest", target, "--partition", "1", "--yes", "--to-partition")
    refused(*words, "2", repository=repository, status=2)
    recovery(*words, "5", repository=repository)


def test_a_partition_that_was_left_out_cannot_be_restored(captured: Captured, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    recovery("capture", captured.disk.image, "--without", "2,4", repository=repository)
    message = refused("restore", "latest", tmp_path / "x", "--partition", "2", "--yes", repository=repository, status=2)
    assert "left out" in message
    assert not (tmp_path / "x").exists()
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    said = recovery("restore", "latest", target, "--yes", repository=repository).said
    assert "Partition 2 was left out" in said
    assert "is lost" in said
    assert sfdisk_json(target)["partitions"][1]["name"] == "root"
    for kind in ("ext4", "unknown"):
        place = captured.disk.place(kind)
        assert signatures(target, place.offset, place.length) == []
    copy = captured.disk.on(target)
    check_filesystem(copy, copy.place("vfat"))


@pytest.mark.parametrize("start", [63, 4096], ids=["in-the-first-MiB", "behind-it"])
def test_a_partition_that_was_left_out_stays_where_the_target_has_it(start: int, tmp_path: Path) -> None:
    """Restored onto the disk it came from: what was left out of the image has gone on living there."""
    script = f"label: dos\nstart={start}, size=8192, type=83\nstart=8MiB, size=4MiB, type=83\n"
    disk, repository = partitioned(tmp_path / "disk.img", 16 * MIB, script), tmp_path / "repository"
    overwrite(disk, 8 * MIB, os.urandom(4 * MIB))
    system = read_at(disk, 8 * MIB, 4 * MIB)
    recovery("init", repository=repository)
    recovery("capture", disk, "--without", "1", repository=repository)
    mine = os.urandom(8192 * 512)
    overwrite(disk, start * 512, mine)
    overwrite(disk, 8 * MIB, bytes(4 * MIB))
    said = recovery("restore", "latest", disk, "--yes", repository=repository).said
    assert "what the target holds there stays" in said
    assert read_at(disk, start * 512, len(mine)) == mine
    assert read_at(disk, 8 * MIB, 4 * MIB) == system
    assert sfdisk_json(disk)["partitions"][0]["start"] == start


# -- the word before the first write


def test_a_dry_run_shows_the_plan_and_writes_nothing(captured: Captured, tmp_path: Path) -> None:
    target = partitioned(tmp_path / "target.img", SMALL_BYTES, NEIGHBOURS)
    run("mkfs.ext4", "-q", "-Lprecious", "-Eoffset=7340032", target, "20m")
    before, status = sha256(target), target.stat()
    said = recovery("restore", "latest", target, "--dry-run", repository=captured.repository).said
    assert '"precious"' in said
    assert '"small"' in said
    plan = recovery("restore", "latest", target, "--dry-run", "--json", repository=captured.repository).event("plan")
    assert plan["target"] == str(target)
    assert sha256(target) == before
    assert target.stat().st_mtime_ns == status.st_mtime_ns
    recovery("restore", "latest", tmp_path / "new.img", "--dry-run", repository=captured.repository)
    assert not (tmp_path / "new.img").exists()


def test_typing_the_short_name_confirms(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    ran = on_terminal(
        "restore", "latest", target, answer=b"target.img\n", question="Type target.img", repository=captured.repository
    )
    assert ran.status == 0, ran.out
    assert_restored(captured, target, tmp_path)


@pytest.mark.parametrize("answer", [b"yes\n", b"\n", b"target\n", b"TARGET.IMG\n", b"\x04", b"\x03", b"y\n"], ids=repr)
def test_anything_else_stops_and_leaves_the_target_untouched(answer: bytes, captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    before = sha256(target)
    ran = on_terminal(
        "restore", "latest", target, answer=answer, question="Type target.img", repository=captured.repository
    )
    assert ran.status == 130, ran.out
    assert "untouched" in ran.said
    assert sha256(target) == before
    assert list((captured.repository / "locks").iterdir()) == []


def test_with_nobody_to_ask_it_is_refused(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", SMALL_BYTES)
    before = sha256(target)
    assert "--yes" in refused("restore", "latest", target, repository=captured.repository)
    recovery("restore", "latest", target, "--json", repository=captured.repository, status=20)
    assert sha256(target) == before


def test_an_interrupt_leaves_the_target_partly_written_and_says_so(captured: Captured, tmp_path: Path) -> None:
    target = noise(tmp_path / "target.img", 200 * MIB)
    repository = tmp_path / "repository"
    disk = noise(tmp_path / "disk.img", 160 * MIB)
    recovery("init", repository=repository)
    recovery("capture", disk, "--level", "1", "--no-verify", repository=repository)
    process = start("restore", "latest", target, "--yes", "--json", repository=repository)
    ran = interrupt_when(process, lambda: read_at(target, 0, 512) == bytes(512))
    assert ran.status == 130
    error = json.loads(ran.out.splitlines()[-1])
    assert (error["message_type"], error["code"]) == ("error", 130)
    assert "partly written" in error["message"]
    assert read_at(target, 0, MIB) == bytes(MIB)
    assert list((repository / "locks").iterdir()) == []
    recovery("restore", "latest", target, "--yes", repository=repository)
    assert equal_ranges(disk, target, [(0, 160 * MIB)])


def test_a_target_that_is_too_full_is_told_as_such(captured: Captured, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-osize=20m", "none", small)
    try:
        message = refused("restore", "latest", small / "new.img", "--yes", repository=captured.repository, status=23)
        assert "untouched" in message
        assert "20.0 MiB free" in message
        assert not (small / "new.img").exists()
    finally:
        umount(small)


def test_a_disk_of_an_odd_size_comes_back_whole(tmp_path: Path) -> None:
    """No multiple of a sector: an image file that was cut off, say."""
    disk, repository = tmp_path / "odd.img", tmp_path / "repository"
    disk.write_bytes(os.urandom(3 * MIB + 4321))
    recovery("init", repository=repository)
    recovery("capture", disk, repository=repository)
    for size in (3 * MIB + 4321, 5 * MIB + 77):
        target = noise(tmp_path / f"{size}.img", size)
        recovery("restore", "latest", target, "--yes", repository=repository)
        assert equal_ranges(disk, target, [(0, 3 * MIB + 4321)])


@pytest.mark.parametrize("size", [1, 511, 512, 4 * KIB, MIB])
def test_a_tiny_disk_comes_back_whole(size: int, captured: Captured, tmp_path: Path) -> None:
    disk = tmp_path / "tiny.img"
    disk.write_bytes(os.urandom(size))
    image = recovery("capture", disk, "--json", repository=captured.repository).event("summary")["snapshot_id"]
    recovery("restore", image, tmp_path / "back.img", "--yes", repository=captured.repository)
    assert (tmp_path / "back.img").read_bytes() == disk.read_bytes()
