"""What is captured: an ext4 image filled with this machine's own files, and its used bytes alone in one file."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recovery.units import GIB, MIB, align_up, format_bytes
from tests.bench.peers import Chroot
from tests.support.machine import (
    CommandFailed,
    RealFile,
    Upgrade,
    copy_files,
    hold_back,
    loop_device,
    mounted,
    real_files,
    run,
    upgrade_files,
)

SOURCES = ["/usr", "/opt", "/var/lib", "/srv", "/home", "/root"]
#: The filesystem is this much larger than what is put into it.
FREE_SHARE = 0.20
UPGRADED_SHARE = 0.015
_STEP = 4 * MIB


@dataclass(frozen=True, slots=True)
class Image:
    """An ext4 image file.  ``used`` holds the half-open byte ranges that partclone calls used."""

    path: Path
    size_bytes: int
    used: tuple[tuple[int, int], ...]
    files: int
    spare: tuple[RealFile, ...]

    @property
    def used_bytes(self) -> int:
        """How many bytes of the image are used."""
        return sum(end - start for start, end in self.used)


def make_image(folder: Path, gib: float, chroot: Chroot) -> Image:
    """Fill an image with real files until ``gib`` GiB are used.  Raises CommandFailed when there are too few."""
    wanted = int(gib * GIB * 1.03)
    checkout = Path(__file__).resolve().parents[2]
    everything = real_files(SOURCES, wanted, exclude=[checkout, folder])
    files, spare = hold_back(everything)
    total = sum(file.space_bytes for file in files)
    if total < gib * GIB * 0.99:
        raise CommandFailed(
            f"this machine has only {format_bytes(total)} of files to fill an image with; see BENCH_GIB"
        )
    path = folder / "ext4.img"
    size = align_up(int(total / (1 - FREE_SHARE)), 64 * MIB)
    with path.open("wb") as image:
        image.truncate(size)
    run("mkfs.ext4", "-q", "-F", "-m", "0", path)
    with loop_device(path) as device, mounted(device, folder / "mount") as mount:
        copy_files(files, mount)
    return Image(path, size, used_ranges(path, chroot), len(files), tuple(spare))


def used_ranges(path: Path, chroot: Chroot) -> tuple[tuple[int, int], ...]:
    """The used byte ranges of a filesystem image, as partclone's domain map lists them."""
    map_file = path.with_suffix(".domain")
    chroot.run(f"partclone.extfs -q -D -s {path} -o {map_file} -L /dev/null")
    ranges = []
    for line in map_file.read_text().splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2] == "+":
            start, length = int(fields[0], 16), int(fields[1], 16)
            ranges.append((start, start + length))
    map_file.unlink()
    return tuple(ranges)


def _pieces(path: Path, ranges: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for start, end in ranges:
            file.seek(start)
            while start < end:
                piece = file.read(min(_STEP, end - start))
                if not piece:
                    raise CommandFailed(f"{path} ends at {start}, within used bytes")
                yield piece
                start += len(piece)


def extract_used(image: Image, target: Path) -> None:
    """Write the used bytes alone, one behind the other."""
    with target.open("wb") as output:
        for piece in _pieces(image.path, image.used):
            output.write(piece)


def used_digest(path: Path, image: Image) -> str:
    """SHA-256 over the bytes of ``path`` that the image uses: equal when a restore is right."""
    digest = hashlib.sha256()
    for piece in _pieces(path, image.used):
        digest.update(piece)
    return digest.hexdigest()


def upgrade(image: Image, folder: Path) -> Upgrade:
    """Change the image as an upgrade does."""
    with loop_device(image.path) as device, mounted(device, folder / "mount") as mount:
        return upgrade_files(mount, UPGRADED_SHARE, image.spare)


def place(gib: float) -> Path:
    """Where inputs and outputs go: memory where they fit beside what runs, else ``build/``."""
    needed = int((gib * 4.1 + 1.5) * GIB)
    memory = Path("/dev/shm")
    if memory.is_dir() and min(shutil.disk_usage(memory).free, _available_memory()) >= needed:
        return memory
    build = Path("build").resolve()
    build.mkdir(exist_ok=True)
    if shutil.disk_usage(build).free < needed:
        raise CommandFailed(f"neither /dev/shm nor {build} has {format_bytes(needed)} free; see BENCH_GIB")
    return build


def _available_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def describe_machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_bytes": memory, "kernel": platform.release()}
