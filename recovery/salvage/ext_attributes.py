"""Extended attributes of ext filesystems.  Source: the kernel's Documentation/filesystems/ext4/attributes.rst."""

from __future__ import annotations

import struct

#: The attribute in which the rest of a file lies that is kept in its inode.
DATA = "system.data"
_MAGIC = 0xEA020000
_ENTRY = struct.Struct("<BBHIII")
_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
}
_ACCESS_LISTS = (2, 3)
_NAMED_IN_LISTS = (2, 8)


def decode_attributes(raw: bytes, *, inside: bool) -> list[tuple[str, bytes]]:
    """The attributes in the rest of an inode (``inside``), or in a block of their own; none of what is damaged."""
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] != _MAGIC:
        return []
    at = base = 4 if inside else 32
    found: list[tuple[str, bytes]] = []
    while at + _ENTRY.size <= len(raw) and raw[at : at + 4] != bytes(4):
        length, index, place, elsewhere, size, _ = _ENTRY.unpack_from(raw, at)
        name = raw[at + _ENTRY.size : at + _ENTRY.size + length]
        start = place + (base if inside else 0)
        at += (_ENTRY.size + length + 3) // 4 * 4
        if elsewhere or index not in _PREFIXES or start + size > len(raw) or len(name) < length:
            continue
        value = raw[start : start + size]
        if index in _ACCESS_LISTS:
            value = _access_list(value)
        if value or not size:
            found.append((_PREFIXES[index] + name.decode(errors="surrogateescape"), value))
    return found


def _access_list(raw: bytes) -> bytes:
    """A list of permissions as the kernel takes it; empty when it is damaged."""
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] != 1:
        return b""
    out = struct.pack("<I", 2)
    at = 4
    while at + 4 <= len(raw):
        tag, permissions = struct.unpack_from("<HH", raw, at)
        named = tag in _NAMED_IN_LISTS
        if named and at + 8 > len(raw):
            return b""
        who = struct.unpack_from("<I", raw, at + 4)[0] if named else 0xFFFFFFFF
        out += struct.pack("<HHI", tag, permissions, who)
        at += 8 if named else 4
    return out
