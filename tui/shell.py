"""A shell on the terminal that the interface has left for it."""

from __future__ import annotations

import os
import subprocess
import sys

from recovery.command import SEARCH_PATH, find_program

_WORDS = "\nThis is a shell. To come back to the program, type exit and press Enter.\n\n"


def open_shell() -> None:
    """Run one until it is left; what it is told about the repository's password: nothing."""
    shell = find_program("bash") or find_program("sh")
    secrets = ("RESTIC_PASSWORD", "RESTIC_PASSWORD_COMMAND", "TEXTUAL_FPS")
    environment = {name: value for name, value in os.environ.items() if name not in secrets}
    if sys.__stdout__ is not None:
        sys.__stdout__.write(_WORDS)
        sys.__stdout__.flush()
    subprocess.run([str(shell or "/bin/sh"), "-i"], env={**environment, "PATH": SEARCH_PATH}, check=False)
