"""What lives on a partition, told without mounting it and without a byte written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recovery.devices.probe import probe
from recovery.extent import Extent
from recovery.filesystems.living import system_on
from tests.support.disks import MIB, blank, overwrite, run, sha256
from tests.support.filesystems import OFFSET, Kind, make, opened
from tests.support.members import lvm_member, md_member

pytestmark = pytest.mark.disk

_DEBIAN = b'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n'
_EXT4 = Kind("ext4", ("mkfs.ext4", "-q"), ("debugfs",), 32 * MIB, mount="kernel")
_XFS = Kind("xfs", ("mkfs.xfs", "-q"), ("xfs_db",), 300 * MIB, mount="kernel")
_BTRFS = Kind("btrfs", ("mkfs.btrfs", "-q"), ("btrfs",), 128 * MIB, mount="kernel")
_NTFS = Kind("ntfs", ("mkfs.ntfs", "-q", "-f", "-F"), ("ntfsls",), 32 * MIB, mount="ntfs-3g", needs=("ntfs-3g",))


def _told(image: Path, kind: Kind, partition_type: str = "") -> str:
    extent = Extent(OFFSET, kind.size)
    before = sha256(image)
    told = system_on(image, extent, probe(image, extent), partition_type)
    assert sha256(image) == before
    return told


@contextmanager
def _made(kind: Kind, folder: Path) -> Iterator[tuple[Path, Path]]:
    """The image, and where its filesystem is mounted for the time of the block."""
    if missing := kind.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    image = make(kind, folder)
    with opened(kind, image, folder / "mount") as at:
        yield image, at


def _name(root: Path, text: bytes, place: str = "usr/lib/os-release") -> None:
    file = root / place
    file.parent.mkdir(parents=True)
    file.write_bytes(text)


@pytest.mark.parametrize("kind", [_EXT4, _XFS, _BTRFS], ids=lambda kind: kind.name)
def test_a_linux_is_told_by_the_name_it_gives_itself(kind: Kind, tmp_path: Path) -> None:
    with _made(kind, tmp_path) as (image, root):
        _name(root, _DEBIAN)
        (root / "etc").mkdir()
        (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    assert _told(image, kind) == "Debian GNU/Linux 13 (trixie)"


@pytest.mark.parametrize("kind", [_EXT4, _BTRFS], ids=lambda kind: kind.name)
def test_the_file_in_etc_does_as_well_and_without_either_nothing_is_told(kind: Kind, tmp_path: Path) -> None:
    with _made(kind, tmp_path) as (image, root):
        (root / "etc").mkdir()
    assert _told(image, kind) == ""
    with opened(kind, image, tmp_path / "mount") as root:
        (root / "etc/os-release").write_bytes(b"NAME=Gentoo\n")
    assert _told(image, kind) == "Gentoo"


@pytest.mark.parametrize("subvolume", ["@", "root"])
def test_a_linux_in_a_subvolume_of_btrfs_is_told(subvolume: str, tmp_path: Path) -> None:
    with _made(_BTRFS, tmp_path) as (image, top):
        run("btrfs", "subvolume", "create", top / subvolume)
        _name(top / subvolume, _DEBIAN)
    assert _told(image, _BTRFS) == "Debian GNU/Linux 13 (trixie)"


def test_the_partition_with_the_kernels_is_told(tmp_path: Path) -> None:
    with _made(_EXT4, tmp_path) as (image, root):
        (root / "vmlinuz-6.1.0-28-amd64").write_bytes(b"kernel")
        (root / "grub").mkdir()
    assert _told(image, _EXT4) == "boot files of a Linux"


def test_a_journal_that_was_not_replayed_is_left_alone(tmp_path: Path) -> None:
    """The hash of the image, taken around every question, is the oracle."""
    with _made(_EXT4, tmp_path) as (image, root):
        _name(root, _DEBIAN)
        run("sync", "-f", root)
        copy = tmp_path / "crashed.img"
        run("cp", "--sparse=always", image, copy)
    assert "needs_recovery" in run("dumpe2fs", "-h", f"{copy}?offset={OFFSET}")
    assert _told(copy, _EXT4) == "Debian GNU/Linux 13 (trixie)"


@pytest.mark.parametrize("folder", ["Windows/System32", "WINDOWS/system32"])
def test_windows_is_told_by_its_folder(folder: str, tmp_path: Path) -> None:
    with _made(_NTFS, tmp_path) as (image, root):
        (root / "Users").mkdir()
    assert _told(image, _NTFS) == ""
    with opened(_NTFS, image, tmp_path / "mount") as root:
        (root / folder).mkdir(parents=True)
    assert _told(image, _NTFS) == "Windows"


def test_a_name_that_is_hostile_is_told_short_and_plain(tmp_path: Path) -> None:
    with _made(_EXT4, tmp_path) as (image, root):
        _name(root, b"PRETTY_NAME='\x1b[2J\xff" + b"x" * 300 + b"'\nNAME='not closed\n")
    told = _told(image, _EXT4)
    assert told.startswith("[2J")
    assert len(told) == 80
    assert told.isprintable()


def test_a_file_without_end_fills_neither_memory_nor_folder(tmp_path: Path) -> None:
    with _made(_EXT4, tmp_path) as (image, root):
        _name(root, b"PRETTY_NAME=Large\n")
        with (root / "usr/lib/os-release").open("r+b") as file:
            file.truncate(1 << 40)
    assert _told(image, _EXT4) in ("", "Large")


@pytest.mark.parametrize(
    ("make_it", "told"),
    [
        (lambda image: run("mkswap", "-q", image), "Linux swap"),
        (lambda image: bitlocker(image), "encrypted (BitLocker)"),
        (lambda image: lvm_member(image, 0), "LVM volume group member"),
        (lambda image: md_member(image, 0, 16 * MIB // 512), "RAID array member"),
        (lambda image: luks(image), "encrypted (LUKS)"),
        (lambda image: None, ""),
    ],
    ids=["swap", "bitlocker", "lvm", "raid", "luks", "nothing"],
)
def test_what_is_no_filesystem_is_told_by_what_it_is(
    make_it: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    image = blank(tmp_path / "disk.img", 24 * MIB)
    make_it(image)
    extent = Extent(0, 24 * MIB)
    assert system_on(image, extent, probe(image, extent)) == told


def bitlocker(image: Path) -> None:
    """A boot sector of BitLocker's that names where its metadata begin, and their first bytes."""
    overwrite(image, 0, b"\xeb\x58\x90-FVE-FS-")
    overwrite(image, 176, MIB.to_bytes(8, "little"))
    overwrite(image, MIB, b"-FVE-FS-")


def luks(image: Path) -> None:
    options = ("--batch-mode", "--type=luks1", "--pbkdf-force-iterations=1000", "--key-file=-")
    run("cryptsetup", "luksFormat", *options, image, input="secret")


def test_the_type_of_a_partition_tells_what_starts_the_machine(tmp_path: Path) -> None:
    kind = Kind("fat16", ("mkfs.fat", "-F16"), ("true",), 16 * MIB)
    image = make(kind, tmp_path)
    assert _told(image, kind) == ""
    for efi in ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"):
        assert _told(image, kind, efi) == "EFI system partition (starts the machine)"


def test_damaged_filesystems_end_in_nothing_told(tmp_path: Path) -> None:
    for kind in (_EXT4, _XFS, _BTRFS, _NTFS):
        folder = tmp_path / kind.name
        folder.mkdir()
        image = make(kind, folder)
        content = probe(image, Extent(OFFSET, kind.size))
        overwrite(image, OFFSET + 128 * 1024, b"\xff" * (8 * MIB))
        assert system_on(image, Extent(OFFSET, kind.size), content) == ""
