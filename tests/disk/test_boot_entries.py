"""What starts a restored disk: the firmware's entries and the loader that every firmware looks for.

There is no UEFI here: a program that keeps its list in a file stands for efibootmgr, and speaks as its version 18.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import MIB, blank, loop, partitioned, read_at, run, sha256
from tests.support.live import live
from tests.support.program import recovery, refused

pytestmark = pytest.mark.disk

ESP_GUID = "aaaaaaaa-0000-4000-8000-000000000001"
TABLE = f"label: gpt\nsize=20MiB, type=U, uuid={ESP_GUID}\nsize=8MiB, type=L\n"
SIZE = 32 * MIB
SHIM, GRUB = r"\EFI\debian\shimx64.efi", r"\EFI\debian\grubx64.efi"

_FIRMWARE = """#!{python}
import json, pathlib, subprocess, sys
place = pathlib.Path({state!r})
state = json.loads(place.read_text())
state["calls"].append(sys.argv[1:])
words = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
if "create-only" in words and not state.get("full"):
    table = json.loads(subprocess.run(["sfdisk", "--json", words["disk"]], capture_output=True, check=True).stdout)
    part = table["partitiontable"]["partitions"][int(words["part"]) - 1]
    data = sys.stdin.buffer.read().hex() if words.get("append-binary-args") == "-" else ""
    path = f"HD({{words['part']}},GPT,{{part['uuid'].lower()}},0x800,0xa000)/{{words['loader']}}{{data}}"
    number = next(n for n in range(99) if f"{{n:04X}}" not in state["entries"])
    state["entries"][f"{{number:04X}}"] = [words["label"], path]
elif "create-only" in words:
    sys.exit("Could not prepare Boot variable: No space left on device")
elif "bootorder" in words:
    state["order"] = words["bootorder"].split(",")
else:
    print("BootCurrent: 0007\\nTimeout: 0 seconds\\nBootOrder: " + ",".join(state["order"]))
    for number, (label, path) in sorted(state["entries"].items()):
        print(f"Boot{{number}}* {{label}}\\t{{path}}\\n      dp: 04 01 2a 00 / 7f ff 04 00")
