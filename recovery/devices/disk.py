"""Disks and raw image files as values; the only user of pyudev.

udev knows models, serials and buses best, but a rescue system may run without its daemon: what it does not tell is
read from sysfs.  Strings come from firmware and are not always text.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyudev

from recovery.devices import live
from recovery.devices.protection import is_protected
from recovery.devices.table import guess_sector_bytes
from recovery.devices.usage import System, file_id, printable
from recovery.errors import DeviceError, Refused

_NOT_DISKS = re.compile(r"ram\d+|zram\d+|mtdblock\d+|fd\d+|mmcblk\d+(boot\d+|rpmb|gp\d+)")
_SECTOR_OF_SYSFS = 512
_CLAIM_ATTEMPTS, _CLAIM_SECONDS = 5, 0.02
_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")
_UDEV_RUNS = Path("/run/udev/control")
_TOGETHER_SECONDS, _WAIT_AT_MOST_SECONDS = 0.3, 3.0


class Disk(msgspec.Struct, frozen=True):
    """A whole block device, or a raw image file standing for one.

    ``transport`` is how it is connected ("usb", "nvme", "ata", "scsi", "virtio", "mmc", "loop", "md", "dm", "file"...).
    ``diskseq`` is the kernel's count of disks seen, new for every medium.  ``in_use`` says in plain words by what.
    ``read_only`` is one that cannot be written; ``write_protected`` one that the live system keeps from being written
    until it is confirmed as a target.  ``boot_medium``: this system was started from it.
    ``file_id`` names an image file whatever its path.  Every string is JSON-safe; ``place`` is what to open.
    """

    path: str
    name: str
    model: str | None
    vendor: str | None
    serial: str | None
    wwn: str | None
    transport: str | None
    size_bytes: int
    logical_sector_bytes: int
    physical_sector_bytes: int
    removable: bool
    rotational: bool
    read_only: bool
    diskseq: int | None
    is_image_file: bool
    in_use: tuple[str, ...] = ()
    file_id: str | None = None
    write_protected: bool = False
    boot_medium: bool = False

    @property
    def place(self) -> Path:
        """``path`` as it is to be opened: file names need not be UTF-8, and then ``path`` has ``\\xNN`` in it."""
        plain = Path(self.path)
        raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), self.path.encode())
        escaped = Path(os.fsdecode(raw))
        return escaped if escaped.exists() and not plain.exists() else plain


class DiskIdentity(msgspec.Struct, frozen=True):
    """What together names a disk; any one of them alone can repeat (docks give several disks one serial)."""

    path: str
    model: str | None
    serial: str | None
    wwn: str | None
    size_bytes: int
    logical_sector_bytes: int
    table_uuid: str | None
    diskseq: int | None
    file_id: str | None


def list_disks(*, opening: bool = True) -> list[Disk]:
    """The whole disks of this machine, by name; without those of no size, memory disks and unattached loop devices.

    Of device-mapper only multipath and firmware RAID are disks; volumes and opened containers are not, nor is a drive
    without a disc, nor what our live system runs from where that is a file on its medium.  Without ``opening`` none is
    opened, as a disk that hangs must not be: then who has one for itself, and whether it is the medium of a live system
    of which nothing is mounted, is not told.
    """
    context, system = pyudev.Context(), System()
    media = live.carriers(system)
    own = system.devices_below(Path("/")) if live.live_system() is not None else frozenset()
    found = []
    for device in context.list_devices(subsystem="block", DEVTYPE="disk"):
        if _NOT_DISKS.fullmatch(device.sys_name) or _attribute(device, "hidden") == "1" or device.device_node is None:
            continue
        if device.sys_name.startswith("dm-") and not _attribute(device, "dm/uuid").startswith(("mpath-", "DMRAID-")):
            continue
        if device.properties.get("ID_CDROM") and not device.properties.get("ID_CDROM_MEDIA"):
            continue  # the kernel gives it a size all the same
        if device.sys_name.startswith("loop") and device.sys_name in own:
            continue
        disk = _from_udev(device, system, media, opening)
        if disk.size_bytes:
            found.append(disk)
    return sorted(found, key=lambda disk: _natural(disk.name))


def disk_for(path: Path, *, opening: bool = True) -> Disk:
    """The disk or raw image file at ``path``, links followed; without ``opening`` as ``list_disks``.

    Of an image file that is not opened, the sector size is not known and given as 512.  Raises DeviceError for what is
    neither, for a partition, and for an empty file.
    """
    try:
        place = _followed(path)
        found = place.stat()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links run in a circle"
        raise DeviceError(
            f"{path} cannot be opened: {reason}", "'recovery disks' lists the disks there are."
        ) from error
    if stat.S_ISBLK(found.st_mode):
        return _from_block_device(place, found, opening)
    if stat.S_ISREG(found.st_mode):
        return _from_file(place, found, opening)
    kind = "a folder" if stat.S_ISDIR(found.st_mode) else "neither a block device nor a file"
    raise DeviceError(f"{path} is {kind}, not a disk.", "Name a disk such as /dev/sda, or a raw image file.")


def identity(disk: Disk, table_uuid: str | None = None) -> DiskIdentity:
    """What names ``disk``, with the UUID of its table, to be compared again just before it is written to."""
    return DiskIdentity(
        path=disk.path,
        model=disk.model,
        serial=disk.serial,
        wwn=disk.wwn,
        size_bytes=disk.size_bytes,
        logical_sector_bytes=disk.logical_sector_bytes,
        table_uuid=table_uuid,
        diskseq=disk.diskseq,
        file_id=disk.file_id,
    )


def check_identity(before: DiskIdentity, now: DiskIdentity, when: str = "the plan was made") -> None:
    """Raise Refused, naming what changed, when ``now`` is not the disk that ``before`` was at the time of ``when``."""
    changed = [
        f"{name.replace('_', ' ')} was {getattr(before, name)}, is {getattr(now, name)}"
        for name in DiskIdentity.__struct_fields__
        if getattr(before, name) != getattr(now, name)
    ]
    if changed:
        raise Refused(
            f"{before.path} is no longer the disk that it was when {when}: {'; '.join(changed)}.",
            "Look at 'recovery disks' and begin again.",
        )


def check_chosen(chosen: DiskIdentity, disk: Disk) -> None:
    """Raise Refused when ``disk`` is not the one that a person chose from a list: another may have its name by now."""
    now = identity(disk)
    alike = {"path": now.path, "logical_sector_bytes": now.logical_sector_bytes, "table_uuid": None}
    check_identity(msgspec.structs.replace(chosen, **alike), now, "it was chosen")


def claims(node: str) -> tuple[str, ...]:
    """Words for a program, or a part of the kernel, that has a disk or a part of it for itself (ZFS, a journal...).

    Who only asks, as this does, has it for a moment: that does not count.
    """
    for _ in range(_CLAIM_ATTEMPTS):
        try:
            os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY:
                return ()
            time.sleep(_CLAIM_SECONDS)
        else:
            return ()
    return ("opened exclusively by another program",)


def watch_disks(changed: Callable[[], None]) -> Callable[[], None]:
    """Have ``changed`` called, from a thread of its own, whenever a disk or a partition comes, goes or changes.

    What happens within 0.3 s is told once.  Loop devices that come and go count only when others are attached in the
    end; the read-only ones by which a program looks into a partition, as ours do, never do.  Where udevd runs it is
    asked, else the kernel.  The function that is returned stops it, and does not wait.
    Raises DeviceError when the kernel's events cannot be had.
    """
    try:
        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), "udev" if _UDEV_RUNS.exists() else "kernel")
        monitor.filter_by("block")
        monitor.start()
    except OSError as error:
        raise DeviceError(f"The kernel's news of disks cannot be had: {error.strerror}.") from error
    told_to_stop, tell = os.pipe2(os.O_CLOEXEC)
    stopping = threading.Event()
    threading.Thread(target=_watch, args=(monitor, told_to_stop, stopping, changed), name="disks", daemon=True).start()

    def stop() -> None:
        if not stopping.is_set():
            stopping.set()
            os.close(tell)

    return stop


def _watch(monitor: Any, told_to_stop: int, stopping: threading.Event, changed: Callable[[], None]) -> None:
    try:
        attached = _attached_loops()
        while not stopping.is_set():
            select.select([monitor.fileno(), told_to_stop], [], [])
            began = time.monotonic()
            names: set[str] = set()
            while (name := _next_event(monitor, told_to_stop, began)) is not None:
                names.add(name)
            before, attached = attached, _attached_loops()
            of_disks = any(not name.startswith("loop") for name in names)
            if not stopping.is_set() and (of_disks or attached != before):
                changed()
    finally:
        os.close(told_to_stop)


def _next_event(monitor: Any, told_to_stop: int, began: float) -> str | None:
    """The kernel's name of what the next event is about; None if none comes soon, or they came for long enough."""
    if time.monotonic() - began > _WAIT_AT_MOST_SECONDS:
        return None
    ready, _, _ = select.select([monitor.fileno(), told_to_stop], [], [], _TOGETHER_SECONDS)
    if told_to_stop in ready or not ready:
        return None
    try:
        device = monitor.poll(0)
    except OSError:  # there were more events than room for them
        return ""
    return device.sys_name if device is not None else None


