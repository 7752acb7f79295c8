"""Disks and raw image files as values; the only user of pyudev.

udev knows models, serials and buses best, but a rescue system may run without its daemon: what it does not tell is
read from sysfs.  Strings come from firmware and are not always text.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
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


def list_disks() -> list[Disk]:
    """The whole disks of this machine, by name; without those of no size, memory disks and unattached loop devices.

    Of device-mapper only multipath and firmware RAID are disks; volumes and opened containers are not, nor is a drive
    without a disc, nor what our live system runs from where that is a file on its medium.
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
        disk = _from_udev(device, system, media)
        if disk.size_bytes:
            found.append(disk)
    return sorted(found, key=lambda disk: _natural(disk.name))


def disk_for(path: Path) -> Disk:
    """The disk or raw image file at ``path``, links followed.

    Raises DeviceError for what is neither, for a partition, and for an empty file.
    """
    try:
        place = path.resolve(strict=True)
        found = place.stat()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links run in a circle"
        raise DeviceError(
            f"{path} cannot be opened: {reason}", "'recovery disks' lists the disks there are."
        ) from error
    if stat.S_ISBLK(found.st_mode):
        return _from_block_device(place, found)
    if stat.S_ISREG(found.st_mode):
        return _from_file(place, found)
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


def check_identity(before: DiskIdentity, now: DiskIdentity) -> None:
    """Raise Refused, naming what changed, when ``now`` is not the disk that ``before`` was."""
    changed = [
        f"{name.replace('_', ' ')} was {getattr(before, name)}, is {getattr(now, name)}"
        for name in DiskIdentity.__struct_fields__
        if getattr(before, name) != getattr(now, name)
    ]
    if changed:
        raise Refused(
            f"{before.path} is no longer the disk that it was when the plan was made: {'; '.join(changed)}.",
            "Look at 'recovery disks' and begin again.",
        )


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


def _from_block_device(place: Path, found: os.stat_result) -> Disk:
    try:
        device = pyudev.Devices.from_device_number(pyudev.Context(), "block", found.st_rdev)
    except pyudev.DeviceNotFoundError as error:
        raise DeviceError(f"The kernel knows no disk behind {place}.", "It may have been unplugged.") from error
    if device.device_type == "partition":
        parent = device.find_parent("block")
        disk = parent.device_node if parent is not None else "the disk"
        raise DeviceError(f"{place} is a partition, not a disk.", f"Name {disk}, and choose the partition there.")
    system = System()
    disk = _from_udev(device, system, live.carriers(system))
    if disk.size_bytes == 0:
        raise DeviceError(f"{place} has no size.", "Is there a medium in it, or a file attached to it?")
    return disk


def _from_file(place: Path, found: os.stat_result) -> Disk:
    if found.st_size == 0:
        raise DeviceError(f"{place} is an empty file.", "An image file stands for a disk, and is as large as it.")
    sector_bytes = guess_sector_bytes(place, found.st_size)
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


def _from_udev(device: Any, system: System, media: frozenset[str]) -> Disk:
    name: str = device.sys_name
    size_bytes = _number(device, "size", 0) * _SECTOR_OF_SYSFS
    diskseq = _number(device, "diskseq", 0) or None
    uses = system.uses(name) or (claims(device.device_node) if size_bytes else ())
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
        boot_medium=name in media or bool(size_bytes and live.holds_medium(device.device_node, name)),
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
    try:
        raw = (Path(device.sys_path) / name).read_bytes()
    except OSError:
        return ""
    return raw.decode("utf-8", errors="backslashreplace").strip(" \0\n")


def _number(device: Any, name: str, default: int) -> int:
    text = _attribute(device, name)
    return int(text) if text.isascii() and text.isdigit() else default


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which sda2 comes before sda10 and sdz before sdaa."""
    return [(int(part), "") if part.isdigit() else (len(part), part) for part in re.split(r"(\d+)", name) if part]
