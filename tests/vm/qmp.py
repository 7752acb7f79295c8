"""QEMU's control line (QMP): one JSON document a line, answers and events mixed.

The protocol is described in QEMU's ``docs/interop/qmp-spec.txt``.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any


class Refused(AssertionError):
    """QEMU did not do what it was told."""


class ControlLine:
    """One connection; not to be used by two threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self.events: list[dict[str, Any]] = []
        """All events so far, oldest first."""
        self._next(time.monotonic() + 60)  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        """What QEMU returns.  Raises Refused, EOFError."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        ends = time.monotonic() + 120
        while True:
            message = self._next(ends)
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise Refused(f"{command}: {message['error']['desc']}")

    def wait_for_event(self, name: str, seconds: float, since: int = 0) -> dict[str, Any]:
        """The first event of that name behind the first ``since``; raises TimeoutError, or EOFError when QEMU ends."""
        ends = time.monotonic() + seconds
        while True:
            for event in self.events[since:]:
                if event["event"] == name:
                    return event
            self._next(ends)

    def drain(self) -> None:
        """Take what has arrived, without waiting."""
        try:
            while True:
                self._next(time.monotonic() + 0.01)
        except (TimeoutError, EOFError):
            return

    def close(self) -> None:
        self._connection.close()

    def _next(self, ends: float) -> dict[str, Any]:
        """The next message, which is kept when it is an event; raises TimeoutError, EOFError."""
        while b"\n" not in self._received:
            self._connection.settimeout(max(0.01, ends - time.monotonic()))
            try:
                data = self._connection.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError("QEMU has ended")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self.events.append(message)
        return message
