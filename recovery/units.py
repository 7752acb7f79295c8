"""Sizes, alignment and how they are shown.  Every quantity is in bytes unless its name says otherwise."""

from __future__ import annotations

import os
import re

from recovery.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SUFFIXES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"\s*(\d+)\s*([KMGT]?)(?:I?B)?\s*", re.IGNORECASE | re.ASCII)


def align_down(value: int, alignment: int) -> int:
    """Largest multiple of ``alignment`` that is at most ``value``."""
    return value - value % alignment


def align_up(value: int, alignment: int) -> int:
    """Smallest multiple of ``alignment`` that is at least ``value``."""
    return -(-value // alignment) * alignment


def worker_count() -> int:
    """Threads for hashing and compressing: one a processor, but each holds megabytes, so not without limit."""
    return min(8, max(2, os.cpu_count() or 1))


def format_bytes(count: int | float) -> str:
    """``1536`` as ``1.5 KiB``; three significant digits, binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1000 or unit == "TiB":
            break
        value /= 1024
    if unit == "B":
        return f"{int(value)} B"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def counted(count: int, noun: str) -> str:
    """``1 file``, ``2 files``: for nouns that take an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_seconds(seconds: float) -> str:
    """``75`` as ``1:15``, ``3675`` as ``1:01:15``."""
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def parse_bytes(text: str) -> int:
    """``4M``, ``512 KiB`` or a bare number of bytes.  Raises UsageError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size", "Write a number of bytes, or one with K, M, G or T behind it.")
    return int(match[1]) * _SUFFIXES[match[2].upper()]
