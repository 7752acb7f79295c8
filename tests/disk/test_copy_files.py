"""Files are copied off a filesystem that is only read: what cannot be read is named, nothing is replaced."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from recovery.errors import Cancelled, DestinationFull, DeviceError, UsageError
from recovery.progress import Progress
from recovery.salvage import copy
from recovery.salvage.copy import copy_files, measure
from tests.support.badblocks import with_bad_blocks
from tests.support.disks import MIB, blank, loop, mounted, run, sha256, umount
from tests.support.filesystems import fill, tree

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="mounts, which only root may")]


def test_what_is_copied_is_equal_and_the_source_is_not_touched(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 64 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    with loop(image) as device, mounted(device, tmp_path / "source") as source:
        fill(source, 6 * MIB, small_files=60)
        (source / "link").symlink_to("nowhere")
        (source / "mode").write_bytes(b"x")
        (source / "mode").chmod(0o640)
        os.utime(source / "mode", ns=(10**18, 10**18))
    before = sha256(image)
    with (
        loop(image, read_only=True) as device,
        mounted(device, tmp_path / "source", "ro,noload") as source,
    ):
        wanted = [path for path in source.iterdir() if path.name != "lost+found"]
        progress = Progress()
        done = copy_files(wanted, source, tmp_path / "to", progress)
        assert done.complete
        expected = {name: facts for name, facts in tree(source).items() if name != "lost+found"}
        assert tree(tmp_path / "to") == expected
        sizes = [path.stat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
        assert (done.files, done.bytes) == (len(sizes), sum(sizes))
        assert measure(wanted) == copy.Size(len(sizes), sum(sizes))
        assert progress.snapshot().phase == "sync"
        copied = (tmp_path / "to/mode").stat()
        assert (copied.st_mtime_ns, stat.S_IMODE(copied.st_mode)) == (10**18, 0o640)
    assert sha256(image) == before


def test_only_what_was_chosen_is_copied_at_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "source/a/b").mkdir(parents=True)
    (tmp_path / "source/a/b/file").write_text("content")
    (tmp_path / "source/a/other").write_text("content")
    os.mkfifo(tmp_path / "source/a/b/pipe")
    done = copy_files([tmp_path / "source/a/b"], tmp_path / "source", tmp_path / "to", Progress())
    assert sorted(tree(tmp_path / "to")) == ["a", "a/b", "a/b/file"]
    assert [(Path(path).name, problem) for path, problem in done.problems] == [
        ("pipe", "it is neither a file nor a folder, and was left out")
    ]


def test_a_file_with_bad_sectors_is_copied_with_zeros_there_and_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    content = bytearray(random.Random(5).randbytes(3 * MIB))
    disk.write_bytes(content)
    bad = [MIB + 8 * 4096, 2 * MIB]
    with with_bad_blocks(disk, bad, tmp_path) as damaged:
        done = copy_files([damaged], damaged.parent, tmp_path / "to", Progress())
    for at in bad:
        content[at : at + 4096] = bytes(4096)
    assert (tmp_path / "to/disk.img").read_bytes() == content
    assert (done.files, done.lost_bytes, done.complete) == (1, 8192, False)
    assert [problem for _, problem in done.problems] == ["8.00 KiB of it could not be read, and are zeros in the copy"]


def test_a_disk_that_is_gone_ends_the_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(6).randbytes(3 * MIB))
    (tmp_path / "sys/sdz").mkdir(parents=True)
    monkeypatch.setattr(copy, "_BLOCK_DEVICES", tmp_path / "sys")
    monkeypatch.setattr("recovery.devices.usage.System.devices_below", lambda system, path: frozenset(["sdz", "loop7"]))
    with with_bad_blocks(disk, [MIB], tmp_path) as damaged:
        assert copy_files([damaged], damaged.parent, tmp_path / "one", Progress()).lost_bytes == 4096
        (tmp_path / "sys/sdz").rmdir()
        with pytest.raises(DeviceError, match=r"sdz, where .* is gone") as told:
            copy_files([damaged], damaged.parent, tmp_path / "two", Progress())
    assert "What was copied until then is there" in told.value.hint
    assert (tmp_path / "two/disk.img").read_bytes() == disk.read_bytes()[:MIB]


def test_a_folder_that_can_be_read_in_part_gives_that_part_and_is_named(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk.img", 32 * MIB)
    seed = ("-E", "hash_seed=5e1ec7ed-0000-4000-8000-000000000001")  # the order in which names are given
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "dir_index,^has_journal", *seed, disk)
    names = {f"{number:04}-{'x' * 80}" for number in range(400)}
    with loop(disk) as device, mounted(device, tmp_path / "mounted") as root:
        (root / "many").mkdir()
        for name in sorted(names):
            (root / "many" / name).write_text(name)
    blocks = run("debugfs", "-R", "blocks /many", disk).split()
    assert len(blocks) > 10
    with (
        with_bad_blocks(disk, [int(blocks[-1]) * 4096], tmp_path) as damaged,
        loop(damaged, read_only=True) as device,
        mounted(device, tmp_path / "mounted", "ro") as root,
    ):
        done = copy_files([root / "many"], root, tmp_path / "to", Progress())
    copied = {path.name for path in (tmp_path / "to/many").iterdir()}
    assert copied < names
    assert copied
    assert [(Path(path).name, "could not be read to its end" in problem) for path, problem in done.problems] == [
        ("many", True)
    ]


def test_nothing_that_is_there_is_replaced(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "to"
    source.mkdir()
    to.mkdir()
    (source / "file").write_text("new")
    (to / "file").write_text("old")
    with pytest.raises(UsageError, match="not empty"):
        copy_files([source / "file"], source, to, Progress())
    with pytest.raises(UsageError, match="must lie below"):
        copy_files([to], source, tmp_path / "fresh", Progress())
    with pytest.raises(UsageError, match="must lie below"):
        copy_files([source], source, source / "inside", Progress())
    assert (to / "file").read_text() == "old"


def test_what_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "small"
    source.mkdir()
    to.mkdir()
    blank(source / "large", 8 * MIB)
    run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", to)
    try:
        with pytest.raises(DestinationFull, match=r"8\.00 MiB are to be copied"):
            copy_files([source / "large"], source, to / "files", Progress())
        assert not list((to / "files").iterdir())
    finally:
        umount(to)


def test_a_cancelled_copy_stops(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        copy_files([tmp_path / "source"], tmp_path / "source", tmp_path / "to", progress)
