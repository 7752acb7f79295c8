"""Drills: a repository or a disk that somebody prepared, whose keys are right and whose content is not.

Every file of a repository is authenticated, so none of this comes from a failing disk; it is somebody with the
password, or a bug in another program.  What must hold: a clear error or a result, in bounded memory and time.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import zstandard

from recovery.devices.table import examine_table
from recovery.errors import RecoveryError
from recovery.extent import Extent
from recovery.image.restore import restore
from recovery.image.restore_plan import plan_restore
from recovery.image.verify import verify
from recovery.image.view import SystemImage
from recovery.progress import Progress
from recovery.repository.format import BlobType, encode_header_length, pack_unpacked
from recovery.repository.repository import Repository
from recovery.repository.store import file_name
from tests.support.disks import GPT_SCRIPT, MBR_SCRIPT, MIB, overwrite, partitioned, read_at
from tests.support.drills import Bench, drill, make_repository, make_source, store
from tests.support.faults import in_child
from tests.support.hostile import hostile_bytes, hostile_json, hostile_key, hostile_map
from tests.support.images import PASSWORD

#: What a case may take beyond what the process had: the engine's own limits are 512 MiB and 1 GiB.
_MEMORY_BYTES = 2 << 30
_SECONDS = 20.0


class _Prepared:
    """A small repository, in pieces that can be put back changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = Repository.open(folder, PASSWORD)
        self.repository.load_index()
        (self.stored,) = self.repository.snapshots()[0]
        tree = self.repository.load_blob(BlobType.TREE, bytes.fromhex(self.stored.snapshot.tree))
        self.tree: dict[str, Any] = json.loads(tree)

    def opened(self, kind: str) -> Any:
        """The JSON of the only file of a kind."""
        (path,) = (self.folder / kind).iterdir()
        plain = self.repository.key.open(path.read_bytes())
        return json.loads(_unpacked(plain))

    def replace(self, kind: str, plain: bytes, *, packed: bool = True) -> None:
        """Put a sealed file in the place of all of its kind."""
        sealed = bytes(self.repository.key.seal(pack_unpacked(plain, 2) if packed else plain))
        for path in (self.folder / kind).iterdir():
            path.unlink()
        (self.folder / kind / file_name([sealed])).write_bytes(sealed)

    def content(self, name: str) -> bytes:
        """A small file of the image."""
        (node,) = [node for node in self.tree["nodes"] if node["name"] == name]
        return b"".join(self.repository.load_blob(BlobType.DATA, bytes.fromhex(blob)) for blob in node["content"])

    def with_file(self, name: str, content: bytes) -> None:
        """An image whose file ``name`` has another content: blob, tree, index and snapshot are made anew."""
        blob_id = hashlib.sha256(content).hexdigest()
        nodes = [
            {**node, "content": [blob_id], "size": len(content)} if node["name"] == name else node
            for node in self.tree["nodes"]
        ]
        self.with_tree(json.dumps({"nodes": nodes}).encode(), [(BlobType.DATA, content)])

    def with_tree(self, tree: bytes, more: list[tuple[BlobType, bytes]] | None = None) -> None:
        """An image whose root is ``tree``."""
        blobs = [(BlobType.TREE, tree), *(more or [])]
        index = self.opened("index")
        index["packs"].append(self.pack(blobs))
        self.replace("index", json.dumps(index).encode())
        snapshot = {**self.opened("snapshots"), "tree": hashlib.sha256(tree).hexdigest()}
        self.replace("snapshots", json.dumps(snapshot).encode())

    def pack(
        self, blobs: list[tuple[BlobType, bytes]], change: Callable[[bytes], bytes] = lambda header: header
    ) -> dict[str, Any]:
        """Write a pack of plain blobs, its header changed; its entry for an index."""
        pieces, entries, offset = [], [], 0
        header = bytearray()
        for kind, content in blobs:
            sealed = bytes(self.repository.key.seal(content))
            digest = hashlib.sha256(content)
            header += bytes([kind is BlobType.TREE]) + len(sealed).to_bytes(4, "little") + digest.digest()
            entries.append({"id": digest.hexdigest(), "type": kind.value, "offset": offset, "length": len(sealed)})
            pieces.append(sealed)
            offset += len(sealed)
        end = bytes(self.repository.key.seal(change(bytes(header))))
        pieces += [end, encode_header_length(len(end))]
        name = file_name(pieces)
        (self.folder / "data" / name[:2] / name).write_bytes(b"".join(pieces))
        return {"id": name, "blobs": entries}


