"""What is known of a disk besides what the survey sees: told wherever it is listed, and before it is overwritten.

What each disk says of its own health is asked once; where system images were seen is remembered, for as long as the
program runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from recovery.devices.disk import Disk
from recovery.devices.health import Health
from recovery.errors import RecoveryError
from recovery.inventory import DiskReport
from recovery.surveyor import SILENT

log = logging.getLogger(__name__)

#: How the finding of a dying disk begins, and that of one with images.
DYING = "THIS DISK IS DYING"
KEEPS_IMAGES = "System images are kept on it"

_Key = tuple[str, int | None, str | None]


class Verdicts:
    """``health`` asks one disk; it may take its time, and is called in a thread."""

    def __init__(self, health: Callable[[Disk], Health]) -> None:
        self._health = health
        #: The finding for a disk that was asked; empty when there is nothing to be told.
        self._findings: dict[_Key, str] = {}
        self._images: dict[_Key, str] = {}

    def next(self, reports: Sequence[DiskReport]) -> Disk | None:
        """A disk that was not asked yet.  One that does not even show its partitions is left alone."""
        for report in reports:
            if _key(report.disk) not in self._findings and SILENT not in report.findings:
                return report.disk
        return None

    def pass_over(self, disk: Disk) -> None:
        """Do not ask it again."""
        self._findings.setdefault(_key(disk), "")

    def ask(self, disk: Disk) -> None:
        """Ask a disk, and keep what it says; one that cannot be asked says nothing."""
        self.pass_over(disk)
        try:
            health = self._health(disk)
        except RecoveryError as error:
            log.info("the health of %s is not known: %s", disk.path, error.message)
            return
        if health.dying:
            first = next(iter(health.sentences), "")
            self._findings[_key(disk)] = f"{DYING}: save what is on it first. {first}".rstrip()

    def remember_images(self, disk: Disk, repositories: Sequence[str]) -> bool:
        """The disk has ``repositories``, by their folders, with something in them; whether that is news."""
        finding = f"{KEEPS_IMAGES}: the repository {', '.join(repositories)}."
        news = self._images.get(_key(disk)) != finding
        self._images[_key(disk)] = finding
        return news

    def told(self, reports: Sequence[DiskReport]) -> tuple[DiskReport, ...]:
        """The reports, with what is to be told of health before all else."""
        found = []
        for report in reports:
            known = (self._findings.get(_key(report.disk)), self._images.get(_key(report.disk)))
            more = tuple(finding for finding in known if finding)
            found.append(msgspec.structs.replace(report, findings=(*more, *report.findings)))
        return tuple(found)


def is_dying(report: DiskReport) -> bool:
    """Whether a report that went through ``told`` says so."""
    return any(finding.startswith(DYING) for finding in report.findings)


def keeps_images(report: DiskReport) -> str:
    """The sentence on the images that were seen on the disk, empty when none were."""
    return next((finding for finding in report.findings if finding.startswith(KEEPS_IMAGES)), "")


def _key(disk: Disk) -> _Key:
    return disk.path, disk.diskseq, disk.serial
