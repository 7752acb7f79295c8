"""The audit of one partition: the routes over its view, and what they come to.

What of the view differs from the source lies in unused bytes, which are noted when they are read.  From that follows
how a fault is judged:

* A tool or reader that reads nothing but what it needs ("strict") must not read any of them: each is missing.
* A checker or the kernel may read ahead, into what the filesystem calls free; that is harmless.
* Whoever read none of them saw the source itself: faults that it finds were there before the capture, and are remarked,
  not held against the image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from recovery.errors import DeviceError, ProgramMissing
from recovery.extent import Extent, Extents
from recovery.filesystems.walk import btrfs, checkers, exfat, ext, f2fs, fat, mounted, ntfs, xfs
from recovery.filesystems.walk.replayed import brought_up_to_date
from recovery.filesystems.walk.view import Area, Missing, NotAudited, Unreadable, View
from recovery.image.served import Noted
from recovery.units import KIB, format_bytes

#: So many findings of one route are named one by one.
_NAMED = 50

#: At the end of a partition a checker looks whether it can be read at all.
_LAST_BYTES = 4 * KIB

_NOT_THE_IMAGE = "in what was captured as it was: not a fault of the image"

#: What reading damaged metadata may end in.
_NONSENSE = (struct.error, ArithmeticError, ValueError, IndexError)

Reader = Callable[[View], Iterator[Area]]


class Finding(msgspec.Struct, frozen=True):
    """Something that is missing or wrong.

    ``route`` found it: ``allocation``, ``files``, ``log``, ``replay``, ``checker``, ``reads`` (a strict tool needed
    what was not captured) or ``layout``.  ``offset`` is where on the disk the first of ``missing_bytes`` lies (None:
    nowhere in particular).
    """

    route: str
    message: str
    offset: int | None = None
    missing_bytes: int = 0


def finding_of(route: str, missing: Missing, partition_offset: int) -> Finding:
    """``missing``, which counts from a partition that begins at byte ``partition_offset`` of the disk."""
    first = missing.extents[0].offset + partition_offset
    total = missing.extents.total_bytes
    return Finding(route, f"{missing.what}: {format_bytes(total)} not captured", first, total)


@dataclass(frozen=True, slots=True)
class Readers:
    """How a kind of filesystem tells what it needs; ``log`` is what a replay needs, asked for before there is one.

    Afterwards it would be too late: what the replay read in vain it may have written since.
    """

    allocation: Reader
    files: Reader | None = None
    log: Reader | None = None


#: By blkid's name.  Where there is no reader of files, the kernel tells where they lie, if it has a driver.
READERS = {
    "ext2": Readers(ext.allocation, log=ext.before_replay),
    "ext3": Readers(ext.allocation, log=ext.before_replay),
    "ext4": Readers(ext.allocation, log=ext.before_replay),
    "xfs": Readers(xfs.allocation, log=xfs.before_replay),
    "btrfs": Readers(btrfs.allocation, log=btrfs.logs),
    "vfat": Readers(fat.allocation, fat.files),
    "exfat": Readers(exfat.allocation, exfat.files),
    "ntfs": Readers(ntfs.allocation, ntfs.files),
    "f2fs": Readers(f2fs.allocation),
}


@dataclass
class Routes:
    """The routes over one view.  ``offset`` is where the partition begins on the disk; ``noted`` takes what was read.

    ``gone`` are those that came to their end, ``remarks`` what there is to say besides findings.
    """

    view: View
    readers: Readers
    offset: int
    noted: Callable[[], Noted]
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    files: int = 0
    harmless_bytes: int = 0
    _free: Extents | None = None
    _probed: Extents = field(default_factory=Extents)

    def go(self, *, closed: bool) -> None:
        """Go all routes; over a copy that is brought up to date, where the filesystem was not ``closed`` cleanly."""
        self.noted()
        if closed:
            self._go()
            return
        if self.readers.log is not None:
            self._strict("log", self.readers.log)
        try:
            with brought_up_to_date(self.view) as copy:
                self.view = copy
                self.noted()  # a replay reads ahead, and what it writes in part it reads before
                self._go()
        except Unreadable as error:
            self._judge("replay", [str(error)])
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.remarks.append(f"no copy of it could be brought up to date: {error}")

    def _go(self) -> None:
        if self.view.kind == "xfs":
            self._strict("free list", self._learn_free_list)
        allocated = self._strict("allocation", self.readers.allocation)
        if allocated is not None:
            self._free = allocated.invert(Extent(0, self.view.size_bytes))
        if self.readers.files is not None:
            self._strict("files", self.readers.files)
        elif mounted.can_walk(self.view.kind):
            self._walk()
        self._check()

    def _learn_free_list(self, view: View) -> Iterator[Area]:
        self._probed = xfs.free_list(view)
        return iter(())

    def _strict(self, route: str, reader: Reader) -> Extents | None:
        """All areas that ``reader`` names, which must be there; None when it did not come to its end."""
        named: list[Extents] = []
        fault = ""
        try:
            for area in reader(self.view):
                self._expect(route, area)
                named.append(area.extents)
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.remarks.append(f"{route}: {error}")
            return None
        except Unreadable as error:
            fault = str(error)
        except _NONSENSE as error:
            fault = f"its metadata make no sense ({error})"
        needed = self._needed_in_vain()
        if fault and (needed or self.findings):
            self._add(Finding(route, fault))
        elif fault:
            self.remarks.append(f"{route}: {fault} ({_NOT_THE_IMAGE})")
        if fault:
            return None
        if route in ("allocation", "files"):
            self.gone.append(route)
        if route == "files":
            self.files += len(named)
        return Extents(extent for extents in named for extent in extents)

    def _needed_in_vain(self) -> bool:
        """Enter each unused byte that a strict reader or tool read; whether there was one."""
        noted = self._noted()
        for missing in self.view.missed:
            self._add(finding_of("reads", missing, self.offset))
            noted = noted.subtract(missing.extents)
        found = bool(noted or self.view.missed)
        self.view.missed.clear()
        if noted:
            self._add(finding_of("reads", Missing("what the filesystem's own tool needed", noted), self.offset))
        return found

    def _walk(self) -> None:
        faults: list[str] = []
        try:
            walked = mounted.walk(self.view)
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.remarks.append(f"its files were not walked: {error}")
            return
        except Unreadable as error:
            faults.append(str(error))
        else:
            self.files += walked.files
            for missing in walked.missing:
                self._expect("files", Area(missing.what, missing.extents))
            faults += walked.unreadable
            if walked.unmapped:
                self.remarks.append(f"of {walked.unmapped} files the kernel does not say where they lie")
            self.gone.append("files")
        self._judge("files", faults)

    def _check(self) -> None:
        try:
            name, words = checkers.check(self.view)
        except (NotAudited, ProgramMissing, DeviceError) as error:
            self.remarks.append(f"not checked: {error}")
            return
        self.gone.append("checker")
        self._judge("checker", [f"{name}: {words}"] if words else [])

    def _judge(self, route: str, faults: list[str]) -> None:
        """Faults of a route that may read ahead: the image's when it read anything unused, else the source's own."""
        noted = self._noted()
        self.harmless_bytes += noted.intersect(self._free).total_bytes if self._free is not None else 0
        if noted or self.findings:
            for fault in faults:
                self._add(Finding(route, fault))
        else:
            self.remarks += [f"{fault} ({_NOT_THE_IMAGE})" for fault in faults]

    def _noted(self) -> Extents:
        """Unused bytes that were read since the last call, without those whose reading is known to mean nothing."""
        noted = Extents(
            extent for extent in self.noted().extents if extent[1] > 1
        )  # single bytes: NTFS finding its end
        last = max(0, self.view.size_bytes - _LAST_BYTES)
        return noted.subtract(self._probed).subtract(Extents([(last, _LAST_BYTES)]))

    def _expect(self, route: str, area: Area) -> None:
        missing = self.view.missing_of(area)
        if missing is not None:
            self._add(finding_of(route, missing, self.offset))

    def _add(self, finding: Finding) -> None:
        if sum(known.route == finding.route for known in self.findings) < _NAMED:
            self.findings.append(finding)
