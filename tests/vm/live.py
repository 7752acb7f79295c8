"""The bootable image as a person uses it: choose in the menu, type at the prompt, answer what is asked.

All commands are those that the README names.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.disks import MIB, loop, mounted, partitioned, run, sfdisk_json
from tests.support.program import PASSWORD, ROOT
from tests.vm.console import Console, Said
from tests.vm.machine import Machine, Running, started
from tests.vm.terminal import KEYS

IMAGE = Path(os.environ.get("RECOVERY_VM_IMAGE", ROOT / "build" / "recovery-amd64.iso"))
REPOSITORY = "/media/backup/recovery"
#: The serial number of the disk that holds the repository.
BACKUP = "BACKUP"
#: The menu's keys.
SERIAL_CONSOLE, IN_MEMORY, CHECK_MEDIUM = "t", "m", "k"

#: From the switch to the prompt on an emulated processor, in seconds.
BOOT_SECONDS = 900
WORK_SECONDS = 3000


@dataclass(frozen=True, slots=True)
class Live:
    """The live system's prompt on the serial line."""

    running: Running

    def run(self, command: str, seconds: float = 300, status: int | None = 0) -> Said:
        """Type a command; see :meth:`tests.vm.console.Console.run`."""
        return self.running.console.run(command, seconds, status)

    def device(self, serial: str) -> str:
        """The path of the disk with that serial number, as ``recovery disks`` shows it."""
        path: str = self.disk(serial)["path"]
        return path

    def disk(self, serial: str) -> dict[str, Any]:
        """What ``recovery disks`` says of the disk with that serial number (see ``Disk.id``)."""
        found = [report["disk"] for report in self.disks() if (report["disk"]["serial"] or "").endswith(serial)]
        assert len(found) == 1, f"{len(found)} disks are called {serial}: {found}"
        disk: dict[str, Any] = found[0]
        return disk

    def disks(self) -> list[dict[str, Any]]:
        """The answer of ``recovery disks --json``."""
        told: list[dict[str, Any]] = json.loads(self.run("recovery disks --json 2>/dev/null").text)
        return told

    def open_backup(self, *, make: bool = False, unclean: bool = False) -> None:
        """Mount the disk with the repository; ``make`` one; confirm it where it was not closed (``unclean``)."""
        self.run(f"export RESTIC_PASSWORD='{PASSWORD}' RESTIC_REPOSITORY={REPOSITORY} COLUMNS=200")
        partition = partition_of(self.device(BACKUP), 1)
        if unclean:
            name = partition.removeprefix("/dev/")
            self.answer(f"recovery destination {partition}", f"Type {name} to mount it", name)
        else:
            self.run(f"recovery destination {partition}")
        if make:
            self.run("recovery init")

    def answer(self, command: str, question: str, answer: str, status: int | None = 0) -> Said:
        """Run a command that asks; the answer is typed when the question stands there."""
        self.start(command)
        self.running.console.wait_for(question, WORK_SECONDS)
        self.running.console.send_line(answer)
        said = self.ended(command)
        assert status is None or said.status == status, f"{command} exited with {said.status}:\n{said.text}"
        return said

    def start(self, command: str) -> None:
        """Type a command and do not wait; see :meth:`ended`."""
        self.running.console.send_line(f"{command}; ended=$?; echo; echo it ended with $ended.")

    def ended(self, command: str) -> Said:
        """Wait for the end of what was started; its text is what was not read yet."""
        match = self.running.console.wait_for(r"(?s:.*?)^it ended with (\d+)\.\n", WORK_SECONDS)
        return Said(command, int(match[1]), match[0])

    def restore(self, target: str, *options: str, status: int | None = 0) -> Said:
        """Restore the newest image onto a disk, and confirm the plan by its name."""
        words = " ".join(("recovery restore latest", target, *options))
        return self.answer(words, r"Type (\S+) to overwrite it", target.removeprefix("/dev/"), status)

    def power_off(self) -> None:
        """Give the repository's disk back, and switch off as a person does."""
        self.run("cd /; mountpoint -q /media/backup && recovery destination --unmount /media/backup; true")
        self.running.console.send_line("poweroff")
        self.running.wait_for_power_off(300)


@contextmanager
def live(machine: Machine, folder: Path, entry: str = SERIAL_CONSOLE) -> Iterator[Live]:
    """The image, booted in a machine to root's prompt on the serial line."""
    with started(machine, folder) as running:
        running.console.wait_for("Start Recovery", 300)
        running.console.send(entry)
        leave_interface(running.console)
        yield Live(running)


def until(told: Callable[[], bool], seconds: float = 120) -> None:
    """Ask every second until it is so; raises AssertionError when it never comes to that."""
    ends = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(1)


def leave_interface(console: Console) -> None:
    """Wait for the interface, and leave it for the prompt."""
    console.wait_for("What do you want to do", BOOT_SECONDS)
    console.send(KEYS["f10"])
    console.wait_for("Leave the program", 300)
    console.send(KEYS["tab"] + KEYS["enter"])
    console.log_in(300)


def backup_disk(path: Path, size_mib: int = 3072) -> Path:
    """A disk with one ext4 partition called "backup", as one buys them."""
    partitioned(path, size_mib * MIB, "label: gpt\ntype=L\n")
    partition = sfdisk_json(path)["partitions"][0]
    offset, blocks = partition["start"] * 512, partition["size"] // 8
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "backup", "-E", f"offset={offset}", path, str(blocks))
    return path


@contextmanager
def backup_mounted(path: Path, folder: Path) -> Iterator[Path]:
    """The repository on a backup disk, on this machine (needs root); its journal is replayed."""
    partition = sfdisk_json(path)["partitions"][0]
    with loop(path, offset=partition["start"] * 512, size=partition["size"] * 512) as device:
        with mounted(device, folder) as there:
            yield there / "recovery"


def partition_of(disk: str, number: int) -> str:
    """``/dev/sda1``, ``/dev/nvme0n1p1``."""
    return f"{disk}p{number}" if re.search(r"\d$", disk) else f"{disk}{number}"
