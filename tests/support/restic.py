"""The restic programs the tests compare with: Debian 12's and Debian 13's, which ``make setup`` fetches.

``@pytest.mark.parametrize("restic", restic_binaries(), ids=restic_id)`` runs a test with each.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path

#: Where ``tests/support/fetch-restic.sh`` puts them.
CACHE = Path(__file__).resolve().parents[2] / ".cache"

VERSIONS = ("0.14", "0.18")


@cache
def restic_version(program: Path) -> tuple[int, ...]:
    """``(0, 18, 0)``, as the program itself says it."""
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return tuple(int(part) for part in said.split()[1].split("-")[0].split("."))


def restic_id(program: Path) -> str:
    """``restic-0.18.0``: names a test's parameter."""
    return "restic-" + ".".join(str(part) for part in restic_version(program))


@cache
def _found() -> tuple[Path, ...]:
    fetched = [CACHE / f"restic-{version}" / "usr/bin/restic" for version in VERSIONS]
    there = [program for program in fetched if program.exists()]
    if len(there) == len(fetched):
        return tuple(there)
    installed = shutil.which("restic")
    if installed is not None and restic_version(Path(installed)) not in map(restic_version, there):
        there.append(Path(installed))
    missing = ", ".join(program.parts[-4] for program in fetched if not program.exists())
    having = ", ".join(map(restic_id, there)) or "none at all"
    warnings.warn(f"{missing} not in .cache (make setup fetches them); tests run with {having}", stacklevel=3)
    return tuple(there)


def restic_binaries() -> list[Path]:
    """The restic programs to test with, oldest first.

    Both fetched versions; where one could not be fetched, the installed restic instead, which a warning says.
    """
    return sorted(_found(), key=restic_version)
