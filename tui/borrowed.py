"""Filesystems that the program mounted for what the person does; given back after it, to be unplugged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from recovery.destination import Destination
from recovery.errors import RecoveryError
from recovery.jobs.folder import list_jobs

log = logging.getLogger(__name__)


class Borrowed:
    """``unmount`` gives back one folder: what still holds its disk; raises RecoveryError when it is in use itself."""

    def __init__(self, unmount: Callable[[Path], tuple[str, ...]]) -> None:
        self._unmount = unmount
        self._devices: dict[Path, str] = {}

    def add(self, made: Destination) -> Destination:
        """It was mounted just now; the same is returned."""
        self._devices[Path(made.folder)] = made.device
        return made

    def give_back(self, only: Collection[Path] | None = None) -> tuple[str, ...]:
        """Unmount them, or ``only`` these; the devices whose disks nothing holds any more, and can be unplugged now.

        For a thread.
        While a job runs nothing is: it may be about to use them.  What is in use is kept, and tried the next time.
        """
        if not self._devices or any(job.running for job in list_jobs()):
            return ()
        free = []
        for folder, device in list(self._devices.items()):
            if only is not None and folder not in only:
                continue
            try:
                held = self._unmount(folder)
            except RecoveryError as error:
                log.info("%s stays mounted: %s", device, error.message)
                continue
            del self._devices[folder]
            if not held:
                free.append(device)
        return tuple(free)
