"""Disk images for tests, made by the tools of the trade (sfdisk, mkfs) and judged by them.

Nothing here uses the code under test.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

KIB = 1 << 10
MIB = 1 << 20
_LOOP_CTL_REMOVE = 0x4C81

#: A GPT with a name outside ASCII, attributes, a gap, and partitions out of order on the disk.
GPT_SCRIPT = """label: gpt
label-id: 11111111-2222-3333-4444-555555555555
size=8MiB, type=U, uuid=AAAAAAAA-0000-0000-0000-000000000001, name="EFI System"
start=24MiB, size=8MiB, type=L, uuid=AAAAAAAA-0000-0000-0000-000000000002, name="d\u00e4ta \u2603", \
attrs="LegacyBIOSBootable GUID:63"
start=12MiB, size=8MiB, type=S, uuid=AAAAAAAA-0000-0000-0000-000000000003
"""

#: An MBR with two primary partitions and an extended one that holds three logical ones.
MBR_SCRIPT = """label: dos
label-id: 0x1badcafe
size=8MiB, type=7, bootable
size=8MiB, type=83
type=f
size=4MiB, type=83
size=4MiB, type=82
size=4MiB, type=83
"""


def run(*arguments: str | Path, input: str | None = None, check: bool = True) -> str:
    """Run a program and return what it prints; raises on failure, with its stderr in the message."""
    ended = subprocess.run(
        [str(argument) for argument in arguments],
        input=None if input is None else input.encode(),
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        check=False,
    )
    if check and ended.returncode:
        raise AssertionError(f"{arguments} failed: {ended.stderr.decode(errors='replace')}")
    return ended.stdout.decode(errors="replace")


@contextmanager
def loop(
    path: Path, *, sector_bytes: int = 512, offset: int = 0, size: int = 0, read_only: bool = False
) -> Iterator[Path]:
    """``path``, or ``size`` bytes of it, as a loop device (needs root)."""
    arguments = ["losetup", "--find", "--show", f"--sector-size={sector_bytes}", f"--offset={offset}"]
    arguments += [f"--sizelimit={size}"] if size else []
    arguments += ["--read-only"] if read_only else []
    device = Path(run(*arguments, path).strip())
    # What "blockdev --setro" sets, and how far the kernel reads ahead, outlives whoever had this loop device before.
    run("blockdev", "--setra", "256", *([] if read_only else ["--setrw"]), device)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
        _wait_until_detached(device)


def _wait_until_detached(device: Path) -> None:
    """The kernel detaches only when the last who has the device open (a prober, say) closes it."""
    ends = time.monotonic() + 60
    while (Path("/sys/block") / device.name / "loop" / "backing_file").exists() and time.monotonic() < ends:
        time.sleep(0.01)


@contextmanager
def own_loop(backing: Path, number: int = 0) -> Iterator[Path]:
    """A loop device that nobody else is given when we let go of it for a moment; ``number`` tells ours apart."""
    minor = 100 + 4 * (os.getpid() % 200) + number
    device = Path(f"/dev/loop{minor}")
    run("losetup", device, backing)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
        with Path("/dev/loop-control").open("rb") as control, suppress(OSError):
            fcntl.ioctl(control, _LOOP_CTL_REMOVE, minor)


def exchange(device: Path, backing: Path) -> None:
    """Another disk comes under the same name."""
    run("losetup", "--detach", device)
    _wait_until_detached(device)
    run("losetup", device, backing)


def umount(at: str | Path) -> None:
    """Others look at mounts too, and a FUSE daemon may still be closing files: busy is tried again."""
    ends = time.monotonic() + 10
    while True:
        try:
            run("umount", at)
        except AssertionError as error:
            if "busy" not in str(error) or time.monotonic() > ends:
                raise
            time.sleep(0.1)
        else:
            return


@contextmanager
def mounted(device: Path, at: Path, options: str = "defaults") -> Iterator[Path]:
    """``device`` mounted at ``at`` (needs root)."""
    at.mkdir(exist_ok=True)
    run("mount", "-o", options, device, at)
    try:
        yield at
    finally:
        umount(at)


def blank(path: Path, size_bytes: int) -> Path:
    """A sparse file of zeros."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def partitioned(path: Path, size_bytes: int, script: str, sector_bytes: int = 512) -> Path:
    """An image file of ``size_bytes`` with the table of an sfdisk script; sectors other than 512 bytes need root."""
    blank(path, size_bytes)
    if sector_bytes == 512:
        run("sfdisk", "--quiet", "--wipe=never", path, input=script)
    else:
        with loop(path, sector_bytes=sector_bytes) as device:
            run("sfdisk", "--quiet", "--wipe=never", "--no-reread", "--no-tell-kernel", device, input=script)
    return path


def sfdisk_json(path: Path, sector_bytes: int = 512) -> dict[str, Any]:
    """What ``sfdisk --json`` says of an image file: the oracle for tables."""
    if sector_bytes == 512:
        text = run("sfdisk", "--json", path)
    else:
        with loop(path, sector_bytes=sector_bytes, read_only=True) as device:
            text = run("sfdisk", "--json", device).replace(str(device), str(path))  # which device it was says nothing
    table: dict[str, Any] = json.loads(text)["partitiontable"]
    return table


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Write ``data`` into a file; a negative offset counts from its end."""
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


def read_at(path: Path, offset: int, length: int) -> bytes:
    """``length`` bytes of a file at ``offset``."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage_primary_gpt(path: Path, how: str, sector_bytes: int = 512) -> None:
    """Break the primary GPT: its "signature", its "checksum", that of its "entries", or the "first34" sectors."""
    match how:
        case "signature":
            overwrite(path, sector_bytes, bytes(8))
        case "checksum":
            overwrite(path, sector_bytes + 16, b"\xde\xad\xbe\xef")
        case "entries":
            overwrite(path, 2 * sector_bytes + 60, b"\xff\xff")
        case "first34":
            overwrite(path, 0, bytes(34 * sector_bytes))
        case _:
            raise ValueError(how)


def damage_backup_gpt(path: Path, sector_bytes: int = 512) -> None:
    """Zero the header of the backup GPT."""
    overwrite(path, -sector_bytes, bytes(sector_bytes))


def make_filesystem(path: Path, offset: int, size: int, *mkfs: str, sector_bytes: int = 512) -> None:
    """Make a filesystem on a range of an image file with a mkfs program (needs root)."""
    with loop(path, offset=offset, size=size, sector_bytes=sector_bytes) as device:
        run(*mkfs, device)
