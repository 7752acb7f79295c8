"""Map files: what is written is read back, and what is wrong is named by its line."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.devices.mapfile import MapError, encode_map, map_pieces, parse_map
from recovery.extent import Extent, Extents

STATUS_LINE = b"0x00000000     ?               1\n"


@given(st.lists(st.tuples(st.sampled_from("?*/-+"), st.integers(1, 1 << 40)), max_size=30))
def test_a_map_is_read_back_as_it_was_written(blocks: list[tuple[str, int]]) -> None:
    pairs: dict[str, list[tuple[int, int]]] = {}
    size = 0
    for status, length in blocks:
        pairs.setdefault(status, []).append((size, length))
        size += length
    areas = {status: Extents(of_status) for status, of_status in pairs.items()}
    text = encode_map(size, areas, ["made by a test"])
    assert parse_map(text) == areas
    assert parse_map(io.BytesIO(text)) == areas


def test_what_no_area_names_is_not_tried() -> None:
    areas = {"+": Extents([(512, 512)]), "-": Extents([(1024, 512)])}
    assert encode_map(4096, areas).decode().splitlines()[-4:] == [
        "0x00000000  0x00000200  ?",
        "0x00000200  0x00000200  +",
        "0x00000400  0x00000200  -",
        "0x00000600  0x00000A00  ?",
    ]
    assert parse_map(encode_map(4096, {}))["?"] == Extents([Extent(0, 4096)])


def test_a_long_map_comes_in_pieces_that_join_to_the_whole() -> None:
    areas = {"+": Extents((n * 1000, 500) for n in range(10_000))}
    pieces = list(map_pieces(10_000_000, areas))
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 200_000
    assert parse_map(b"".join(pieces))["+"] == areas["+"]


def test_a_comment_cannot_break_the_file() -> None:
    assert parse_map(encode_map(512, {}, ["two\nlines"])) == {"?": Extents([(0, 512)])}


@pytest.mark.parametrize(
    ("areas", "reason"),
    [
        ({"+": Extents([(0, 1024)]), "-": Extents([(512, 512)])}, "overlap"),
        ({"+": Extents([(4096, 512)])}, "the disk at 4096"),
        ({"x": Extents()}, "not a status"),
    ],
)
def test_areas_that_make_no_map_are_refused(areas: dict[str, Extents], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_map(4096, areas)


def test_a_map_without_a_pass_number_is_read() -> None:
    """So wrote ddrescue before 1.23, and so writes partclone."""
    text = b"# comment\n0x00001000     ?\n\n0x0  0x800  +\n2048 02000 ?\n"
    assert parse_map(text) == {"+": Extents([(0, 2048)]), "?": Extents([(2048, 1024)])}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"", 0, "before its status line"),
        (b"# only\n# comments\n", 2, "before its status line"),
        (b"0x0 x 1\n", 1, "current_pos"),
        (b"0x0 0x10 +\n0x10 0x10 ?\n", 1, "current_pos"),
        (STATUS_LINE + b"0x0 0x10 +\n0x20 0x10 +\n", 3, "where 16 was expected"),
        (STATUS_LINE + b"0x0 0x10 +\n0x8 0x10 +\n", 3, "where 16 was expected"),
        (STATUS_LINE + b"0x10 0x10 +\n", 2, "where 0 was expected"),
        (STATUS_LINE + b"0x0 0x0 +\n", 2, "size 0"),
        (STATUS_LINE + b"0x0 0x10 !\n", 2, "unknown status '!'"),
        (STATUS_LINE + b"0x0 0x10\n", 2, "position size status"),
        (STATUS_LINE + b"0x0 -16 +\n", 2, "'-16'"),
        (STATUS_LINE + b"0x0 1_6 +\n", 2, "'1_6'"),
        (STATUS_LINE + b"0x0 0x\xff +\n", 2, "number"),
        (STATUS_LINE + b"0x0 0x8000000000000000 +\n", 2, "largest"),
    ],
)
def test_a_damaged_map_is_refused_by_line(text: bytes, line: int, reason: str) -> None:
    with pytest.raises(MapError) as caught:
        parse_map(text, "sda.map")
    assert caught.value.message.startswith(f"line {line} of sda.map")
    assert reason in caught.value.message


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(noise: bytes) -> None:
    for text in (noise, STATUS_LINE + noise, STATUS_LINE + b"0x0 0x10 +\n" + noise):
        try:
            areas = parse_map(text)
        except MapError:
            continue
        assert sum(extents.total_bytes for extents in areas.values()) >= 0
