"""Drills: every way to the wrong disk that we know of.  Each is refused, with its reason, and no byte is written."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from recovery.devices.disk import disk_for
from recovery.errors import DeviceError, Refused
from recovery.image.restore import restore
from recovery.image.restore_plan import RestorePlan, plan_restore
from recovery.image.view import DiskImage
from recovery.progress import Progress
from recovery.repository.repository import Repository
from tests.support.disks import (
    MIB,
    blank,
    exchange,
    loop,
    mounted,
    overwrite,
    own_loop,
    partitioned,
    run,
    sha256,
    umount,
)
from tests.support.drills import Bench, drill, make_repository, make_source, open_image, store
from tests.support.faults import in_child
from tests.support.images import PASSWORD
from tests.support.members import lvm_member, md_member

_UDEV = Path("/run/udev/data")


@dataclass(frozen=True)
class _Ready:
    """An image to be restored, and a disk that would be overwritten."""

    repository: Path
    image: DiskImage
    other: Path

    def plan(self, target: Path) -> RestorePlan:
        return plan_restore(self.image, target, repository=self.repository)

    def refused(self, plan: RestorePlan, reason: str) -> None:
        """Carrying out ``plan`` is refused."""
        with pytest.raises(Refused, match=reason) as refusal:
            restore(self.image, plan, Progress())
        assert "untouched" in refusal.value.message


def _ready(bench: Bench) -> _Ready:
    source, repository = make_source(bench, 1 * MIB), bench.work / "repository"
    make_repository(repository)
    assert in_child(partial(store, repository, source)).done
    return _Ready(repository, open_image(repository).disk(), _disk(bench, "other.img"))


def _disk(bench: Bench, name: str) -> Path:
    """A disk full of something that somebody would miss."""
    path = bench.work / name
    partitioned(path, 16 * MIB, "label: gpt\nstart=2048, size=20480\n")
    overwrite(path, MIB, bench.random.randbytes(10 * MIB))
    return path


@contextmanager
def _unchanged(*disks: Path) -> Iterator[None]:
    before = [sha256(disk) for disk in disks]
    yield
    assert [sha256(disk) for disk in disks] == before, "a disk was written to"


@drill("wrong_disk")
def a_target_that_was_exchanged_after_the_plan_is_refused(bench: Bench) -> None:
    ready = _ready(bench)
    copy = bench.work / "copy.img"
    copy.write_bytes(ready.other.read_bytes())
    for other in (_disk(bench, "third.img"), copy):  # a copy has the same table, with the same UUID
        with _unchanged(ready.other, other), own_loop(ready.other) as device:
            plan = ready.plan(device)
            exchange(device, other)
            bench.counts["wrong disks"] += 1
            ready.refused(plan, "no longer the disk that it was")


@drill("wrong_disk")
def two_disks_with_one_serial_are_not_taken_for_each_other(bench: Bench) -> None:
    """As docks do: udev says the same of both, and they change places after the plan was made."""
    ready = _ready(bench)
    other = bench.work / "twin.img"
    other.write_bytes(ready.other.read_bytes())
    with own_loop(ready.other) as first, own_loop(other, 1) as second, _serial("DRILL0001", first, second):
        assert [disk_for(device).serial for device in (first, second)] == ["DRILL0001", "DRILL0001"]
        with _unchanged(ready.other, other):
            plan = ready.plan(first)
            run("losetup", "--detach", first)
            exchange(second, ready.other)
            run("losetup", first, other)
            bench.counts["wrong disks"] += 1
            ready.refused(plan, "no longer the disk that it was")


@contextmanager
def _serial(serial: str, *devices: Path) -> Iterator[None]:
    """What udev's database would say of the devices."""
    numbers = [Path("/sys/block", device.name, "dev").read_text().strip() for device in devices]
    entries = [_UDEV / f"b{number}" for number in numbers]
    kept = [entry.read_bytes() if entry.exists() else None for entry in entries]
    _UDEV.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        entry.write_text(f"E:ID_SERIAL_SHORT={serial}\nE:ID_SERIAL=DOCK_{serial}\nE:ID_MODEL=DOCK\n")
    try:
        yield
    finally:
        for entry, content in zip(entries, kept, strict=True):
            entry.unlink() if content is None else entry.write_bytes(content)
        with suppress(OSError):
            _UDEV.rmdir()


