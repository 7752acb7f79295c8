"""Partition tables as they are read from image files, against sfdisk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.devices.table import (
    PartitionTable,
    TableEntry,
    guess_sector_bytes,
    last_used_byte,
    read_table,
    table_extents,
)
from recovery.extent import Extent
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
    run,
    sfdisk_json,
    sha256,
)

pytestmark = pytest.mark.disk

SIZE = 48 * MIB
SECTORS = pytest.mark.parametrize("sector_bytes", [512, 4096])


def read(path: Path, sector_bytes: int = 512) -> PartitionTable | None:
    """Read a table, and see to it that reading leaves the file as it was."""
    before = sha256(path), path.stat().st_mtime_ns
    table = read_table(path, path.stat().st_size, sector_bytes)
    assert (sha256(path), path.stat().st_mtime_ns) == before
    return table


def as_sfdisk_says(
    path: Path, sector_bytes: int
) -> list[tuple[int, int, str, str | None, str | None, tuple[str, ...]]]:
    """The partitions by sfdisk, in the shape of ``told``."""
    rows = []
    for entry in sfdisk_json(path, sector_bytes)["partitions"]:
        gpt = "uuid" in entry
        rows.append(
            (
                entry["start"] * sector_bytes,
                entry["size"] * sector_bytes,
                entry["type"].lower() if gpt else f"0x{int(entry['type'], 16):02x}",
                entry.get("name"),
                entry["uuid"].lower() if gpt else None,
                tuple(entry.get("attrs", "boot" if entry.get("bootable") else "").split()),
            )
        )
    return sorted(rows)


def told(table: PartitionTable) -> list[tuple[int, int, str, str | None, str | None, tuple[str, ...]]]:
    gpt = table.label == "gpt"
    return sorted((e.offset, e.length, e.type, e.name, e.uuid if gpt else None, e.flags) for e in table.entries)


@SECTORS
def test_a_gpt_reads_as_sfdisk_reads_it(tmp_path: Path, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    table = read(image, sector_bytes)
    assert table is not None
    assert told(table) == as_sfdisk_says(image, sector_bytes)
    assert (table.label, table.origin, table.findings, table.complete) == ("gpt", "primary", (), True)
    assert table.uuid == "11111111-2222-3333-4444-555555555555"
    assert [entry.number for entry in table.entries] == [1, 3, 2]
    assert guess_sector_bytes(image, SIZE) == sector_bytes


@SECTORS
@pytest.mark.parametrize("how", ["signature", "checksum", "entries", "first34"])
def test_a_damaged_primary_gpt_is_read_from_its_backup(tmp_path: Path, sector_bytes: int, how: str) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    expected = as_sfdisk_says(image, sector_bytes)
    damage_primary_gpt(image, how, sector_bytes)
    table = read(image, sector_bytes)
    assert table is not None
    assert told(table) == expected
    assert (table.origin, table.complete) == ("backup", True)
    assert "backup at the end of the disk was used" in table.findings[0]
    assert guess_sector_bytes(image, SIZE) == sector_bytes


@SECTORS
def test_a_damaged_backup_gpt_is_told(tmp_path: Path, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, sector_bytes)
    expected = as_sfdisk_says(image, sector_bytes)
    damage_backup_gpt(image, sector_bytes)
    table = read(image, sector_bytes)
    assert table is not None
    assert told(table) == expected
    assert table.origin == "primary"
    assert table.findings == ("The backup GPT is damaged (its signature is gone); the primary was used.",)


@SECTORS
def test_an_mbr_with_logical_partitions_reads_as_sfdisk_reads_it(tmp_path: Path, sector_bytes: int) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, MBR_SCRIPT, sector_bytes)
    table = read(image, sector_bytes)
    assert table is not None
    assert told(table) == as_sfdisk_says(image, sector_bytes)
    assert (table.label, table.uuid, table.findings, table.complete) == ("msdos", "0x1badcafe", (), True)
    roles = [(entry.number, entry.role) for entry in table.entries]
    assert roles == [(1, "primary"), (2, "primary"), (3, "extended"), (5, "logical"), (6, "logical"), (7, "logical")]
    assert table.entries[0].uuid == "1badcafe-01"
    assert guess_sector_bytes(image, SIZE) == sector_bytes


@SECTORS
def test_wiping_what_the_table_occupies_leaves_no_table(tmp_path: Path, sector_bytes: int) -> None:
    for script in (GPT_SCRIPT, MBR_SCRIPT):
        image = partitioned(tmp_path / "disk.img", SIZE, script, sector_bytes)
        table = read(image, sector_bytes)
        assert table is not None
        for extent in table_extents(table, SIZE):
            overwrite(image, extent.offset, bytes(extent.length))
        assert image.read_bytes().count(0) == SIZE, "something of the table lies outside its extents"


def test_a_block_device_reads_like_its_image_file(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, 4096)
    with loop(image, sector_bytes=4096) as device:
        assert read_table(device, SIZE, 4096) == read(image, 4096)


def test_a_gpt_seen_through_an_enclosure_with_another_sector_size_keeps_its_places(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT, 4096)
    table = read(image, 512)
    assert table is not None
    assert told(table) == as_sfdisk_says(image, 4096)
    assert table.logical_sector_bytes == 4096
    assert "written for sectors of 4096 bytes" in table.findings[0]


@pytest.mark.parametrize(
    "mkfs",
    [
        ("mkfs.ext4", "-q", "-F"),
        ("mkfs.vfat", "-I"),
        ("mkfs.vfat", "-I", "--mbr=y"),
        ("mkfs.ntfs", "-q", "-F", "-f"),
        ("mkfs.exfat",),
        ("mkfs.btrfs", "-q", "-f", "-M"),
        ("mkswap", "-q"),
    ],
    ids=" ".join,
)
def test_a_filesystem_straight_on_the_disk_is_no_table(tmp_path: Path, mkfs: tuple[str, ...]) -> None:
    image = blank(tmp_path / "disk.img", 128 * MIB)
    make_filesystem(image, 0, 128 * MIB, *mkfs)
    assert read(image) is None


def test_a_filesystem_made_over_a_gpt_is_no_table(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    make_filesystem(image, 0, SIZE, "mkfs.ext4", "-q", "-F")
    assert read(image) is None


def test_a_blank_disk_has_no_table(tmp_path: Path) -> None:
    assert read(blank(tmp_path / "disk.img", SIZE)) is None


def test_a_tiny_disk_has_no_table(tmp_path: Path) -> None:
    for size in (1, 511, 512, 513, 4096):
        assert read(blank(tmp_path / "disk.img", size)) is None


@pytest.mark.parametrize("script", [GPT_SCRIPT, MBR_SCRIPT], ids=["gpt", "mbr"])
def test_an_image_cut_short_keeps_its_partitions_and_says_what_is_beyond(tmp_path: Path, script: str) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, script)
    expected = as_sfdisk_says(image, 512)
    with image.open("r+b") as file:
        file.truncate(26 * MIB)
    table = read(image)
    assert table is not None
    assert set(told(table)) <= set(expected)
    assert any("beyond the end of the disk" in finding for finding in table.findings)
    cut = [entry for entry in table.entries if entry.end > 26 * MIB]
    assert cut


def test_overlapping_partitions_are_told_and_kept(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, "label: dos\nsize=8MiB\nsize=8MiB\n")
    overwrite(image, 446 + 16 + 8, (4096).to_bytes(4, "little"))
    table = read(image)
    assert table is not None
    assert told(table) == as_sfdisk_says(image, 512)
    assert "Partitions 1 and 2 overlap." in table.findings
    assert not table.complete


def test_a_broken_chain_of_logical_partitions_is_told(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, MBR_SCRIPT)
    entry = next(e for e in sfdisk_json(image)["partitions"] if str(e["node"]).endswith("6"))
    table = read(image)
    assert table is not None
    record = [e for e in table.own_extents if e.offset < entry["start"] * 512][-1]
    overwrite(image, record.offset, bytes(512))
    table = read(image)
    assert table is not None
    assert [e.number for e in table.entries if e.role == "logical"] == [5]
    assert not table.complete
    assert any("damaged" in finding for finding in table.findings)


def test_a_circle_of_logical_partitions_ends(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, MBR_SCRIPT)
    table = read(image)
    assert table is not None
    last = table.own_extents[-1]
    first_record = table.own_extents[1]
    assert first_record.offset < last.offset
    pointer = b"\0\0\0\0\x05\0\0\0" + (0).to_bytes(4, "little") + (2048).to_bytes(4, "little")
    overwrite(image, last.offset + 446 + 16, pointer)
    table = read(image)
    assert table is not None
    assert any("circle" in finding for finding in table.findings)
    assert not table.complete


def test_a_hybrid_mbr_is_read_as_gpt(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    expected = as_sfdisk_says(image, 512)
    run("sgdisk", "--hybrid=1:2", image)
    table = read(image)
    assert table is not None
    assert (table.label, told(table)) == ("gpt", expected)
    assert any("hybrid" in finding for finding in table.findings)


def test_an_mbr_whose_partitions_lie_in_one_another_is_read(tmp_path: Path) -> None:
    """As on sticks made from the images of Linux distributions: the first partition begins at sector 0."""
    image = partitioned(tmp_path / "disk.img", SIZE, "label: dos\nsize=8MiB, type=17\nsize=8MiB, type=ef\n")
    overwrite(image, 446 + 8, (0).to_bytes(4, "little") + (SIZE // 512).to_bytes(4, "little"))
    table = read(image)
    assert table is not None
    assert [(e.offset, e.length) for e in table.entries] == [(0, SIZE), (9 * MIB, 8 * MIB)]
    assert "Partitions 1 and 2 overlap." in table.findings


def test_an_mbr_made_over_a_gpt_wins(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    overwrite(image, 0, partitioned(tmp_path / "other.img", SIZE, "label: dos\nsize=8MiB\n").read_bytes()[:512])
    table = read(image)
    assert table is not None
    assert table.label == "msdos"
    assert any("earlier use" in finding for finding in table.findings)


def test_a_gpt_without_its_protective_mbr_is_read(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    expected = as_sfdisk_says(image, 512)
    overwrite(image, 0, bytes(512))
    table = read(image)
    assert table is not None
    assert told(table) == expected
    assert table.findings == ("The protective MBR in the first sector is gone.",)


def test_a_disk_that_grew_is_told(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    with image.open("r+b") as file:
        file.truncate(SIZE + 16 * MIB)
    table = read(image)
    assert table is not None
    assert table.findings == ("The backup GPT is not at the end of the disk: the disk is larger than its table says.",)


def test_names_that_are_not_text_survive(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, "label: gpt\nsize=8MiB, name=a\n")
    run("sgdisk", "--change-name=1:caf\u00e9 \u2603\U0001f4be", image)
    table = read(image)
    assert table is not None
    assert table.entries[0].name == "caf\u00e9 \u2603\U0001f4be"


def test_the_partition_that_ends_last_is_found(tmp_path: Path) -> None:
    table = read(partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT))
    assert table is not None
    last = last_used_byte(table)
    assert last is not None
    entry, end = last
    assert isinstance(entry, TableEntry)
    assert (entry.number, end) == (2, 32 * MIB)
    assert entry.extent == Extent(24 * MIB, 8 * MIB)


@pytest.mark.parametrize("label", ["mac", "sun", "bsd", "dvh", "amiga"])
def test_a_rarer_label_is_read_and_taken_for_incomplete(tmp_path: Path, label: str) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    run("parted", "--script", image, "mklabel", label)
    table = read(image)
    assert table is not None
    assert table.label == label
    assert not table.complete


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_damage_to_a_table_is_worse_than_a_finding(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes overwritten anywhere in the sectors of a table: reading ends, and what it tells is sane."""
    script, sector_bytes = data.draw(st.sampled_from([GPT_SCRIPT, MBR_SCRIPT])), data.draw(st.sampled_from([512, 4096]))
    image = tmp_path_factory.getbasetemp() / f"damaged-{script == GPT_SCRIPT}-{sector_bytes}.img"
    undamaged = image.with_suffix(".whole")
    if not undamaged.exists():
        partitioned(undamaged, SIZE, script, sector_bytes)
    run("cp", "--sparse=always", undamaged, image)
    places = st.one_of(st.integers(0, 1023), st.integers(0, 40 * 512), st.integers(-34 * 512, -64), st.just(446))
    if script == MBR_SCRIPT:
        places = st.one_of(places, st.integers(17 * MIB, 17 * MIB + 512), st.integers(17 * MIB + 440, 17 * MIB + 511))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        overwrite(image, place, data.draw(st.binary(min_size=1, max_size=48)))
    table = read_table(image, SIZE, sector_bytes)
    if table is not None:
        assert all(entry.offset >= 0 and entry.length > 0 for entry in table.entries)
        assert table_extents(table, SIZE).end <= SIZE


@settings(max_examples=40, deadline=None, derandomize=True)
@given(head=st.binary(max_size=2048), sector_bytes=st.sampled_from([512, 4096]), marked=st.booleans())
def test_garbage_is_read_to_an_end(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, sector_bytes: int, marked: bool
) -> None:
    image = blank(tmp_path_factory.mktemp("garbage") / "disk.img", MIB)
    overwrite(image, 0, head)
    if marked:
        overwrite(image, 510, b"\x55\xaa")
    read(image, sector_bytes)
