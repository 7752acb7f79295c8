"""What lives on a partition, in words by which a person recognises it: "Debian GNU/Linux 12 (bookworm)", "Windows".

A Linux names itself in a file (os-release(5)), which is read without mounting: by debugfs, xfs_db or ``btrfs restore``.
No journal is replayed and nothing is written.  What is on a foreign disk may be hostile: no program gets room to write
more than a little, or time without end.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from recovery.command import run
from recovery.devices.loop import read_only_loop
from recovery.devices.probe import Content
from recovery.errors import DeviceError, ProgramMissing
from recovery.extent import Extent
from recovery.units import KIB

log = logging.getLogger(__name__)

_SECONDS = 5.0
_MOST_BYTES, _MOST_CHARACTERS = 64 * KIB, 80

_BY_CONTENT = {
    "swap": "Linux swap",
    "swsuspend": "Linux swap, with a system that sleeps in it",
    "crypto_LUKS": "encrypted (LUKS)",
    "BitLocker": "encrypted (BitLocker)",
    "LVM2_member": "LVM volume group member",
    "LVM1_member": "LVM volume group member",
    "zfs_member": "ZFS pool member",
}
_BY_KIND = {
    "swap": "Linux swap",
    "crypto": "encrypted",
    "lvm": "LVM volume group member",
    "raid": "RAID array member",
    "volume": "storage pool member",
}
_BOOT_FILES = "boot files of a Linux"
_EFI_SYSTEM = "EFI system partition (starts the machine)"
_BY_PARTITION_TYPE = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": _EFI_SYSTEM,
    "0xef": _EFI_SYSTEM,
    "21686148-6449-6e6f-744e-656564454649": "boot loader (starts the machine)",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "reserved by Windows",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery tools",
}

#: The file itself first: the one in /etc is mostly a link to it.
_NAMES = ("usr/lib/os-release", "etc/os-release")
#: Where distributions put / on a btrfs: at its top, or in a subvolume of one of these names.
_BTRFS = r"^/(|(@|@rootfs|root)(|/)|((@|@rootfs|root)/)?(usr(|/lib(|/os-release))|etc(|/os-release)))$"


def system_on(
    place: Path,
    extent: Extent,
    content: Content | None,
    partition_type: str = "",
    logical_sector_bytes: int = 512,
) -> str:
    """What lives on ``extent`` of the disk or image file ``place``, in words; empty when nothing is known.

    ``content`` is what ``probe`` saw there, ``partition_type`` what the table says (a lower-case GUID, or ``0xef``).
    Never fails: a program that is missing or does not come to an end makes the answer empty.
    """
    if partition_type in _BY_PARTITION_TYPE:
        return _BY_PARTITION_TYPE[partition_type]
    if content is None:
        return ""
    told = _BY_CONTENT.get(content.type) or _BY_KIND.get(content.kind, "")
    look = _LOOKS.get(content.type)
    if told or look is None:
        return told
    try:
        return look(place, extent, logical_sector_bytes)
    except (DeviceError, ProgramMissing, OSError) as error:
        log.debug("what lives at byte %d of %s: %s", extent.offset, place, error)
        return ""


def _on_ext(place: Path, extent: Extent, _: int) -> str:
    if "?" in str(place):  # where debugfs ends the name
        return ""
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        for name in _NAMES:
            copy = Path(folder) / "os-release"
            _limited("debugfs", "-R", f"dump /{name} {copy}", f"{place}?offset={extent.offset}")
            if system := _named([copy]):
                return system
    files = _limited("debugfs", "-R", "ls -p /", f"{place}?offset={extent.offset}")
    return _BOOT_FILES if re.search(rb"/vmlinu[xz]-[^/]*/", files) else ""


def _on_xfs(place: Path, extent: Extent, sector_bytes: int) -> str:
    with read_only_loop(place, extent, sector_bytes) as device:
        for name in _NAMES:
            commands = (f"path /{name}", "print core.size", "dblock 0", "type text", "print")
            said = _limited("xfs_db", "-r", *(word for command in commands for word in ("-c", command)), device)
            size = re.search(rb"core\.size = (\d+)\n", said)
            rows = re.findall(rb"^[0-9a-f]+:  ((?:[0-9a-f]{2} ){1,16}) ", said, re.MULTILINE)
            if size and rows:
                text = bytes.fromhex(b"".join(rows).decode("ascii"))
                if system := _pretty_name(text[: int(size[1])]):
                    return system
    return ""


def _on_btrfs(place: Path, extent: Extent, sector_bytes: int) -> str:
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        with read_only_loop(place, extent, sector_bytes) as device:
            _limited("btrfs", "restore", "--path-regex", _BTRFS, device, folder)
        return _named(sorted(Path(folder).rglob("os-release")))


def _on_ntfs(place: Path, extent: Extent, sector_bytes: int) -> str:
    """By the folder that every Windows since NT has; its name is written in several ways."""
    with read_only_loop(place, extent, sector_bytes) as device:
        folders = _limited("ntfsls", "--force", "--path", "/", device).decode(errors="replace").splitlines()
        for folder in folders:
            if folder.lower() in ("windows", "winnt"):
                inside = _limited("ntfsls", "--force", "--path", f"/{folder}", device).decode(errors="replace")
                if "system32" in inside.lower().splitlines():
                    return "Windows"
    return ""


def _limited(*command: str | Path) -> bytes:
    """What a program says, that may write only short files; what it wrote before it failed counts, too."""
    limit = f"--fsize={_MOST_BYTES}"
    ended = run(
        ["prlimit", limit, "--core=0", *command],
        needed_for="seeing what lives on a partition",
        timeout_seconds=_SECONDS,
        check=False,
    )
    return ended.stdout


def _named(files: Iterable[Path]) -> str:
    for file in files:
        with contextlib.suppress(OSError):
            if file.is_file() and (system := _pretty_name(file.read_bytes())):
                return system
    return ""


def _pretty_name(text: bytes) -> str:
    """PRETTY_NAME of os-release(5), or NAME; without what is no plain text, and not too long."""
    values: dict[str, str] = {}
    for line in text.decode("utf-8", errors="replace").splitlines():
        name, equals, value = line.partition("=")
        with contextlib.suppress(ValueError):
            if equals and (words := shlex.split(value)):
                values[name.strip()] = words[0]
    name = values.get("PRETTY_NAME") or values.get("NAME", "")
    plain = "".join(character for character in name if unicodedata.category(character)[0] != "C")
    return plain.strip()[:_MOST_CHARACTERS]


_LOOKS: dict[str, Callable[[Path, Extent, int], str]] = {
    "ext2": _on_ext,
    "ext3": _on_ext,
    "ext4": _on_ext,
    "xfs": _on_xfs,
    "btrfs": _on_btrfs,
    "ntfs": _on_ntfs,
}
