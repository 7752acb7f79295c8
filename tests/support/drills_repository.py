"""Drills: repositories with flipped bits, missing packs and shortened trees.

What must hold of any damage, whatever it hit: it is named, all that it did not hit can be restored, and where the
restored disk differs from the original, that place was named.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from recovery.errors import RepositoryDamaged, UsageError
from recovery.extent import Extent
from recovery.image.verify import verify
from recovery.image.view import DiskImage
from recovery.progress import Progress
from recovery.repository.format import BlobType
from recovery.repository.repository import Repository
from tests.support.disks import MIB
from tests.support.drills import (
    RESTIC,
    Bench,
    differences,
    drill,
    equal,
    inside,
    make_repository,
    make_source,
    open_image,
    restored,
    store,
)
from tests.support.faults import in_child
from tests.support.images import PASSWORD, environment, restic


@dataclass(frozen=True)
class _Sound:
    """A repository with one image, and the disk."""

    source: Path
    repository: Path
    snapshot: str

    def copy(self, bench: Bench) -> Path:
        """A copy to be damaged."""
        folder = bench.work / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.repository, folder)
        return folder


def _make(bench: Bench) -> _Sound:
    source, repository = make_source(bench, 3 * MIB), bench.work / "repository"
    make_repository(repository)
    ended = in_child(partial(store, repository, source))
    assert ended.done, ended
    return _Sound(source, repository, ended.result["snapshot"])


@dataclass(frozen=True)
class _Judged:
    """What came of damage: ``refused`` says why nothing could be restored; else the areas that were named."""

    refused: str
    verified: list[Extent]
    problems: str
    named: list[Extent]


def _judge(bench: Bench, sound: _Sound, folder: Path) -> _Judged:
    """Verify and restore what is left; nothing wrong may be written without being named."""
    target = bench.work / "target.img"
    target.unlink(missing_ok=True)
    with _warnings() as warned:
        try:
            image = open_image(folder, sound.snapshot)
            result = verify(image, Progress())
            written = restored(folder, target, sound.snapshot, partial=True)
        except (RepositoryDamaged, UsageError) as error:
            return _Judged(error.message, [], "", [])
    named = [extent for extent, _ in written.damaged]
    found = differences(sound.source, target)
    assert inside(found, named), f"{found} differ, and {named} were named"
    hit = [damage.extent for damage in result.damages]
    assert sorted(set(named)) == sorted(set(hit)), f"verify names {hit}, the restore {named}"
    if result.sound:
        assert not found
    return _Judged("", hit, "; ".join([*result.pack_problems, *warned]), named)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What is logged as a warning meanwhile."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    found: list[str] = []
    handler, log = Collect(logging.WARNING), logging.getLogger("recovery")
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


def _flip(bench: Bench, path: Path, start: int = 0, end: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    at = bench.random.randrange(start, len(content) if end is None else end)
    content[at] ^= 1 << bench.random.randrange(8)
    path.write_bytes(content)
    bench.counts["flips"] += 1


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in (folder / kind).rglob("*") if path.is_file())


def _pack_of(folder: Path, kind: BlobType, blob_id: bytes) -> tuple[Path, int, int]:
    """The pack that holds a blob, and the blob's place in it."""
    repository = Repository.open(folder, PASSWORD)
    repository.load_index()
    place = repository.index.find(kind, blob_id)
    assert place is not None
    name = place.pack.hex()
    return folder / "data" / name[:2] / name, place.offset, place.length


@drill("repository")
def a_flipped_bit_anywhere_is_named_and_all_else_comes_back(bench: Bench) -> None:
    sound = _make(bench)
    for _ in range(12 if bench.short else 60):
        folder = sound.copy(bench)
        path = bench.random.choice(_files(folder, "."))
        _flip(bench, path)
        judged = _judge(bench, sound, folder)
        said = judged.refused or judged.problems
        where = path.relative_to(folder)
        key_of_another = where.parts[0] == "keys"  # the first that opens serves; the damaged one may never be tried
        assert key_of_another or path.name[:8] in said or str(where) in said, f"{where} is not named: {said!r}"


@drill("repository")
def a_flipped_bit_in_a_chunk_loses_that_chunk_alone(bench: Bench) -> None:
    sound = _make(bench)
    disk = open_image(sound.repository).disk()
    pieces = _noise(disk)
    for _ in range(4 if bench.short else 30):
        folder = sound.copy(bench)
        number = bench.random.choice(pieces)
        pack, offset, length = _pack_of(folder, BlobType.DATA, disk.id_of(number))
        _flip(bench, pack, offset, offset + length)
        judged = _judge(bench, sound, folder)
        if disk.layout[number].extent.offset:
            assert judged.named == [disk.layout[number].extent], judged
        assert pack.name[:8] in judged.problems, judged


