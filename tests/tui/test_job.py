"""A job is watched, left, come back to, stopped and killed; all of it real, but for the terminal."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widgets import Button

from recovery.cli.requests import CaptureRequest, CloneRequest, RestoreRequest, VerifyRequest
from recovery.cli.spawn import spawn
from recovery.jobs.folder import Job, list_jobs
from recovery.jobs.watching import Watcher
from recovery.progress import Side
from recovery.repository.repository import Repository
from recovery.work_map import Cell, MappedDisk, decode_cells
from tests.support.badblocks import with_bad_blocks
from tests.support.disks import KIB, MIB, blank, sha256
from tests.support.faulty_disk import Faults, faulty_disk
from tests.support.hanging_child import hanging
from tests.tui.support import FileMachine, app_for, jobs_in, says, screen_text, statics, until
from tui.app import RecoveryApp
from tui.glyphs import Terminal
from tui.modals import Help, Question
from tui.screens.base import LEAVE, StepScreen
from tui.screens.home import HomeScreen
from tui.screens.job import AFTER_CAPTURE, JobScreen, Offers, ResultScreen
from tui.widgets.disk_map import DiskMap

pytestmark = pytest.mark.asyncio

CHUNK = 256 * KIB
SIZE = 64 * CHUNK
#: In a chunk that a capture reads, and that no prediction looks at before.
HANGS_AT = 33 * CHUNK + 4 * KIB


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    Repository.init(tmp_path / "repository", "")
    with jobs_in(tmp_path / "jobs"):
        yield tmp_path / "repository"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(7).randbytes(SIZE))
    return path


@pytest.fixture
def hanging_disk(disk: Path) -> Iterator[Path]:
    with hanging(disk, HANGS_AT, HANGS_AT + 4 * KIB) as source:
        yield source


@pytest.fixture
def app(tmp_path: Path) -> RecoveryApp:
    return nobody(tmp_path)


def nobody(folder: Path, terminal: Terminal | None = None) -> RecoveryApp:
    """The program on a machine without disks: jobs are started beside it."""
    (folder / "none").mkdir(exist_ok=True)
    return app_for(FileMachine(folder / "none"), terminal)


def capture(source: Path, repository: Path) -> Callable[[], Watcher]:
    return lambda: spawn(CaptureRequest(sources=(source,), chunk_bytes=CHUNK), repository)


def captured(source: Path, repository: Path) -> None:
    """To the end, without a screen."""
    with capture(source, repository)() as watcher:
        while not watcher.ended:
            watcher.wait(0.05)


def newest() -> Job:
    return list_jobs()[-1]


def shown_cells(pilot: Pilot[None]) -> str:
    """The letters of the map's cells, as it was told them."""
    disks = pilot.app.screen.query_one(DiskMap)._disks
    return "".join(decode_cells(disk.cells) for disk in disks)


async def watched(
    pilot: Pilot[None], start: Callable[[], Watcher | str], offers: Offers | None = None, journey: str = ""
) -> tuple[JobScreen, list[object]]:
    """The screen of a job that is started now, and where its answer will be."""
    await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))
    await pilot.app.workers.wait_for_complete()  # the first screen has looked for jobs that run, and found none
    screen, answers = JobScreen(start(), offers), list[object]()
    screen.journey = journey
    await pilot.app.push_screen(screen, answers.append)
    return screen, answers


async def until_it_hangs(pilot: Pilot[None], screen: JobScreen) -> None:
    """All before the place that hangs was read."""

    def there() -> bool:
        view = screen.view
        now = view.progress if view is not None else None
        return now is not None and now.phase == "capture" and now.done_bytes == 33 * CHUNK

    await until(pilot, there)


def question(pilot: Pilot[None]) -> Callable[[], bool]:
    return lambda: isinstance(pilot.app.screen, Question)


# -- to the end


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_capture_is_watched_to_its_end_and_verify_is_offered(
    size: tuple[int, int], app: RecoveryApp, disk: Path, repository: Path
) -> None:
    async with app.run_test(size=size) as pilot:
        _, answers = await watched(pilot, capture(disk, repository), journey="Capture this machine")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
        await until(pilot, says(pilot, "The system image was made."))
        said = statics(pilot)
        assert "read back from the medium and is right" in said
        assert "16.0 MiB in use were read, 16.0 MiB of it new" in said
        assert [str(button.label) for button in pilot.app.screen.query(Button)][:3] == ["Continue", "Verify", "Audit"]
        await pilot.press("tab", "enter")
        await until(pilot, lambda: answers == ["verify"])
        assert isinstance(pilot.app.screen, HomeScreen)
    assert len(list((repository / "snapshots").iterdir())) == 1


