"""What can be wrong with a repository or with the place it lies in: each has its own message and exit code."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recovery.errors import NoRepository, RepositoryDamaged, WrongPassword
from recovery.image.view import SystemImage
from recovery.repository.crypto import Key
from recovery.repository.format import (
    BlobType,
    Config,
    IndexBlob,
    IndexFile,
    IndexPack,
    Snapshot,
    encode_json,
    pack_unpacked,
)
from recovery.repository.packer import PackWriter, seal_blob
from recovery.repository.repository import Repository
from recovery.repository.store import FileKind, file_name
from tests.support.disks import KIB, MIB, blank, loop, mounted, run, umount
from tests.support.images import (
    PARTITION_START,
    PASSWORD,
    PROJECT,
    WRONG_PASSWORD,
    capture,
    equal_where,
    gpt_disk,
    recovery,
    restic,
    restic_check,
)
from tests.support.restic import restic_binaries, restic_id

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="captures disks, which only root may")]

each_restic = pytest.mark.parametrize("program", restic_binaries(), ids=restic_id)

USAGE, DEVICE, NO_REPOSITORY, DAMAGED, FULL = 2, 21, 10, 22, 23


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt_disk(tmp_path_factory.mktemp("disk") / "disk.img", 96 * MIB, 40 * MIB, seed=5, content_mib=6)


@pytest.fixture(scope="module")
def captured(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("captured") / "repository"
    recovery(repository, "init", quick_keys=False)
    capture(repository, disk)
    return repository


@pytest.fixture
def repository(captured: Path, tmp_path: Path) -> Path:
    shutil.copytree(captured, tmp_path / "repository")
    return tmp_path / "repository"


def files(repository: Path, kind: str) -> list[Path]:
    return sorted(path for path in (repository / kind).rglob("*") if path.is_file())


def flip(path: Path, position: int = 20) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def said(repository: Path, *words: str | Path, status: int) -> str:
    return recovery(repository, *words, status=status).stderr


# -- opening


def test_a_wrong_password_is_told_as_such(repository: Path) -> None:
    for words in (["snapshots"], ["verify"]):
        ended = recovery(repository, *words, status=WRONG_PASSWORD, more={"RESTIC_PASSWORD": "guess-work"})
        assert "password" in ended.stderr
        assert "guess-work" not in ended.stderr


@pytest.mark.parametrize("what", ["missing", "empty folder", "other files", "a file", "below a file"])
def test_what_is_no_repository_is_told_as_such(what: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if what == "empty folder":
        place.mkdir()
    elif what == "other files":
        place.mkdir()
        (place / "letter.txt").write_text("x")
    elif what == "a file":
        place.write_text("x")
    elif what == "below a file":
        place.write_text("x")
        place = place / "repository"
    for words in (["snapshots"], ["verify"], ["restore", "latest", tmp_path / "out", "--yes"]):
        assert "no repository" in said(place, *words, status=NO_REPOSITORY)


def _config(repository: Path, change: Callable[[Config, Key], bytes]) -> None:
    opened = Repository.open(repository, PASSWORD)
    (repository / "config").write_bytes(change(opened.config, opened.key))


@pytest.mark.parametrize("version", [3, 99, 0, -1, 2**70])
def test_another_format_version_is_told_as_such(repository: Path, version: int) -> None:
    def newer(config: Config, key: Key) -> bytes:
        return bytes(
            key.seal(encode_json(Config(2, config.id, config.chunker_polynomial)).replace(b"2", b"%d" % version, 1))
        )

    _config(repository, newer)
    with pytest.raises(NoRepository, match=f"version {version}"):
        Repository.open(repository, PASSWORD)


def test_a_newer_format_version_ends_as_no_repository(repository: Path) -> None:
    _config(repository, lambda config, key: bytes(key.seal(encode_json(Config(3, config.id, "1")))))
    assert "version 3" in said(repository, "snapshots", status=NO_REPOSITORY)


@pytest.mark.parametrize("how", ["flipped", "empty", "cut", "no JSON", "another JSON", "nested"])
def test_a_damaged_config_is_told_as_such(repository: Path, how: str) -> None:
    def damaged(config: Config, key: Key) -> bytes:
        whole = (repository / "config").read_bytes()
        plain = {"no JSON": b"\xff{", "another JSON": b'{"version":"two"}', "nested": b'{"x":' + b"[" * 100_000}
        cut = {"flipped": whole[:20] + bytes([whole[20] ^ 1]) + whole[21:], "empty": b"", "cut": whole[:-1]}
        return cut[how] if how in cut else bytes(key.seal(plain[how]))

    _config(repository, damaged)
    with pytest.raises(RepositoryDamaged, match="config"):
        Repository.open(repository, PASSWORD)


def test_one_damaged_key_file_is_no_matter_as_there_are_two(repository: Path) -> None:
    keys = files(repository, "keys")
    assert len(keys) == 2
    for key in keys:
        whole = key.read_bytes()
        assert b'"N":32768,"r":8,"p":1' in whole
        for bad in (
            whole[:50],
            b"",
            whole.replace(b'"N":32768', b'"N":99999999999'),
            whole.replace(b'"salt":"', b'"salt":"A'),
        ):
            key.write_bytes(bad)
            assert len(Repository.open(repository, PASSWORD).snapshots()[0]) == 1
        key.unlink()
        Repository.open(repository, PASSWORD)
        with pytest.raises(WrongPassword):
            Repository.open(repository, "other")
        key.write_bytes(whole)
    flip(keys[0], 60)
    recovery(repository, "snapshots")
    recovery(repository, "snapshots", status=WRONG_PASSWORD, more={"RESTIC_PASSWORD": "other"})


def test_no_whole_key_file_is_damage_and_not_a_wrong_password(repository: Path) -> None:
    for key in files(repository, "keys"):
        flip(key, key.read_bytes().index(b'"salt"') + 20)
    assert "is whole" in said(repository, "snapshots", status=DAMAGED)
    for key in files(repository, "keys"):
        key.unlink()
    assert "has no key file" in said(repository, "snapshots", status=DAMAGED)
    (repository / "keys").rmdir()
    assert "has no key file" in said(repository, "snapshots", status=DAMAGED)


def test_both_programs_open_both_key_files(repository: Path, tmp_path: Path) -> None:
    for key in files(repository, "keys"):
        key.rename(tmp_path / "away")
        for program in restic_binaries():
            restic(program, repository, "snapshots")
        (tmp_path / "away").rename(key)


# -- what lies in it


@pytest.mark.parametrize("how", ["flipped", "empty", "cut"])
def test_a_damaged_index_file_is_named_and_made_up_for_when_reading(
    repository: Path, disk: Path, how: str, tmp_path: Path
) -> None:
    index = files(repository, "index")[0]
    flip(index) if how == "flipped" else index.write_bytes(b"" if how == "empty" else index.read_bytes()[:-5])
    with pytest.raises(RepositoryDamaged, match=f"index file {index.name[:8]}"):
        Repository.open(repository, PASSWORD).load_index()
    assert f"index file {index.name[:8]}" in said(repository, "capture", disk, status=DAMAGED)
    ended = recovery(repository, "restore", "latest", tmp_path / "out", "--yes")
    assert f"index file {index.name[:8]}" in ended.stderr
    assert equal_where(disk, tmp_path / "out", [(0, 2 * MIB)])
    run("e2fsck", "-fn", f"{tmp_path / 'out'}?offset={PARTITION_START}")


@pytest.mark.parametrize(
    "blob",
    [
        IndexBlob("ab", BlobType.DATA, 0, 100),
        IndexBlob("zz" * 32, BlobType.DATA, 0, 100),
        IndexBlob("ab" * 32, BlobType.DATA, -1, 100),
        IndexBlob("ab" * 32, BlobType.DATA, 0, 2**40),
        IndexBlob("ab" * 32, BlobType.DATA, 0, 100, -7),
    ],
    ids=str,
)
def test_an_index_file_that_says_impossible_things_is_damage(repository: Path, blob: IndexBlob) -> None:
    opened = Repository.open(repository, PASSWORD)
    name = opened.save_unpacked(FileKind.INDEX, IndexFile(packs=[IndexPack("cd" * 32, [blob])]))
    with pytest.raises(RepositoryDamaged, match=f"index file {name[:8]}"):
        opened.load_index()


@pytest.mark.parametrize(
    "plain", [b"[]", b'{"packs":5}', b'{"packs":' + b"[" * 100_000, b"{", b'{"packs":[{"id":"x"}]}']
)
def test_an_index_file_of_another_shape_is_damage(repository: Path, plain: bytes) -> None:
    opened = Repository.open(repository, PASSWORD)
    sealed = opened.key.seal(pack_unpacked(plain, 2))
    opened.store.save(FileKind.INDEX, file_name([sealed]), [sealed])
    with pytest.raises(RepositoryDamaged, match="index file"):
        opened.load_index()


def test_a_missing_index_is_damage_and_not_an_empty_image(repository: Path, tmp_path: Path) -> None:
    for index in files(repository, "index"):
        index.unlink()
    assert "is in no pack" in said(repository, "verify", status=DAMAGED)
    assert "is in no pack" in said(repository, "restore", "latest", tmp_path / "out", "--yes", status=DAMAGED)
    (repository / "index").rmdir()
    assert "is in no pack" in said(repository, "verify", status=DAMAGED)
    assert not (tmp_path / "out").exists()


def test_a_damaged_snapshot_is_named_and_the_others_are_listed(repository: Path, disk: Path) -> None:
    (broken,) = files(repository, "snapshots")
    whole = capture(repository, disk)
    flip(broken)
    ended = recovery(repository, "snapshots", "--json")
    assert broken.name[:8] in ended.stdout + ended.stderr
    assert whole in ended.stdout
    recovery(repository, "verify", whole[:8])
    assert broken.name[:8] in said(repository, "verify", broken.name[:8], status=DAMAGED)
    assert broken.name[:8] in said(repository, "verify", "latest", status=0)  # it may have been the latest


@pytest.mark.parametrize("tree", ["", "ab", "zz" * 32, "ab" * 32])
def test_a_snapshot_that_names_no_tree_is_damage(repository: Path, tree: str) -> None:
    opened = Repository.open(repository, PASSWORD)
    (known,) = opened.snapshots()[0]
    made = opened.save_snapshot(Snapshot(known.snapshot.time, tree, ["/x"], tags=["system-image"]))
    opened.load_index()
    with pytest.raises(RepositoryDamaged):
        SystemImage(opened, opened.find_snapshot(made))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b'{"nodes":5}', b'{"nodes":[{"name":5}]}', b'{"nodes":' + b"[" * 100_000,
        b'{"nodes":[{"name":"system.json","type":"file","uid":0,"gid":0,"content":["zz"]}]}',
        b'{"nodes":[{"name":"system.json","type":"file","uid":0,"gid":0,"content":["' + b"ab" * 32 + b'"]}]}',
        b'{"nodes":[{"name":"system.json","type":"file","uid":0,"gid":0,"content":{"a":[5]}}]}',
        b'{"nodes":[{"name":"system.json","type":"file","uid":0,"gid":0}]}',
    ],
    ids=lambda text: text[:80].decode(),
)  # fmt: skip
def test_a_malformed_tree_is_damage(repository: Path, text: bytes) -> None:
    opened = Repository.open(repository, PASSWORD)
    (known,) = opened.snapshots()[0]
    blob_id = hashlib.sha256(text).digest()
    with opened.lock() as lock, PackWriter(opened, lock) as packs:
        assert packs.claim(BlobType.TREE, blob_id)
        packs.add(seal_blob(opened, BlobType.TREE, blob_id, text, 1))
    made = opened.save_snapshot(Snapshot(known.snapshot.time, blob_id.hex(), ["/x"], tags=["system-image"]))
    opened.load_index()
    with pytest.raises(RepositoryDamaged):
        SystemImage(opened, opened.find_snapshot(made))


def test_a_tree_whose_pack_is_damaged_is_damage(repository: Path) -> None:
    opened = Repository.open(repository, PASSWORD)
    opened.load_index()
    (known,) = opened.snapshots()[0]
    place = opened.index.find(BlobType.TREE, bytes.fromhex(known.snapshot.tree))
    assert place is not None
    flip(opened.store.path(FileKind.PACK, place.pack.hex()), place.offset + 20)
    assert known.snapshot.tree[:8] in said(repository, "verify", status=DAMAGED)


def test_what_a_run_that_was_cut_off_left_is_passed_over_by_both(repository: Path) -> None:
    for name in ("data/ab", "index", "snapshots", "locks", "keys", ""):
        folder = repository / name
        folder.mkdir(exist_ok=True)
        (folder / f"{'ab' * 32}-tmp-00112233").write_bytes(b"half of it")
    recovery(repository, "verify")
    recovery(repository, "snapshots")
    for program in restic_binaries():
        restic_check(program, repository)
        restic(program, repository, "prune")


def test_folders_that_a_copy_left_out_because_they_were_empty_are_no_matter(repository: Path, disk: Path) -> None:
    run("find", repository, "-type", "d", "-empty", "-delete")
    assert not (repository / "locks").exists()
    recovery(repository, "verify")
    capture(repository, disk)
    restic_check(restic_binaries()[-1], repository)


# -- making one


def test_making_one_twice_is_refused_and_changes_nothing(repository: Path) -> None:
    before = {path: path.read_bytes() for path in files(repository, ".")}
    assert "already holds a repository" in said(repository, "init", status=USAGE)
    assert {path: path.read_bytes() for path in files(repository, ".")} == before


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("x")
    assert "not empty" in said(tmp_path, "init", status=USAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "not a folder" in said(tmp_path / "file", "init", status=NO_REPOSITORY)
    said(tmp_path / "file" / "below", "init", status=DEVICE)


def test_one_that_lost_its_config_is_not_made_anew_over_its_data(repository: Path) -> None:
    (repository / "config").unlink()
    assert "lost its file 'config'" in said(repository, "init", status=USAGE)
    assert len(files(repository, "keys")) == 2


@each_restic
def test_one_whose_making_was_cut_off_can_be_made_again(program: Path, tmp_path: Path, disk: Path) -> None:
    """Keys of the first attempt would open with the same password, and fit no config."""
    repository = tmp_path / "repository"
    for _ in range(2):
        recovery(repository, "init")
        (repository / "config").unlink()
    (repository / "keys" / f"{'ab' * 32}-tmp-00112233").write_bytes(b"half")
    recovery(repository, "init")
    capture(repository, disk)
    restic_check(program, repository)


# -- the place it lies in


def test_a_read_only_place_is_told_and_still_read(repository: Path, disk: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    run("mount", "--bind", repository, place)
    try:
        run("mount", "-o", "remount,bind,ro", place)
        assert "read-only" in said(place, "capture", disk, status=DEVICE)
        assert "read-only" in said(place / "new", "init", status=DEVICE)
        recovery(place, "snapshots")
        recovery(place, "verify")
        recovery(place, "restore", "latest", tmp_path / "out", "--yes")
    finally:
        umount(place)


@pytest.fixture(params=["tmpfs", "ext4"])
def tight(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder with room for some 5 MiB, less than an image takes."""
    place = tmp_path / "tight"
    place.mkdir()
    if request.param == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", place)
        try:
            yield place
        finally:
            umount(place)
        return
    image = blank(tmp_path / "tight.img", 6 * MIB)
    run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-b", "1024", "-N", "400", image)
    with loop(image) as device, mounted(device, place):
        yield place


