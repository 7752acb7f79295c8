"""Repository files in a folder."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.errors import DestinationFull, DeviceError, NoRepository, RecoveryError, RepositoryDamaged
from recovery.repository.store import FileKind, LocalStore, file_name, store_error


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "repository")
    made.create()
    return made


def _save(store: LocalStore, kind: FileKind, *pieces: bytes) -> str:
    name = file_name(pieces)
    store.save(kind, name, pieces)
    return name


def test_the_folders_are_those_of_restics_default_layout(store: LocalStore) -> None:
    assert {entry.name for entry in store.root.iterdir()} == {"data", "index", "keys", "locks", "snapshots"}
    assert {entry.name for entry in (store.root / "data").iterdir()} == {f"{number:02x}" for number in range(256)}
    assert store.root.stat().st_mode & 0o077 == 0


def test_a_file_is_named_by_its_sha256_lies_in_its_place_and_only_we_may_read_it(store: LocalStore) -> None:
    name = _save(store, FileKind.PACK, b"abc", b"", b"def")
    path = store.root / "data" / name[:2] / name
    assert name == hashlib.sha256(b"abcdef").hexdigest()
    assert path.read_bytes() == b"abcdef"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(store.list(FileKind.PACK)) == [(name, 6)]
    assert store.size(FileKind.PACK, name) == 6
    index = _save(store, FileKind.INDEX, b"i")
    assert (store.root / "index" / index).read_bytes() == b"i"


def test_more_pieces_than_one_call_takes_are_written_in_order(store: LocalStore) -> None:
    pieces = [number.to_bytes(4, "big") * (number % 5) for number in range(3000)]
    name = _save(store, FileKind.PACK, *pieces)
    assert store.load(FileKind.PACK, name) == b"".join(pieces)


def test_a_write_that_fails_leaves_nothing_behind(store: LocalStore) -> None:
    closed = memoryview(b"gone")
    closed.release()
    with pytest.raises(ValueError):
        store.save(FileKind.PACK, "ab" * 32, [b"first", closed])
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_what_is_not_a_repository_file_is_passed_over(store: LocalStore) -> None:
    name = _save(store, FileKind.PACK, b"x")
    folder = store.root / "data" / name[:2]
    for other in (f"{name}-tmp-0a1b2c3d", "README", name.upper().replace("0", "A"), name[:-1], "." + name):
        (folder / other).write_bytes(b"rest")
    (folder / ("ab" * 32)).mkdir()
    (folder / ("cd" * 32)).symlink_to("nowhere")
    (store.root / "data" / "file").write_bytes(b"")
    assert list(store.list(FileKind.PACK)) == [(name, 1)]


@pytest.mark.parametrize("kind", [FileKind.PACK, FileKind.LOCK, FileKind.SNAPSHOT])
def test_a_folder_that_is_missing_is_empty_and_made_when_needed(store: LocalStore, kind: FileKind) -> None:
    for folder in (store.root / "data").iterdir() if kind is FileKind.PACK else [store.root / kind.value]:
        folder.rmdir()
    assert list(store.list(kind)) == []
    name = _save(store, kind, b"x")
    assert list(store.list(kind)) == [(name, 1)]


def test_a_repository_that_is_gone_is_not_begun_anew_in_its_place(store: LocalStore) -> None:
    """Its disk was pulled out: what lies under the mount point is another disk, or memory."""
    store.root.rename(store.root.with_name("away"))
    with pytest.raises(RecoveryError):
        _save(store, FileKind.PACK, b"x")
    assert not store.root.exists()


def test_listing_holds_while_files_come_and_go(store: LocalStore) -> None:
    ended = threading.Event()

    def churn() -> None:
        number = 0
        while not ended.is_set():
            number = (number + 1) % 64
            path = store.root / "locks" / f"{number:064x}"
            path.write_bytes(b"x")
            path.unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(3000):
            list(store.list(FileKind.LOCK))
    finally:
        ended.set()
        thread.join()


def test_a_missing_file_is_damage_and_is_named(store: LocalStore) -> None:
    name = "ab" * 32
    for load in (
        lambda: store.load(FileKind.INDEX, name),
        lambda: store.load_range(FileKind.PACK, name, 0, 1),
        lambda: store.load_uncached(FileKind.PACK, name),
    ):
        with pytest.raises(RepositoryDamaged, match=name):
            load()
    assert store.size(FileKind.PACK, name) is None
    store.remove(FileKind.PACK, name)


def test_a_range_is_loaded_whole_or_is_damage(store: LocalStore) -> None:
    name = _save(store, FileKind.PACK, bytes(range(100)))
    assert store.load_range(FileKind.PACK, name, 10, 20) == bytes(range(10, 30))
    assert store.load_range(FileKind.PACK, name, 100, 0) == b""
    for offset, length in ((90, 11), (100, 1), (2**40, 5), (0, 2**40)):
        with pytest.raises(RepositoryDamaged, match="shorter"):
            store.load_range(FileKind.PACK, name, offset, length)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.sampled_from([0, 1, 511, 512, 4095, 4096, 4097, 8192, 1 << 20, (1 << 20) + 1]), scratch=st.booleans())
def test_reading_past_the_cache_gives_what_was_written(store: LocalStore, size: int, scratch: bool) -> None:
    data = os.urandom(size)
    name = _save(store, FileKind.PACK, data)
    room = mmap.mmap(-1, 2 << 20) if scratch else None
    assert bytes(store.load_uncached(FileKind.PACK, name, room)) == data


def test_config_is_what_makes_a_repository(store: LocalStore) -> None:
    assert not store.exists()
    store.save(FileKind.CONFIG, "", [b"c"])
    assert store.exists()
    assert (store.root / "config").read_bytes() == b"c"


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert not LocalStore(tmp_path / "file").exists()
    with pytest.raises(NoRepository, match="not a folder"):
        LocalStore(tmp_path / "file").create()
    with pytest.raises(DeviceError):
        LocalStore(tmp_path / "file" / "below").create()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DestinationFull),
        (errno.EDQUOT, DestinationFull),
        (errno.EFBIG, DestinationFull),
        (errno.EROFS, DeviceError),
        (errno.EACCES, DeviceError),
        (errno.EIO, DeviceError),
        (errno.ESTALE, DeviceError),
    ],
)
def test_what_the_system_says_becomes_what_the_user_is_told(number: int, kind: type[Exception]) -> None:
    told = store_error(OSError(number, os.strerror(number)), "writing there")
    assert type(told) is kind
    assert "writing there" in told.message
    assert told.hint


def test_a_destination_that_vanishes_before_a_file_gets_its_name_is_told(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.fsync

    def vanish(file: int) -> None:
        own(file)
        store.root.rename(store.root.with_name("elsewhere"))

    monkeypatch.setattr(os, "fsync", vanish)
    with pytest.raises(DeviceError, match="is gone"):
        _save(store, FileKind.SNAPSHOT, b"abc")
    with pytest.raises(DeviceError, match="is gone"):
        store.free_bytes()
    assert not store.root.exists()
