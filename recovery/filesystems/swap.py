"""Swap space: its header is used, the rest only when it holds a hibernated system.

Source: the kernel's include/linux/swap.h (``union swap_header``: the signature ends the first page) and util-linux's
libblkid for the signatures of hibernation.
"""

from __future__ import annotations

from recovery.extent import Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource
from recovery.units import KIB

_PAGES = tuple(KIB << shift for shift in range(2, 7))
_SWAP = (b"SWAPSPACE2", b"SWAP-SPACE")


def swap_header(source: FilesystemSource) -> Extents:
    """The first page.  Raises CaptureWhole when its signature is any other than that of swap space not in use."""
    for page in _PAGES:
        if page <= source.size_bytes and source.read(page - 10, 10) in _SWAP:
            return Extents([(0, page)])
    raise CaptureWhole("swap space that holds a hibernated system, or is of an unknown kind")
