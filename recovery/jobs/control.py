"""Orders to a job: lines of JSON over a Unix socket, which only its owner and root may speak to.

``status`` is answered by a line, the others by what the job then does.  A screen keeps its connection open as long as
it watches: so the job knows whether anybody does, and the screen at once when the job has ended.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from recovery.errors import DeviceError
from recovery.progress import ProgressSnapshot

_MAX_LINE_BYTES = 8192
_MAX_CONNECTIONS = 64
_CONNECT_SECONDS = 5.0
_CREDENTIALS = struct.Struct("3i")  # SO_PEERCRED: pid, uid, gid


class Order(msgspec.Struct, frozen=True):
    """``cancel``: stop at the next safe point; ``stop``: end at once; ``answer``: ``text`` for the question asked.

    ``finish``: go into what is hard to read no further, and end as well as is possible.

    ``status``: what it is at; with the map when it is newer than the version in ``text``.
    """

    do: Literal["status", "cancel", "stop", "finish", "answer"]
    text: str = ""


class Status(msgspec.Struct, frozen=True):
    """What a job is at.  ``progress`` is None while nothing is counted; ``asks``: it waits for an answer."""

    progress: ProgressSnapshot | None
    asks: bool
    cancelling: bool


class ControlServer:
    """The job's end: one thread that takes orders from all connections."""

    def __init__(self, obey: Callable[[Order], Status | None]) -> None:
        """``obey`` is called for each order in the thread of the server; what it returns is sent back."""
        self._obey = obey
        self._selector = selectors.DefaultSelector()
        self._rests: dict[socket.socket, bytes] = {}

    @property
    def watched(self) -> bool:
        """Whether a screen is connected."""
        return bool(self._rests)

    def listen(self, listener: socket.socket) -> None:
        """Take connections at what ``listen_at`` made."""
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def add(self, connection: socket.socket) -> None:
        """Take orders from a connection that is there already."""
        connection.setblocking(False)
        self._rests[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._serve, name="control", daemon=True).start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready in self._rests:
                    self._take(ready)
                else:
                    self._accept(ready)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            if _peer_user(connection) in (0, os.geteuid()) and len(self._rests) < _MAX_CONNECTIONS:
                self.add(connection)
            else:
                connection.close()

    def _take(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, rest = (self._rests[connection] + data).split(b"\n")
        if not data or len(rest) > _MAX_LINE_BYTES:
            self._drop(connection)
            return
        self._rests[connection] = rest
        for line in lines:
            try:
                reply = self._obey(msgspec.json.decode(line, type=Order))
                if reply is not None:
                    connection.send(msgspec.json.encode(reply) + b"\n")
            except (msgspec.DecodeError, OSError):
                self._drop(connection)
                return

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._rests[connection]
        connection.close()


class Connection:
    """A screen's end."""

    def __init__(self, own: socket.socket) -> None:
        self._socket = own
        self._socket.setblocking(False)
        self._rest = b""
        self.ended = False

    @classmethod
    def to(cls, folder: Path) -> Connection:
        """A connection to the job with ``folder``.  Raises DeviceError when nobody answers there."""
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        own.settimeout(_CONNECT_SECONDS)
        try:
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _connect(own, f"/proc/self/fd/{place}/control")
            finally:
                os.close(place)
        except OSError as error:
            own.close()
            raise DeviceError(
                f"job {folder.name} cannot be reached: {error.strerror or error}", "It may have ended just now."
            ) from error
        return cls(own)

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def send(self, order: Order) -> None:
        """Give an order; nothing happens when the job has ended."""
        text = order.text.encode(errors="backslashreplace").decode()  # a name need not be text
        with suppress(OSError):
            self._socket.send(msgspec.json.encode(Order(order.do, text)) + b"\n")

    def receive(self) -> list[Status]:
        """What came back since; sets ``ended`` when the job has closed its end."""
        try:
            data = self._socket.recv(1 << 16)
            self.ended = not data
        except BlockingIOError:
            data = b""
        except OSError:
            data, self.ended = b"", True
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [msgspec.json.decode(line, type=Status) for line in lines]

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def _connect(own: socket.socket, address: str) -> None:
    """Connect, and wait while many others do at the same time: their queue is short.  Raises OSError."""
    ends = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            own.connect(address)
        except BlockingIOError:
            if time.monotonic() >= ends:
                raise
            time.sleep(0.01)
        else:
            return


def listen_at(folder: Path) -> socket.socket:
    """A socket that listens at ``folder/control``, for its owner only.  Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{place}/control")  # an address holds 107 bytes, a path may be longer
        listener.listen(_MAX_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
        os.close(place)
    return listener


def _peer_user(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(raw)[1]
    return user