@drill("wrong_disk")
def a_target_that_comes_into_use_after_the_plan_is_refused(bench: Bench) -> None:
    ready = _ready(bench)
    filesystem = blank(bench.work / "filesystem.img", 16 * MIB)
    run("mkfs.ext4", "-q", "-F", filesystem)
    at = bench.folder("mount")
    with loop(filesystem) as device:
        plan, of_the_file = ready.plan(device), None
        with _unchanged(filesystem), mounted(device, at, "ro,noload"):
            bench.counts["wrong disks"] += 1
            ready.refused(plan, "in use")
    with _unchanged(filesystem):
        of_the_file = ready.plan(filesystem)
        with loop(filesystem) as device, mounted(device, at, "ro,noload"):
            bench.counts["wrong disks"] += 1
            ready.refused(of_the_file, "came into use")


@drill("wrong_disk")
def the_disk_of_the_repository_is_refused(bench: Bench) -> None:
    ready = _ready(bench)
    carrier = blank(bench.work / "carrier.img", 24 * MIB)
    run("mkfs.ext4", "-q", "-F", carrier)
    with loop(carrier) as device, mounted(device, bench.folder("mount")) as at:
        run("cp", "-a", ready.repository, at / "repository")
        run("sync", "-f", at)
        for target in (device, carrier):
            bench.counts["wrong disks"] += 1
            with pytest.raises(Refused, match="holds the repository"):
                plan_restore(ready.image, target, repository=at / "repository")
            ended = in_child(partial(store, at / "repository", target))
            assert ended.error == "Refused", ended
            assert "holds the repository" in ended.message, ended


@drill("wrong_disk")
def a_member_of_an_array_or_volume_group_needs_a_word_of_its_own(bench: Bench) -> None:
    ready = _ready(bench)
    make: list[tuple[str, Callable[[Path, int], None]]] = [
        ("LVM volume group", lvm_member),
        ("RAID array", lambda path, offset: md_member(path, offset, 10 * MIB // 512)),
    ]
    for what, member in make:
        for offset in (0, MIB):
            target = _disk(bench, "member.img") if offset else blank(bench.work / "member.img", 16 * MIB)
            if offset:
                overwrite(target, MIB, bytes(10 * MIB))
            member(target, offset)
            bench.counts["wrong disks"] += 1
            with _unchanged(target), pytest.raises(Refused, match=f"a member of an? {what}"):
                ready.plan(target)


@drill("wrong_disk")
def a_hibernated_ntfs_is_not_written_to_as_a_destination(bench: Bench) -> None:
    """Windows, when it wakes, goes by what it remembers: one byte written before destroys the filesystem."""
    image = blank(bench.work / "windows.img", 16 * MIB)
    run("mkntfs", "-F", "-q", "-Q", image)
    at = bench.folder("mount")
    run("ntfs-3g", image, at)
    (at / "hiberfil.sys").write_bytes(b"hibr" + bytes(4092))
    _unmounted(at)
    source = make_source(bench, 1 * MIB)
    with _unchanged(image):
        subprocess.run(["ntfs-3g", image, at], capture_output=True, check=False)
        try:
            assert at.is_mount(), "ntfs-3g did not mount it at all"
            bench.counts["wrong disks"] += 1
            with pytest.raises(DeviceError, match="read-only"):
                Repository.init(at / "repository", PASSWORD)
            ended = in_child(partial(store, at / "repository", source))
            assert ended.error == "NoRepository", ended
        finally:
            _unmounted(at)


def _unmounted(at: Path) -> None:
    """Unmounted, and the program that served it has written all and ended."""
    serving = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _serves(p, at)]
    umount(at)
    ends = time.monotonic() + 10
    while any(Path("/proc", str(process)).exists() for process in serving) and time.monotonic() < ends:
        time.sleep(0.01)


def _serves(process: Path, at: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"ntfs-3g") and str(at).encode() in words
