"""Sizes: aligned, shown and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.errors import UsageError
from recovery.units import GIB, KIB, MIB, TIB, align_down, align_up, format_bytes, format_seconds, parse_bytes


@given(st.integers(0, 2**70), st.integers(1, 2**40))
def test_aligned_values_are_the_nearest_multiples(value: int, alignment: int) -> None:
    low, high = align_down(value, alignment), align_up(value, alignment)
    assert low % alignment == high % alignment == 0
    assert value - alignment < low <= value <= high < value + alignment


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1536, "1.50 KiB"), (10 * MIB, "10.0 MiB"), (500 * GIB, "500 GiB"),
     (3 * TIB, "3.00 TiB"), (5000 * TIB, "5000 TiB"), (-2048, "-2.00 KiB")],
)  # fmt: skip
def test_sizes_are_shown_with_three_digits(count: int, shown: str) -> None:
    assert format_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (75, "1:15"), (3675, "1:01:15"), (90000, "25:00:00")],
)  # fmt: skip
def test_durations_are_shown_as_clocks_do(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("512", 512), ("4M", 4 * MIB), ("512 KiB", 512 * KIB), ("1gb", GIB), (" 2 T ", 2 * TIB), ("7B", 7)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5M", "4X", "4 M M", "\u0663"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_bytes(text)


@given(st.integers(0, 2**60), st.sampled_from(["", "K", "M", "G", "T"]))
def test_a_size_that_was_written_is_read_back(number: int, suffix: str) -> None:
    factor = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}[suffix]
    assert parse_bytes(f"{number}{suffix}") == number * factor