def _unpacked(plain: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(plain[1:]) if plain[:1] == b"\x02" else plain


def _change(prepared: _Prepared, what: str, chance: random.Random) -> None:
    """Put something hostile into the repository."""
    match what:
        case "index" | "snapshots":
            prepared.replace(what, hostile_json(chance, prepared.opened(what)))
        case "config":
            config = json.loads(prepared.repository.key.open((prepared.folder / "config").read_bytes()))
            sealed = prepared.repository.key.seal(hostile_json(chance, config))
            (prepared.folder / "config").write_bytes(bytes(sealed))
        case "key":
            for path in (prepared.folder / "keys").iterdir():
                made = hostile_key(chance, json.loads(path.read_bytes()))
                path.unlink()
                path.with_name(file_name([made])).write_bytes(made)
        case "tree":
            prepared.with_tree(hostile_json(chance, prepared.tree))
        case "manifest":
            prepared.with_file("system.json", hostile_json(chance, json.loads(prepared.content("system.json"))))
        case "domain map" | "map":
            name = "disk.domain" if what == "domain map" else "disk.map"
            prepared.with_file(name, hostile_map(chance, prepared.content(name)))
        case "header":
            prepared.pack([(BlobType.DATA, chance.randbytes(99))] * 3, partial(hostile_bytes, chance))
            prepared.replace("index", b"{", packed=False)  # so that headers are read


_KINDS = ("index", "snapshots", "config", "key", "tree", "manifest", "domain map", "map", "header")


def _use(folder: Path, target: Path) -> None:
    """All that a reader of the repository does with it."""
    repository = Repository.open(folder, PASSWORD)
    problems = repository.load_index(mend=True)
    for stored in repository.snapshots()[0]:
        image = SystemImage(repository, stored, problems)
        for record in image.manifest.disks[:3]:
            disk = image.disk(record.name)
            disk.missing(Extent(0, record.size_bytes))
            plan = plan_restore(disk, target, repository=folder, partial=True)
            if plan.layout.written.total_bytes < 64 * MIB:
                restore(disk, plan, Progress(), partial=True)
        verify(image, Progress())


def _bounded(cases: Iterator[tuple[str, Callable[[], object]]]) -> dict[str, int]:
    """Try cases with bounded memory; each must end soon, in peace or with a RecoveryError.  How many there were.

    Runs in a child: what escapes is told by it, with the case's name.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _MEMORY_BYTES, resource.RLIM_INFINITY))
    counts: dict[str, int] = {}
    for name, case in cases:
        started = time.monotonic()
        said = _said_by(name, case)
        assert len(said) < 20_000, f"{name}: a message of {len(said)} characters"
        took = time.monotonic() - started
        assert took < _SECONDS, f"{name} took {took:.1f} seconds"
        kind = f"hostile {name.split(' of ')[0]}"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _said_by(name: str, case: Callable[[], object]) -> str:
    """The words of its RecoveryError, if it ended in one; any other exception gets the case's name."""
    try:
        case()
    except RecoveryError as error:
        return f"{error.message} {error.hint}"
    except BaseException as error:
        error.add_note(f"the case: {name}")
        raise
    return ""


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _judge(bench: Bench, cases: Iterator[tuple[str, Callable[[], object]]]) -> None:
    ended = in_child(partial(_bounded, cases))
    assert ended.done, ended
    bench.counts.update(ended.result)


@drill("hostile")
def a_repository_with_hostile_content_is_a_clear_error_in_bounded_memory_and_time(bench: Bench) -> None:
    source, sound = make_source(bench, 1 * MIB), bench.work / "sound"
    make_repository(sound)
    assert in_child(partial(store, sound, source, publish_seconds=60.0)).done
    folder, target = bench.work / "hostile", bench.work / "target.img"

    def case(what: str, seed: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        target.unlink(missing_ok=True)
        _change(_Prepared(folder), what, random.Random(seed))
        _use(folder, target)

    def cases() -> Iterator[tuple[str, Callable[[], object]]]:
        for _ in range(4 if bench.short else 25):
            for what in _KINDS:
                seed = bench.random.randrange(1 << 32)
                yield f"{what} of seed {seed}", partial(case, what, seed)

    _judge(bench, cases())


@drill("hostile")
def a_hostile_partition_table_is_a_clear_error_or_a_table_and_never_more(bench: Bench) -> None:
    size = 48 * MIB
    tables = [
        partitioned(bench.work / "gpt.img", size, GPT_SCRIPT),
        partitioned(bench.work / "mbr.img", size, MBR_SCRIPT),
    ]
    disk = bench.work / "hostile.img"

    def case(table: Path, seed: int) -> None:
        chance = random.Random(seed)
        shutil.copyfile(table, disk)
        for _ in range(chance.randint(1, 3)):
            _spoil(disk, chance, size)
        reading = examine_table(disk, size, 512)
        if reading.table is not None:
            for entry in reading.table.entries:
                assert 0 <= entry.offset <= entry.end, entry

    def cases() -> Iterator[tuple[str, Callable[[], object]]]:
        for _ in range(5 if bench.short else 30):
            for table in tables:
                seed = bench.random.randrange(1 << 32)
                yield f"table of {table.name}, seed {seed}", partial(case, table, seed)

    _judge(bench, cases())


def _spoil(disk: Path, chance: random.Random, size: int) -> None:
    """Change a sector of a table; half of the time its checksums are made right again, so that it is believed."""
    sectors = [0, 1, 2, 3, size // 512 - 1, size // 512 - 2, size // 512 - 33]
    sectors += [number for number in range(0, size // 512, 2048) if read_at(disk, number * 512 + 510, 2) == b"\x55\xaa"]
    number = chance.choice(sectors)
    sector = read_at(disk, number * 512, 512)
    made = hostile_bytes(chance, sector)[:512].ljust(512, b"\0")
    if sector[510:] == b"\x55\xaa":
        made = made[:510] + b"\x55\xaa"
    overwrite(disk, number * 512, made)
    if chance.random() < 0.7:
        for header in (512, size - 512):
            _believable(disk, header)


def _believable(disk: Path, at: int) -> None:
    """Recompute the checksums of a GPT header and its entries (UEFI specification, "GPT Header")."""
    header = bytearray(read_at(disk, at, 92))
    entries, count, each = (int.from_bytes(header[a:b], "little") for a, b in ((72, 80), (80, 84), (84, 88)))
    if count * each > MIB or entries * 512 > disk.stat().st_size:
        return
    header[88:92] = zlib.crc32(read_at(disk, entries * 512, count * each)).to_bytes(4, "little")
    header[16:20] = bytes(4)
    header[16:20] = zlib.crc32(bytes(header)).to_bytes(4, "little")
    overwrite(disk, at, bytes(header))
