"""Image files with holes: what is stored and written is what a file without holes gives."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank, overwrite, partitioned, read_at, run, sha256
from tests.support.program import recovery, restic
from tests.support.restic import restic_binaries

pytestmark = pytest.mark.disk

RESTIC = restic_binaries()[-1]
SIZE = 301 * MIB + 4096
_SCRIPT = "label: gpt\nlabel-id: 77777777-2222-3333-4444-555555555555\nstart=3MiB, size=250MiB, type=L\n"


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A partition of nothing that is known, so captured whole: a little noise, and zeros in holes and out of them."""
    made = random.Random(5)
    path = partitioned(tmp_path / "disk.img", SIZE, _SCRIPT)
    for offset in (3 * MIB + 7 * 4096, 20 * MIB, 22 * MIB - 4096, 170 * MIB + 512):
        overwrite(path, offset, made.randbytes(3 * 4096))
    overwrite(path, 100 * MIB, bytes(9 * MIB))
    return path


def test_a_sparse_file_is_stored_as_a_dense_one(sparse: Path, tmp_path: Path) -> None:
    """Whichever comes first: the other finds every chunk there, and restic gives back the disk."""
    dense = tmp_path / "dense" / "disk.img"
    dense.parent.mkdir()
    run("cp", "--sparse=never", sparse, dense)
    assert dense.stat().st_blocks * 512 >= SIZE > 5 * sparse.stat().st_blocks * 512
    counted = {}
    whole = sha256(sparse)
    for first, second in ((sparse, dense), (dense, sparse)):
        repository = tmp_path / f"first-{first.parent.name}"
        recovery("init", repository=repository)
        one = recovery("capture", first, "--json", repository=repository).event("summary")
        other = recovery("capture", second, "--json", repository=repository).event("summary")
        assert other["new_bytes"] == 0
        counted[first] = {key: one[key] for key in ("used_bytes", "new_bytes", "known_bytes")}
        for snapshot in (one["snapshot_id"], other["snapshot_id"]):
            dumped = restic(RESTIC, "dump", snapshot, "/disk.img", repository=repository)
            assert hashlib.sha256(dumped).hexdigest() == whole
        assert "no errors were found" in restic(RESTIC, "check", "--read-data", repository=repository).decode()
    assert counted[sparse] == counted[dense]


@pytest.mark.parametrize("way", ["restore", "clone"])
def test_zeros_are_written_where_a_target_holds_something_and_left_out_where_it_does_not(
    sparse: Path, tmp_path: Path, way: str
) -> None:
    target = blank(tmp_path / "target.img", SIZE)
    overwrite(target, 60 * MIB, b"\xa5" * (2 * MIB))
    overwrite(target, 101 * MIB, b"\xa5" * 512)
    repository = tmp_path / "repository"
    if way == "restore":
        recovery("init", repository=repository)
        recovery("capture", sparse, repository=repository)
        recovery("restore", "latest", target, "--yes", repository=repository)
    else:
        recovery("clone", sparse, target, "--yes")
    assert sha256(target) == sha256(sparse)
    assert target.stat().st_blocks * 512 < 60 * MIB


@pytest.mark.parametrize("way", ["restore", "clone"])
def test_zeros_need_no_room(tmp_path: Path, way: str) -> None:
    """A disk captured whole, larger than all that is free, goes onto another file: it is nothing but holes."""
    room = os.statvfs(tmp_path)
    size = room.f_bavail * room.f_frsize + 20 * 1024 * MIB
    source, target = blank(tmp_path / "disk.img", size), blank(tmp_path / "target.img", size)
    overwrite(source, 5 * MIB, b"\xa5" * MIB)
    repository = tmp_path / "repository"
    if way == "restore":
        recovery("init", repository=repository)
        used = recovery("capture", source, "--json", repository=repository).event("summary")["used_bytes"]
        assert used == size
        recovery("restore", "latest", target, "--yes", "--no-verify", repository=repository)
    else:
        recovery("clone", source, target, "--yes", "--no-verify")
    assert read_at(target, 5 * MIB, MIB) == b"\xa5" * MIB
    assert target.stat().st_blocks * 512 < 8 * MIB
