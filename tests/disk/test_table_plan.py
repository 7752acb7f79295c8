"""The table planned for a target, against what sfdisk and sgdisk make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.devices.table import read_table
from recovery.devices.table_plan import TablePlan, plan_table_for_target, refuse_too_small
from recovery.errors import Refused
from tests.support.disks import (
    GPT_SCRIPT,
    MBR_SCRIPT,
    MIB,
    blank,
    damage_backup_gpt,
    damage_primary_gpt,
    loop,
    make_filesystem,
    overwrite,
    partitioned,
    read_at,
    run,
    sfdisk_json,
)

pytestmark = pytest.mark.disk

SIZE = 48 * MIB
LARGER = pytest.mark.parametrize("target_bytes", [SIZE + MIB, 3 * SIZE + 4096 * 7, 5 << 40])
SECTORS = pytest.mark.parametrize("sector_bytes", [512, 4096])


def plan(image: Path, target_bytes: int, sector_bytes: int = 512) -> TablePlan:
    size = image.stat().st_size
    return plan_table_for_target(
        read_at(image, 0, MIB), read_at(image, size - MIB, MIB), size, target_bytes, sector_bytes
    )


def carried_out(planned: TablePlan, path: Path, size_bytes: int) -> Path:
    blank(path, size_bytes)
    for offset, data in planned.writes:
        overwrite(path, offset, data)
    return path


def partitions(path: Path, sector_bytes: int = 512) -> list[dict[str, object]]:
    """Every field of every partition, by sfdisk, without the device node."""
    return [
        {key: value for key, value in entry.items() if key != "node"}
        for entry in sfdisk_json(path, sector_bytes)["partitions"]
    ]


def assert_sound(path: Path, sector_bytes: int) -> None:
    with loop(path, sector_bytes=sector_bytes) as device:
        assert "No errors detected" in run("sfdisk", "--verify", device)
        said = run("sgdisk", "--verify", device)
    assert "No problems found" in said, said
    table = read_table(path, path.stat().st_size, sector_bytes)
    assert table is not None
    assert (table.origin, table.complete, table.findings) == ("primary", True, ())


@SECTORS
@LARGER
def test_on_a_larger_target_the_backup_moves_to_the_end(tmp_path: Path, sector_bytes: int, target_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    planned = plan(image, target_bytes, sector_bytes)
    target = carried_out(planned, tmp_path / "target.img", target_bytes)
    assert_sound(target, sector_bytes)
    assert partitions(target, sector_bytes) == partitions(image, sector_bytes)
    assert sfdisk_json(target, sector_bytes)["id"] == sfdisk_json(image, sector_bytes)["id"]
    assert planned.findings == ()


@SECTORS
def test_the_planned_bytes_are_those_that_sfdisk_writes(tmp_path: Path, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    planned = plan(image, 2 * SIZE, sector_bytes)
    relocated = blank(tmp_path / "relocated.img", 2 * SIZE)
    overwrite(relocated, 0, image.read_bytes())
    with loop(relocated, sector_bytes=sector_bytes) as device:
        run("sfdisk", "--quiet", "--relocate", "gpt-bak-std", "--no-reread", "--no-tell-kernel", device)
    for offset, data in planned.writes:
        assert read_at(relocated, offset, len(data)) == data, f"the write at byte {offset} differs"


@SECTORS
@pytest.mark.parametrize("script", [GPT_SCRIPT, MBR_SCRIPT], ids=["gpt", "mbr"])
def test_on_an_equal_target_no_byte_changes(tmp_path: Path, script: str, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, script, sector_bytes)
    planned = plan(image, SIZE, sector_bytes)
    for offset, data in planned.writes:
        assert read_at(image, offset, len(data)) == data
    target = carried_out(planned, tmp_path / "target.img", SIZE)
    if script == GPT_SCRIPT:
        assert_sound(target, sector_bytes)


@SECTORS
@pytest.mark.parametrize("target_bytes", [SIZE, 2 * SIZE], ids=["equal", "larger"])
@pytest.mark.parametrize("how", ["signature", "checksum", "entries", "first34"])
def test_a_damaged_primary_is_written_anew(tmp_path: Path, how: str, target_bytes: int, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    expected = partitions(image, sector_bytes)
    damage_primary_gpt(image, how, sector_bytes)
    planned = plan(image, target_bytes, sector_bytes)
    target = carried_out(planned, tmp_path / "target.img", target_bytes)
    assert_sound(target, sector_bytes)
    assert partitions(target, sector_bytes) == expected
    assert "written anew from the backup" in planned.findings[0]


@pytest.mark.parametrize("target_bytes", [SIZE, 2 * SIZE], ids=["equal", "larger"])
def test_a_damaged_backup_is_written_anew(tmp_path: Path, target_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    expected = partitions(image)
    damage_backup_gpt(image)
    planned = plan(image, target_bytes)
    target = carried_out(planned, tmp_path / "target.img", target_bytes)
    assert_sound(target, 512)
    assert partitions(target) == expected
    assert "written anew from the primary" in planned.findings[0]


def test_a_gpt_whose_entries_were_moved_away_stays_so(tmp_path: Path) -> None:
    """As for boards whose boot loader lies where the entries normally are."""
    image = partitioned(tmp_path / "disk.img", SIZE, "label: gpt\nstart=16MiB, size=8MiB\n")
    run("sgdisk", "--move-main-table=16384", image)
    overwrite(image, 16 * 512, b"boot loader")
    expected = partitions(image)
    target = carried_out(plan(image, 2 * SIZE), tmp_path / "target.img", 2 * SIZE)
    assert_sound(target, 512)
    assert partitions(target) == expected
    assert read_at(target, 16 * 512, 11) == b"boot loader"


def test_boot_code_and_what_lies_behind_the_table_stay(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    overwrite(image, 0, b"boot code")
    overwrite(image, 40 * 512, b"behind the table")
    target = carried_out(plan(image, 2 * SIZE), tmp_path / "target.img", 2 * SIZE)
    assert read_at(target, 0, 9) == b"boot code"
    assert read_at(target, 40 * 512, 16) == b"behind the table"


@pytest.mark.parametrize("target_bytes", [SIZE, 2 * SIZE], ids=["equal", "larger"])
def test_an_mbr_stays_as_it_is(tmp_path: Path, target_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, MBR_SCRIPT)
    assert plan(image, target_bytes).writes == ((0, read_at(image, 0, MIB)),)


def test_a_filesystem_straight_on_the_disk_stays_as_it_is(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    make_filesystem(image, 0, SIZE, "mkfs.ext4", "-q")
    assert plan(image, 2 * SIZE).writes == ((0, read_at(image, 0, MIB)),)


def test_a_filesystem_made_over_a_gpt_is_not_given_that_gpt_again(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    make_filesystem(image, 0, SIZE, "mkfs.ext4", "-q", "-F")
    assert plan(image, SIZE).writes == ((0, read_at(image, 0, MIB)),)


def test_a_smaller_target_is_refused_with_the_figures(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    with pytest.raises(Refused):
        plan(image, SIZE - 512)
    table = read_table(image, SIZE, 512)
    with pytest.raises(Refused) as refusal:
        refuse_too_small(table, SIZE, 20 * MIB)
    assert "number 2, ends at byte 33554432 (32.0 MiB)" in refusal.value.message
