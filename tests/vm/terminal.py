"""A terminal at the serial line, as a person has it: what its screen shows, and keys."""

from __future__ import annotations

import codecs
import re
import threading
import time
from collections.abc import Callable

import pyte

from tests.vm.console import Console, Silence

COLUMNS, ROWS = 80, 24

#: What a VT220's keys send.
KEYS = {
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "enter": "\r",
    "tab": "\t",
    "back-tab": "\x1b[Z",
    "escape": "\x1b",
    "space": " ",
    "end": "\x1b[4~",
    "home": "\x1b[1~",
    "page-down": "\x1b[6~",
    "f1": "\x1b[11~",
    "f10": "\x1b[21~",
    "backspace": "\x7f",
}

#: A screen that does not change for so long is drawn.
_STILL_SECONDS = 1.5
#: A key that changes nothing on the screen is not waited for any longer.
_ANSWER_SECONDS = 20.0
_MOST_MOVES = 40


class Terminal:
    """80 columns, 24 rows, drawn from all that comes over the line from now on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._guard = threading.Lock()
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._changed = time.monotonic()
        console.watch(self._take)

    def _take(self, data: bytes) -> None:
        with self._guard:
            # What pyte would show as text: modes and questions that a VT220 does not know either.
            self._stream.feed(re.sub(r"\x1b\[[<>=][0-9;]*[a-zA-Z]", "", self._decoder.decode(data)))
            self._changed = time.monotonic()

    @property
    def text(self) -> str:
        """What the screen shows."""
        with self._guard:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def pointed(self) -> str:
        """The words that stand out by colour or reverse within the list or row of buttons that has the focus."""
        with self._guard:
            lines = []
            for row in range(1, ROWS - 1):
                cells = [self._screen.buffer[row][column] for column in range(COLUMNS)]
                marked = "".join(cell.data if cell.reverse or cell.bg != "default" else " " for cell in cells)
                if marked.strip():
                    lines.append(marked.strip())
            return "\n".join(lines)

    def see(self, *patterns: str, seconds: float = 120) -> None:
        """Wait until the screen shows all of these regular expressions."""
        self._until(lambda: all(re.search(pattern, self.text) for pattern in patterns), seconds, patterns)

    def see_one(self, *patterns: str, seconds: float) -> str:
        """Wait until the screen shows one of these regular expressions: which."""
        self._until(lambda: any(re.search(pattern, self.text) for pattern in patterns), seconds, patterns)
        return next(pattern for pattern in patterns if re.search(pattern, self.text))

    def _until(self, condition: Callable[[], bool], seconds: float, what: tuple[str, ...]) -> None:
        ends = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > ends:
                raise Silence(f"not within {seconds:.0f} s: {what}; the screen shows:\n{self.text}")
            time.sleep(0.2)

    def settle(self, seconds: float = 60) -> None:
        """Wait until nothing more is drawn."""
        ends = time.monotonic() + seconds
        while time.monotonic() - self._changed < _STILL_SECONDS and time.monotonic() < ends:
            time.sleep(0.1)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other has been drawn."""
        for key in keys:
            self._send(KEYS[key])

    def type(self, text: str) -> None:
        """Type words."""
        self._send(*text)

    def _send(self, *keys: str) -> None:
        """Send keys, wait until something is drawn for them, and then until nothing more is."""
        sent = time.monotonic()
        for key in keys:
            self._console.send(key)
            time.sleep(0.05)
        while self._changed < sent and time.monotonic() - sent < _ANSWER_SECONDS:
            time.sleep(0.1)
        self.settle()

    def point_at(self, words: str, key: str = "tab") -> None:
        """Press ``key`` until what has the focus shows these words (a regular expression)."""
        for _ in range(_MOST_MOVES):
            if re.search(words, self.pointed()):
                return
            self.press(key)
        raise Silence(f"nothing that the focus reaches says {words!r}; the screen shows:\n{self.text}")

    def choose(self, words: str, key: str = "down") -> None:
        """Point at it, and press Enter."""
        self.point_at(words, key)
        self.press("enter")
