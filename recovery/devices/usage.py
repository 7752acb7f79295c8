"""Who uses a block device or an image file, and which disks lie below a folder.

Storage is stacked: partitions, loop devices, device-mapper, MD, btrfs over several devices.  The kernel tells the
stack in sysfs and the mounts in procfs; a ``System`` is one reading of both.  Upward it answers what uses a disk,
downward which whole disks carry a file.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
_SYS, _PROC = Path("/sys"), Path("/proc")


def printable(text: str) -> str:
    """Text from the kernel or udev, safe in JSON: bytes that were not UTF-8 read as ``\\xNN``."""
    return os.fsencode(text).decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: device number ``8:1``, where, type, source, options of the filesystem."""

    number: str
    point: str
    kind: str
    source: str
    options: str


class System:
    """One reading of the kernel's mounts, swaps and stacks of block devices, which go by its names (``sda1``)."""

    def __init__(self, sys: Path = _SYS, proc: Path = _PROC) -> None:
        self._sys = sys
        self.mounts = tuple(_read_mounts(proc / "self" / "mountinfo"))
        self._swaps = tuple(_read_swaps(proc / "swaps"))
        self._btrfs = [
            frozenset(_names(folder / "devices"))
            for folder in _folders(sys / "fs" / "btrfs")
            if (folder / "devices").is_dir()
        ]
        self._loops = {
            folder.name: os.fsdecode(_raw(folder / "loop" / "backing_file").removesuffix(b"\n"))
            for folder in _folders(sys / "class" / "block")
            if folder.name.startswith("loop") and (folder / "loop" / "backing_file").exists()
        }

    def name_of(self, number: int) -> str | None:
        """The kernel's name of the block device with this device number (``st_rdev``); None when there is none."""
        return self._name_of(f"{os.major(number)}:{os.minor(number)}")

    def _name_of(self, number: str) -> str | None:
        place = self._sys / "dev" / "block" / number
        return place.resolve().name if place.exists() else None

    def whole_disk(self, name: str) -> str:
        """The disk that a partition belongs to; the device itself when it is none."""
        place = self._sys / "class" / "block" / name
        return place.resolve().parent.name if (place / "partition").exists() else name

    def partition_number(self, name: str) -> int | None:
        """Which partition of its disk it is; None for what is none."""
        raw = _raw(self._sys / "class" / "block" / name / "partition").strip()
        return int(raw) if raw.isdigit() else None

    def uses(self, name: str, *, readers: bool = False) -> tuple[str, ...]:
        """What uses a disk, its partitions or what is stacked upon them, in plain words.

        A read-only loop device with nothing on it disturbs a source no more than a reader does: told with ``readers``.
        """
        found: dict[str, None] = {}
        for node in self._stack(name):
            for words in self._uses_of(node, readers):
                found[words if node == name else f"{printable(node)} {words}"] = None
        return tuple(found)

    def uses_of_file(self, file: os.stat_result, *, readers: bool = False) -> tuple[str, ...]:
        """What uses an image file: loop devices and what is on them, mounts and swap of the file itself."""
        found: dict[str, None] = {}
        for loop in self._loops_over(file):
            above = self.uses(loop, readers=readers)
            if above or readers or not self._read_only(loop):
                found[f"attached as /dev/{loop}"] = None
            for words in above:
                found[f"{loop} {words}" if words.split(" ", 1)[0] not in self._stack(loop) else words] = None
        for mount in self.mounts:
            if mount.source.startswith("/") and _same_file(mount.source, file):
                found[f"mounted at {printable(mount.point)}"] = None
        if any(_same_file(swap, file) for swap in self._swaps):
            found["used as swap"] = None
        return tuple(found)

    def devices_below(self, path: Path) -> frozenset[str]:
        """Every block device that carries the file or folder ``path``: partitions, disks and what is stacked between.

        Follows mounts, overlays, loop devices and the files behind them (as ``file:DEVICE:INODE``), device-mapper, MD
        and btrfs.  Empty for what lies in memory or on the network.  A path that does not exist yet counts as its
        nearest parent.
        """
        found: set[str] = set()
        self._below_path(path, found, set())
        return frozenset(found)

    def storage(self, name: str) -> frozenset[str]:
        """What is overwritten when the device ``name`` is: itself, what it is stacked upon, the file behind a loop."""
        found: set[str] = set()
        self._storage(name, found)
        return frozenset(found)

    def whole_disks(self, names: Iterable[str]) -> frozenset[str]:
        """``names``, and the disks of the partitions among them."""
        return frozenset(names).union(self.whole_disk(name) for name in names)

    def _storage(self, name: str, found: set[str]) -> None:
        if name in found:
            return
        found.add(name)
        for slave in self._slaves(name):
            self._storage(slave, found)
        backing = _stat(self._loops[name]) if name in self._loops else None
        if backing is None:
            return
        below = self.name_of(backing.st_rdev) if stat.S_ISBLK(backing.st_mode) else None
        if below is not None:
            self._storage(below, found)
        else:
            found.add(file_id(backing))

    def _stack(self, name: str) -> list[str]:
        """A disk, its partitions, and everything stacked upon any of them."""
        found = [name]
        for node in found:
            place = self._sys / "class" / "block" / node
            above = [folder.name for folder in _folders(place) if (folder / "partition").exists()]
            above += _names(place / "holders")
            above += [loop for loop, backing in self._loops.items() if self._is_device(backing, node)]
            found += [other for other in dict.fromkeys(above) if other not in found]
        return found

    def _uses_of(self, node: str, readers: bool) -> Iterator[str]:
        number = self._attribute(node, "dev")
        for mount in self.mounts:
            if mount.number == number or self._is_device(mount.source, node):
                yield f"mounted at {printable(mount.point)}"
        for members in self._btrfs:
            if node in members:
                points = [m.point for m in self.mounts if m.kind == "btrfs" and self._source_name(m.source) in members]
                where = f" at {printable(points[0])}" if points else ""
                if not any(self._is_device(m.source, node) for m in self.mounts):
                    yield f"part of a btrfs filesystem that is mounted{where}"
        if any(self._is_device(swap, node) for swap in self._swaps):
            yield "used as swap"
        for holder in _names(self._sys / "class" / "block" / node / "holders"):
            yield self._held_by(holder)
        for loop, backing in self._loops.items():
            if self._is_device(backing, node) and (readers or not self._read_only(loop)):
                yield f"attached as /dev/{loop}"

    def _held_by(self, holder: str) -> str:
        if holder.startswith("md"):
            return f"member of array {printable(holder)}"
        name = printable(self._attribute(holder, "dm/name"))
        kind = self._attribute(holder, "dm/uuid").split("-", 1)[0]
        if kind == "LVM" and name:
            group = re.split(r"(?<!-)-(?!-)", name, maxsplit=1)[0].replace("--", "-")
            return f"member of volume group {group}"
        if kind == "CRYPT" and name:
            return f"opened as encrypted volume {name}"
        return f"held by {printable(holder)}"

    def _below_path(self, path: Path, found: set[str], seen: set[str]) -> None:
        place = Path(os.path.realpath(path))
        if str(place) in seen:
            return
        seen.add(str(place))
        mount = self._mount_of(str(place))
        if mount is None:
            return
        name = self._name_of(mount.number)
        if name is None:
            name = self._source_name(mount.source)
        if name is not None:
            together = [members for members in self._btrfs if name in members]
            for member in {name}.union(*together):
                self._below_device(member, found, seen)
        elif mount.kind == "overlay":
            for folder in _overlay_folders(mount.options):
                self._below_path(Path(folder), found, seen)
        elif mount.source.startswith("/") and Path(mount.source).exists():
            self._below_path(Path(mount.source), found, seen)

    def _below_device(self, name: str, found: set[str], seen: set[str]) -> None:
        if name in found:
            return
        found.add(name)
        for below in (self.whole_disk(name), *self._slaves(name)):
            self._below_device(below, found, seen)
        backing = self._loops.get(name)
        if backing is None:
            return
        device = self._source_name(backing)
        if device is not None:
            self._below_device(device, found, seen)
            return
        file = _stat(backing)
        if file is not None:
            found.add(file_id(file))
        self._below_path(Path(backing), found, seen)

    def _mount_of(self, place: str) -> Mount | None:
        """The mount that ``place`` lies in: of those with the longest matching point the last, which covers others."""
        best = None
        for mount in self.mounts:
            inside = place == mount.point or place.startswith(mount.point.rstrip("/") + "/")
            if inside and (best is None or len(mount.point) >= len(best.point)):
                best = mount
        return best

    def _slaves(self, name: str) -> list[str]:
        return _names(self._sys / "class" / "block" / name / "slaves")

    def _loops_over(self, file: os.stat_result) -> list[str]:
        return [loop for loop, backing in self._loops.items() if _same_file(backing, file)]

    def _read_only(self, name: str) -> bool:
        return self._attribute(name, "ro") == "1"

    def _source_name(self, source: str) -> str | None:
        found = _stat(source) if source.startswith("/") else None
        return self.name_of(found.st_rdev) if found is not None and stat.S_ISBLK(found.st_mode) else None

    def _is_device(self, source: str, node: str) -> bool:
        return source == f"/dev/{node.replace('!', '/')}" or self._source_name(source) == node

    def _attribute(self, name: str, attribute: str) -> str:
        return os.fsdecode(_raw(self._sys / "class" / "block" / name / attribute).strip())


