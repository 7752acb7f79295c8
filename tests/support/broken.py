"""Filesystems with real files, and what may happen to them: the damages that files are saved from.

Made, filled and looked into by their own tools; nothing here uses the code under test.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.disks import KIB, MIB, blank, loop, mounted, run, umount

Damage = Callable[[Path, random.Random], None]


@dataclass(frozen=True)
class Broken:
    """A kind of filesystem.  ``fill``: how its files get in (kernel, mtools, or a FUSE program)."""

    name: str
    mkfs: tuple[str, ...]
    size: int
    fill: str = "kernel"
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Programs that are not on this machine."""
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        return [name for name in (self.mkfs[0], *self.needs) if shutil.which(name, path=path) is None]


KINDS = {
    kind.name: kind
    for kind in (
        Broken("ext4", ("mkfs.ext4", "-q", "-F", "-L", "LABEL"), 64 * MIB),
        Broken("ext3", ("mkfs.ext3", "-q", "-F"), 48 * MIB),
        Broken("ext2", ("mkfs.ext2", "-q", "-F", "-b", "1024"), 48 * MIB),
        Broken("xfs", ("mkfs.xfs", "-q", "-f", "-L", "LABEL"), 304 * MIB),
        Broken("btrfs", ("mkfs.btrfs", "-q", "-f", "-L", "LABEL"), 128 * MIB),
        Broken("ntfs", ("mkntfs", "-q", "-F", "-f", "-L", "LABEL"), 64 * MIB, "ntfs-3g", ("ntfs-3g",)),
        Broken("vfat", ("mkfs.vfat", "-F", "32", "-n", "LABEL"), 64 * MIB, "mtools", ("mcopy",)),
        Broken("exfat", ("mkfs.exfat", "-L", "LABEL"), 48 * MIB, "mount.exfat-fuse", ("mount.exfat-fuse",)),
    )
}


def files_into(folder: Path, seed: int, *, links: bool) -> None:
    """Some hundred files in folders: text and noise, empty ones, large ones, odd names; and links, if there are any."""
    made = random.Random(seed)
    for number in range(240):
        inside = folder / f"folder {number % 11}" / ("inner" if number % 3 else "Innen \u00e4\u00f6\u00fc")
        inside.mkdir(parents=True, exist_ok=True)
        text = f"file {number} of seed {seed}\n".encode() * made.randrange(200)
        inside.joinpath(f"a file with a fairly long name {number}.txt").write_bytes(text + made.randbytes(number * 7))
    for number in range(6):
        folder.joinpath(f"noise-{number}.bin").write_bytes(made.randbytes(made.randrange(100 * KIB, 900 * KIB)))
    (folder / "empty").touch()
    (folder / "many").mkdir()
    for number in range(300):
        (folder / "many" / f"{number:04}").write_bytes(str(number).encode())
    if links:
        (folder / "link").symlink_to("folder 1/inner")
        os.link(folder / "noise-0.bin", folder / "many" / "the same noise")
        with (folder / "sparse").open("wb") as file:
            file.truncate(3 * MIB)
            file.seek(MIB)
            file.write(b"in the middle")