async def test_work_that_ends_while_the_help_is_read_is_told_after_it(
    app: RecoveryApp, disk: Path, repository: Path
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen, answers = await watched(pilot, capture(disk, repository))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        await until(pilot, lambda: screen.view is not None and screen.view.ended)
        await pilot.pause(0.5)
        assert isinstance(pilot.app.screen, Help), "it is not taken away from whoever reads it"
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))
        assert answers == [None]


async def test_an_answer_that_is_found_while_the_help_is_read_is_given_after_it(app: RecoveryApp) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))
        screen, answers = StepScreen[str](), list[object]()
        await app.push_screen(screen, answers.append)
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        screen.answer("found")
        screen.answer("again")
        await pilot.pause()
        assert isinstance(pilot.app.screen, Help)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))
        assert answers == ["found"]


async def test_a_second_capture_shows_that_all_is_known_already(app: RecoveryApp, disk: Path, repository: Path) -> None:
    captured(disk, repository)
    async with app.run_test(size=(80, 24)) as pilot:
        screen, answers = await watched(pilot, capture(disk, repository))
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
        assert screen.view is not None
        assert [decode_cells(mapped.cells) for mapped in screen.view.map] == [Cell.KNOWN * 2048]
        assert screen.view.counters["known_bytes"] == SIZE
        await until(pilot, says(pilot, "0 B of it new"))
        await pilot.press("escape")
        await until(pilot, lambda: answers == [None])


async def test_a_restore_is_watched_and_its_target_is_all_checked(
    app: RecoveryApp, disk: Path, repository: Path, tmp_path: Path
) -> None:
    captured(disk, repository)
    target = blank(tmp_path / "target.img", SIZE)
    request = RestoreRequest(snapshot="latest", target=target, confirmed=True)
    async with app.run_test(size=(80, 24)) as pilot:
        screen, _ = await watched(pilot, lambda: spawn(request, repository))
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
        await until(pilot, says(pilot, "All of it was restored.", "and read back: it is right"))
        assert screen.view is not None
        assert set("".join(decode_cells(mapped.cells) for mapped in screen.view.map)) == {Cell.CHECKED}
    assert sha256(target) == sha256(disk)


