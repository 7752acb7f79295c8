"""Filesystems for recorded disks, made by their own programs in sparse files, without root and without writing much.

How full one is, is made by giving a file room that is never written: ``debugfs fallocate``, ``ntfscp`` from a file that
is cut off meanwhile, a reserved file of ``mkfs.xfs``.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from recovery.command import run
from recovery.errors import DeviceError, ProgramMissing
from recovery.units import GIB, KIB, MIB
from tui.recorded_format import Filesystem

_NEEDED_FOR = "making a recorded machine"
_BLOCK = 4 * KIB
#: How long ntfscp is given to reserve the room of a file.
_RESERVE_SECONDS, _POLL_SECONDS = 10.0, 0.01
_LOG_BYTES = 64 * MIB
_FAT32_BYTES = 64 * MIB
#: So much of a large filesystem has one inode: their tables count as used.
_INODE_BYTES = MIB

_LOADERS = {
    "EFI/BOOT/BOOTX64.EFI": b"MZ loader",
    "EFI/Microsoft/Boot/bootmgfw.efi": b"MZ Windows loader",
    "EFI/debian/shimx64.efi": b"MZ shim",
    "EFI/debian/grubx64.efi": b"MZ grub",
}


def make_filesystem(place: Path, size_bytes: int, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    """Make ``place``, a sparse file of ``size_bytes``, with what is wanted; ``files`` is an empty folder to work in.

    What could not be made is told in sentences; then it is empty, or less full.
    """
    with place.open("wb") as file:
        file.truncate(size_bytes)
    try:
        return _MAKERS[wanted.kind](place, wanted, uuid, files)
    except (ProgramMissing, DeviceError) as error:
        with place.open("r+b") as file:  # nothing rather than a part
            file.truncate(0)
            file.truncate(size_bytes)
        return [f"This recording's {wanted.kind} filesystem could not be made: {error.message}."]


def _tool(*words: str | Path, input: bytes | None = None) -> None:
    run(words, needed_for=_NEEDED_FOR, input=input)


def _content(wanted: Filesystem, files: Path, seed: int) -> Path:
    """A folder with the files that will lie on it."""
    if wanted.boots:
        for name, data in _LOADERS.items():
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            (files / name).write_bytes(data)
    if wanted.system and wanted.kind in ("ext4", "xfs", "btrfs"):
        (files / "etc").mkdir()
        name, _, version = wanted.system.partition(" GNU/Linux ")
        words = (
            f'PRETTY_NAME="{wanted.system}"\nNAME="{name}"\nID={name.lower()}\nVERSION_ID="{version.split(" ")[0]}"\n'
        )
        (files / "etc/os-release").write_text(words)
        (files / "etc/fstab").write_text("# made for a recording\n")
    made = random.Random(seed)
    for number, at in enumerate(range(0, wanted.data_bytes, 4 * MIB)):
        (files / f"file-{number:03}.bin").write_bytes(made.randbytes(min(4 * MIB, wanted.data_bytes - at)))
    return files


def _ext4(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    folder = _content(wanted, files, uuid.int)
    extended = f"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed={uuid}"
    size = place.stat().st_size
    few = ["-i", str(_INODE_BYTES), "-J", "size=64"] if size > 64 * GIB else []
    options = ["-q", "-F", *few, "-E", extended, "-U", str(uuid), "-L", wanted.label, "-m", "0", "-b", str(_BLOCK)]
    _tool("mkfs.ext4", *options, "-d", folder, place)
    if wanted.used_bytes > wanted.data_bytes:
        blocks = (wanted.used_bytes - wanted.data_bytes) // _BLOCK
        orders = [
            "write /dev/null /data",
            f"fallocate /data 0 {blocks - 1}",
            f"set_inode_field /data size {blocks * _BLOCK}",
        ]
        _tool("debugfs", "-w", "-f", "/dev/stdin", place, input="\n".join(orders).encode() + b"\n")
    return []


def _vfat(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    label = wanted.label[:11].upper() or "NO NAME"
    width = ["-F", "32"] if place.stat().st_size >= _FAT32_BYTES else []
    _tool("mkfs.fat", *width, "-i", f"{uuid.int & 0xFFFFFFFF:08x}", "-n", label, place)
    folder = _content(wanted, files, uuid.int)
    inside = sorted(folder.iterdir())
    if inside:
        _tool("mcopy", "-i", place, "-s", "-Q", *inside, "::")
    return []


def _ntfs(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    _tool("mkfs.ntfs", "-q", "-F", "-f", "-L", wanted.label, "-p", "2048", "-s", "512", "-H", "255", "-S", "63", place)
    folder = _content(wanted, files, uuid.int)
    if wanted.system:
        (folder / "bootmgr").write_bytes(b"made for a recording")
    for file in sorted(folder.iterdir()):
        _tool("ntfscp", "-f", place, file, file.name)
    if wanted.system and os.geteuid() == 0:
        _windows_folders(place, files)
    if wanted.used_bytes > wanted.data_bytes:
        _reserve_on_ntfs(place, wanted.used_bytes - wanted.data_bytes, files)
    return []


def _windows_folders(place: Path, files: Path) -> None:
    """No program but the driver makes folders, and that wants root."""
    mount = files / "mount"
    mount.mkdir()
    script = (
        'ntfs-3g -o no_detach "$0" "$1" & driver=$!; '
        'for turn in $(seq 100); do mountpoint -q "$1" && break; sleep 0.02; done; '
        'mkdir -p "$1/Windows/System32/config" "$1/Users" && echo made > "$1/Windows/System32/ntoskrnl.exe"; '
        'made=$?; umount "$1"; wait $driver; exit $made'
    )
    _tool("unshare", "--mount", "sh", "-c", script, place, mount)
    mount.rmdir()


def _reserve_on_ntfs(place: Path, length: int, files: Path) -> None:
    """ntfscp first gives the file its room, and then copies, which is stopped by cutting the source off."""
    source = files / "pagefile.sys"
    for _ in range(2):
        with source.open("wb") as file:
            file.truncate(length)
        blocks = place.stat().st_blocks
        bitmap_blocks = length // _BLOCK // 8 // 512
        with ThreadPoolExecutor(1) as pool:
            copied = pool.submit(_tool, "ntfscp", "-f", place, source, source.name)
            ends = time.monotonic() + _RESERVE_SECONDS
            while not copied.done() and time.monotonic() < ends:
                if place.stat().st_blocks > blocks + bitmap_blocks:
                    break
                time.sleep(_POLL_SECONDS)
            os.truncate(source, 0)
            copied.result()
        if place.stat().st_blocks > blocks + bitmap_blocks // 2:
            break
    source.unlink()


def _xfs(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    folder = _content(wanted, files, uuid.int)
    lines = ["/made/for/a/recording", "0 0", "d--755 0 0"]
    lines += _prototype(folder)
    if wanted.used_bytes > wanted.data_bytes:
        lines.append(f"data r--644 0 0 {wanted.used_bytes - wanted.data_bytes}")
    prototype = files.with_name(f"{files.name}.prototype")
    prototype.write_text("\n".join([*lines, "$", "$", ""]))
    log_size = ["-l", f"size={_LOG_BYTES}"] if place.stat().st_size > 64 * _LOG_BYTES else []
    names = ["-L", wanted.label[:12]] if wanted.label else []
    _tool("mkfs.xfs", "-q", "-f", "-K", "-m", f"uuid={uuid}", *names, *log_size, "-p", prototype, place)
    return []


def _prototype(folder: Path) -> list[str]:
    lines = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            lines += [f"{path.name} d--755 0 0", *_prototype(path), "$"]
        else:
            lines.append(f"{path.name} ---644 0 0 {path}")
    return lines


def _btrfs(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    folder = _content(wanted, files, uuid.int)
    names = ["--label", wanted.label] if wanted.label else []
    _tool("mkfs.btrfs", "--quiet", "--nodiscard", "--uuid", str(uuid), *names, "--rootdir", folder, place)
    return []


def _swap(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    names = ["--label", wanted.label] if wanted.label else []
    _tool("mkswap", "--uuid", str(uuid), *names, place)
    return []


def _luks(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    """Its header; what would be inside cannot be seen anyway.  Its password is "recording"."""
    key = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"]
    names = ["--label", wanted.label] if wanted.label else []
    options = ["--batch-mode", "--type", "luks2", "--uuid", str(uuid), *names, *key]
    _tool("cryptsetup", "luksFormat", *options, place, input=b"recording")
    return []


def _raid(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    """The superblock of a member of a mirror, version 1.2 (the kernel's include/uapi/linux/raid/md_p.h)."""
    sectors = place.stat().st_size // 512
    block = bytearray(256 + 2 * 2)
    struct.pack_into("<IIII16s32s", block, 0, 0xA92B4EFC, 1, 0, 0, _array_id(wanted), wanted.label.encode()[:32])
    struct.pack_into("<QiiQII", block, 72, 0, 1, 0, sectors - 2048, 0, 2)
    struct.pack_into("<QQQ", block, 128, 2048, sectors - 2048, 8)
    struct.pack_into("<16s", block, 168, uuid.bytes)
    struct.pack_into("<I", block, 220, 2)
    struct.pack_into("<HH", block, 256, 0, 1)
    total = sum(struct.unpack(f"<{len(block) // 4}I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32))
    with place.open("r+b") as file:
        file.seek(4 * KIB)
        file.write(block)
    return []


def _array_id(wanted: Filesystem) -> bytes:
    """Members of one array share it."""
    return random.Random(wanted.label).randbytes(16)


def _lvm(place: Path, wanted: Filesystem, uuid: UUID, files: Path) -> list[str]:
    """The label of a physical volume: in the second sector, with its CRC (LVM2's lib/format_text/layout.h)."""
    body = bytearray(512)
    body[0:16] = b"LABELONE" + (1).to_bytes(8, "little")
    body[20:24] = (32).to_bytes(4, "little")
    body[24:32] = b"LVM2 001"
    body[32:64] = uuid.hex.encode()
    body[64:72] = place.stat().st_size.to_bytes(8, "little")
    checksum = 0xF597A6CF
    for byte in body[20:]:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0xEDB88320 if checksum & 1 else 0)
    body[16:20] = checksum.to_bytes(4, "little")
    with place.open("r+b") as file:
        file.seek(512)
        file.write(body)
    return []


_MAKERS: dict[str, Callable[[Path, Filesystem, UUID, Path], list[str]]] = {
    "ext4": _ext4,
    "vfat": _vfat,
    "ntfs": _ntfs,
    "xfs": _xfs,
    "btrfs": _btrfs,
    "swap": _swap,
    "luks": _luks,
    "raid": _raid,
    "lvm": _lvm,
}
