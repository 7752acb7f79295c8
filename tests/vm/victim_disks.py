"""Victims' disks, put together as files, without device-mapper, partition scan, or kernel drivers for FAT and NTFS.

Each ``make_…`` writes one whole disk; the filesystems' UUIDs are fixed, so that two of them are as equal as can be.
Mounts happen in a mount namespace of the process (see ``tests.vm.victims``).
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.disks import KIB, MIB, blank, loop, mounted, overwrite, run, sfdisk_json, umount
from tests.vm.luks import encrypt, format_luks
from tests.vm.victim_system import Settings, loaders, peculiar, settle, unpack

ROOT_UUID = "11111111-aaaa-4bbb-8ccc-000000000001"
BOOT_UUID = "11111111-aaaa-4bbb-8ccc-000000000002"
SWAP_UUID = "11111111-aaaa-4bbb-8ccc-000000000003"
HOME_UUID = "11111111-aaaa-4bbb-8ccc-000000000004"
LUKS_UUID = "11111111-aaaa-4bbb-8ccc-000000000005"
ESP_ID = "1111AAAA"
NTFS_ID = "1111AAAA2222BBBB"
#: The GUID of the EFI partition, which an EFI entry names.
ESP_GUID = "22222222-aaaa-4bbb-8ccc-000000000001"
PASSPHRASE = "correct horse"

_ESP_LINE = f"UUID={ESP_ID[:4]}-{ESP_ID[4:]} /boot/efi vfat umask=0077 0 1"
_GPT = f'label: gpt\nlabel-id: 33333333-AAAA-4BBB-8CCC-000000000001\nsize=64MiB, type=U, uuid={ESP_GUID}, name="EFI"\n'
_ESP_OFFSET = 1 * MIB
_ESP_BYTES = 64 * MIB


def make_bios(disk: Path, scratch: Path) -> None:
    """MBR: ext4 root in a logical partition, swap in another, GRUB in the first sectors."""
    tree = unpack(scratch / "tree")
    loaders(tree)
    fstab = (f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1", f"UUID={SWAP_UUID} none swap sw 0 0")
    settle(tree, Settings(fstab, f"UUID={ROOT_UUID}", facts=("swapon --show=UUID,SIZE --noheadings",)))
    blank(disk, 2048 * MIB)
    script = "label: dos\nlabel-id: 0x1badcafe\ntype=5\nsize=1280MiB, type=83, bootable\nsize=128MiB, type=82\n"
    run("sfdisk", "--quiet", disk, input=script)
    _, root, swap = _places(disk)
    _ext4(disk, root, tree, ROOT_UUID)
    with loop(disk, offset=swap[0], size=swap[1]) as device:
        run("mkswap", f"--uuid={SWAP_UUID}", device)
    _grub_in_the_mbr(disk, tree, scratch)


def make_ntfs(disk: Path, scratch: Path) -> None:
    """GPT: EFI partition, ext4 root, NTFS data."""
    tree = unpack(scratch / "tree")
    shim, grub = loaders(tree)
    fstab = (f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1", _ESP_LINE, f"UUID={NTFS_ID} /data ntfs3 ro 0 0")
    settle(tree, Settings(fstab, f"UUID={ROOT_UUID}", ("/boot/efi", "/data")))
    blank(disk, 2048 * MIB)
    run(
        "sfdisk",
        "--quiet",
        disk,
        input=_GPT + "size=1280MiB, type=L\nsize=256MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n",
    )
    esp, root, data = _places(disk)
    _efi_partition(disk, esp, shim, grub, ROOT_UUID, "/boot/grub", scratch)
    _ext4(disk, root, tree, ROOT_UUID)
    with loop(disk, offset=data[0], size=data[1]) as device:
        run("mkntfs", "--quick", "--quiet", "--force", "--label", "Daten", device)
        overwrite(device, 0x48, bytes.fromhex(NTFS_ID)[::-1])  # the serial number, in the boot sector and its copy
        overwrite(device, data[1] - 512 + 0x48, bytes.fromhex(NTFS_ID)[::-1])
        folder = scratch / "data"
        folder.mkdir()
        run("ntfs-3g", device, folder)
        try:
            _windows_files(folder)
        finally:
            umount(folder)


def make_xfs(disk: Path, scratch: Path) -> None:
    """GPT: EFI partition, XFS root, btrfs with /home and its snapshot."""
    tree = unpack(scratch / "tree")
    shim, grub = loaders(tree)
    home = f"UUID={HOME_UUID}"
    fstab = (
        f"UUID={ROOT_UUID} / xfs defaults 0 1",
        _ESP_LINE,
        f"{home} /home btrfs subvol=@home,compress=zstd 0 0",
        f"{home} /snapshots btrfs subvol=@snapshots 0 0",
    )
    facts = ("btrfs subvolume list -a -u -q -R /home",)
    settle(tree, Settings(fstab, f"UUID={ROOT_UUID}", ("/boot/efi", "/home", "/snapshots"), facts))
    blank(disk, 2304 * MIB)
    run("sfdisk", "--quiet", disk, input=_GPT + "size=1280MiB, type=L\nsize=512MiB, type=L\n")
    esp, root, data = _places(disk)
    _efi_partition(disk, esp, shim, grub, ROOT_UUID, "/boot/grub", scratch)
    with loop(disk, offset=root[0], size=root[1]) as device:
        run("mkfs.xfs", "-q", "-m", f"uuid={ROOT_UUID}", device)
        with mounted(device, scratch / "root") as there:
            run("cp", "--archive", f"{tree}/.", there)
    with loop(disk, offset=data[0], size=data[1]) as device:
        run("mkfs.btrfs", "--quiet", "--mixed", "--uuid", HOME_UUID, device)
        with mounted(device, scratch / "home", "compress=zstd") as there:
            _homes(there)


def make_luks(disk: Path, scratch: Path) -> None:
    """GPT: EFI partition, unencrypted /boot, ext4 root on LVM on LUKS2; the pass phrase is typed."""
    tree = unpack(scratch / "tree")
    shim, grub = loaders(tree)
    fstab = (
        "/dev/mapper/victim-root / ext4 errors=remount-ro 0 1",
        f"UUID={BOOT_UUID} /boot ext4 defaults 0 2",
        _ESP_LINE,
    )
    settings = Settings(
        fstab,
        "/dev/mapper/victim-root",
        ("/boot",),
        facts=(
            "lvs --noheadings --options vg_uuid,lv_uuid,lv_size",
            "cryptsetup luksUUID /dev/disk/by-partlabel/secret",
        ),
        crypttab=f"secret UUID={LUKS_UUID} none luks,initramfs\n",
        boot="",
    )
    settle(tree, settings)
    blank(disk, 1280 * MIB)
    run("sfdisk", "--quiet", disk, input=_GPT + 'size=192MiB, type=L\nsize=768MiB, type=L, name="secret"\n')
    esp, boot, secret = _places(disk)
    _efi_partition(disk, esp, shim, grub, BOOT_UUID, "/grub", scratch)
    (tree / "boot").rename(scratch / "boot")
    (tree / "boot").mkdir()
    (scratch / "boot/efi").mkdir()
    _ext4(disk, boot, scratch / "boot", BOOT_UUID)
    luks = format_luks(disk, secret[0], PASSPHRASE, LUKS_UUID, scratch)
    inside = blank(scratch / "inside.img", secret[1] - luks.payload_offset)
    root = volume_group(inside, (0, inside.stat().st_size), "victim", 704 * MIB)
    _ext4(inside, root, tree, ROOT_UUID)
    encrypt(inside, disk, secret[0] + luks.payload_offset, luks)


def _places(disk: Path) -> list[tuple[int, int]]:
    """Offset and length of each partition, in bytes, as sfdisk tells them."""
    table = sfdisk_json(disk)
    return [(partition["start"] * 512, partition["size"] * 512) for partition in table["partitions"]]


def _ext4(disk: Path, place: tuple[int, int], tree: Path, uuid: str) -> None:
    blocks = str(place[1] // (4 * KIB))
    run(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-U",
        uuid,
        "-d",
        tree,
        "-E",
        f"offset={place[0]}",
        disk,
        blocks,
    )


def _grub_in_the_mbr(disk: Path, tree: Path, scratch: Path) -> None:
    """As grub-install does it: boot.img before the table, core.img in the gap behind."""
    embedded = scratch / "embedded.cfg"
    embedded.write_text(f"search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\n")
    modules = ["biosdisk", "part_msdos", "ext2", "search_fs_uuid", "normal", "configfile", "linux"]
    where = tree / "usr/lib/grub/i386-pc"
    core = scratch / "core.img"
    options = ("-O", "i386-pc", "-d", where, "-p", "(hd0,msdos5)/boot/grub", "-c", embedded, "-o", core)
    run("grub-mkimage", *options, *modules)
    assert core.stat().st_size < MIB - 512, "core.img does not fit in front of the first partition"
    overwrite(disk, 0, (where / "boot.img").read_bytes()[:440])
    overwrite(disk, 512, core.read_bytes())


def _efi_partition(
    disk: Path, place: tuple[int, int], shim: Path, grub: Path, uuid: str, prefix: str, scratch: Path
) -> None:
    """FAT32 with shim and GRUB below \\EFI\\debian, and no \\EFI\\BOOT: it starts by its EFI entry or not at all."""
    image = blank(scratch / "esp.img", place[1])
    run("mkfs.fat", "-F", "32", "-i", ESP_ID, "-n", "EFI", "-h", str(place[0] // 512), image)
    menu = scratch / "grub.cfg"
    menu.write_text(f"search.fs_uuid {uuid} root\nset prefix=($root)'{prefix}'\nconfigfile $prefix/grub.cfg\n")
    run("mmd", "-i", image, "::/EFI", "::/EFI/debian")
    for source, name in ((shim, "shimx64.efi"), (grub, "grubx64.efi"), (menu, "grub.cfg")):
        run("mcopy", "-i", image, source, f"::/EFI/debian/{name}")
    _put(image, disk, place[0])


def _put(image: Path, disk: Path, offset: int) -> None:
    run(
        "dd",
        f"if={image}",
        f"of={disk}",
        "bs=1M",
        f"seek={offset}",
        "oflag=seek_bytes",
        "conv=notrunc,sparse",
        "status=none",
    )


def _windows_files(folder: Path) -> None:
    peculiar_names = ("Documents and Settings", "Größe.txt", "ein sehr langer Name, länger als acht Zeichen.docx")
    for number, name in enumerate(peculiar_names):
        (folder / name).write_bytes(name.encode() * (number * 40_000 + 1))
    shutil.copyfile("/usr/bin/python3", folder / "program.exe")
    for number in range(200):
        (folder / f"small {number}").write_bytes(struct.pack("<I", number) * number)


def _homes(there: Path) -> None:
    """Subvolumes within one another, a snapshot of one, and what changed after it."""
    run("btrfs", "subvolume", "create", there / "@home")
    run("btrfs", "subvolume", "create", there / "@snapshots")
    run("btrfs", "subvolume", "create", there / "@home/anna")
    peculiar(there / "@home/anna/files", seed=5)
    peculiar(there / "@home/bernd", seed=6)
    run("btrfs", "subvolume", "snapshot", "-r", there / "@home/anna", there / "@snapshots/anna yesterday")
    (there / "@home/anna/files/empty").write_text("no longer empty")
    (there / "@home/anna/files/random").unlink()
    run("cp", "--reflink=always", there / "@home/anna/files/the same", there / "@home/anna/files/shared")


@contextmanager
def _lvm(device: Path) -> Iterator[list[str]]:
    """LVM's options for a kernel without device-mapper, and for no other device than this one."""
    config = (
        f'devices {{ filter=["a|^{device}$|","r|.*|"] use_devicesfile=0 obtain_device_list_from_udev=0 '
        'external_device_info_source="none" } activation { udev_sync=0 udev_rules=0 monitoring=0 } '
        "global { activation=0 use_lvmlockd=0 use_lvmpolld=0 } backup { backup=0 archive=0 }"
    )
    yield ["--config", config]


def volume_group(disk: Path, place: tuple[int, int], name: str, size: int) -> tuple[int, int]:
    """Make a volume group with a volume "root" on a range of a disk; where on the disk the volume lies."""
    with loop(disk, offset=place[0], size=place[1]) as device, _lvm(device) as options:
        run("pvcreate", *options, "--yes", device)
        run("vgcreate", *options, name, device)
        made = ("--yes", "--activate=n", "--zero=n", "--wipesignatures=n", f"--size={size}b", "--name=root", name)
        run("lvcreate", *options, *made)
        told = ("--noheadings", "--nosuffix", "--units=b")
        start = run("pvs", *options, *told, "--options=pe_start", device)
        segment = run("lvs", *options, *told, "--segments", "--options=devices", name)
    assert segment.strip().endswith("(0)"), f"the volume does not begin at the first extent: {segment}"
    return place[0] + int(start.strip()), size
