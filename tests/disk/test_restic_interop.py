"""Stock restic reads what we wrote, and we read what it wrote.

restic is the oracle; dumpe2fs says which blocks of the filesystem matter.  Disks are far larger than their content, so
that holes of every size are stored.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recovery.repository.crypto import make_key_file
from recovery.repository.repository import Repository
from recovery.repository.store import FileKind, file_name
from tests.support.disks import MIB, sha256
from tests.support.images import (
    PARTITION_START,
    PASSWORD,
    capture,
    domain_ranges,
    environment,
    equal_where,
    free_blocks,
    gpt_disk,
    recovery,
    restic,
    restic_check,
    zeros_outside,
)
from tests.support.restic import restic_binaries, restic_id, restic_version

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="captures disks, which only root may")]

each_restic = pytest.mark.parametrize("program", restic_binaries(), ids=restic_id)
new_restics = [program for program in restic_binaries() if restic_version(program) >= (0, 17)]
new_restic = pytest.mark.parametrize("program", new_restics, ids=restic_id)

GIB = 1 << 30
BIG, BIG_PARTITION = 3 * GIB, 2 * GIB
SMALL, SMALL_PARTITION = 96 * MIB, 40 * MIB


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt_disk(tmp_path_factory.mktemp("big") / "disk.img", BIG, BIG_PARTITION)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt_disk(tmp_path_factory.mktemp("small") / "disk.img", SMALL, SMALL_PARTITION, seed=2, content_mib=3)


@pytest.fixture(scope="module")
def captured(big: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that we made, with one image of the big disk."""
    repository = tmp_path_factory.mktemp("captured") / "repository"
    recovery(repository, "init", quick_keys=False)
    capture(repository, "--host", "machine-1", "--tag", "before-upgrade", big)
    return repository


