"""The command line: parse, call, print; errors become exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated

import typer

import recovery
from recovery.cli import disks, failures, files, images, jobs, repository, tui
from recovery.cli.options import Common
from recovery.cli.output import Output
from recovery.errors import ExitCode, UsageError

app = typer.Typer(
    name="recovery",
    help="Bare-metal recovery: whole disks as system images in a restic repository.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def common(
    context: typer.Context,
    repo: Common.Repo = None,
    password_file: Common.PasswordFile = None,
    no_password: Common.NoPassword = False,
    json: Common.Json = False,
    verbose: Common.Verbose = False,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Say which version this is.")] = False,
) -> None:
    """Bare-metal recovery: whole disks as system images in a restic repository."""
    if version:
        typer.echo(f"recovery {recovery.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise UsageError("no command was named", "'recovery --help' lists them.")
    context.obj = Common(repo, password_file, no_password, json)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )


disks.register(app)
repository.register(app)
images.register(app)
files.register(app)
jobs.register(app)
tui.register(app)


def main(arguments: list[str] | None = None) -> None:
    """The program ``recovery``; ends the process with an exit code of ``recovery.errors.ExitCode``."""
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    output = Output(json="--json" in words)
    # 'restic unlock' sends SIGHUP to whoever holds a lock here, to see whether it lives; nor does a lost line end us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code = app(words, prog_name="recovery", standalone_mode=False)
        if code == ExitCode.CANCELLED:  # what typer makes of an interrupt where no work is under way
            output.failure("stopped as asked", "Nothing was written.", ExitCode.CANCELLED)
    except typer.Exit as ended:
        code = ended.exit_code
    except typer.Abort:
        output.failure("stopped as asked", "", ExitCode.CANCELLED)
        code = ExitCode.CANCELLED
    except BrokenPipeError:
        os._exit(ExitCode.BUG)  # there is nobody left to tell, and flushing would fail again
    except Exception as error:  # noqa: BLE001 - the last place that can tell a person
        code = failures.tell(error, output)
    sys.exit(int(code or 0))
