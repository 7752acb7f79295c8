"""Partition tables; the only user of pyparted.

The sectors of the table are copied into a sparse file in memory, damage to a GPT is mended there from its other
copy, and libparted, which opens for writing and may repair what it reads, is given that copy: the disk itself is
only ever read.  What libparted does not tell (GUIDs, attributes, MBR types) comes from ``table_sectors``, and the two
must agree on where the partitions lie.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import _ped
import msgspec

from recovery.devices.probe import probe
from recovery.devices.table_sectors import (
    GptCopy,
    GptEntry,
    Mbr,
    SectorReader,
    find_backup_gpt,
    open_sectors,
    protective_mbr,
    read_gpt,
    read_mbr,
)
from recovery.errors import DeviceError
from recovery.extent import Extent, Extents
from recovery.units import MIB, format_bytes

Role = Literal["primary", "extended", "logical"]
Origin = Literal["primary", "backup"]

#: What libparted calls labels that it recognises by too little to be believed ("loop": a filesystem, no table).
_NO_TABLE = frozenset({"loop", "atari"})
_MAX_FILE_BYTES = 1 << 62
_PARTED = threading.Lock()


class TableEntry(msgspec.Struct, frozen=True):
    """One partition as its table names it.

    ``offset`` and ``length`` in bytes; ``type`` is a lower-case GUID (GPT) or ``0x83`` (MBR); ``uuid`` is what Linux calls
    PARTUUID; ``flags`` are GPT attributes as sfdisk names them, or ``boot`` (MBR).
    """

    number: int
    offset: int
    length: int
    type: str
    name: str | None = None
    uuid: str | None = None
    flags: tuple[str, ...] = ()
    role: Role = "primary"

    @property
    def extent(self) -> Extent:
        """The bytes of the partition."""
        return Extent(self.offset, self.length)

    @property
    def end(self) -> int:
        """The first byte behind the partition."""
        return self.offset + self.length


class PartitionTable(msgspec.Struct, frozen=True):
    """A partition table.

    ``label`` is "gpt", "msdos" or libparted's name of another; ``uuid`` the disk GUID, or the MBR's disk id as
    ``0x1234abcd``; ``logical_sector_bytes`` the sector size that the table counts in; ``entries`` are in the order in
    which they lie on the disk, an extended partition before its logical ones.  ``origin`` says which copy of a GPT was
    used.  ``own_extents`` are the bytes that hold the table itself.  ``complete`` is False when a part of the table could
    not be read: then what no entry covers is not known to be unpartitioned.  ``findings`` are sentences for the user.
    """

    label: str
    uuid: str | None
    logical_sector_bytes: int
    entries: tuple[TableEntry, ...]
    origin: Origin = "primary"
    own_extents: tuple[Extent, ...] = ()
    complete: bool = True
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableReading:
    """What reading a table came to: the table, if there is one, and what is to be told even if there is none."""

    table: PartitionTable | None
    findings: tuple[str, ...] = ()
