"""The machine stays awake while a job runs, and it is told when it runs on battery.

systemd's logind keeps it awake for as long as a program holds its lock; that program here ends when its input does, so
also when we are killed.  Without systemd nothing puts a machine to sleep by itself that could be asked not to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recovery.command import companion
from recovery.devices.live import live_root
from recovery.errors import DeviceError, ProgramMissing

log = logging.getLogger(__name__)

_WHAT = "shutdown:sleep:idle:handle-lid-switch:handle-power-key:handle-suspend-key:handle-hibernate-key"
_SECONDS = 5.0


@contextmanager
def kept_awake(why: str) -> Iterator[None]:
    """No sleep, no shutdown by a key or a lid, for the time of the block; ``why`` is what logind shows."""
    with ExitStack() as held:
        if (live_root() / "run/systemd/system").is_dir():
            line = ["systemd-inhibit", f"--what={_WHAT}", "--mode=block", "--who=recovery", f"--why={why}"]
            line += ["sh", "-c", "echo awake; exec cat >/dev/null"]
            try:
                held.enter_context(
                    companion(line, needed_for="keeping the machine awake", ready=b"awake", timeout_seconds=_SECONDS)
                )
            except (DeviceError, ProgramMissing) as error:
                log.info("the machine may go to sleep: %s", error.message)
        yield


def on_battery() -> str | None:
    """How full the batteries are ("43 %", empty: not known) when this machine runs on them; else None.

    A battery of a mouse or the like does not count.
    """
    folder = live_root() / "sys/class/power_supply"
    try:
        supplies = sorted(folder.iterdir())
    except OSError:
        return None
    plugged, batteries = [], []
    for supply in supplies:
        kind = _attribute(supply, "type")
        if kind == "Battery" and _attribute(supply, "scope") != "Device":
            batteries.append(supply)
        elif kind in ("Mains", "USB", "USB_C", "USB_PD", "Wireless", "BrickID"):
            plugged.append(_attribute(supply, "online"))
    if not batteries or "1" in plugged or "2" in plugged:
        return None
    if not plugged and not any(_attribute(battery, "status") == "Discharging" for battery in batteries):
        return None
    levels = [_attribute(battery, "capacity") for battery in batteries]
    return ", ".join(f"{level} %" for level in levels if level.isascii() and level.isdigit())


def _attribute(supply: Path, name: str) -> str:
    try:
        return (supply / name).read_text(errors="replace").strip()
    except OSError:
        return ""
