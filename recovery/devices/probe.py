"""What lies on a range of a disk, as libblkid sees it; the only caller of ``blkid -p``.

Works alike on block devices and raw image files, with or without a partition table around the range.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from recovery.command import Completed, run
from recovery.devices.loop import read_only_loop
from recovery.errors import DeviceError
from recovery.extent import Extent

Kind = Literal["filesystem", "raid", "crypto", "lvm", "volume", "swap", "table", "other"]

#: What a part of something larger is, by its kind.
MEMBERSHIP: dict[Kind, str] = {
    "raid": "a member of a RAID array",
    "lvm": "a member of an LVM volume group",
    "volume": "a member of a storage pool",
}

_FOUND, _NOTHING, _AMBIVALENT = 0, 2, 8
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")

#: Members of pools and stacks that blkid files under "filesystem", "raid" or "other".
_VOLUME_TYPES = frozenset(
    {"zfs_member", "bcache", "stratis", "drbd", "drbdmanage_control_volume", "VMFS_volume_member"}
)

_TABLE_TYPES = frozenset({"gpt", "PMBR", "dos"})


class Content(msgspec.Struct, frozen=True):
    """What libblkid recognised.

    ``kind`` says what to do with it: "lvm" and "volume" are members of volume groups and pools, "raid" of arrays;
    "table" is a partition table and nothing else; "other" is anything that cannot be told (also an ambivalent
    answer, ``type`` "ambivalent") and is to be treated as unknown.  ``type`` is blkid's name (``ext4``, ``vfat``,
    ``crypto_LUKS``, ``LVM2_member``, ``swap``, ``swsuspend``, ...); for a table its kind (``gpt``, ``dos``).
    ``table`` names a partition table seen besides.  Label bytes that are not UTF-8 read as ``\\xNN``.
    """

    kind: Kind
    type: str
    label: str | None = None
    uuid: str | None = None
    version: str | None = None
    size_bytes: int | None = None
    block_bytes: int | None = None
    table: str | None = None


def probe(path: Path, extent: Extent, logical_sector_bytes: int = 512) -> Content | None:
    """What is on ``extent`` (bytes) of the disk or image file ``path``; None when nothing is recognised.

    A whole disk is probed with the extent of the whole disk.  ``logical_sector_bytes`` is that of the disk; blkid
    takes 512 for an image file and then sees only the protective MBR of a GPT, which is told here as a GPT.
    Raises DeviceError when the disk cannot be opened or blkid fails.
    """
    try:
        with path.open("rb", buffering=0):
            pass
    except OSError as error:
        raise DeviceError(f"{path} cannot be opened: {error.strerror}", "Reading disks needs root.") from error
    if extent.length <= 0:
        return None
    asked = [f"--offset={extent.offset}", f"--size={extent.length}"]
    ended = run(["blkid", "-p", "-o", "udev", *asked, path], needed_for=f"recognising what is on {path}", check=False)
    if ended.status == _NOTHING:
        return _contradiction(path, extent, logical_sector_bytes)
    if ended.status == _AMBIVALENT:
        return Content(kind="other", type="ambivalent", version=_fields(ended).get("ID_FS_AMBIVALENT"))
    if ended.status != _FOUND:
        raise DeviceError(f"blkid failed on {path}: {ended.reason}", "See the kernel's log (dmesg) for the device.")
    return _content(_fields(ended), logical_sector_bytes)


def _contradiction(path: Path, extent: Extent, logical_sector_bytes: int) -> Content | None:
    """What several signatures that exclude each other come to; None when there is at most one.

    Only Debian 12's blkid calls that ambivalent; Debian 13's (libblkid 2.41) answers as if nothing were there, and a
    disk with data on it must not look blank.  wipefs lists every signature.
    """
    try:
        with read_only_loop(path, extent, logical_sector_bytes) as device:
            listed = run(
                ["wipefs", "--noheadings", "--output", "TYPE", device],
                needed_for=f"recognising what is on {path}",
                check=False,
            )
    except DeviceError:  # no loop device for us: blkid's word stands
        return None
    types = sorted(set(listed.stdout.decode(errors="replace").split()) - _TABLE_TYPES) if listed.ok else []
    return Content(kind="other", type="ambivalent", version=" ".join(types)) if len(types) > 1 else None


def decode(raw: bytes) -> str:
    """Text from a disk, safe in JSON: bytes that are not UTF-8 read as ``\\xNN``, NULs end it."""
    return raw.split(b"\0", 1)[0].decode("utf-8", errors="backslashreplace")


def _fields(ended: Completed) -> dict[str, str]:
    """blkid's ``KEY=value`` lines; the ``_ENC`` form, which loses nothing, takes the plain one's place."""
    found: dict[str, str] = {}
    for line in ended.stdout.split(b"\n"):
        key, equals, value = line.partition(b"=")
        name = key.decode("ascii", errors="replace")
        if not equals:
            continue
        if name.endswith("_ENC"):
            found[name.removesuffix("_ENC")] = decode(_ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), value))
        else:
            found.setdefault(name, decode(value))
    return found


def _content(fields: dict[str, str], logical_sector_bytes: int) -> Content | None:
    table = fields.get("ID_PART_TABLE_TYPE")
    if table == "PMBR" and logical_sector_bytes != 512:
        table = "gpt"
    kind_of_table = table.lower() if table else None
    type_ = fields.get("ID_FS_TYPE")
    if type_ is None:
        if kind_of_table is None:
            return None
        return Content(kind="table", type=kind_of_table, uuid=fields.get("ID_PART_TABLE_UUID"), table=kind_of_table)
    return Content(
        kind=_kind(type_, fields.get("ID_FS_USAGE", "")),
        type=type_,
        label=fields.get("ID_FS_LABEL"),
        uuid=fields.get("ID_FS_UUID"),
        version=fields.get("ID_FS_VERSION"),
        size_bytes=_number(fields.get("ID_FS_SIZE")),
        block_bytes=_number(fields.get("ID_FS_BLOCK_SIZE")),
        table=kind_of_table,
    )


def _kind(type_: str, usage: str) -> Kind:
    if type_ in ("swap", "swsuspend"):
        return "swap"
    if type_.startswith("LVM"):
        return "lvm"
    if type_ in _VOLUME_TYPES:
        return "volume"
    match usage:
        case "filesystem" | "raid" | "crypto":
            return usage
        case _:
            return "other"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
