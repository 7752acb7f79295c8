"""How much memory each further distinct chunk costs: the slope between two captures of very different sizes.

A chunk is cheap to make distinct: the sources are sparse files with a few bytes a MiB, so that the larger of them,
which has hundreds of thousands of chunks, still fits in memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.bench.inputs import make_distinct_chunks
from tests.bench.ours import Ours
from tests.support.machine import run
from tests.support.restic import restic_binaries

SMALL_STEPS = 32 << 10
LARGE_STEPS = 160 << 10


def bytes_per_distinct_chunk(work: Path) -> float:
    """Bytes of peak memory more for each further distinct chunk, over those of the smaller capture."""
    small_chunks, small_peak = _peak(work, SMALL_STEPS)
    large_chunks, large_peak = _peak(work, LARGE_STEPS)
    return (large_peak - small_peak) / (large_chunks - small_chunks)


def _peak(work: Path, steps: int) -> tuple[int, int]:
    """How many data blobs a capture of so many distinct MiB stored, as restic counts, and its peak memory in bytes."""
    source = work / "distinct.img"
    make_distinct_chunks(source, steps)
    ours = Ours(work / "distinct-repository")
    measured = ours.capture(source, verify=False)
    listed = run(restic_binaries()[-1], "--no-cache", "-q", "list", "blobs", environment=ours.environment)
    source.unlink()
    shutil.rmtree(ours.repository)
    return sum(line.startswith("data ") for line in listed.splitlines()), measured.peak_bytes
