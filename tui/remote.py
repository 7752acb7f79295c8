"""Remote help: somebody else uses this program over the network, with a password made for this once.

::

    off   no server listens; root has no password, so that nobody could log in
    on    the SSH server listens, root has the password that the screen shows; who logs in lands in this program

It is only for our live system, where nothing else is kept, and it is over when the machine is switched off.  The
password stands in a file in memory that only root may read, so that every screen of the machine can show it; it is
given to ``chpasswd`` through its input.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from recovery.command import run
from recovery.devices.live import live_root, live_system
from recovery.errors import DeviceError, ProgramMissing, RecoveryError, Refused
from tui.network import look_at_network

_UNIT = "ssh.service"
_NEEDED_FOR = "remote help"
_START_SECONDS = 60.0
#: Programs of OpenSSH that serve somebody who is connected.
_SERVERS = frozenset({"sshd", "sshd-session", "sshd-auth"})
#: What stands in place of a password that is none: nothing that is typed can be it.
_LOCKED = b"root:*\n"
_GROUPS, _DIGITS = 3, 4


class RemoteHelp(msgspec.Struct, frozen=True):
    """Remote help that is on.  ``fingerprint``: of the server's key; empty: not known."""

    password: str
    fingerprint: str = ""

    def __repr__(self) -> str:
        return "RemoteHelp(...)"

    __str__ = __repr__


def make_password() -> str:
    """Easy to read aloud: "4827-1930-5562", 40 bits, which over a network nobody guesses."""
    return "-".join(f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}" for _ in range(_GROUPS))


def remote_help() -> RemoteHelp | None:
    """What is on; None when it is off."""
    try:
        return msgspec.json.decode(_kept().read_bytes(), type=RemoteHelp)
    except (OSError, msgspec.MsgspecError):
        return None


def switch_on() -> RemoteHelp:
    """Give root a password and start the server; what is on already is given as it is.

    Raises Refused, ProgramMissing, DeviceError; it is off then.
    """
    _check_live()
    with _alone():
        return remote_help() or _switch_on()


def _switch_on() -> RemoteHelp:
    made = RemoteHelp(make_password())
    _keep(made)
    try:
        run(["chpasswd"], needed_for=_NEEDED_FOR, input=f"root:{made.password}\n".encode())
        run(["systemctl", "start", _UNIT], needed_for=_NEEDED_FOR, timeout_seconds=_START_SECONDS)
    except RecoveryError:
        with suppress(RecoveryError):
            switch_off()
        raise
    made = RemoteHelp(made.password, _fingerprint())
    _keep(made)
    return made


def switch_off() -> None:
    """Stop the server, take the password away, end what is connected.  Raises the first error, having tried all."""
    _check_live()
    steps: tuple[Callable[[], object], ...] = (
        lambda: run(["systemctl", "stop", _UNIT], needed_for=_NEEDED_FOR, timeout_seconds=_START_SECONDS),
        lambda: run(["chpasswd", "--encrypted"], needed_for=_NEEDED_FOR, input=_LOCKED),
        lambda: _kept().unlink(missing_ok=True),
        _end_connections,  # the last: one of them may be what asks for this
    )
    errors: list[RecoveryError] = []
    for step in steps:
        try:
            step()
        except RecoveryError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@contextmanager
def _alone() -> Iterator[None]:
    """One screen at a time: a second password would end the first one."""
    place = _kept().with_suffix(".lock")
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_live() -> None:
    """Elsewhere root's password and connections are somebody's."""
    if live_system() is None:
        raise Refused("remote help is for the live system only", "Use what this system has for it.")


def addresses() -> tuple[str, ...]:
    """Where this machine can be reached; empty when the network cannot be looked at."""
    try:
        return look_at_network().reachable
    except (DeviceError, ProgramMissing):
        return ()


def _fingerprint() -> str:
    key = live_root() / "etc/ssh/ssh_host_ed25519_key.pub"
    try:
        said = run(["ssh-keygen", "-l", "-f", key], needed_for=_NEEDED_FOR).stdout.decode(errors="replace")
    except (DeviceError, ProgramMissing):
        return ""
    return next((word for word in said.split() if word.startswith("SHA256:")), "")


def _end_connections() -> None:
    """End those who are connected; a job that they started is no part of their connection, and goes on."""
    for process in _servers():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def _servers() -> Iterator[int]:
    for folder in (live_root() / "proc").iterdir():
        if folder.name.isdigit():
            try:
                program = (folder / "exe").readlink().name
            except OSError:
                continue
            if program.removesuffix(" (deleted)") in _SERVERS:
                yield int(folder.name)


def _kept() -> Path:
    return live_root() / "run/recovery/remote-help"


def _keep(help: RemoteHelp) -> None:
    place = _kept()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.touch(0o600, exist_ok=False)
    place.write_bytes(msgspec.json.encode(help))
