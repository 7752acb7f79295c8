"""``system.json``: what the bytes of a system image alone do not say.

Versioned: ``version`` is ``major.minor``; a newer major version is refused, unknown fields are ignored.
Every size and offset is in bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from recovery.devices.probe import Content
from recovery.devices.table import PartitionTable
from recovery.errors import RepositoryDamaged, UsageError
from recovery.units import KIB, MIB

VERSION = "1.0"
MANIFEST_NAME = "system.json"
TAG = "system-image"
TAG_INCOMPLETE = "incomplete"

#: An image with more unreadable extents than this names the first of them in its manifest, and all in its map.
MAX_NAMED_EXTENTS = 1000

#: What a manifest may say, so that a damaged one is refused and not believed.
MAX_BYTES = 1 << 62
Bytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]
ChunkBytes = Annotated[int, msgspec.Meta(ge=512, le=64 * MIB)]
SectorBytes = Annotated[int, msgspec.Meta(ge=512, le=64 * KIB)]


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    """The machine that the image was captured on.  Empty text: not known."""

    hostname: str = ""
    vendor: str = ""
    product: str = ""
    serial: str = ""
    uuid: str = ""
    bios_version: str = ""
    firmware: Literal["bios", "uefi", ""] = ""
    secure_boot: bool | None = None
    boot_entries: tuple[str, ...] = ()
    architecture: str = ""
    kernel: str = ""


class LayoutRecord(msgspec.Struct, frozen=True):
    """What the layout of an image file follows from, beside the domain map; ``pieces`` is how many blobs it has."""

    chunk_bytes: ChunkBytes
    grid: tuple[Bytes, ...]
    pieces: Bytes


class ImagePartition(msgspec.Struct, frozen=True, omit_defaults=True):
    """One partition of a captured disk; number 0 is a filesystem straight on the disk.

    ``method`` says how its used extents were found: ``map`` (the filesystem's own map), ``swap-header``, ``whole``
    (``reason`` says why), or ``left-out``.  ``clean`` is whether its filesystem was closed cleanly (None: not known).
    """

    number: int
    offset: Bytes
    length: Bytes
    role: str
    method: str
    used_bytes: Bytes
    reason: str = ""
    tool: str = ""
    content: Content | None = None
    clean: bool | None = None


class UnreadableArea(msgspec.Struct, frozen=True):
    """An area that could not be read, and the partition it lies in (None: in none)."""

    offset: Bytes
    length: Bytes
    partition: int | None = None


class LostFile(msgspec.Struct, frozen=True):
    """A file or folder that lost so many bytes; ``name`` is its path, with what it is where it is no file."""

    name: str
    lost_bytes: Bytes


class LostNames(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose the unreadable bytes of a partition are: ``files`` and so many ``more``, free space, the filesystem's own.

    A byte may belong to several files.  ``unfollowed``: files and folders that could not be looked at, because of what
    is lost of the filesystem itself; ``untold`` is why not all can be said, empty when it can.
    """

    partition: int
    lost_bytes: Bytes
    files: tuple[LostFile, ...] = ()
    more: int = 0
    free_bytes: Bytes = 0
    own_bytes: Bytes = 0
    unfollowed: tuple[str, ...] = ()
    untold: str = ""


class ImageDisk(msgspec.Struct, frozen=True, omit_defaults=True):
    """One captured disk.  ``image``, ``domain`` and ``map`` are names of files beside the manifest."""

    name: str
    image: str
    domain: str
    map: str
    size_bytes: Bytes
    logical_sector_bytes: SectorBytes
    physical_sector_bytes: Bytes
    layout: LayoutRecord
    used_bytes: Bytes
    unreadable_bytes: Bytes = 0
    unreadable: tuple[UnreadableArea, ...] = ()
    lost: tuple[LostNames, ...] = ()
    model: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""
    table: PartitionTable | None = None
    content: Content | None = None
    partitions: tuple[ImagePartition, ...] = ()
    findings: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """The whole of ``system.json``."""

    version: str
    created: datetime
    program_version: str
    machine: Machine
    disks: tuple[ImageDisk, ...]
    tools: dict[str, str] = {}

    def disk(self, name: str | None) -> ImageDisk:
        """The disk called ``name``; the only one when None.  Raises UsageError."""
        names = ", ".join(disk.name for disk in self.disks)
        if name is None:
            if len(self.disks) == 1:
                return self.disks[0]
            raise UsageError(f"the image holds {len(self.disks)} disks ({names})", "Choose one with --disk NAME.")
        for disk in self.disks:
            if disk.name == name:
                return disk
        raise UsageError(f"the image holds no disk {name!r}", f"It holds: {names}.")


def encode_manifest(manifest: Manifest) -> bytes:
    """JSON, readable by people too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Raises RepositoryDamaged when it is malformed, UsageError when it is newer than this program."""

    class Version(msgspec.Struct):
        version: str

    try:
        version = msgspec.json.decode(data, type=Version).version
        if int(version.split(".")[0]) > int(VERSION.split(".")[0]):
            raise UsageError(
                f"the system image has format version {version}, and this program reads {VERSION}",
                "Use a newer version of this program; 'restic dump' gives the raw disk with any.",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
        for disk in manifest.disks:
            _check_table(disk.table)
        return manifest
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RepositoryDamaged(f"the image's manifest is malformed: {error}", "Run 'recovery verify'.") from error


def _check_table(table: PartitionTable | None) -> None:
    """Raise ValueError for what no table can say: it is not read from a disk here, and would be believed."""
    extents = [*(entry.extent for entry in table.entries), *table.own_extents] if table else []
    for offset, length in extents:
        if not (0 <= offset <= MAX_BYTES and 0 <= length <= MAX_BYTES):
            raise ValueError(f"a partition table has {length} bytes at {offset}")
