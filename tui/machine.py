"""What the interface asks of a machine.  Every method may take its time: never called in the interface's own thread.

``LocalMachine`` is the one that the program runs on, ``RecordedMachine`` (recorded.py) one made from a recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from recovery import destination, formatting, places
from recovery.command import run
from recovery.devices.disk import Disk, DiskIdentity, check_chosen, disk_for, identity, watch_disks
from recovery.devices.health import Health, health
from recovery.devices.live import live_system
from recovery.devices.power import on_battery
from recovery.devices.safety import source_problems, target_problems
from recovery.devices.usage import System
from recovery.errors import RecoveryError
from recovery.image.machine import this_machine
from recovery.image.manifest import Machine as MachineFacts
from recovery.inventory import DiskReport
from recovery.surveyor import survey_apart
from tui.network import Network, look_at_network

Leave = Literal["reboot", "poweroff"]


class Machine(Protocol):
    """A machine with disks."""

    #: Whether it is a recording: nothing outside its folder is read or written.
    recorded: bool
    #: Whether it runs from our medium: then it may be switched off from here, and disks be mounted.
    live: bool

    def facts(self) -> MachineFacts:
        """Its maker, model, firmware."""

    def survey(self) -> list[DiskReport]:
        """Every disk; one that does not answer has a finding that says so."""

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed``, in another thread, when disks come or go; until the function returned is called."""

    def place(self, disk: Disk) -> Path:
        """What a request for the engine names ``disk`` by."""

    def chosen(self, disk: Disk) -> DiskIdentity | None:
        """What a request says that the disk must be; None where what stands for it cannot be told apart by that."""

    def check_same(self, disk: Disk) -> None:
        """Raise Refused when another disk has taken its name since it was listed, DeviceError when it is gone."""

    def source_problems(self, disk: Disk, repository: Path | None) -> list[str]:
        """Why it may not be captured now."""

    def target_problems(self, disk: Disk, repository: Path | None, sources: Sequence[Disk] = ()) -> list[str]:
        """Why it may not be overwritten now."""

    def destinations(self) -> list[destination.Destination]:
        """Filesystems that are mounted, and may hold a repository."""

    def mount(self, device: Path, *, read_only: bool = False, unclean: bool = False) -> destination.Destination:
        """Make the filesystem on ``device`` a destination.  ``unclean``: also when writing mends it first.

        Raises NotClosed without that, Refused with the reason, UsageError, DeviceError.
        """

    def unmount(self, folder: Path) -> tuple[str, ...]:
        """Give a destination back; what still holds its disk.  Raises DeviceError when it is in use, UsageError."""

    def plan_format(self, disk: Disk) -> formatting.FormatPlan:
        """What erasing ``disk`` for a repository would overwrite.  Raises Refused with the reason, DeviceError."""

    def format(self, plan: formatting.FormatPlan) -> destination.Destination:
        """Erase the disk of a plan that was confirmed, make a filesystem on it, and mount that."""

    def health(self, disk: Disk) -> Health:
        """What the disk says of itself (SMART).  Raises DeviceError, ProgramMissing."""

    def network(self) -> Network:
        """Its network cards, their addresses, the way out.  Raises ProgramMissing, DeviceError."""

    def battery(self) -> str | None:
        """How full it is when the machine runs on it; None when it runs on mains."""

    def leave(self, how: Leave) -> None:
        """Restart the machine, or switch it off."""


class LocalMachine:
    """The machine that this program runs on."""

    recorded = False

    def __init__(self) -> None:
        self.live = live_system() is not None

    def facts(self) -> MachineFacts:
        """Its maker, model, firmware."""
        return this_machine()

    def survey(self) -> list[DiskReport]:
        """Every disk of it."""
        return survey_apart()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Follow udev."""
        return watch_disks(changed)

    def place(self, disk: Disk) -> Path:
        """Its device node."""
        return disk.place

    def chosen(self, disk: Disk) -> DiskIdentity | None:
        """By its serial number, size and what else names it."""
        return identity(disk)

    def check_same(self, disk: Disk) -> None:
        """By a new look at it."""
        check_chosen(identity(disk), disk_for(disk.place))

    def source_problems(self, disk: Disk, repository: Path | None) -> list[str]:
        """As the engine will say when the capture is planned."""
        return _asked(lambda: source_problems(disk, repository=repository))

    def target_problems(self, disk: Disk, repository: Path | None, sources: Sequence[Disk] = ()) -> list[str]:
        """As the engine will say when the restore is planned."""
        return _asked(lambda: target_problems(disk, repository=repository, sources=sources))

    def destinations(self) -> list[destination.Destination]:
        """What is mounted below /media."""
        return places.mounted()

    def mount(self, device: Path, *, read_only: bool = False, unclean: bool = False) -> destination.Destination:
        """Below /media."""
        for made in places.mounted() if not read_only else ():
            if made.device == str(device) and made.read_only:  # it was only looked at until now
                destination.unmount(Path(made.folder))
        candidate = destination.look(device, read_only=read_only)
        if candidate.unclean and not read_only and not unclean:
            raise destination.NotClosed(f"{device}: {candidate.unclean}", "Mounting it writes to it.")
        return destination.mount(candidate, read_only=read_only)

    def unmount(self, folder: Path) -> tuple[str, ...]:
        """With its disk's write protection."""
        device = next((made.device for made in places.mounted() if Path(made.folder) == folder), "")
        held = destination.unmount(folder).held
        return (*held, *_mounted_beside(device)) if device else held

    def plan_format(self, disk: Disk) -> formatting.FormatPlan:
        """As the engine sees the disk now, which must be the one that was listed."""
        plan = formatting.plan_format(disk.place)
        check_chosen(identity(disk), plan.disk)
        return plan

    def format(self, plan: formatting.FormatPlan) -> destination.Destination:
        """A GPT with one ext4 partition, mounted below /media."""
        return formatting.format_disk(plan)

    def health(self, disk: Disk) -> Health:
        """By smartctl."""
        return health(disk)

    def network(self) -> Network:
        """By ip."""
        return look_at_network()

    def battery(self) -> str | None:
        """By the kernel's power supplies."""
        return on_battery()

    def leave(self, how: Leave) -> None:
        """By systemd."""
        run(["systemctl", how], needed_for="leaving the system", timeout_seconds=30)


def _mounted_beside(device: str) -> list[str]:
    """Other filesystems of the same disk that are mounted."""
    system = System()
    disk = system.whole_disk(Path(device).name)
    return [made.device for made in places.mounted() if system.whole_disk(Path(made.device).name) == disk]


def _asked(question: Callable[[], list[str]]) -> list[str]:
    try:
        return question()
    except RecoveryError as error:
        return [error.message]
