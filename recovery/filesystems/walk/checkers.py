"""The filesystems' own checkers, told to change nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from recovery.command import Completed, run
from recovery.errors import ProgramMissing
from recovery.filesystems.walk.view import NotAudited, View

_SECONDS = 12 * 3600

#: What ``xfs_repair`` says of every image that is a file.
_CHATTER = re.compile(r"Cannot get host filesystem geometry|sector size mismatch between|image and the host")


@dataclass(frozen=True, slots=True)
class _Checker:
    """A program that looks and changes nothing; ``sound`` says of its end whether it found no fault."""

    arguments: tuple[str, ...]
    sound: Callable[[Completed], bool]


def _by_status(ended: Completed) -> bool:
    return ended.status == 0


def _f2fs(ended: Completed) -> bool:
    return ended.status == 0 and b"[Fail]" not in ended.stdout and b"[ASSERT]" not in ended.stdout


_EXT = _Checker(("e2fsck", "-f", "-n", "-E", "readahead_kb=0"), _by_status)
_CHECKERS = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": _Checker(("xfs_repair", "-n", "-f", "-P"), _by_status),
    "btrfs": _Checker(("btrfs", "check", "--readonly"), _by_status),
    "vfat": _Checker(("fsck.fat", "-n"), _by_status),
    "exfat": _Checker(("fsck.exfat", "-n"), _by_status),
    "ntfs": _Checker(("ntfsfix", "--no-action"), _by_status),
    "f2fs": _Checker(("fsck.f2fs", "--dry-run"), _f2fs),
}


def check(view: View) -> tuple[str, str]:
    """The checker's name, and what it says is wrong: nothing when it finds no fault.

    Raises NotAudited where there is none for this filesystem, or it is not installed.
    """
    checker = _CHECKERS.get(view.kind)
    if checker is None:
        raise NotAudited(f"there is no checker for {view.kind}")
    name = checker.arguments[0]
    try:
        ended = run(
            [*checker.arguments, view.path],
            needed_for="checking what was captured",
            timeout_seconds=_SECONDS,
            check=False,
            interrupt=view.interrupt,
        )
    except ProgramMissing as error:
        raise NotAudited(error.message) from error
    return name, "" if checker.sound(ended) else _words(ended)


def _words(ended: Completed) -> str:
    """The first lines that tell of a fault, or else the last ones."""
    text = (ended.stdout + b"\n" + ended.stderr).decode(errors="replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if re.search(r"error|bad |corrupt|invalid|wrong|fail|differ|mismatch|cannot|could not|unused|lost", line, re.I)
        and "Ok.." not in line
        and not _CHATTER.search(line)
    ]
    return "; ".join((telling or lines[-3:])[:3])[:500] or f"it ended with status {ended.status}"