def test_a_destination_that_is_too_small_is_told_before_anything_is_written(tight: Path, disk: Path) -> None:
    repository = tight / "repository"
    recovery(repository, "init")
    before = files(repository, ".")
    assert "free" in said(repository, "capture", disk, status=FULL)
    assert files(repository, ".") == before


def test_a_destination_that_fills_up_ends_the_capture_and_stays_whole(tight: Path, disk: Path) -> None:
    repository = tight / "repository"
    recovery(repository, "init")
    assert "no room left" in said(repository, "capture", "--no-space-check", disk, status=FULL)
    assert not [path for path in files(repository, ".") if "-tmp-" in path.name]
    assert files(repository, "locks") == files(repository, "snapshots") == []
    for program in restic_binaries():
        restic(program, repository, "check", "--read-data")
    recovery(repository, "snapshots")


def test_making_one_where_there_is_no_room_is_told(tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place)
    try:
        with pytest.raises(OSError, match="No space"):
            (place / "filler").write_bytes(bytes(64 * KIB + 1))
        assert "no room left" in said(place / "repository", "init", status=FULL)
        (place / "filler").unlink()
        recovery(place / "repository", "init")
        recovery(place / "repository", "snapshots")
    finally:
        umount(place)


# -- memory

MEASURE = """
import gc, os, sys
from pathlib import Path
from recovery.repository.repository import Repository
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
repository = Repository.open(Path(sys.argv[1]), sys.argv[2])
gc.collect()
before = resident()
repository.load_index()
gc.collect()
print(len(repository.index), resident() - before, repository.index.memory_bytes())
"""


def _grown(repository: Repository, blobs: int, each: int = 20_000) -> int:
    """Add index files of ``blobs`` more; how much a process grows that reads them all."""
    for _ in range(0, blobs, each):
        entries = [IndexBlob(os.urandom(32).hex(), BlobType.DATA, n * 100, 100, 500) for n in range(each)]
        repository.save_index(IndexPack(os.urandom(32).hex(), entries[at : at + 20]) for at in range(0, each, 20))
    line = [sys.executable, "-c", MEASURE, str(repository.store.root), PASSWORD]
    ended = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=True)
    count, grown, told = map(int, ended.stdout.split())
    assert told <= 100 * count
    return grown


def test_each_further_blob_takes_at_most_100_bytes_of_the_process(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repository", PASSWORD)
    first = _grown(repository, 60_000)
    second = _grown(repository, 300_000)
    assert first > 0
    assert second - first <= 100 * 300_000
