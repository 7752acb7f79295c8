"""An incomplete image says whose the bytes are that could not be read; other tools say where each file lies."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.badblocks import BLOCK
from tests.support.disks import KIB, MIB, blank, loop, mounted, run, sha256, umount
from tests.support.faulty_disk import Faults, faulty_disk
from tests.support.program import recovery

pytestmark = pytest.mark.disk

#: What is put onto each: path and size.
FILES = {
    "whole.bin": 5 * MIB,  # the first: blkid gives a filesystem up when it cannot read what it begins with
    "letters/to the bank.odt": 300 * KIB,
    "letters/to Grandma.odt": 40 * KIB,
    "photo \u00e9.jpg": 3 * MIB,
    "also whole.bin": 100 * KIB,
}
HIT = ("letters/to the bank.odt", "photo \u00e9.jpg")
Places = Callable[[Path, str], list[tuple[int, int]]]


def _by_debugfs(image: Path, name: str) -> list[tuple[int, int]]:
    size = int(re.search(r"Block size: +(\d+)", run("dumpe2fs", "-h", image))[1])  # type: ignore[index]
    return [(int(block) * size, size) for block in run("debugfs", "-R", f'blocks "/{name}"', image).split()]


def _by_filefrag(image: Path, name: str) -> list[tuple[int, int]]:
    at = image.parent / "asked"
    with loop(image) as device, mounted(device, at, "ro"):
        told = run("filefrag", "-v", "-b1024", at / name)
    found = re.findall(r"^ +\d+: +\d+\.\. +\d+: +(\d+)\.\. +(\d+):", told, re.MULTILINE)
    return [(1024 * int(first), 1024 * (int(last) - int(first) + 1)) for first, last in found]


def _by_ntfsinfo(image: Path, name: str) -> list[tuple[int, int]]:
    told = run("ntfsinfo", "-v", "-F", f"/{name}", image)
    inside = told[told.index("Dumping attribute $DATA") :]
    runs = re.findall(r"^\t\t\t0x[0-9a-f]+\t\t0x([0-9a-f]+)\t\t0x([0-9a-f]+)$", inside, re.MULTILINE)
    return [(4096 * int(start, 16), 4096 * int(count, 16)) for start, count in runs]


def _by_mshowfat(image: Path, name: str) -> list[tuple[int, int]]:
    """Of clusters counted from 2; where they begin, its own fields say."""
    boot = image.read_bytes()[:512]
    sector, cluster = int.from_bytes(boot[11:13], "little"), boot[13]
    reserved, copies = int.from_bytes(boot[14:16], "little"), boot[16]
    entries, table = int.from_bytes(boot[17:19], "little"), int.from_bytes(boot[22:24], "little")
    table = table or int.from_bytes(boot[36:40], "little")
    first = (reserved + copies * table) * sector + entries * 32
    told = run("mshowfat", "-i", image, f"::/{name}")
    runs = re.findall(r"<(\d+)(?:-(\d+))?>", told)
    size = sector * cluster
    return [(first + (int(a) - 2) * size, (int(b or a) - int(a) + 1) * size) for a, b in runs]


@contextmanager
def _ntfs(device: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    run("ntfs-3g", device, at)
    try:
        yield at
    finally:
        umount(at)


KINDS: dict[str, tuple[int, tuple[str, ...], Places]] = {
    "ext4": (64 * MIB, ("mkfs.ext4", "-q", "-F", "-b4096"), _by_debugfs),
    "xfs": (304 * MIB, ("mkfs.xfs", "-q", "-f"), _by_filefrag),
    "btrfs": (128 * MIB, ("mkfs.btrfs", "-q", "-f", "-msingle"), _by_filefrag),
    "ntfs": (64 * MIB, ("mkfs.ntfs", "-q", "-F", "-f"), _by_ntfsinfo),
    "vfat": (64 * MIB, ("mkfs.vfat", "-F32", "-s1", "--mbr=n"), _by_mshowfat),
}


def filled(kind: str, tmp_path: Path) -> Path:
    size, make, _ = KINDS[kind]
    image = blank(tmp_path / "disk.img", size)
    run(*make, image)
    content = {name: random.Random(name).randbytes(length) for name, length in FILES.items()}
    if kind == "vfat":
        run("mmd", "-i", image, "::/letters")
        for name, data in content.items():
            (tmp_path / "one").write_bytes(data)
            run("mcopy", "-i", image, tmp_path / "one", f"::/{name}")
        return image
    with loop(image) as device:
        opened = _ntfs(device, tmp_path / "at") if kind == "ntfs" else mounted(device, tmp_path / "at")
        with opened as at:
            (at / "letters").mkdir()
            for name, data in content.items():
                (at / name).write_bytes(data)
            os.sync()
    return image


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_could_not_be_read_are_named_exactly(kind: str, tmp_path: Path) -> None:
    image = filled(kind, tmp_path)
    bad: list[tuple[int, int]] = []
    for name in HIT:
        offset, length = KINDS[kind][2](image, name)[0]
        assert length >= BLOCK
        bad.append((offset + (length // 2 // BLOCK) * BLOCK, BLOCK))
    before, repository = sha256(image), tmp_path / "repository"
    recovery("init", repository=repository)
    with faulty_disk(Faults(str(image), unreadable=tuple(bad))) as source:
        said = recovery("capture", source, repository=repository, status=3).said
    assert sha256(image) == before
    (disk,) = recovery("show", "latest", "--json", repository=repository).document["manifest"]["disks"]
    (lost,) = disk["lost"]
    named = {file["name"].removeprefix("/"): file["lost_bytes"] for file in lost["files"]}
    assert named == dict.fromkeys(HIT, BLOCK)
    assert lost["lost_bytes"] == sum(length for _, length in bad)
    assert not lost.get("untold")
    assert not lost.get("own_bytes", 0)
    for name in HIT:
        assert f"{name}: 4.00 KiB" in said
    assert "whole.bin" not in said


def test_a_lost_folder_and_what_is_the_filesystems_own_are_told_apart(tmp_path: Path) -> None:
    image = filled("ext4", tmp_path)
    folder = _by_debugfs(image, "letters")[0][0]
    journal = [int(block) * 4096 for block in run("debugfs", "-R", "blocks <8>", image).split()][50]
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    with faulty_disk(Faults(str(image), unreadable=((folder, BLOCK), (journal, BLOCK)))) as source:
        recovery("capture", source, repository=repository, status=3)
    (disk,) = recovery("show", "latest", "--json", repository=repository).document["manifest"]["disks"]
    (lost,) = disk["lost"]
    assert [(file["name"], file["lost_bytes"]) for file in lost["files"]] == [("the folder /letters", BLOCK)]
    assert lost["own_bytes"] == BLOCK
    said = recovery("show", "latest", repository=repository).said
    assert "the folder /letters: 4.00 KiB" in said
    assert "the filesystem's own: 4.00 KiB" in said
