"""HFS+: was it unmounted, and where its two volume headers lie.

Source: Apple's Technical Note TN1150, "Volume Header".
"""

from __future__ import annotations

import struct

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, beyond_recovery
from recovery.units import GIB, KIB

_UNMOUNTED, _INCONSISTENT = 1 << 8, 1 << 11


def inspect(source: FilesystemSource) -> Inspection:
    """Raises CaptureWhole when it was not unmounted, or when partclone would look for its bitmap in the wrong place."""
    header = source.read(1 * KIB, 512)
    (signature, _, attributes) = struct.unpack_from(">2sHI", header)
    (block, blocks) = struct.unpack_from(">II", header, 40)
    if signature not in (b"H+", b"HX") or not block:
        raise CaptureWhole("HFS+ inside an HFS wrapper, or damaged")
    if not attributes & _UNMOUNTED:
        raise beyond_recovery("HFS+", "it is marked in use")
    if attributes & _INCONSISTENT:
        raise beyond_recovery("HFS+", "it is marked inconsistent")
    places = struct.unpack_from(">16I", header, 128)
    bitmap = [(start * block, count * block) for start, count in zip(places[0::2], places[1::2], strict=True) if count]
    if any(offset + length > 4 * GIB for offset, length in bitmap):
        raise CaptureWhole("HFS+ whose bitmap lies behind 4 GiB, which partclone miscounts")
    end = block * blocks
    return Inspection(Extents([(0, 1 * KIB + 512), (max(0, end - 1 * KIB), 1 * KIB), *bitmap]))
