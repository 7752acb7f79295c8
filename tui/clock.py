"""The clock: what it says, and setting it.  Dates of images come from it, so a wrong one confuses their order.

It is set until the machine is switched off; the clock on its main board is left as it is.
"""

from __future__ import annotations

import time
import zoneinfo
from datetime import datetime

from recovery.command import run
from recovery.errors import UsageError

_NEEDED_FOR = "setting the clock"
_FORM = "%Y-%m-%d %H:%M"


def now() -> str:
    """Date, time, and how far it is from universal time."""
    return datetime.now().astimezone().strftime("%A, %d %B %Y, %H:%M:%S (UTC%z)")


def editable_now() -> str:
    """In the form in which it is set: 2026-03-01 14:05."""
    return datetime.now().strftime(_FORM)


def zones() -> list[str]:
    """The names of all time zones that are known here."""
    return sorted(name for name in zoneinfo.available_timezones() if "/" in name or name == "UTC")


def parse(text: str) -> datetime:
    """A time that was typed.  Raises UsageError."""
    try:
        typed = datetime.strptime(text.strip(), _FORM)
    except ValueError as error:
        raise UsageError(
            f"{text.strip() or 'nothing'} is not a time in the form 2026-03-01 14:05",
            "Type year, month and day with dashes, a space, then hours and minutes with a colon.",
        ) from error
    if not 2000 <= typed.year < 2100:
        raise UsageError(f"the year {typed.year} cannot be right", "Type the year with four digits.")
    return typed


def set_time(text: str) -> None:
    """Set the clock to a local time that was typed.  Raises UsageError, ProgramMissing, DeviceError."""
    typed = parse(text)
    run(["date", f"--set={typed:%Y-%m-%d %H:%M}:00"], needed_for=_NEEDED_FOR, timeout_seconds=10)


def set_zone(name: str) -> None:
    """Set the time zone.  Raises UsageError, ProgramMissing, DeviceError."""
    if name not in zones():
        raise UsageError(f"there is no time zone {name!r}", "Type it as Continent/City, or UTC.")
    run(["timedatectl", "set-timezone", name], needed_for=_NEEDED_FOR, timeout_seconds=20)
    time.tzset()
