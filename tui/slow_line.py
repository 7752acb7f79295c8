"""A terminal at the end of a slow line: what is drawn there is what differs from what it shows, and no more.

Textual sends whole regions anew, every part with its colours: some 5,000 bytes for a screen, several times for one
dialog; a line of 115,200 bits a second takes half a second for each.  What it draws goes to a screen in memory here
(pyte), and a few times a second the cells that changed go over the line.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import pyte
from textual.drivers.linux_driver import LinuxDriver

#: Modes and questions pass at once; of these, what a VT220 would show as text does not.
_MODE = re.compile(r"(\x1b\[\?[0-9;$]*[a-z]|\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\))")
_PASSED = re.compile(r"\x1b\[\?[0-9;]*[hl]")

_AUTOWRAP = 7

#: Between two changes on a line so few cells are sent again rather than jumped over.
_GAP_CELLS = 5
_FLUSH_SECONDS = 0.15

_COLOURS = {name: number for number, name in enumerate(("black", "red", "green", "brown", "blue", "magenta", "cyan"))}
_COLOURS |= {"white": 7, "default": 9}


#: What stands for a glyph where there is ASCII only; accents are left away, and what is left is a question mark.
_ASCII = str.maketrans("•─│┌┐└┘├┤┬┴┼═║█▓▒░▁▔▄▀▊▎▌▐✓›▸…–—‘’“”", "*-|+++++++++=|##:.---#||##x>>.--''\"\"")


class Cell(NamedTuple):
    """One place of the screen: its text (empty behind a wide character) and how it is drawn (SGR parameters)."""

    text: str
    look: str


_BLANK = Cell(" ", "")


class Difference:
    """What to send so that a terminal that shows the last state shows the next."""

    def __init__(self, columns: int, rows: int, *, ascii: bool = False) -> None:
        """``ascii``: nothing else is sent."""
        self.size = columns, rows
        self._ascii = ascii
        self._screen = pyte.Screen(columns, rows)
        self._screen.reset_mode(_AUTOWRAP, private=True)  # as Textual does: the last place of a row is drawn too
        self._stream = pyte.Stream(self._screen)
        self._shown = [[_BLANK] * columns for _ in range(rows)]

    def draw(self, data: str) -> None:
        """Take what is drawn: text, colours, movements."""
        self._stream.feed(data)

    def take(self) -> str:
        """What to send since the last call."""
        parts: list[str] = []
        look = ""
        for row in sorted(self._screen.dirty):
            if row >= len(self._shown):
                continue
            cells = [self._cell(self._screen.buffer[row][column]) for column in range(self._screen.columns)]
            for start, end in _runs(self._shown[row], cells):
                parts.append(f"\x1b[{row + 1};{start + 1}H")
                for cell in cells[start:end]:
                    if cell.text and cell.look != look:
                        look = cell.look
                        parts.append(f"\x1b[0;{look}m" if look else "\x1b[m")
                    parts.append(cell.text)
            self._shown[row] = cells
        self._screen.dirty.clear()
        if look:
            parts.append("\x1b[m")
        return "".join(parts)

    def _cell(self, character: Any) -> Cell:
        words = ["1"] if character.bold else []
        words += ["4"] if character.underscore else []
        if self._ascii and character.bg != "default":  # a VT220 has no colours, and yet shows what is pointed at
            words += ["7"]
        else:
            words += ["7"] if character.reverse else []
            words += _colour(character.fg, 30)
            words += _colour(character.bg, 40)
        text = character.data
        return Cell(in_ascii(text) if self._ascii and not text.isascii() else text, ";".join(words))


def _runs(before: list[Cell], after: list[Cell]) -> Iterator[tuple[int, int]]:
    """Ranges of columns that differ; those with few equal cells between them as one."""
    start = end = -1
    for column, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue
        if start >= 0 and column - end <= _GAP_CELLS:
            end = column + 1
            continue
        if start >= 0:
            yield start, end
        start, end = column, column + 1
        while start > 0 and not after[start].text:  # never from within a wide character
            start -= 1
    if start >= 0:
        yield start, end


def in_ascii(text: str) -> str:
    """One place's text without any glyph beyond ASCII; a wide character takes two places."""
    plain = unicodedata.normalize("NFKD", text.translate(_ASCII)).encode("ascii", "ignore").decode()[:1]
    wide = unicodedata.east_asian_width(text[0]) in "WF"
    return "??" if wide else plain or "?"


def _colour(name: str, base: int) -> list[str]:
    bright = name.startswith("bright")
    plain = name.removeprefix("bright")
    number = _COLOURS.get("brown" if plain == "yellow" else plain, 9)
    if number == 9:
        return []
    return [str(base + number + (60 if bright else 0))]


class SlowLineDriver(LinuxDriver):
    """Textual's driver, but for what goes over the line."""

    #: Whether the terminal shows ASCII only.
    ascii: ClassVar[bool] = False

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._difference: Difference | None = None
        self._guard = threading.Lock()
        self._ended = threading.Event()

    def start_application_mode(self) -> None:
        """As Textual's; what the terminal showed before is wiped, for an old one has no second screen."""
        super().start_application_mode()  # type: ignore[no-untyped-call]
        self._ended = threading.Event()
        with self._guard:
            self._begin()
        threading.Thread(target=self._send_often, args=(self._ended,), name="slow line", daemon=True).start()

    def stop_application_mode(self) -> None:
        """What was drawn last is shown, and everything passes from here on."""
        self._ended.set()
        self._send()
        with self._guard:
            if self._difference is not None:
                self._difference = None
                super().write("\x1b[m\x1b[2J\x1b[H")
        super().stop_application_mode()

    def write(self, data: str) -> None:
        """Draw in memory; modes pass."""
        with self._guard:
            if self._difference is None:
                super().write(_without_strange(data))
                return
            if self._difference.size != self._get_terminal_size():
                self._begin()  # Textual draws all of it anew
            for part in _MODE.split(data):
                if _PASSED.fullmatch(part):
                    super().write(part)
                elif part and not _MODE.fullmatch(part):
                    self._difference.draw(part)

    def _begin(self) -> None:
        self._difference = Difference(*self._get_terminal_size(), ascii=self.ascii)
        super().write("\x1b[m\x1b[2J")

    def _send(self) -> None:
        with self._guard:
            data = self._difference.take() if self._difference is not None else ""
            if data:
                super().write(data)

    def _send_often(self, ended: threading.Event) -> None:
        while not ended.wait(_FLUSH_SECONDS):
            self._send()


class AsciiDriver(SlowLineDriver):
    """The same for a terminal that shows ASCII only."""

    ascii = True


def _without_strange(data: str) -> str:
    """Without what an old terminal shows as text."""
    return _MODE.sub(lambda mode: mode[0] if _PASSED.fullmatch(mode[0]) else "", data)
