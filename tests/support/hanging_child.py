"""A disk of which some bytes are never answered, as a dying disk behind a bad bridge does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tui.recorded_faults import with_faults
from tui.recorded_format import Area, Faults


@contextmanager
def hanging(disk: Path, start: int, end: int) -> Iterator[Path]:
    """``disk`` as a file of which the bytes from ``start`` to ``end`` are never answered."""
    with with_faults(disk, Faults(silent=(Area(start, end - start),))) as served:
        yield served
