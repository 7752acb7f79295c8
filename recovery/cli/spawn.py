"""Start a job from a program that has threads, and so cannot fork: the interface.

::

    interface                          python -m recovery.cli.spawn
    spawn(request, ...) -- one line -> opens the repository, forks the job
       attaches        <- its folder -
       closes its end  -------------> leaves; the job stays

The password goes through the pipe, and nowhere else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from recovery.cli.launch import in_job
from recovery.cli.operations import operation_of
from recovery.cli.requests import REQUESTS, Kind, Request
from recovery.command import companion
from recovery.errors import DeviceError, ExitCode, RecoveryError
from recovery.jobs.folder import read_job
from recovery.jobs.watching import Watcher, attach, start
from recovery.repository.repository import Repository


class _Order(msgspec.Struct, frozen=True):
    request: msgspec.Raw
    kind: Kind
    repository: str | None
    password: str
    width: int

    def __repr__(self) -> str:
        """Without the password: what is shown of errors shows values."""
        return f"<order for a {self.kind} in {self.repository}>"


class _Answer(msgspec.Struct, frozen=True):
    folder: str = ""
    message: str = ""
    hint: str = ""
    code: int = 0


def spawn(request: Request, repository: Path | None = None, password: str = "", *, width: int = 80) -> Watcher:
    """Start ``request`` as a job, and watch it; whoever watches is asked what it asks.

    ``repository``: opened with ``password``; None for a clone.  ``width``: of its tables, in columns.  Raises what
    opening a repository raises, and DeviceError.
    """
    order = _Order(
        request=msgspec.Raw(msgspec.json.encode(request, enc_hook=_plain)),
        kind=request.kind,
        repository=None if repository is None else _plain(repository),
        password=password,
        width=width,
    )
    with companion([sys.executable, "-m", "recovery.cli.spawn"], needed_for="starting a job") as beside:
        beside.input.write(msgspec.json.encode(order) + b"\n")
        try:
            answer = msgspec.json.decode(beside.output.readline(), type=_Answer)
        except msgspec.DecodeError as error:
            raise DeviceError(f"the job could not be started: {beside.last_words()}", "Try again.") from error
        if not answer.folder:
            raise _error_of(answer)
        job = read_job(_path(answer.folder))
        if job is None:
            raise DeviceError("the job was started and is gone already", "See 'recovery jobs'.")
        return attach(job)


def main() -> None:
    """The other program: one order in, one answer out; stays until the interface watches the job itself."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Order)
    answer = _Answer()
    try:
        request: Request = msgspec.json.decode(order.request, type=REQUESTS[order.kind], dec_hook=_from_plain)
        repository = None if order.repository is None else Repository.open(_path(order.repository), order.password)
        operation = operation_of(request, repository, order.password)
        watcher = start(request.kind, request.what, lambda job: in_job(job, operation, can_ask=True, width=order.width))
        answer = _Answer(folder=_plain(watcher.folder))
    except RecoveryError as error:
        answer = _Answer(message=error.message, hint=error.hint, code=error.exit_code)
    except OSError as error:
        answer = _Answer(message=f"the job could not be started: {error.strerror}", code=ExitCode.DEVICE)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read()
    os._exit(0)


def _error_of(answer: _Answer) -> RecoveryError:
    for form in RecoveryError.__subclasses__():
        if form.exit_code == answer.code:
            return form(answer.message, answer.hint)
    return RecoveryError(answer.message, answer.hint)


def _plain(value: Any) -> str:
    """A path as JSON can hold it, whatever bytes it has."""
    assert isinstance(value, Path)
    return os.fsencode(value).hex()


def _from_plain(form: type, value: Any) -> Path:
    assert issubclass(form, Path)
    return _path(value)


def _path(text: str) -> Path:
    return Path(os.fsdecode(bytes.fromhex(text)))


if __name__ == "__main__":
    main()
