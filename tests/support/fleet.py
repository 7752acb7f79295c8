"""A disk with one partition of every filesystem, filled with this machine's own files; made, listed and checked by
the filesystems' own tools.

Nothing here uses the code under test.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import random
import re
import shutil
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.disks import (
    KIB,
    MIB,
    blank,
    loop,
    mounted,
    overwrite,
    partitioned,
    read_at,
    run,
    sfdisk_json,
    umount,
)
from tests.support.machine import copy_files, real_files

#: What a file, a folder or anything else is: everything about it that a restore must keep.
Facts = dict[str, tuple[Any, ...]]

_GUIDS = {
    "vfat": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "ntfs": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    "exfat": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
}
_LINUX_GUID = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_MBR_TYPES = {"vfat": "ef", "ntfs": "7", "exfat": "7", "swap": "82"}

_MKFS = {
    "vfat": ("mkfs.fat", "-F32", "-nESP"),
    "ext4": ("mkfs.ext4", "-q", "-Lroot"),
    "xfs": ("mkfs.xfs", "-q", "-Lxfs"),
    "btrfs": ("mkfs.btrfs", "-q", "-Lbtrfs"),
    "ntfs": ("mkfs.ntfs", "-q", "-F", "-f", "-LWindows"),
    "exfat": ("mkfs.exfat", "-LEXFAT"),
    "f2fs": ("mkfs.f2fs", "-q", "-f", "-lf2fs"),
    "swap": ("mkswap", "-Lswap"),
}
_SIZES = {
    "vfat": 40 * MIB,
    "ext4": 96 * MIB,
    "xfs": 304 * MIB,
    "btrfs": 128 * MIB,
    "ntfs": 64 * MIB,
    "exfat": 48 * MIB,
    "f2fs": 112 * MIB,
    "swap": 16 * MIB,
}
_CHECKERS = {
    "vfat": ("fsck.fat", "-n"),
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
    "ntfs": ("ntfsfix", "--no-action"),
    "exfat": ("fsck.exfat", "-n"),
    "f2fs": ("fsck.f2fs", "--dry-run"),
}
_READ_ONLY = {
    "ext4": "ro,noload,noatime",
    "xfs": "ro,norecovery,nouuid,noatime",
    "btrfs": "ro,rescue=nologreplay,noatime",
}
PARTCLONE = {
    "vfat": "partclone.fat",
    "ext4": "partclone.extfs",
    "xfs": "partclone.xfs",
    "btrfs": "partclone.btrfs",
    "ntfs": "partclone.ntfs",
    "exfat": "partclone.exfat",
    "f2fs": "partclone.f2fs",
}


@dataclass(frozen=True)
class Place:
    """One partition: its number, filesystem, and where it lies, in bytes."""

    number: int
    kind: str
    offset: int
    length: int


@dataclass(frozen=True)
class Fleet:
    """The disk, an image file of that sector size, and its partitions (without an extended one)."""

    image: Path
    sector_bytes: int
    places: tuple[Place, ...]

    def place(self, kind: str) -> Place:
        """The partition with that filesystem."""
        return next(place for place in self.places if place.kind == kind)

    def on(self, image: Path) -> Fleet:
        """The same partitions on another disk."""
        return Fleet(image, self.sector_bytes, self.places)

    @contextmanager
    def device(self, place: Place, *, read_only: bool = False) -> Iterator[Path]:
        """A partition as a loop device."""
        with loop(
            self.image,
            offset=place.offset,
            size=place.length,
            sector_bytes=self.sector_bytes,
            read_only=read_only,
        ) as device:
            yield device


def make_fleet(folder: Path, label: str, sector_bytes: int, bytes_each: int) -> Fleet:
    """A disk with a ``gpt`` or ``dos`` table (there five of the partitions are logical), made and filled."""
    order = list(_SIZES) if label == "gpt" else ["ntfs", "vfat", "ext4", "xfs", "btrfs", "exfat", "f2fs", "swap"]
    sizes = dict(_SIZES)
    if sector_bytes != 512:
        sizes["vfat"] = 280 * MIB  # fewer clusters would be no FAT32
    total = sum(sizes.values()) + (len(order) + 3) * MIB
    image = blank(folder / f"{label}{sector_bytes}.img", total)
    with loop(image, sector_bytes=sector_bytes) as device:
        run(
            "sfdisk",
            "--quiet",
            "--wipe=never",
            "--no-reread",
            "--no-tell-kernel",
            device,
            input=_script(label, order, sizes),
        )
    table = sfdisk_json(image, sector_bytes)["partitions"]
    data = [entry for entry in table if entry["type"] != "f"]
    places = []
    for kind, entry in zip(order, data, strict=True):
        digits = re.search(r"\d+$", entry["node"])
        assert digits is not None, entry
        places.append(Place(int(digits[0]), kind, entry["start"] * sector_bytes, entry["size"] * sector_bytes))
    fleet = Fleet(image, sector_bytes, tuple(places))
    files = real_files(
        ["/usr/lib/python3", "/usr/bin", "/usr/share/doc", "/etc"], 8 * bytes_each, largest_bytes=8 * MIB
    )
    share = len(files) // 7
    for number, place in enumerate(place for place in fleet.places if place.kind != "swap"):
        source = folder / "files"
        source.mkdir()
        copy_files(_within(files[number * share : (number + 1) * share], bytes_each), source)
        _make_and_fill(fleet, place, source, folder / "mount")
        shutil.rmtree(source)
    with fleet.device(fleet.place("swap")) as device:
        run(*_MKFS["swap"], device)
    return fleet


def _script(label: str, order: Sequence[str], sizes: dict[str, int]) -> str:
    """An sfdisk script; a label-id and names that a lazy copy of the table would lose."""
    lines = [
        f"label: {label}",
        "label-id: " + ("0x1badcafe" if label == "dos" else "F1EE7000-1111-4222-8333-444455556666"),
    ]
    for number, kind in enumerate(order):
        mib = sizes[kind] // MIB
        if label == "gpt":
            extra = f', uuid=F1EE7000-0000-4000-8000-00000000000{number}, name="{kind} \u00e4\u2603"'
            attributes = ', attrs="GUID:63,LegacyBIOSBootable"' if kind == "ext4" else ""
            lines.append(f"size={mib}MiB, type={_GUIDS.get(kind, _LINUX_GUID)}{extra}{attributes}")
        else:
            if number == 3:
                lines.append("type=f")
            lines.append(f"size={mib}MiB, type={_MBR_TYPES.get(kind, '83')}{', bootable' if number == 0 else ''}")
    return "\n".join(lines) + "\n"


def _within(files: Sequence[Any], limit: int) -> list[Any]:
    chosen, total = [], 0
    for file in files:
        if total + file.space_bytes <= limit:
            chosen.append(file)
            total += file.space_bytes
    return chosen


def _make_and_fill(fleet: Fleet, place: Place, source: Path, at: Path) -> None:
    kind = place.kind
    extra: tuple[str, ...] = ()
    if fleet.sector_bytes != 512:
        extra = {"vfat": ("-S4096",), "f2fs": ("-w4096",)}.get(kind, ())
    with fleet.device(place) as device:
        run(*_MKFS[kind], *extra, device)
        if kind == "f2fs":
            run("sload.f2fs", "-f", source, device)
        elif kind == "exfat":
            with _fuse("mount.exfat-fuse", device, at):
                run("cp", "-rL", source, at / "files", check=False)  # names that exFAT does not allow stay behind
                (at / "leer \u2603").mkdir()
        elif kind == "ntfs":
            with _fuse("ntfs-3g", device, at, "-ostreams_interface=xattr"):
                run("cp", "-r", source, at / "files")
                (at / ("name \u00e4\u2603 " + "x" * 200)).write_bytes(b"long name")
                os.link(next(p for p in at.rglob("*") if p.is_file() and not p.is_symlink()), at / "hard link")
                (at / "with stream").write_bytes(b"main")
                os.setxattr(at / "with stream", "user.zone", b"[ZoneTransfer]" * 100)
                _sparse(at / "sparse")
        elif kind != "vfat":
            with mounted(device, at):
                run("cp", "-a", source, at / "files")
                odd_files(at)
    if kind == "vfat":
        _fill_fat(_mtools(fleet, place), source)


def _mtools(fleet: Fleet, place: Place) -> str:
    """A partition in mtools' words: it asks a device for its geometry, which a loop device lacks."""
    return f"{fleet.image}@@{place.offset}"


