"""Input that nobody should have written: valid bytes and JSON, changed by chance toward what breaks parsers."""

from __future__ import annotations

import json
import random
from typing import Any

#: What a number, text or list of a document may be replaced by.
EXTREMES: tuple[Any, ...] = (
    0, -1, 1, 7, 255, 512, 65535, 2**31 - 1, 2**31, 2**32, 2**40, 2**53, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64,
    2**200, -(2**31), -(2**63), 0.5, 1e300, None, True, False, "", "0", "-1", "1.0", "99.9", "x" * 3000, "0" * 64,
    "f" * 64, "\x00", "\x1b[2J", "../../etc/passwd", "\u2028", "9" * 5000, "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59", "2024-01-01T00:00:00Z", [], {}, [[]], [None], [0] * 300, {"": ""},
)  # fmt: skip


def hostile_json(chance: random.Random, document: Any, changes: int | None = None) -> bytes:
    """``document`` with a few of its values replaced, doubled or left out; sometimes cut or with a flipped bit."""
    made = json.loads(json.dumps(document))
    for _ in range(changes or chance.randint(1, 4)):
        made = _changed(chance, made)
    data = json.dumps(made).encode()
    return hostile_bytes(chance, data) if chance.random() < 0.1 else data


def _changed(chance: random.Random, value: Any) -> Any:
    """One value of a document, chosen by chance, replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        if chance.random() < 0.08:
            return {name: inner for name, inner in value.items() if name != key}
        return {**value, key: _changed(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        if chance.random() < 0.15:
            return value[:at] + value[at + 1 :]
        if chance.random() < 0.15:
            return value[: at + 1] * chance.randint(1, 3) + value[at:]
        return [*value[:at], _changed(chance, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.4:
        return value + chance.choice([-1, 1, 511, -512, 2**20, 2**32, -(2**33)])
    return chance.choice(EXTREMES)


def hostile_bytes(chance: random.Random, data: bytes) -> bytes:
    """``data`` with bits flipped, numbers replaced, pieces doubled, or cut."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        if not made:
            return bytes(made)
        at = chance.randrange(len(made))
        match chance.randrange(6):
            case 0:
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                made[at : at + 4] = chance.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]).to_bytes(4, "little")
            case 2:
                made[at : at + 8] = chance.choice([0, 1, 2**63 - 1, 2**63, 2**64 - 1]).to_bytes(8, "little")
            case 3:
                made[at:at] = made[at : at + chance.randrange(64)]
            case 4:
                del made[at : at + chance.randrange(64)]
            case _:
                made[at] = chance.randrange(256)
    return bytes(made)


def hostile_map(chance: random.Random, text: bytes) -> bytes:
    """A ddrescue map with fields or lines replaced."""
    lines = text.split(b"\n")
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(lines))
        fields = lines[at].split()
        if not fields or chance.random() < 0.2:
            lines[at:at] = [chance.choice(lines)]
            continue
        fields[chance.randrange(len(fields))] = chance.choice(
            [b"0", b"-1", b"0x", b"+", b"-", b"?", b"++", b"0x" + b"f" * 16, b"0x" + b"f" * 6000, b"9" * 6000, b"\xff",
             b"0" * 5000 + b"7", b"08", b"1e9", b"0x7fffffffffffffff", b"0x200", "\u0663".encode()]
        )  # fmt: skip
        lines[at] = b" ".join(fields)
    return b"\n".join(lines)


def hostile_key(chance: random.Random, key: dict[str, Any]) -> bytes:
    """A key file with absurd scrypt parameters, or any other change."""
    if chance.random() < 0.3:
        return hostile_json(chance, key)
    absurd = [0, -1, 1, 2, 3, 8, 16, 1 << 10, 1 << 15, 1 << 20, 1 << 22, 1 << 30, 1 << 40, 1 << 63, 1 << 70, 2**31 - 1]
    chosen = {name: chance.choice(absurd) for name in ("N", "r", "p") if chance.random() < 0.7}
    return json.dumps({**key, **chosen}).encode()
