"""What a job said: a file of whole JSON lines, appended by one process and followed by any number."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

#: Kinds of lines that are for screens alone, and no part of what ``--json`` promises.
SCREEN_ONLY = frozenset({"text", "log", "question", "answered"})


class EventWriter:
    """Appends events.  A full or vanished folder loses lines, never the job: what could not be written is left out."""

    def __init__(self, file: int) -> None:
        """``file``: open for appending, and empty."""
        self._file = file
        self._guard = threading.Lock()
        self._size = 0

    def write(self, kind: str, fields: Mapping[str, Any]) -> None:
        """One line ``{"message_type": kind, ...}``."""
        line = encode_event(kind, fields) + b"\n"
        with self._guard:
            try:
                written = os.write(self._file, line)
                if written != len(line):  # full in the middle of it: half a line would spoil the next one
                    os.ftruncate(self._file, self._size)
                    return
            except OSError:
                return
            self._size += len(line)


class EventReader:
    """Follows the events of a job from the first."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when there is no such file."""
        self._file = path.open("rb", buffering=0)
        self._rest = b""

    def read(self, most_bytes: int | None = None) -> list[bytes]:
        """The whole lines that came since the last call, without their ends; ``most_bytes`` of them or little more.

        Then the next call gives more: what it gives is empty only when there is no more.
        """
        pieces, size, whole = [self._rest], 0, False
        while (most_bytes is None or size < most_bytes or not whole) and (piece := self._file.read(1 << 16)):
            pieces.append(piece)
            size, whole = size + len(piece), whole or b"\n" in piece
        *lines, self._rest = b"".join(pieces).split(b"\n")
        return lines

    def close(self) -> None:
        """Stop following."""
        self._file.close()


def encode_event(kind: str, fields: Mapping[str, Any]) -> bytes:
    """An event as JSON; names that are no text (a file may have one) are written with escapes."""
    event = {"message_type": kind, **fields}
    try:
        return msgspec.json.encode(event)
    except UnicodeEncodeError:
        return msgspec.json.encode(_as_text(msgspec.to_builtins(event)))


def _as_text(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_text(name): _as_text(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(inner) for inner in value]
    return value
