"""Drills: destinations that are full, go away, turn read-only, or do not keep what they are given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.disks import KIB, MIB, blank, loop, mounted, run, umount
from tests.support.drills import (
    Bench,
    drill,
    equal,
    make_repository,
    make_source,
    names,
    restic_finds_nothing_wrong,
    restored,
    store,
)
from tests.support.faults import Outcome, Steps, in_child
from tests.support.faulty_disk import Faults, faulty_disk

#: Steps that a capture of some MiB takes, about: faults come before one of them.
_STEPS = 50


@contextmanager
def _ext4(device: Path, at: Path, *, make: bool = True) -> Iterator[Path]:
    if make:
        run("mkfs.ext4", "-q", "-F", "-m0", "-N512", "-O^resize_inode", "-Enodiscard,lazy_itable_init=0", device)
    with mounted(device, at, "errors=remount-ro"):
        yield at


def _proven(bench: Bench, folder: Path, source: Path) -> None:
    """The repository is sound, the next capture into it succeeds, and its image is the disk."""
    restic_finds_nothing_wrong(folder)
    again = in_child(partial(store, folder, source))
    assert again.done, again
    target = bench.work / "restored.img"
    target.unlink(missing_ok=True)
    assert restored(folder, target).complete
    assert equal(source, target)


def _store_with(act: Callable[[], object], folder: Path, source: Path, step: int) -> dict[str, Any]:
    """Capture; before step ``step`` of it something is done to the destination."""
    Steps(folder, step, then=act).install()
    return store(folder, source)


@drill("destination")
def a_destination_that_fills_up_is_an_error_and_what_was_published_stays(bench: Bench) -> None:
    source = make_source(bench, 5 * MIB)
    for _ in range(1 if bench.short else 6):
        at = bench.folder("mount")
        room = bench.random.randint(600, 4800)
        run("mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", at)
        try:
            folder = at / "repository"
            make_repository(folder)
            ended = in_child(partial(store, folder, source))
            bench.counts["full destinations"] += 1
            assert ended.error == "DestinationFull", ended
            assert not names(folder, "snapshots")
            assert not [path for path in folder.rglob("*") if "-tmp-" in path.name]
            restic_finds_nothing_wrong(folder)
            run("mount", "-o", "remount,size=64m", at)
            _proven(bench, folder, source)
        finally:
            umount(at)


@drill("destination")
def a_destination_that_is_unmounted_is_an_error_and_nothing_is_written_beside_it(bench: Bench) -> None:
    source = make_source(bench, 3 * MIB)
    image = blank(bench.work / "stick.img", 24 * MIB)
    for number in range(1 if bench.short else 6):
        at = bench.folder("mount")
        with loop(image) as device:
            run("mkfs.ext4", "-q", "-F", device)
            run("mount", device, at)
            folder = at / "repository"
            make_repository(folder)
            step = bench.random.randint(1, _STEPS)
            ended = in_child(partial(_store_with, partial(run, "umount", "-l", at), folder, source, step))
            bench.counts["destinations lost"] += 1
            assert ended.error == "DeviceError", (number, step, ended)
            assert not list(at.iterdir()), "something was written where the disk had been"
            with mounted(device, at):
                _proven(bench, folder, source)


@drill("destination")
def a_destination_that_turns_read_only_is_an_error_and_what_was_published_stays(bench: Bench) -> None:
    source = make_source(bench, 3 * MIB)
    image = blank(bench.work / "stick.img", 24 * MIB)
    for _ in range(1 if bench.short else 6):
        at = bench.folder("mount")
        with loop(image) as device:
            with _ext4(device, at):
                folder = at / "repository"
                make_repository(folder)
                os.sync()
                fail = Path("/sys/fs/ext4") / device.name / "trigger_fs_error"
                step = bench.random.randint(1, _STEPS)
                ended = in_child(partial(_store_with, partial(fail.write_text, "drill"), folder, source, step))
                bench.counts["turned read-only"] += 1
                assert ended.error == "DeviceError", (step, ended)
            run("fsck.ext4", "-p", "-f", device, check=False)
            with _ext4(device, at, make=False):
                _proven(bench, folder, source)


@drill("destination")
def a_destination_whose_disk_goes_away_is_an_error_and_never_a_success(bench: Bench) -> None:
    source = make_source(bench, 3 * MIB)
    trigger = bench.work / "gone"
    for _ in range(1 if bench.short else 5):
        at = bench.folder("mount")
        trigger.unlink(missing_ok=True)
        image = blank(bench.work / "stick.img", 24 * MIB)
        with faulty_disk(Faults(str(image), trigger=str(trigger))) as device:
            with _ext4(device, at):
                folder = at / "repository"
                make_repository(folder)
                os.sync()
                step = bench.random.randint(1, _STEPS)
                ended = in_child(partial(_store_with, trigger.touch, folder, source, step))
                bench.counts["destinations lost"] += 1
                assert ended.error == "DeviceError", (step, ended)
        _after_the_stick(bench, image, at, source)


@drill("destination")
def a_stick_that_changes_a_bit_of_what_it_is_given_is_noticed(bench: Bench) -> None:
    source = make_source(bench, 3 * MIB)
    for _ in range(1 if bench.short else 5):
        image = blank(bench.work / "stick.img", 24 * MIB)
        faults = Faults(str(image), flip_write=bench.random.randint(1, 6))
        ended = _store_on(bench, faults, source)
        bench.counts["flips"] += not ended.done
        assert ended.done or ended.error == "DeviceError", ended
        _sound_if_done(bench, ended, image, source)


@drill("destination")
def a_stick_that_holds_less_than_it_says_is_noticed(bench: Bench) -> None:
    source = make_source(bench, 8 * MIB)
    for _ in range(1 if bench.short else 5):
        image = blank(bench.work / "stick.img", 32 * MIB)
        faults = Faults(str(image), real_bytes=bench.random.randrange(3 * MIB, 8 * MIB, 4 * KIB))
        ended = _store_on(bench, faults, source)
        bench.counts["counterfeits"] += 1
        _sound_if_done(bench, ended, image, source, faults)


def _store_on(bench: Bench, faults: Faults, source: Path) -> Outcome:
    """Make a repository on a faulty stick, where that may be noticed already, and capture into it."""
    at = bench.folder("mount")
    with faulty_disk(faults) as device, _ext4(device, at):
        return in_child(partial(_made_and_stored, at / "repository", source))


def _made_and_stored(folder: Path, source: Path) -> dict[str, Any]:
    make_repository(folder)
    return store(folder, source)


def _sound_if_done(bench: Bench, ended: Outcome, image: Path, source: Path, faults: Faults | None = None) -> None:
    """What was called a success is one, also for who plugs the stick in again."""
    if not ended.done:
        return
    at = bench.folder("mount")
    with faulty_disk(faults or Faults(str(image))) as device, _ext4(device, at, make=False):
        target = bench.work / "restored.img"
        target.unlink(missing_ok=True)
        assert restored(at / "repository", target).complete
        assert equal(source, target)


def _after_the_stick(bench: Bench, image: Path, at: Path, source: Path) -> None:
    """The stick is plugged in again, and mended as a person would."""
    with loop(image) as device:
        run("fsck.ext4", "-p", "-f", device, check=False)
        with _ext4(device, at, make=False):
            _proven(bench, at / "repository", source)
