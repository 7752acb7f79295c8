"""What a terminal can show: its glyphs, its colours, how fast its line is.

The Linux console draws 256 or 512 glyphs, box lines and blocks among them; a serial line may end at anything from a
VT220 to a terminal window, and carries 115,200 bits a second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One character each, but for ``spark`` (levels of a sparkline, rising).

    ``used``, ``free``, ``unknown`` fill a partition in a disk's bar, ``gap`` is outside partitions, ``edge`` stands
    between them; ``chosen`` and ``pointer`` mark choices; ``arrow`` stands between steps.  ``colours`` tell one
    partition of a bar from the next, and say nothing else.
    """

    used: str
    free: str
    unknown: str
    gap: str
    edge: str
    chosen: str
    pointer: str
    arrow: str
    spark: str
    colours: tuple[str, ...] = ("cyan", "green", "yellow", "magenta", "blue")


_CALM = ("#5aa9e6", "#7cc48f", "#d3b35f", "#a99bd8", "#5fb8b8")
FULL = Glyphs("█", "░", "▒", " ", "│", "✓", "▸", "›", "▁▂▃▄▅▆▇█", _CALM)
#: What a console font of code page 437's repertoire has.
CONSOLE = Glyphs("█", "░", "▒", " ", "│", "x", ">", ">", " ░▒▓█")
ASCII = Glyphs("#", ".", ":", " ", "|", "x", ">", ">", " .:-=#")


@dataclass(frozen=True, slots=True)
class Terminal:
    """``plain``: 16 colours; ``ascii``: no glyph beyond ASCII; ``slow``: draw little and seldom."""

    plain: bool = False
    ascii: bool = False
    slow: bool = False

    @property
    def glyphs(self) -> Glyphs:
        """What it can show."""
        return ASCII if self.ascii else CONSOLE if self.plain else FULL


def this_terminal(environment: Mapping[str, str] = os.environ) -> Terminal:
    """What the terminal on standard output is, by TERM, the locale and the kind of its line."""
    kind = environment.get("TERM", "")
    try:
        name = os.ttyname(sys.__stdout__.fileno()) if sys.__stdout__ is not None else ""
    except OSError:
        name = ""
    serial = name.startswith(("/dev/ttyS", "/dev/ttyAMA", "/dev/ttyUSB", "/dev/hvc"))
    old = kind.startswith(("vt", "dumb")) or kind == ""
    locale = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "")
    text_only = old or "utf-8" not in locale.lower().replace("utf8", "utf-8")
    return Terminal(plain=old or serial or kind == "linux" or text_only, ascii=text_only, slow=serial or old)
