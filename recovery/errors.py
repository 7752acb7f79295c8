"""What can go wrong, in the user's words, with the exit code each kind of failure ends in.

Codes follow restic where it has one (10, 11, 12, 130).  An error is raised where it is understood and
caught once, in ``cli.py``.  Findings that an operation survives (unreadable areas, damaged chunks) are
values in its result and never exceptions.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of the ``recovery`` program."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INCOMPLETE = 3
    NO_REPOSITORY = 10
    LOCKED = 11
    WRONG_PASSWORD = 12
    REFUSED = 20
    DEVICE = 21
    REPOSITORY_DAMAGED = 22
    DESTINATION_FULL = 23
    PROGRAM_MISSING = 24
    CANCELLED = 130


class RecoveryError(Exception):
    """A failure told to the user: ``message`` says what happened to which object, ``hint`` what to do next."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message  # which may have grown since it was raised: what state things are in


class UsageError(RecoveryError):
    """What was asked for makes no sense as it was asked."""

    exit_code = ExitCode.USAGE


class NoRepository(RecoveryError):
    """The place named holds no restic repository, or one this program cannot read."""

    exit_code = ExitCode.NO_REPOSITORY


class RepositoryLocked(RecoveryError):
    """Another program holds a lock that excludes ours, or ours was taken away."""

    exit_code = ExitCode.LOCKED


class WrongPassword(RecoveryError):
    """No key file of the repository opens with the password given."""

    exit_code = ExitCode.WRONG_PASSWORD


class RepositoryDamaged(RecoveryError):
    """A repository file is missing, does not authenticate, or contradicts another."""

    exit_code = ExitCode.REPOSITORY_DAMAGED


class Refused(RecoveryError):
    """The operation would break a law of safety."""

    exit_code = ExitCode.REFUSED


class DeviceError(RecoveryError):
    """A disk cannot be opened, read or written."""

    exit_code = ExitCode.DEVICE


class DestinationFull(RecoveryError):
    """The place written to has no room left."""

    exit_code = ExitCode.DESTINATION_FULL


class ProgramMissing(RecoveryError):
    """A program that this step needs is not installed."""

    exit_code = ExitCode.PROGRAM_MISSING


class Cancelled(RecoveryError):
    """The user asked the operation to stop."""

    exit_code = ExitCode.CANCELLED
