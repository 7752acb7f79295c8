"""The check of the medium that the boot menu offers: what it finds is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.disks import overwrite, read_at
from tests.vm.live import CHECK_MEDIUM, IMAGE, live
from tests.vm.machine import Machine, Medium

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

_SYSTEM = "live/filesystem.squashfs"


def test_a_damaged_medium_is_told_at_the_prompt(tmp_path: Path) -> None:
    image = damaged(tmp_path / "damaged.iso")
    with live(Machine(image=image, medium=Medium.STICK), tmp_path / "machine", CHECK_MEDIUM) as there:
        assert there.run("cat /run/recovery/medium-check").text.splitlines() == ["failed", _SYSTEM]
        shown = there.running.console.text
        assert "THE MEDIUM IS DAMAGED" in shown, shown
        assert f"    {_SYSTEM}\n" in shown, shown
        there.power_off()


def damaged(path: Path) -> Path:
    """The image with a bit of its system flipped: in the last byte, padding, so that it starts all the same."""
    system = (IMAGE.parent / "netboot" / "filesystem.squashfs").read_bytes()
    used = int.from_bytes(system[40:48], "little")
    assert used < len(system), "no padding"
    shutil.copyfile(IMAGE, path)
    at = path.read_bytes().find(system)
    assert at > 0, "the system does not lie in one piece"
    last = at + len(system) - 1
    overwrite(path, last, bytes([read_at(path, last, 1)[0] ^ 1]))
    return path
