"""The figures: a table in the terminal, the limits they must keep, a JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from recovery.units import MIB, format_bytes
from tests.bench.measure import Measured


@dataclass(slots=True)
class Contestant:
    """All runs of one command line; ``stored_bytes`` is what it left behind, 0 where that means nothing."""

    title: str
    runs: list[Measured] = field(default_factory=list)
    stored_bytes: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median."""
        return median(run.seconds for run in self.runs)

    @property
    def stored(self) -> float:
        """The median, in bytes."""
        return median(self.stored_bytes)

    @property
    def peak_bytes(self) -> int:
        """The largest of all runs."""
        return max(run.peak_bytes for run in self.runs)


@dataclass(frozen=True, slots=True)
class Limit:
    """One line of what must hold: ``value`` is at most ``limit``."""

    name: str
    value: float
    limit: float

    @property
    def kept(self) -> bool:
        """Whether it holds."""
        return self.value <= self.limit


@dataclass(slots=True)
class Results:
    """Everything one benchmark measured, by contestant."""

    facts: dict[str, object] = field(default_factory=dict)
    contestants: dict[str, Contestant] = field(default_factory=dict)
    bytes_per_chunk: float | None = None

    def add(self, title: str, measured: Measured, stored_bytes: int | None = None) -> None:
        """Record one run."""
        contestant = self.contestants.setdefault(title, Contestant(title))
        contestant.runs.append(measured)
        if stored_bytes is not None:
            contestant.stored_bytes.append(stored_bytes)

    def limits(self) -> list[Limit]:
        """Every limit whose contestants ran."""
        kept = [
            Limit(name, self._ratio(of, to), limit)
            for name, of, to, limit in _RATIOS
            if {*of, *to} <= self.contestants.keys()
        ]
        if {OURS, CLONEZILLA, UNCHANGED} <= self.contestants.keys():
            ours = self.contestants[OURS].stored
            kept.append(Limit("stored, of Clonezilla's", ours / self.contestants[CLONEZILLA].stored, 1.03))
            kept.append(Limit("added by an unchanged recapture", self.contestants[UNCHANGED].stored / ours, 0.001))
        peaks = [self.contestants[title].peak_bytes for title in ALL_OURS if title in self.contestants]
        if peaks:
            kept.append(Limit("peak memory (MiB)", max(peaks) / MIB, 400))
        if self.bytes_per_chunk is not None:
            kept.append(Limit("memory per further distinct chunk (bytes)", self.bytes_per_chunk, 250))
        return kept

    def _ratio(self, of: tuple[str, ...], to: tuple[str, ...]) -> float:
        return sum(self.contestants[title].seconds for title in of) / sum(
            self.contestants[title].seconds for title in to
        )


FLOOR = "zstd -T0 -1 over the used bytes"
OURS = "recovery capture --no-verify"
OURS_VERIFIED = "recovery capture"
UNCHANGED = "recovery capture --no-verify, unchanged"
CHANGED = "recovery capture --no-verify, upgraded"
RESTORE_DEVICE = "recovery restore --no-verify, loop device"
RESTORE_FILE = "recovery restore --no-verify, file"
CLONEZILLA = "partclone | zstd -T0 -1"
CLONEZILLA_CHECK = "zstd -dc | partclone.chkimg"
CLONEZILLA_UNCHECKED = "partclone -a0 | zstd -T0 -1"
CLONEZILLA_RESTORE = "zstd -dc | partclone.restore, loop device"
FSARCHIVER = "fsarchiver savefs -Z1 -j2"
BORG = "borg create --read-special, zstd,1, repokey"
BORG_UNCHANGED = "borg create --read-special, unchanged"
RESTIC = "restic backup --stdin"
RESTIC_UNCHANGED = "restic backup --stdin, unchanged"
RESTIC_CHANGED = "restic backup --stdin, upgraded"
RESTIC_RESTORE = "restic restore --sparse, file"

ALL_OURS = (OURS, OURS_VERIFIED, UNCHANGED, CHANGED, RESTORE_DEVICE, RESTORE_FILE)

_RATIOS: list[tuple[str, tuple[str, ...], tuple[str, ...], float]] = [
    ("capture, of Clonezilla's pipeline", (OURS,), (CLONEZILLA,), 0.50),
    ("capture, of the same without checksums", (OURS,), (CLONEZILLA_UNCHECKED,), 0.75),
    ("capture, of fsarchiver", (OURS,), (FSARCHIVER,), 0.40),
    ("capture, of borg", (OURS,), (BORG,), 0.40),
    ("capture, of restic", (OURS,), (RESTIC,), 0.30),
    ("capture, of the floor", (OURS,), (FLOOR,), 1.15),
    ("capture with read-back, of Clonezilla's and its check", (OURS_VERIFIED,), (CLONEZILLA, CLONEZILLA_CHECK), 0.75),
    ("unchanged recapture, of the first", (UNCHANGED,), (OURS,), 0.35),
    ("restore, of partclone.restore", (RESTORE_DEVICE,), (CLONEZILLA_RESTORE,), 0.60),
    ("restore, of restic's", (RESTORE_FILE,), (RESTIC_RESTORE,), 0.50),
]


def show(results: Results) -> None:
    """Print both tables."""
    console = Console(width=120, highlight=False)
    table = Table(title="Seconds, fsync included; memory of the whole process group")
    table.add_column("command", no_wrap=True)
    for name in ("least", "median", "most", "stored or added", "peak memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for contestant in results.contestants.values():
        times = [run.seconds for run in contestant.runs]
        table.add_row(
            contestant.title,
            *(f"{value:.2f}" for value in (min(times), contestant.seconds, max(times))),
            format_bytes(contestant.stored) if contestant.stored_bytes else "",
            format_bytes(contestant.peak_bytes),
        )
    console.print(table)
    limits = Table(title="What must hold, medians compared")
    for name in ("limit", "measured", "at most", ""):
        limits.add_column(name, justify="left" if name == "limit" else "right", no_wrap=True)
    for limit in results.limits():
        limits.add_row(limit.name, f"{limit.value:.4g}", f"{limit.limit:g}", "pass" if limit.kept else "SHORT")
    console.print(limits)


def save(results: Results, path: Path) -> None:
    """Write every single run and every limit to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "facts": results.facts,
        "contestants": [
            {**asdict(contestant), "median_seconds": contestant.seconds} for contestant in results.contestants.values()
        ],
        "bytes_per_chunk": results.bytes_per_chunk,
        "limits": [{**asdict(limit), "kept": limit.kept} for limit in results.limits()],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
