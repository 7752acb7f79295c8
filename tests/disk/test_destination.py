"""A filesystem as the place for a repository: mounted with care, refused with the reason, given back."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank, loop, mounted, overwrite, partitioned, run, sha256, umount
from tests.support.live import Live, live
from tests.support.members import lvm_member, md_member
from tests.support.program import on_terminal, recovery, refused

pytestmark = pytest.mark.disk

SIZE = 64 * MIB
MAKERS = {
    "ext4": (SIZE, ("mkfs.ext4", "-q", "-F", "-Lplace")),
    "xfs": (304 * MIB, ("mkfs.xfs", "-q", "-f", "-Lplace")),
    "btrfs": (128 * MIB, ("mkfs.btrfs", "-q", "-f", "-Lplace")),
    "ntfs": (SIZE, ("mkfs.ntfs", "-q", "-F", "-f", "-Lplace")),
}


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    return live(tmp_path, monkeypatch)


def made(tmp_path: Path, kind: str) -> Path:
    size, words = MAKERS[kind]
    image = blank(tmp_path / f"{kind}.img", size)
    run(*words, image)
    return image


@contextmanager
def unmounted_after(folder: Path) -> Iterator[None]:
    """Whatever the test finds, nothing stays mounted."""
    try:
        yield
    finally:
        while os.path.ismount(folder):
            umount(folder)


def given_back(device: Path, named: Path) -> None:
    """Unmount it.  Programs beside this test may have copies of our mounts, and keep it as long as they run."""
    said = recovery("destination", "--unmount", named).said
    ends = time.monotonic() + 120
    while "still in use" in said and time.monotonic() < ends:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            time.sleep(0.2)
        else:
            recovery("protect", device)
            return
    assert f"{device} is write-protected again" in said


def kind_at(folder: Path) -> tuple[str, set[str]]:
    """The filesystem mounted there and its options, by the kernel's own word."""
    kind, options = run("findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", folder).split()
    return kind, set(options.split(","))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_repository_is_made_on_it_and_then_read_without_a_byte_written(
    kind: str, system: Live, tmp_path: Path
) -> None:
    image, folder = made(tmp_path, kind), tmp_path / "at"
    with unmounted_after(folder):
        with system.disk(image) as device:
            document = recovery("destination", device, folder, "--json").document
            assert (document["folder"], document["filesystem"]) == (str(folder), kind)
            assert {"rw", "nodev", "nosuid", "noexec"} <= kind_at(folder)[1]
            recovery("init", repository=folder / "images")
            assert "mounted at" in refused("destination", device, tmp_path / "again")
            given_back(device, folder)
            assert system.is_protected(device)
            assert not os.path.ismount(folder)
        before = sha256(image)
        with system.disk(image) as device:
            said = recovery("destination", device, folder, "--read-only").said
            assert "for reading only" in said
            assert f"RESTIC_REPOSITORY={folder}/images" in said
            assert "ro" in kind_at(folder)[1]
            recovery("snapshots", repository=folder / "images")
            recovery("destination", device, "--unmount")
            assert system.is_protected(device)
        assert sha256(image) == before


def test_a_disk_that_was_pulled_out_is_unmounted_all_the_same(tmp_path: Path) -> None:
    image, folder = made(tmp_path, "ext4"), tmp_path / "at"
    folder.mkdir()
    with unmounted_after(folder), loop(image) as device:
        node = Path(f"/dev/recovery-test-{os.getpid()}")
        os.mknod(node, device.stat().st_mode, device.stat().st_rdev)
        try:
            run("mount", node, folder)
        finally:
            node.unlink()  # as udev does
        assert f"Unmounted {folder}" in recovery("destination", "--unmount", folder).said
        assert not os.path.ismount(folder)


