"""The Debian system that all victims are made from: fetched once by mmdebstrap, kept below build/vm."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tests.support.program import ROOT

#: What the tests of virtual machines keep from one run to the next.
KEPT = ROOT / "build" / "vm"

_PACKAGES = (
    "systemd-sysv,udev,kmod,linux-image-amd64,initramfs-tools,zstd,e2fsprogs,xfsprogs,btrfs-progs,lvm2,"
    "cryptsetup-initramfs,grub-pc-bin,grub-common"
)
#: A victim has no use for these, and software emulation would have to hash and capture them.
_LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    *(
        f"/usr/lib/modules/*/kernel/{part}/*"
        for part in ("sound", "net", *(f"drivers/{kind}" for kind in ("gpu", "media", "net", "infiniband", "iio")))
    ),
)
#: A disk may come back on another bus: drivers for all of them.
_INITRAMFS = (
    'mkdir -p "$1/etc/initramfs-tools/conf.d" && '
    'printf "MODULES=most\\nRESUME=none\\n" > "$1/etc/initramfs-tools/conf.d/victim"'
)
#: The signed loaders lie in /victim: the victims that need them have them on their EFI partition.
_LOADERS = (
    'chroot "$1" sh -c "mkdir /victim && cd /victim && apt-get download shim-signed grub-efi-amd64-signed && '
    'for package in *.deb; do dpkg-deb -x \\$package . && rm \\$package; done"'
)


def recipe() -> list[str]:
    """The call of mmdebstrap, without the file it writes."""
    words = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", f"--include={_PACKAGES}"]
    words += ['--aptopt=Apt::Install-Recommends "false"', *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT)]
    return [*words, f"--essential-hook={_INITRAMFS}", f"--customize-hook={_LOADERS}", "trixie"]


def base() -> Path:
    """The system as a tar archive; made when it is not there yet (root, the network, a minute and a half)."""
    key = hashlib.sha256("\0".join(recipe()).encode()).hexdigest()[:12]
    made = KEPT / f"base-{key}.tar"
    if not made.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}.tmp")
        try:
            subprocess.run([*recipe(), str(unfinished)], check=True, stdin=subprocess.DEVNULL)
            unfinished.rename(made)
        finally:
            unfinished.unlink(missing_ok=True)
    return made
