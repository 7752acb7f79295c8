"""The program: keeps the list of disks, asks the engine beside its own thread, and starts journeys."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.signal import Signal
from textual.theme import Theme
from textual.worker import WorkerFailed

from recovery.devices.disk import Disk
from recovery.errors import DeviceError, RecoveryError
from recovery.inventory import DiskReport, shown
from tui.borrowed import Borrowed
from tui.glyphs import Terminal
from tui.machine import Machine
from tui.modals import Note, Question
from tui.screens.home import HomeScreen
from tui.verdicts import Verdicts
from tui.widgets.scroll_bar import draw_scroll_bars

log = logging.getLogger(__name__)
T = TypeVar("T")

#: From one look at the disks to the next, as a multiple of what the last one took: a slow machine has other work too.
_PAUSE_SHARE = 2.0
#: A disk that says nothing of its health for so long is not waited for; it may be asked again by the person.
_HEALTH_SECONDS = 60.0
#: From one look at the disks to the next where the system does not tell of changes.
_UNWATCHED_SECONDS = 10.0
#: And where they could not be listed.
_FAILED_SECONDS = 5.0

_THEME = Theme(
    name="recovery",
    primary="#3d8fd1",
    secondary="#7fb2d9",
    accent="#e0b050",
    foreground="#e6e9ec",
    background="#12171d",
    surface="#1a222b",
    panel="#243040",
    success="#63b37c",
    warning="#e0b050",
    error="#e06c5f",
    dark=True,
)


class RecoveryApp(App[None]):
    """The interface to one machine, on one terminal."""

    TITLE = "Recovery"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f10", "leave", "Leave", key_display="F10"),
        Binding("ctrl+q", "leave", "Leave", show=False),
        Binding("ctrl+c", "leave", "Leave", show=False, priority=False),
    ]

    def __init__(
        self,
        machine: Machine,
        terminal: Terminal | None = None,
        driver: type[Driver] | None = None,
        *,
        attaches: bool = True,
    ) -> None:
        """``driver`` draws; None: Textual's choice.  ``attaches``: it begins with the job that runs, if one does."""
        super().__init__(driver_class=driver)
        self.machine = machine
        self.terminal = terminal or Terminal()
        self.attaches = attaches
        #: Why the disks cannot be listed; empty when they can.
        self.trouble = ""
        #: What this program itself does to a disk, which must not be left half done; empty when nothing.
        self.unfinished = ""
        #: The disks as they were last seen; None until the first look has ended.
        self.reports: tuple[DiskReport, ...] | None = None
        #: Published with the reports whenever they changed.
        self.surveyed: Signal[tuple[DiskReport, ...]] = Signal(self, "surveyed")
        #: What this program mounted for the person.
        self.borrowed = Borrowed(machine.unmount)
        self._seen: tuple[DiskReport, ...] = ()
        self._verdicts = Verdicts(machine.health)
        self._looking = self._look_again = self._judging = False
        self._stop_watching: Callable[[], None] | None = None

    @property
    def slow_line(self) -> bool:
        """Whether to draw little, and seldom."""
        return self.terminal.slow

    def on_mount(self) -> None:
        """The first look at the disks begins."""
        self.register_theme(_THEME)
        self.theme = "ansi-dark" if self.terminal.plain else "recovery"
        self.animation_level = "none"
        self.set_class(self.terminal.plain, "plain")
        self.set_class(self.terminal.ascii, "ascii")
        draw_scroll_bars(plain=self.terminal.plain)
        self.push_screen(HomeScreen())
        self.look()
        self._begin_watching()

    def on_unmount(self) -> None:
        """Nobody is told of disks any more."""
        if self._stop_watching is not None:
            self._stop_watching()

    # -- questions to the engine

    async def ask(self, question: Callable[..., T], *arguments: Any) -> T:
        """What ``question(*arguments)`` gives or raises (an OSError as DeviceError); the interface goes on meanwhile.

        It runs in a thread that nobody waits for when the program ends: a disk may hang in it for ever.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, error: BaseException | None) -> None:
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        def work() -> None:
            value: T | None = None
            failure: BaseException | None = None
            try:
                value = question(*arguments)
            except OSError as error:  # no bug: a disk, a mount or the kernel refused, and that is told
                log.warning("%r refused", question, exc_info=error)
                failure = DeviceError(f"{error.filename or 'something'} could not be used: {error.strerror or error}")
            except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked
                failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, value, failure)

        threading.Thread(target=work, name=getattr(question, "__name__", "question"), daemon=True).start()
        return await answer

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a journey, or what else waits for screens; what goes wrong in it is told."""

        async def guarded() -> None:
            try:
                await work()
            except RecoveryError as error:
                await self.tell(error)

        self.run_worker(guarded())

    async def tell(self, error: RecoveryError) -> None:
        """An error, and what to do next."""
        message = error.message[:1].upper() + error.message[1:]
        await self.push_screen_wait(Note("This did not work", f"{message.rstrip('.')}.\n\n{error.hint}".rstrip()))

    # -- disks

    def look(self) -> None:
        """Look at the disks anew; another look that is asked for meanwhile follows it."""
        if self._looking:
            self._look_again = True
            return
        self._looking = True
        self.run_worker(self._survey(), name="survey")

    async def _survey(self) -> None:
        try:
            while True:
                self._look_again = False
                began = time.monotonic()
                try:
                    seen = tuple(await self.ask(self.machine.survey))
                except RecoveryError as error:
                    log.warning("the disks could not be listed: %s", error.message)
                    self._look_again = True  # what was seen before is still the best that is known
                    if self.reports is None and self.trouble != error.message:
                        self.trouble = error.message
                        self.surveyed.publish(())
                else:
                    self.trouble = ""
                    self._seen = seen
                    self._tell_disks()
                    self.run_worker(self._judge(), name="health")
                if not self._look_again:
                    return
                least = _FAILED_SECONDS if self.trouble else 0.0
                await asyncio.sleep(max(least, _PAUSE_SHARE * (time.monotonic() - began)))
        finally:
            self._looking = False

    def remember_images(self, disk: Disk, repositories: Sequence[str]) -> None:
        """System images were seen on the disk, in these folders: it is told wherever the disk is listed from now on."""
        if self._verdicts.remember_images(disk, repositories):
            self._tell_disks()

    def _tell_disks(self) -> None:
        """Everybody who follows the disks, when there is anything new of them."""
        told = self._verdicts.told(self._seen)
        if told != self.reports:
            self.reports = told
            self.surveyed.publish(told)

    async def _judge(self) -> None:
        """Each new disk's own verdict, one after the other."""
        if self._judging:
            return
        self._judging = True
        while (disk := self._verdicts.next(self._seen)) is not None:
            try:
                async with asyncio.timeout(_HEALTH_SECONDS):
                    await self.ask(self._verdicts.ask, disk)
            except TimeoutError:
                self._verdicts.pass_over(disk)
            self._tell_disks()
        self._judging = False

    def _begin_watching(self) -> None:
        changed = partial(self.call_from_thread, self.look)

        def told() -> None:
            if self.is_running:
                changed()

        async def begin() -> None:
            try:
                self._stop_watching = await self.ask(self.machine.watch, told)
            except RecoveryError as error:
                log.warning("disks that come and go are looked for now and then: %s", error.message)
                self.set_interval(_UNWATCHED_SECONDS, self.look)

        self.run_worker(begin(), name="watch")

    async def give_back(self, only: Collection[Path] | None = None) -> None:
        """Unmount what was mounted for the person, where nothing uses it any more, and say so.

        ``only``: these folders alone, which were a step on the way: nothing is said of them.
        """
        free = await self.ask(self.borrowed.give_back, only)
        if only is not None:
            self.look()
        elif free:
            names = " and ".join(shown(device.removeprefix("/dev/")) for device in free)
            self.notify(f"{names} {'is' if len(free) == 1 else 'are'} no longer open: you can unplug the disk.")
            self.look()

    # -- errors of our own

    def _handle_exception(self, error: Exception) -> None:
        """As Textual does: the program ends and shows it; and it is kept, for the screen is soon drawn over."""
        cause = error.error if isinstance(error, WorkerFailed) else error
        log.error("the interface broke", exc_info=cause)
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        """End, without Textual's picture of the error: that shows what variables hold, passwords among them."""
        self._close_messages_no_wait()

    # -- leaving

    def action_leave(self) -> None:
        """Leave, after asking; what runs goes on."""
        self.begin(self._leave)

    async def _leave(self) -> None:
        if any(isinstance(screen, Question) for screen in self.screen_stack):
            return
        if self.unfinished:
            await self.push_screen_wait(Note("Not now", f"{self.unfinished} Wait until that has ended."))
            return
        text = (
            "Leaving this program stops nothing: a capture or restore that runs goes on, and is shown again when the "
            "program is started again."
        )
        answer = await self.push_screen_wait(
            Question("Leave the program?", text, [("stay", "Stay here"), ("leave", "Leave")])
        )
        if answer == "leave" and not self.unfinished:
            self.exit()
