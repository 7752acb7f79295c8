"""A person at the serial line captures a machine through the interface of the bootable image, and restores it.

Keys in, the screen read as a terminal shows it; the picture of the machine's own screen is kept beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank, sha256
from tests.vm.cycle import Captured, check
from tests.vm.live import BACKUP, BOOT_SECONDS, IMAGE, SERIAL_CONSOLE, WORK_SECONDS, backup_disk, backup_mounted
from tests.vm.machine import Bus, Disk, Firmware, Machine, Medium, Running, started
from tests.vm.terminal import Terminal
from tests.vm.victims import VICTIMS, boot, copied, expected, made

pytestmark = [pytest.mark.vm, pytest.mark.timeout(4 * 3600)]

VICTIM, PASSWORD = "bios", "night-watch"


class Person:
    """Sits at the terminal of a machine that was started with the image."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.terminal = Terminal(running.console)

    def choose(self, title: str, words: str, key: str = "down", seconds: float = 300) -> None:
        """On the screen of that title, choose what says these words."""
        self.terminal.see(title, seconds=seconds)
        self.terminal.settle()
        self.terminal.choose(words, key)

    def press(self, title: str, button: str, seconds: float = 300) -> None:
        """On the screen of that title, press a button."""
        self.choose(title, button, "tab", seconds)

    def answer(self, title: str, *lines: str, seconds: float = 300) -> None:
        """On the screen of that title, type; each line ends with Enter."""
        self.terminal.see(title, seconds=seconds)
        self.terminal.settle()
        for line in lines:
            self.terminal.type(line)
            self.terminal.press("enter")


@contextmanager
def person_at(machine: Machine, folder: Path) -> Iterator[Person]:
    """The machine, started with the image to the interface's first screen."""
    with started(machine, folder) as running:
        running.console.wait_for("Start Recovery", 300)
        running.console.send(SERIAL_CONSOLE)
        person = Person(running)
        person.terminal.see("What do you want to do", r"disks? (was|were) found", seconds=BOOT_SECONDS)
        person.terminal.settle()
        running.picture(folder / "first-screen.png")
        yield person


@pytest.mark.core
def test_a_person_captures_a_machine_and_brings_it_back_on_another_disk(tmp_path: Path) -> None:
    victim, source, target = VICTIMS[VICTIM], tmp_path / "source.img", tmp_path / "target.img"
    backup = Disk(backup_disk(tmp_path / "backup.img"), Bus.USB, BACKUP)
    copied(made(VICTIM), source)
    before, size_bytes = sha256(source), source.stat().st_size

    blank(target, size_bytes + 700 * MIB)
    machine = Machine(Firmware.BIOS, (Disk(source, Bus.SATA, "VICTIM"), backup), None, IMAGE, Medium.STICK)
    with person_at(machine, tmp_path / "live") as person:
        capture(person)
        person.running.attach(Disk(target, Bus.NVME, "BLANK"))  # the new disk is put in
        restore(person)
    assert sha256(source) == before, "the source was written to"
    told = Captured(size_bytes, expected(VICTIM), {})
    check(told, boot(victim, Disk(target, Bus.NVME), Firmware.BIOS, None, tmp_path / "after"))

    with backup_mounted(backup.path, tmp_path / "mounted") as repository:
        assert len(list((repository / "snapshots").iterdir())) == 1
        assert not list((repository / "locks").iterdir())


def capture(person: Person) -> None:
    """The first journey: seven decisions, this one to begin it among them."""
    person.choose("What do you want to do", "Capture this machine")
    person.terminal.see("To be saved: sda")
    person.press("Which disks are to be saved", "Continue")
    person.choose("Where is the image to be kept", "backup")
    person.answer("A password for the new repository", PASSWORD, PASSWORD)
    person.terminal.see("will be stored", seconds=WORK_SECONDS)
    person.press("Review", "Start")
    person.terminal.see("The result", seconds=WORK_SECONDS)
    person.terminal.see("The system image was made", "read back from the medium and is right")
    person.press("The result", "Continue")


def restore(person: Person) -> None:
    """The second journey."""
    person.choose("What do you want to do", "Restore a machine")
    person.choose("Where are the images kept", "backup")
    person.answer("Show what I type", PASSWORD)
    person.choose("Which system image", "sda")
    person.choose("All of it, or only one partition", "The whole disk")
    person.choose("Onto which disk", "nvme0n1")
    person.terminal.see("To agree, type nvme0n1", "will be lost", seconds=WORK_SECONDS)
    person.terminal.settle()
    person.terminal.press("back-tab")
    person.terminal.type("nvme0n1")
    person.terminal.see("here: nvme0n1")
    person.terminal.press("enter")
    person.terminal.see("The result", seconds=WORK_SECONDS)
    person.press("The result", "Continue")
    person.press("What to do next", "Switch off")
    person.press("This machine will switch off", "Switch off now")
    person.running.wait_for_power_off(600)
