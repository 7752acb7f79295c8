"""What a screen knows of a job: from what the job recorded, and from what it answers; and how that is put in words."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recovery.extent import Extents
from recovery.jobs.control import ControlServer, Order, Status
from recovery.jobs.events import EventWriter
from recovery.jobs.folder import NewFolder, find_job, new_folder, write_state
from recovery.jobs.running import STOPPING, StatusLines
from recovery.jobs.watching import attach
from recovery.progress import Progress, ProgressSnapshot, Side
from recovery.work_map import Cell, DiskWork
from tui import job_words
from tui.job_view import JobView, outcome_of
from tui.widgets.disk_map import LEGEND, LOOKS, legend, resampled
from tui.widgets.rate import sparkline

PATIENCE_SECONDS = 20.0


class Clock:
    """Goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Recorded:
    """A job that this test plays."""

    def __init__(self, folder: NewFolder) -> None:
        self.folder, self.events = folder, EventWriter(folder.events)
        self.progress = Progress()
        self.orders: list[Order] = []
        self.asks = False
        self._left = False
        write_state(folder.path, os.getpid())

    def say(self, kind: str, **fields: Any) -> None:
        self.events.write(kind, fields)

    def serve(self) -> None:
        """Answer screens."""
        server = ControlServer(self._obey)
        server.listen(self.folder.control)
        server.start()

    def _obey(self, order: Order) -> Status | None:
        self.orders.append(order)
        if order.do != "status":
            return None
        return Status(self.progress.snapshot(int(order.text)), self.asks, False)

    def end(self, code: int | None) -> None:
        """``None``: without a word."""
        write_state(self.folder.path, 4711, code)
        self.leave()

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self.folder.leave()


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOVERY_JOBS", str(tmp_path / "jobs"))


@pytest.fixture
def job() -> Iterator[Recorded]:
    made = Recorded(new_folder("capture", "/dev/sda"))
    yield made
    made.leave()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def view_of(job: Recorded, clock: Clock | None = None) -> JobView:
    return JobView(attach(find_job(job.folder.path.name)), clock=clock or time.monotonic)


