"""Names from disks on a terminal."""

from __future__ import annotations

import pytest

from recovery.inventory import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain d\u00e4ta \u2603", "plain d\u00e4ta \u2603"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u009b31m", "\\x9b31m"),
        ("exe\u202egpj", "exe\\u202egpj"),
        ("[red]", "[red]"),
    ],
)
def test_what_steers_a_terminal_is_made_visible(text: str, expected: str) -> None:
    assert shown(text) == expected
