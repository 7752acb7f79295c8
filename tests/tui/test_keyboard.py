"""The keyboard layout: where it can be set, and that each one is a keymap that the kernel's own program takes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList

from recovery.command import SEARCH_PATH, find_program
from recovery.devices.live import ROOT_VARIABLE, live_system
from tests.tui.support import FileMachine, app_for, says, until
from tui import keyboard
from tui.keyboard import DEFAULT, LAYOUTS, Layout, Seat, current_layout, keyboard_layout, keymap, seat, set_layout
from tui.screens.keyboard import KeyboardScreen


@pytest.fixture
def live_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The first console of a live system; ``loadkeys`` keeps what it is given in the file ``loaded``."""
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cmdline").write_text("boot=recovery\n")
    (root / "usr/lib/recovery").mkdir(parents=True)
    (root / "usr/lib/recovery/build.json").write_text('{"version": "1", "epoch": 1}')
    (root / "bin").mkdir()
    for name, text in (("loadkeys", f'cat >"{root}/loaded"'), ("ckbcomp", 'echo "keymap of $4"')):
        (root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (root / "bin" / name).chmod(0o755)
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    monkeypatch.setattr("recovery.command.SEARCH_PATH", f"{root}/bin:{SEARCH_PATH}")
    monkeypatch.setattr(keyboard, "_terminal", lambda: "/dev/tty1")
    for name in ("SSH_CONNECTION", "SSH_TTY", "TEXTUAL_DRIVER"):
        monkeypatch.delenv(name, raising=False)
    live_system.cache_clear()
    yield root
    live_system.cache_clear()


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, "/dev/tty1", Seat.CONSOLE),
        ({}, "/dev/tty12", Seat.CONSOLE),
        ({}, "/dev/ttyS0", Seat.SERIAL),
        ({}, "/dev/hvc0", Seat.SERIAL),
        ({}, "/dev/pts/3", Seat.WINDOW),
        ({}, "", Seat.WINDOW),
        ({"SSH_CONNECTION": "192.0.2.1 5000 192.0.2.2 22"}, "/dev/pts/0", Seat.SSH),
        ({"TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver"}, "", Seat.BROWSER),
        ({"TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver", "SSH_TTY": "/dev/pts/1"}, "", Seat.BROWSER),
    ],
)
def test_where_the_keyboard_is_follows_from_the_terminal(
    environment: dict[str, str], terminal: str, expected: Seat
) -> None:
    assert seat(environment, terminal) is expected


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_every_layout_is_a_keymap(layout: Layout) -> None:
    for program in ("ckbcomp", "loadkeys"):
        if find_program(program) is None:
            pytest.skip(f"{program} is not installed")
    made = keymap(layout)
    line = ["loadkeys", "--parse", "--quiet", "--unicode", "-"]
    parsed = subprocess.run(line, input=made, capture_output=True, timeout=20, check=False)
    assert parsed.returncode == 0, parsed.stderr
    assert b"keycode 16 " in made


def test_two_layouts_have_the_same_name_or_id_never() -> None:
    assert len({layout.id for layout in LAYOUTS}) == len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


def test_a_layout_that_was_set_is_what_the_console_has(live_console: Path) -> None:
    german = next(layout for layout in LAYOUTS if layout.layouts == "de")
    assert keyboard_layout() == DEFAULT.name
    set_layout(german)
    assert (live_console / "loaded").read_text() == "keymap of de\n"
    assert current_layout() == german
    assert keyboard_layout() == "German"


def test_away_from_the_console_no_layout_is_ours(live_console: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 5000 192.0.2.2 22")
    assert keyboard_layout() is None


async def test_a_layout_is_chosen_by_its_letter_set_and_tried(live_console: Path, tmp_path: Path) -> None:
    app = app_for(FileMachine(tmp_path))
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(KeyboardScreen())
        await until(pilot, says(pilot, "The keyboard is US English now"))
        await pilot.press("g", "enter")
        await until(pilot, says(pilot, "The keyboard is German now"))
        assert (live_console / "loaded").read_text() == "keymap of de\n"
        await pilot.press("z", "y")
        assert app.screen.query_one("#trial", Input).value == "zy"
        await pilot.press("escape")
        await app.push_screen(KeyboardScreen())
        await until(pilot, says(pilot, "The keyboard is German now"))
        assert app.screen.query_one(OptionList).highlighted_option.id == "de"  # type: ignore[union-attr]


async def test_a_layout_that_cannot_be_set_changes_nothing_and_says_why(live_console: Path, tmp_path: Path) -> None:
    (live_console / "bin/loadkeys").write_text("#!/bin/sh\necho 'cannot open console' >&2\nexit 1\n")
    app = app_for(FileMachine(tmp_path))
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(KeyboardScreen())
        await until(pilot, says(pilot, "The keyboard is US English now"))
        await pilot.press("g", "enter")
        await until(pilot, says(pilot, "The keyboard is still US English", "cannot open console"))
        assert keyboard_layout() == DEFAULT.name


async def test_over_a_network_the_other_computers_keyboard_counts(
    live_console: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 5000 192.0.2.2 22")
    app = app_for(FileMachine(tmp_path))
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(KeyboardScreen())
        await until(pilot, says(pilot, "You are connected from another computer"))
        assert not app.screen.query(OptionList)
        await pilot.press("a")
        assert app.screen.query_one("#trial", Input).value == "a"
