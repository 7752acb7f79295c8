"""Disks that a careless system would write to as it starts: journals to replay, arrays to assemble, swap space."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from tests.support.disks import MIB, loop, mounted, overwrite, partitioned, run, sfdisk_json
from tests.support.members import md_member
from tests.vm.luks import format_luks
from tests.vm.victim_disks import volume_group

_SCRIPT = """label: gpt
size=64MiB, type=L, name="dirty ext4"
size=320MiB, type=L, name="dirty XFS"
size=32MiB, type=S, name="swap"
size=64MiB, type=E6D6D379-F507-44C2-A23C-238F2A3DF928, name="LVM"
size=32MiB, type=A19D880F-05FC-4D3B-A006-743F0F84911E, name="RAID"
size=64MiB, type=L, name="LUKS"
"""


def tempting(path: Path, number: int) -> Path:
    """A disk with all of them; those of different numbers have nothing in common.  Mounts (root, kernel)."""
    scratch = path.with_suffix(".scratch")
    scratch.mkdir()
    partitioned(path, 640 * MIB, _SCRIPT)
    places = [(part["start"] * 512, part["size"] * 512) for part in sfdisk_json(path)["partitions"]]
    ext4, xfs, swap, lvm, raid, luks = places
    _dirty(path, ext4, ("mkfs.ext4", "-q", "-F"), scratch / "ext4")
    _dirty(path, xfs, ("mkfs.xfs", "-q", "-f"), scratch / "xfs")
    said = run("dumpe2fs", "-h", f"{path}?offset={ext4[0]}")
    assert "needs_recovery" in said, said
    with loop(path, offset=swap[0], size=swap[1]) as device:
        run("mkswap", device)
    volume_group(path, lvm, f"tempting{number}", 32 * MIB)
    md_member(path, raid[0], raid[1] // 512)
    format_luks(path, luks[0], "secret", str(uuid.UUID(int=number + 1)), scratch)
    shutil.rmtree(scratch)
    return path


def _dirty(path: Path, place: tuple[int, int], mkfs: tuple[str, ...], scratch: Path) -> None:
    """A filesystem as it lies on the disk while it is mounted, with changes that only its journal holds."""
    scratch.mkdir()
    with loop(path, offset=place[0], size=place[1]) as device:
        run(*mkfs, device)
        with mounted(device, scratch / "mounted") as there:
            for number in range(20):
                (there / f"file {number}").write_bytes(bytes([number]) * 5000)
            run("sync", *[there / f"file {number}" for number in range(20)])
            lying = scratch / "lying"
            run("dd", f"if={path}", f"of={lying}", "bs=1M", f"skip={place[0]}", f"count={place[1]}", *_BYTES)
    overwrite(path, place[0], lying.read_bytes())


_BYTES = ("iflag=skip_bytes,count_bytes", "conv=sparse", "status=none")
