"""A recorded machine: what a recording says, made real in a folder, with the real engine working on it.

Disks are sparse files in ``FOLDER/dev`` (those with faults reach the engine through FUSE), what mounted filesystems
show lies in ``FOLDER/media``, jobs in ``FOLDER/jobs``.  Nothing outside of it is read or written, and it needs no root.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msgspec import structs

from recovery import destination, formatting
from recovery.devices import safety
from recovery.devices.disk import Disk, DiskIdentity, disk_for, identity
from recovery.devices.health import Health, read_health
from recovery.errors import DeviceError, RecoveryError, Refused, UsageError
from recovery.image.manifest import Machine as MachineFacts
from recovery.inventory import DiskReport, PartitionReport
from recovery.jobs.folder import FOLDER_VARIABLE, list_jobs
from recovery.places import device_of, is_on
from recovery.surveyor import survey_apart
from recovery.units import MIB
from tui.leaving import stop_jobs
from tui.machine import Leave
from tui.network import Network
from tui.recorded_disks import (
    Made,
    copy_sparse,
    filesystems,
    identifier,
    make_machine,
    media_name,
    partition_disk,
    scratch_folder,
)
from tui.recorded_faults import with_faults
from tui.recorded_filesystems import make_filesystem
from tui.recorded_format import Filesystem, Partition, RecordedDisk, Recording, find_recording, load_recording

log = logging.getLogger(__name__)

_NO_FUSE = "The recording says that it has faults; they cannot be shown here: {}."


@contextmanager
def recorded_machine(
    recording: Path, folder: Path | None = None, cache: Path | None = None
) -> Iterator[RecordedMachine]:
    """The machine of a file, or of a recording that ships (by its name), in ``folder``; by default a new one.

    Made disks are kept in ``cache``, if there is one.  At the end jobs that work on them are stopped, and what was
    made is removed.  Raises UsageError for a recording that is none, DeviceError, ProgramMissing.
    """
    found = find_recording(recording)
    wanted = load_recording(found)
    with ExitStack() as held:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix=f"{found.stem}-", dir=scratch_folder()))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
        made = make_machine(wanted, folder, cache)
        machine = RecordedMachine(wanted, folder, made, held)
        held.callback(machine.stop)
        held.enter_context(_own_jobs(folder / "jobs"))
        yield machine


class RecordedMachine:
    """The ``Machine`` that a recording tells of.  Paths are those of the recording (``/dev/sda``) but for ``place``."""

    recorded = True
    #: A disk that has not answered after so long is told without an answer.
    patience_seconds = 10.0

    def __init__(self, recording: Recording, folder: Path, made: dict[str, Made], held: ExitStack) -> None:
        """``made``: the files of its disks; faults last as long as ``held``."""
        self.recording, self.folder = recording, folder
        self.live = recording.live
        self._disks = {disk.name: disk for disk in recording.disks}
        self._files = {name: disk.file for name, disk in made.items()}
        self._findings = {name: disk.findings for name, disk in made.items()}
        self._places = {disk.name: self._presented(disk, held) for disk in recording.disks}
        self._guard = threading.Lock()
        self._plugged = {disk.name: number for number, disk in enumerate(recording.disks, 1) if disk.plugged}
        self._mounted: dict[str, destination.Destination] = {}
        self._heads = {name: self._head(name) for name in self._files}
        self._told: list[Callable[[], None]] = []
        self._timers: list[threading.Timer] = []

    def _presented(self, disk: RecordedDisk, held: ExitStack) -> Path:
        """What the engine gets of a disk: its file, or that with its faults."""
        file = self._files[disk.name]
        faults = disk.faults
        if not (faults.unreadable or faults.slow or faults.silent or faults.hangs_after_bytes is not None):
            return file
        link = self.folder / "with-faults" / disk.name
        try:
            served = held.enter_context(with_faults(file, faults))
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(served)
            held.callback(link.unlink, missing_ok=True)
            return link
        except RecoveryError as error:
            self._findings[disk.name] += (_NO_FUSE.format(error.message.rstrip(".")),)
            return file

    # -- disks

    def facts(self) -> MachineFacts:
        """As recorded."""
        return self.recording.machine

    def survey(self) -> list[DiskReport]:
        """The engine's own look at the files of the disks that are there, with what is recorded of each laid over."""
        with self._guard:
            there = dict(self._plugged)
            mounted = dict(self._mounted)
        names = [name for name in sorted(self._disks) if name in there]
        places = [self._places[name] for name in names]
        reports = survey_apart(places, seconds=self.patience_seconds) if places else []
        return [self._laid_over(report, there, mounted, name) for report, name in zip(reports, names, strict=True)]

    def _laid_over(
        self, report: DiskReport, there: dict[str, int], mounted: dict[str, destination.Destination], name: str
    ) -> DiskReport:
        recorded = self._disks[name]
        living = dict(filesystems(recorded))
        parts = tuple(_with_system(part, living.get(part.entry.number)) for part in report.partitions)
        own = f"/dev/{name}"
        uses = [self._shown(f"{_name(made)} mounted at {made.folder}") for made in mounted.values() if _on(made, own)]
        disk = Disk(
            path=own,
            name=name,
            model=recorded.model,
            vendor=recorded.vendor,
            serial=recorded.serial,
            wwn=recorded.wwn,
            transport=recorded.transport,
            size_bytes=recorded.size_bytes,
            logical_sector_bytes=recorded.logical_sector_bytes,
            physical_sector_bytes=recorded.physical_sector_bytes,
            removable=recorded.removable,
            rotational=recorded.rotational,
            read_only=recorded.read_only,
            diskseq=there[name],
            is_image_file=False,
            in_use=(*recorded.in_use, *uses),
            write_protected=self.live and not uses,
            boot_medium=recorded.boot_medium,
        )
        findings = (*report.findings, *self._findings[name])
        return structs.replace(report, disk=disk, partitions=parts, findings=findings)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Follow what the recording plugs in and pulls out, and ``plug`` and ``unplug``."""
        self._told.append(changed)
        timers = [threading.Timer(plug.seconds, self._turn, (plug.disk, plug.out)) for plug in self.recording.plug]
        for timer in timers:
            timer.daemon = True
            timer.start()
        self._timers += timers

        def stop() -> None:
            for timer in timers:
                timer.cancel()
            with suppress(ValueError):
                self._told.remove(changed)

        return stop

    def plug(self, name: str) -> None:
        """The disk ``name`` is there from now on."""
        self._turn(name, out=False)

    def unplug(self, name: str) -> None:
        """The disk ``name`` is not there any more."""
        self._turn(name, out=True)

    def _turn(self, name: str, out: bool) -> None:
        with self._guard:
            if out:
                self._plugged.pop(name, None)
                gone = [device for device, made in self._mounted.items() if _on(made, f"/dev/{name}")]
                for device in gone:
                    del self._mounted[device]
            else:
                self._plugged[name] = max(self._plugged.values(), default=0) + 1  # a new one each time, as the kernel's
        for told in list(self._told):
            told()

    def stop(self) -> None:
        """Nothing is plugged in any more."""
        self._told.clear()
        for timer in self._timers:
            timer.cancel()

    def place(self, disk: Disk) -> Path:
        """The file that stands for it."""
        return self._places[disk.name]

    # -- what speaks against it

    def source_problems(self, disk: Disk, repository: Path | None) -> list[str]:
        """As the engine says of the file, and as it would of the recorded disk."""
        problems = self._uses(disk)
        problems += self._asked(disk, lambda file: safety.source_problems(file, repository=repository))
        return problems + self._holds(disk, repository)

    def target_problems(self, disk: Disk, repository: Path | None, sources: Sequence[Disk] = ()) -> list[str]:
        """As the engine says of the file, and as it would of the recorded disk."""
        recorded = self._disks[disk.name]
        problems = [f"{disk.path} is read-only."] if recorded.read_only else []
        problems += self._uses(disk)
        if recorded.boot_medium:
            problems.append(f"{disk.path} is the medium that this system was started from.")
        problems += [f"{disk.path} is the source itself." for source in sources if source.path == disk.path]
        problems += self._asked(disk, lambda file: safety.target_problems(file, repository=repository))
        return problems + self._holds(disk, repository)

    def _uses(self, disk: Disk) -> list[str]:
        with self._guard:
            mounted = [made for made in self._mounted.values() if _on(made, disk.path)]
        uses = [*self._disks[disk.name].in_use]
        uses += [self._shown(f"{_name(made)} mounted at {made.folder}") for made in mounted]
        return [f"{disk.path} is in use: {use}." for use in uses]

    def _holds(self, disk: Disk, repository: Path | None) -> list[str]:
        if repository is None:
            return []
        folders = [self._media(disk.name, number, wanted) for number, wanted in filesystems(self._disks[disk.name])]
        inside = any(repository.is_relative_to(folder) for folder in folders)
        return [self._shown(f"{disk.path} holds the repository {repository}.")] if inside else []

    def _shown(self, text: str) -> str:
        """Folders where a machine would have them."""
        return text.replace(str(self.folder / "media"), str(destination.MEDIA))

    def _asked(self, disk: Disk, question: Callable[[Disk], list[str]]) -> list[str]:
        place = self._places[disk.name]
        try:
            return [problem.replace(str(place), disk.path) for problem in question(disk_for(place))]
        except RecoveryError as error:
            return [error.message.replace(str(place), disk.path)]

    # -- places for a repository

    def destinations(self) -> list[destination.Destination]:
        """What was mounted."""
        with self._guard:
            return [self._mounted[device] for device in sorted(self._mounted)]

    def check_same(self, disk: Disk) -> None:
        """Disks that come and go do so by the recording, under names of their own."""

    def chosen(self, disk: Disk) -> DiskIdentity | None:
        """The files that stand for disks have none of what names those."""
        return None

    def mount(self, device: Path, *, read_only: bool = False, unclean: bool = False) -> destination.Destination:
        """Show what the recording says to be there, in a folder."""
        disk, number, wanted = self._find(device)
        if disk.boot_medium:
            raise Refused(f"/dev/{disk.name} is the medium that this system was started from", "Use another disk.")
        if wanted.kind not in destination.MOUNTABLE:
            raise Refused(f"{device} holds no filesystem that can be mounted ({wanted.kind})", "Use another one.")
        folder = self._media(disk.name, number, wanted)
        folder.mkdir(parents=True, exist_ok=True)
        size_bytes = self._size(disk, number)
        repositories = [inside for inside in sorted(folder.iterdir()) if destination.looks_like_repository(inside)]
        made = destination.Destination(
            device=str(device),
            folder=str(folder),
            filesystem=wanted.kind,
            label=wanted.label,
            size_bytes=size_bytes,
            free_bytes=max(0, size_bytes - wanted.used_bytes),
            read_only=read_only,
            repositories=tuple(map(str, repositories)),
        )
        with self._guard:
            self._mounted[str(device)] = made
        return made

    def unmount(self, folder: Path) -> tuple[str, ...]:
        """It is no longer shown as mounted."""
        with self._guard:
            self._mounted = {device: made for device, made in self._mounted.items() if made.folder != str(folder)}
        return ()

    def plan_format(self, disk: Disk) -> formatting.FormatPlan:
        """What would be erased."""
        problems = self.target_problems(disk, None)
        if problems:
            raise Refused(f"{disk.path} cannot be erased: {' '.join(problems)}", "Use another disk.")
        report = next((report for report in self.survey() if report.disk.path == disk.path), None)
        if report is None:
            raise DeviceError(f"{disk.path} is not there any more", "Plug it in again.")
        contents = {f"partition {part.entry.number}": part.content for part in report.partitions}
        if report.content is not None:
            contents["the whole disk"] = report.content
        uuid = report.table.uuid if report.table is not None else None
        breaks = tuple(safety.members(report.disk, contents))
        return formatting.FormatPlan(Path(disk.path), report, identity(report.disk, uuid), breaks)

    def format(self, plan: formatting.FormatPlan) -> destination.Destination:
        """A new table with one ext4 partition in the disk's file."""
        name = plan.disk.name
        wanted = Filesystem(kind="ext4", label=formatting.LABEL)
        disk = structs.replace(
            self._disks[name], table="gpt", partitions=(Partition(type="L", filesystem=wanted),), filesystem=None
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            fresh, files, inside = Path(work, name), Path(work, "files"), Path(work, "filesystem")
            files.mkdir()
            with fresh.open("wb") as file:
                file.truncate(disk.size_bytes)
            place = partition_disk(self.recording, disk, fresh)[0]
            uuid = identifier(self.recording, name, "formatted")
            for finding in make_filesystem(inside, place.length, wanted, uuid, files):
                raise DeviceError(finding, "Another disk may do.")
            copy_sparse(inside, fresh, place.offset)
            with self._files[name].open("r+b") as file:  # the same file: with faults another process has it open
                file.truncate(0)
                file.truncate(disk.size_bytes)
            copy_sparse(fresh, self._files[name])
        self._disks[name] = disk
        self._heads[name] = self._head(name)
        shutil.rmtree(self._media(name, 1, wanted), ignore_errors=True)
        return self.mount(device_of(plan.disk, 1))

    def _find(self, device: Path) -> tuple[RecordedDisk, int | None, Filesystem]:
        for name in self._plugged:
            if is_on(str(device), f"/dev/{name}") and self._head(name) != self._heads[name]:
                raise Refused(
                    f"{device} was overwritten since this recording was started, and only what it says can be mounted",
                    "Use another disk, or start the recording again.",
                )
            for number, wanted in filesystems(self._disks[name]):
                if _device(name, number) == device:
                    return self._disks[name], number, wanted
        raise UsageError(f"there is no device {device}", "It may have been unplugged.")

    def _head(self, name: str) -> bytes:
        """By which an overwritten disk is known: the place of its table and of a first superblock."""
        with self._files[name].open("rb") as file:
            return hashlib.sha256(file.read(MIB)).digest()

    def _media(self, disk: str, number: int | None, wanted: Filesystem) -> Path:
        return self.folder / "media" / media_name(disk, number, wanted)

    def _size(self, disk: RecordedDisk, number: int | None) -> int:
        if number is None:
            return disk.size_bytes
        rest = disk.size_bytes - sum(part.size_bytes for part in disk.partitions)
        return disk.partitions[number - 1].size_bytes or rest

    # -- the rest

    def health(self, disk: Disk) -> Health:
        """What smartctl said when it was recorded."""
        return read_health(bytes(self._disks[disk.name].smart))

    def battery(self) -> str | None:
        """As recorded."""
        return self.recording.battery

    def network(self) -> Network:
        """As recorded."""
        return self.recording.network

    def leave(self, how: Leave) -> None:
        """A recording goes on."""
        raise Refused("this is a recording of a machine", "The machine that it is shown on is not switched off by it.")


def _device(name: str, number: int | None) -> Path:
    """A partition as the kernel names it."""
    if number is None:
        return Path(f"/dev/{name}")
    return Path(f"/dev/{name}{'p' if name[-1].isdigit() else ''}{number}")


def _name(made: destination.Destination) -> str:
    """The device that is mounted, as the kernel calls it."""
    return Path(made.device).name


def _on(made: destination.Destination, disk: str) -> bool:
    """Whether what is mounted lies on a disk."""
    return is_on(made.device, disk)


def _with_system(part: PartitionReport, recorded: Filesystem | None) -> PartitionReport:
    """What lives there, where the engine could not find out: Windows' folders need root to be made."""
    if recorded is None or part.system or not recorded.system or part.content is None:
        return part
    return structs.replace(part, system=recorded.system)


@contextmanager
def _own_jobs(folder: Path) -> Iterator[None]:
    """Jobs in ``folder``, unless a place for them was named; those that run at the end are stopped."""
    if os.environ.get(FOLDER_VARIABLE):
        yield
        return
    os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        with suppress(DeviceError):
            stop_jobs([job for job in list_jobs() if job.running])
        del os.environ[FOLDER_VARIABLE]
