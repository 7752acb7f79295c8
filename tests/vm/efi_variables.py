"""The EFI variables in a machine's flash, read and written while it is off.

The layout (UEFI's firmware volume, and the authenticated variables that OVMF keeps in it) is EDK2's:
``MdePkg/Include/Pi/PiFirmwareVolume.h``, ``MdeModulePkg/Include/Guid/VariableFormat.h``.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: The vendor of BootOrder and Boot0000 to BootFFFF.
GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")

_VOLUME_SIGNATURE = b"_FVH"
_STORE_HEADER_BYTES = 28
_HEADER = struct.Struct("<HBBIQ16sIII16s")
_START = 0x55AA
_ADDED = 0x3F
_NON_VOLATILE_BOOT_RUNTIME = 7


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable."""

    name: str
    vendor: uuid.UUID
    data: bytes


def variables(flash: Path) -> dict[str, Variable]:
    """The variables of a flash that are in force, by name."""
    content = flash.read_bytes()
    return {variable.name: variable for _, state, variable in _walk(content) if state == _ADDED}


def add(flash: Path, name: str, data: bytes, vendor: uuid.UUID = GLOBAL) -> None:
    """Add a variable that is not there yet."""
    assert name not in variables(flash), f"{name} is there already"
    content = bytearray(flash.read_bytes())
    offset = _store(content)[0]
    for offset, _, _ in _walk(bytes(content), ends=True):  # noqa: B007 - the last one is the free space
        pass
    encoded = name.encode("utf-16-le") + bytes(2)
    header = _HEADER.pack(
        _START, _ADDED, 0, _NON_VOLATILE_BOOT_RUNTIME, 0, bytes(16), 0, len(encoded), len(data), vendor.bytes_le
    )
    record = header + encoded + data
    assert offset + len(record) <= _store(content)[1], "no room left"
    content[offset : offset + len(record)] = record
    flash.write_bytes(content)


def boot_entries(flash: Path) -> dict[str, str]:
    """What the firmware would start: the names of the entries, by number (``0001``), in the order of BootOrder."""
    found = variables(flash)
    order = found["BootOrder"].data if "BootOrder" in found else b""
    numbers = [f"{number:04X}" for (number,) in struct.iter_unpack("<H", order)]
    return {number: _description(found[f"Boot{number}"].data) for number in numbers if f"Boot{number}" in found}


def add_boot_entry(
    flash: Path, description: str, path: str, *, partition: int, offset: int, length: int, identity: uuid.UUID
) -> None:
    """An entry as efibootmgr writes it for a file on a GPT partition, first and only in the order.

    ``path`` is the file's, as EFI writes it (``\\EFI\\debian\\shimx64.efi``); ``offset`` and ``length`` are the
    partition's, in sectors, and ``identity`` its GUID.
    """
    hard_drive = struct.pack("<BBHIQQ16sBB", 4, 1, 42, partition, offset, length, identity.bytes_le, 2, 2)
    name = path.encode("utf-16-le") + bytes(2)
    device_path = hard_drive + struct.pack("<BBH", 4, 4, 4 + len(name)) + name + struct.pack("<BBH", 0x7F, 0xFF, 4)
    option = struct.pack("<IH", 1, len(device_path)) + description.encode("utf-16-le") + bytes(2) + device_path
    number = next(number for number in range(1 << 16) if f"Boot{number:04X}" not in variables(flash))
    add(flash, f"Boot{number:04X}", option)
    add(flash, "BootOrder", struct.pack("<H", number))


def _description(option: bytes) -> str:
    """The name in an EFI_LOAD_OPTION, which stands behind attributes and length."""
    text = option[6:].decode("utf-16-le", errors="replace")
    return text.partition("\0")[0]


def _store(content: bytes | bytearray) -> tuple[int, int]:
    """Where the variables begin and must end."""
    assert content[40:44] == _VOLUME_SIGNATURE, "this is no firmware volume"
    volume_header = struct.unpack_from("<H", content, 48)[0]
    size = struct.unpack_from("<I", content, volume_header + 16)[0]
    return volume_header + _STORE_HEADER_BYTES, volume_header + size


def _walk(content: bytes, ends: bool = False) -> Iterator[tuple[int, int, Variable]]:
    """Offset, state and content of each record; with ``ends``, one more with the offset of the free space."""
    offset, limit = _store(content)
    while offset + _HEADER.size <= limit:
        start, state, _, _, _, _, _, name_bytes, data_bytes, vendor = _HEADER.unpack_from(content, offset)
        if start != _START:
            break
        name_at = offset + _HEADER.size
        data_at = name_at + name_bytes
        name = content[name_at : data_at - 2].decode("utf-16-le")
        data = content[data_at : data_at + data_bytes]
        yield offset, state, Variable(name, uuid.UUID(bytes_le=vendor), data)
        offset = (data_at + data_bytes + 3) // 4 * 4
    if ends:
        yield offset, 0xFF, Variable("", GLOBAL, b"")
