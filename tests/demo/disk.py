"""The demo's disk, GPT with an EFI system partition, an ext4 of real files and swap: how it is made and compared."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.machine import RealFile, copy_files, loop_device, mounted, run

MIB = 1 << 20
SIZE_BYTES = 832 * MIB
SECTOR_BYTES = 512

_TABLE = """label: gpt
size=64MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI system partition"
size=700MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="root"
type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name="swap"
"""


@dataclass(frozen=True, slots=True)
class Range:
    """Where a partition lies, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class DemoDisk:
    """An image file and its three partitions."""

    path: Path
    esp: Range
    root: Range
    swap: Range

    @contextmanager
    def mounted_root(self, folder: Path, *, read_only: bool = False) -> Iterator[Path]:
        """The ext4 filesystem, at ``folder``."""
        with loop_device(self.path, self.root.offset, self.root.length, read_only=read_only) as device:
            with mounted(device, folder, read_only=read_only):
                yield folder


def make_disk(path: Path, files: list[RealFile], scratch: Path) -> DemoDisk:
    """Make the disk and fill it: ``files`` go to the ext4, the first few MiB of them to the FAT32 too."""
    with path.open("wb") as image:
        image.truncate(SIZE_BYTES)
    run("sfdisk", "--quiet", path, input=_TABLE)
    table = json.loads(run("sfdisk", "--json", path))["partitiontable"]["partitions"]
    esp, root, swap = (Range(part["start"] * SECTOR_BYTES, part["size"] * SECTOR_BYTES) for part in table)
    disk = DemoDisk(path, esp, root, swap)
    with loop_device(path, esp.offset, esp.length) as device:
        run("mkfs.fat", "-F", "32", "-n", "ESP", device)
    with loop_device(path, root.offset, root.length) as device:
        run("mkfs.ext4", "-q", "-i", "8192", "-L", "root", device)
    with loop_device(path, swap.offset, swap.length) as device:
        run("mkswap", "--label", "swap", device)
    run("mmd", "-i", _fat(disk), "::/EFI", "::/EFI/BOOT")
    for number, source in enumerate(_some(files, 24 * MIB)):
        run("mcopy", "-i", _fat(disk), source, f"::/EFI/BOOT/FILE{number}.EFI")
    with disk.mounted_root(scratch) as folder:
        copy_files(files, folder)
    return disk


def destroy(disk: DemoDisk) -> None:
    """Overwrite every byte of the disk: table, backup table, superblocks, contents."""
    garbage = os.urandom(MIB)
    with disk.path.open("r+b") as image:
        for _ in range(SIZE_BYTES // MIB):
            image.write(garbage)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a disk holds, as others than recovery see it; ``files`` maps a path to what is known about it."""

    table: str
    swap: str
    files: dict[str, str]
    total_bytes: int

    def difference(self, other: Contents) -> str:
        """In words, the first thing that differs; empty when nothing does."""
        if self.table != other.table:
            return "the partition table"
        if self.swap != other.swap:
            return "the swap area's label or UUID"
        differing = [path for path in self.files | other.files if self.files.get(path) != other.files.get(path)]
        return f"{len(differing)} files, the first of them {min(differing)}" if differing else ""


def read_contents(disk: DemoDisk, scratch: Path) -> Contents:
    """Hash every file of the disk, with its mode, owner, time and attributes."""
    files: dict[str, str] = {}
    total = 0
    with disk.mounted_root(scratch / "root", read_only=True) as folder:
        for path in _below(folder):
            files[f"root/{path.relative_to(folder)}"] = _describe(path)
            total += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    esp = scratch / "esp"
    esp.mkdir()
    run("mcopy", "-s", "-m", "-Q", "-i", _fat(disk), "::/", esp)
    for path in _below(esp):
        if path.is_file():
            files[f"esp/{path.relative_to(esp)}"] = _sha256(path)
            total += path.stat().st_size
            path.unlink()
    swap = run("blkid", "-p", "-o", "export", f"--offset={disk.swap.offset}", f"--size={disk.swap.length}", disk.path)
    return Contents(run("sfdisk", "--dump", disk.path), swap, files, total)


def check_table(disk: DemoDisk) -> str:
    """sfdisk's word on the partition table."""
    said = run("sfdisk", "--verify", disk.path).splitlines()
    return next(line.strip() for line in said if "error" in line)


def check_filesystems(disk: DemoDisk) -> None:
    """Run e2fsck and fsck.fat without repair.  Raises CommandFailed unless both find nothing."""
    with loop_device(disk.path, disk.root.offset, disk.root.length, read_only=True) as device:
        run("e2fsck", "-f", "-n", device)
    with loop_device(disk.path, disk.esp.offset, disk.esp.length, read_only=True) as device:
        run("fsck.fat", "-n", device)


def _fat(disk: DemoDisk) -> str:
    return f"{disk.path}@@{disk.esp.offset}"


def _some(files: list[RealFile], total_bytes: int) -> list[Path]:
    chosen = []
    for file in files:
        if 0 < file.size_bytes <= total_bytes and not file.is_link:
            chosen.append(file.path)
            total_bytes -= file.size_bytes
        if len(chosen) == 40:
            break
    return chosen


def _below(folder: Path) -> Iterator[Path]:
    for current, subfolders, names in os.walk(folder):
        subfolders.sort()
        yield Path(current)
        inside = [Path(current, name) for name in sorted([*names, *subfolders])]
        yield from (path for path in inside if path.is_symlink() or not path.is_dir())


def _describe(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        content = _sha256(path)
    else:
        content = ""
    attributes = [
        (name, os.getxattr(path, name, follow_symlinks=False)) for name in os.listxattr(path, follow_symlinks=False)
    ]
    return f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {status.st_mtime_ns} {attributes} {content}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
