"""``make bench``: recovery against Clonezilla's pipeline, fsarchiver, borg and restic, in one run on one machine."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from recovery.units import format_bytes, format_seconds
from tests.bench.inputs import describe_machine, extract_used, make_image, place, upgrade
from tests.bench.memory import bytes_per_distinct_chunk
from tests.bench.ours import PROGRAM
from tests.bench.peers import Chroot
from tests.bench.report import Results, save, show
from tests.bench.rounds import Bench
from tests.support.machine import CommandFailed, become_root, end_on_signals, in_own_mount_namespace

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the benchmark; exit status 1 when it could not run, 3 when a limit was not kept."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--gib", type=float, default=4, help="GiB of real files in the image")
    parser.add_argument("--runs", type=int, default=3, help="how often each contestant runs")
    parser.add_argument("--only", choices=["captures", "restores", "memory"], help="leave the rest out")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build/bench.json", help="the JSON file")
    arguments = parser.parse_args()
    (CHECKOUT / "build").mkdir(exist_ok=True)
    become_root("tests.bench")
    in_own_mount_namespace("tests.bench")
    end_on_signals()
    started = time.monotonic()
    results = Results()
    try:
        with tempfile.TemporaryDirectory(prefix="recovery-bench-", dir=place(arguments.gib)) as folder:
            _measure(Path(folder), arguments, results)
    except KeyboardInterrupt:
        print("\nInterrupted; cleaned up.")
        return 130
    except CommandFailed as failure:
        print(f"\nFAILED: {failure}")
        return 1
    show(results)
    save(results, arguments.output)
    print(f"{arguments.output}, after {format_seconds(time.monotonic() - started)}.")
    return 0 if all(limit.kept for limit in results.limits()) else 3


def _measure(work: Path, arguments: argparse.Namespace, results: Results) -> None:
    if not PROGRAM.exists():
        print("recovery is not installed here: only the peers are measured")
    with Chroot(CHECKOUT / ".cache/bench-trixie", work) as chroot:
        _measure_with(chroot, work, arguments, results)


def _measure_with(chroot: Chroot, work: Path, arguments: argparse.Namespace, results: Results) -> None:
    results.facts |= {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "place": str(work.parent),
        "versions": chroot.versions(),
    }
    if arguments.only != "memory":
        image = make_image(work, arguments.gib, chroot)
        results.facts["image"] = {"size_bytes": image.size_bytes, "used_bytes": image.used_bytes, "files": image.files}
        print(
            f"An ext4 of {format_bytes(image.size_bytes)} with {image.files:,} real files, "
            f"{format_bytes(image.used_bytes)} used; in {work.parent}."
        )
        bench = Bench(work, chroot, image, results)
        used = work / "used"
        extract_used(image, used)
        bench.captures(arguments.runs, used)
        used.unlink()
        if arguments.only != "captures":
            bench.restores(arguments.runs)
            changed = upgrade(image, work)
            results.facts["upgrade"] = {"files": changed.files, "new_bytes": changed.new_bytes}
            print(f"An upgrade: {changed.files:,} files replaced, {format_bytes(changed.new_bytes)} of new content.")
            bench.upgraded_captures(arguments.runs)
        image.path.unlink()
    if arguments.only in (None, "memory") and PROGRAM.exists():
        results.bytes_per_chunk = bytes_per_distinct_chunk(work)


if __name__ == "__main__":
    sys.exit(main())