def _fill_fat(inside: str, source: Path) -> None:
    flat = [path for path in sorted(source.rglob("*")) if path.is_file() and not path.is_symlink()]
    run("mmd", "-i", inside, "::/EFI", "::/EFI/BOOT", "::/Ordner \u00e4\u00f6\u00fc")
    for number, path in enumerate(flat[:200]):
        run("mcopy", "-m", "-i", inside, path, f"::/EFI/BOOT/A long file name {number}.efi")


@contextmanager
def _fuse(program: str, device: Path, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    run(program, *options, device, at)
    try:
        yield at
    finally:
        umount(at)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(5 * MIB)
        file.write(b"island" * 1000)


def odd_files(at: Path) -> None:
    """What a Unix filesystem can hold beside plain files."""
    odd = at / "odd"
    odd.mkdir()
    (odd / os.fsdecode(b"not utf-8 \xff\xfe\n and a line")).write_bytes(b"1")
    (odd / ("n" * 255)).write_bytes(b"2")
    (odd / " leading and trailing ").write_bytes(b"3")
    (odd / "empty").touch()
    (odd / "empty folder").mkdir(mode=0o1777)
    _sparse(odd / "sparse")
    (odd / "first").write_bytes(b"linked" * 1000)
    for number in range(3):
        os.link(odd / "first", odd / f"hard {number}")
    (odd / "symlink").symlink_to("first")
    (odd / "dangling").symlink_to("/nowhere/" + "d" * 200)
    (odd / "long link").symlink_to("l" * 1000)
    os.mkfifo(odd / "fifo", 0o640)
    os.mknod(odd / "block", 0o600 | stat.S_IFBLK, os.makedev(8, 17))
    os.mknod(odd / "character", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (odd / "setuid").write_bytes(b"4")
    os.chown(odd / "setuid", 12345, 54321)
    (odd / "setuid").chmod(0o6751)
    os.setxattr(odd / "first", "user.note", b"\x00\xffbinary")
    os.setxattr(odd / "empty", "user.large", b"v" * 600)
    os.setxattr(odd / "empty folder", "trusted.of a folder", b"yes")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective
    os.setxattr(odd / "setuid", "security.capability", capability)
    run("setfacl", "-m", "u:1234:rwx,g:77:r", odd / "first")
    run("setfacl", "-d", "-m", "u:4321:rx", odd / "empty folder")
    os.utime(odd / "first", ns=(1_000_000_000_123_456_789, 1_234_567_890_987_654_321))
    os.utime(odd / "empty", ns=(2**31 * 10**9 + 5, 5))
    os.utime(odd / "symlink", ns=(1, 2), follow_symlinks=False)
    deep = odd
    for _ in range(30):
        deep = deep / "deep"
        deep.mkdir()
    (deep / "down here").write_bytes(b"5")


def facts(folder: Path) -> Facts:
    """Everything about every file below ``folder``: content, mode, owner, times, attributes, links, devices."""
    found: Facts = {}
    first_names: dict[int, str] = {}
    for current, folders, names in os.walk(folder):
        folders.sort()
        for name in [".", *sorted(folders), *sorted(names)] if current == str(folder) else sorted([*folders, *names]):
            path = Path(current, name)
            relative = str(path.relative_to(folder))
            found[relative] = _facts_of(path, first_names, relative)
    return found


def _facts_of(path: Path, first_names: dict[int, str], relative: str) -> tuple[Any, ...]:
    status = os.lstat(path)
    content = ""
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = str(path.readlink())
    same = first_names.setdefault(status.st_ino, relative)
    attributes: tuple[tuple[str, bytes], ...] = ()
    with contextlib.suppress(OSError):  # a filesystem that has none
        names = sorted(os.listxattr(path, follow_symlinks=False))
        attributes = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    return (
        content, status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_nlink, status.st_rdev,
        status.st_mtime_ns, status.st_atime_ns, status.st_ctime_ns, status.st_blocks, same, attributes,
    )  # fmt: skip


def contents(fleet: Fleet, place: Place, at: Path) -> Facts:
    """What a partition holds, read by the filesystem's own driver or tool; nothing is written to it."""
    at.mkdir(exist_ok=True)
    if place.kind == "vfat":
        return _fat_contents(_mtools(fleet, place), at / "copied")
    with fleet.device(place, read_only=True) as device:
        if place.kind in _READ_ONLY:
            with mounted(device, at, _READ_ONLY[place.kind]):
                return facts(at)
        program, options = {
            "ntfs": ("ntfs-3g", "-oro,streams_interface=xattr"),
            "exfat": ("mount.exfat-fuse", "-oro"),
        }[place.kind]
        with _fuse(program, device, at, options):
            return facts(at)


def _fat_contents(inside: str, out: Path) -> Facts:
    out.mkdir()
    try:
        run("mcopy", "-i", inside, "-s", "-n", "-Q", "-m", "::*", out)
        found = {name: (fact[0], fact[4], fact[7]) for name, fact in facts(out).items() if name != "."}
        return {**found, "listing": (run("mdir", "-i", inside, "-/", "-a", "::"),)}
    finally:
        shutil.rmtree(out)


def check_filesystem(fleet: Fleet, place: Place) -> None:
    """Let the filesystem's own checker look; raises AssertionError when it finds anything."""
    with fleet.device(place, read_only=True) as device:
        said = run(*_CHECKERS[place.kind], device)
    if place.kind == "f2fs":
        assert "[Fail]" not in said, said


def used_by_partclone(fleet: Fleet, place: Place, folder: Path) -> list[tuple[int, int]]:
    """(offset, length) on the disk of what partclone says the partition uses, read from its own map."""
    made = folder / f"{place.kind}.map"
    with fleet.device(place, read_only=True) as device:
        run(PARTCLONE[place.kind], "-D", "-q", "-L", "/dev/null", "--UI-fresh", "0", "-s", device, "-O", made)
    blocks = [line.split() for line in made.read_text().splitlines() if not line.startswith("#")][1:]
    return [(place.offset + int(o, 0), int(n, 0)) for o, n, status in blocks if status == "+"]


def equal_ranges(one: Path, other: Path, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether two disks hold the same bytes there."""
    with one.open("rb") as first, other.open("rb") as second:
        for offset, length in ranges:
            end = offset + length
            while offset < end:
                count = min(MIB, end - offset)
                if os.pread(first.fileno(), count, offset) != os.pread(second.fileno(), count, offset):
                    return False
                offset += count
    return True


def noise(path: Path, size_bytes: int, seed: int = 7) -> Path:
    """A file of bytes that are neither zeros nor anything known: what was not written shows."""
    block = bytearray(hashlib.shake_256(bytes([seed])).digest(MIB))
    with path.open("wb") as file:
        for number in range(-(-size_bytes // MIB)):
            struct.pack_into(">Q", block, 0, number | 0xA5 << 56)
            file.write(block[: size_bytes - number * MIB])
    return path


def signatures(image: Path, offset: int, length: int, sector_bytes: int = 512) -> list[tuple[str, int]]:
    """Every signature that wipefs sees on a range, with its place in it; nothing is wiped."""
    with loop(image, offset=offset, size=length, sector_bytes=sector_bytes, read_only=True) as device:
        said = run("wipefs", "--no-act", "--parsable", "--output", "TYPE,OFFSET", device)
    lines = [line.split(",") for line in said.splitlines() if line and not line.startswith("#")]
    return sorted((type_, int(place, 0)) for type_, place in lines)


@contextmanager
def workplace(fallback: Path, name: str, needs_bytes: int) -> Iterator[Path]:
    """A folder in memory where there is room for it (disks are slow), else ``fallback``."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 2 * needs_bytes:
        yield fallback
        return
    folder = memory / f"recovery-test-{name}-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def plant_old_signatures(image: Path, places: Sequence[Place], scratch: Path) -> None:
    """Superblocks of other filesystems where those keep them, at the start of each place: swap, ext2 and btrfs."""
    pieces: list[tuple[int, bytes]] = []
    for mkfs, size, kept in (
        (("mkswap",), 8 * MIB, [(0, 4096)]),
        (("mkfs.ext2", "-q"), 8 * MIB, [(1024, 1024)]),
        (("mkfs.btrfs", "-q"), 128 * MIB, [(64 * KIB, 4096), (64 * MIB, 4096)]),
    ):
        old = blank(scratch / "old.img", size)
        run(*mkfs, old)
        pieces += [(offset, read_at(old, offset, length)) for offset, length in kept]
        old.unlink()
    for place in places:
        for offset, data in pieces:
            if offset + len(data) <= place.length:
                overwrite(image, place.offset + offset, data)


SMALL_SCRIPT = """label: gpt
label-id: 51A11D15-C000-4000-8000-000000000001
size=16MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="esp"
size=28MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="root"
size=8MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name="swap"
size=8MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="nothing known"
"""
SMALL_BYTES = 64 * MIB
SMALL_PLACES = (
    Place(1, "vfat", 1 * MIB, 16 * MIB),
    Place(2, "ext4", 17 * MIB, 28 * MIB),
    Place(3, "swap", 45 * MIB, 8 * MIB),
    Place(4, "unknown", 53 * MIB, 8 * MIB),
)


def small_disk(image: Path, scratch: Path) -> Fleet:
    """A GPT disk of 64 MiB: FAT16, ext4 with a dozen MiB of files that do not compress, swap, and random bytes."""
    partitioned(image, SMALL_BYTES, SMALL_SCRIPT)
    disk = Fleet(image, 512, SMALL_PLACES)
    with disk.device(disk.place("vfat")) as device:
        run("mkfs.fat", "-F16", "-nSMALL", device)
    made = random.Random(5)
    with disk.device(disk.place("ext4")) as device:
        run("mkfs.ext4", "-q", "-b4096", "-Lsmall", device)
        with mounted(device, scratch / "mount") as at:
            for number in range(12):
                (at / f"file {number}").write_bytes(made.randbytes(MIB))
            odd_files(at)
    with disk.device(disk.place("swap")) as device:
        run("mkswap", "-Lsmall", device)
    overwrite(image, disk.place("unknown").offset, made.randbytes(8 * MIB))
    return disk


def same_file(one: Path, other: Path) -> bool:
    """Whether two files are equal in every byte."""
    return filecmp.cmp(one, other, shallow=False)
