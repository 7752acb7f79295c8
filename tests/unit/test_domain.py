"""What of a disk around its partitions counts as used.

Every partition here holds nothing that is recognised, and so is used whole: no disk is looked at.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.devices.table import PartitionTable, TableEntry
from recovery.errors import Cancelled, UsageError
from recovery.extent import Extent, Extents
from recovery.image.domain import DiskDomain, disk_domain
from recovery.progress import Progress
from recovery.units import GIB, KIB, MIB

NO_DISK = Path("/nonexistent/disk")


def table(*places: tuple[int, int], complete: bool = True, logical_from: int = 5) -> PartitionTable:
    entries = tuple(
        TableEntry(number, offset, length, "0x83", role="logical" if number >= logical_from else "primary")
        for number, (offset, length) in enumerate(places, 1)
    )
    return PartitionTable("msdos", None, 512, entries, own_extents=(Extent(0, 512),), complete=complete)


def domain_of(size: int, of: PartitionTable | None, sector_bytes: int = 512, **options: object) -> DiskDomain:
    numbers = [entry.number for entry in of.entries] if of else [0]
    contents = dict.fromkeys(numbers)
    return disk_domain(NO_DISK, size, sector_bytes, of, contents=contents, **options)  # type: ignore[arg-type]


def test_a_gap_of_64_mib_is_used_whole_and_of_a_larger_one_both_ends() -> None:
    size = 10 * GIB
    places = [(1 * MIB, GIB), (GIB + 65 * MIB, GIB), (4 * GIB, GIB)]
    used = domain_of(size, table(*places)).used
    second_end = 2 * GIB + 65 * MIB
    assert used == Extents(
        [
            (0, second_end + 16 * MIB),
            (4 * GIB - 16 * MIB, GIB + 32 * MIB),
            (size - 16 * MIB, 16 * MIB),
        ]
    )


def test_a_table_that_was_not_read_whole_leaves_no_gap_out() -> None:
    assert domain_of(4 * GIB, table((MIB, MIB), complete=False)).used == Extents([(0, 4 * GIB)])


def test_a_disk_without_a_table_is_one_partition() -> None:
    domain = domain_of(GIB, None)
    assert domain.used == Extents([(0, GIB)])
    assert [partition.number for partition in domain.partitions] == [0]


def test_an_extended_partition_is_a_container_of_gaps() -> None:
    size = 4 * GIB
    extended = TableEntry(4, GIB, 3 * GIB, "0x05", role="extended")
    logical = TableEntry(5, GIB + MIB, MIB, "0x83", role="logical")
    records = (Extent(0, 512), Extent(GIB, 512), Extent(2 * GIB, 512))
    of = PartitionTable("msdos", None, 512, (extended, logical), own_extents=records)
    domain = disk_domain(NO_DISK, size, 512, of, contents={5: None})
    assert [partition.number for partition in domain.partitions] == [5]
    assert domain.used == Extents(
        [(0, 16 * MIB), (GIB - 15 * MIB, 33 * MIB), (2 * GIB, 512), (size - 16 * MIB, 16 * MIB)]
    )


def test_a_partition_left_out_contributes_nothing_even_at_the_disks_end() -> None:
    size = GIB
    of = table((MIB, 100 * MIB), (101 * MIB, size - 101 * MIB))
    domain = domain_of(size, of, exclude={2})
    assert domain.used == Extents([(0, 101 * MIB)])
    assert [partition.usage is None for partition in domain.partitions] == [False, True]
    assert domain_of(size, of, include={1}).used == domain.used
    assert domain_of(size, of, include=()).used == Extents([(0, MIB)])


def test_overlapping_partitions_are_united() -> None:
    of = table((MIB, 200 * MIB), (100 * MIB, 200 * MIB), (500 * MIB, 8 * KIB))
    both = domain_of(GIB, of).used
    assert both.covers(Extent(0, 300 * MIB))
    assert domain_of(GIB, of, exclude={1}).used.covers(Extent(100 * MIB, 200 * MIB))


def test_what_reaches_beyond_the_disk_is_cut_off_there_and_said() -> None:
    domain = domain_of(100 * MIB, table((MIB, 50 * MIB), (90 * MIB, 90 * MIB), (200 * MIB, MIB)))
    assert domain.used == Extents([(0, 100 * MIB)])
    reasons = [partition.usage.reason for partition in domain.partitions if partition.usage]
    assert "beyond the end" in reasons[1]
    assert "behind the end" in reasons[2]


def test_used_bytes_come_in_whole_sectors_of_the_disk() -> None:
    domain = domain_of(4 * GIB, table((GIB + 512, 512), (2 * GIB - 512, 1024)), sector_bytes=4096, exclude=())
    assert domain.used.covers(Extent(GIB, 4096))
    assert all(e.offset % 4096 == 0 and e.end % 4096 == 0 for e in domain.used)


@pytest.mark.parametrize("choice", [{"include": [7]}, {"exclude": [7]}])
def test_a_partition_that_does_not_exist_cannot_be_chosen(choice: dict[str, list[int]]) -> None:
    with pytest.raises(UsageError, match=r"partition 7 .* does not exist") as caught:
        domain_of(GIB, table((MIB, MIB)), **choice)
    assert "1" in caught.value.hint


def test_an_extended_partition_cannot_be_chosen() -> None:
    of = PartitionTable("msdos", None, 512, (TableEntry(4, MIB, MIB, "0x05", role="extended"),))
    with pytest.raises(UsageError, match="only the container"):
        disk_domain(NO_DISK, GIB, 512, of, exclude=[4])


def test_it_stops_when_asked() -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        domain_of(GIB, table((MIB, MIB)), progress=progress)


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 200)), max_size=4),
    st.sets(st.integers(1, 4)),
    st.integers(50, 600),
)
def test_only_left_out_partitions_and_the_middle_of_large_gaps_are_unused(
    places: list[tuple[int, int]], left_out: set[int], size: int
) -> None:
    """In units of MiB, byte for byte, against the rule spelled out over a list."""
    exclude = {number for number in left_out if number <= len(places)}
    domain = domain_of(size * MIB, table(*((o * MIB, n * MIB) for o, n in places)), exclude=exclude)
    owned = [[number for number, (o, n) in enumerate(places, 1) if o <= unit < o + n] for unit in range(size)]
    expected = []
    for unit in range(size):
        if owned[unit]:
            expected.append(any(number not in exclude for number in owned[unit]))
            continue
        start = next((u + 1 for u in range(unit, -1, -1) if owned[u]), 0)
        end = next((u for u in range(unit, size) if owned[u]), size)
        expected.append(end - start <= 64 or unit < start + 16 or unit >= end - 16 or unit >= size - 16)
    got = [domain.used.covers(Extent(unit * MIB + 512, MIB - 512)) for unit in range(size)]
    assert got == expected
    assert domain.used.covers(Extent(0, 512))
