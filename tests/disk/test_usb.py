"""``make usb``: the image on a stick, by the rules of a restore, read back; here sticks are loop devices and files."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank, loop, mounted, partitioned, read_at, run, sfdisk_json, sha256
from tests.support.fleet import noise
from tests.support.live import Live, live, medium
from tests.support.members import lvm_member
from tests.support.program import ROOT

pytestmark = [
    pytest.mark.disk,
    pytest.mark.skipif(shutil.which("xorriso") is None, reason="xorriso is not installed"),
]

SCRIPT = [sys.executable, str(ROOT / "image-build" / "usb.py")]
SIZE = 24 * MIB


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usb")
    made = medium(folder / "recovery.iso", folder)
    (folder / "SHA256SUMS").write_text(f"{sha256(made)}  recovery.iso\n{'0' * 64}  other\n")
    return made


def usb(image: Path, *words: str | Path, status: int = 0) -> str:
    """What was said, in one line."""
    ended = subprocess.run(
        [*SCRIPT, f"--image={image}", *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    said = " ".join((ended.stdout + ended.stderr).decode().split())
    assert ended.returncode == status, said
    assert "Traceback" not in said
    assert "this is a bug" not in said.lower()
    return said


def old_stick(path: Path) -> Path:
    """A larger stick, full of something else, with a GPT whose second copy lies at its end."""
    made = partitioned(noise(path, SIZE), SIZE, "label: gpt\nsize=8MiB, type=U\nsize=8MiB, type=L\n")
    assert read_at(made, SIZE - 512, 8) == b"EFI PART"
    return made


def assert_written(image: Path, stick: Path) -> None:
    size = image.stat().st_size
    assert read_at(stick, 0, size) == image.read_bytes()
    assert read_at(stick, SIZE - 34 * 512, 34 * 512) == bytes(34 * 512)
    assert [entry["type"] for entry in sfdisk_json(stick)["partitions"]][1:] != []


def test_the_image_is_on_the_stick_and_nothing_of_its_old_table(image: Path, tmp_path: Path) -> None:
    stick = old_stick(tmp_path / "stick.img")
    with loop(stick) as device:
        said = usb(image, device, "--any-disk", "--yes")
    assert "was read back and is equal" in said
    assert_written(image, stick)


def test_a_write_protected_stick_is_released_and_protected_again(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system: Live = live(tmp_path, monkeypatch, medium="2020-01-01-00-00-00-00")
    stick = old_stick(tmp_path / "stick.img")
    with system.disk(stick) as device:
        usb(image, device, "--any-disk", "--yes")
        assert system.is_protected(device)
    assert_written(image, stick)


def test_a_disk_that_is_no_stick_needs_consent(image: Path, tmp_path: Path) -> None:
    stick = old_stick(tmp_path / "stick.img")
    before = sha256(stick)
    with loop(stick) as device:
        assert "is not removable" in usb(image, device, "--yes", status=20)
        assert "nobody to ask" in usb(image, device, "--any-disk", status=20)
    assert sha256(stick) == before


@pytest.mark.parametrize(("answer", "status"), [("yes", 130), ("", 130), (None, 0)])
def test_its_short_name_is_typed(answer: str | None, status: int, image: Path, tmp_path: Path) -> None:
    stick = old_stick(tmp_path / "stick.img")
    before = sha256(stick)
    with loop(stick) as device:
        child, terminal = pty.fork()
        if child == 0:  # pragma: no cover - this is the program
            os.execv(SCRIPT[0], [*SCRIPT, f"--image={image}", "--any-disk", str(device)])
        shown, asked, ends = b"", False, time.monotonic() + 120
        while time.monotonic() < ends:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            shown += data
            if not asked and b"anything else to stop" in shown:
                asked = True
                os.write(terminal, f"{device.name if answer is None else answer}\n".encode())
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status, shown
    assert (sha256(stick) == before) == (status != 0)


def test_what_must_not_be_overwritten_is_refused(image: Path, tmp_path: Path) -> None:
    small = noise(tmp_path / "small.img", MIB)
    member = noise(tmp_path / "member.img", SIZE)
    lvm_member(member, 0)
    carrier = blank(tmp_path / "carrier.img", 64 * MIB)
    run("mkfs.ext4", "-q", carrier)
    hashes = [sha256(small), sha256(member)]
    with loop(small) as device:
        assert "the image has" in usb(image, device, "--any-disk", "--yes", status=20)
    with loop(member) as device:
        assert "LVM" in usb(image, device, "--any-disk", "--yes", status=20)
    with loop(noise(tmp_path / "large-sectors.img", SIZE), sector_bytes=4096) as device:
        assert "nothing starts from it" in usb(image, device, "--any-disk", "--yes", status=20)
    with loop(carrier) as device, mounted(device, tmp_path / "mounted") as folder:
        assert "mounted at" in usb(image, device, "--any-disk", "--yes", status=20)
        run("cp", image, folder)
        assert "mounted at" in usb(folder / image.name, device, "--any-disk", "--yes", status=20)
    assert "is the source itself" in usb(image, image, "--any-disk", "--yes", status=20)
    assert [sha256(small), sha256(member)] == hashes


def test_an_image_that_is_none_or_was_changed_is_not_written(image: Path, tmp_path: Path) -> None:
    stick = old_stick(tmp_path / "stick.img")
    before = sha256(stick)
    changed = tmp_path / "recovery.iso"
    shutil.copy(image, changed)
    shutil.copy(image.parent / "SHA256SUMS", tmp_path)
    with changed.open("r+b") as file:
        file.seek(100_000)
        file.write(b"another byte")
    assert "is not what" in usb(changed, stick, "--yes", status=21)
    assert "is no bootable image" in usb(noise(tmp_path / "x.iso", MIB), stick, "--yes", status=2)
    assert "there is no image" in usb(tmp_path / "none.iso", stick, "--yes", status=2).lower()
    assert sha256(stick) == before
