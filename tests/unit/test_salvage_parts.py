"""What saving files is made of: which files are wanted, checksums, and reads that know what they could not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recovery.extent import Extent, Extents
from recovery.progress import Progress
from recovery.salvage.checksums import crc16, crc32c, xxhash64
from recovery.salvage.choose import Choice, FileKind, kinds_of
from recovery.salvage.medium import BadArea, Window, opened


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("home/anna/Letter.ODT", {FileKind.DOCUMENTS}),
        ("photos/IMG_1.CR2", {FileKind.PICTURES}),
        ("etc/fstab", {FileKind.SETTINGS}),
        ("home/anna/.ssh/id_ed25519", {FileKind.SETTINGS}),
        ("Users/Anna/AppData/Roaming/x.sqlite", {FileKind.SETTINGS, FileKind.DATABASES}),
        ("home/anna/Maildir/cur/1234", {FileKind.MAIL}),
        ("usr/bin/odt", set()),
        ("jpg", set()),
    ],
)
def test_what_a_file_is_by_its_name_and_folder(path: str, kinds: set[FileKind]) -> None:
    assert kinds_of(path) == kinds


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.odt", "home/anna/letter.odt", True),
        ("*.ODT", "home/anna/letter.odt", True),
        ("anna", "home/anna/letter.odt", True),
        ("home/anna", "home/anna/deep/letter.odt", True),
        ("/home/*/letter.odt", "home/anna/letter.odt", True),
        ("home/anna", "home/annabel/letter.odt", False),
        ("anna/letter.odt", "home/anna/letter.odt", False),
    ],
)
def test_a_pattern_is_a_path_or_a_name(pattern: str, path: str, fits: bool) -> None:
    assert Choice((pattern,)).wants(path, is_folder=False) == fits


def test_folders_are_wanted_for_themselves_only_where_everything_is() -> None:
    assert Choice().wants("folder", is_folder=True)
    assert not Choice(("*",)).wants("folder", is_folder=True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_xxhash64_is_as_specified(data: bytes, expected: int) -> None:
    assert xxhash64(data) == expected


def test_the_crcs_are_as_specified() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
    assert crc16(b"123456789") == 0x4B37


def test_a_window_reads_nothing_beyond_its_end_and_elsewhere_what_is_redirected(tmp_path: Path) -> None:
    content = os.urandom(700_000)
    (tmp_path / "disk").write_bytes(content)
    with opened(tmp_path / "disk", len(content), 512, Progress()) as medium:
        window = Window(medium, Extent(1000, 600_000))
        assert window.read(0, 599_999) == content[1000:600_999]
        with pytest.raises(BadArea):
            window.read(599_999, 2)
        assert window.content(599_990, 20) == (content[600_990:601_000] + bytes(10), Extents([(600_000, 10)]))
        window.redirect(1000, {2: 50_000}, {2: b"mark"})
        moved = content[51_000:52_000]
        assert window.read(1990, 1020) == content[2990:3000] + b"mark" + moved[4:] + content[4000:4010]
        assert window.read(2002, 10) == b"rk" + moved[4:12]


def test_what_lies_beyond_the_end_of_the_disk_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * 4096)
    with opened(tmp_path / "disk", 4096, 512, Progress()) as medium:
        data, bad = medium.read(Extent(4000, 200))
        assert data == b"x" * 96 + bytes(104)
        assert bad == Extents([(4096, 104)])
        with pytest.raises(BadArea):
            Window(medium, Extent(0, 8192)).read(4090, 10)
