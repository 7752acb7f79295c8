"""``recovery disks``: what is said of disks and image files, and how it is shown."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from recovery.devices.disk import disk_for
from recovery.inventory import DiskReport, render, survey, survey_disk
from tests.support.disks import (
    GPT_SCRIPT,
    MBR_SCRIPT,
    MIB,
    blank,
    damage_primary_gpt,
    loop,
    make_filesystem,
    mounted,
    overwrite,
    partitioned,
    run,
    sha256,
)

pytestmark = pytest.mark.disk

SIZE = 48 * MIB


def screen(reports: list[DiskReport], width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(render(reports))
    return out.getvalue()


def contents(report: DiskReport) -> dict[int, str | None]:
    return {part.entry.number: part.content.type if part.content else None for part in report.partitions}


@pytest.mark.parametrize("sector_bytes", [512, 4096])
@pytest.mark.parametrize("attached", [False, True], ids=["file", "device"])
def test_partitions_are_told_with_what_is_on_them(tmp_path: Path, sector_bytes: int, attached: bool) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    make_filesystem(image, MIB, 8 * MIB, "mkfs.vfat", "-n", "EFI", sector_bytes=sector_bytes)
    make_filesystem(image, 24 * MIB, 8 * MIB, "mkfs.ext4", "-q", "-L", "root", sector_bytes=sector_bytes)
    make_filesystem(image, 12 * MIB, 8 * MIB, "mkswap", "-q", sector_bytes=sector_bytes)
    damage_primary_gpt(image, "first34", sector_bytes)
    before = sha256(image)
    if attached:
        with loop(image, sector_bytes=sector_bytes) as device:
            (report,) = survey([device])
    else:
        (report,) = survey([image])
    assert report.disk.logical_sector_bytes == sector_bytes
    assert contents(report) == {1: "vfat", 2: "ext4", 3: "swap"}
    assert "the backup at the end of the disk was used" in " ".join(screen([report]).split())
    assert sha256(image) == before


def test_an_mbr_disk_is_told(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, MBR_SCRIPT)
    make_filesystem(image, 28 * MIB, 4 * MIB, "mkfs.ext4", "-q")
    (report,) = survey([image])
    assert contents(report) == {1: None, 2: None, 3: None, 5: None, 6: None, 7: "ext4"}


def test_a_filesystem_straight_on_the_disk_and_a_blank_disk_are_told(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    (report,) = survey([image])
    assert (report.table, report.content, report.findings) == (None, None, ())
    assert "no partition table" in screen([report])
    make_filesystem(image, 0, SIZE, "mkfs.ext4", "-q", "-L", "straight")
    (report,) = survey([image])
    assert report.table is None
    assert report.content is not None
    assert (report.content.type, report.content.label) == ("ext4", "straight")
    assert "whole disk" in screen([report])


def test_how_full_a_partition_is_and_what_lives_there_are_told(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    make_filesystem(image, MIB, 8 * MIB, "mkfs.vfat")
    make_filesystem(image, 24 * MIB, 8 * MIB, "mkfs.ext4", "-q", "-L", "root")
    with loop(image, offset=24 * MIB, size=8 * MIB) as device, mounted(device, tmp_path / "mount") as root:
        (root / "etc").mkdir()
        (root / "etc/os-release").write_text("PRETTY_NAME='Old Linux 1.0'\n")
        (root / "file").write_bytes(b"x" * 2 * MIB)
    (report,) = survey([image])
    parts = {part.entry.number: part for part in report.partitions}
    assert {number: part.system for number, part in parts.items()} == {
        1: "EFI system partition (starts the machine)",
        2: "Old Linux 1.0",
        3: "",
    }
    assert parts[3].used_bytes is None
    assert parts[2].used_bytes is not None
    assert 2 * MIB < parts[2].used_bytes < 6 * MIB
    assert "Old Linux 1.0" in screen([report])
    assert (report.used_bytes, report.system) == (None, "")


def test_what_lies_straight_on_a_disk_is_told_in_the_same_way(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    run("mkfs.ext4", "-q", "-F", image)
    with loop(image) as device, mounted(device, tmp_path / "mount") as root:
        (root / "etc").mkdir()
        (root / "etc/os-release").write_text("PRETTY_NAME='Old Linux 1.0'\n")
    (report,) = survey([image])
    assert report.system == "Old Linux 1.0"
    assert report.used_bytes is not None
    assert "Old Linux 1.0" in screen([report])


def test_a_disk_that_vanished_is_a_finding_beside_the_others(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    disk = disk_for(image)
    image.unlink()
    report = survey_disk(disk)
    assert len(report.findings) == 1
    assert "cannot be opened" in report.findings[0]
    assert "No such file" in screen([report])


def test_every_disk_of_the_machine_is_told(tmp_path: Path) -> None:
    with loop(blank(tmp_path / "disk.img", SIZE)) as device:
        found = [report.disk.path for report in survey()]
        listed = run("lsblk", "--nodeps", "--noheadings", "--output", "PATH").split()
    assert str(device) in found
    # Other programs attach and detach loop devices meanwhile; the rest of the machine stands still.
    assert {path for path in found if "/loop" not in path} <= set(listed)


def test_the_table_fits_80_columns_and_escapes_are_harmless(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, "label: gpt\nsize=8MiB, name=" + "n" * 36 + "\nsize=8MiB\n")
    make_filesystem(image, 9 * MIB, 8 * MIB, "mkfs.ext4", "-q", "-O", "^metadata_csum")
    overwrite(image, 9 * MIB + 1024 + 120, b"\x1b[2J\x07\xc2\x9b31m\xe2\x80\xae".ljust(16, b"\0"))
    run("sgdisk", "--typecode=1:12345678-1234-1234-1234-123456789abc", image)
    reports = survey([image])
    text = screen(reports)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert not [c for c in text if c != "\n" and (not c.isprintable())]
    assert "\\x1b[2J" in text
    assert "n" * 10 in text
    assert msgspec.json.decode(msgspec.json.encode(reports), type=list[DiskReport]) == reports
