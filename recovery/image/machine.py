"""What machine this is: its name plate (DMI), its firmware, and how that starts a system."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

from recovery.command import find_program, run
from recovery.devices.efi import is_uefi
from recovery.image.manifest import Machine

_DMI = Path("/sys/class/dmi/id")
_EFI = Path("/sys/firmware/efi")
_SECURE_BOOT = _EFI / "efivars" / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

#: What vendors write where they should have written something.
_PLACEHOLDERS = frozenset(
    {
        "",
        "none",
        "default string",
        "to be filled by o.e.m.",
        "not specified",
        "not applicable",
        "system serial number",
        "03000200-0400-0500-0006-000700080009",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    }
)


def this_machine() -> Machine:
    """The machine that runs this program; what it does not tell stays empty."""
    uefi = is_uefi()
    return Machine(
        hostname=socket.gethostname(),
        vendor=_dmi("sys_vendor"),
        product=_dmi("product_name"),
        serial=_dmi("product_serial"),
        uuid=_dmi("product_uuid").lower(),
        bios_version=_dmi("bios_version"),
        firmware="uefi" if uefi else "bios" if _DMI.is_dir() else "",
        secure_boot=_secure_boot() if uefi else None,
        boot_entries=_boot_entries() if uefi else (),
        architecture=platform.machine(),
        kernel=os.uname().release,
    )


def _dmi(name: str) -> str:
    try:
        text = (_DMI / name).read_bytes().decode("utf-8", errors="backslashreplace").strip()
    except OSError:
        return ""
    return "" if text.lower() in _PLACEHOLDERS else text


def _secure_boot() -> bool | None:
    """The last byte of the variable, behind its four attribute bytes (UEFI specification, 3.3)."""
    try:
        value = _SECURE_BOOT.read_bytes()
    except OSError:
        return None
    return len(value) == 5 and value[4] == 1


def _boot_entries() -> tuple[str, ...]:
    if find_program("efibootmgr") is None:
        return ()
    shown = run(["efibootmgr", "-v"], needed_for="reading the firmware's boot entries", check=False)
    return tuple(shown.stdout.decode(errors="backslashreplace").splitlines()) if shown.ok else ()
