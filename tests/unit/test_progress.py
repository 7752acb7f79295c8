"""Counters of one operation, and its cancellation."""

from __future__ import annotations

import threading

import pytest

from recovery.errors import Cancelled
from recovery.progress import Progress, ProgressSnapshot


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