def _attached_loops() -> frozenset[tuple[str, str, str]]:
    """Name, count and size of the loop devices that have a file, without those that only look (as ``devices.loop``)."""
    found = set()
    for folder in Path("/sys/block").glob("loop*/loop"):
        marks = [_sysfs(folder / "autoclear"), _sysfs(folder.parent / "ro")]
        if marks != ["1", "1"] and all(marks):
            found.add((folder.parent.name, _sysfs(folder.parent / "diskseq"), _sysfs(folder.parent / "size")))
    return frozenset(found)


def _followed(path: Path) -> Path:
    """Where links lead to; but what another process has mounted (``/proc/PID/root/...``) has no other path for us."""
    try:
        place = path.resolve(strict=True)
        if os.path.samestat(place.stat(), path.stat()):
            return place
    except FileNotFoundError:
        path.stat()  # it is not there at all
    return path.absolute()


def _from_block_device(place: Path, found: os.stat_result, opening: bool) -> Disk:
    try:
        device = pyudev.Devices.from_device_number(pyudev.Context(), "block", found.st_rdev)
    except pyudev.DeviceNotFoundError as error:
        raise DeviceError(f"The kernel knows no disk behind {place}.", "It may have been unplugged.") from error
    if device.device_type == "partition":
        parent = device.find_parent("block")
        disk = parent.device_node if parent is not None else "the disk"
        raise DeviceError(f"{place} is a partition, not a disk.", f"Name {disk}, and choose the partition there.")
    system = System()
    disk = _from_udev(device, system, live.carriers(system), opening)
    if disk.size_bytes == 0:
        raise DeviceError(f"{place} has no size.", "Is there a medium in it, or a file attached to it?")
    return disk


