"""What goes over a slow line leaves the terminal there as if everything had."""

from __future__ import annotations

import pyte
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import set_cell_size

from tui.slow_line import Difference, _without_strange, in_ascii

COLUMNS, ROWS = 20, 6

_LOOKS = st.sampled_from(["0", "1", "7", "31", "97;44", "1;30;47", "4;32", "39;49"])


def _row(row: int, text: str, look: str) -> str:
    """A whole row, as Textual draws it: never over the edge, never half of a wide character."""
    return f"\x1b[{row};1H\x1b[{look}m{set_cell_size(text, COLUMNS)}\x1b[0m"


def _part(row: int, column: int, text: str, look: str) -> str:
    return f"\x1b[{row};{column}H\x1b[{look}m{text[: COLUMNS - column + 1]}"


_WIDE_ROWS, _NARROW_ROWS = st.integers(1, 2), st.integers(3, ROWS)
_DRAWN = st.one_of(
    st.builds(_row, _WIDE_ROWS, st.text(st.sampled_from("ab #|日ö─"), max_size=COLUMNS), _LOOKS),
    st.builds(_part, _NARROW_ROWS, st.integers(1, COLUMNS), st.text(st.sampled_from("ab #|ö─"), max_size=9), _LOOKS),
    st.just("\x1b[m\x1b[2J"),
)


def screen_of(data: str) -> list[list[tuple[object, ...]]]:
    """What a terminal without wrapping shows for that."""
    screen = pyte.Screen(COLUMNS, ROWS)
    screen.reset_mode(7, private=True)
    pyte.Stream(screen).feed(data)
    return [
        [
            (cell.data, cell.fg, cell.bg, cell.bold, cell.underscore, cell.reverse)
            for cell in (screen.buffer[row][column] for column in range(COLUMNS))
        ]
        for row in range(ROWS)
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(_DRAWN, max_size=8).map("".join), max_size=6))
def test_differences_leave_the_terminal_as_the_whole_would(pieces: list[str]) -> None:
    difference = Difference(COLUMNS, ROWS)
    sent = ""
    for piece in pieces:
        difference.draw(piece)
        sent += difference.take()

    assert screen_of(sent) == screen_of("".join(pieces))


def test_what_is_drawn_again_as_it_was_is_not_sent_again() -> None:
    difference = Difference(COLUMNS, ROWS)
    line = "\x1b[2;1H\x1b[1;30;47mCapture this disk   \x1b[0m"
    difference.draw(line)
    assert "Capture this disk" in difference.take()

    difference.draw(line)
    assert difference.take() == ""


def test_questions_that_an_old_terminal_shows_as_text_are_not_sent() -> None:
    assert _without_strange("\x1b[?25l\x1b]22;default\x07\x1b[>25u\x1b[<u\x1b[?2026$p") == "\x1b[?25l"


def test_a_terminal_of_ascii_gets_nothing_else() -> None:
    difference = Difference(COLUMNS, ROWS, ascii=True)
    difference.draw("\x1b[1;1H┌┐ • Mü 日 ░█ €")
    sent = difference.take()

    assert sent.isascii()
    assert "++ * Mu ?? .# ?" in sent


def test_a_wide_character_keeps_its_two_places() -> None:
    assert in_ascii("日") == "??"
    assert in_ascii("é") == "e"
