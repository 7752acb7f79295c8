"""What the bootable image is made from agrees with itself; nothing is built here."""

from __future__ import annotations

import gzip
import importlib.util
import re
import struct
from pathlib import Path
from types import ModuleType

import pytest

IMAGE_BUILD = Path(__file__).parents[2] / "image-build"
OVERLAY = IMAGE_BUILD / "overlay"

#: What the program and its interface draw: lines, bars, marks, and the letters of a name.
DRAWN = "─│┌┐└┘├┤┬┴┼━┃╭╮╯╰█▓▒░▀▄▌▐▁▂▃▄▅▆▇▏▎▍▌▋▊▉▔▕✓○●□▪►◄▶◀…·•–—äöüÄÖÜßéèñøå"


def _packages() -> dict[str, str]:
    lines = (IMAGE_BUILD / "packages.list").read_text().splitlines()
    return {
        name: reason.strip() for name, reason in (line.split(maxsplit=1) for line in lines if line and line[0] != "#")
    }


def test_each_package_is_listed_once_with_its_reason() -> None:
    lines = [
        line.split()[0] for line in (IMAGE_BUILD / "packages.list").read_text().splitlines() if line[:1] not in "#"
    ]
    assert len(lines) == len(set(lines))
    assert all(_packages().values())
    assert {"restic", "gddrescue", "testdisk", "smartmontools", "lvm2", "mdadm", "efibootmgr"} <= _packages().keys()


def test_only_packages_of_the_firmware_part_are_not_free() -> None:
    firmware = {name for name, reason in _packages().items() if reason.startswith("firmware:")}
    assert all(name.startswith("firmware-") or name.endswith("-microcode") for name in firmware)
    assert not any(name.startswith("firmware-") for name in _packages().keys() - firmware)


@pytest.mark.parametrize("rules", ["64-md-raid-assembly.rules", "69-lvm.rules"])
def test_what_assembles_arrays_and_starts_volumes_is_masked(rules: str) -> None:
    assert (OVERLAY / "etc/udev/rules.d" / rules).readlink() == Path("/dev/null")


def test_every_way_to_start_pins_the_medium_and_keeps_away_from_swap_and_resume() -> None:
    options = (IMAGE_BUILD / "boot" / "options").read_text().split()
    assert {"boot=recovery", "recovery.medium=@UUID@", "noresume", "nohibernate", "systemd.gpt_auto=0"} <= set(options)
    for name in ("grub.cfg", "grub-network.cfg", "recovery.ipxe"):
        lines = (IMAGE_BUILD / "boot" / name).read_text().splitlines()
        (kernel,) = (line for line in lines if re.match(r"\s*(linux|kernel) ", line))
        assert "@OPTIONS@" in kernel or ("$options" in kernel and 'set options="@OPTIONS@"' in lines), name


def test_the_keys_of_the_menu_are_free_and_differ() -> None:
    keys = re.findall(r"--hotkey=(\w)", (IMAGE_BUILD / "boot/grub.cfg").read_text())
    # Both platforms name a last entry; GRUB keeps c, e and p for itself, and v is down in its menu.
    assert len(keys) == 8
    assert len(set(keys)) == 7
    assert not set(keys) & set("cepv")


def _console_font() -> ModuleType:
    found = importlib.util.spec_from_file_location("console_font", IMAGE_BUILD / "console_font.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _font(named: list[list[int]]) -> bytes:
    """A font as kbd documents it: glyph ``i`` has rows of ``i``'s low byte."""
    table = b"".join(struct.pack(f"<{len(units) + 1}H", *units, 0xFFFF) for units in named)
    return b"\x36\x04\x03\x10" + b"".join(bytes([index & 0xFF]) * 16 for index in range(512)) + table


def test_the_console_font_gains_blocks_and_keeps_its_letters(tmp_path: Path) -> None:
    module = _console_font()
    kept = [ord(sign) for sign in "─│┌┐└┘├┤┬┴┼━┃╭╮╯╰█▒░●▶◀…·•–—äöüÄÖÜßéèñøå"]
    given_up = [ord(sign) for sign in module.GIVEN_UP]
    letters = [unit for unit in range(0x20, 0x20 + 512 - len(kept) - len(given_up)) if unit not in kept + given_up]
    spare = [0xE000 + index for index in range(512 - len(kept) - len(given_up) - len(letters))]
    units = kept + given_up + letters + spare
    source, target = tmp_path / "source.psf.gz", tmp_path / "target.psf.gz"
    source.write_bytes(gzip.compress(_font([[unit] for unit in units])))
    module.main(source, target)

    font = gzip.decompress(target.read_bytes())
    assert len(font) >= 4 + 512 * 16
    table = struct.unpack(f"<{(len(font) - 4 - 512 * 16) // 2}H", font[4 + 512 * 16 :])
    shown: dict[int, bytes] = {}
    index = 0
    for unit in table:
        if unit == 0xFFFF:
            index += 1
        else:
            shown[unit] = font[4 + index * 16 : 20 + index * 16]
    assert index == 512
    assert [sign for sign in DRAWN if ord(sign) not in shown] == []
    for place, unit in enumerate(units):
        if unit not in given_up:
            assert shown[unit] == bytes([place & 0xFF]) * 16
    assert shown[ord("▄")] == bytes(8) + b"\xff" * 8
    assert shown[ord("▌")] == b"\xf0" * 16
    assert shown[ord("▏")] == b"\x80" * 16
    assert shown[ord("▂")] == bytes(12) + b"\xff" * 4


def test_a_font_of_another_kind_is_refused() -> None:
    module = _console_font()
    with pytest.raises(ValueError, match="PSF 1"):
        module.decode(b"\x72\xb5\x4a\x86" + bytes(100))