def until(view: JobView, condition: Callable[[], bool]) -> None:
    """Poll until it is so."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends
        view.poll()
        time.sleep(0.01)


# -- what was recorded


def test_what_a_job_recorded_is_gathered(job: Recorded) -> None:
    progress = Progress()
    progress.map([DiskWork("sda", 4096, Extents([(0, 2048)]))])
    progress.phase("capture", 2048)
    progress.advance(1024)
    progress.count("new_bytes", 512)
    progress.mark(0, Extents([(0, 2)]), Cell.READ)
    job.say("text", text="Source /dev/sda")
    job.say("warning", message="on battery")
    job.say("plan", used_bytes=2048)
    job.say("status", **StatusLines(progress).fields())
    job.say("log", text="it is slow")
    job.say("error", code=21, message="it went wrong", hint="try again")
    job.say("summary", snapshot_id="abc", complete=False)
    job.end(3)

    view = view_of(job)
    assert (view.kind, view.what, view.ended) == ("capture", "/dev/sda", False)
    assert view.poll()

    assert (view.ended, view.exit_code, view.died, outcome_of(view)) == (True, 3, False, "incomplete")
    assert (list(view.said), view.warnings, list(view.log)) == (["Source /dev/sda"], ["on battery"], ["it is slow"])
    assert [(error.message, error.hint, error.code) for error in view.errors] == [("it went wrong", "try again", 21)]
    assert view.plan is not None
    assert view.plan["used_bytes"] == 2048
    assert view.summary is not None
    assert view.summary["snapshot_id"] == "abc"
    assert view.progress is not None
    assert (view.progress.phase, view.progress.done_bytes, view.progress.total_bytes) == ("capture", 1024, 2048)
    assert view.counters == {"new_bytes": 512}
    assert [(disk.name, disk.cells) for disk in view.map] == [("sda", "rt1023-1024")]
    assert not view.poll(), "it has ended"


def test_a_job_that_ended_without_a_word_has_died(job: Recorded) -> None:
    view = view_of(job)
    view.poll()
    job.end(None)
    until(view, lambda: view.ended)
    assert (view.died, outcome_of(view)) == (True, "died")


def test_that_another_screen_told_it_to_stop_is_seen(job: Recorded) -> None:
    view = view_of(job)
    job.say("warning", message=STOPPING)
    view.poll()
    assert (view.cancelling, view.warnings) == (True, [])


def test_a_question_is_open_until_it_is_answered(job: Recorded) -> None:
    view = view_of(job)
    job.say("question", text="Type sda:")
    view.poll()
    assert (view.question, view.asks) == ("Type sda:", True)
    view.answer("sda")
    assert not view.asks, "answered from here"
    assert not view.decided, "the job has not taken it yet"
    job.say("answered")
    view.poll()
    assert (view.question, view.decided) == (None, True)


def test_rubbish_in_the_file_is_passed_over(job: Recorded) -> None:
    os.write(job.folder.events, b'{"message_type":\n[]\nnull\n{"message_type":"warning","message":"after it"}\n')
    view = view_of(job)
    view.poll()
    assert view.warnings == ["after it"]


def test_a_long_past_is_read_in_several_looks(job: Recorded) -> None:
    for number in range(1200):
        job.say("warning", message=str(number))
    job.end(0)
    view = view_of(job)
    view.poll()
    assert 0 < len(view.warnings) < 1200
    assert not view.ended, "not all was taken yet"
    until(view, lambda: view.ended)
    assert view.warnings == [str(number) for number in range(1200)]


# -- what it answers


def test_a_running_job_tells_its_progress_and_its_map_when_that_has_changed(job: Recorded, clock: Clock) -> None:
    job.serve()
    job.progress.map([DiskWork("sda", 4096, Extents([(0, 4096)]))])
    job.progress.phase("capture", 4096)
    view = view_of(job, clock)
    until(view, lambda: bool(view.map))
    job.progress.advance(1000)
    clock.now += 1
    until(view, lambda: view.progress is not None and view.progress.done_bytes == 1000)
    statuses = [order.text for order in job.orders]
    assert statuses[0] == "0"
    assert int(statuses[-1]) == view.progress.map_version if view.progress else False
    assert view.map[0].cells == "t2048"


def test_it_is_asked_no_more_often_than_twice_a_second(job: Recorded, clock: Clock) -> None:
    job.serve()
    view = view_of(job, clock)
    until(view, lambda: view.progress is not None)
    for _ in range(20):
        view.poll()
    assert len(job.orders) == 1


def test_the_rate_is_that_of_the_last_seconds_and_begins_anew_with_a_phase(job: Recorded, clock: Clock) -> None:
    job.serve()
    job.progress.phase("capture", 10_000)
    view = view_of(job, clock)
    until(view, lambda: len(view.done) == 1)
    for number, step in enumerate((4000, 100, 100, 100), 2):
        job.progress.advance(step)
        clock.now += 1
        until(view, lambda number=number: len(view.done) == number)  # type: ignore[misc]
    assert view.bytes_per_second == 100
    assert view.rates(10) == [4000, 100, 100, 100]
    assert view.rates(2) == [100, 100]
    job.progress.phase("check the medium", 10)
    clock.now += 1
    until(view, lambda: len(view.done) == 1)
    assert view.rates(10) == []


def test_orders_reach_the_job(job: Recorded, clock: Clock) -> None:
    job.serve()
    view = view_of(job, clock)
    view.cancel()
    view.answer("sda")
    view.stop()
    until(view, lambda: [o.do for o in job.orders if o.do != "status"] == ["cancel", "answer", "stop"])
    assert (view.cancelling, view.stopping) == (True, True)


def test_a_job_that_does_not_end_at_once_is_killed(job: Recorded, clock: Clock) -> None:
    with subprocess.Popen(["sleep", "600"]) as stubborn:
        write_state(job.folder.path, stubborn.pid)
        view = view_of(job, clock)
        view.stop()
        view.poll()
        clock.now += 4
        view.poll()
        assert stubborn.poll() is None
        clock.now += 2
        view.poll()
        assert stubborn.wait(10) == -9
        assert not view.stuck
        clock.now += 10
        assert view.stuck
        assert "a device does not answer" in job_words.phase(view)


def test_a_job_that_is_watched_no_longer_goes_on_and_is_not_looked_at(job: Recorded) -> None:
    job.serve()
    view = view_of(job)
    until(view, lambda: view.progress is not None)
    view.close()
    job.say("warning", message="after it was left")
    assert not view.poll()
    assert view.warnings == []
    assert find_job(None).running


def test_a_job_that_says_nothing_is_named(job: Recorded, clock: Clock) -> None:
    view = view_of(job, clock)
    view.poll()
    clock.now += 25
    view.poll()
    assert "Nothing was heard of it for 25 seconds" in job_words.stall(view)
    job.say("text", text="here")
    view.poll()
    assert job_words.stall(view) == ""


# -- in words


def at(view: JobView, kind: str, phase: str, stalled: float = 0.0, side: Side = Side.PROCESSOR) -> JobView:
    view.kind = kind
    view.progress = ProgressSnapshot(phase, 10, 100, 1.0, {}, stalled, side)
    return view


@pytest.mark.parametrize(
    ("kind", "phase", "side", "words"),
    [
        ("capture", "capture", Side.SOURCE, "the disk that is read: it was asked for data"),
        ("capture", "capture", Side.DESTINATION, "the disk that is stored on: it was given data"),
        ("capture", "capture", Side.PROCESSOR, "processor"),
        ("restore", "write", Side.SOURCE, "the disk with the images: it was asked for data"),
        ("restore", "write", Side.DESTINATION, "the disk that is overwritten: it was given data"),
        ("verify", "verify", Side.SOURCE, "the disk with the images: it was asked for data"),
        ("clone", "write", Side.SOURCE, "the disk that is read: it was asked for data"),
        ("restore", "verify", Side.DESTINATION, "the disk that is overwritten: it was asked for data"),
    ],
)
def test_a_stall_names_the_side_that_is_waited_for(
    kind: str, phase: str, side: Side, words: str, job: Recorded
) -> None:
    view = view_of(job)
    assert words in job_words.stall(at(view, kind, phase, 14.0, side))
    assert "14 seconds" in job_words.stall(view)
    assert job_words.stall(at(view, kind, phase, 9.0, side)) == ""


@pytest.mark.parametrize(
    ("kind", "phase", "words"),
    [
        ("capture", "capture", "No system image is made"),
        ("verify", "verify", "changes nothing"),
        ("restore", "compare", "stays as it was"),
        ("restore", "discard", "partly written"),
        ("restore", "write", "partly written"),
        ("clone", "sync", "partly written"),
        ("restore", "verify", "Everything was written"),
    ],
)
def test_stopping_says_in_what_state_things_are_left(kind: str, phase: str, words: str, job: Recorded) -> None:
    assert words in job_words.if_cancelled(at(view_of(job), kind, phase))


@pytest.mark.parametrize("phase", ["map", "predict", "capture", "publish", "check the medium", "verify", "audit"])
def test_every_phase_is_a_sentence_and_no_name_of_the_engine(phase: str, job: Recorded) -> None:
    said = job_words.phase(at(view_of(job), "capture", phase))
    assert said.endswith(" ...")
    assert len(said.split()) > 4


def test_what_is_lost_is_told_first_and_errors_last(job: Recorded) -> None:
    view = view_of(job)
    job.say("warning", message="a warning")
    job.say("error", code=21, message="an error", hint="")
    job.say("status", phase="capture", bytes_done=1, total_bytes=2, bytes_per_second=1, unreadable_bytes=4096)
    view.poll()
    first, second, third = job_words.troubles(view)
    assert "4.00 KiB could not be read" in first
    assert (second, third) == ("A warning.", "An error.")


# -- drawn


def test_of_several_cells_the_one_most_worth_knowing_is_drawn() -> None:
    assert resampled("--tt", 2) == "-t"
    assert resampled("cccccccc", 4) == "cccc"
    assert resampled("cccxcccc", 4) == "cxcc"
    assert resampled("tcccrkkw", 4) == "tcrw"
    assert resampled("kc-k", 2) == "ck"
    assert resampled("tc", 6) == "tttccc"
    assert resampled("", 6) == ""


@pytest.mark.parametrize("ascii_only", [False, True])
def test_each_state_has_a_glyph_of_its_own_and_a_legend_that_fits(ascii_only: bool) -> None:
    assert set(LEGEND) == set(Cell)
    glyphs = [look.ascii if ascii_only else look.glyph for look in LOOKS.values()]
    assert len(set(glyphs)) == len(Cell)
    assert len({str(look.style) for look in LOOKS.values()}) == len(Cell)
    assert all(len(glyph) == 1 for glyph in glyphs)
    said = legend(LEGEND, ascii_only).plain
    assert len(said) <= 78
    assert said.isascii() == ascii_only
    if not ascii_only:
        said.encode("cp437")


def test_a_sparkline_rises_to_its_highest_value() -> None:
    assert sparkline([0, 1, 2, 4], " .:#", 10) == " .:#"
    assert sparkline([1, 2, 4], " .:#", 2) == ":#"
    assert sparkline([], " .:#", 10) == ""
    assert sparkline([0, 0], " .:#", 10) == "  "
