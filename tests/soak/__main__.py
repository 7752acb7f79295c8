"""The failure drills over and over, with fresh seeds: ``python -m tests.soak --minutes N [--seed S] [--only NAME]``.

Each round runs every drill once, in an order of its own, each in a process, a mount namespace and a folder of its
own, so that one that hangs or breaks leaves nothing behind.  A seed that fails is shown with the line that runs it
again.  At the end, or when interrupted: how often each drill ran, what it counted, and exit status 1 when anything
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.drills import AREAS, Bench, Drill, drills
from tests.support.machine import end_on_signals, in_own_mount_namespace

#: A drill takes seconds; one that takes so long hangs.
_LIMIT_SECONDS = 600
#: So many failures of one drill are shown in full; of further ones only the seed.
_SHOWN_IN_FULL = 3


@dataclass
class _Tally:
    """What came of one drill so far."""

    runs: int = 0
    failures: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long; the drill under way is finished")
    parser.add_argument("--seed", type=int, help="of the first round; a fresh one otherwise")
    parser.add_argument("--only", default="", metavar="NAME", help="only drills or areas whose name holds this")
    parser.add_argument("--once", action="store_true", help="one round, in this process, with this very seed")
    parser.add_argument("--folder", help="where to work; memory, if there is room, or the folder for temporary files")
    parser.add_argument("--short", action="store_true", help="each drill as short as in the test suite")
    arguments = parser.parse_args()
    chosen = [found for found in drills() if arguments.only in found.name or arguments.only == found.area]
    if not chosen:
        parser.error(f"no drill is called {arguments.only!r}; the areas are {', '.join(AREAS)}")
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    if arguments.once:
        return _once(chosen, seed, arguments.short, arguments.folder)
    return _soak(chosen, seed, arguments.minutes, arguments.short)


def _once(chosen: list[Drill], seed: int, short: bool, folder: str | None) -> int:
    """Run drills here; a failure is a traceback.  Prints what was counted, as JSON."""
    in_own_mount_namespace("tests.soak")
    counts: Counter[str] = Counter()
    for found in chosen:
        with _folder(folder) as work:
            bench = Bench(Path(work), seed, short=short)
            found.run(bench)
            counts += bench.counts
    print(json.dumps(counts))
    return 0


def _folder(within: str | None = None) -> tempfile.TemporaryDirectory[str]:
    """A folder to work in, in memory where there is room for it: disks are slow."""
    memory = Path("/dev/shm")
    if within is None and memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30:
        within = str(memory)
    return tempfile.TemporaryDirectory(prefix="recovery-drill-", dir=within, ignore_cleanup_errors=True)


def _soak(chosen: list[Drill], seed: int, minutes: float, short: bool) -> int:
    end_on_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started it in the background
    tallies = {found.name: _Tally() for found in chosen}
    ends = time.monotonic() + 60 * minutes
    print(f"{len(chosen)} drills for {minutes:g} minutes, first seed {seed}", flush=True)
    try:
        while time.monotonic() < ends:
            for found in random.Random(seed).sample(chosen, len(chosen)):
                if time.monotonic() >= ends:
                    break
                _run(found, seed, short, tallies[found.name])
            seed += 1
    except KeyboardInterrupt:
        print("stopped")
    return _report(tallies)


def _run(found: Drill, seed: int, short: bool, tally: _Tally) -> None:
    """One drill with one seed, in a process of its own."""
    line = [sys.executable, "-m", "tests.soak", "--once", "--only", found.name, "--seed", str(seed)]
    line += ["--short"] if short else []
    started = time.monotonic()
    with _folder() as folder:  # ours, so that it goes too when the drill is killed
        status, said = _ended([*line, "--folder", folder])
    tally.runs += 1
    tally.seconds += time.monotonic() - started
    if status == 0:
        tally.counts.update(json.loads(said.splitlines()[-1]))
        return
    tally.failures += 1
    shown = f"{said.rstrip()}\n" if tally.failures <= _SHOWN_IN_FULL else ""
    print(f"FAILED {found.name}\n{shown}again: {' '.join(['python', *line[1:]])}\n", flush=True)


def _ended(line: list[str]) -> tuple[int, str]:
    """Exit status and words of a program; killed, with all that it started, when it hangs or we are interrupted."""
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            said = process.communicate(timeout=_LIMIT_SECONDS)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()[0].decode(errors="replace") + f"it hung: {_LIMIT_SECONDS} seconds\n"
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    return process.returncode, said


def _report(tallies: dict[str, _Tally]) -> int:
    total: Counter[str] = Counter()
    print(f"{'runs':>6} {'failed':>6} {'s each':>6}  drill")
    for name, tally in tallies.items():
        total.update(tally.counts)
        each = tally.seconds / tally.runs if tally.runs else 0.0
        counted = ", ".join(f"{count} {what}" for what, count in sorted(tally.counts.items()))
        print(f"{tally.runs:>6} {tally.failures:>6} {each:>6.1f}  {name.replace('_', ' ')}: {counted or '-'}")
    failures = sum(tally.failures for tally in tallies.values())
    print(f"in all: {sum(t.runs for t in tallies.values())} runs, {failures} failed; "
          + ", ".join(f"{count} {what}" for what, count in sorted(total.items())))  # fmt: skip
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