@pytest.fixture(scope="module")
def captured_version_1(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in format version 1, which knows no compression, of the small disk."""
    repository = tmp_path_factory.mktemp("captured1") / "repository"
    recovery(repository, "init", "--format-version", "1")
    capture(repository, small)
    return repository


MadeBy = Callable[[Path, int, Path], Path]


@pytest.fixture(scope="module")
def made_by(tmp_path_factory: pytest.TempPathFactory) -> MadeBy:
    """Copies of empty repositories that restic made.

    restic measures how slow a key may be, and each command then takes that long: once opened with restic's own key,
    they get a quick one.
    """

    @cache
    def pattern(program: Path, version: int) -> Path:
        repository = tmp_path_factory.mktemp("made") / "repository"
        restic(program, repository, "init", "--repository-version", str(version))
        opened = Repository.open(repository, PASSWORD)
        assert opened.config.version == version
        (slow,) = (repository / "keys").iterdir()
        data = make_key_file(opened.key, PASSWORD, datetime.now(UTC), "somebody", "here")
        opened.store.save(FileKind.KEY, file_name([data]), [data])
        slow.unlink()
        return repository

    def copied(program: Path, version: int, place: Path) -> Path:
        shutil.copytree(pattern(program, version), place)
        return place

    return copied


def snapshots(program: Path, repository: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(restic(program, repository, "--no-lock", "snapshots", "--json").stdout)
    return found


def domain(program: Path, repository: Path, snapshot: str = "latest") -> list[tuple[int, int]]:
    return domain_ranges(restic(program, repository, "--no-lock", "dump", snapshot, "/disk.domain").stdout.decode())


def change(disk: Path, seed: int) -> None:
    """Other bytes in the middle of a file of the disk's filesystem."""
    with disk.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        content = (disk.with_name(disk.name + ".files") / "folder" / "random-1").read_bytes()
        at = view.find(content[100_000:104_096], PARTITION_START)
        assert at > 0
        view[at + 5000 : at + 9000] = random.Random(seed).randbytes(4000)


def restored_equals(repository: Path, disk: Path, program: Path, folder: Path, snapshot: str = "latest") -> bool:
    """Our restore of ``snapshot`` gives the disk back on its used extents, and zeros elsewhere."""
    target = folder / "restored.img"
    target.unlink(missing_ok=True)
    recovery(repository, "restore", snapshot, target, "--yes")
    used = domain(program, repository, snapshot)
    assert sum(end - start for start, end in used) > 4 * MIB
    same = equal_where(disk, target, used) and zeros_outside(target, used)
    target.unlink()
    return same


@pytest.fixture(scope="module")
def changed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("changed")
    disk, repository = folder / "disk.img", folder / "repository"
    shutil.copy(small, disk)
    shutil.copytree(small.with_name("disk.img.files"), folder / "disk.img.files")
    recovery(repository, "init")
    for number in range(3):
        change(disk, number)
        capture(repository, disk)
    return repository, disk


@pytest.fixture
def changing(changed: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A repository of its own with three images of a disk that changed, and the disk."""
    shutil.copytree(changed[0], tmp_path / "repository")
    return tmp_path / "repository", changed[1]


@pytest.fixture(scope="module")
def machines(small: Path, big: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two images of each of three disks in two machines."""
    repository = tmp_path_factory.mktemp("machines") / "repository"
    recovery(repository, "init")
    for _ in range(2):
        for host, disk in (("one", small), ("other", small), ("one", big)):
            capture(repository, "--host", host, disk)
    return repository


class TestResticReadsOurs:
    @each_restic
    def test_check_read_data_finds_nothing(self, program: Path, captured: Path, captured_version_1: Path) -> None:
        restic_check(program, captured)
        restic_check(program, captured_version_1)

    @each_restic
    def test_snapshots_shows_machine_disk_and_tags(self, program: Path, captured: Path) -> None:
        (snapshot,) = snapshots(program, captured)
        assert snapshot["hostname"] == "machine-1"
        assert snapshot["paths"] == ["/system-image/33333333-0000-4000-8000-000000000001"]
        assert set(snapshot["tags"]) == {"system-image", "before-upgrade"}
        ours = json.loads(recovery(captured, "snapshots", "--json").stdout)
        assert [(line["id"], line["hostname"], line["tags"]) for line in ours] == [
            (snapshot["id"], snapshot["hostname"], snapshot["tags"])
        ]

    @each_restic
    def test_ls_shows_the_disk_with_its_exact_size(self, program: Path, captured: Path, big: Path) -> None:
        lines = [json.loads(line) for line in restic(program, captured, "ls", "--json", "latest").stdout.splitlines()]
        sizes = {line["path"]: line.get("size", 0) for line in lines if line["struct_type"] == "node"}
        assert set(sizes) == {"/system.json", "/disk.img", "/disk.domain", "/disk.map"}
        assert sizes["/disk.img"] == BIG == big.stat().st_size

    @each_restic
    @pytest.mark.parametrize("version", [1, 2])
    def test_dump_is_the_disk_on_its_used_extents_and_zeros_elsewhere(
        self, program: Path, version: int, request: pytest.FixtureRequest
    ) -> None:
        repository = request.getfixturevalue("captured" if version == 2 else "captured_version_1")
        disk: Path = request.getfixturevalue("big" if version == 2 else "small")
        used = domain(program, repository)
        edges = [0, *(edge for pair in used for edge in pair), disk.stat().st_size]
        line: list[str | Path] = [program, "--no-cache", "dump", "latest", "/disk.img"]
        with (
            subprocess.Popen(line, env=environment(repository), stdout=subprocess.PIPE) as dumping,
            disk.open("rb") as f,
        ):
            assert dumping.stdout is not None
            zeros = bytes(MIB)
            for number, (start, end) in enumerate(itertools.pairwise(edges)):
                f.seek(start)
                while start < end:
                    length = min(MIB, end - start)
                    expected = f.read(length) if number % 2 else zeros[:length]
                    assert dumping.stdout.read(length) == expected, f"differs in the MiB at {start}"
                    start += length
            assert dumping.stdout.read(1) == b""
            _, status, usage = os.wait4(dumping.pid, 0)
            dumping.returncode = os.waitstatus_to_exitcode(status)
        assert dumping.returncode == 0
        assert usage.ru_maxrss * 1024 < 600 * MIB

    @each_restic
    def test_no_block_that_the_filesystem_calls_used_is_left_out(
        self, program: Path, captured: Path, big: Path
    ) -> None:
        used = domain(program, captured)
        size = BIG_PARTITION
        position = PARTITION_START
        free = sorted(free_blocks(big, PARTITION_START))
        assert sum(end - start for start, end in free) > size // 2
        for start, end in [*free, (PARTITION_START + size, 0)]:
            if start > position:
                assert any(low <= position and start <= high for low, high in used), (position, start)
            position = end

    @new_restic
    def test_restore_sparse_allocates_little(self, program: Path, captured: Path, big: Path, tmp_path: Path) -> None:
        restic(program, captured, "restore", "latest", "--sparse", "--target", tmp_path / "out")
        restored = tmp_path / "out" / "disk.img"
        used = domain(program, captured)
        assert restored.stat().st_size == BIG
        assert restored.stat().st_blocks * 512 < big.stat().st_blocks * 512 + 8 * MIB < BIG // 10
        assert equal_where(big, restored, used)
        assert zeros_outside(restored, used)

    @each_restic
    def test_restore_of_both_versions_writes_the_disk(
        self, program: Path, captured_version_1: Path, small: Path, tmp_path: Path
    ) -> None:
        restic(program, captured_version_1, "restore", "latest", "--target", tmp_path)
        used = domain(program, captured_version_1)
        assert equal_where(small, tmp_path / "disk.img", used)
        assert zeros_outside(tmp_path / "disk.img", used)

    @pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="no /dev/fuse: restic cannot mount here")
    @pytest.mark.skipif(shutil.which("fusermount") is None, reason="fusermount is not installed (package fuse3)")
    @each_restic
    def test_mount_gives_any_part_of_the_disk(self, program: Path, captured: Path, big: Path, tmp_path: Path) -> None:
        line: list[str | Path] = [program, "--no-cache", "mount", str(tmp_path)]
        with subprocess.Popen(line, env=environment(captured), stdout=subprocess.DEVNULL) as mounting:
            try:
                image = tmp_path / "snapshots" / "latest" / "disk.img"
                ends = time.monotonic() + 60
                while not image.exists() and time.monotonic() < ends and mounting.poll() is None:
                    time.sleep(0.05)
                assert image.stat().st_size == BIG
                used = domain(program, captured)
                assert equal_where(big, image, [pair for pair in used if pair[1] - pair[0] <= 4 * MIB])
            finally:
                subprocess.run(["fusermount", "-u", tmp_path], check=True)
                mounting.wait(30)

    def test_an_empty_password_is_the_one_that_restic_calls_so(self, small: Path, tmp_path: Path) -> None:
        for program in new_restics:
            for who in ("ours", "restic's"):
                repository = tmp_path / f"{who}-{restic_id(program)}"
                bare = {"RESTIC_PASSWORD": ""}
                if who == "ours":
                    recovery(repository, "init", "--no-password", more=bare)
                else:
                    restic(program, repository, "init", "--insecure-no-password", more=bare)
                capture(repository, "--no-password", small, more=bare)
                restic(program, repository, "check", "--read-data", "--insecure-no-password", more=bare)
                recovery(repository, "verify", "--no-password", more=bare)
                recovery(repository, "snapshots", status=12)


class TestResticChangesOurs:
    @each_restic
    def test_forget_and_prune_leave_the_last_image_whole(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path
    ) -> None:
        repository, disk = changing
        before = {path.name for path in (repository / "data").rglob("*") if path.is_file()}
        last = snapshots(program, repository)[-1]["id"]
        restic(program, repository, "forget", "--keep-last", "1", "--prune", "--max-unused", "0")
        after = {path.name for path in (repository / "data").rglob("*") if path.is_file()}
        assert before - after, "nothing was repacked"
        assert [snapshot["id"] for snapshot in snapshots(program, repository)] == [last]
        restic_check(program, repository)
        recovery(repository, "verify")
        assert restored_equals(repository, disk, program, tmp_path)

    @each_restic
    def test_prune_that_repacks_everything_leaves_every_image_whole(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path
    ) -> None:
        repository, disk = changing
        restic(program, repository, "prune", "--max-unused", "0", "--repack-small")
        ids = [snapshot["id"] for snapshot in snapshots(program, repository)]
        assert len(ids) == 3
        for snapshot in ids:
            recovery(repository, "verify", snapshot)
        assert restored_equals(repository, disk, program, tmp_path)
        capture(repository, disk)
        restic_check(program, repository)

    @each_restic
    def test_forget_keeps_the_last_image_of_each_machine_and_each_disk(
        self, program: Path, machines: Path, tmp_path: Path
    ) -> None:
        repository = tmp_path / "repository"
        shutil.copytree(machines, repository)
        restic(program, repository, "forget", "--keep-last", "1", "--prune")
        left = snapshots(program, repository)
        assert sorted((s["hostname"], s["paths"][0][-1]) for s in left) == [("one", "1"), ("one", "2"), ("other", "2")]
        for snapshot in left:
            recovery(repository, "verify", snapshot["id"])

    @each_restic
    def test_tag_makes_another_snapshot_that_restores(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path
    ) -> None:
        repository, disk = changing
        last = snapshots(program, repository)[-1]["id"]
        restic(program, repository, "tag", "--add", "keep", last)
        tagged = [snapshot for snapshot in snapshots(program, repository) if "keep" in snapshot["tags"]]
        assert len(tagged) == 1
        assert tagged[0]["id"] != last
        assert restored_equals(repository, disk, program, tmp_path)

    @each_restic
    def test_copy_into_another_repository_restores_from_there(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path, made_by: MadeBy
    ) -> None:
        repository, disk = changing
        other = made_by(program, 2, tmp_path / "other")
        from_there = {"RESTIC_FROM_REPOSITORY": str(repository), "RESTIC_FROM_PASSWORD": PASSWORD}
        (tmp_path / "password").write_text(PASSWORD)
        words: list[str | Path] = ["copy", "--from-repo", repository, "--from-password-file", tmp_path / "password"]
        restic(program, other, *words, more=from_there)
        assert len(snapshots(program, other)) == 3
        recovery(other, "verify")
        assert restored_equals(other, disk, program, tmp_path)

    @new_restic
    def test_rewrite_to_another_host_restores(self, program: Path, changing: tuple[Path, Path], tmp_path: Path) -> None:
        repository, disk = changing
        restic(program, repository, "rewrite", "--new-host", "renamed", "--forget", "latest")
        assert "renamed" in {snapshot["hostname"] for snapshot in snapshots(program, repository)}
        assert restored_equals(repository, disk, program, tmp_path)

    @new_restic
    def test_an_image_whose_files_were_rewritten_away_is_refused(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path
    ) -> None:
        repository, _ = changing
        restic(program, repository, "rewrite", "--exclude", "/disk.domain", "--forget", "latest")
        ended = recovery(repository, "restore", "latest", tmp_path / "out", "--yes", status=22)
        assert "disk.domain" in ended.stderr
        assert not (tmp_path / "out").exists()

    @new_restic
    def test_an_image_that_a_repair_shortened_is_refused_and_not_shifted(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path
    ) -> None:
        repository, _ = changing
        packs = sorted((p for p in (repository / "data").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        packs[-1].unlink()
        restic(program, repository, "repair", "index")
        restic(program, repository, "repair", "snapshots", "--forget")
        ended = recovery(repository, "restore", "latest", tmp_path / "out", "--yes", status=None)
        assert ended.returncode in (2, 22), ended.stderr
        assert not (tmp_path / "out").exists()

    @each_restic
    def test_an_index_made_anew_from_the_packs_serves(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """What restic reads in our packs' headers is what our index says."""
        repository, disk = changing
        for path in (repository / "index").iterdir():
            path.unlink()
        restic(program, repository, *(["repair", "index"] if restic_version(program) >= (0, 16) else ["rebuild-index"]))
        recovery(repository, "verify")
        assert restored_equals(repository, disk, program, tmp_path)
        restic_check(program, repository)

    @each_restic
    def test_a_password_that_restic_added_opens_it(
        self, program: Path, changing: tuple[Path, Path], tmp_path: Path
    ) -> None:
        repository, _ = changing
        (tmp_path / "new").write_text("another\n")
        restic(program, repository, "key", "add", "--new-password-file", tmp_path / "new")
        recovery(repository, "snapshots", more={"RESTIC_PASSWORD": "another"})
        recovery(repository, "snapshots")


class TestWeReadRestics:
    @each_restic
    @pytest.mark.parametrize("version", [1, 2])
    def test_files_and_images_live_side_by_side(
        self, program: Path, version: int, small: Path, tmp_path: Path, made_by: MadeBy
    ) -> None:
        repository = made_by(program, version, tmp_path / "repository")
        files = small.with_name("disk.img.files")
        restic(program, repository, "backup", "--host", "h", "--tag", "a", "--tag", "b", files)
        (listed,) = json.loads(recovery(repository, "snapshots", "--json").stdout)
        (known,) = snapshots(program, repository)
        assert (listed["id"], listed["hostname"], listed["paths"], listed["tags"], listed["kind"]) == (
            known["id"], "h", [str(files)], ["a", "b"], "files",
        )  # fmt: skip
        assert "not a system image" in recovery(repository, "show", known["id"], status=2).stderr

        image = capture(repository, small)
        restic(program, repository, "backup", "--host", "h", files)
        restic_check(program, repository)
        assert restored_equals(repository, small, program, tmp_path, image)
        recovery(repository, "verify")  # "latest" is the latest image, though a later snapshot holds files

        restic(program, repository, "restore", known["id"], "--target", tmp_path / "files")
        for path in (path for path in files.rglob("*") if path.is_file()):
            assert sha256(tmp_path / "files" / path.relative_to("/")) == sha256(path)

    @each_restic
    def test_an_image_still_restores_after_restic_pruned_its_own_files_away(
        self, program: Path, small: Path, tmp_path: Path, made_by: MadeBy
    ) -> None:
        repository = made_by(program, 2, tmp_path / "repository")
        restic(program, repository, "backup", "--host", "h", small.with_name("disk.img.files"))
        image = capture(repository, small)
        (files,) = [s["id"] for s in snapshots(program, repository) if s["hostname"] == "h"]
        restic(program, repository, "forget", files, "--prune", "--max-unused", "0")
        assert restored_equals(repository, small, program, tmp_path, image)
        restic_check(program, repository)

    def test_two_restics_and_we_write_in_turn(self, small: Path, tmp_path: Path) -> None:
        repository = tmp_path / "repository"
        programs = restic_binaries()
        files = small.with_name("disk.img.files")
        recovery(repository, "init")
        for program in programs:
            restic(program, repository, "backup", "--host", "h", small.with_name("disk.img.files") / "text")
            restic(program, repository, "backup", files)
            capture(repository, small)
        for program in programs:
            restic_check(program, repository)
        kinds = [line["kind"] for line in json.loads(recovery(repository, "snapshots", "--json").stdout)]
        assert kinds == ["files", "files", "system image"] * len(programs)
