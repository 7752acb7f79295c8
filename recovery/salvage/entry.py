"""What is found in a broken filesystem: files, folders, links, and what of each cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from recovery.extent import Extent, Extents
from recovery.salvage.medium import PIECE_BYTES, BadArea, Window

#: The folder of what is in no folder any more.
NAMELESS = b"nameless"


class Form(StrEnum):
    """What an entry is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    SPECIAL = "special"


class Content(Protocol):
    """What is in a file."""

    @property
    def doubt(self) -> str:
        """What speaks against it, as far as that is known once all pieces were read."""

    def pieces(self) -> Iterator[tuple[int, bytes, Extents]]:
        """Where in the file, the bytes, and which ranges of the file are zeros because they cannot be read.

        Holes are left out.  Raises DeviceError, Cancelled.
        """


@dataclass(slots=True)
class Entry:
    """Something that has, or had, a name.

    ``path``: as the filesystem has it, below its root.  ``problem``: why it is not whole even where all of its content
    can be read; ``lost``: nothing of it can be had.  ``identity``: the same for all names of one file.
    """

    path: bytes
    form: Form
    size_bytes: int = 0
    mode: int | None = None
    owner: tuple[int, int] | None = None
    times_ns: tuple[int, int] | None = None
    target: bytes = b""
    attributes: tuple[tuple[str, bytes], ...] = ()
    identity: int | None = None
    content: Content | None = None
    problem: str = ""
    lost: bool = False


class Filesystem(Protocol):
    """A filesystem that can be walked."""

    #: What is missing of it as a whole, and what was made up for, in sentences.
    findings: list[str]
    notes: list[str]

    def walk(self) -> Iterator[Entry]:
        """Everything in it, folders before what is in them; never raises for damage of the filesystem."""


@dataclass(frozen=True, slots=True)
class Run:
    """``length`` bytes of a file from ``at`` on lie at ``place`` of the window; None: zeros, a hole."""

    at: int
    length: int
    place: int | None


@dataclass(frozen=True, slots=True)
class Inline:
    """A small file that lies in the metadata."""

    data: bytes
    doubt: str = ""

    def pieces(self) -> Iterator[tuple[int, bytes, Extents]]:
        """All of it."""
        if self.data:
            yield 0, self.data, Extents()


@dataclass(frozen=True, slots=True)
class Mapped:
    """A file that lies in pieces on the disk; ``missing``: ranges of it that are not known to lie anywhere."""

    window: Window
    runs: tuple[Run, ...]
    size_bytes: int
    missing: Extents = field(default_factory=Extents)
    doubt: str = ""

    def pieces(self) -> Iterator[tuple[int, bytes, Extents]]:
        """In the order of the file."""
        for run in self.runs:
            end = min(run.at + run.length, self.size_bytes)
            at = run.at
            while run.place is not None and at < end:
                place = run.place + at - run.at
                data, bad = self.window.content(place, min(PIECE_BYTES, end - at))
                yield at, data, bad.shift(at - place) if bad else bad
                at += len(data)
        for gap in self.missing.clip(Extent(0, self.size_bytes)):
            yield gap.offset, b"", Extents([gap])


@dataclass(frozen=True, slots=True)
class Computed:
    """A file whose content is calculated, as that of compressed ones.

    ``units``: where in the file something is, not a hole; ``read`` gives that, shorter or by BadArea where it is bad.
    ``unit_bytes``: what is lost together.
    """

    read: Callable[[int, int], bytes]
    units: Iterable[int]
    size_bytes: int
    unit_bytes: int
    doubt: str = ""

    def pieces(self) -> Iterator[tuple[int, bytes, Extents]]:
        """In the order of the file."""
        for at in self.units:
            length = min(self.unit_bytes, self.size_bytes - at)
            if length <= 0:
                return
            try:
                data = self.read(at, length)
            except BadArea:
                data = b""
            bad = Extents([(at + len(data), length - len(data))]) if len(data) < length else Extents()
            yield at, data, bad


#: No file is larger; what says so is nonsense.
MOST_BYTES = 1 << 60


def guarded(unpack: Callable[[], bytes]) -> bytes:
    """What unpacking gives.  Raises BadArea whatever the library makes of damaged data: some panic, as they call it."""
    try:
        return unpack()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BadArea(f"it cannot be unpacked: {type(error).__name__}") from None
        raise


def doubt(content: Content | None, up_to: int) -> str:
    """What speaks against a file that lies, if only partly, before ``up_to``: up to there all may be overwritten."""
    runs = content.runs if up_to and isinstance(content, Mapped) else ()
    if any(run.place is not None and run.place < up_to for run in runs):
        return "it may be overwritten, as what lies before it is"
    return ""


def joined(folder: bytes, name: bytes) -> bytes:
    """The path of what is called ``name`` in ``folder``."""
    return folder + b"/" + name if folder else name


def gaps(runs: Iterable[Run], size_bytes: int) -> Extents:
    """What of a file of ``size_bytes`` is in none of the runs."""
    return Extents((run.at, run.length) for run in runs).invert(Extent(0, size_bytes))
