"""Members of arrays and volume groups, written by hand as their on-disk formats say: no driver is needed."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.disks import MIB, overwrite, run

_LVM_LABEL = b"LABELONE" + (1).to_bytes(8, "little")
_MD_MAGIC = 0xA92B4EFC


def lvm_member(image: Path, offset: int) -> None:
    """The label of an LVM physical volume: found in the second sector, with its CRC."""
    body = bytearray(512)
    body[0:16] = _LVM_LABEL
    body[20:24] = (32).to_bytes(4, "little")
    body[24:32] = b"LVM2 001"
    body[32:64] = b"abcdefghijklmnopqrstuvwxyz012345"
    body[64:72] = (8 * MIB).to_bytes(8, "little")
    crc = 0xF597A6CF
    for byte in body[20:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    body[16:20] = crc.to_bytes(4, "little")
    overwrite(image, offset + 512, bytes(body))
    assert "LVM2_member" in run("blkid", "-p", f"--offset={offset}", image)


def md_member(image: Path, offset: int, sectors: int) -> None:
    """The superblock of an MD array's member, version 1.2: 4 KiB from its start, with its checksum."""
    body = bytearray(256 + 2)
    struct.pack_into("<IIII16s32s", body, 0, _MD_MAGIC, 1, 0, 0, bytes(range(16)), b"machine:0")
    struct.pack_into("<QiiQII", body, 72, 0, 1, 0, sectors, 0, 1)  # created, level 1, layout, size, chunk, disks
    struct.pack_into("<QQQ", body, 128, 2048, sectors - 2048, 8)  # where data begins, its size, where this lies
    struct.pack_into("<I", body, 220, 1)  # devices
    total = sum(struct.unpack("<64I", body[:256])) + int.from_bytes(body[256:], "little")
    struct.pack_into("<I", body, 216, (total & 0xFFFFFFFF) + (total >> 32))
    overwrite(image, offset + 4096, bytes(body))
    assert "linux_raid_member" in run("blkid", "-p", f"--offset={offset}", image)