def _from_file(place: Path, found: os.stat_result, opening: bool) -> Disk:
    if found.st_size == 0:
        raise DeviceError(f"{place} is an empty file.", "An image file stands for a disk, and is as large as it.")
    sector_bytes = guess_sector_bytes(place, found.st_size) if opening else 512
    return Disk(
        path=printable(str(place)),
        name=printable(place.name),
        model=None,
        vendor=None,
        serial=None,
        wwn=None,
        transport="file",
        size_bytes=found.st_size,
        logical_sector_bytes=sector_bytes,
        physical_sector_bytes=sector_bytes,
        removable=False,
        rotational=False,
        read_only=not os.access(place, os.W_OK),
        diskseq=None,
        is_image_file=True,
        in_use=System().uses_of_file(found),
        file_id=file_id(found),
    )


def _from_udev(device: Any, system: System, media: frozenset[str], opening: bool) -> Disk:
    name: str = device.sys_name
    size_bytes = _number(device, "size", 0) * _SECTOR_OF_SYSFS
    diskseq = _number(device, "diskseq", 0) or None
    uses = system.uses(name) or (claims(device.device_node) if size_bytes and opening else ())
    protected = is_protected(name, diskseq)
    return Disk(
        path=device.device_node,
        name=printable(name),
        model=_text(device, ("ID_MODEL_ENC", "ID_MODEL"), ("device/model", "device/name")),
        vendor=_vendor(device),
        serial=_text(device, ("ID_SERIAL_SHORT", "ID_SCSI_SERIAL"), ("device/serial", "serial"))
        or _scsi_serial(device),
        wwn=_text(device, ("ID_WWN_WITH_EXTENSION", "ID_WWN"), ("wwid", "device/wwid")),
        transport=_transport(device),
        size_bytes=size_bytes,
        logical_sector_bytes=_number(device, "queue/logical_block_size", 512),
        physical_sector_bytes=_number(device, "queue/physical_block_size", 512),
        removable=_attribute(device, "removable") == "1",
        rotational=_attribute(device, "queue/rotational") == "1",
        read_only=_attribute(device, "ro") == "1" and not protected,
        diskseq=diskseq,
        is_image_file=False,
        in_use=uses,
        write_protected=protected,
        boot_medium=name in media or bool(size_bytes and opening and live.holds_medium(device.device_node, name)),
    )


