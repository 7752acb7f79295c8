"""Which bytes of a partition are used.  The law: unknown means used.

A filesystem's map is believed only when partclone has a program for it, its own module here found it closed cleanly
or it was brought up to date on a copy (``unclean``), and the map agrees with what its superblock names.  Everything
else is captured whole, and the reason is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from recovery.devices.mapfile import MapError
from recovery.devices.probe import MEMBERSHIP, Content
from recovery.errors import DeviceError, ProgramMissing
from recovery.extent import Extent, Extents
from recovery.filesystems import btrfs, ext, f2fs, fat, hfsplus, ntfs, xfs
from recovery.filesystems.mapped import Interrupt, Map, make_map
from recovery.filesystems.replay import Way, by_mounting, by_program
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, NotClosedCleanly, open_source
from recovery.filesystems.swap import swap_header
from recovery.filesystems.unclean import NONSENSE, Recovery, Unclean, united_map
from recovery.units import format_bytes

log = logging.getLogger(__name__)

Method = Literal["map", "whole", "swap-header"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What of a partition is used: ``used`` in bytes from its start, whole sectors, never beyond its end.

    ``method`` says how that is known.  ``reason`` is in plain words why it is captured whole, or what had to be added
    to a map; empty when there is nothing to tell.  ``clean`` is whether the filesystem was closed cleanly (None: not
    known, or nothing to close).  ``tool`` is the program that made the map, with its version.
    """

    used: Extents
    method: Method
    reason: str = ""
    clean: bool | None = None
    tool: str | None = None


_Ways = Callable[[FilesystemSource], tuple[Way, ...]]


@dataclass(frozen=True, slots=True)
class _Family:
    """How a kind of filesystem is mapped."""

    program: str
    inspect: Callable[[FilesystemSource], Inspection]
    recovery: Recovery | None = None


#: The kernel's ext4 driver also mounts ext3.  What the superblock says of errors may be "panic"; the tables of inodes
#: that mkfs left for later are none of our business.
_MOUNT_EXT = by_mounting("ext4", "errors=remount-ro,noinit_itable,nodiscard")
_REPLAY_EXT = by_program("e2fsck", "-p", "-E", "journal_only", accepted=(0, 1))
_CHECK_EXT = by_program("e2fsck", "-f", "-y", accepted=(0, 1))


def _ways_of_ext(source: FilesystemSource) -> tuple[Way, ...]:
    return (_MOUNT_EXT, _REPLAY_EXT) if ext.has_journal(source) else (_CHECK_EXT,)


def _always(way: Way) -> _Ways:
    return lambda _: (way,)


def _recoverable(program: str, inspect: Callable[..., Inspection], ways: _Ways, **more: Any) -> _Family:
    """One that can be brought up to date; ``inspect`` takes ``ask_closed``, ``more`` goes to ``Recovery``."""
    return _Family(program, inspect, Recovery(partial(inspect, ask_closed=False), ways, **more))


_EXT = _recoverable("partclone.extfs", ext.inspect, _ways_of_ext, areas=ext.bitmaps, by_partclone=False)
_XFS = _recoverable("partclone.xfs", xfs.inspect, _always(by_mounting("xfs", "nouuid")))
_BTRFS = _recoverable(
    "partclone.btrfs",
    btrfs.inspect,
    _always(by_mounting("btrfs", "skip_balance,nodiscard")),
    areas=btrfs.log_trees,
)
_FAT = _recoverable(
    "partclone.fat",
    fat.inspect_fat,
    _always(by_program("fsck.fat", "-a", "-w", accepted=(0, 1))),
    closed_marks=fat.fat_closed_marks,
    areas=fat.other_tables,
)
_EXFAT = _recoverable(
    "partclone.exfat",
    fat.inspect_exfat,
    _always(by_program("fsck.exfat", "-y", accepted=(0, 1))),
    closed_marks=fat.exfat_closed_marks,
)
_NTFS = _recoverable(
    "partclone.ntfs",
    ntfs.inspect,
    _always(by_program("ntfsfix", "--clear-dirty")),
    closed_marks=ntfs.closed_marks,
)

#: By blkid's name.  What partclone maps besides (APFS, JFS, Minix, NILFS2, Reiser, UFS) is captured whole: there is no
#: way here to tell whether those were closed cleanly, and partclone's readers of them take no care either.
_FAMILIES = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": _XFS,
    "btrfs": _BTRFS,
    "ntfs": _NTFS,
    "vfat": _FAT,
    "exfat": _EXFAT,
    "f2fs": _Family("partclone.f2fs", f2fs.inspect),
    "hfsplus": _Family("partclone.hfsp", hfsplus.inspect),
}

