"""Drills: sources with unreadable sectors, that go away, hang, become shorter, or change under the reader."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from recovery.devices.source_process import SourceProcess
from recovery.extent import Extent
from tests.support.disks import KIB, MIB, overwrite, read_at
from tests.support.drills import (
    AtPiece,
    Bench,
    Chunks,
    differences,
    drill,
    inside,
    make_repository,
    make_source,
    names,
    open_image,
    restic_finds_nothing_wrong,
    restored,
    store,
    stores_what_lacks,
)
from tests.support.faults import in_child
from tests.support.faulty_disk import Faults, faulty_disk

#: The kernel reads, and so loses, this much at a time.
_PAGE = 4 * KIB

#: A capture gives a read up after so long here, not after minutes; or it is cancelled so long after the disk hung.
_SILENCE_SECONDS, _CANCELLED_AFTER_SECONDS = 1.0, 0.5

#: What the process that reads a source has in its command line.
_READER = "recovery.devices.source_child"


def _bad(bench: Bench, start: int, end: int, count: int = 1) -> list[tuple[int, int]]:
    """Unreadable pages between two offsets."""
    found = {bench.random.randrange(start, end, _PAGE) for _ in range(count)}
    return [(offset, _PAGE * bench.random.randint(1, 3)) for offset in sorted(found)]


@drill("source")
def unreadable_sectors_are_named_and_all_else_comes_back(bench: Bench) -> None:
    """In the data, in the primary GPT, in its copy, in the protective MBR."""
    source = make_source(bench, 3 * MIB)
    size = source.stat().st_size
    for number in range(4 if bench.short else 16):
        repository = bench.folder("repository")
        make_repository(repository)
        where = ("data", "table", "copy", "all")[number % 4]
        bad = _bad(bench, MIB, 4 * MIB - 3 * _PAGE, bench.random.randint(1, 9)) if where in ("data", "all") else []
        bad += [(0, _PAGE * bench.random.randint(1, 4))] if where == "table" else []
        bad += [(size - _PAGE, _PAGE)] if where in ("copy", "all") else []
        bench.counts["unreadable areas"] += len(bad)
        with faulty_disk(Faults(str(source), unreadable=tuple(bad))) as device:
            ended = in_child(partial(store, repository, device))
        assert ended.done, ended
        told = [Extent(*area) for area in ended.result["unreadable"]]
        assert inside([Extent(*area) for area in bad], told), (bad, told)
        assert sum(extent.length for extent in told) <= sum(length + 2 * _PAGE for _, length in bad), (bad, told)
        restic_finds_nothing_wrong(repository)
        assert "incomplete" in (open_image(repository).stored.snapshot.tags or [])
        target = bench.work / "restored.img"
        target.unlink(missing_ok=True)
        result = restored(repository, target)
        assert not result.complete
        _only_the_table_is_better(source, target, told, where)


def _only_the_table_is_better(source: Path, target: Path, told: list[Extent], where: str) -> None:
    """What was not named is equal, and what was is zeros: but a table is written anew from its other copy."""
    ends = [Extent(0, MIB), Extent(source.stat().st_size - MIB, MIB)]
    found = differences(source, target)
    assert inside(found, told if where == "data" else [*told, *ends]), (found, told)
    for extent in told:
        if not inside([extent], ends):
            assert not any(read_at(target, *extent)), f"{extent} is not zeros"


@drill("source")
def a_source_that_goes_away_is_never_called_captured(bench: Bench) -> None:
    source = make_source(bench, 8 * MIB)
    trigger = bench.work / "gone"
    for _ in range(1 if bench.short else 8):
        repository = bench.folder("repository")
        make_repository(repository)
        trigger.unlink(missing_ok=True)
        with faulty_disk(Faults(str(source), trigger=str(trigger))) as device:
            progress = AtPiece(bench.random.randint(1, 30), trigger.touch)
            ended = in_child(partial(store, repository, device, progress=progress))
        bench.counts["sources lost"] += 1
        restic_finds_nothing_wrong(repository)
        if not ended.done:
            assert ended.error == "DeviceError", ended
            assert not names(repository, "snapshots")
            continue
        told = [Extent(*area) for area in ended.result["unreadable"]]
        target = bench.work / "restored.img"
        target.unlink(missing_ok=True)
        restored(repository, target)
        ends = [Extent(0, MIB), Extent(source.stat().st_size - MIB, MIB)]
        assert inside(differences(source, target), [*told, *ends] if told else [])  # all of it may have been read ahead


@drill("source")
def a_read_that_is_never_answered_is_given_up_or_cancelled_and_what_was_stored_stays(bench: Bench) -> None:
    source = make_source(bench, 6 * MIB)
    chunks = Chunks.of(source)
    trigger = bench.work / "hangs"
    for number in range(2 if bench.short else 8):
        cancelled = number % 2 == 1
        repository = bench.folder("repository")
        make_repository(repository)
        with faulty_disk(Faults(str(source), trigger=str(trigger), hangs=True)) as device:
            try:
                piece = bench.random.randint(5, 20)
                ended = in_child(partial(_store_from_what_hangs, repository, device, piece, trigger, cancelled))
                if cancelled:
                    assert ended.error == "Cancelled", ended
                    assert not names(repository, "snapshots")
                else:
                    assert ended.done, ended
                    assert f"{device} does not answer a read at byte" in ended.result["died"], ended
                    assert ended.result["unreadable"], ended
                assert not names(repository, "locks")
                restic_finds_nothing_wrong(repository)
                assert _readers(device), "the disk answered after all"
            finally:
                trigger.unlink(missing_ok=True)
            _no_reader_is_left(device)
            known = stores_what_lacks(bench, repository, device, chunks)
        bench.counts["reads that hang"] += 1
        assert known, "nothing of what was read before was kept"


def _store_from_what_hangs(folder: Path, device: Path, piece: int, trigger: Path, cancelled: bool) -> dict[str, Any]:
    """Capture a disk that hangs once ``piece`` pieces were read; then cancel, or wait until the read is given up."""
    if not cancelled:
        assert SourceProcess.__init__.__defaults__ is not None
        SourceProcess.__init__.__defaults__ = (_SILENCE_SECONDS,)

    def hang() -> None:
        trigger.touch()
        if cancelled:
            threading.Timer(_CANCELLED_AFTER_SECONDS, progress.cancel).start()

    progress = AtPiece(piece, hang)
    return store(folder, device, progress=progress, plan_progress=progress)


def _no_reader_is_left(device: Path) -> None:
    """The process that hangs in the kernel was left behind; once the disk answers it must end by itself."""
    ends = time.monotonic() + 30
    while readers := _readers(device):
        assert time.monotonic() < ends, f"still there: {readers}"
        time.sleep(0.05)


def _readers(device: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if _READER.encode() in words and os.fsencode(device) in words:
            found.append(entry.name)
    return found


@drill("source")
def a_source_file_that_shrinks_or_changes_meanwhile_is_an_error(bench: Bench) -> None:
    for number in range(2 if bench.short else 16):
        source = make_source(bench, 3 * MIB)
        repository = bench.folder("repository")
        make_repository(repository)
        size = source.stat().st_size
        if number % 2:
            then: Callable[[], object] = partial(os.truncate, source, bench.random.randrange(size))
        else:
            then = partial(overwrite, source, bench.random.randrange(size - 512), bench.random.randbytes(512))
        progress = AtPiece(bench.random.randint(1, 12), then)
        ended = in_child(partial(store, repository, source, progress=progress))
        bench.counts["sources changed"] += 1
        assert ended.error == "DeviceError", ended
        assert not names(repository, "snapshots")
        restic_finds_nothing_wrong(repository)
