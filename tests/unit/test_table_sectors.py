"""The records of partition tables, from bytes alone."""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.devices.table_sectors import (
    GptCopy,
    SectorReader,
    find_backup_gpt,
    protective_mbr,
    read_gpt,
    read_mbr,
    resized_protective_mbr,
)

SIZE = 1 << 20
DISK_GUID = uuid.UUID("11111111-2222-3333-4444-555555555555")
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


@contextmanager
def disk(*parts: tuple[int, bytes], size: int = SIZE) -> Iterator[SectorReader]:
    """A disk in memory that holds ``parts`` (offset, bytes)."""
    descriptor = os.memfd_create("test disk")
    try:
        os.ftruncate(descriptor, size)
        for offset, data in parts:
            os.pwrite(descriptor, data, offset)
        yield SectorReader(None, descriptor, size)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)


def header(lba: int, other: int, entries_lba: int, entries: bytes, count: int = 4, size: int = 92) -> bytes:
    """A GPT header, written out from the UEFI specification's table 5-5."""
    last = SIZE // 512 - 34
    fields = (b"EFI PART", 0x10000, size, 0, 0, lba, other, 34, last, DISK_GUID.bytes_le, entries_lba, count, 128)
    raw = bytearray(struct.pack("<8sIIIIQQQQ16sQII", *fields) + struct.pack("<I", zlib.crc32(entries)))
    raw[16:20] = struct.pack("<I", zlib.crc32(raw))
    return bytes(raw)


def entry(first: int, last: int, name: bytes = b"") -> bytes:
    return struct.pack("<16s16sQQQ72s", LINUX.bytes_le, uuid.UUID(int=first).bytes_le, first, last, 1 << 2, name)


ENTRIES = entry(40, 100, "root".encode("utf-16-le")) + bytes(128) + entry(200, 300) + bytes(128)


def test_a_header_and_its_entries_are_read() -> None:
    with disk((512, header(1, 2047, 2, ENTRIES)), (1024, ENTRIES)) as reader:
        copy = read_gpt(reader, 1, 512)
    assert isinstance(copy, GptCopy)
    assert copy.disk_guid == str(DISK_GUID)
    found = [(e.number, e.first_lba, e.last_lba, e.name, e.attributes) for e in copy.partitions()]
    assert found == [(1, 40, 100, "root", 4), (3, 200, 300, "", 4)]


def test_a_name_with_half_a_surrogate_pair_is_still_text() -> None:
    entries = entry(40, 100, b"\x00\xd8a\x00") + bytes(3 * 128)
    with disk((512, header(1, 2047, 2, entries)), (1024, entries)) as reader:
        copy = read_gpt(reader, 1, 512)
    assert isinstance(copy, GptCopy)
    assert copy.partitions()[0].name.encode() == b"\\ud800a"


def test_a_moved_header_reads_at_its_new_place_only() -> None:
    with disk((512, header(1, 2047, 2, ENTRIES)), (1024, ENTRIES)) as reader:
        copy = read_gpt(reader, 1, 512)
    assert isinstance(copy, GptCopy)
    place = 4095
    moved = copy.moved(place, 1, place - 1, last_usable_lba=place - 2)
    with disk((place * 512, moved), ((place - 1) * 512, ENTRIES), size=2 * SIZE) as reader:
        again = find_backup_gpt(reader, (512,))
        assert read_gpt(reader, place - 1, 512) == "its signature is gone"
    assert again is not None
    assert (again.lba, again.other_lba, again.last_usable_lba) == (place, 1, place - 2)
    assert again.partitions() == copy.partitions()


def test_a_gpt_of_a_disk_inside_a_partition_is_not_taken_for_the_backup() -> None:
    inner = header(7, 1, 6, ENTRIES)
    with disk((SIZE - 512, inner), (SIZE - 1024, ENTRIES)) as reader:
        assert find_backup_gpt(reader, (512, 4096)) is None


def test_headers_that_ask_for_too_much_are_garbled() -> None:
    for count, size in ((1 << 31, 92), (0, 92), (4, 1 << 20), (4, 8)):
        raw = bytearray(header(1, 2047, 2, ENTRIES, count=count))
        struct.pack_into("<I", raw, 12, size)
        raw[16:20] = bytes(4)
        raw[16:20] = struct.pack("<I", zlib.crc32(raw[:92]))
        with disk((512, bytes(raw)), (1024, ENTRIES)) as reader:
            assert read_gpt(reader, 1, 512) == "its header is garbled"


def test_a_protective_mbr_is_resized_and_keeps_its_boot_code() -> None:
    sector = protective_mbr(2048, 512, b"boot code")
    larger = resized_protective_mbr(sector, 1 << 40)
    assert larger is not None
    assert larger[:9] == b"boot code"
    assert larger[446 + 12 : 446 + 16] == b"\xff\xff\xff\xff"
    assert resized_protective_mbr(larger, 2048) == sector
    assert resized_protective_mbr(bytes(512), 2048) is None


@settings(deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 3 * 512), st.binary(min_size=1, max_size=16)), max_size=6),
    sector_bytes=st.sampled_from([512, 4096]),
)
def test_damaged_records_never_raise(edits: list[tuple[int, bytes]], sector_bytes: int) -> None:
    parts = [(512, header(1, 2047, 2, ENTRIES)), (1024, ENTRIES), (510, b"\x55\xaa"), *edits]
    with disk(*parts) as reader:
        copy = read_gpt(reader, 1, sector_bytes)
        if isinstance(copy, GptCopy):
            copy.partitions()
        mbr = read_mbr(reader, sector_bytes)
    assert mbr is None or len(mbr.logicals) <= 4 * 1024


@settings(deadline=None)
@given(starts=st.lists(st.integers(0, 64), min_size=1, max_size=30))
def test_every_chain_of_boot_records_ends(starts: list[int]) -> None:
    def record(kind: int, start: int) -> bytes:
        return struct.pack("<8xII", start, 1)[:4] + bytes([kind]) + struct.pack("<3xII", start, 1)

    parts = [(446, record(0x05, 1)), (510, b"\x55\xaa")]
    for place, following in enumerate(starts, start=1):
        parts += [(place * 512 + 446, record(0x83, 1)), (place * 512 + 462, record(0x05, following))]
        parts += [(place * 512 + 510, b"\x55\xaa")]
    with disk(*parts) as reader:
        mbr = read_mbr(reader, 512)
    assert mbr is not None
    assert len(mbr.logicals) == len(mbr.boot_records) <= len(starts)
    assert mbr.broken is not None
