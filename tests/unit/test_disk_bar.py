"""A bar shows what lies on a disk, attached or captured, in its place and in proportion."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from recovery.devices.probe import Content
from recovery.devices.table import PartitionTable, TableEntry
from recovery.image.manifest import ImageDisk, ImagePartition, LayoutRecord
from recovery.units import GIB, MIB
from tui.glyphs import ASCII, FULL
from tui.widgets.disk_bar import DiskBar, Segment, segments_of_image, widths

EXT4 = Content(kind="filesystem", type="ext4", label="root")


def captured(*partitions: ImagePartition, size_bytes: int = 10 * GIB, content: Content | None = None) -> ImageDisk:
    entries = tuple(TableEntry(part.number, part.offset, part.length, "0x83") for part in partitions)
    return ImageDisk(
        name="sda",
        image="sda.img",
        domain="sda.domain",
        map="sda.map",
        size_bytes=size_bytes,
        logical_sector_bytes=512,
        physical_sector_bytes=512,
        layout=LayoutRecord(MIB, (), 0),
        used_bytes=GIB,
        table=PartitionTable("msdos", None, 512, entries) if entries else None,
        content=content,
        partitions=partitions,
    )


def part(number: int, offset: int, length: int, method: str = "map", role: str = "primary") -> ImagePartition:
    return ImagePartition(number, offset, length, role, method, length // 4, content=EXT4)


def drawn(segments: list[Segment], width: int, ascii_only: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as caught:
        console.print(DiskBar(segments, ASCII if ascii_only else FULL))
    return caught.get().splitlines()


def test_partitions_of_an_image_lie_in_their_order_with_the_gaps_between_them() -> None:
    record = captured(part(2, 6 * GIB, 2 * GIB), part(1, MIB, 4 * GIB - MIB))
    found = segments_of_image(record)
    assert [(s.number, s.length, s.gap) for s in found] == [
        (1, 4 * GIB - MIB, False),
        (None, 2 * GIB, True),
        (2, 2 * GIB, False),
        (None, 2 * GIB, True),
    ]
    assert found[0].used_bytes == (4 * GIB - MIB) // 4
    assert found[0].name == "ext4 root"


def test_a_larger_disk_has_what_is_left_over_at_its_end() -> None:
    found = segments_of_image(captured(part(1, 0, 10 * GIB)), 20 * GIB)
    assert [(s.length, s.gap) for s in found] == [(10 * GIB, False), (10 * GIB, True)]


def test_what_was_left_out_is_named_so_and_what_was_taken_whole_has_no_fill() -> None:
    found = segments_of_image(captured(part(1, 0, 5 * GIB, "left-out"), part(2, 5 * GIB, 5 * GIB, "whole")))
    assert found[0].name.startswith("left out")
    assert found[1].used_bytes is None


def test_an_extended_partition_is_not_drawn_over_those_in_it() -> None:
    extended, logical = part(1, MIB, 9 * GIB, role="extended"), part(5, 2 * MIB, 9 * GIB - MIB, role="logical")
    numbers = [s.number for s in segments_of_image(captured(extended, logical)) if not s.gap]
    assert numbers == [5]


def test_a_disk_without_a_table_is_one_segment() -> None:
    assert [s.name for s in segments_of_image(captured(content=EXT4))] == ["ext4 root"]


@given(lengths=st.lists(st.integers(0, 1 << 50), min_size=1, max_size=40), cells=st.integers(0, 300))
def test_widths_fill_the_room_exactly(lengths: list[int], cells: int) -> None:
    found = widths(lengths, cells)
    assert sum(found) == cells
    assert all(width >= 0 for width in found)


@pytest.mark.parametrize("width", [20, 78, 118])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_bar_is_as_wide_as_the_room_whatever_names_it_holds(width: int, ascii_only: bool) -> None:
    segments = [Segment("系统盘" * 9, 3 * GIB, GIB), Segment("", GIB, gap=True), Segment("x" * 99, MIB)]
    bar, words = drawn(segments, width, ascii_only)
    console = Console(width=width)
    assert console.measure(bar).maximum <= width
    assert console.measure(words).maximum <= width
    assert not ascii_only or bar.isascii()
