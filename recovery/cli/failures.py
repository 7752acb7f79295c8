"""How an error is told and which exit code it becomes: here and nowhere else."""

from __future__ import annotations

import os
import traceback

from recovery.cli.output import Output
from recovery.errors import ExitCode, RecoveryError


def tell(error: Exception, output: Output) -> int:
    """Say what went wrong; the exit code.

    A mistake in the words typed is told by click's own error; what is neither that nor ours is a bug of this program.
    """
    if isinstance(error, RecoveryError):
        output.failure(error.message, error.hint, error.exit_code)
        return error.exit_code
    message = getattr(error, "format_message", None)
    if message is not None:
        output.failure(message(), "'recovery COMMAND --help' says what it takes.", ExitCode.USAGE)
        return ExitCode.USAGE
    if os.environ.get("RECOVERY_DEBUG"):
        output.diagnose("".join(traceback.format_exception(error)))
    where = traceback.extract_tb(error.__traceback__)[-1]
    output.failure(
        f"this is a bug: {type(error).__name__}: {error} ({where.name}, line {where.lineno})",
        "Please report it; RECOVERY_DEBUG=1 shows more.",
        ExitCode.BUG,
    )
    return ExitCode.BUG
