"""Faults put into the engine from outside: it runs in a forked child whose system calls are counted.

``in_child`` runs an action and tells how it ended, also when it was killed.  ``Steps`` takes the place of the calls
through which the engine changes a repository or a target, numbers them, and at a chosen one does something: kill the
process, cut the power, pull the disk.  Nothing in the engine knows of it, and the parent is not touched.

A power cut is more than a kill: what was written and not synced is lost in part, in any order.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recovery.errors import RecoveryError

#: No drill's action takes so long: a hang is a bug.
LIMIT_SECONDS = 120.0

_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x20000, 0x4000, 0x40000, 2


@dataclass(frozen=True)
class Outcome:
    """How a child ended: ``killed``, with an ``error`` (its class, exit code and message), or with a result."""

    killed: bool = False
    error: str = ""
    exit_code: int = 0
    message: str = ""
    result: Any = None
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether the action came to its end and said so."""
        return not self.killed and not self.error


def apart(action: Callable[[], Any]) -> Any:
    """The result, JSON, of ``action`` in a forked child with mounts of its own: nobody else's namespace copies them.

    A mount that was copied keeps its filesystem alive after it was unmounted here.
    """

    def isolated() -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0, os.strerror(ctypes.get_errno())
        _let_go_of_others_mounts(libc)
        return action()

    ended = in_child(isolated, limit_seconds=4 * LIMIT_SECONDS)
    assert ended.done, ended
    return ended.result


def _let_go_of_others_mounts(libc: ctypes.CDLL) -> None:
    """What other tests have mounted was copied too, and would keep their devices busy after they let go of them."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4].replace("\\040", " ")
        if "/pytest-of-" in point or "/recovery-test-" in point:
            libc.umount2(point.encode(), _MNT_DETACH)


def in_child(
    action: Callable[[], Any], *, kill_after: float | None = None, limit_seconds: float = LIMIT_SECONDS
) -> Outcome:
    """Run ``action`` in a forked child; its result must be JSON.  Killed after ``kill_after`` seconds, if given.

    A RecoveryError is an outcome; any other exception, and a hang, is a failure of the drill: AssertionError.
    """
    assert threading.active_count() == 1, f"cannot fork beside {threading.enumerate()}"
    read_end, write_end = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:  # pragma: no cover - this is the child
        os.close(read_end)
        _run_and_tell(action, write_end)
    os.close(write_end)
    try:
        said = _all_of(read_end, child, started + (limit_seconds if kill_after is None else kill_after))
    finally:
        os.close(read_end)
        _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - started
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        assert kill_after is not None or seconds < limit_seconds, "it hung"
        return Outcome(killed=True, seconds=seconds)
    told = json.loads(said)
    assert "bug" not in told, told["bug"]
    return Outcome(seconds=seconds, **told)


def _run_and_tell(action: Callable[[], Any], write_end: int) -> None:
    try:
        told: dict[str, Any] = {"result": action()}
    except RecoveryError as error:
        told = {"error": type(error).__name__, "exit_code": int(error.exit_code), "message": error.message}
        if error.exit_code == 1:
            told = {"bug": traceback.format_exc()}
    except BaseException:  # noqa: BLE001 - the parent is told
        told = {"bug": traceback.format_exc()}
    try:
        os.write(write_end, json.dumps(told).encode())
    finally:
        os._exit(0)


def _all_of(read_end: int, child: int, ends: float) -> bytes:
    """What the child says; it is killed when that takes too long."""
    said = b""
    while True:
        ready, _, _ = select.select([read_end], [], [], max(0.0, ends - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            return said
        data = os.read(read_end, 65536)
        if not data:
            return said
        said += data


def kill_self() -> None:
    """As the power of this process alone is cut."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


@dataclass
class _File:
    """A file below the watched folder that was written and not yet synced: what each write replaced."""

    replaced: list[tuple[int, bytes]] = field(default_factory=list)
    created: bool = False


