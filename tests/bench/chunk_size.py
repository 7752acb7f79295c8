"""``make bench-chunk-size``: what chunks of 1, 2 and 4 MiB cost, on a real system that is really upgraded.

First captures, unchanged recaptures and restores run in turns, several times.  Then the system is edited, updated and
upgraded to the next release, and behind each step every repository takes one more image.  What
docs/decisions/chunk-size.md says comes from here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from recovery.image.view import SystemImage
from recovery.repository.format import (
    BlobType,
    IndexFile,
    PackedBlob,
    decode_json,
    encode_json,
    pack_unpacked,
    unpack_unpacked,
)
from recovery.repository.index import Index, index_pack
from recovery.repository.packer import PACK_BYTES
from recovery.repository.repository import Repository
from recovery.units import MIB, format_bytes, format_seconds, parse_bytes
from tests.bench.inputs import describe_machine
from tests.bench.measure import Measured, folder_bytes, measure
from tests.bench.real_system import NEXT_SUITE, SUITE, RealSystem
from tests.support.machine import CommandFailed, become_root, end_on_signals, in_own_mount_namespace, run

CHECKOUT = Path(__file__).resolve().parents[2]
EDITED_FILES = 50
_PROGRAM = (sys.executable, "-P", "-c", "from recovery.cli import main; main()")
_ENVIRONMENT = {"PYTHONPATH": str(CHECKOUT)}
_TERABYTE = 10**12
_INDEX_FILE_BLOBS = 20_000


@dataclass(slots=True)
class Figures:
    """What was measured with one chunk size.  ``runs``: of each kind; ``bytes``: the repository's growth, by step."""

    chunk_bytes: int
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, measured: Measured) -> None:
        """Record one run."""
        self.runs.setdefault(kind, []).append(measured)

    def cpu(self, kind: str) -> float:
        """The median, in seconds."""
        return median(run.cpu_seconds for run in self.runs[kind])

    def wall(self, kind: str) -> float:
        """The median, in seconds."""
        return median(run.seconds for run in self.runs[kind])

    def peak(self, kind: str) -> float:
        """The median, in bytes."""
        return median(run.peak_bytes for run in self.runs[kind])


class Bench:
    """The system, and one repository a chunk size."""

    def __init__(self, fast: Path, roomy: Path, sizes: list[int]) -> None:
        """``fast`` holds the disk and what is timed; ``roomy`` the repositories that are kept."""
        self.fast, self.roomy = fast, roomy
        self.figures = [Figures(size) for size in sizes]
        self.facts: dict[str, object] = {"machine": describe_machine(), "suites": [SUITE, NEXT_SUITE]}
        # Not below a folder that is cleared: a mount that could not be undone would be cleared with it.
        self.system = RealSystem(fast / "disk.img", roomy.parent / "chunk-size-mount")

    def run(self, rounds: int) -> None:
        """Everything, in order."""
        self._fact("installed", self.system.install())
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            turned = number % len(self.figures)
            for figures in [*self.figures[turned:], *self.figures[:turned]]:
                self._round(figures)
        self.system.edit(EDITED_FILES)
        self._capture_all("edited")
        self._fact("updated", self.system.upgrade(SUITE))
        self._capture_all("updated")
        self._fact("released", self.system.upgrade(NEXT_SUITE))
        self._capture_all("released")
        for figures in self.figures:
            figures.counts |= large_index(figures.chunk_bytes)

    def _fact(self, name: str, value: object) -> None:
        self.facts[name] = value
        print(f"{name}: {value}", flush=True)

    def _round(self, figures: Figures) -> None:
        repository, target = self.fast / "repository", self.fast / "restored.img"
        self._init(repository)
        figures.add("first, level 1", self._capture(repository, figures, 1))
        figures.bytes["first, level 1"] = folder_bytes(repository)
        shutil.rmtree(repository)
        self._init(repository)
        empty = folder_bytes(repository)
        figures.add("first", self._capture(repository, figures))
        first = folder_bytes(repository)
        figures.bytes["first"] = first - empty
        figures.counts |= _look_into(repository)
        figures.add("unchanged", self._capture(repository, figures))
        figures.bytes["unchanged"] = folder_bytes(repository) - first
        options = ("--repo", str(repository), "--no-password", "--yes", "--no-verify")
        figures.add("restore", self._measure("restore", "latest", str(target), *options))
        self.system.check(target)
        target.unlink()
        kept = self._kept(figures)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(repository, kept)

    def _capture_all(self, step: str) -> None:
        for figures in self.figures:
            kept = self._kept(figures)
            before = folder_bytes(kept)
            figures.add(step, self._capture(kept, figures))
            figures.bytes[step] = folder_bytes(kept) - before

    def _kept(self, figures: Figures) -> Path:
        return self.roomy / f"repository-{figures.chunk_bytes}"

    def _init(self, repository: Path) -> None:
        run(*_PROGRAM, "init", "--repo", repository, "--no-password", environment=_ENVIRONMENT)

    def _capture(self, repository: Path, figures: Figures, level: int = 3) -> Measured:
        options = ("--repo", str(repository), "--no-password", "--no-verify")
        chunk = ("--level", str(level), "--chunk-size", str(figures.chunk_bytes))
        return self._measure("capture", str(self.system.path), *options, *chunk)

    def _measure(self, *arguments: str) -> Measured:
        return measure([*_PROGRAM, *arguments], _ENVIRONMENT)