def test_by_default_it_is_mounted_by_its_label(system: Live, tmp_path: Path) -> None:
    image = made(tmp_path, "ext4")
    label = f"it's {os.getpid()}"
    run("e2label", image, label)
    with system.disk(image) as device:
        ran = recovery("destination", device, "--json")
        folder = Path(ran.document["folder"])
        with unmounted_after(folder):
            assert re.fullmatch(rf"/media/it_s_{os.getpid()}(-\d+)?", str(folder))
            given_back(device, device)
        assert not folder.exists()


def crashed(tmp_path: Path, kind: str) -> Path:
    """A filesystem that was copied while it was mounted, just after something was synced."""
    image = made(tmp_path, kind)
    copy = tmp_path / "crashed.img"
    with loop(image) as device, mounted(device, tmp_path / "mounted") as folder:
        for number in range(50):
            (folder / f"file{number}").write_text("content\n" * 100)
        run("sync", "-f", folder)
        (folder / "last").write_text("the last\n")
        with (folder / "last").open("rb") as file:
            os.fsync(file.fileno())
        run("cp", "--sparse=always", device, copy)
    return copy


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_not_closed_is_mounted_only_when_that_is_meant(kind: str, system: Live, tmp_path: Path) -> None:
    image, folder = crashed(tmp_path, kind), tmp_path / "at"
    before = sha256(image)
    with unmounted_after(folder):
        with system.disk(image) as device:
            assert "was not closed cleanly" in refused("destination", device, folder)
            ran = on_terminal("destination", device, folder, answer=b"no\n", question="Type")
            assert ran.status == 130
            assert not folder.exists()
            assert system.is_protected(device)
            said = recovery("destination", device, folder, "--read-only").said
            assert "was not closed cleanly" in said
            recovery("destination", device, "--unmount")
        assert sha256(image) == before
        with system.disk(image) as device:
            ran = on_terminal("destination", device, folder, answer=f"{device.name}\n".encode(), question="Type")
            assert ran.status == 0
            assert (folder / "last").read_text() == "the last\n"
            given_back(device, folder)
            recovery("destination", device, folder)  # closed now: nothing is asked
            given_back(device, folder)


def test_what_is_busy_for_a_moment_is_given_back_and_what_stays_busy_is_not(system: Live, tmp_path: Path) -> None:
    """Others look at what is mounted: a file manager, the drivers of FUSE that close files late."""
    image, folder = made(tmp_path, "ext4"), tmp_path / "at"
    with system.disk(image) as device, unmounted_after(folder):
        recovery("destination", device, folder)
        with (folder / "looked at").open("w") as file:
            assert "is still in use, and stays mounted" in refused("destination", device, "--unmount", status=21)
            assert folder.is_mount()
            soon = threading.Timer(1.5, file.close)
            soon.start()
            recovery("destination", device, "--unmount")
            soon.join()
        assert not folder.is_mount()


@pytest.mark.parametrize("state", ["hibernated", "dirty"])
def test_windows_that_was_not_shut_down_is_not_written(state: str, system: Live, tmp_path: Path) -> None:
    image, folder = made(tmp_path, "ntfs"), tmp_path / "at"
    if state == "hibernated":
        with loop(image) as device:
            folder.mkdir()
            run("ntfs-3g", device, folder)
            (folder / "hiberfil.sys").write_bytes(b"hibr" + bytes(4092))
            umount(folder)
    else:
        _mark_dirty(image)
    before = sha256(image)
    with system.disk(image) as device, unmounted_after(folder):
        message = refused("destination", device, folder, "--yes")
        assert "NTFS" in message
        assert "cannot be written" in message
        recovery("destination", device, folder, "--read-only")
        umount(folder)
        assert system.is_protected(device)
    assert sha256(image) == before


def _mark_dirty(image: Path) -> None:
    """Set the dirty bit in both copies of the volume's record: its attribute $VOLUME_INFORMATION (0x70)."""
    data = image.read_bytes()
    found = 0
    for start in range(0, len(data) - 1024, 1024):
        record = data[start : start + 1024]
        at = int.from_bytes(record[20:22], "little")
        while record[:4] == b"FILE" and at + 24 < 1024 and record[at : at + 4] != b"\xff\xff\xff\xff":
            length = int.from_bytes(record[at + 4 : at + 8], "little")
            if record[at : at + 4] == b"\x70\0\0\0":
                flags = start + at + int.from_bytes(record[at + 20 : at + 22], "little") + 10
                overwrite(image, flags, bytes([data[flags] | 1]))
                found += 1
            at += length or 1024
    assert found >= 1


