"""What must not be called success at the end of a run: an index that was not written, packs that are gone by then."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from recovery.devices.source_process import SharedBuffers
from recovery.errors import DeviceError
from recovery.image.layout import SPARSE_MARK_BYTES
from recovery.image.writer import ChunkWriter
from recovery.progress import Progress
from recovery.repository.format import BlobType, IndexPack
from recovery.repository.packer import PackWriter, seal_blob
from recovery.repository.repository import Repository
from recovery.repository.store import FileKind
from tests.support.repositories import fresh_repository, reopened

KIB = 1 << 10


def _add(repository: Repository, packs: PackWriter, number: int) -> None:
    content = random.Random(number).randbytes(100 * KIB)
    blob_id = number.to_bytes(32, "big")
    assert packs.claim(BlobType.DATA, blob_id)
    packs.add(seal_blob(repository, BlobType.DATA, blob_id, content, 1))


def test_an_index_that_cannot_be_written_for_whatever_reason_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = fresh_repository(tmp_path / "repository")

    def out_of_memory(packs: Iterable[IndexPack]) -> str:
        raise MemoryError

    monkeypatch.setattr(repository, "save_index", out_of_memory)
    with repository.lock() as lock, pytest.raises(DeviceError, match="MemoryError"):
        with PackWriter(repository, lock, verify=False) as packs:
            _add(repository, packs, 1)
    assert not list(repository.store.list(FileKind.INDEX))


def test_a_medium_that_loses_old_packs_for_new_ones_is_found_at_the_end(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository")
    with repository.lock() as lock:
        with PackWriter(repository, lock, verify=False, pack_bytes=200 * KIB) as packs:
            for number in range(10):
                _add(repository, packs, number)
            packs.finish()
            names = [name for name, _ in repository.store.list(FileKind.PACK)]
            assert len(names) == 5
            lost = repository.store.path(FileKind.PACK, names[2])
            lost.write_bytes(repository.store.load(FileKind.PACK, names[4]))  # the address wrapped around
            packs._verify = True
            with pytest.raises(DeviceError, match="1 of 5 packs"):
                packs.check_medium(Progress())
    assert not lost.exists()
    assert any("missing" in problem for problem in reopened(repository).load_index(present_only=True))


def test_a_long_hole_does_not_pile_up(tmp_path: Path) -> None:
    repository = fresh_repository(tmp_path / "repository")
    with repository.lock() as lock, PackWriter(repository, lock, verify=False) as packs:
        with ChunkWriter(repository, packs, SharedBuffers(5, 64 * KIB), level=1) as chunks:
            for _ in range(5000):
                chunks.put_zeros(SPARSE_MARK_BYTES)
                assert len(chunks._under_way) <= 1
            assert len(chunks.take_ids()) == 5000 * 32