def _look_into(folder: Path) -> dict[str, float]:
    """What the newest image of a repository, which holds only it, is made of."""
    repository = Repository.open(folder, "")
    repository.load_index()
    stored = repository.find_snapshot("latest")
    disk = SystemImage(repository, stored).disk()
    tree = repository.index.find(BlobType.TREE, bytes.fromhex(stored.snapshot.tree))
    assert tree is not None
    chunks = [piece.extent.length for piece in disk.layout if not piece.hole]
    return {
        "used_bytes": disk.used.total_bytes,
        "chunks": len(chunks),
        "covered_bytes": sum(chunks),
        "pieces": len(disk.layout),
        "blobs": len(repository.index),
        "index_memory_bytes": repository.index.memory_bytes(),
        "index_file_bytes": folder_bytes(folder / "index"),
        "tree_bytes": tree.length,
        "tree_json_bytes": tree.plain_length,
    }


def large_index(chunk_bytes: int) -> dict[str, float]:
    """What 1 TB in distinct chunks costs beside them: an index and a tree, made up, stored and read as real ones."""
    blobs = _TERABYTE // chunk_bytes
    files = [pack_unpacked(encode_json(file), 2) for file in _made_up_index(blobs, chunk_bytes)]
    started = time.process_time()
    index = Index()
    for data in files:
        index.add_file(decode_json(unpack_unpacked(data, "an index file"), IndexFile, "an index file"))
    seconds = time.process_time() - started
    tree = ",".join(f'"{os.urandom(32).hex()}"' for _ in range(blobs)).encode()
    return {
        "terabyte_blobs": len(index),
        "terabyte_index_file_bytes": sum(map(len, files)),
        "terabyte_index_memory_bytes": index.memory_bytes(),
        "terabyte_index_cpu_seconds": seconds,
        "terabyte_tree_bytes": len(pack_unpacked(tree, 2)),
        "terabyte_tree_json_bytes": len(tree),
    }


def _made_up_index(blobs: int, chunk_bytes: int) -> Iterator[IndexFile]:
    """Index files over ``blobs`` random ids, each compressed to about half, in packs of the usual size."""
    draw = random.Random(1)
    a_pack = max(1, 2 * PACK_BYTES // chunk_bytes)
    for start in range(0, blobs, _INDEX_FILE_BLOBS):
        packs = []
        end = min(start + _INDEX_FILE_BLOBS, blobs)
        for first in range(start, end, a_pack):
            offset, packed = 0, []
            for _ in range(first, min(first + a_pack, end)):
                length = int(chunk_bytes * draw.uniform(0.2, 0.8))
                packed.append(PackedBlob(BlobType.DATA, os.urandom(32), offset, length, chunk_bytes))
                offset += length
            packs.append(index_pack(os.urandom(32), packed))
        yield IndexFile(packs=packs)


def show(all_figures: list[Figures]) -> str:
    """The table, in Markdown: a row a figure, a column a chunk size."""
    rows: list[tuple[str, list[str]]] = []

    def add(name: str, values: Iterable[str]) -> None:
        rows.append((name, list(values)))

    for kind in ("first", "first, level 1", "unchanged", "edited", "updated", "released"):
        if kind in all_figures[0].bytes:
            add(f"stored: {kind}", (format_bytes(figures.bytes[kind]) for figures in all_figures))
    for kind in all_figures[0].runs:
        add(f"CPU seconds: {kind}", (f"{figures.cpu(kind):.2f}" for figures in all_figures))
        add(f"seconds: {kind}", (f"{figures.wall(kind):.2f}" for figures in all_figures))
        add(f"peak memory: {kind}", (format_bytes(figures.peak(kind)) for figures in all_figures))
    for name in all_figures[0].counts:
        shown = format_bytes if name.endswith("_bytes") else "{:.6g}".format
        add(name.removesuffix("_bytes").replace("_", " "), (shown(figures.counts[name]) for figures in all_figures))
    head = ["", *(format_bytes(figures.chunk_bytes) for figures in all_figures)]
    lines = [head, ["---", *["---:"] * len(all_figures)], *([name, *values] for name, values in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Run the benchmark; exit status 1 when it could not run."""
    parser = argparse.ArgumentParser(prog="make bench-chunk-size", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how often first captures, recaptures and restores run")
    parser.add_argument("--sizes", nargs="+", type=parse_bytes, default=[MIB, 2 * MIB, 4 * MIB], help="chunk sizes")
    parser.add_argument("--fast", type=Path, default=Path("/dev/shm"), help="holds the disk and what is timed: 8 GiB")
    parser.add_argument("--roomy", type=Path, default=CHECKOUT / "build", help="holds what is kept: 2 GiB a size")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build/chunk-size.json", help="the JSON file")
    arguments = parser.parse_args()
    become_root("tests.bench.chunk_size")
    in_own_mount_namespace("tests.bench.chunk_size")
    end_on_signals()
    arguments.roomy.mkdir(exist_ok=True)
    started = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="recovery-chunks-", dir=arguments.fast) as fast,
            tempfile.TemporaryDirectory(prefix="recovery-chunks-", dir=arguments.roomy) as roomy,
        ):
            bench = Bench(Path(fast), Path(roomy), arguments.sizes)
            bench.run(arguments.runs)
    except KeyboardInterrupt:
        print("\nInterrupted; cleaned up.")
        return 130
    except CommandFailed as failure:
        print(f"\nFAILED: {failure}")
        return 1
    print(show(bench.figures))
    document = {"facts": bench.facts, "figures": [asdict(figures) for figures in bench.figures]}
    arguments.output.write_text(json.dumps(document, indent=2, default=asdict) + "\n")
    print(f"{arguments.output}, after {format_seconds(time.monotonic() - started)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