place.write_text(json.dumps(state))
"""


@dataclass
class Firmware:
    """A machine that was started by UEFI, with its list of entries."""

    place: Path

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.place.read_text())
        return found

    def set(self, entries: dict[str, tuple[str, str]], order: list[str], *, full: bool = False) -> None:
        self.place.write_text(json.dumps({"entries": entries, "order": order, "full": full, "calls": []}))

    def starts(self) -> list[str]:
        """The entries in the order in which they are tried."""
        state = self.state
        return [" ".join(state["entries"][number]) for number in state["order"]]


USB = {"0007": ("USB", "PciRoot(0x0)/Pci(0x14,0x0)/USB(1,0)")}
DEBIAN = ("debian", rf"HD(1,GPT,{ESP_GUID},0x800,0xa000)/{SHIM}")
WINDOWS = ("Windows", rf"HD(1,GPT,{ESP_GUID},0x800,0xa000)/\EFI\Microsoft\Boot\bootmgfw.efi0000424f")
OTHER = ("other disk", r"HD(1,GPT,bbbbbbbb-0000-4000-8000-000000000001,0x800,0xa000)/\EFI\x\shimx64.efi")


def firmware_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Firmware:
    """Let the programs that this process starts find themselves on such a machine."""
    system = live(folder, monkeypatch)
    (system.root / "sys/firmware/efi").mkdir(parents=True)
    made = Firmware(folder / "firmware.json")
    program = folder / "bin" / "efibootmgr"
    program.parent.mkdir()
    program.write_text(_FIRMWARE.format(python=sys.executable, state=str(made.place)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}:/usr/sbin")
    made.set(dict(USB), ["0007"])
    return made


@pytest.fixture
def firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Firmware:
    return firmware_in(tmp_path, monkeypatch)


def mtools(program: str, image: Path, *words: str | Path) -> str:
    return run(program, "-i", f"{image}@@{MIB}", *words)


def system_disk(folder: Path, *, fallback: bool = False) -> Path:
    """A disk whose EFI system partition holds a shim and a GRUB."""
    image = partitioned(folder / "disk.img", SIZE, TABLE)
    run("mkfs.fat", "-F16", "--offset=2048", image, str(20 * 1024))
    for name in ("::/EFI", "::/EFI/debian", *(["::/EFI/Boot"] if fallback else [])):
        mtools("mmd", image, name)
    for name in ("shimx64.efi", "grubx64.efi", "mmx64.efi"):
        (folder / name).write_bytes(name.encode() * 5000)
        mtools("mcopy", image, folder / name, "::/EFI/debian/")
    if fallback:
        mtools("mcopy", image, folder / "grubx64.efi", "::/EFI/Boot/bootx64.EFI")
    return image


@dataclass(frozen=True)
class Captured:
    """A disk, the folder with the files of its ESP, and a repository with its image."""

    disk: Path
    folder: Path
    repository: Path


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """Captured on a machine whose firmware starts it."""
    folder = tmp_path_factory.mktemp("boot")
    with pytest.MonkeyPatch.context() as monkeypatch:
        firmware = firmware_in(folder, monkeypatch)
        firmware.set({**USB, "0001": DEBIAN, "0002": WINDOWS, "0003": OTHER}, ["0007", "0002", "0001", "0003"])
        disk, repository = system_disk(folder), folder / "repository"
        recovery("init", repository=repository)
        recovery("capture", disk, repository=repository)
    return Captured(disk, folder, repository)


def esp(image: Path) -> bytes:
    return read_at(image, MIB, 20 * MIB)


def test_the_entries_of_the_image_are_written_and_put_first(
    captured: Captured, firmware: Firmware, tmp_path: Path
) -> None:
    firmware.set(dict(USB), ["0007"])
    with loop(blank(tmp_path / "target.img", SIZE + MIB)) as target:
        plan = recovery("restore", "latest", target, "--dry-run", repository=captured.repository)
        assert f'"debian" ({SHIM}) will be written, and put behind it' in plan.said
        assert r"\bootmgfw.efi) will be written, and put first" in plan.said
        assert firmware.starts() == ["USB PciRoot(0x0)/Pci(0x14,0x0)/USB(1,0)"]
        said = recovery("restore", "latest", target, "--yes", repository=captured.repository).said
    assert 'starts "Windows" of this disk first' in said
    assert firmware.starts() == [" ".join(WINDOWS), " ".join(DEBIAN), "USB PciRoot(0x0)/Pci(0x14,0x0)/USB(1,0)"]
    assert esp(tmp_path / "target.img") == esp(captured.disk)


def test_an_entry_that_is_there_is_only_put_first(captured: Captured, firmware: Firmware, tmp_path: Path) -> None:
    firmware.set({**USB, "0005": DEBIAN, "0006": WINDOWS}, ["0007", "0005", "0006"])
    with loop(blank(tmp_path / "target.img", SIZE)) as target:
        ran = recovery("restore", "latest", target, "--yes", "--json", repository=captured.repository)
    assert firmware.state["order"] == ["0006", "0005", "0007"]
    assert not [call for call in firmware.state["calls"] if "--create-only" in call]
    summary = json.loads(ran.out.splitlines()[-1])
    assert summary["boot"]["written"] == ["Windows", "debian"]


def test_outside_of_the_live_system_the_firmware_is_written_only_when_that_is_asked_for(
    captured: Captured, firmware: Firmware, tmp_path: Path
) -> None:
    (tmp_path / "live/usr/lib/recovery/build.json").unlink()
    firmware.set(dict(USB), ["0007"])
    with loop(blank(tmp_path / "target.img", SIZE)) as target:
        said = recovery("restore", "latest", target, "--yes", repository=captured.repository).said
        assert "no boot entry is written (--boot-entry does it)" in said
        assert firmware.state["calls"] == []
        recovery("restore", "latest", target, "--yes", "--boot-entry", repository=captured.repository)
    assert firmware.starts()[:2] == [" ".join(WINDOWS), " ".join(DEBIAN)]


@pytest.mark.parametrize("why", ["no-boot-entry", "partition", "file", "bios"])
def test_the_firmware_is_left_alone(why: str, captured: Captured, firmware: Firmware, tmp_path: Path) -> None:
    firmware.set(dict(USB), ["0007"])
    if why == "bios":
        (tmp_path / "live/sys/firmware/efi").rmdir()
    words = {
        "no-boot-entry": ["--no-boot-entry"],
        "partition": ["--partition", "1", "--to-partition", "1"],
    }.get(why, [])
    image = partitioned(tmp_path / "target.img", SIZE, TABLE)
    if why == "file":
        ran = recovery("restore", "latest", image, "--yes", repository=captured.repository)
    else:
        with loop(image) as device:
            ran = recovery("restore", "latest", device, "--yes", *words, repository=captured.repository)
    assert firmware.state["calls"] == []
    assert ("was not started by UEFI" in ran.said) == (why == "bios")


def test_a_firmware_that_takes_no_entry_makes_a_finding_and_not_a_failure(
    captured: Captured, firmware: Firmware, tmp_path: Path
) -> None:
    firmware.set(dict(USB), ["0007"], full=True)
    with loop(blank(tmp_path / "target.img", SIZE)) as target:
        ran = recovery("restore", "latest", target, "--yes", repository=captured.repository, status=3)
        assert f"efibootmgr --create --disk {target} --part 1" in ran.said
    assert "No space left" in ran.said
    assert "read back and found equal" in ran.said
    assert esp(tmp_path / "target.img") == esp(captured.disk)


def test_without_entries_it_is_told_what_starts_the_disk(firmware: Firmware, tmp_path: Path) -> None:
    for fallback, words in ((True, r"starts its \EFI\BOOT\BOOTX64.EFI"), (False, "It has no")):
        folder = tmp_path / str(fallback)
        folder.mkdir()
        image = system_disk(folder, fallback=fallback)
        recovery("init", repository=folder / "repository")
        firmware.set(dict(USB), ["0007"])
        recovery("capture", image, repository=folder / "repository")
        with loop(blank(folder / "target.img", SIZE)) as target:
            said = recovery("restore", "latest", target, "--yes", repository=folder / "repository").said
        assert "holds no boot entry" in said
        assert words in said


@pytest.mark.parametrize("protected", [True, False], ids=["live", "elsewhere"])
def test_a_loader_is_added_where_every_firmware_looks_when_that_is_asked_for(
    protected: bool, captured: Captured, firmware: Firmware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = live(tmp_path / "second", monkeypatch) if protected else None
    image = blank(tmp_path / "target.img", SIZE)
    with system.disk(image) if system else loop(image) as target:
        ran = recovery("restore", "latest", target, "--yes", "--fallback-loader", repository=captured.repository)
        assert r"\EFI\BOOT\BOOTX64.EFI" in ran.said
        assert not system or system.is_protected(target)
    out = tmp_path / "out"
    out.mkdir()
    mtools("mcopy", image, "-s", "::/EFI", out)
    boot = {path.name.upper(): path.read_bytes() for path in (out / "EFI/BOOT").iterdir()}
    assert boot["BOOTX64.EFI"] == (captured.folder / "shimx64.efi").read_bytes()
    assert boot["GRUBX64.EFI"] == (captured.folder / "grubx64.efi").read_bytes()
    assert boot["MMX64.EFI"] == (captured.folder / "mmx64.efi").read_bytes()
    with loop(image, offset=MIB, size=20 * MIB, read_only=True) as part:
        run("fsck.fat", "-n", part)


def test_a_loader_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    disk = system_disk(tmp_path, fallback=True)
    target = tmp_path / "new.img"
    recovery("clone", disk, target, "--yes", "--fallback-loader")
    assert esp(target) == esp(disk)


def test_a_loader_cannot_be_added_to_one_partition_or_where_none_is_known(captured: Captured, tmp_path: Path) -> None:
    words = ("--partition", "1", "--fallback-loader", "--yes")
    refused("restore", "latest", tmp_path / "new.img", *words, repository=captured.repository, status=2)
    image = partitioned(tmp_path / "empty.img", SIZE, TABLE)
    run("mkfs.fat", "-F16", "--offset=2048", image, str(20 * 1024))
    before = sha256(image)
    ran = recovery("clone", image, tmp_path / "copy.img", "--yes", "--fallback-loader", status=3)
    assert "no loader that is known" in ran.said or "No loader was added" in ran.said
    assert sha256(image) == before