def test_members_of_arrays_and_what_is_no_filesystem_are_refused(system: Live, tmp_path: Path) -> None:
    cases = {
        "LVM volume group": lambda image: lvm_member(image, 0),
        "RAID array": lambda image: md_member(image, 0, SIZE // 512),
        "swap": lambda image: run("mkswap", image),
        "othing that is recognised": lambda image: None,
        "encrypted": lambda image: run(
            *("cryptsetup", "luksFormat", "--batch-mode", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"),
            *("--key-file=-", image),
            input="secret",
        ),
        "divided into partitions": lambda image: run("sfdisk", "--quiet", image, input="label: gpt\n,,L\n"),
    }
    if not _has("cryptsetup"):
        del cases["encrypted"]
    for number, (words, prepare) in enumerate(cases.items()):
        image = blank(tmp_path / f"{number}.img", SIZE)
        prepare(image)
        before = sha256(image)
        with system.disk(image) as device:
            assert words in refused("destination", device, tmp_path / "at", "--yes")
            assert system.is_protected(device)
        assert sha256(image) == before
    assert not (tmp_path / "at").exists()


def _has(program: str) -> bool:
    return any((Path(folder) / program).exists() for folder in ("/usr/sbin", "/sbin", "/usr/bin"))


def test_what_is_mounted_and_what_is_no_device_is_refused(tmp_path: Path) -> None:
    image = made(tmp_path, "ext4")
    refused("destination", image, status=2)
    refused("destination", tmp_path, status=2)
    refused("destination", tmp_path / "nothing", status=2)
    refused("destination", "--unmount", tmp_path, status=2)
    with loop(image) as device, mounted(device, tmp_path / "mounted"):
        assert f"mounted at {tmp_path}/mounted" in refused("destination", device, tmp_path / "at")
    with loop(image, read_only=True) as device:
        assert "read-only by its hardware" in refused("destination", device, tmp_path / "at")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with loop(image) as device:
        assert "not an empty folder" in refused("destination", device, tmp_path / "full")


def test_what_does_not_mount_leaves_no_folder_and_stays_protected(system: Live, tmp_path: Path) -> None:
    image = made(tmp_path, "ext4")
    overwrite(image, 1024 + 0x60, b"\xff\xff\xff\x7f")  # features that no kernel knows
    with system.disk(image) as device:
        ran = recovery("destination", device, tmp_path / "at", "--yes", status=None)
        assert ran.status in (20, 21)
        assert system.is_protected(device)
    assert not (tmp_path / "at").exists()


def test_what_lies_on_a_protected_disk_is_not_mounted_for_writing(system: Live, tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE, f"label: gpt\nsize={SIZE // MIB - 2}MiB, type=L\n")
    run("mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", image, f"{SIZE // MIB - 2}M")
    with system.disk(image) as device, loop(device, offset=MIB, size=SIZE - 2 * MIB) as part:
        assert f"lies on {device.name}, which is write-protected" in refused("destination", part, tmp_path / "at")
        with unmounted_after(tmp_path / "at"):
            recovery("destination", part, tmp_path / "at", "--read-only")


def test_a_prober_at_an_earlier_loop_device_does_not_forbid_reading(system: Live, tmp_path: Path) -> None:
    """udev looks at every loop device that appears, also at the one through which it was seen what is there."""
    image, folder = made(tmp_path, "xfs"), tmp_path / "at"
    with system.disk(image) as device, loop(device, read_only=True), unmounted_after(folder):
        recovery("destination", device, folder, "--read-only")
        recovery("destination", device, "--unmount")
        assert not os.path.ismount(folder)
        recovery("destination", device, folder)
        given_back(device, folder)