@pytest.mark.skipif(os.geteuid() != 0, reason="read errors are made with a mounted filesystem, which needs root")
async def test_unreadable_areas_are_seen_and_the_image_is_said_to_be_incomplete(
    app: RecoveryApp, disk: Path, repository: Path, tmp_path: Path
) -> None:
    with disk.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(os.urandom(4096))
    with with_bad_blocks(disk, [5 * MIB], tmp_path) as source:
        async with app.run_test(size=(80, 24)) as pilot:
            screen, _ = await watched(pilot, capture(source, repository), AFTER_CAPTURE)
            await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
            await until(pilot, says(pilot, "incomplete", "4.00 KiB could not be read"))
            assert screen.view is not None
            cells = decode_cells(screen.view.map[0].cells)
            cell_bytes = SIZE // 2048
            assert {at for at, letter in enumerate(cells) if letter == Cell.UNREADABLE} == {5 * MIB // cell_bytes}
            assert pilot.app.screen.query("#audit")


async def test_a_copy_of_a_disk_is_watched_to_its_end(app: RecoveryApp, disk: Path, tmp_path: Path) -> None:
    target = blank(tmp_path / "target.img", SIZE + 2 * MIB)
    with jobs_in(tmp_path / "jobs"):
        async with app.run_test(size=(80, 24)) as pilot:
            request = CloneRequest(source=disk, target=target, confirmed=True)
            screen, _ = await watched(pilot, lambda: spawn(request))
            await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
            await until(pilot, says(pilot, "The copy was made."))
            assert screen.view is not None
            cells = decode_cells(screen.view.map[0].cells)
            assert cells.rstrip(Cell.UNUSED) == Cell.CHECKED * (2048 * 16 // 18 + 1)


async def test_what_is_damaged_in_a_repository_is_seen_on_the_map_of_its_check(
    app: RecoveryApp, disk: Path, repository: Path
) -> None:
    captured(disk, repository)
    pack = max((repository / "data").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    with pack.open("r+b") as file:
        file.seek(100)  # the first blob of the disk
        byte = file.read(1)[0]
        file.seek(100)
        file.write(bytes([byte ^ 1]))
    async with app.run_test(size=(80, 24)) as pilot:
        screen, _ = await watched(pilot, lambda: spawn(VerifyRequest("latest"), repository))
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
        await until(pilot, says(pilot, "The system image is NOT in order.", "The rest can be restored."))
        assert screen.view is not None
        chunk = 2048 // 64
        assert decode_cells(screen.view.map[0].cells) == Cell.UNREADABLE * chunk + Cell.CHECKED * (2048 - chunk)


class MapApp(App[None]):
    """Nothing but a map."""

    def __init__(self, shown: DiskMap) -> None:
        super().__init__()
        self._map = shown

    def compose(self) -> ComposeResult:
        yield self._map


@pytest.mark.parametrize(
    ("height", "disks", "rows"), [(4, 2, [1, 1]), (7, 2, [2, 3]), (7, 1, [6]), (6, 5, [1, 1, 1]), (2, 3, [1])]
)
async def test_disks_share_the_room_and_what_has_none_is_counted(height: int, disks: int, rows: list[int]) -> None:
    shown = DiskMap(ascii_only=True, seconds=0.05)
    async with MapApp(shown).run_test(size=(70, height)) as pilot:
        shown.show([MappedDisk(f"sd{number}", 1 << 30, "t1000") for number in range(disks)])
        await until(pilot, says(pilot, "sd0, 1.00 GiB"))
        drawn: list[int] = []
        for line in screen_text(pilot).splitlines():
            if line.startswith("sd"):
                drawn.append(0)
            else:
                assert line == "-" * 70
                drawn[-1] += 1
        assert drawn == rows
        left_out = disks - len(rows)
        assert not left_out or f"{left_out} more disks are not shown" in screen_text(pilot)


async def test_only_what_changed_of_the_map_is_drawn_again() -> None:
    drawn: list[Region] = []

    class Watched(DiskMap):
        def refresh(
            self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False
        ) -> Self:
            drawn.extend(regions)
            return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    async with MapApp(Watched(ascii_only=False, seconds=0.05)).run_test(size=(64, 5)) as pilot:
        shown = pilot.app.query_one(Watched)
        shown.show([MappedDisk("sda", 1 << 30, "t256")])
        await until(pilot, says(pilot, "░" * 64))
        drawn.clear()
        shown.show([MappedDisk("sda", 1 << 30, "t70w3t183")])
        await until(pilot, says(pilot, "░" * 6 + "▓▓▓" + "░" * 55))
        assert drawn == [Region(6, 2, 3, 1)]


# -- while it runs


async def test_the_map_shows_what_is_done_while_the_rest_is_waited_for(
    app: RecoveryApp, hanging_disk: Path, repository: Path
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen, _ = await watched(pilot, capture(hanging_disk, repository))
        await until_it_hangs(pilot, screen)
        await until(pilot, lambda: shown_cells(pilot).count(Cell.TO_DO) == 2048 * 31 // 64)
        cells = shown_cells(pilot)
        written = cells.count(Cell.WRITTEN)
        assert written > 2048 * 25 // 64
        assert cells == Cell.WRITTEN * written + Cell.READ * (2048 * 33 // 64 - written) + Cell.TO_DO * (
            2048 * 31 // 64
        )
        now = screen.view.progress if screen.view is not None else None
        assert now is not None
        assert now.waits_for is Side.SOURCE
        await until(pilot, says(pilot, "Reading the disk and storing what is new", "52 %", "to go", "▓▓▓▓", "░░░░"))
        text = screen_text(pilot)
        assert text.index("▓▓▓▓") < text.index("unreadable"), "the legend stands below"
        assert "Stop ..." in text
        await pilot.press("s")
        await until(pilot, question(pilot))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))


async def test_on_a_vt220_all_glyphs_are_ascii(hanging_disk: Path, repository: Path, tmp_path: Path) -> None:
    app = nobody(tmp_path, Terminal(plain=True, ascii=True))
    async with app.run_test(size=(80, 24)) as pilot:
        screen, _ = await watched(pilot, capture(hanging_disk, repository))
        await until_it_hangs(pilot, screen)
        await until(pilot, says(pilot, "####", "----", "# written", "X unreadable"))
        assert screen_text(pilot).isascii()
        assert screen.view is not None
        screen.view.stop()


async def test_it_is_left_running_and_come_back_to(app: RecoveryApp, hanging_disk: Path, repository: Path) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen, answers = await watched(pilot, capture(hanging_disk, repository))
        await until_it_hangs(pilot, screen)
        await pilot.press("escape")
        await until(pilot, lambda: answers == [LEAVE])
        assert newest().running
        await until(pilot, lambda: pilot.app.screen.query_one("#jobs").display)
        pilot.app.screen.query_one("#jobs").focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, JobScreen))
        again = pilot.app.screen
        assert isinstance(again, JobScreen)
        await until_it_hangs(pilot, again)
        await until(pilot, lambda: Cell.WRITTEN in shown_cells(pilot))
        assert again.view is not None
        again.view.stop()
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))


