"""System images for tests: a small GPT disk with ext4 and stale bytes, our program, and restic beside it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.disks import KIB, MIB, loop, overwrite, partitioned, run
from tests.support.program import QUICK_KEYS, jobs_folder

PROJECT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse"
#: restic 0.14 has no exit code of its own for these; ours and 0.18's.
LOCKED, WRONG_PASSWORD = 11, 12

PARTITION_START = MIB


def environment(repository: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What both programs read from the environment."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    own = {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD": PASSWORD, "PATH": path, "LC_ALL": "C.UTF-8"}
    return {**os.environ, **own, "RECOVERY_JOBS": str(jobs_folder()), **(more or {})}


def recovery_line(*words: str | Path) -> list[str]:
    """The command line of our program with ``words``."""
    return [sys.executable, "-c", "from recovery.cli import main; main()", *map(str, words)]


def recovery(
    repository: Path,
    *words: str | Path,
    status: int | None = 0,
    more: Mapping[str, str] | None = None,
    quick_keys: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run our program to its end; it must end with ``status`` (None: any but a bug's).

    ``quick_keys``: a repository that it makes gets some, and is otherwise as it always is.
    """
    line = recovery_line(*words)
    if words[:1] == ("init",) and quick_keys:
        line[2] = QUICK_KEYS
    ended = subprocess.run(
        line,
        cwd=PROJECT,
        env=environment(repository, more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )
    said = f"{words} ended with {ended.returncode}\n{ended.stdout}{ended.stderr}"
    assert status is None or ended.returncode == status, said
    assert ended.returncode != 1, said
    assert "Traceback" not in ended.stderr, said
    return ended


def events(ended: subprocess.CompletedProcess[str], kind: str) -> list[dict[str, Any]]:
    """The ``--json`` lines of one kind."""
    return [e for e in map(json.loads, ended.stdout.splitlines()) if e["message_type"] == kind]


def capture(repository: Path, *words: str | Path, more: Mapping[str, str] | None = None) -> str:
    """Capture; the snapshot's id."""
    snapshot: str = events(recovery(repository, "capture", "--json", *words, more=more), "summary")[0]["snapshot_id"]
    return snapshot


def restic(
    program: Path, repository: Path, *words: str | Path, status: int | None = 0, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a restic to its end; it must end with ``status`` (None: any)."""
    ended = subprocess.run(
        [program, "--no-cache", *map(str, words)],
        env=environment(repository, more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=240,
        check=False,
    )
    said = f"restic {words} ended with {ended.returncode}\n{ended.stdout[-2000:]!r}\n{ended.stderr.decode()}"
    assert status is None or ended.returncode == status, said
    return ended


def restic_check(program: Path, repository: Path) -> None:
    """``restic check --read-data`` finds nothing, not even something to be tidied up."""
    ended = restic(program, repository, "check", "--read-data")
    said = ended.stdout.decode() + ended.stderr.decode()
    assert "no errors were found" in said, said
    assert "not referenced" not in said, said


def gpt_disk(path: Path, size: int, partition: int, *, seed: int = 1, content_mib: int = 6) -> Path:
    """A sparse disk of ``size`` bytes: ext4 of ``partition`` bytes full of stale bytes where it is free, and files.

    Stale bytes lie too in the gap behind the partition, far from its ends; ``seed`` makes every byte of content.
    """
    script = f"label: gpt\nlabel-id: {0x33333333_0000_4000_8000_000000000000 + seed:032x}\n"
    script = re.sub(r"label-id: (.{8})(.{4})(.{4})(.{4})(.{12})", r"label-id: \1-\2-\3-\4-\5", script)
    partitioned(path, size, f"{script}start={PARTITION_START // 512}, size={partition // 512}, type=L\n")
    generator = random.Random(seed)
    stale = generator.randbytes(64 * KIB)
    for offset in range(PARTITION_START, PARTITION_START + min(partition, 48 * MIB), len(stale)):
        overwrite(path, offset, stale)
    if size - partition > 200 * MIB:
        overwrite(path, PARTITION_START + partition + 100 * MIB + 12345, stale)
    files = path.with_name(path.name + ".files")
    (files / "folder").mkdir(parents=True)
    for number in range(content_mib):
        (files / "folder" / f"random-{number}").write_bytes(generator.randbytes(MIB - 4321 * number))
    (files / "text").write_text("a line of text\n" * 20_000)
    options = f"offset={PARTITION_START},nodiscard,root_owner=0:0"
    run("mkfs.ext4", "-q", "-F", "-E", options, "-d", files, path, f"{partition // KIB}k")
    return path


def free_blocks(path: Path, offset: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of the disk that dumpe2fs calls free, as (start, end)."""
    with loop(path, offset=offset, read_only=True) as device:
        said = run("dumpe2fs", device)
    size = int(re.findall(r"^Block size:\s+(\d+)", said, re.M)[0])
    for line in re.findall(r"^  Free blocks: (\d.*)$", said, re.M):
        for part in line.split(", "):
            first, _, last = part.partition("-")
            yield offset + int(first) * size, offset + (int(last or first) + 1) * size


def domain_ranges(text: str) -> list[tuple[int, int]]:
    """The used ranges (start, end) of a ddrescue map: its lines ``position size +``."""
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return [(int(w[0], 0), int(w[0], 0) + int(w[1], 0)) for w in lines[1:] if w[2] == "+"]


def equal_where(path: Path, other: Path, ranges: list[tuple[int, int]]) -> bool:
    """Whether two files hold the same bytes in all ``ranges``."""
    with path.open("rb") as a, other.open("rb") as b:
        for start, end in ranges:
            for at in range(start, end, MIB):
                a.seek(at)
                b.seek(at)
                length = min(MIB, end - at)
                if a.read(length) != b.read(length):
                    return False
    return True


def zeros_outside(path: Path, ranges: list[tuple[int, int]]) -> bool:
    """Whether a file holds nothing but zeros outside ``ranges``; holes of the file are passed over."""
    size = path.stat().st_size
    edges = [0, *(edge for pair in sorted(ranges) for edge in pair), size]
    zeros = bytes(MIB)
    with path.open("rb") as file:
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            at = start
            while at < end:
                try:
                    at = max(at, os.lseek(file.fileno(), at, os.SEEK_DATA))
                except OSError:
                    break
                if at >= end:
                    break
                file.seek(at)
                piece = file.read(min(MIB, end - at))
                if piece != zeros[: len(piece)]:
                    return False
                at += len(piece)
    return True


def same(path: Path, other: Path) -> bool:
    """``cmp`` finds no difference."""
    return subprocess.run(["cmp", "--silent", path, other], check=False).returncode == 0
