"""Erase a disk and make it the place for a repository: a GPT with one partition, and ext4 in it.

ext4, because it keeps a journal (a stick that is pulled out, a power cut), knows no limit that a repository could meet
(FAT's files end at 4 GiB, and it has no journal), every Linux system reads it, and its checker is the best there is.
Windows does not read it: whoever needs that names a folder on an NTFS or exFAT disk instead.

Order, so that a disk cut off at any instant never looks whole: the old tables are wiped, then the old signatures; the
filesystem is made; then the table is written, its backup first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from recovery.command import run
from recovery.destination import Destination, look, mount
from recovery.devices.blockio import TargetWriter
from recovery.devices.disk import Disk, DiskIdentity, check_identity, disk_for, identity
from recovery.devices.libparted import scratch_disk
from recovery.devices.loop import view_loop, writable_loop
from recovery.devices.probe import probe
from recovery.devices.protection import released
from recovery.devices.safety import members, target_problems
from recovery.devices.table import examine_table
from recovery.errors import DeviceError, RecoveryError, Refused, UsageError
from recovery.extent import Extent, Extents
from recovery.inventory import DiskReport, survey_disk
from recovery.units import MIB, format_bytes

LABEL = "recovery"

_LEAST_BYTES = 48 * MIB
#: What is written last: the protective MBR, the GPT, and all before the partition; and its copy at the end.
_EDGE_BYTES = MIB
_ZEROS = bytes(MIB)
#: Where btrfs keeps copies of its superblock (its on-disk format).
_BTRFS_MIRROR = Extent(64 * MIB, MIB)
_SCRIPT = "label: gpt\nstart=1MiB, type=L, name=Recovery\n"
_MKFS_SECONDS = 1800
_UDEV = Path("/run/udev/control")
_NODE_SECONDS, _POLL_SECONDS = 5.0, 0.1


@dataclass(frozen=True, slots=True)
class FormatPlan:
    """What will be erased: ``report`` is the disk as it is now; ``breaks`` what else stops working."""

    path: Path
    report: DiskReport
    identity: DiskIdentity
    breaks: tuple[str, ...] = ()

    @property
    def disk(self) -> Disk:
        """The disk."""
        return self.report.disk

    @property
    def short_name(self) -> str:
        """What is typed to confirm."""
        return self.path.name


def plan_format(path: Path) -> FormatPlan:
    """Look at the disk that is to be erased; nothing is written.

    Raises Refused with the reason (mounted, the boot medium, read-only, too small), UsageError, DeviceError.
    """
    disk = disk_for(path)
    if disk.is_image_file:
        raise UsageError(f"{path} is a file, not a disk", "Name a disk such as /dev/sdb; a folder needs no formatting.")
    problems = target_problems(disk)
    if disk.size_bytes < _LEAST_BYTES:
        problems.append(f"{path} has only {format_bytes(disk.size_bytes)}.")
    if problems:
        raise Refused(f"{path} cannot be erased: {' '.join(problems)}", "'recovery disks' lists what there is.")
    report = survey_disk(disk)
    contents = {f"partition {part.entry.number}": part.content for part in report.partitions}
    if report.content is not None:
        contents["the whole disk"] = report.content
    named = identity(disk, report.table.uuid if report.table is not None else None)
    return FormatPlan(path, report, named, tuple(members(disk, contents)))


def format_disk(plan: FormatPlan, label: str = LABEL) -> Destination:
    """Erase the disk of a plan that was shown and confirmed; the new filesystem, mounted below /media.

    Raises Refused when it is another disk by now or came into use; DeviceError, which says what state it is in.
    """
    writes, place = _new_table(plan.disk)
    with _opened(plan) as writer:
        _wipe(writer, plan, place)
        _make_filesystem(plan, place, label)
        for offset, data in reversed(writes):
            writer.write(offset, data)
            writer.sync()
        _check(writer, plan, writes, place, label)
        writer.reread_table()
    node = _node_of(plan, place)
    if _UDEV.exists():
        run(["udevadm", "settle", "--timeout=10"], needed_for="recognising the new partition", check=False)
    return mount(look(node))


def _new_table(disk: Disk) -> tuple[list[tuple[int, bytes]], Extent]:
    """The first and the last MiB of the disk as it will be, and where its partition lies."""
    size_bytes, sector_bytes = disk.size_bytes, disk.logical_sector_bytes
    end = size_bytes - _EDGE_BYTES
    with scratch_disk(size_bytes, []) as scratch, ExitStack() as held:
        place = scratch if sector_bytes == 512 else held.enter_context(view_loop(scratch, sector_bytes))
        options = ["--quiet", "--wipe=never", "--no-reread", "--no-tell-kernel"]
        run(["sfdisk", *options, place], needed_for="making a partition table", input=_SCRIPT.encode())
        held.close()  # what was written through the loop device is in the file then
        table = examine_table(scratch, size_bytes, sector_bytes).table
        with scratch.open("rb") as file:
            head = file.read(_EDGE_BYTES)
            file.seek(end)
            tail = file.read(_EDGE_BYTES)
    if table is None or len(table.entries) != 1:
        raise DeviceError(f"no partition table could be made for {disk.path}", "Is its size a sensible one?")
    entry = table.entries[0].extent
    if entry.end > end:  # the last MiB is written behind the filesystem
        tail = tail[entry.end - end :]
    return [(0, head), (size_bytes - len(tail), tail)], entry


@contextmanager
def _opened(plan: FormatPlan) -> Iterator[TargetWriter]:
    """The disk, held exclusively, looked at once more, its write protection off; errors say what state it is in."""
    state = "untouched"
    try:
        with released() as protection, TargetWriter(plan.path) as writer:
            now = disk_for(plan.path)
            table = examine_table(plan.path, now.size_bytes, now.logical_sector_bytes).table
            check_identity(plan.identity, identity(now, table.uuid if table is not None else None))
            protection.take_off(writer.fileno(), plan.disk)
            state = "erased, and has no filesystem yet"
            yield writer
    except RecoveryError as error:
        error.message = f"{error.message.rstrip('.')}; {plan.path} is {state}"
        raise


def _wipe(writer: TargetWriter, plan: FormatPlan, place: Extent) -> None:
    """The old tables first; then what else could be taken for something that is there."""
    size_bytes = writer.size_bytes
    _write_zeros(writer, Extents([(0, _EDGE_BYTES), (size_bytes - _EDGE_BYTES, _EDGE_BYTES)]))
    writer.sync()
    old = plan.report.table.entries if plan.report.table is not None else ()
    edges = [(place.offset, _EDGE_BYTES), (place.end - _EDGE_BYTES, _EDGE_BYTES)]
    for extent in (*(entry.extent for entry in old if entry.length), place):
        edges += [(extent.offset, _EDGE_BYTES), (max(0, extent.end - _EDGE_BYTES), _EDGE_BYTES)]
        edges += [(extent.offset + _BTRFS_MIRROR.offset, _BTRFS_MIRROR.length)]
    _write_zeros(writer, Extents(edges).clip(Extent(0, size_bytes)))
    writer.sync()


def _write_zeros(writer: TargetWriter, extents: Extents) -> None:
    for extent in extents:
        for at in range(extent.offset, extent.end, len(_ZEROS)):
            writer.write(at, _ZEROS[: min(len(_ZEROS), extent.end - at)])


def _make_filesystem(plan: FormatPlan, place: Extent, label: str) -> None:
    """Through a loop device: while the disk is held, nobody can hold a partition of it."""
    with writable_loop(plan.path, place, plan.disk.logical_sector_bytes) as device:
        run(
            ["mkfs.ext4", "-q", "-F", "-m", "0", "-L", label, device],
            needed_for=f"making a filesystem on {plan.path}",
            timeout_seconds=_MKFS_SECONDS,
        )


def _check(writer: TargetWriter, plan: FormatPlan, writes: list[tuple[int, bytes]], place: Extent, label: str) -> None:
    """Read back what was written, past the cache.  Raises DeviceError."""
    writer.sync()
    writer.drop_cache()
    whole = all(writer.read(Extent(offset, len(data))) == data for offset, data in writes)
    content = probe(plan.path, place, plan.disk.logical_sector_bytes)
    if not whole or content is None or (content.type, content.label) != ("ext4", label):
        raise DeviceError(
            f"{plan.path} does not give back what was written to it", "The disk is faulty, or counterfeit: use another."
        )


def _node_of(plan: FormatPlan, place: Extent) -> Path:
    """The device that the kernel makes for the new partition.  Raises DeviceError where it makes none."""
    disk = Path("/sys/class/block") / plan.disk.name
    ends = time.monotonic() + _NODE_SECONDS
    while True:
        for folder in disk.glob("*/partition"):
            node = Path("/dev") / folder.parent.name.replace("!", "/")
            if node.exists() and int((folder.parent / "start").read_text()) * 512 == place.offset:
                return node
        if time.monotonic() > ends:
            raise DeviceError(
                f"{plan.path} was erased and has a new filesystem, but this kernel made no device for its partition",
                "Unplug it and plug it in again; it needs no formatting any more. A kernel that reads no partition "
                "tables cannot mount it.",
            )
        time.sleep(_POLL_SECONDS)
