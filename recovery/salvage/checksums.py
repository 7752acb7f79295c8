"""The checksums of filesystems."""

from __future__ import annotations

import struct
from typing import cast

from dissect.util.hash import crc32c as _crc32c


def crc32c(data: bytes, seed: int = 0xFFFFFFFF) -> int:
    """CRC-32C as filesystems use it: started with ``seed``, and not inverted at the end."""
    return cast("int", _crc32c.crc32c(data, seed ^ 0xFFFFFFFF)) ^ 0xFFFFFFFF


def crc16(data: bytes, seed: int = 0xFFFF) -> int:
    """CRC-16 with the polynomial 0x8005, reflected."""
    value = seed
    for byte in data:
        value = _CRC16[(value ^ byte) & 0xFF] ^ value >> 8
    return value


def _table() -> tuple[int, ...]:
    made = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        made.append(value)
    return tuple(made)


_CRC16 = _table()


_MASK = (1 << 64) - 1
_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5,
)  # fmt: skip


def xxhash64(data: bytes) -> int:
    """XXH64 with the seed 0.  Source: the specification of the xxHash project."""
    length = len(data)
    at = length // 32 * 32
    if at:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        for words in struct.iter_unpack("<4Q", data[:at]):
            for number, word in enumerate(words):
                lanes[number] = _round(lanes[number], word)
        total = sum(_turned(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            total = ((total ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        total = _P5
    total = (total + length) & _MASK
    while at + 8 <= length:
        total = (_turned(total ^ _round(0, int.from_bytes(data[at : at + 8], "little")), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= length:
        word = int.from_bytes(data[at : at + 4], "little")
        total = (_turned(total ^ (word * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        total = _turned(total ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    total = (total ^ total >> 33) * _P2 & _MASK
    total = (total ^ total >> 29) * _P3 & _MASK
    return total ^ total >> 32


def _turned(value: int, by: int) -> int:
    return (value << by | value >> 64 - by) & _MASK


def _round(lane: int, word: int) -> int:
    return _turned((lane + word * _P2) & _MASK, 31) * _P1 & _MASK