def file_id(file: os.stat_result) -> str:
    """What names a file whatever its path: ``file:DEVICE:INODE``."""
    return f"file:{file.st_dev}:{file.st_ino}"


def _read_mounts(path: Path) -> Iterator[Mount]:
    for line in os.fsdecode(_raw(path)).splitlines():
        left, dash, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if dash and len(before) >= 6 and len(after) >= 3:
            yield Mount(before[2], _plain(before[4]), after[0], _plain(after[1]), after[2])


def _read_swaps(path: Path) -> Iterator[str]:
    for line in os.fsdecode(_raw(path)).splitlines()[1:]:
        if line:
            yield _plain(line.split()[0])


def _plain(escaped: str) -> str:
    """A field of procfs, whose spaces, tabs, newlines and backslashes are written in octal."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), escaped)


def _overlay_folders(options: str) -> list[str]:
    folders: list[str] = []
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name in ("upperdir", "workdir", "lowerdir", "lowerdir+", "datadir+"):
            folders += [_plain(folder) for folder in value.split(":") if folder.startswith("/")]
    return folders


def _same_file(path: str, file: os.stat_result) -> bool:
    found = _stat(path)
    return found is not None and stat.S_ISREG(found.st_mode) and file_id(found) == file_id(file)


def _stat(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except (OSError, ValueError):
        return None


def _raw(path: Path) -> bytes:
    """The content of an attribute; empty when it is not there, as the attributes of the kernel come and go."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _folders(path: Path) -> Iterable[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except OSError:
        return ()


def _names(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError:
        return []
