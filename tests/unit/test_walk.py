"""The readers of FAT, exFAT, NTFS and F2FS that the audit goes by, on bytes laid out by hand, and on nonsense."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.extent import Extent, Extents
from recovery.filesystems.walk import exfat, f2fs, fat, ntfs
from recovery.filesystems.walk.view import Area, NotAudited, Unreadable, View

KIB = 1 << 10


def view_of(path: Path, kind: str, content: bytes, used: Extents | None = None) -> View:
    path.write_bytes(content)
    everything = Extents([(0, len(content))])
    return View(path, kind, len(content), 512, everything if used is None else used, lambda: None)


def areas(found: Iterator[Area]) -> dict[str, list[tuple[int, int]]]:
    return {area.what: [tuple(extent) for extent in area.extents] for area in found}


def fat12() -> bytearray:
    """Ten clusters of 512 bytes: a file in clusters 2, 3 and 5, a folder in 4 with a file in 7, 8 marked bad."""
    disk = bytearray(512 * 14)
    struct.pack_into("<HBHBHH", disk, 11, 512, 1, 1, 2, 16, 14)
    struct.pack_into("<H", disk, 22, 1)
    disk[510:512] = b"\x55\xaa"
    entries = {0: 0xFF8, 1: 0xFFF, 2: 3, 3: 5, 4: 0xFFF, 5: 0xFFF, 7: 0xFFF, 8: 0xFF7}
    for number, value in entries.items():
        at = 512 + number * 3 // 2
        (pair,) = struct.unpack_from("<H", disk, at)
        struct.pack_into("<H", disk, at, pair | (value << 4 if number % 2 else value))
    root, data = 512 * 3, 512 * 4
    disk[root : root + 32] = b"A" + "läng".encode("utf-16-le") + bytes(2) + b"\x0f" + bytes(20)
    for at, name, kind, first in (
        (root + 32, b"LANG~1  TXT", 0x20, 2),
        (root + 64, b"FOLDER     ", 0x10, 4),
        (data + 2 * 512, b".          ", 0x10, 4),
        (data + 2 * 512 + 32, b"..         ", 0x10, 0),
        (data + 2 * 512 + 64, b"INNER   BIN", 0x20, 7),
        (data + 2 * 512 + 96, b"\xe5ONE    BIN", 0x20, 9),
    ):
        disk[at : at + 12] = name + bytes([kind])
        struct.pack_into("<H", disk, at + 26, first)
    return disk


def test_what_a_replay_wrote_need_not_have_been_captured(tmp_path: Path) -> None:
    """Zeros among it: a tree's node is seldom full."""
    view = view_of(tmp_path / "view", "btrfs", bytes(32 * KIB), used=Extents([(0, 4 * KIB)]))
    view.written = Extents([(8 * KIB, 16 * KIB)])
    missing = view.missing_of(Area("a node", Extents([(0, 28 * KIB)])))
    assert missing is not None
    assert [tuple(extent) for extent in missing.extents] == [(4 * KIB, 4 * KIB), (24 * KIB, 4 * KIB)]
    assert view.missing_of(Area("another", Extents([(8 * KIB, 16 * KIB)]))) is None


def test_fat_names_the_clusters_of_each_file(tmp_path: Path) -> None:
    found = areas(fat.files(view_of(tmp_path / "fat", "vfat", fat12())))
    data = 512 * 4
    assert found["/läng"] == [(data, 1024), (data + 3 * 512, 512)]
    assert found["/FOLDER/INNER.BIN"] == [(data + 5 * 512, 512)]
    assert found["the folder /FOLDER"] == [(data + 2 * 512, 512)]
    assert found["the folder /"] == [(512 * 3, 512)]
    assert not any("ONE" in name for name in found)


