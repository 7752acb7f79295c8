"""Scroll bars of whole cells, for terminals whose fonts have no eighths of a block."""

from __future__ import annotations

from typing import ClassVar

from textual.scrollbar import ScrollBar, ScrollBarRender


class _Whole(ScrollBarRender):
    VERTICAL_BARS: ClassVar[list[str]] = [" "]
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "]


def draw_scroll_bars(*, plain: bool) -> None:
    """From now on, of whole cells or (as Textual does) of eighths."""
    ScrollBar.renderer = _Whole if plain else ScrollBarRender
