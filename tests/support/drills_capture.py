"""Drills: a capture that is cut off, and memory that flips bits under it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from recovery.image import writer
from recovery.repository import packer
from recovery.repository.packer import PackWriter, SealedBlob
from tests.support.disks import MIB
from tests.support.drills import (
    Bench,
    Chunks,
    drill,
    make_repository,
    make_source,
    names,
    restic_finds_nothing_wrong,
    store,
    stores_what_lacks,
)
from tests.support.faults import Steps, in_child


def _fresh(bench: Bench, empty: Path) -> Path:
    folder = bench.work / "repository"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(empty, folder)
    return folder


def _shape(folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many files of each kind there are, whole and not."""
    kinds = ("data", "index", "snapshots", "locks")
    whole = tuple(len(names(folder, kind)) for kind in kinds)
    return whole, tuple(sum("-tmp-" in path.name for path in (folder / kind).rglob("*")) for kind in kinds)


def _goes_on(bench: Bench, folder: Path, source: Path, chunks: Chunks) -> None:
    """After a cut: restic finds nothing wrong, and the next capture stores only what no index names."""
    restic_finds_nothing_wrong(folder)
    stores_what_lacks(bench, folder, source, chunks)


def _cut_at(folder: Path, source: Path, step: int, torn: bool, power_seed: int | None = None) -> int | None:
    """Capture and be killed before step ``step``, or have the power cut there with what ``power_seed`` makes of it.

    How many steps there were, when the capture came to its end.
    """

    def action() -> int:
        steps = Steps(folder, step, torn=torn)
        if power_seed is not None:
            steps.then = steps.power_cut(power_seed)
        steps.install()
        store(folder, source)
        return steps.count

    ended = in_child(action)
    assert ended.killed or ended.done, ended
    return None if ended.killed else int(ended.result)


@drill("capture")
def a_capture_killed_at_any_publishing_step_leaves_a_sound_repository_and_goes_on(bench: Bench) -> None:
    """The test suite tries each step of a small capture, the soak some of a larger one."""
    source = make_source(bench, (1 if bench.short else 3) * MIB)
    chunks = Chunks.of(source)
    empty = bench.work / "empty"
    make_repository(empty)
    folder = _fresh(bench, empty)
    whole = _cut_at(folder, source, 0, torn=False)
    assert whole is not None
    assert whole > 30, f"only {whole} steps were found"
    assert len(names(folder, "snapshots")) == 1
    seen: set[Any] = set()
    for step in range(1, whole + 1) if bench.short else bench.random.sample(range(1, whole + 1), 12):
        folder = _fresh(bench, empty)
        assert _cut_at(folder, source, step, torn=bench.random.random() < 0.5) is None
        bench.counts["kills"] += 1
        shape = _shape(folder)
        if shape not in seen or not bench.short:
            _goes_on(bench, folder, source, chunks)
        seen.add(shape)


@drill("capture")
def a_power_cut_that_loses_what_was_not_synced_leaves_a_sound_repository(bench: Bench) -> None:
    source = make_source(bench, (1 if bench.short else 4) * MIB)
    chunks = Chunks.of(source)
    empty = bench.work / "empty"
    make_repository(empty)
    whole = _cut_at(_fresh(bench, empty), source, 0, torn=False)
    assert whole is not None
    for _ in range(6 if bench.short else 12):
        folder = _fresh(bench, empty)
        at, seed = bench.random.randint(1, whole), bench.random.randrange(1 << 32)
        _cut_at(folder, source, at, torn=bench.random.random() < 0.5, power_seed=seed)
        bench.counts["power cuts"] += 1
        _goes_on(bench, folder, source, chunks)


@drill("capture")
def a_capture_killed_at_a_random_moment_leaves_a_sound_repository_and_goes_on(bench: Bench) -> None:
    source = make_source(bench, 8 * MIB)
    chunks = Chunks.of(source)
    empty = bench.work / "empty"
    make_repository(empty)
    whole = in_child(lambda: store(_fresh(bench, empty), source))
    assert whole.done, whole
    for _ in range(3 if bench.short else 8):
        folder = _fresh(bench, empty)
        after = bench.random.uniform(0.0, whole.seconds)
        bench.counts["kills"] += in_child(partial(store, folder, source), kill_after=after).killed
        _goes_on(bench, folder, source, chunks)


@drill("capture")
def a_bit_flipped_in_memory_between_hash_and_pack_is_noticed(bench: Bench) -> None:
    source = make_source(bench, 3 * MIB)
    chunks = Chunks.of(source)
    empty = bench.work / "empty"
    make_repository(empty)
    for sealed in (False, True) * (1 if bench.short else 4):
        folder = _fresh(bench, empty)
        blob, where = bench.random.randrange(12), bench.random.random()

        def action(folder: Path = folder, sealed: bool = sealed, blob: int = blob, where: float = where) -> Any:
            (_flip_sealed if sealed else _flip_plain)(blob, where)
            return store(folder, source)

        ended = in_child(action)
        bench.counts["flips"] += 1
        assert ended.error == "DeviceError", ended
        assert "does not read back as it was written" in ended.message, ended
        assert not names(folder, "snapshots")
        _goes_on(bench, folder, source, chunks)


def _flip_plain(blob: int, where: float) -> None:
    """Flip a bit of the chunk numbered ``blob`` after it was hashed, before it is compressed and sealed."""
    own, seen = packer.seal_blob, [0]

    def seal(repository: Any, kind: Any, blob_id: bytes, plain: Any, level: int) -> SealedBlob:
        if seen[0] == blob:
            plain = bytearray(plain)
            plain[int(len(plain) * where)] ^= 4
        seen[0] += 1
        return own(repository, kind, blob_id, plain, level)

    writer.seal_blob = seal  # type: ignore[attr-defined]


def _flip_sealed(blob: int, where: float) -> None:
    """Flip a bit of the blob numbered ``blob`` after it was sealed, before its pack is hashed."""
    own, seen = PackWriter.add, [0]

    def add(self: PackWriter, sealed: SealedBlob, place: Any = None) -> None:
        if seen[0] == blob:
            content = bytearray(sealed.sealed)
            content[int(len(content) * where)] ^= 4
            sealed = SealedBlob(sealed.type, sealed.id, content, sealed.raw_length)
        seen[0] += 1
        own(self, sealed, place)

    PackWriter.add = add  # type: ignore[assignment,method-assign]