async def test_stopping_asks_says_what_is_left_and_does_nothing_by_default(
    app: RecoveryApp, hanging_disk: Path, repository: Path
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen, _ = await watched(pilot, capture(hanging_disk, repository))
        await until_it_hangs(pilot, screen)
        await pilot.press("s")
        await until(pilot, question(pilot))
        assert "No system image is made of this run" in statics(pilot)
        assert "goes on from there" in statics(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert newest().running
        await pilot.press("s")
        await until(pilot, question(pilot))
        await pilot.press("tab", "enter")
        await until(pilot, says(pilot, "It was stopped before its end."))
        assert "the next capture of this disk goes on from there" in statics(pilot)
        assert not newest().running
        assert newest().exit_code == 130
    assert not list((repository / "snapshots").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="read errors are made with a loop device, which needs root")
async def test_a_capture_that_is_at_bad_areas_can_be_finished_with_what_was_read(
    app: RecoveryApp, disk: Path, repository: Path
) -> None:
    with faulty_disk(Faults(str(disk), unreadable=((5 * MIB, 512 * KIB),), slow_seconds=0.1)) as source:
        async with app.run_test(size=(80, 24)) as pilot:
            screen, _ = await watched(pilot, capture(source, repository), AFTER_CAPTURE)
            await until(pilot, says(pilot, "lie around places that are hard to read"))
            await pilot.press("s")
            await until(pilot, question(pilot))
            assert "a system image is made of all that was read" in statics(pilot)
            assert "No system image is made of this run" in statics(pilot)
            await pilot.press("enter")  # goes on
            await until(pilot, lambda: pilot.app.screen is screen)
            await pilot.press("s")
            await until(pilot, question(pilot))
            await pilot.press("tab", "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, ResultScreen))
            await until(pilot, says(pilot, "incomplete", "could not be read"))
    assert newest().exit_code == 3
    assert len(list((repository / "snapshots").iterdir())) == 1


async def test_a_job_that_is_stopping_can_be_ended_at_once(
    app: RecoveryApp, hanging_disk: Path, repository: Path
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen, _ = await watched(pilot, capture(hanging_disk, repository))
        await until_it_hangs(pilot, screen)
        pid = newest().pid
        os.kill(pid, signal.SIGSTOP)  # it does not get to its safe point
        assert screen.view is not None
        screen.view.cancel()
        await until(pilot, says(pilot, "It was told to stop", "Stop at once ..."))
        await pilot.press("s")
        await until(pilot, says(pilot, "Stop it at once?"))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: screen.view is not None and screen.view.stopping)
        os.kill(pid, signal.SIGCONT)
        await until(pilot, says(pilot, "It was stopped before its end."))


async def test_a_job_that_was_killed_is_said_to_have_died_and_where_its_log_is(
    app: RecoveryApp, hanging_disk: Path, repository: Path
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen, answers = await watched(pilot, capture(hanging_disk, repository), journey="Capture this machine")
        await until_it_hangs(pilot, screen)
        await pilot.press("s")
        await until(pilot, question(pilot))
        os.kill(newest().pid, signal.SIGKILL)
        await until(pilot, says(pilot, "ended from outside"))
        said = statics(pilot)
        assert str(newest().folder) in said
        assert "The repository is in order" in said
        assert not pilot.app.screen.query("#verify")
        await pilot.press("enter")
        await until(pilot, lambda: answers == [None])
        assert isinstance(pilot.app.screen, HomeScreen)


async def test_a_job_of_which_nothing_is_left_is_said_to_be_gone(app: RecoveryApp, repository: Path) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        _, answers = await watched(pilot, lambda: "77")
        await until(pilot, says(pilot, "There is no job 77."))
        await pilot.press("enter")
        await until(pilot, lambda: answers == [None])
