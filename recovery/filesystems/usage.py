"""Which bytes of a partition are used.  The law: unknown means used.

A filesystem's map is believed only when partclone has a program for it, its own module here found it closed cleanly,
and the map agrees with what its superblock names.  Everything else is captured whole, and the reason is said.
"""

from __future__ import annotations

import logging
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recovery.command import run
from recovery.devices.mapfile import MapError, parse_map
from recovery.devices.probe import Content
from recovery.errors import DeviceError, ProgramMissing
from recovery.extent import Extent, Extents
from recovery.filesystems import btrfs, ext, f2fs, fat, hfsplus, ntfs, xfs
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection, open_source
from recovery.filesystems.swap import swap_header
from recovery.units import format_bytes

log = logging.getLogger(__name__)

Method = Literal["map", "whole", "swap-header"]

#: A map takes seconds to minutes; a program that takes longer hangs on a device that does not answer.
_MAP_SECONDS = 1800


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


@dataclass(frozen=True, slots=True)
class _Family:
    """How a kind of filesystem is mapped."""

    program: str
    inspect: Callable[[FilesystemSource], Inspection]


#: By blkid's name.  What partclone maps besides (APFS, JFS, Minix, NILFS2, Reiser, UFS) is captured whole: there is no
#: way here to tell whether those were closed cleanly, and partclone's readers of them take no care either.
_FAMILIES = {
    "ext2": _Family("partclone.extfs", ext.inspect),
    "ext3": _Family("partclone.extfs", ext.inspect),
    "ext4": _Family("partclone.extfs", ext.inspect),
    "xfs": _Family("partclone.xfs", xfs.inspect),
    "btrfs": _Family("partclone.btrfs", btrfs.inspect),
    "ntfs": _Family("partclone.ntfs", ntfs.inspect),
    "vfat": _Family("partclone.fat", fat.inspect_fat),
    "exfat": _Family("partclone.exfat", fat.inspect_exfat),
    "f2fs": _Family("partclone.f2fs", f2fs.inspect),
    "hfsplus": _Family("partclone.hfsp", hfsplus.inspect),
}

_NO_MAP_KNOWN = {
    "filesystem": "a {type} filesystem, whose used areas are not known here",
    "raid": "a member of a RAID array ({type})",
    "crypto": "an encrypted volume ({type})",
    "lvm": "a member of an LVM volume group",
    "volume": "a member of a storage pool ({type})",
    "swap": "swap space",
    "table": "it holds a partition table of its own ({type})",
    "other": "what is on it could not be identified for certain ({type})",
}


def used_extents(
    path: Path,
    extent: Extent,
    content: Content | None,
    logical_sector_bytes: int,
    scratch: Path | None = None,
    interrupt: Callable[[], None] | None = None,
) -> Usage:
    """Which bytes of the partition ``extent`` (bytes) of the disk or image file ``path`` are used.

    ``content`` is what ``probe`` saw there.  ``scratch`` is a folder for a short-lived map file, tens of bytes for each
    fragment; by default the system's.  ``interrupt`` may raise to stop it.  Nothing is written to the source.  Whatever
    goes wrong, a missing program too, makes the answer "whole", with the reason.
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
            return _mapped(source, family, logical_sector_bytes, scratch, interrupt)
    except CaptureWhole as answer:
        return Usage(whole, "whole", answer.reason, answer.clean)
    except (ProgramMissing, DeviceError, MapError) as error:
        return Usage(whole, "whole", error.message)
    except (struct.error, ArithmeticError, ValueError, IndexError) as error:
        log.warning("the %s filesystem at byte %d of %s: %r", content.type, extent.offset, path, error)
        return Usage(whole, "whole", f"the metadata of its {content.type} filesystem make no sense")


def _mapped(
    source: FilesystemSource,
    family: _Family,
    sector_bytes: int,
    scratch: Path | None,
    interrupt: Callable[[], None] | None,
) -> Usage:
    inspection = family.inspect(source)
    areas, tool = _partclone_map(source, family.program, scratch, interrupt)
    added = inspection.required.union(inspection.besides)
    end = max(added.end, *(extents.end for extents in areas.values()))
    if end > source.size_bytes:
        raise CaptureWhole(
            f"its filesystem reaches to {format_bytes(end)}, the partition only to {format_bytes(source.size_bytes)}"
        )
    unused = areas.get("?", Extents())
    missed = inspection.required.intersect(unused).total_bytes
    reason = f"{format_bytes(missed)} that partclone's map left out were added" if missed else ""
    used = unused.invert(Extent(0, source.size_bytes)).union(added)
    return Usage(used.align(sector_bytes, source.size_bytes), "map", reason, clean=True, tool=tool)


def _partclone_map(
    source: FilesystemSource, program: str, scratch: Path | None, interrupt: Callable[[], None] | None
) -> tuple[dict[str, Extents], str]:
    """The areas that partclone tells used and unused, and its name with its version."""
    with tempfile.TemporaryDirectory(prefix="recovery-map-", dir=scratch) as folder:
        made = Path(folder, "domain")
        # Its progress thread sleeps out the refresh time, two seconds by default, before partclone ends.
        arguments: list[str | Path] = [program, "--domain", "--quiet", "--UI-fresh", "0", "--logfile", "/dev/null"]
        ended = run(
            [*arguments, "--source", source.device, "--overwrite", made],
            needed_for="finding the used areas of a filesystem",
            timeout_seconds=_MAP_SECONDS,
            check=False,
            interrupt=interrupt,
        )
        if not ended.ok:
            raise CaptureWhole(f"{program} refused to map it: {_complaint(ended.stdout + ended.stderr)}")
        try:
            with made.open("rb") as lines:
                areas = parse_map(lines, f"{program}'s map")
            with made.open("rb") as lines:
                version = re.search(rb"v(\d+(?:\.\d+)+)", lines.readline())
        except OSError as error:
            raise CaptureWhole(f"{program} left no map: {error.strerror}") from error
    if not areas:
        raise CaptureWhole(f"{program}'s map is empty")
    return areas, f"{program} {version[1].decode()}" if version else program


def _complaint(output: bytes) -> str:
    """The line of partclone's output that says what is wrong: the last that is no heading and no progress."""
    lines = [
        line.strip()
        for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output.decode(errors="replace")))
    ]
    telling = [
        line
        for line in lines
        if line and not line.startswith(("Partclone fail", "Partclone v", "Elapsed", "Total Time"))
    ]
    return re.sub(r"^\w+\.c: ", "", telling[-1]) if telling else "it gave no reason"
