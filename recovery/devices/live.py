"""Whether this is our own live system, when it was built, and which disk it was started from.

The medium is known by the UUID of its ISO 9660 volume, which the kernel's command line names (``recovery.medium=``).
So it is recognised also when nothing of it is mounted: copied to memory, or a stick with the same image beside a start
over the network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import msgspec

from recovery.command import run
from recovery.devices.usage import System
from recovery.errors import DeviceError, ProgramMissing

#: For tests: another folder than / to find the marks of the live system in.
ROOT_VARIABLE = "RECOVERY_LIVE_ROOT"

_UUID_PARAMETER = "recovery.medium="

#: Where live systems mount the medium they were started from.
_BOOT_MEDIA = ("/run/live/medium", "/run/live/persistence", "/lib/live/mount/medium", "/cdrom", "/run/initramfs/live")


@dataclass(frozen=True, slots=True)
class LiveSystem:
    """Our live system: its version, when it was built, the UUID of its medium (empty: not known)."""

    version: str
    built: datetime
    medium_uuid: str


class _Build(msgspec.Struct, frozen=True):
    """``/usr/lib/recovery/build.json``; ``epoch`` in seconds since 1970."""

    version: str
    epoch: int


def live_root() -> Path:
    """The folder that stands for / where the live system's marks are."""
    return Path(os.environ.get(ROOT_VARIABLE) or "/")


@cache
def live_system() -> LiveSystem | None:
    """What is known of the live system that runs this program; None when it is none of ours."""
    root = live_root()
    try:
        words = (root / "proc/cmdline").read_text(errors="replace").split()
        build = msgspec.json.decode((root / "usr/lib/recovery/build.json").read_bytes(), type=_Build)
        built = datetime.fromtimestamp(build.epoch, UTC)
    except (OSError, ValueError, OverflowError, msgspec.MsgspecError):
        return None
    named = [word.removeprefix(_UUID_PARAMETER) for word in words if word.startswith(_UUID_PARAMETER)]
    return LiveSystem(build.version, built, named[-1] if named else "")


@dataclass(frozen=True, slots=True)
class MediumCheck:
    """What the check of the medium found that the boot menu offers: the files that are not as they were made."""

    damaged: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.damaged


def medium_check() -> MediumCheck | None:
    """What the check at the start found; None where there was none.

    The first steps (initramfs) wrote it: ``passed``, or ``failed`` and the files' names, one a line.
    """
    try:
        verdict, *names = (live_root() / "run/recovery/medium-check").read_text(errors="replace").splitlines() or [""]
    except OSError:
        return None
    return MediumCheck(() if verdict == "passed" else tuple(names) or ("sha256sum.txt",))


def carriers(system: System) -> frozenset[str]:
    """The kernel's names of the devices that carry a mounted medium of a live system, ours or another."""
    media = [Path(folder) for folder in _BOOT_MEDIA if os.path.ismount(folder)]
    return frozenset().union(*(system.devices_below(folder) for folder in media))


def holds_medium(node: str, name: str) -> bool:
    """Whether the disk ``node``, by the kernel called ``name``, or a partition of it holds the volume we started from.

    Only our own live system looks.  What cannot be read holds nothing.
    """
    live = live_system()
    if live is None or not live.medium_uuid:
        return False
    folder = Path("/sys/class/block") / name
    partitions = [f"/dev/{entry.parent.name.replace('!', '/')}" for entry in sorted(folder.glob("*/partition"))]
    return any(_volume_uuid(place) == live.medium_uuid for place in (node, *partitions))


def _volume_uuid(node: str) -> str | None:
    """The UUID of the ISO 9660 volume there, whatever else is (a hybrid image has a partition table too)."""
    try:
        asked = ["blkid", "-p", "-n", "iso9660", "-s", "UUID", "-o", "value", node]
        ended = run(asked, needed_for="recognising the medium that this system was started from", check=False)
    except (DeviceError, ProgramMissing):
        return None
    return ended.stdout.decode(errors="replace").strip() or None if ended.ok else None
