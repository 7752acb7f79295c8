"""Whether a captured disk fits onto another is said with the figures, and agrees with what the plan refuses."""

from __future__ import annotations

import pytest

from recovery.devices.disk import Disk
from recovery.devices.table import TableEntry
from recovery.devices.table_plan import refuse_too_small
from recovery.errors import Refused
from recovery.image.fit import misfit, misfit_of_partition
from recovery.units import GIB, MIB


def disk(size_bytes: int, sector_bytes: int = 512, *, file: bool = False) -> Disk:
    return Disk(
        path="/dev/sdx",
        name="sdx",
        model="Model",
        vendor=None,
        serial="1",
        wwn=None,
        transport="ata",
        size_bytes=size_bytes,
        logical_sector_bytes=sector_bytes,
        physical_sector_bytes=sector_bytes,
        removable=False,
        rotational=False,
        read_only=False,
        diskseq=None,
        is_image_file=file,
    )


@pytest.mark.parametrize("size", [GIB - 1, GIB, GIB + 1])
def test_a_disk_fits_exactly_when_the_plan_does_not_refuse_it(size: int) -> None:
    refused = False
    try:
        refuse_too_small(None, GIB, size)
    except Refused:
        refused = True
    assert (misfit(disk(size), GIB, 512) is not None) == refused


def test_by_how_much_a_disk_is_too_small_is_said() -> None:
    said = misfit(disk(GIB - 5 * MIB), GIB, 512)
    assert said is not None
    assert "5.00 MiB less" in said


def test_sectors_of_another_size_are_refused_but_of_a_file_that_has_none() -> None:
    said = misfit(disk(2 * GIB, 4096), GIB, 512)
    assert said is not None
    assert "4096" in said
    assert "512" in said
    assert misfit(disk(2 * GIB, 4096, file=True), GIB, 512) is None


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (TableEntry(1, MIB, 10 * MIB, "0x83"), None),
        (TableEntry(2, MIB, 10 * MIB - 512, "0x83"), "512 B less"),
        (TableEntry(3, GIB - MIB, 10 * MIB, "0x83"), "beyond the disk's end"),
        (TableEntry(4, MIB, 100 * MIB, "0x05", role="extended"), "only holds other partitions"),
    ],
)
def test_a_partition_fits_into_one_of_its_size_that_lies_on_the_disk(entry: TableEntry, word: str | None) -> None:
    said = misfit_of_partition(disk(GIB), entry, 10 * MIB, 512)
    assert said is None if word is None else said is not None and word in said
