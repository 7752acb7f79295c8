"""How long work may take is said no finer than it is known."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from recovery.units import GIB, MIB
from tests.unit.test_fit import disk
from tui.estimates import capture_seconds, duration, pace, write_seconds

ROTATING = replace(disk(GIB), transport="ata", rotational=True)
STICK = replace(disk(GIB), transport="usb", rotational=False)
NVME = replace(disk(GIB), transport="nvme", rotational=False)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "about a minute"),
        (80, "about a minute"),
        (200, "about 3 minutes"),
        (701, "about 10 minutes"),
        (3700, "about 60 minutes"),
        (5000, "about 90 minutes"),
        (7600, "about 2 hours"),
        (86000, "about 24 hours"),
    ],
)
def test_a_duration_is_said_in_steps_as_coarse_as_the_guess(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_slowest_part_decides() -> None:
    stored, again = capture_seconds([NVME], 700 * MIB, 700 * MIB, STICK)
    assert (stored, again) == (10.0, 10.0)
    assert capture_seconds([ROTATING, NVME], 1100 * MIB, 70 * MIB, STICK) == (10.0, 1.0)
    assert capture_seconds([NVME], 7 * GIB, 0, NVME)[0] > 7 * GIB / pace(NVME), "the processor is slower"
    assert write_seconds(ROTATING, 1100 * MIB, NVME) == 20.0


def test_a_disk_that_is_not_known_is_taken_for_a_slow_one() -> None:
    assert pace(None) == pace(STICK) < pace(ROTATING)
