"""Whole disks: all that is not told used is overwritten, and tables, filesystems and files are as before."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recovery.devices.mapfile import encode_map, parse_map
from recovery.devices.table import PartitionTable, read_table
from recovery.extent import Extent, Extents
from recovery.image.domain import DiskDomain, disk_domain
from tests.support.disks import (
    GPT_SCRIPT,
    MIB,
    blank,
    damage_primary_gpt,
    loop,
    mounted,
    overwrite,
    partitioned,
    run,
    sfdisk_json,
    sha256,
)
from tests.support.filesystems import Tree, fill, overwrite_unused, tree

pytestmark = pytest.mark.disk

GPT = """label: gpt
start=2MiB, size=320MiB, type=U
start=322MiB, size=64MiB, type=L
start=386MiB, size=320MiB, type=L
start=706MiB, size=16MiB, type=S
start=722MiB, size=8MiB, type=L
"""

MBR = """label: dos
start=1MiB, size=96MiB, type=c
start=200MiB, size=700MiB, type=5
start=201MiB, size=64MiB, type=83
start=350MiB, size=320MiB, type=83
start=700MiB, size=16MiB, type=82
"""

MKFS = {
    "fat": ("mkfs.fat", "-F32", "-s1"),
    "ext4": ("mkfs.ext4", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
    "swap": ("mkswap",),
}
CHECK = {"fat": ("fsck.fat", "-n"), "ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n"), "swap": ("swaplabel",)}


def build(image: Path, of: PartitionTable, kinds: list[str], work: Path) -> dict[int, Tree]:
    """Filesystems on the partitions of ``image`` in the table's order, filled where the kernel can mount them."""
    files: dict[int, Tree] = {}
    entries = [entry for entry in of.entries if entry.role != "extended"]
    for entry, kind in zip(entries, kinds, strict=False):
        with loop(image, sector_bytes=of.logical_sector_bytes, offset=entry.offset, size=entry.length) as device:
            run(*MKFS[kind], device)
            if kind in ("ext4", "xfs"):
                with mounted(device, work / f"mount {entry.number}") as at:
                    fill(at, 20 * MIB, seed=entry.number)
                    files[entry.number] = tree(at)
    return files


def assert_survives(image: Path, of: PartitionTable, kinds: list[str], files: dict[int, Tree], work: Path) -> None:
    entries = [entry for entry in of.entries if entry.role != "extended"]
    for entry, kind in zip(entries, kinds, strict=False):
        with loop(image, sector_bytes=of.logical_sector_bytes, offset=entry.offset, size=entry.length) as device:
            run(*CHECK[kind], device)
            if entry.number in files:
                with mounted(device, work / f"mount {entry.number}") as at:
                    assert tree(at) == files[entry.number]


def domain_of(image: Path, of: PartitionTable | None, sector_bytes: int = 512, **options: object) -> DiskDomain:
    before = sha256(image)
    made = disk_domain(image, image.stat().st_size, sector_bytes, of, **options)  # type: ignore[arg-type]
    assert sha256(image) == before
    return made


def methods(domain: DiskDomain) -> list[str]:
    return [partition.usage.method if partition.usage else "left out" for partition in domain.partitions]


@pytest.mark.parametrize(
    ("script", "sector_bytes"), [(GPT, 512), (GPT, 4096), (MBR, 512)], ids=["gpt", "gpt 4096", "mbr"]
)
def test_a_disk_survives_without_its_unused_bytes(script: str, sector_bytes: int, tmp_path: Path) -> None:
    size = 1024 * MIB
    image = partitioned(tmp_path / "disk.img", size, script, sector_bytes)
    of = read_table(image, size, sector_bytes)
    assert of is not None
    kinds = ["fat", "ext4", "xfs", "swap"]
    files = build(image, of, kinds, tmp_path)
    table_before = sfdisk_json(image, sector_bytes)

    domain = domain_of(image, of, sector_bytes)

    assert methods(domain)[:4] == ["map", "map", "map", "swap-header"]
    assert methods(domain)[4:] == ["whole"] * (len(domain.partitions) - 4)
    assert domain.used.total_bytes < 350 * MIB
    stale = overwrite_unused(image, domain.used.invert(Extent(0, size)), tmp_path / "stale.img")
    assert sfdisk_json(stale, sector_bytes)["partitions"] == [
        {**entry, "node": entry["node"].replace(image.name, stale.name)} for entry in table_before["partitions"]
    ]
    assert read_table(stale, size, sector_bytes) == of
    assert_survives(stale, of, kinds, files, tmp_path)