def test_fat_calls_taken_what_is_neither_free_nor_bad(tmp_path: Path) -> None:
    found = areas(fat.allocation(view_of(tmp_path / "fat", "vfat", fat12())))
    data = 512 * 4
    assert found["clusters that its table calls taken"] == [(data, 4 * 512), (data + 5 * 512, 512)]
    assert found["the allocation tables"] == [(512, 1024)]


def test_a_chain_of_fat_that_bites_its_tail_is_told(tmp_path: Path) -> None:
    disk = fat12()
    (pair,) = struct.unpack_from("<H", disk, 512 + 7)  # cluster 5 leads back to 2
    struct.pack_into("<H", disk, 512 + 7, pair & 0xF | 2 << 4)
    with pytest.raises(Unreadable, match="does not end"):
        list(fat.files(view_of(tmp_path / "fat", "vfat", disk)))


def test_what_is_read_and_was_not_captured_is_missed(tmp_path: Path) -> None:
    disk = fat12()
    used = Extents([(0, len(disk))]).subtract(Extents([(512 * 3, 64)]))
    view = view_of(tmp_path / "fat", "vfat", disk, used)
    list(fat.files(view))
    assert [(missing.what, [tuple(e) for e in missing.extents]) for missing in view.missed] == [
        ("the folder /", [(512 * 3, 64)])
    ]
    missing = view.missing_of(Area("anything", Extents([(512 * 3, 512)])))
    assert missing is not None
    assert missing.extents == Extents([(512 * 3, 64)])
    assert view.missing_of(Area("anything", Extents([(0, 512)]))) is None


@given(st.binary(max_size=64), st.integers(1, 512))
def test_set_bits_are_told_in_runs(bits: bytes, unit: int) -> None:
    count = len(bits) * 8
    expected = Extents((n * unit, unit) for n in range(count) if bits[n >> 3] >> (n & 7) & 1)
    assert Extents(ntfs.set_bits(bits, count, unit)) == expected
    runs = list(ntfs.set_bits(bits, count, unit))
    assert len(runs) == len(expected)


READERS: dict[str, list[Callable[[View], Iterator[Area]]]] = {
    "vfat": [fat.allocation, fat.files],
    "exfat": [exfat.allocation, exfat.files],
    "ntfs": [ntfs.allocation, ntfs.files],
    "f2fs": [f2fs.allocation],
}
#: What each kind begins with, so that nonsense gets beyond the first check.
STARTS = {
    "vfat": bytes(fat12()[:512]),
    "exfat": b"\xeb\x76\x90EXFAT   " + bytes(53) + bytes(8) + struct.pack("<QIIIII", 128, 24, 8, 32, 60, 5) + bytes(12)
    + bytes([9, 0, 1]),
    "ntfs": b"\xeb\x52\x90NTFS    " + struct.pack("<HB", 512, 8) + bytes(26) + struct.pack("<QQ", 120, 4) + bytes(8)
    + b"\xf6",
    "f2fs": bytes(1024) + struct.pack("<IHHIIII", 0xF2F52010, 1, 16, 9, 3, 12, 9),
}  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), kind=st.sampled_from(sorted(READERS)), blank=st.booleans())
def test_nonsense_is_refused_and_ends(seed: int, kind: str, blank: bool, tmp_path: Path) -> None:
    """Whatever is on the disk: areas, or one of the errors that the audit expects, in bounded time."""
    chosen = random.Random(seed)
    content = bytearray(64 * KIB) if blank else bytearray(chosen.randbytes(64 * KIB))
    content[: len(STARTS[kind])] = STARTS[kind]
    for _ in range(chosen.randrange(6)):
        content[chosen.randrange(1200)] = chosen.randrange(256)
    view = view_of(tmp_path / "nonsense", kind, bytes(content))
    for reader in READERS[kind]:
        try:
            for area in reader(view):
                assert isinstance(area.extents[0] if area.extents else Extent(0, 0), Extent)
        except (Unreadable, NotAudited, struct.error, ArithmeticError, ValueError, IndexError):
            pass
