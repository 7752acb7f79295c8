"""Counters of one operation, and its cancellation."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from recovery.cli.output import line
from recovery.errors import Cancelled
from recovery.extent import Extents
from recovery.jobs.events import encode_event
from recovery.jobs.running import StatusLines
from recovery.progress import Progress, ProgressSnapshot, Side
from recovery.repository.format import BlobType
from recovery.repository.packer import PackWriter, seal_blob
from recovery.repository.store import Buffer, FileKind, LocalStore
from recovery.work_map import Cell, DiskWork
from tests.support.repositories import fresh_repository


def test_counts_of_several_threads_all_arrive() -> None:
    progress = Progress()
    progress.phase("read", 80_000)

    def work() -> None:
        for _ in range(5000):
            progress.advance(2)
            progress.count("lost", 3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = progress.snapshot()
    assert (now.phase, now.done_bytes, now.total_bytes, now.ratio) == ("read", 80_000, 80_000, 1.0)
    assert now.counters == {"lost": 120_000}


def test_a_phase_starts_from_nothing_and_counters_last() -> None:
    progress = Progress()
    progress.phase("one", 10)
    progress.advance(10)
    progress.count("files")
    before = progress.snapshot()
    progress.phase("two")
    after = progress.snapshot()
    assert (after.phase, after.done_bytes, after.total_bytes, after.ratio) == ("two", 0, 0, None)
    assert after.counters == {"files": 1}
    assert before.phase == "one"  # a snapshot does not change behind its reader


def test_goes_on_until_it_is_cancelled_and_never_after() -> None:
    progress = Progress()
    progress.check()
    progress.cancel()
    for _ in range(2):
        with pytest.raises(Cancelled):
            progress.check()


def test_the_rest_is_told_from_the_rate() -> None:
    now = ProgressSnapshot("read", 250, 1000, 5.0)
    assert (now.ratio, now.bytes_per_second, now.remaining_seconds) == (0.25, 50.0, 15.0)


@pytest.mark.parametrize("now", [ProgressSnapshot("x", 5, 0, 2.0), ProgressSnapshot("x", 0, 10, 0.0)])
def test_what_cannot_be_told_is_not_told(now: ProgressSnapshot) -> None:
    assert now.remaining_seconds is None


def test_more_than_expected_is_not_more_than_all() -> None:
    now = ProgressSnapshot("x", 20, 10, 1.0)
    assert now.ratio == 1.0
    assert now.remaining_seconds == 0


# -- waiting


def test_what_is_waited_for_is_what_has_been_for_longest() -> None:
    progress = Progress()
    assert progress.snapshot().waits_for is Side.PROCESSOR
    with progress.waits(Side.DESTINATION):
        with progress.waits(Side.SOURCE):
            assert progress.snapshot().waits_for is Side.DESTINATION
    with progress.waits(Side.SOURCE):
        assert progress.snapshot().waits_for is Side.SOURCE
    assert progress.snapshot().waits_for is Side.PROCESSOR


def test_a_wait_that_fails_has_ended() -> None:
    progress = Progress()
    with pytest.raises(OSError), progress.waits(Side.SOURCE):
        raise OSError
    assert progress.snapshot().waits_for is Side.PROCESSOR


def test_the_stall_is_as_long_as_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("recovery.progress.time.monotonic", lambda: now[0])
    progress = Progress()
    progress.phase("capture", 100)
    now[0] += 14
    assert progress.snapshot().stalled_seconds == 14
    progress.advance(1)
    assert progress.snapshot().stalled_seconds == 0
    now[0] += 3
    progress.count("known_bytes", 1)
    now[0] += 2
    assert progress.snapshot().stalled_seconds == 2


@pytest.mark.parametrize(("total", "shown"), [(100, "0 %"), (0, "capture, waiting")])
def test_a_stall_is_said_in_the_plain_line_and_takes_the_place_of_the_time_left(total: int, shown: str) -> None:
    now = ProgressSnapshot("capture", 0, total, 20.0, {}, 14.2, Side.SOURCE)
    assert "waiting for the source for 14 s" in line(now)
    assert shown in line(now)
    assert "waiting" not in line(ProgressSnapshot("capture", 0, total, 20.0, {}, 9.0, Side.SOURCE))


class _StuckStore(LocalStore):
    """Takes no pack before it may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.may = threading.Event(), threading.Event()

    def save(self, kind: FileKind, name: str, pieces: Sequence[Buffer]) -> None:
        if kind is FileKind.PACK:
            self.asked.set()
            assert self.may.wait(30)
        super().save(kind, name, pieces)


def test_a_destination_that_takes_nothing_in_is_what_is_waited_for(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path, store=_StuckStore)
    store = repository.store
    assert isinstance(store, _StuckStore)
    progress = Progress()
    with repository.lock() as lock, PackWriter(repository, lock, progress=progress) as packs:
        blob_id = hashlib.sha256(b"data").digest()
        assert packs.claim(BlobType.DATA, blob_id)
        packs.add(seal_blob(repository, BlobType.DATA, blob_id, b"data", 1))
        ending = threading.Thread(target=packs.finish)
        ending.start()
        assert store.asked.wait(30)
        assert progress.snapshot().waits_for is Side.DESTINATION
        assert "stored_bytes" not in progress.snapshot().counters
        store.may.set()
        ending.join(30)
    assert progress.snapshot().waits_for is Side.PROCESSOR
    assert progress.snapshot().counters["stored_bytes"] == packs.written_bytes


# -- the map


def test_the_map_is_told_once_for_each_change() -> None:
    progress = Progress()
    assert progress.snapshot(0).map is None
    progress.map([DiskWork("sda", 4096, Extents([(0, 4096)]))])
    first = progress.snapshot(0)
    assert first.map is not None
    assert progress.snapshot(first.map_version).map is None
    assert progress.snapshot().map is None, "not asked for"
    progress.mark(0, Extents([(0, 1024)]), Cell.WRITTEN)
    second = progress.snapshot(first.map_version)
    assert second.map_version > first.map_version
    assert second.map is not None
    progress.map([DiskWork("sda", 4096, Extents([(0, 4096)]))])
    third = progress.snapshot(second.map_version)
    assert third.map == first.map, "another map takes its place, and is told"


def test_marks_without_a_map_are_nothing() -> None:
    progress = Progress()
    progress.mark(0, Extents([(0, 4096)]), Cell.READ)
    progress.check_written_before(5)
    assert progress.place(3, 100) == 0
    assert progress.snapshot(0).map is None


def test_status_lines_tell_the_map_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("recovery.progress.time.monotonic", lambda: now[0])
    progress = Progress()
    progress.map([DiskWork("sda", 4096, Extents([(0, 4096)]))])
    lines = StatusLines(progress)
    assert "map" in lines.fields()
    progress.mark(0, Extents([(0, 2)]), Cell.READ)
    assert "map" not in lines.fields(), "told just before"
    now[0] += 11
    assert "map" in lines.fields()
    assert "map" not in lines.fields(last=True), "nothing has changed"
    progress.mark(0, Extents([(2, 2)]), Cell.READ)
    last = json.loads(encode_event("status", lines.fields(last=True)))
    assert last["map"] == [{"name": "sda", "size_bytes": 4096, "cells": "r2t2046"}]
    assert (last["stalled_seconds"], last["waits_for"]) == (11, "processor")
