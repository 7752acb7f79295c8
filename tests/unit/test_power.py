"""Whether a machine runs on battery, by the kernel's word; recorded from machines of several kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.devices.power import on_battery

AC_ON, AC_OFF = {"type": "Mains", "online": "1"}, {"type": "Mains", "online": "0"}
USB_OFF = {"type": "USB", "online": "0"}
USB_ON = {"type": "USB", "online": "1"}
FULL = {"type": "Battery", "scope": "System", "status": "Not charging", "capacity": "100"}
EMPTYING = {"type": "Battery", "status": "Discharging", "capacity": "43"}
SECOND = {"type": "Battery", "status": "Unknown", "capacity": "97"}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": "20"}
SILENT = {"type": "Battery", "status": "Discharging"}


@pytest.mark.parametrize(
    ("supplies", "said"),
    [
        ({}, None),
        ({"AC": AC_ON, "BAT0": EMPTYING}, None),
        ({"AC": AC_OFF, "BAT0": EMPTYING}, "43 %"),
        ({"AC": AC_OFF, "BAT0": EMPTYING, "BAT1": SECOND}, "43 %, 97 %"),
        ({"AC": AC_OFF, "BAT0": EMPTYING, "ucsi": USB_OFF}, "43 %"),
        ({"AC": AC_OFF, "BAT0": EMPTYING, "ucsi": USB_ON}, None),
        ({"BAT0": EMPTYING}, "43 %"),
        ({"BAT0": FULL}, None),
        ({"BAT0": SILENT}, ""),
        ({"hidpp_battery_0": MOUSE}, None),
        ({"AC": AC_OFF}, None),
    ],
)
def test_battery(
    supplies: dict[str, dict[str, str]], said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOVERY_LIVE_ROOT", str(tmp_path))
    for name, attributes in supplies.items():
        folder = tmp_path / "sys/class/power_supply" / name
        folder.mkdir(parents=True)
        for attribute, text in attributes.items():
            (folder / attribute).write_text(f"{text}\n")
    assert on_battery() == said
