"""Before a machine is restarted or switched off: its jobs are brought to their next safe point."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from recovery.errors import DeviceError, UsageError
from recovery.jobs.control import Order
from recovery.jobs.folder import Job, is_held
from recovery.jobs.watching import attach

#: Longer than any safe point should be away; a disk that does not answer may never reach it.
SECONDS = 90.0
_POLL_SECONDS = 0.2


def stop_jobs(jobs: Sequence[Job], seconds: float = SECONDS) -> None:
    """Stop them, and wait until their processes have ended.  Raises DeviceError when one does not."""
    for job in jobs:
        with suppress(UsageError), attach(job) as watcher:
            watcher.order(Order("cancel"))
    ends = time.monotonic() + seconds
    while stuck := [job for job in jobs if is_held(job.folder)]:
        if time.monotonic() > ends:
            raise DeviceError(
                f"job {stuck[0].id} does not stop: a disk may not answer any more",
                "Holding the power key of the machine for some seconds switches it off all the same.",
            )
        time.sleep(_POLL_SECONDS)
