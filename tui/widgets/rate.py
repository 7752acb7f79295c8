"""How fast a job goes: a sparkline of the last minutes, and the rate of now."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widgets import Static

from recovery.units import format_bytes

_LEAST_LEVELS = 2


def sparkline(values: Sequence[float], levels: str, width: int) -> str:
    """``values`` as ``width`` signs at most, the newest last; the highest of them is the last of ``levels``."""
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    if top <= 0 or len(levels) < _LEAST_LEVELS:
        return levels[:1] * len(shown)
    return "".join(levels[min(len(levels) - 1, int(value / top * (len(levels) - 1) + 0.5))] for value in shown)


class Rate(Static):
    """One line; redrawn only when it says something else."""

    DEFAULT_CSS = """
    Rate { height: 1; }
    """

    def __init__(self, levels: str, *, id: str | None = None) -> None:
        """``levels``: glyphs, rising."""
        super().__init__("", id=id, markup=False)
        self._levels = levels
        self._shown = ""

    def show(self, values: Sequence[float], bytes_per_second: float) -> None:
        """The history and what it is now."""
        room = max(10, self.size.width - 16)
        text = f"{format_bytes(bytes_per_second)}/s".ljust(14) + sparkline(values, self._levels, min(60, room))
        if text != self._shown:
            self._shown = text
            self.update(text)
