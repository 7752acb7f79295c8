"""Drills: a restore or clone that is cut off, and targets that do not hold what is written to them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from recovery.extent import Extent
from recovery.image.capture_plan import plan_capture
from recovery.image.clone import clone
from recovery.image.restore_plan import plan_clone
from recovery.progress import Progress
from tests.support.disks import MIB, blank, overwrite, partitioned, sha256
from tests.support.drills import Bench, differences, drill, equal, inside, make_repository, make_source, restored, store
from tests.support.faults import Steps, in_child
from tests.support.faulty_disk import Faults, faulty_disk

#: Writes the target, given its path and whether only differences are to be written; what it kept and wrote.
Writer = Callable[[Path, bool], dict[str, int]]


def _restoring(bench: Bench, source: Path) -> Writer:
    repository = bench.work / "repository"
    make_repository(repository)
    assert in_child(partial(store, repository, source)).done
    return partial(_restore, repository)


def _restore(repository: Path, target: Path, differential: bool) -> dict[str, int]:
    result = restored(repository, target, differential=differential)
    assert result.complete
    return {"written": result.written_bytes, "kept": result.kept_bytes}


def _clone(source: Path, target: Path, differential: bool) -> dict[str, int]:
    with ExitStack() as held:
        disk = plan_capture([source], None, Progress(), held).disks[0]
        result = clone(disk, plan_clone(disk, target), Progress(), differential=differential)
    assert result.complete
    return {"written": result.written_bytes, "kept": result.kept_bytes}


def _old_disk(bench: Bench, size: int) -> Path:
    """What the target holds before: another disk with a table of its own."""
    path = bench.work / "old.img"
    partitioned(path, size, f"label: gpt\nstart=4096, size={(size - 4 * MIB) // 512}\n")
    overwrite(path, 2 * MIB, bench.random.randbytes(size - 4 * MIB))
    return path


def _looks_whole_only_when_it_is(target: Path, old: Path, new: Path) -> None:
    """Where a table is found, the partition that it names holds all of the old content, or all of the new."""
    asked = subprocess.run(["sfdisk", "--json", target], capture_output=True, check=False)
    if asked.returncode != 0:
        return
    ends = [Extent(0, MIB), Extent(target.stat().st_size - 34 * 512, 34 * 512)]
    beyond = [found for whole in (old, new) for found in [differences(whole, target)] if not inside(found, ends)]
    assert len(beyond) < 2, f"a table is found, and the content is neither old nor new: {asked.stdout!r} {beyond}"


def _cut_and_completed(bench: Bench, write: Writer, source: Path, *, power: bool, every: bool) -> None:
    old = _old_disk(bench, source.stat().st_size)
    target = bench.work / "target.img"

    def run(step: int, torn: bool, seed: int) -> int | None:
        target.write_bytes(old.read_bytes())

        def action() -> int:
            steps = Steps(target, step, torn=torn)
            if power:
                steps.then = steps.power_cut(seed)
            steps.install()
            write(target, False)
            return steps.count

        ended = in_child(action)
        assert ended.killed or ended.done, ended
        return None if ended.killed else int(ended.result)

    whole = run(0, False, 0)
    assert whole is not None
    assert whole > 8, f"only {whole} steps were found"
    assert equal(source, target)
    chosen = range(1, whole + 1) if every else [bench.random.randint(1, whole) for _ in range(3 if bench.short else 8)]
    seen: set[str] = set()
    for step in chosen:
        assert run(step, bench.random.random() < 0.5, bench.random.randrange(1 << 32)) is None
        bench.counts["power cuts" if power else "kills"] += 1
        state = sha256(target)
        if bench.short and state in seen:
            continue  # what follows depends on the target's bytes alone
        seen.add(state)
        _looks_whole_only_when_it_is(target, old, source)
        again = in_child(partial(write, target, True))
        assert again.done, again
        assert equal(source, target)


@drill("restore")
def a_restore_killed_at_any_step_never_looks_whole_and_a_differential_one_completes_it(bench: Bench) -> None:
    source = make_source(bench, (1 if bench.short else 3) * MIB)
    _cut_and_completed(bench, _restoring(bench, source), source, power=False, every=bench.short)


@drill("restore")
def a_restore_whose_power_is_cut_never_looks_whole_and_a_differential_one_completes_it(bench: Bench) -> None:
    source = make_source(bench, (1 if bench.short else 3) * MIB)
    _cut_and_completed(bench, _restoring(bench, source), source, power=True, every=False)


@drill("restore")
def a_clone_killed_at_any_step_never_looks_whole_and_a_differential_one_completes_it(bench: Bench) -> None:
    source = make_source(bench, (1 if bench.short else 3) * MIB)
    write = partial(_clone, source)
    _cut_and_completed(bench, write, source, power=False, every=False)
    _cut_and_completed(bench, write, source, power=True, every=False)


@drill("restore")
def a_differential_restore_writes_no_more_than_what_differs(bench: Bench) -> None:
    source = make_source(bench, 4 * MIB)
    write = _restoring(bench, source)
    target = bench.work / "target.img"
    target.write_bytes(source.read_bytes())
    for _ in range(3):
        overwrite(target, MIB + bench.random.randrange(4 * MIB - 512), bench.random.randbytes(512))
        bench.counts["changes"] += 1
    again = in_child(partial(write, target, True))
    assert again.done, again
    assert equal(source, target)
    assert again.result["kept"] >= 1 * MIB, again


@drill("restore")
def a_target_that_does_not_hold_what_was_written_is_noticed(bench: Bench) -> None:
    source = make_source(bench, 2 * MIB)
    write = _restoring(bench, source)
    for _ in range(2 if bench.short else 8):
        for writer in (write, partial(_clone, source)):
            target = bench.work / "target.img"
            target.write_bytes(_old_disk(bench, source.stat().st_size).read_bytes())
            bit = bench.random.randrange(source.stat().st_size * 8)
            ended = in_child(partial(_with_a_stuck_bit, writer, target, bit))
            same = equal(source, target)
            bench.counts["flips"] += not same
            assert ended.done if same else ended.error == "DeviceError", ended
            assert same or "does not give back what was written" in ended.message, ended


def _with_a_stuck_bit(write: Writer, target: Path, bit: int) -> dict[str, int]:
    """Write a target of which one bit always comes out as its opposite."""
    own = os.pwrite
    place, mask = bit // 8, 1 << bit % 8

    def pwrite(file: int, data: Any, offset: int) -> int:
        if offset <= place < offset + len(data):
            data = bytearray(data)
            data[place - offset] ^= mask
        return own(file, data, offset)

    os.pwrite = pwrite
    return write(target, False)


@drill("restore")
def a_target_that_goes_away_is_an_error_that_says_its_state(bench: Bench) -> None:
    source = make_source(bench, 3 * MIB)
    restoring = _restoring(bench, source)
    trigger = bench.work / "gone"
    for _ in range(1 if bench.short else 4):
        for write in (restoring, partial(_clone, source)):
            backing = blank(bench.work / "backing.img", source.stat().st_size)
            trigger.unlink(missing_ok=True)
            with faulty_disk(Faults(str(backing), trigger=str(trigger))) as device:
                ended = in_child(partial(_with_a_loss, write, device, trigger, bench.random.randint(1, 10)))
            bench.counts["targets lost"] += 1
            assert ended.error == "DeviceError", ended
            assert "partly written" in ended.message or "not verified" in ended.message, ended
            backing.unlink()


def _with_a_loss(write: Writer, device: Path, trigger: Path, step: int) -> dict[str, int]:
    Steps(device, step, then=trigger.touch).install()
    return write(device, False)


@drill("restore")
def a_target_with_bits_that_do_not_hold_behind_a_cache_is_noticed(bench: Bench) -> None:
    source = make_source(bench, 4 * MIB)
    restoring = _restoring(bench, source)
    for round_number in range(8):  # which write is hit is chance, and what is hit may be written once more
        if round_number >= (1 if bench.short else 4) and bench.counts["flips"]:
            break
        for write in (restoring, partial(_clone, source)):
            backing = blank(bench.work / "backing.img", source.stat().st_size)
            with faulty_disk(Faults(str(backing), flip_write=bench.random.randint(1, 20))) as device:
                ended = in_child(partial(write, device, False))
            same = equal(source, backing)
            bench.counts["flips"] += not same
            assert ended.done if same else ended.error == "DeviceError", ended
            assert same or "does not give back what was written" in ended.message, ended
            backing.unlink()