_NO_MAP_KNOWN = {
    "filesystem": "a {type} filesystem, whose used areas are not known here",
    **{kind: f"{what} ({{type}})" for kind, what in MEMBERSHIP.items()},
    "crypto": "an encrypted volume ({type})",
    "swap": "swap space",
    "table": "it holds a partition table of its own ({type})",
    "other": "what is on it could not be identified for certain ({type})",
}


def recovery_of(kind: str) -> Recovery | None:
    """How a filesystem of that ``kind`` (blkid's name) is brought up to date that was not closed cleanly."""
    family = _FAMILIES.get(kind)
    return family.recovery if family else None


def used_extents(
    path: Path,
    extent: Extent,
    content: Content | None,
    logical_sector_bytes: int,
    scratch: Path | None = None,
    interrupt: Interrupt | None = None,
) -> Usage:
    """Which bytes of the partition ``extent`` (bytes) of the disk or image file ``path`` are used.

    ``content`` is what ``probe`` saw there.  ``scratch`` is a folder for short-lived files, by default the system's: a
    map, tens of bytes for each fragment, and what the replay of a journal changes, at most half of what is free there.
    ``interrupt`` may raise to stop it.  Nothing is written to the source.  Whatever goes wrong, a missing program too,
    makes the answer "whole", with the reason.
    """
    whole = Extents([(0, extent.length)])
    if content is None:
        return Usage(whole, "whole", "nothing that could be recognised is on it")
    swap = content.kind == "swap"
    family = _FAMILIES.get(content.type) if content.kind == "filesystem" else None
    if family is None and not swap:
        return Usage(whole, "whole", _NO_MAP_KNOWN[content.kind].format(type=content.type))
    try:
        with open_source(path, extent, logical_sector_bytes) as source:
            if source.size_bytes != extent.length:
                raise CaptureWhole("it does not lie on the disk with its whole length")
            if family is None:
                return Usage(swap_header(source).align(logical_sector_bytes, extent.length), "swap-header")
            try:
                inspection = family.inspect(source)
            except NotClosedCleanly as answer:
                unclean = answer
            else:
                made = make_map(source, family.program, inspection, scratch, interrupt)
                return _usage(made, logical_sector_bytes, extent.length)
        return _recovered(path, extent, family, unclean, logical_sector_bytes, scratch, interrupt)
    except CaptureWhole as answer:
        return Usage(whole, "whole", answer.reason, answer.clean)
    except (ProgramMissing, DeviceError, MapError) as error:
        return Usage(whole, "whole", error.message)
    except NONSENSE as error:
        log.warning("the %s filesystem at byte %d of %s: %r", content.type, extent.offset, path, error)
        return Usage(whole, "whole", f"the metadata of its {content.type} filesystem make no sense")


def why_not_closed(path: Path, extent: Extent, content: Content, logical_sector_bytes: int) -> str:
    """How it shows that the filesystem on ``extent`` of ``path`` was not closed cleanly; empty when it was.

    Also empty for one that is not known here.  Nothing is written.  Raises DeviceError, ProgramMissing.
    """
    family = _FAMILIES.get(content.type)
    if family is None:
        return ""
    try:
        with open_source(path, extent, logical_sector_bytes) as source:
            family.inspect(source)
    except CaptureWhole as answer:
        return answer.reason if answer.clean is False or content.type == "ntfs" else ""
    except NONSENSE as error:
        return f"its metadata make no sense ({error})"
    return ""


def _usage(made: Map, sector_bytes: int, size_bytes: int, unclean: str = "") -> Usage:
    missed = f"{format_bytes(made.missed_bytes)} that partclone's map left out were added" if made.missed_bytes else ""
    reason = "; ".join(filter(None, (unclean, missed)))
    return Usage(made.used.align(sector_bytes, size_bytes), "map", reason, clean=not unclean, tool=made.tool)


def _recovered(
    path: Path,
    extent: Extent,
    family: _Family,
    unclean: NotClosedCleanly,
    sector_bytes: int,
    scratch: Path | None,
    interrupt: Interrupt | None,
) -> Usage:
    """What is used of a filesystem that was not closed cleanly.  Raises CaptureWhole where that cannot be told."""
    if family.recovery is None:
        raise unclean
    job = Unclean(path, extent, sector_bytes, family.program, family.inspect, family.recovery, scratch, interrupt)
    try:
        made = united_map(job)
    except CaptureWhole as answer:
        raise CaptureWhole(f"{unclean.reason}; {answer.reason}", clean=False) from answer
    except (ProgramMissing, DeviceError, MapError) as error:
        raise CaptureWhole(f"{unclean.reason}; {error.message}", clean=False) from error
    except NONSENSE as error:
        log.warning("the filesystem at byte %d of %s: %r", extent.offset, path, error)
        raise CaptureWhole(f"{unclean.reason}; its metadata make no sense", clean=False) from error
    how = "its map on disk, united with that of a copy brought up to date"
    return _usage(made, sector_bytes, extent.length, f"{unclean.reason}: {how}")
