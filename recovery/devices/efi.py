"""The firmware's list of what to start (UEFI): read and written with efibootmgr, its only caller.

What efibootmgr prints differs between versions, and names of entries may hold anything::

    Boot0001* debian<TAB>HD(1,GPT,<GUID>,0x800,0x100000)/File(\\EFI\\debian\\shimx64.efi)      until 17
    Boot0001* debian<TAB>HD(1,GPT,<GUID>,0x800,0x100000)/\\EFI\\debian\\shimx64.efi            since 18
    Boot0001* debian<TAB>HD(1,800,100000,<GUID>)File(\\EFI\\debian\\shimx64.efi)               before 13

Behind the path follows what the firmware hands to the loader: in hexadecimal, or with a dot for each byte that is no
letter, and then it is lost.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from recovery.command import run
from recovery.devices.live import live_root

_LINE = re.compile(r"Boot([0-9A-Fa-f]{4})(\*| ) ?(.*)", re.DOTALL)
_DISK = re.compile(
    r"HD\((?P<number>\d+),(?:GPT,(?P<guid>[0-9a-fA-F-]{36}),[^)]*|[0-9a-fA-F]+,[0-9a-fA-F]+,(?P<old>[0-9a-fA-F-]{36}))\)"
)
_FILE = re.compile(r"/?File\((\\.*?\.efi)\)(.*)", re.IGNORECASE | re.DOTALL)
_BARE = re.compile(r"/(\\.*?\.efi)(?![\w\\.-]*\\)(.*)", re.IGNORECASE | re.DOTALL)
_START = re.compile(r"\s(?=(?:PciRoot|ACPI|Acpi|HD|VenHw|Fv|BBS|MAC|Uri|USB|RC\b)[\w]*\()")


#: Firmware may take many seconds for one variable.
_SECONDS = 300
#: No firmware holds more.
_MOST_LINES, _LONGEST_LINE = 1000, 4096


class BootEntry(msgspec.Struct, frozen=True):
    """One entry that starts a file on a GPT partition.

    ``loader`` is its path as EFI writes it; ``data`` what is handed to it (None: not known any more).
    """

    number: int
    label: str
    active: bool
    partition_number: int
    partition_uuid: str
    loader: str
    data: bytes | None = b""

    def starts_the_same(self, other: BootEntry) -> bool:
        """Whether both start the same file of the same partition."""
        return (self.partition_uuid, self.loader.lower()) == (other.partition_uuid, other.loader.lower())


class BootList(msgspec.Struct, frozen=True):
    """The entries that start a file on a disk, and the order in which all are tried, by their numbers."""

    entries: tuple[BootEntry, ...] = ()
    order: tuple[int, ...] = ()

    def in_order(self) -> tuple[BootEntry, ...]:
        """The entries as they are tried; those that are not, behind them."""
        places = {number: place for place, number in enumerate(self.order)}
        return tuple(sorted(self.entries, key=lambda entry: places.get(entry.number, len(places))))


def is_uefi() -> bool:
    """Whether this machine was started by UEFI."""
    return (live_root() / "sys/firmware/efi").is_dir()


def parse_boot_list(lines: Iterable[str]) -> BootList:
    """What efibootmgr of any version printed; what is no entry for a file on a GPT partition is left out."""
    entries: list[BootEntry] = []
    order: tuple[int, ...] = ()
    for line in itertools.islice((line for line in lines if line.startswith("Boot")), _MOST_LINES):
        if len(line) > _LONGEST_LINE or not _is_text(line):
            continue
        if line.startswith("BootOrder:"):
            numbers = line.removeprefix("BootOrder:").strip().split(",")
            order = tuple(int(number, 16) for number in numbers if re.fullmatch(r"[0-9A-Fa-f]{1,4}", number))
        found = _LINE.fullmatch(line.rstrip("\r\n"))
        entry = _entry(int(found[1], 16), found[2] == "*", found[3]) if found else None
        if entry is not None:
            entries.append(entry)
    return BootList(tuple(entries), order)


def _is_text(line: str) -> bool:
    """Whether it can be handed to a program: what a manifest says may be anything."""
    try:
        return b"\0" not in line.encode()
    except UnicodeEncodeError:
        return False


def _entry(number: int, active: bool, rest: str) -> BootEntry | None:
    label, tab, path = rest.partition("\t")
    if not tab:  # a listing whose tabs became spaces
        apart = _START.search(rest)
        if apart is None:
            return None
        label, path = rest[: apart.start()].rstrip(), rest[apart.end() :]
    disk = _DISK.search(path)
    if disk is None:
        return None
    behind = path[disk.end() :]
    file = _FILE.match(behind) or _BARE.match(behind)
    if file is None:
        return None
    return BootEntry(
        number=number,
        label=label.strip(),
        active=active,
        partition_number=int(disk["number"]),
        partition_uuid=(disk["guid"] or disk["old"]).lower(),
        loader=file[1],
        data=_data(file[2]),
    )


def _data(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) if re.fullmatch(r"(?:[0-9a-fA-F]{2})*", text) else None
    except ValueError:
        return None


def read_boot_list() -> BootList:
    """The firmware's list as it is now.  Raises ProgramMissing, DeviceError."""
    listed = run(["efibootmgr", "-v"], needed_for="reading the firmware's boot entries", timeout_seconds=_SECONDS)
    return parse_boot_list(listed.stdout.decode(errors="backslashreplace").splitlines())


def creating(disk: Path, entry: BootEntry) -> list[str]:
    """The line that writes ``entry``, for a partition of ``disk``, without a place in the order."""
    line = ["efibootmgr", "--quiet", "--create-only", f"--disk={disk}", f"--part={entry.partition_number}"]
    line += [f"--label={entry.label}", f"--loader={entry.loader}"]
    return [*line, "--append-binary-args=-"] if entry.data else line


def ordering(order: Sequence[int]) -> list[str]:
    """The line that sets the order."""
    return ["efibootmgr", "--quiet", f"--bootorder={','.join(f'{number:04X}' for number in order)}"]


def write_first(disk: Path, wanted: Sequence[BootEntry]) -> BootList:
    """Have the firmware start ``wanted`` first, in that order: what it lacks of them is written.  Its list then.

    Raises ProgramMissing, DeviceError.
    """
    needed_for = "writing the firmware's boot entries"
    now = read_boot_list()
    for entry in wanted:
        if not any(entry.starts_the_same(other) and other.active for other in now.entries):
            run(creating(disk, entry), needed_for=needed_for, input=entry.data or None, timeout_seconds=_SECONDS)
    now = read_boot_list()
    first = [
        next((other.number for other in now.in_order() if other.active and other.starts_the_same(entry)), None)
        for entry in wanted
    ]
    order = list(dict.fromkeys([*(number for number in first if number is not None), *now.order]))
    if tuple(order) != now.order:
        run(ordering(order), needed_for=needed_for, timeout_seconds=_SECONDS)
        now = read_boot_list()
    return now