def _transport(device: Any) -> str | None:
    name: str = device.sys_name
    for start, transport in (("loop", "loop"), ("nvme", "nvme"), ("mmcblk", "mmc"), ("md", "md"), ("dm-", "dm")):
        if name.startswith(start):
            return transport
    place = f"{device.sys_path}/"
    for mark, transport in (("/usb", "usb"), ("/ata", "ata"), ("/virtio", "virtio"), ("/host", "scsi")):
        if re.search(mark + r"\d", place):
            return transport
    return printable(device.properties.get("ID_BUS", "")) or None


def _text(device: Any, properties: tuple[str, ...], attributes: tuple[str, ...]) -> str | None:
    for name in properties:
        value = device.properties.get(name)
        if value:
            return _unescaped(value) if name.endswith("_ENC") else printable(value).strip() or None
    for name in attributes:
        text = _attribute(device, name)
        if text:
            return text
    return None


def _vendor(device: Any) -> str | None:
    text = _text(device, ("ID_VENDOR_ENC", "ID_VENDOR"), ("device/vendor",))
    return None if text is not None and re.fullmatch(r"0x[0-9a-f]{4}", text) else text  # a PCI number says nothing


def _unescaped(value: str) -> str | None:
    """udev's ``_ENC`` strings keep what its plain ones replace, written as ``\\xNN``."""
    raw = re.sub(rb"\\x([0-9a-fA-F]{2})", lambda match: bytes([int(match[1], 16)]), os.fsencode(value))
    return raw.decode("utf-8", errors="backslashreplace").strip() or None


def _scsi_serial(device: Any) -> str | None:
    """The serial in a SCSI disk's vital product data page 0x80: four bytes of header, then text."""
    try:
        page = (Path(device.sys_path) / "device" / "vpd_pg80").read_bytes()
    except OSError:
        return None
    return page[4:].decode("utf-8", errors="backslashreplace").strip(" \0\n") or None


def _attribute(device: Any, name: str) -> str:
    return _sysfs(Path(device.sys_path) / name)


def _sysfs(place: Path) -> str:
    try:
        raw = place.read_bytes()
    except OSError:
        return ""
    return raw.decode("utf-8", errors="backslashreplace").strip(" \0\n")


def _number(device: Any, name: str, default: int) -> int:
    text = _attribute(device, name)
    return int(text) if text.isascii() and text.isdigit() else default


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which sda2 comes before sda10 and sdz before sdaa."""
    return [(int(part), "") if part.isdigit() else (len(part), part) for part in re.split(r"(\d+)", name) if part]