def _noise(disk: DiskImage) -> list[int]:
    """The pieces that are not all zeros: those are made up for."""
    return [n for n, (extent, hole) in enumerate(disk.layout) if not hole and any(disk.read(*extent))]


@drill("repository")
def a_flipped_bit_in_a_packs_header_or_an_index_loses_nothing(bench: Bench) -> None:
    sound = _make(bench)
    for number in range(4 if bench.short else 20):
        folder = sound.copy(bench)
        if number % 2:
            path = bench.random.choice(_files(folder, "data"))
            length = int.from_bytes(path.read_bytes()[-4:], "little")
            _flip(bench, path, path.stat().st_size - 4 - length)
        else:
            path = bench.random.choice(_files(folder, "index"))
            _flip(bench, path)
        judged = _judge(bench, sound, folder)
        assert not judged.refused, judged
        assert not judged.named, judged
        assert path.name[:8] in judged.problems, (path, judged)


@drill("repository")
def a_flipped_bit_in_a_key_file_is_made_up_for_by_the_second(bench: Bench) -> None:
    sound = _make(bench)
    for _ in range(6 if bench.short else 40):
        folder = sound.copy(bench)
        keys = _files(folder, "keys")
        assert len(keys) == 2
        _flip(bench, bench.random.choice(keys))
        judged = _judge(bench, sound, folder)
        assert not judged.refused, judged
        assert not judged.named, judged


@drill("repository")
def what_nothing_can_make_up_for_is_refused_by_name(bench: Bench) -> None:
    """The snapshot, ``config``, and the blobs of tree, manifest and maps."""
    sound = _make(bench)
    for _ in range(1 if bench.short else 5):
        for kind in ("config", "snapshot", "tree", "manifest"):
            folder = sound.copy(bench)
            start, end, says = 0, None, ""
            if kind == "config":
                path, says = folder / "config", "config"
            elif kind == "snapshot":
                path, says = folder / "snapshots" / sound.snapshot, sound.snapshot[:8]
            else:
                image = open_image(folder)
                content = bytes(image.node("system.json").content)
                blob = image.stored.snapshot.tree if kind == "tree" else content[2:66].decode()
                path, start, length = _pack_of(
                    folder, BlobType.TREE if kind == "tree" else BlobType.DATA, bytes.fromhex(blob)
                )
                end, says = start + length, blob[:8]
            _flip(bench, path, start, end)
            judged = _judge(bench, sound, folder)
            assert says in judged.refused, (kind, judged)


@drill("repository")
def a_pack_that_is_missing_or_cut_short_loses_what_was_in_it_and_the_next_capture_heals(bench: Bench) -> None:
    sound = _make(bench)
    for number in range(3 if bench.short else 16):
        folder = sound.copy(bench)
        pack = bench.random.choice(_files(folder, "data"))
        size = pack.stat().st_size
        if number % 2:
            pack.write_bytes(pack.read_bytes()[: bench.random.randrange(size)])
        else:
            pack.unlink()
        bench.counts["packs lost"] += 1
        judged = _judge(bench, sound, folder)
        assert judged.refused or pack.name[:8] in judged.problems, (pack, judged)
        again = in_child(partial(store, folder, sound.source))
        assert again.done, again
        target = bench.work / "healed.img"
        target.unlink(missing_ok=True)
        assert restored(folder, target, again.result["snapshot"]).complete
        assert equal(sound.source, target)


@drill("repository")
def an_image_that_restic_repaired_by_shortening_it_is_refused(bench: Bench) -> None:
    sound = _make(bench)
    disk = open_image(sound.repository).disk()
    for _ in range(1 if bench.short else 6):
        folder = sound.copy(bench)
        number = bench.random.choice(_noise(disk))
        pack, _, _ = _pack_of(folder, BlobType.DATA, disk.id_of(number))
        pack.unlink()
        restic(RESTIC, folder, "repair", "index")
        asked = subprocess.run(
            [RESTIC, "--no-cache", "repair", "snapshots", "--forget"],
            env=environment(folder), capture_output=True, check=False,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr.decode()
        bench.counts["repairs"] += 1
        for path in _files(folder, "snapshots"):
            # The manifest may lie in the pack that is gone: restic shortens it then, too.
            with pytest.raises(RepositoryDamaged, match=r"changed after it was captured|manifest is malformed"):
                open_image(folder, path.name).disk()
