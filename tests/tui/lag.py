"""How long the interface's thread was deaf to keys: the time in which it neither waited for them nor for a processor.

Other programs run beside the tests: what the scheduler made the thread wait for a processor (schedstat) is not its
own doing, and is taken off.
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
    """The longest time, in seconds, between a wish to be heard and being heard."""

    def __init__(self) -> None:
        self.longest_seconds = 0.0
        self.heard = 0


@asynccontextmanager
async def deafness() -> AsyncIterator[Deafness]:
    """Knock at the interface's thread for the time of the block."""
    found = Deafness()
    loop = asyncio.get_running_loop()
    schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    ended = threading.Event()

    def waited_for_processor() -> float:
        return int(schedule.read_text().split()[1]) / 1e9

    def knock() -> None:
        while not ended.is_set():
            heard = threading.Event()
            waited, knocked = waited_for_processor(), time.monotonic()
            loop.call_soon_threadsafe(heard.set)
            while not heard.wait(0.001) and not ended.is_set():
                pass
            own = time.monotonic() - knocked - (waited_for_processor() - waited)
            found.longest_seconds = max(found.longest_seconds, own)
            found.heard += 1
            ended.wait(_EVERY_SECONDS)

    thread = threading.Thread(target=knock, name="knocking", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        await asyncio.to_thread(thread.join)