def test_the_edges_of_gaps_the_end_and_both_copies_of_a_gpt_are_used(tmp_path: Path) -> None:
    size = 400 * MIB
    image = partitioned(tmp_path / "disk.img", size, GPT_SCRIPT)
    overwrite(image, 33 * MIB, b"a boot loader of its own")
    used = domain_of(image, read_table(image, size, 512)).used
    assert used == Extents([(0, 48 * MIB), (size - 16 * MIB, 16 * MIB)])


def test_of_a_damaged_gpt_both_places_are_used(tmp_path: Path) -> None:
    size = 400 * MIB
    image = partitioned(tmp_path / "disk.img", size, GPT_SCRIPT)
    damage_primary_gpt(image, "first34")
    of = read_table(image, size, 512)
    assert of is not None
    used = domain_of(image, of).used
    assert used.covers(Extent(0, 34 * 512))
    assert used.covers(Extent(size - 33 * 512, 33 * 512))


def test_partitions_can_be_left_out(tmp_path: Path) -> None:
    size = 1024 * MIB
    image = partitioned(tmp_path / "disk.img", size, GPT)
    of = read_table(image, size, 512)
    assert of is not None
    build(image, of, ["fat", "ext4"], tmp_path)
    domain = domain_of(image, of, exclude={1, 3, 5})
    assert methods(domain) == ["left out", "map", "left out", "whole", "left out"]
    for left_out in (of.entries[0], of.entries[2], of.entries[4]):
        assert domain.used.clip(left_out.extent) == Extents()
    assert domain.used.covers(of.entries[3].extent)
    assert domain_of(image, of, include=[2, 4]).used == domain.used


def test_a_filesystem_straight_on_the_disk_is_mapped(tmp_path: Path) -> None:
    size = 200 * MIB
    image = blank(tmp_path / "disk.img", size)
    run("mkfs.ext4", "-q", image)
    with loop(image) as device, mounted(device, tmp_path / "mount") as at:
        fill(at, 20 * MIB)
        files = tree(at)
    domain = domain_of(image, None)
    assert [(p.number, p.extent, p.usage and p.usage.method) for p in domain.partitions] == [
        (0, Extent(0, size), "map")
    ]
    assert domain.used.covers(Extent(size - 16 * MIB, 16 * MIB))
    assert domain.used.total_bytes < size // 2
    stale = overwrite_unused(image, domain.used.invert(Extent(0, size)), tmp_path / "stale.img")
    run("e2fsck", "-fn", stale)
    with loop(stale) as device, mounted(device, tmp_path / "mount") as at:
        assert tree(at) == files


def test_a_blank_disk_is_used_whole(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 100 * MIB)
    domain = domain_of(image, None)
    assert domain.used == Extents([(0, 100 * MIB)])
    assert methods(domain) == ["whole"]


def test_a_disk_that_is_no_multiple_of_a_sector_is_used_to_its_last_byte(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 64 * MIB + 100)
    run("mkfs.ext4", "-q", image)
    assert domain_of(image, None).used.end == 64 * MIB + 100


def test_ddrescue_reads_the_maps_that_are_written(tmp_path: Path) -> None:
    """ddrescuelog is the oracle: it accepts them, counts the same bytes, and its set operations agree with ours."""
    size = 1 << 30
    used = Extents((n * 100_000, 40_000 + n) for n in range(5000))
    unreadable = Extents([(300_000, 1024), (90_000_000, 8)])
    domain, read = tmp_path / "disk.domain", tmp_path / "disk.map"
    domain.write_bytes(encode_map(size, {"+": used}, ["used extents"]))
    read.write_bytes(encode_map(size, {"+": used.subtract(unreadable), "-": used.intersect(unreadable)}))
    assert "1073 MB,  in  10000 area(s)" in run("ddrescuelog", "-t", domain)
    assert run("ddrescuelog", "-b1", "--list-blocks=-", read).split() == [
        str(byte) for extent in used.intersect(unreadable) for byte in range(extent.offset, extent.end)
    ]
    both = subprocess.run(["ddrescuelog", f"--xor-mapfile={read}", domain], capture_output=True, check=True).stdout
    assert parse_map(both)["+"] == used.intersect(unreadable)
    assert subprocess.run(["ddrescuelog", "--done-status", domain], check=False).returncode == 1
    assert parse_map(run("ddrescuelog", "--invert-mapfile", domain).encode())["-"] == used
