"""The map of one filesystem: partclone's, together with what the filesystem's own module says it must hold."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recovery.command import run
from recovery.devices.mapfile import parse_map
from recovery.extent import Extent, Extents
from recovery.filesystems.source import CaptureWhole, FilesystemSource, Inspection
from recovery.units import format_bytes

Interrupt = Callable[[], None]

#: A map takes seconds to minutes; a program that takes longer hangs on a device that does not answer.
_MAP_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Map:
    """``used`` in bytes from the partition's start; ``missed_bytes`` had to be added; ``tool`` made it."""

    used: Extents
    missed_bytes: int
    tool: str


def make_map(
    source: FilesystemSource,
    program: str,
    inspection: Inspection,
    scratch: Path | None,
    interrupt: Interrupt | None,
) -> Map:
    """Everything that ``program`` does not call unused, and what ``inspection`` names.

    Raises CaptureWhole when it refuses or makes no sense, MapError, ProgramMissing, DeviceError.
    """
    areas, tool = _partclone_map(source, program, scratch, interrupt)
    added = inspection.required.union(inspection.besides)
    end = max(added.end, *(extents.end for extents in areas.values()))
    if end > source.size_bytes:
        raise CaptureWhole(
            f"its filesystem reaches to {format_bytes(end)}, the partition only to {format_bytes(source.size_bytes)}"
        )
    unused = areas.get("?", Extents())
    used = unused.invert(Extent(0, source.size_bytes)).union(added)
    return Map(used, inspection.required.intersect(unused).total_bytes, tool)


def _partclone_map(
    source: FilesystemSource, program: str, scratch: Path | None, interrupt: Interrupt | None
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
