"""Errors carry the exit codes that the documentation promises."""

from __future__ import annotations

import pytest

from recovery import errors
from recovery.errors import ExitCode, RecoveryError

PROMISED = {
    "UsageError": 2, "NoRepository": 10, "RepositoryLocked": 11, "WrongPassword": 12, "Refused": 20, "DeviceError": 21,
    "RepositoryDamaged": 22, "DestinationFull": 23, "ProgramMissing": 24, "Cancelled": 130,
}  # fmt: skip


@pytest.mark.parametrize(("name", "code"), PROMISED.items())
def test_each_error_ends_in_its_exit_code(name: str, code: int) -> None:
    error = getattr(errors, name)("what happened", "what to do")
    assert isinstance(error, RecoveryError)
    assert error.exit_code == code
    assert (str(error), error.message, error.hint) == ("what happened", "what happened", "what to do")


def test_no_error_ends_as_another_and_none_is_forgotten() -> None:
    kinds = RecoveryError.__subclasses__()
    assert {kind.__name__ for kind in kinds} == set(PROMISED)
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    assert RecoveryError("x").exit_code is ExitCode.BUG