def make(kind: Broken, work: Path, seed: int = 1) -> tuple[Path, dict[str, str]]:
    """An image, and the SHA-256 of each file in it by its path."""
    image = blank(work / f"{kind.name}.img", kind.size)
    run(*kind.mkfs, image)
    source = work / f"{kind.name}-files"
    source.mkdir()
    files_into(source, seed, links=kind.fill == "kernel")
    if kind.fill == "mtools":
        run("mcopy", "-i", image, "-s", "-m", "-Q", *sorted(source.iterdir()), "::")
    else:
        at = work / f"{kind.name}-mounted"
        with loop(image) as device:
            if kind.fill == "kernel":
                with mounted(device, at):
                    run("cp", "-a", f"{source}/.", at)
            else:
                at.mkdir()
                run(kind.fill, device, at)
                try:
                    run("cp", "-r", "--preserve=timestamps", f"{source}/.", at)
                finally:
                    umount(at)
    found = {
        str(path.relative_to(source)): digest(path)
        for path in sorted(source.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    return image, found


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- damages


def _over(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _found(image: Path, pattern: bytes, step: int) -> list[int]:
    """Where on multiples of ``step`` what begins with ``pattern`` (a regular expression) lies."""
    data = image.read_bytes()
    return [match.start() for match in re.finditer(pattern, data, re.DOTALL) if match.start() % step == 0]


def _spoil(image: Path, made: random.Random, places: list[int], size: int, count: int) -> None:
    """Something random inside of some of these blocks."""
    assert places
    for place in made.sample(places, min(count, len(places))):
        inside = made.randrange(0, size, 4)
        _over(image, place + inside, made.randbytes(min(size - inside, made.choice([4, 16, 64, size]))))


def head(image: Path, made: random.Random) -> None:
    """What it begins with is gone: superblock or boot sector, and what lies beside it."""
    _over(image, 0, made.randbytes(2 * KIB))
    if image.name.startswith("btrfs"):
        _over(image, 64 * KIB, made.randbytes(4 * KIB))


def first_mib(image: Path, made: random.Random) -> None:
    """The beginning was overwritten, as by a wrong dd."""
    count = made.choice([1, 2, 4])
    _over(image, 0, made.randbytes(count * MIB) if made.random() < 0.5 else bytes(count * MIB))


def cut(image: Path, made: random.Random) -> None:
    """The end is missing."""
    size = image.stat().st_size
    os.truncate(image, made.randrange(size // 3, size) // 4096 * 4096)


def inodes(image: Path, made: random.Random) -> None:
    """Some of what says where files lie is zeros."""
    kind = image.name.partition(".")[0]
    if kind.startswith("ext"):
        told = run("dumpe2fs", image)
        size = int(re.search(r"Block size: +(\d+)", told)[1])  # type: ignore[index]
        tables = [int(block) for block in re.findall(r"Inode table at (\d+)-", told)]
        for table in made.sample(tables, min(3, len(tables))):
            _over(image, (table + made.randrange(1, 8)) * size, bytes(size))
        return
    if kind == "btrfs":
        fsid = image.read_bytes()[64 * KIB + 32 :][:16]
        nodes = [place - 32 for place in _found_inside(image, re.escape(fsid), 32) if place > 2 * MIB]
        for place in made.sample(nodes, max(1, len(nodes) // 8)):
            _over(image, place, made.randbytes(16 * KIB))
        return
    places = {
        "xfs": lambda: [place // 4096 * 4096 for place in _found(image, rb"IN..\x03\x02", 512)],
        "ntfs": lambda: [place for place in _found(image, rb"FILE0\x00", 1024) if place > 64 * KIB],
        "vfat": lambda: list(range(32 * 512, 32 * 512 + 64 * KIB, 512)),
        "exfat": lambda: _exfat_table(image),
    }[kind]()
    size = {"xfs": 4096, "ntfs": 1024}.get(kind, 512)
    for place in made.sample(places, min(10, len(places))):
        _over(image, place, bytes(size))


def _exfat_table(image: Path) -> list[int]:
    boot = image.read_bytes()[:512]
    start, length = (number << boot[108] for number in struct.unpack_from("<II", boot, 80))
    return list(range(start + 512, start + min(length, 8 * KIB), 512))


def _found_inside(image: Path, pattern: bytes, inside: int) -> list[int]:
    """As ``_found``, for what stands ``inside`` bytes from the beginning of a node."""
    data = image.read_bytes()
    return [match.start() for match in re.finditer(pattern, data, re.DOTALL) if match.start() % 4096 == inside]


def folders(image: Path, made: random.Random) -> None:
    """Some of what says what is in folders is scrambled."""
    kind = image.name.partition(".")[0]
    if kind.startswith("ext"):
        size = 1024
        tail = re.escape(struct.pack("<IHBB", 0, 12, 0, 0xDE))
        places = [place // 1024 * 1024 for place in (m.start() for m in re.finditer(tail, image.read_bytes()))]
        if not places:  # an older one, without checksums
            places = _found(image, rb"....\x0c\x00\x01\x02\.\x00\x00\x00", 1024)
    elif kind == "btrfs":
        inodes(image, made)
        return
    else:
        size = {"vfat": 512, "exfat": 512}.get(kind, 4096)
        pattern = {
            "xfs": rb"XD[BD]3",
            "ntfs": rb"INDX",
            "vfat": rb"\.          [\x00-\xff]{21}\.\.         ",
            "exfat": rb"\x85[\x02-\x13]",
        }[kind]
        places = _found(image, pattern, size)
    _spoil(image, made, places, size, 6)


DAMAGES: dict[str, Damage] = {
    "head": head,
    "first MiB": first_mib,
    "cut": cut,
    "inodes": inodes,
    "folders": folders,
}