class Steps:
    """Counts the calls that change what lies below ``root``; calls ``then`` before the call numbered ``at``.

    Install it in a child only.  ``torn``: a write at that step is done in part before.
    """

    _WATCHED = ("open", "writev", "pwrite", "fsync", "rename", "unlink")

    def __init__(self, root: Path, at: int = 0, then: Callable[[], object] = kill_self, *, torn: bool = False) -> None:
        self.root, self.at, self.then, self.torn = os.path.realpath(root), at, then, torn
        self.count = 0
        self._guard = threading.RLock()
        self._own = {name: getattr(os, name) for name in self._WATCHED}
        self._paths: dict[int, str] = {}
        self._dirty: dict[str, _File] = {}
        self._renamed: list[tuple[str, str]] = []

    def install(self) -> Steps:
        """From here on the calls of this process are counted."""
        for name in self._WATCHED:
            setattr(os, name, getattr(self, f"_{name}"))
        return self

    def _step(self, *, write: bool = False) -> bool:
        """Count, and act; whether a write is to be torn."""
        self.count += 1
        if self.count != self.at:
            return False
        if write and self.torn:
            return True
        self.then()
        return False

    def _watched(self, path: Any) -> str | None:
        if not isinstance(path, str | os.PathLike):
            return None
        full = os.path.abspath(path)  # noqa: PTH100 - links stay as they are
        return full if full == self.root or full.startswith(self.root + "/") else None

    def _open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        full = self._watched(path)
        if full is None:
            return int(self._own["open"](path, flags, mode, **more))
        with self._guard:
            if flags & os.O_CREAT:
                self._step()
            file = int(self._own["open"](path, flags, mode, **more))
            self._paths[file] = full
            if flags & os.O_CREAT:
                self._dirty[full] = _File(created=True)
            return file

    def _writev(self, file: int, pieces: Sequence[Any]) -> int:
        if file not in self._paths:
            return int(self._own["writev"](file, pieces))
        with self._guard:
            offset = os.lseek(file, 0, os.SEEK_CUR)
            if self._step(write=True):
                self._own["writev"](file, pieces[: len(pieces) // 2])
                self.then()
            count = int(self._own["writev"](file, pieces))
            self._note(file, offset, b"")
            return count

    def _pwrite(self, file: int, data: Any, offset: int) -> int:
        if file not in self._paths:
            return int(self._own["pwrite"](file, data, offset))
        with self._guard:
            old = os.pread(file, len(data), offset)
            self._note(file, offset, old)
            if self._step(write=True):
                self._own["pwrite"](file, memoryview(data)[: len(data) // 2], offset)
                self.then()
            return int(self._own["pwrite"](file, data, offset))

    def _note(self, file: int, offset: int, old: bytes) -> None:
        self._dirty.setdefault(self._paths[file], _File()).replaced.append((offset, old))

    def _fsync(self, file: int) -> None:
        path = self._paths.get(file)
        if path is None:
            self._own["fsync"](file)
            return
        with self._guard:
            self._step()
            self._own["fsync"](file)
            self._dirty.pop(path, None)
            self._renamed = [(old, new) for old, new in self._renamed if str(Path(new).parent) != path]

    def _rename(self, old: Any, new: Any, **more: Any) -> None:
        full, beside = self._watched(new), self._watched(old)
        with self._guard:
            if full is not None and beside is not None:
                self._step()
                self._renamed.append((beside, full))
                if beside in self._dirty:
                    self._dirty[full] = self._dirty.pop(beside)
            self._own["rename"](old, new, **more)

    def _unlink(self, path: Any, **more: Any) -> None:
        with self._guard:
            if self._watched(path) is not None:
                self._step()
            self._own["unlink"](path, **more)

    def power_cut(self, seed: int) -> Callable[[], None]:
        """What to do at the step: lose some of what is not on stable storage, then end."""

        def cut() -> None:
            chance = random.Random(seed)
            with self._guard:
                for old, new in reversed(self._renamed):
                    if chance.random() < 0.5 and Path(new).exists():
                        self._own["rename"](new, old)
                        self._dirty.setdefault(old, self._dirty.pop(new, _File()))
                for path, lost in self._dirty.items():
                    if Path(path).exists():
                        self._lose(path, lost, chance)
                kill_self()

        return cut

    def _lose(self, path: str, lost: _File, chance: random.Random) -> None:
        if lost.created and not any(old for _, old in lost.replaced):
            os.truncate(path, chance.randrange(Path(path).stat().st_size + 1))
            return
        file = self._own["open"](path, os.O_RDWR)
        for offset, old in reversed(lost.replaced):
            for at in range(0, len(old), 4096):
                if chance.random() < 0.5:
                    self._own["pwrite"](file, old[at : at + 4096], offset + at)
        os.close(file)
