"""A victim's files, before they are put on a disk: the base with its own fstab, boot menu and only service."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.disks import run
from tests.vm.base import base

_UNIT = """[Unit]
Description=Look at every file and switch off
RequiresMountsFor=/
After=local-fs.target swap.target basic.target

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/victim
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""
#: What would only make it slower, or speak on the serial line.
_MASKED = (
    "serial-getty@ttyS0.service",
    "getty@tty1.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "grub-common.service",  # writes /boot/grub/grubenv, sooner or later than it is looked at
    "grub-initrd-fallback.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs from victim to victim."""

    fstab: tuple[str, ...]
    root: str
    """``root=`` of the kernel's command line."""
    data: tuple[str, ...] = ()
    """Where filesystems are mounted that are looked at too."""
    facts: tuple[str, ...] = ()
    """Commands whose output belongs to what it looks at."""
    crypttab: str = ""
    boot: str = "/boot"
    """Where the kernel is, as the boot loader sees it."""


def unpack(folder: Path) -> Path:
    """The base's files in ``folder``, which is made."""
    folder.mkdir()
    run("tar", "--extract", "--numeric-owner", "--xattrs", "--file", base(), "--directory", folder)
    return folder


def settle(tree: Path, settings: Settings) -> None:
    """Make the files in ``tree`` those of a victim."""
    _write(tree / "etc/fstab", "".join(f"{line}\n" for line in settings.fstab))
    _write(tree / "etc/hostname", "victim\n")
    _write(tree / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")  # else each start would make one
    _write(tree / "etc/victim/data", "".join(f"{folder}\n" for folder in settings.data))
    _write(tree / "etc/victim/facts", "".join(f"{fact}\n" for fact in settings.facts))
    _write(tree / "etc/systemd/system/victim.service", _UNIT)
    for name in _MASKED:
        (tree / "etc/systemd/system" / name).symlink_to("/dev/null")
    wanted = tree / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "victim.service").symlink_to("/etc/systemd/system/victim.service")
    program = tree / "usr/local/sbin/victim"
    shutil.copyfile(Path(__file__).with_name("victim.sh"), program)
    program.chmod(0o755)
    for folder in settings.data:
        (tree / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    _write(tree / "boot/grub/grub.cfg", _menu(settings))
    for name in ("vmlinuz", "initrd.img"):
        (tree / "boot" / name).symlink_to((tree / name).readlink().name)
    if settings.crypttab:
        _write(tree / "etc/crypttab", settings.crypttab)
        run("chroot", tree, "update-initramfs", "-u")
    peculiar(tree / "srv/peculiar")
    for name in ("etc/.updated", "var/.updated"):  # nothing to bring up to date at the first start
        (tree / name).touch()


def peculiar(folder: Path, seed: int = 4) -> None:
    """Files as a captured disk must bring them back: sparse, empty, large, linked, with names outside ASCII."""
    some = random.Random(seed)
    folder.mkdir(parents=True)
    (folder / "empty").touch()
    (folder / "müßig ☃").write_bytes(some.randbytes(70_001))
    with (folder / "sparse").open("wb") as file:
        for offset in (0, 5 << 20, 9 << 20):
            file.seek(offset)
            file.write(some.randbytes(10_000))
        file.truncate(12 << 20)
    (folder / "random").write_bytes(some.randbytes(6 << 20))
    os.link(folder / "random", folder / "the same")
    (folder / "elsewhere").symlink_to("../nowhere")
    (folder / "secret").write_text("nobody else")
    (folder / "secret").chmod(0o4600)
    os.chown(folder / "secret", 1234, 5678)


def loaders(tree: Path) -> tuple[Path, Path]:
    """Debian's signed shim and GRUB, out of the tree, where they are not part of the system."""
    taken = tree.parent / "loaders"
    if not taken.exists():
        (tree / "victim").rename(taken)
    return taken / "usr/lib/shim/shimx64.efi.signed", taken / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"


def _menu(settings: Settings) -> str:
    arguments = f"root={settings.root} ro quiet console=tty0 console=ttyS0,115200"
    return (
        "set timeout=0\nmenuentry 'Debian' {\n"
        f"linux {settings.boot}/vmlinuz {arguments}\ninitrd {settings.boot}/initrd.img\n}}\n"
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
