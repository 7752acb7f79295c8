"""What the kernel of the live system does with disks that no test outside of it has: all in one start.

The kernel's dm-dust is not part of Debian's; its scsi_debug is, and fails reads as a worn disk does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank, loop, mounted, partitioned, run, sfdisk_json
from tests.support.fleet import Fleet, Place, check_filesystem, contents, noise, odd_files
from tests.vm.live import BACKUP, CHECK_MEDIUM, IMAGE, WORK_SECONDS, Live, backup_disk, live, until
from tests.vm.machine import Bus, Disk, Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600), pytest.mark.xdist_group("inside")]

_SECTOR = 4096
_PLACE = Place(1, "ext4", 1 * MIB, 128 * MIB)


@dataclass(frozen=True)
class Inside:
    """The prompt, and the disks of the machine as files out here."""

    there: Live
    source: Path
    target: Path


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    folder = tmp_path_factory.mktemp("inside")
    source, target = _disk_of_large_sectors(folder), noise(folder / "target.img", 224 * MIB)
    disks = (
        Disk(source, Bus.NVME, "LARGE-SECTORS", sector_bytes=_SECTOR),
        Disk(target, Bus.VIRTIO, "TARGET", sector_bytes=_SECTOR),
        Disk(blank(folder / "stack.img", 96 * MIB), Bus.VIRTIO, "STACK"),
        Disk(backup_disk(folder / "backup.img"), Bus.SATA, BACKUP),
    )
    with live(Machine(disks=disks, image=IMAGE), folder / "machine", CHECK_MEDIUM) as there:
        there.open_backup(make=True)
        yield Inside(there, source, target)
        there.power_off()


def _disk_of_large_sectors(folder: Path) -> Path:
    """A GPT disk of 160 MiB with ext4, mostly empty, in its only partition."""
    disk = partitioned(folder / "source.img", 160 * MIB, "label: gpt\nsize=128MiB, type=L\n", _SECTOR)
    entry = sfdisk_json(disk, _SECTOR)["partitions"][0]
    assert (entry["start"] * _SECTOR, entry["size"] * _SECTOR) == (_PLACE.offset, _PLACE.length)
    made = random.Random(8)
    with loop(disk, sector_bytes=_SECTOR, offset=_PLACE.offset, size=_PLACE.length) as device:
        run("mkfs.ext4", "-q", device)
        with mounted(device, folder / "mounted") as at:
            (at / "random").write_bytes(made.randbytes(9 * MIB + 17))
            odd_files(at)
    return disk


def test_a_check_of_a_sound_medium_is_told_at_the_prompt(inside: Inside) -> None:
    assert inside.there.run("cat /run/recovery/medium-check").text == "passed"
    assert "The medium was checked at the start and is sound" in inside.there.running.console.text


def test_no_server_listens_not_even_for_the_host_of_a_virtual_machine(inside: Inside) -> None:
    waiting = inside.there.run(
        "ss --listening --tcp --udp --vsock --numeric --no-header; ss --listening --unix --no-header"
    ).text
    sockets = [line.split() for line in waiting.splitlines() if line.strip()]
    assert any("udev" in words[4] for words in sockets), waiting  # so the columns are what they are taken for
    assert not [words for words in sockets if not words[0].startswith("u_") or "ssh" in words[4]], waiting


def test_a_disk_of_4096_byte_sectors_comes_back_and_what_is_unused_is_given_back(
    inside: Inside, tmp_path: Path
) -> None:
    there = inside.there
    there.run(f"recovery capture {there.device('LARGE-SECTORS')}", WORK_SECONDS)
    before = inside.target.stat().st_blocks * 512
    assert before >= 224 * MIB, "the target was not written all over"
    there.restore(there.device("TARGET"))
    old, new = (Fleet(disk, _SECTOR, (_PLACE,)) for disk in (inside.source, inside.target))
    check_filesystem(new, _PLACE)
    assert contents(new, _PLACE, tmp_path / "at") == contents(old, _PLACE, tmp_path / "at")
    ours, theirs = (sfdisk_json(disk, _SECTOR)["partitions"][0] for disk in (inside.target, inside.source))
    assert {**ours, "node": ""} == {**theirs, "node": ""}
    # Of 128 MiB of filesystem some 20 are used; the gap behind it is kept whole.
    assert inside.target.stat().st_blocks * 512 < before // 2, "what is unused was not discarded"


def test_a_read_error_of_the_kernels_own_is_named_to_the_byte(inside: Inside) -> None:
    there = inside.there
    bad, sectors = 10 * MIB // 512 + 16, 8
    errors = f"opts=2 medium_error_start={bad} medium_error_count={sectors}"
    there.run(f"modprobe scsi_debug dev_size_mb=32 {errors}")
    try:
        until(lambda: _failing(there) != "")
        said = there.run(f"recovery capture {_failing(there)}", WORK_SECONDS, 3).text
        assert "4.00 KiB" in said, said
        there.run("map=$(restic --quiet ls latest | grep '[.]map$')")
        areas = there.run('restic --quiet dump latest "$map"').text.splitlines()
    finally:
        there.run("modprobe --remove scsi_debug", status=None)
    unreadable = [line.split() for line in areas if line.endswith(" -")]
    assert [(int(at, 16), int(length, 16)) for at, length, _ in unreadable] == [(bad * 512, sectors * 512)]


def _failing(there: Live) -> str:
    """The path of scsi_debug's disk, once it is there."""
    found = [report["disk"]["path"] for report in there.disks() if report["disk"]["model"] == "scsi_debug"]
    return found[0] if found else ""


def test_a_disk_below_a_stack_of_volumes_is_told_to_be_in_use_and_captured_once_it_is_not(inside: Inside) -> None:
    there = inside.there
    disk = there.device("STACK")
    there.run(f"recovery unprotect {disk}")
    there.run(f"mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --assume-clean --bitmap=none {disk} missing")
    quick = "--batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
    there.run(f"printf secret | cryptsetup luksFormat {quick} /dev/md0 -")
    there.run("printf secret | cryptsetup open /dev/md0 secret --key-file -")
    there.run("vgcreate --yes stack /dev/mapper/secret && lvcreate --yes --name data --extents 100%FREE stack")
    there.run("mkfs.ext4 -q /dev/stack/data && mount /dev/stack/data /mnt && cp /etc/services /mnt && sync")

    uses = "; ".join(_in_use(there))
    for use in (
        "member of array md0",
        "opened as encrypted volume secret",
        "member of volume group stack",
        "mounted at /mnt",
    ):
        assert use in uses, uses
    for words in (f"capture {disk}", f"restore latest {disk} --yes", f"clone {disk} /tmp/new.img --yes"):
        said = there.run(f"recovery {words}", WORK_SECONDS, 20).text
        assert "is in use" in said, said

    there.run("umount /mnt && vgchange --activate n stack && cryptsetup close secret && mdadm --stop /dev/md0")
    assert _in_use(there) == []
    there.run(f"recovery capture {disk}", WORK_SECONDS)
    assert "a member of a RAID array" in there.run(f"recovery restore latest {disk} --yes", WORK_SECONDS, 20).text


def _in_use(there: Live) -> list[str]:
    uses: list[str] = there.disk("STACK")["in_use"]
    return uses
