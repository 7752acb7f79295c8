"""Virtual machines of QEMU: what one is made of, and one that runs.

    with started(Machine(firmware=Firmware.BIOS, disks=(Disk(path),)), folder) as running:
        running.console.wait_for("login:", 120)

The serial line is in ``folder/serial.log``.  However the process that started it ends, the machine ends with it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from shutil import copyfile

from tests.vm.console import Console
from tests.vm.qmp import ControlLine

#: Debian's place for the firmware (package ovmf).
_FIRMWARE = Path("/usr/share/OVMF")
#: Without AVX: emulated, it took sha256sum twice the time.  With AES instructions the kernel needs SSSE3 too: it
#: crashed with "qemu64,+aes".
_EMULATED = "Westmere"


class Firmware(Enum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"
    SECURE_BOOT = "secure-boot"


class Bus(Enum):
    """What a disk hangs on."""

    VIRTIO = "virtio"
    SATA = "sata"
    NVME = "nvme"
    USB = "usb"


class Medium(Enum):
    """How the bootable image is in the machine."""

    CD = "cd"
    STICK = "stick"


@dataclass(frozen=True, slots=True)
class ReadError:
    """Reads of these bytes of a disk fail (QEMU's blkdebug)."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw image file as a disk."""

    path: Path
    bus: Bus = Bus.VIRTIO
    name: str = ""
    """Its serial number, and QEMU's name of it; when empty, the file's name."""
    sector_bytes: int = 512
    read_only: bool = False
    errors: tuple[ReadError, ...] = ()

    @property
    def id(self) -> str:
        return (self.name or self.path.stem).replace(".", "-")[:20]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine is made of."""

    firmware: Firmware = Firmware.BIOS
    disks: tuple[Disk, ...] = ()
    variables: Path | None = None
    """The EFI variables (see :func:`fresh_variables`), which the machine changes; needed unless BIOS."""
    image: Path | None = None
    """The bootable image; when there, it is started first, else what the firmware finds."""
    medium: Medium = Medium.CD
    kernel: tuple[Path, Path, str] | None = None
    """Kernel, initrd and command line, as a network's boot loader would load them."""
    memory_mib: int = 1024
    processors: int = 2
    network: bool = False
    served: Path | None = None
    """A folder that the network offers by TFTP, with ``bootx64.efi`` to start from; the firmware tries that first."""
    ports: tuple[str, ...] = field(default=())
    """Ports that the system sees below /dev/virtio-ports; what it writes there is in ``folder/NAME.port``."""


def fresh_variables(firmware: Firmware, path: Path) -> Path:
    """The EFI variables of a machine that was never started, at ``path``; for Secure Boot with Microsoft's keys."""
    name = "OVMF_VARS_4M.ms.fd" if firmware is Firmware.SECURE_BOOT else "OVMF_VARS_4M.fd"
    copyfile(_FIRMWARE / name, path)
    return path


@cache
def acceleration() -> str:
    """``kvm`` where the processor can, else ``tcg``.

    /dev/kvm alone says too little: without these instructions it may be one for guests that were changed for it
    (kvm_pvm), which starts SeaBIOS; whether an unchanged kernel gets further there has not been tried.
    """
    words = set(Path("/proc/cpuinfo").read_text().split())
    usable = not words.isdisjoint({"vmx", "svm"}) and os.access("/dev/kvm", os.R_OK | os.W_OK)
    return os.environ.get("RECOVERY_VM_ACCELERATION", "kvm" if usable else "tcg")


class Running:
    """A machine that runs; made by :func:`started`."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command_line(machine, folder, its.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(folder / "qemu.log").open("wb"),
                pass_fds=[its.fileno()],
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self.console = Console(self._process.stdin, self._process.stdout)
            self.control = ControlLine(ours)
        except BaseException as error:
            self.kill()
            if isinstance(error, EOFError):
                raise AssertionError(f"QEMU did not start: {(folder / 'qemu.log').read_text()}") from error
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def attach(self, disk: Disk) -> None:
        """Plug a disk in (virtio, NVMe or USB; there is a place for one virtio or NVMe disk at a time)."""
        assert disk.bus is not Bus.SATA, "QEMU does not hot-plug SATA"
        self.control.execute("blockdev-add", **_block(disk))
        driver, properties = _device(disk, "hot")
        self.control.execute("device_add", driver=driver, **properties)

    def detach(self, disk: Disk, seconds: float = 60) -> None:
        """Pull a disk out; returns when the machine has let go of it."""
        seen = len(self.control.events)
        self.control.execute("device_del", id=disk.id)
        self.control.wait_for_event("DEVICE_DELETED", seconds, seen)
        self.control.execute("blockdev-del", **{"node-name": f"disk-{disk.id}"})

    def picture(self, path: Path) -> None:
        """The screen, as a PNG file."""
        self.control.execute("screendump", filename=str(path), format="png")

    def wait_for_power_off(self, seconds: float) -> None:
        """The system must switch the machine off, within the time; a reset or a crash is an AssertionError."""
        try:
            reason = self.control.wait_for_event("SHUTDOWN", seconds)["data"]["reason"]
            self._process.wait(60)
        except (TimeoutError, EOFError, subprocess.TimeoutExpired) as error:
            raise AssertionError(
                f"it did not switch itself off; its last words:\n{self.console.text[-2000:]}"
            ) from error
        assert reason == "guest-shutdown", f"it ended by {reason}; its last words:\n{self.console.text[-2000:]}"

    def kill(self) -> None:
        """Pull the plug: nothing that the machine has not written by now is ever written."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """The machine is gone afterwards."""
        if self.runs:
            self.kill()
        self.control.close()


@contextmanager
def started(machine: Machine, folder: Path) -> Iterator[Running]:
    """The machine, switched on; behind the ``with`` block it is off, at the latest."""
    running = Running(machine, folder)
    try:
        yield running
    finally:
        running.close()


def command_line(machine: Machine, folder: Path, control: int) -> list[str]:
    """How QEMU is called; ``control`` is the file descriptor of its control line."""
    secure = machine.firmware is Firmware.SECURE_BOOT
    words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "std", "-no-reboot"]
    words += ["-machine", "q35,smm=on" if secure else "q35"]
    words += ["-accel", "kvm"] if acceleration() == "kvm" else ["-accel", "tcg,thread=multi,tb-size=256"]
    words += ["-cpu", "host" if acceleration() == "kvm" else _EMULATED]
    # Emulated processors are one: with two, one of the first two kernels panicked as it started ("Oops: int3", likely
    # the emulation of code that patches itself while another processor runs it).
    words += ["-m", str(machine.memory_mib), "-smp", str(machine.processors if acceleration() == "kvm" else 1)]
    words += ["-chardev", f"stdio,id=serial,signal=off,logfile={folder / 'serial.log'}", "-serial", "chardev:serial"]
    words += ["-chardev", f"socket,id=control,fd={control}", "-mon", "chardev=control,mode=control"]
    words += ["-device", "virtio-rng-pci", "-device", "qemu-xhci,id=usb,p2=8,p3=8", "-device", "usb-kbd,bus=usb.0"]
    words += ["-device", "pcie-root-port,id=hot,chassis=1", "-boot", "menu=off,strict=off"]
    words += _network(machine)
    words += _firmware(machine)
    if machine.kernel is not None:
        kernel, initrd, arguments = machine.kernel
        words += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", arguments]
    words += ["-device", "virtio-serial-pci"] if machine.ports else []
    for number, port in enumerate(machine.ports):
        words += ["-chardev", f"file,id=port{number},path={folder / port}.port"]
        words += ["-device", f"virtserialport,chardev=port{number},name={port}"]
    sata = iter(range(6))
    if machine.image is not None:
        words += _medium(machine.image, machine.medium, f"ide.{next(sata)}")
    for order, disk in enumerate(machine.disks, 1):
        driver, properties = _device(disk, f"ide.{next(sata)}" if disk.bus is Bus.SATA else "pcie.0")
        if machine.image is not None:
            properties["bootindex"] = order  # OVMF strikes out of BootOrder what has none, when anything has one
        words += ["-blockdev", json.dumps(_block(disk)), "-device", json.dumps({"driver": driver, **properties})]
    return words


def _network(machine: Machine) -> list[str]:
    if machine.served is not None:
        # Without the card's own ROM, an iPXE, whose TFTP tells shim a wrong size.
        card = "virtio-net-pci,netdev=net,romfile=,bootindex=0"
        return ["-netdev", f"user,id=net,tftp={machine.served},bootfile=bootx64.efi", "-device", card]
    return ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"] if machine.network else []


def _firmware(machine: Machine) -> list[str]:
    if machine.firmware is Firmware.BIOS:
        return []
    assert machine.variables is not None, "a machine with UEFI needs its variables"
    code = "OVMF_CODE_4M.fd"
    words = []
    if machine.firmware is Firmware.SECURE_BOOT:
        code = "OVMF_CODE_4M.secboot.fd"
        words = ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_FIRMWARE / code}"]
    return [*words, "-drive", f"if=pflash,unit=1,format=raw,file={machine.variables}"]


def _medium(image: Path, medium: Medium, bus: str) -> list[str]:
    if medium is Medium.CD:
        block = f"if=none,id=medium,format=raw,media=cdrom,readonly=on,file={image}"
        return ["-drive", block, "-device", f"ide-cd,drive=medium,bus={bus},bootindex=0"]
    block = f"if=none,id=medium,format=raw,snapshot=on,file={image}"  # what is written to it is forgotten
    return ["-drive", block, "-device", "usb-storage,bus=usb.0,drive=medium,removable=on,serial=STICK,bootindex=0"]


def _block(disk: Disk) -> dict[str, object]:
    """The arguments of QMP's blockdev-add, which are those of -blockdev too."""
    file: dict[str, object] = {"driver": "file", "filename": str(disk.path), "locking": "off", "discard": "unmap"}
    file |= {"cache": {"no-flush": True, "direct": False}, "read-only": disk.read_only}
    if disk.errors:
        rules = [
            {"event": "none", "iotype": "read", "errno": 5, "sector": sector}
            for error in disk.errors
            for sector in range(error.offset // 512, (error.offset + error.length + 511) // 512)
        ]
        file = {"driver": "blkdebug", "image": file, "inject-error": rules}
    whole = {"driver": "raw", "node-name": f"disk-{disk.id}", "discard": "unmap"}
    return {**whole, "read-only": disk.read_only, "file": file}


def _device(disk: Disk, bus: str) -> tuple[str, dict[str, object]]:
    """The driver's name, and its properties."""
    common: dict[str, object] = {"id": disk.id, "drive": f"disk-{disk.id}", "serial": disk.id, "bus": bus}
    sectors = {"logical_block_size": disk.sector_bytes, "physical_block_size": max(4096, disk.sector_bytes)}
    match disk.bus:
        case Bus.VIRTIO:
            return "virtio-blk-pci", {**common, **sectors, "discard": True}
        case Bus.NVME:
            return "nvme", {**common, **sectors}
        case Bus.USB:
            return "usb-storage", {**common, **sectors, "bus": "usb.0", "removable": False}
        case Bus.SATA:
            assert disk.sector_bytes == 512, "QEMU's SATA disks have sectors of 512 bytes"
            return "ide-hd", common


def wait_until_gone(pid: int, seconds: float = 10) -> None:
    """Wait until a process is gone; raises AssertionError when it stays."""
    ends = time.monotonic() + seconds
    while Path(f"/proc/{pid}/stat").exists():
        assert time.monotonic() < ends, f"process {pid} is still there"
        time.sleep(0.05)
