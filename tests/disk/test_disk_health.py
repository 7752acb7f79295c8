"""A disk is asked for its health by the real program."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.command import find_program
from recovery.devices.disk import disk_for
from recovery.devices.health import NOTHING_TOLD, health
from tests.support.disks import MIB, blank, loop
from tests.support.program import recovery

pytestmark = pytest.mark.disk

needs_smartctl = pytest.mark.skipif(find_program("smartctl") is None, reason="smartctl is not installed")


@needs_smartctl
def test_a_disk_without_an_account_of_itself_is_told_so(tmp_path: Path) -> None:
    with loop(blank(tmp_path / "disk.img", 8 * MIB), read_only=True) as device:
        found = health(disk_for(device))
        assert (found.passed, found.dying, found.sentences) == (None, False, (NOTHING_TOLD,))
        said = recovery("disks", "--health", device).said
    assert NOTHING_TOLD in said


def test_an_image_file_is_not_asked(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 8 * MIB)
    assert not health(disk_for(image)).dying
    (told,) = recovery("disks", "--health", "--json", image).document
    assert told["health"]["passed"] is None
    (told,) = recovery("disks", "--json", image).document
    assert told["health"] is None
