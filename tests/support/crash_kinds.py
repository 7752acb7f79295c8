"""The filesystems that are crashed, and how each looks after a power cut, to its own driver.

Nothing here uses the code under test.
"""

from __future__ import annotations

import random
import re
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

from tests.support.crash import Kind, Recording, Unmountable, differing, record
from tests.support.disks import MIB, loop, overwrite, read_at

#: So many cuts are made of one recorded workload.
CUTS = 5

E2FSCK, XFS_REPAIR, BTRFS_CHECK = ("e2fsck", "-fn"), ("xfs_repair", "-n"), ("btrfs", "check", "--check-data-csum")

KINDS = {
    kind.name: kind
    for kind in (
        Kind("ext4", ("mkfs.ext4", "-q", "-b4096"), E2FSCK, 96 * MIB),
        Kind("ext4 1 KiB blocks", ("mkfs.ext4", "-q", "-b1024", "-O^64bit"), E2FSCK, 96 * MIB),
        Kind("ext4 fast commit", ("mkfs.ext4", "-q", "-b4096", "-Ofast_commit"), E2FSCK, 96 * MIB),
        Kind("ext4 data journal", ("mkfs.ext4", "-q", "-b4096", "-Oorphan_file"), E2FSCK, 96 * MIB, "data=journal"),
        Kind("ext3", ("mkfs.ext3", "-q"), E2FSCK, 96 * MIB),
        Kind("ext2", ("mkfs.ext2", "-q"), ("e2fsck", "-fy"), 96 * MIB),
        Kind("xfs", ("mkfs.xfs", "-q"), XFS_REPAIR, 300 * MIB, "nouuid"),
        Kind("btrfs", ("mkfs.btrfs", "-q"), BTRFS_CHECK, 256 * MIB),
        Kind("fat32", ("mkfs.fat", "-F32", "-s1"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
        Kind("fat16", ("mkfs.fat", "-F16"), ("fsck.fat", "-n"), 64 * MIB, mount="mtools"),
        Kind("exfat", ("mkfs.exfat",), ("fsck.exfat", "-n"), 64 * MIB, mount="mount.exfat-fuse"),
        Kind("ntfs", ("mkfs.ntfs", "-q", "-F", "-f"), ("ntfsfix", "-n"), 64 * MIB, mount="ntfs-3g"),
        Kind("f2fs", ("mkfs.f2fs", "-q", "-f"), ("fsck.f2fs", "-d1"), 128 * MIB, mount="f2fs-tools"),
    )
}

#: Nothing brings these up to date: they are captured whole, always.
ARE_WHOLE = ("f2fs",)

#: After some cuts a program refuses these, and then they are captured whole.  Fast commits the kernel itself does not
#: always replay: of some it says that the structure needs cleaning, and notes errors.
MAY_BE_WHOLE = ("exfat", "ntfs", "ext4 fast commit", *ARE_WHOLE)

#: A cut may leave these looking closed: btrfs always does where nothing was logged, and ntfs-3g leaves no mark.
MAY_LOOK_CLOSED = ("btrfs", "ntfs")

#: What was synced is there after every cut, as their drivers promise and, but for a driver's own faults, keep.
KEEP_WHAT_WAS_SYNCED = ("ext4", "ext4 1 KiB blocks", "ext4 data journal", "ext3", "xfs", "btrfs", "f2fs")


class Recordings:
    """Recorded workloads below a folder, by kind and seed; the last one of each kind is kept."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._kept: dict[str, tuple[int, Recording]] = {}

    def of(self, kind: Kind, seed: int) -> Recording:
        """The workload of a seed on a filesystem."""
        if kind.name not in self._kept or self._kept[kind.name][0] != seed:
            shutil.rmtree(self._folder / kind.name, ignore_errors=True)
            self._kept[kind.name] = (seed, record(kind, self._folder / kind.name, seed))
        return self._kept[kind.name][1]

    def crash(self, kind: Kind, seed: int, image: Path) -> dict[str, str]:
        """Make ``image`` as a power cut leaves it; the files that must be on it, with their hashes."""
        if kind.mount == "f2fs-tools":
            return self._unfinished_f2fs(kind, seed, image)
        recording, chance = self.of(kind, seed // CUTS), random.Random(seed)
        first = min(safe_at for _, safe_at in recording.safe.values())
        safe = recording.cut(chance.randrange(first, recording.length), image, chance)
        if kind.mount == "mtools":
            place = 0x41 if kind.name == "fat32" else 0x25
            overwrite(image, place, bytes([read_at(image, place, 1)[0] | 1]))
        return safe

    def _unfinished_f2fs(self, kind: Kind, seed: int, image: Path) -> dict[str, str]:
        """Without a driver there is no cut: all that was written, and the mark of an unmount taken away."""
        recording = self.of(kind, seed)
        safe = recording.cut(recording.length, image, random.Random(seed))
        without_f2fs_unmount(image)
        return safe


def without_f2fs_unmount(image: Path) -> None:
    """Take the mark of an unmount from both checkpoints of an F2FS."""
    first_pack = 4096 * struct.unpack("<I", read_at(image, 1024 + 76, 4))[0]
    for pack in (first_pack, first_pack + 2 * MIB):
        (blocks,) = struct.unpack_from("<I", read_at(image, pack, 4096), 136)
        for place in (pack, pack + (blocks - 1) * 4096) if blocks else ():
            overwrite(image, place, _without_unmount_flag(read_at(image, place, 4096)))


def _without_unmount_flag(block: bytes) -> bytes:
    """The checkpoint block with CP_UMOUNT_FLAG cleared and its checksum made anew."""
    (flags,) = struct.unpack_from("<I", block, 132)
    (place,) = struct.unpack_from("<I", block, 164)
    changed = block[:132] + struct.pack("<I", flags & ~1) + block[136:]
    checksum = zlib.crc32(changed[:place], 0xF2F52010 ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return changed[:place] + struct.pack("<I", checksum) + changed[place + 4 :]


def lost(kind: Kind, image: Path, safe: dict[str, str], work: Path, *, offset: int = 0) -> list[str]:
    """Which files are not equal on ``image``, where the filesystem begins at ``offset``, as its own driver shows it.

    The driver brings it up to date first, if there is one: the image is changed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="at-", dir=work) as folder,
        loop(image, offset=offset, size=kind.size) as device,
    ):
        try:
            with kind.opened(device, Path(folder)) as at:
                return differing(at, safe)
        except Unmountable as unmountable:
            return [re.sub(r"/dev/loop\d+", "it", str(unmountable).replace(folder, "there"))]
