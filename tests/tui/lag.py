"""How long the interface's thread was deaf to keys.

Other programs run beside the tests: what the scheduler made the thread wait for a processor (schedstat) is not its
own doing, and is taken off.  What it computed, which takes longer where others use the same core, is told apart from
the time in which it was held up: by a disk, a lock, another process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_EVERY_SECONDS = 0.02


class Deafness:
    """The longest time, in seconds, between a wish to be heard and being heard; and of that, without computing."""

    def __init__(self) -> None:
        self.longest_seconds = self.held_seconds = 0.0
        self.heard = 0


@asynccontextmanager
async def deafness() -> AsyncIterator[Deafness]:
    """Knock at the interface's thread for the time of the block."""
    found = Deafness()
    loop = asyncio.get_running_loop()
    schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    ended = threading.Event()

    def computed_and_waited() -> tuple[float, float]:
        computed, waited, _ = schedule.read_text().split()
        return int(computed) / 1e9, int(waited) / 1e9

    def knock() -> None:
        while not ended.is_set():
            heard = threading.Event()

            def hear(before: tuple[float, float], knocked: float, heard: threading.Event = heard) -> None:
                """In the interface's thread: whatever holds up the one that knocks does not count."""
                computed, waited = (now - then for now, then in zip(computed_and_waited(), before, strict=True))
                own = time.monotonic() - knocked - waited
                found.longest_seconds = max(found.longest_seconds, own)
                found.held_seconds = max(found.held_seconds, own - computed)
                found.heard += 1
                heard.set()

            loop.call_soon_threadsafe(hear, computed_and_waited(), time.monotonic())
            while not heard.wait(_EVERY_SECONDS) and not ended.is_set():
                pass
            ended.wait(_EVERY_SECONDS)

    thread = threading.Thread(target=knock, name="knocking", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        await asyncio.to_thread(thread.join)
