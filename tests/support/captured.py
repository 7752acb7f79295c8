"""A small disk that the program itself has captured, for tests of what comes after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.fleet import Fleet, small_disk
from tests.support.program import recovery


@dataclass(frozen=True)
class Captured:
    """A disk and the repository with its image."""

    disk: Fleet
    repository: Path


def small_disk_captured(folder: Path) -> Captured:
    """A small disk in ``folder``, and a repository beside it that holds its image."""
    made = Captured(small_disk(folder / "disk.img", folder), folder / "repository")
    recovery("init", repository=made.repository)
    recovery("capture", made.disk.image, repository=made.repository)
    return made
