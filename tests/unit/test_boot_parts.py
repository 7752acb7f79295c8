"""Whether a machine may start from a disk is told by its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.image.boot import has_boot_parts
from recovery.inventory import survey
from tests.support.disks import MIB, blank, partitioned


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("label: gpt\nsize=8MiB, type=U\ntype=L\n", True),
        ("label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\ntype=L\n", True),
        ('label: gpt\ntype=L, attrs="LegacyBIOSBootable"\n', True),
        ("label: gpt\ntype=L\n", False),
        ("label: dos\ntype=83\n", True),
        ("label: dos\n", False),
    ],
)
def test_what_sfdisk_made_is_told_apart(script: str, answer: bool, tmp_path: Path) -> None:
    (report,) = survey([partitioned(tmp_path / "disk.img", 32 * MIB, script)])
    assert has_boot_parts(report.table) is answer


def test_a_disk_without_a_table_is_none(tmp_path: Path) -> None:
    (report,) = survey([blank(tmp_path / "disk.img", 8 * MIB)])
    assert not has_boot_parts(report.table)
