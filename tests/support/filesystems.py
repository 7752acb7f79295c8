"""Filesystems with real files, made and filled by their own tools, for tests of what of them is used.

Nothing here uses the code under test.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.disks import MIB, blank, loop, mounted, run, umount

#: What a partition lies at in the image, so that a mistake about offsets shows.
OFFSET = 3 * MIB

#: What unused areas are overwritten with: stale bytes are a harder test than zeros.
STALE = b"\xa5"

Tree = dict[str, tuple[str, int]]


def fill(folder: Path, total_bytes: int, seed: int = 1, small_files: int = 300) -> None:
    """Files of many sizes in nested folders, some deleted again so that what is free is not blank."""
    made = random.Random(seed)
    doomed = []
    for number in range(small_files):
        place = folder / f"folder {number % 7}" / f"inner {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        place.joinpath(f"a small file with a fairly long name {number}").write_bytes(
            made.randbytes(made.randrange(3000))
        )
    remaining, number = total_bytes, 0
    while remaining > 0:
        size = min(remaining, made.randrange(1, max(2, total_bytes // 8)))
        file = folder / f"large {number}"
        file.write_bytes(made.randbytes(size))
        if number % 4 == 3:
            doomed.append(file)
        remaining -= size
        number += 1
    os.sync()
    for file in doomed:
        file.unlink()


def tree(folder: Path) -> Tree:
    """Hash of the content and mode of every file below ``folder``, by relative path."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else os.fsencode(path.name)
        found[str(path.relative_to(folder))] = (hashlib.sha256(content).hexdigest(), status.st_mode)
    return found


def overwrite_unused(image: Path, unused: Iterable[tuple[int, int]], copy: Path) -> Path:
    """A copy of ``image`` in which every byte of ``unused`` is stale."""
    shutil.copyfile(image, copy)
    with copy.open("r+b") as file:
        for offset, length in unused:
            file.seek(offset)
            while length:
                piece = min(length, MIB)
                file.write(STALE * piece)
                length -= piece
    return copy


@dataclass(frozen=True)
class Kind:
    """A filesystem: how it is made on a device, filled, checked and read back."""

    name: str
    mkfs: tuple[str, ...]
    check: tuple[str, ...]
    size: int
    sector_bytes: int = 512
    mount: str = ""  # kernel, ntfs-3g, mount.exfat-fuse, mtools, f2fs
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Programs that this test needs and this machine lacks."""
        wanted = {self.mkfs[0], self.check[0], *self.needs}
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        return [program for program in wanted if shutil.which(program, path=path) is None]


def make(kind: Kind, folder: Path) -> Path:
    """An image with an empty filesystem of that kind at OFFSET, and a MiB of something else around it."""
    image = blank(folder / "disk.img", OFFSET + kind.size + MIB)
    with image.open("r+b") as file:
        file.write(b"\xee" * OFFSET)
        file.seek(OFFSET + kind.size)
        file.write(b"\xee" * MIB)
    with partition(kind, image) as device:
        run(*kind.mkfs, device)
    return image


@contextmanager
def partition(kind: Kind, image: Path, read_only: bool = False) -> Iterator[Path]:
    """The filesystem in ``image`` as a loop device."""
    with loop(image, offset=OFFSET, size=kind.size, sector_bytes=kind.sector_bytes, read_only=read_only) as device:
        yield device


@contextmanager
def opened(kind: Kind, image: Path, at: Path) -> Iterator[Path]:
    """The filesystem mounted at ``at`` by the kernel or through FUSE."""
    with partition(kind, image) as device:
        if kind.mount == "kernel":
            with mounted(device, at):
                yield at
            return
        at.mkdir(exist_ok=True)
        run(kind.mount, device, at)
        try:
            yield at
        finally:
            umount(at)


def fill_and_list(kind: Kind, image: Path, work: Path, filler: Callable[[Path], None]) -> Tree:
    """Fill the filesystem and say what is in it."""
    if kind.mount in ("mtools", "f2fs"):
        source = work / "files"
        source.mkdir()
        filler(source)
        with partition(kind, image) as device:
            if kind.mount == "f2fs":
                run("sload.f2fs", "-f", source, device)
            else:
                run("mcopy", "-i", device, "-s", "-Q", *sorted(source.iterdir()), "::")
                for path in sorted(source.glob("large *"))[::3]:
                    run("mdel", "-i", device, f"::{path.name}")
        return read_back(kind, image, work / "first")
    with opened(kind, image, work / "mount") as at:
        filler(at)
    return read_back(kind, image, work / "first")


def read_back(kind: Kind, image: Path, at: Path) -> Tree:
    """Every file of the filesystem, read by something else than the code under test."""
    at.mkdir()
    if kind.mount == "mtools":
        with partition(kind, image, read_only=True) as device:
            run("mcopy", "-i", device, "-s", "-n", "-Q", "-m", "::*", at)
        return tree(at)
    if kind.mount == "f2fs":
        return _dump_f2fs(kind, image, at)
    with opened(kind, image, at):
        return tree(at)


def _dump_f2fs(kind: Kind, image: Path, at: Path) -> Tree:
    """dump.f2fs writes one inode at a time; sload.f2fs numbers a flat folder's files from 4 on."""
    here = Path.cwd()
    os.chdir(at)
    try:
        with partition(kind, image, read_only=True) as device:
            for number in range(4, 40):
                run("dump.f2fs", "-i", f"{number:x}", device, input="Y\n", check=False)
    finally:
        os.chdir(here)
    return tree(at)


def check(kind: Kind, image: Path) -> None:
    """Let the filesystem's own checker look at it; raises AssertionError when it finds anything."""
    with partition(kind, image, read_only=True) as device:
        said = run(*kind.check, device)
    if kind.name.startswith("f2fs"):
        assert "[FSCK] other corrupted bugs" in said
        assert "[Fail]" not in said, said
