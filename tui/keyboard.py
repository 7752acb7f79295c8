"""Which keys say what: the layout of the Linux console's keyboard.

It is made from X's descriptions of keyboards (``ckbcomp``, of console-setup) and given to the kernel (``loadkeys``),
for all consoles of the machine, until it is restarted.  Over a serial line, a network or in a window the keys were
turned into characters before they come here: then there is nothing to set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from recovery.command import run
from recovery.devices.live import live_root, live_system

_NEEDED_FOR = "changing the keyboard layout"


class Seat(Enum):
    """Where the person's keyboard is."""

    CONSOLE = "console"
    SERIAL = "serial"
    SSH = "ssh"
    BROWSER = "browser"
    WINDOW = "window"


@dataclass(frozen=True, slots=True)
class Layout:
    """``name`` for people; ``layouts``, ``variants``, ``options`` as X calls them, several with commas."""

    name: str
    layouts: str
    variants: str = ""
    options: str = ""

    @property
    def id(self) -> str:
        """What it is kept as."""
        return f"{self.layouts}-{self.variants}" if self.variants else self.layouts


#: Of a script that is not Latin, the US keyboard is the first half: passwords and paths are typed with it.
_SWITCH = "grp:alt_shift_toggle"
DEFAULT = Layout("US English", "us")
LAYOUTS = (
    DEFAULT,
    Layout("Belgian", "be"),
    Layout("Brazilian", "br"),
    Layout("Bulgarian (Alt+Shift switches)", "us,bg", ",phonetic", _SWITCH),
    Layout("Canadian French", "ca"),
    Layout("Croatian", "hr"),
    Layout("Czech", "cz"),
    Layout("Danish", "dk"),
    Layout("Dutch", "nl"),
    Layout("Dvorak", "us", "dvorak"),
    Layout("Estonian", "ee"),
    Layout("Finnish", "fi"),
    Layout("French", "fr"),
    Layout("German", "de"),
    Layout("Greek (Alt+Shift switches)", "us,gr", "", _SWITCH),
    Layout("Hungarian", "hu"),
    Layout("Icelandic", "is"),
    Layout("Irish", "ie"),
    Layout("Italian", "it"),
    Layout("Japanese", "jp"),
    Layout("Latin American Spanish", "latam"),
    Layout("Latvian", "lv"),
    Layout("Lithuanian", "lt"),
    Layout("Norwegian", "no"),
    Layout("Polish", "pl"),
    Layout("Portuguese", "pt"),
    Layout("Romanian", "ro"),
    Layout("Russian (Alt+Shift switches)", "us,ru", "", _SWITCH),
    Layout("Slovak", "sk"),
    Layout("Slovenian", "si"),
    Layout("Spanish", "es"),
    Layout("Swedish", "se"),
    Layout("Swiss French", "ch", "fr"),
    Layout("Swiss German", "ch"),
    Layout("Turkish", "tr"),
    Layout("UK English", "gb"),
    Layout("Ukrainian (Alt+Shift switches)", "us,ua", "", _SWITCH),
    Layout("US English, international with dead keys", "us", "intl"),
)


def seat(environment: Mapping[str, str] = os.environ, terminal: str | None = None) -> Seat:
    """Where the keyboard is that types here.  ``terminal``: the device of the terminal; None: that of our output."""
    if "web_driver" in environment.get("TEXTUAL_DRIVER", ""):
        return Seat.BROWSER
    if environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"):
        return Seat.SSH
    name = _terminal() if terminal is None else terminal
    if name.startswith(("/dev/ttyS", "/dev/ttyAMA", "/dev/ttyUSB", "/dev/hvc")):
        return Seat.SERIAL
    if name.removeprefix("/dev/tty").isdigit():
        return Seat.CONSOLE
    return Seat.WINDOW


def can_be_set() -> bool:
    """Whether this is a console of our live system, the one place where the layout is ours to set."""
    return seat() is Seat.CONSOLE and live_system() is not None


def current_layout() -> Layout:
    """What the console has: the one that was set last; none was set at the start."""
    try:
        known = _kept().read_text().strip()
    except (OSError, UnicodeDecodeError):
        return DEFAULT
    return next((layout for layout in LAYOUTS if layout.id == known), DEFAULT)


def keyboard_layout() -> str | None:
    """The name of the console's layout; None where it is not ours to set."""
    return current_layout().name if can_be_set() else None


def keymap(layout: Layout) -> bytes:
    """What ``loadkeys`` reads.  Raises ProgramMissing, DeviceError."""
    line = ["ckbcomp", "-model", "pc105", "-layout", layout.layouts, "-variant", layout.variants]
    line += ["-option", layout.options] if layout.options else []
    return run(line, needed_for=_NEEDED_FOR, timeout_seconds=20).stdout


def set_layout(layout: Layout) -> None:
    """Give it to the kernel, for every console.  Raises ProgramMissing, DeviceError."""
    run(["loadkeys", "--quiet", "--unicode", "-"], needed_for=_NEEDED_FOR, timeout_seconds=20, input=keymap(layout))
    place = _kept()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(layout.id)


def _kept() -> Path:
    return live_root() / "run/recovery/keyboard"


def _terminal() -> str:
    try:
        return os.ttyname(sys.__stdout__.fileno()) if sys.__stdout__ is not None else ""
    except OSError:
        return ""
