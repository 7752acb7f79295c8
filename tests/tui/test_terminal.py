"""The interface on a terminal of its own: it makes way for a shell and comes back, and ends when its line is lost."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyte
import pytest

from tests.support.images import PROJECT, recovery_line
from tests.support.live import live
from tests.tui.support import PATIENCE_SECONDS

_COLUMNS, _LINES = 80, 24


class Line:
    """A terminal with the program at its other end; the screen is what an emulator makes of it."""

    def __init__(self, kind: str, locale: str) -> None:
        self.process, self._file = pty.fork()
        if self.process == 0:
            os.chdir(PROJECT)
            os.environ |= {"TERM": kind, "LC_ALL": locale}
            line = recovery_line("tui")
            os.execv(line[0], line)
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("4H", _LINES, _COLUMNS, 0, 0))
        self._screen = pyte.Screen(_COLUMNS, _LINES)
        self._stream = pyte.ByteStream(self._screen)

    def shows(self, *words: str) -> None:
        """Wait until the screen has all these words."""
        self.until(lambda: all(word in self.text for word in words), words)

    def lacks(self, words: str) -> None:
        """Wait until it has them no more."""
        self.until(lambda: words not in self.text, ("without", words))

    def types(self, text: str) -> None:
        os.write(self._file, text.encode())

    def hang_up(self) -> None:
        """The line is lost."""
        os.close(self._file)

    def ends(self) -> bool:
        """Whether the program ends, in time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if os.waitpid(self.process, os.WNOHANG)[0]:
                return True
            time.sleep(0.05)
        return False

    @property
    def text(self) -> str:
        return "\n".join(self._screen.display)

    @property
    def stressed(self) -> list[str]:
        """The rows, or the parts of them, that a terminal without colours tells apart from the rest."""
        cells = [[self._screen.buffer[row][column] for column in range(_COLUMNS)] for row in range(_LINES)]
        rows = ["".join(cell.data for cell in row if cell.reverse).strip() for row in cells]
        return [row for row in rows if row]

    def coloured(self) -> bool:
        """Whether anything is."""
        cells = [self._screen.buffer[row][column] for row in range(_LINES) for column in range(_COLUMNS)]
        return any(cell.bg != "default" for cell in cells)

    def until(self, condition: Callable[[], bool], what: object) -> None:
        """Wait for it; fails with ``what`` was waited for, and the screen."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what} in vain; the screen shows:\n{self.text}"
            if select.select([self._file], [], [], 0.1)[0]:
                self._stream.feed(os.read(self._file, 1 << 16))


@pytest.fixture(params=[("xterm-256color", "C.UTF-8"), ("linux", "C.UTF-8"), ("vt220", "C")], ids=lambda kind: kind[0])
def line(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The interface of a live system, at its first screen."""
    live(tmp_path, monkeypatch)
    monkeypatch.setenv("RECOVERY_JOBS", str(tmp_path / "jobs"))
    for name in ("SSH_CONNECTION", "SSH_TTY", "TEXTUAL_DRIVER", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    made = Line(*request.param)
    try:
        made.shows("What do you want to do?")
        yield made
    finally:
        with suppress(ProcessLookupError):
            os.kill(made.process, 9)
        with suppress(ChildProcessError):
            os.waitpid(made.process, 0)


def test_a_shell_takes_the_terminal_and_gives_it_back(line: Line) -> None:
    line.types("\x1b[B" * 5 + "\r")
    line.shows("Keyboard layout", "Shell: type commands")
    line.types("\x1b[B" * 6 + "\r")
    line.shows("To come back here, type exit")
    line.types("\t\r")
    line.shows("This is a shell.")
    line.types("echo $((40 + 2))-from-the-shell\r")
    line.shows("42-from-the-shell")
    line.types("exit\r")
    line.shows("Keyboard layout", "Shell: type commands")
    line.lacks("from-the-shell")
    line.types("\x1b")
    line.shows("What do you want to do?")


@pytest.mark.parametrize("line", [("vt220", "C")], ids=["vt220"], indirect=True)
def test_without_colours_what_is_pointed_at_is_seen(line: Line) -> None:
    for key, words in (("", "Capture this machine"), ("\x1b[B", "Restore a machine"), ("\x1b[B", "Save files")):
        line.types(key)
        line.until(lambda words=words: [words in row for row in line.stressed].count(True) == 1, words)
    assert "??" not in line.text
    assert not line.coloured()


def test_an_interface_ends_when_its_line_is_lost(line: Line) -> None:
    line.hang_up()
    assert line.ends()
