"""In our live system: its medium is no target, and a disk stays write-protected until it is confirmed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.devices.live import MediumCheck, medium_check
from tests.support.captured import Captured, small_disk_captured
from tests.support.disks import MIB, blank, loop, run, sha256
from tests.support.fleet import SMALL_BYTES, check_filesystem, noise
from tests.support.live import Live, live, medium
from tests.support.program import interrupt_when, job_of, on_terminal, recovery, refused, start

pytestmark = pytest.mark.disk


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return small_disk_captured(tmp_path_factory.mktemp("live"))


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    return live(tmp_path, monkeypatch)


@pytest.fixture
def target(tmp_path: Path, system: Live) -> Iterator[Path]:
    """A write-protected disk, larger than the captured one, with noise on it."""
    with system.disk(noise(tmp_path / "target.img", SMALL_BYTES + 8 * MIB)) as device:
        yield device


def released(system: Live) -> list[str]:
    return [mark.name for mark in (system.root / "run/recovery/released").glob("*")]


def test_a_protected_disk_is_shown_as_protected_and_not_as_read_only(target: Path) -> None:
    (report,) = recovery("disks", target, "--json").document
    assert (report["disk"]["write_protected"], report["disk"]["read_only"]) == (True, False)
    said = recovery("disks", target).said
    assert "write-protected" in said
    assert "read-only" not in said


def test_a_disk_that_is_read_only_by_itself_is_shown_so_and_refused(
    captured: Captured, system: Live, tmp_path: Path
) -> None:
    image = noise(tmp_path / "target.img", SMALL_BYTES)
    before = sha256(image)
    with loop(image, read_only=True) as device:
        (report,) = recovery("disks", device, "--json").document
        assert (report["disk"]["write_protected"], report["disk"]["read_only"]) == (False, True)
        assert "is read-only" in refused("restore", "latest", device, "--yes", repository=captured.repository)
        system.protect(device)  # says that it was us; the kernel knows better once the flag is taken off
        message = refused("restore", "latest", device, "--yes", repository=captured.repository)
        assert "read-only by its hardware" in message
        assert "is untouched" in message
    assert sha256(image) == before
    assert released(system) == []


def test_a_restore_writes_to_a_protected_disk_and_protects_it_again(
    captured: Captured, system: Live, target: Path, tmp_path: Path
) -> None:
    ran = recovery("restore", "latest", target, "--yes", repository=captured.repository)
    assert "write-protected until this plan is confirmed" in ran.said
    assert system.is_protected(target)
    assert released(system) == []
    copy = captured.disk.on(tmp_path / "target.img")
    check_filesystem(copy, copy.place("ext4"))


def test_a_clone_writes_to_a_protected_disk_and_protects_it_again(
    captured: Captured, system: Live, target: Path, tmp_path: Path
) -> None:
    recovery("clone", captured.disk.image, target, "--yes")
    assert system.is_protected(target)
    copy = captured.disk.on(tmp_path / "target.img")
    check_filesystem(copy, copy.place("ext4"))


def test_what_is_not_confirmed_stays_protected(captured: Captured, system: Live, target: Path, tmp_path: Path) -> None:
    before = sha256(tmp_path / "target.img")
    recovery("restore", "latest", target, "--dry-run", repository=captured.repository)
    refused("restore", "latest", target, repository=captured.repository)

    def look() -> None:
        assert system.is_protected(target)

    on_terminal(
        "restore", "latest", target, answer=b"no\n", question="Type", repository=captured.repository, before=look
    )
    assert system.is_protected(target)
    assert sha256(tmp_path / "target.img") == before


def test_only_the_target_is_released_and_protected_again_when_cancelled(
    captured: Captured, system: Live, target: Path, tmp_path: Path
) -> None:
    with system.disk(noise(tmp_path / "other.img", MIB)) as other:
        screen = start("restore", "latest", target, "--yes", repository=captured.repository)
        ran = interrupt_when(screen, lambda: released(system) != [])
        assert (ran.status, "partly written" in ran.said) in ((130, True), (0, False))
        assert system.is_protected(other)
    assert system.is_protected(target)
    assert recovery("disks", target, "--json").document[0]["disk"]["write_protected"]


def test_a_killed_restore_leaves_its_target_released_and_the_next_one_goes_on(
    captured: Captured, system: Live, target: Path, tmp_path: Path
) -> None:
    screen = start("restore", "latest", target, "--yes", repository=captured.repository)
    job = job_of(screen)
    while not released(system):
        assert screen.poll() is None, "it ended too early"
    os.kill(job, signal.SIGKILL)
    screen.communicate(timeout=60)
    assert screen.returncode == 137
    assert not system.is_protected(target)
    assert "write-protected" not in recovery("disks", target).said
    recovery("restore", "latest", target, "--yes", repository=captured.repository)
    copy = captured.disk.on(tmp_path / "target.img")
    check_filesystem(copy, copy.place("ext4"))


def test_a_protected_disk_is_captured_and_verified_as_it_is(captured: Captured, system: Live, tmp_path: Path) -> None:
    with system.disk(captured.disk.image) as device:
        recovery("capture", device, repository=captured.repository)
        assert system.is_protected(device)


def test_what_lies_on_a_protected_disk_is_no_target(captured: Captured, target: Path) -> None:
    with loop(target) as upper:
        message = refused("restore", "latest", upper, "--yes", repository=captured.repository)
    assert f"lies on {target}, which is write-protected" in message or "read-only" in message


def test_protection_is_taken_off_and_set_by_hand(system: Live, target: Path) -> None:
    assert "may be written now" in recovery("unprotect", target).said
    assert not system.is_protected(target)
    assert len(released(system)) == 1
    assert "was not write-protected" in recovery("unprotect", target).said
    assert "is write-protected" in recovery("protect", target).said
    assert system.is_protected(target)
    assert recovery("protect", target, "--json").document["changed"] is False


def test_the_medium_is_named_and_refused_though_nothing_of_it_is_mounted(
    captured: Captured, system: Live, tmp_path: Path
) -> None:
    if shutil.which("xorriso") is None:
        pytest.skip("xorriso is not installed")
    image = medium(blank(tmp_path / "stick.img", 0), tmp_path)
    os.truncate(image, SMALL_BYTES + MIB)  # as on a stick that is larger than the image
    before = sha256(image)
    with loop(image) as stick, loop(noise(tmp_path / "other.img", SMALL_BYTES)) as other:
        assert "the medium this system was started from" in recovery("disks", stick).said
        assert "the medium this system was started from" not in recovery("disks", other).said
        for words in (("restore", "latest", stick, "--yes"), ("clone", captured.disk.image, stick, "--yes")):
            message = refused(*words, repository=captured.repository)
            assert f"{stick} is the medium that this system was started from" in message
        assert "is the medium that this system was started from" in refused("destination", stick)
    assert sha256(image) == before


def test_another_image_than_the_one_started_from_is_no_medium(
    captured: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("xorriso") is None:
        pytest.skip("xorriso is not installed")
    live(tmp_path, monkeypatch, medium="2020-01-01-00-00-00-00")
    image = medium(blank(tmp_path / "stick.img", 0), tmp_path)
    os.truncate(image, SMALL_BYTES + MIB)
    with loop(image) as stick:
        recovery("restore", "latest", stick, "--yes", repository=captured.repository)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, None),
        ("passed\n", MediumCheck(())),
        ("failed\nlive/filesystem.squashfs\nlive/vmlinuz\n", MediumCheck(("live/filesystem.squashfs", "live/vmlinuz"))),
        ("failed\n", MediumCheck(("sha256sum.txt",))),
        ("", MediumCheck(("sha256sum.txt",))),
    ],
    ids=["not-checked", "sound", "two-damaged", "none-named", "cut-short"],
)
def test_the_verdict_of_a_check_of_the_medium_is_known(
    written: str | None, expected: MediumCheck | None, system: Live
) -> None:
    if written is not None:
        place = system.root / "run/recovery/medium-check"
        place.parent.mkdir(parents=True)
        place.write_text(written)
    assert medium_check() == expected


def test_outside_of_the_live_system_nothing_is_protected(tmp_path: Path) -> None:
    with loop(noise(tmp_path / "disk.img", MIB)) as device:
        run("blockdev", "--setro", device)
        try:
            (report,) = recovery("disks", device, "--json").document
            assert (report["disk"]["write_protected"], report["disk"]["read_only"]) == (False, True)
            assert "was not write-protected" in recovery("unprotect", device).said
            assert run("blockdev", "--getro", device).strip() == "1"
        finally:
            run("blockdev", "--setrw", device)


def test_a_clock_before_the_systems_own_date_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live(tmp_path, monkeypatch, built=4_000_000_000)  # in the year 2096
    image, repository = noise(tmp_path / "disk.img", MIB), tmp_path / "repository"
    for words in (("init",), ("capture", image)):
        if words == ("capture", image):
            recovery("init", "--no-clock-check", repository=repository)
        assert "this system is of 2096-10-02" in refused(*words, repository=repository)
    recovery("capture", image, "--no-clock-check", repository=repository)
