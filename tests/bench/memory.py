"""How much memory each further distinct chunk costs: the slope between two captures of very different sizes.

At the usual chunk size a slope that stands out of the noise would need terabytes of distinct data.  So the sources are
sparse files with one page of random data in each chunk, captured with small chunks: what the program keeps for a
chunk does not depend on its size, packs fill up in both captures, and both fit in memory.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from recovery.units import KIB
from tests.bench.ours import Ours
from tests.support.machine import run
from tests.support.restic import restic_binaries

CHUNK_BYTES = 128 * KIB
SMALL_CHUNKS = 64 << 10
LARGE_CHUNKS = 320 << 10


def bytes_per_distinct_chunk(work: Path) -> float:
    """Bytes of peak memory more for each further distinct chunk, over those of the smaller capture."""
    small_chunks, small_peak = capture_distinct(work, SMALL_CHUNKS)
    large_chunks, large_peak = capture_distinct(work, LARGE_CHUNKS)
    return (large_peak - small_peak) / (large_chunks - small_chunks)


def capture_distinct(work: Path, chunks: int) -> tuple[int, int]:
    """Capture so many distinct chunks: how many data blobs that stored, as restic counts, and peak memory in bytes."""
    source = work / "distinct.img"
    _make_distinct(source, chunks)
    ours = Ours(work / "distinct-repository")
    measured = ours.capture(source, verify=False, chunk_bytes=CHUNK_BYTES)
    listed = run(restic_binaries()[-1], "--no-cache", "-q", "list", "blobs", environment=ours.environment)
    source.unlink()
    shutil.rmtree(ours.repository)
    return sum(line.startswith("data ") for line in listed.splitlines()), measured.peak_bytes


def _make_distinct(path: Path, chunks: int) -> None:
    generator = random.Random(chunks)
    with path.open("wb", buffering=0) as file:
        file.truncate(chunks * CHUNK_BYTES)
        for number in range(chunks):
            file.seek(number * CHUNK_BYTES)
            file.write(generator.randbytes(4 * KIB))
