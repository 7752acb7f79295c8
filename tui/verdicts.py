"""What each disk says of its own health: asked once, and told wherever the disk is listed when it is dying."""

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

#: How the finding of a dying disk begins.
DYING = "THIS DISK IS DYING"

_Key = tuple[str, int | None, str | None]


class Verdicts:
    """``health`` asks one disk; it may take its time, and is called in a thread."""

    def __init__(self, health: Callable[[Disk], Health]) -> None:
        self._health = health
        #: The finding for a disk that was asked; empty when there is nothing to be told.
        self._findings: dict[_Key, str] = {}

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

    def told(self, reports: Sequence[DiskReport]) -> tuple[DiskReport, ...]:
        """The reports, with what is to be told of health before all else."""
        found = []
        for report in reports:
            finding = self._findings.get(_key(report.disk), "")
            more = (finding, *report.findings) if finding else report.findings
            found.append(msgspec.structs.replace(report, findings=more))
        return tuple(found)


def is_dying(report: DiskReport) -> bool:
    """Whether a report that went through ``told`` says so."""
    return any(finding.startswith(DYING) for finding in report.findings)


def _key(disk: Disk) -> _Key:
    return disk.path, disk.diskseq, disk.serial
