"""In which order a failing source is read: every piece once, what is good first."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.devices.blockio import Effort
from recovery.devices.resilient import ReadingOrder

_GOOD_SECONDS, _SLOW_SECONDS = 0.01, 5.0


def read(count: int, bad: Collection[int], slow: Collection[int] = ()) -> list[tuple[int, bool]]:
    """The pieces in the order in which they are read, and whether again."""
    order = ReadingOrder()
    found: list[tuple[int, bool]] = []

    def quickly(number: int) -> None:
        found.append((number, False))
        order.told(number, failed=number in bad, seconds=_SLOW_SECONDS if number in slow else _GOOD_SECONDS)

    for number in range(count):
        if order.is_due(number):
            quickly(number)
    for number, effort in order.later():
        if effort is Effort.QUICK:
            quickly(number)
            continue
        found.append((number, True))
        if effort is Effort.COARSE:
            order.told(number, failed=number in bad, seconds=_GOOD_SECONDS)
    return found


def test_a_sound_source_is_read_from_its_beginning_to_its_end() -> None:
    assert read(1000, ()) == [(number, False) for number in range(1000)]


@given(st.integers(0, 400), st.sets(st.integers(0, 399)), st.sets(st.integers(0, 399)))
def test_each_piece_is_read_once_and_what_failed_once_more_at_the_end(
    count: int, bad: set[int], slow: set[int]
) -> None:
    found = read(count, bad, slow)
    quick = [number for number, patient in found if not patient]
    assert sorted(quick) == list(range(count))
    assert found[count:] == 2 * [(number, True) for number in sorted(bad) if number < count]


def test_a_wide_bad_area_is_left_soon_and_closed_in_from_both_sides() -> None:
    bad = range(100, 400)
    found = [number for number, _ in read(1000, bad)]
    first_pass = found[: found.index(999) + 1]
    assert len([number for number in first_pass if number in bad]) < 12
    last_good = max(place for place, number in enumerate(found) if number not in bad)
    assert len([number for number in found[:last_good] if number in bad]) < 20
    assert set(range(400, 1000)) < set(found[: last_good + 1])


def test_behind_what_is_slow_some_is_left_for_later() -> None:
    found = [number for number, _ in read(300, (), range(50, 60))]
    assert found[50:52] == [50, 52]
    assert found.index(200) < found.index(51)


def test_a_source_that_is_slow_throughout_is_read_in_order() -> None:
    assert read(100, (), range(100)) == [(number, False) for number in range(100)]


@pytest.mark.parametrize("bad", [[0], [99], [0, 99], range(100)])
def test_the_ends_are_no_exception(bad: Collection[int]) -> None:
    assert [number for number, again in read(100, bad) if again] == 2 * sorted(bad)
