"""A job that can be watched, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from recovery.errors import RecoveryError
from recovery.inventory import shown
from recovery.jobs.folder import find_job
from recovery.jobs.watching import Watcher, attach
from recovery.work_map import Cell
from tui import job_words
from tui.job_view import JobView, outcome_of
from tui.modals import Help, Note, Question
from tui.screens.base import LEAVE, StepScreen
from tui.widgets.disk_map import DiskMap, legend
from tui.widgets.rate import Rate

#: From one look at the job to the next, and from one drawing to the next, on a quick line and on a slow one.
_POLL_SECONDS = 0.25
_DRAW_SECONDS, _SLOW_DRAW_SECONDS = 0.5, 2.0
#: The bar takes what the longest words beside it leave.
_BAR_CELLS, _AMOUNT_CELLS = 30, 64
_SHOWN_TROUBLES = 3

_MAP_STATES = {
    "capture": (Cell.UNUSED, Cell.TO_DO, Cell.READ, Cell.KNOWN, Cell.WRITTEN, Cell.CHECKED, Cell.UNREADABLE),
    "verify": (Cell.UNUSED, Cell.TO_DO, Cell.CHECKED, Cell.UNREADABLE),
}
_MAP_STATES_OF_TARGET = (Cell.UNUSED, Cell.TO_DO, Cell.KNOWN, Cell.WRITTEN, Cell.CHECKED, Cell.UNREADABLE)

Job = str | Watcher | JobView
#: Buttons of a result: what the screen gives when one is pressed, and its label.
Offers = Sequence[tuple[str, str]]
AFTER_CAPTURE: Offers = (("verify", "Verify"), ("audit", "Audit"))


class JobScreen(StepScreen[str | None]):
    """Shows a job until it ends, and then its result.

    Gives what the person wants next: None, one of the offers, or ``LEAVE`` when the job was left running.
    """

    TITLE = "The work, as it goes on"
    HELP = (
        "A job is the work itself. It runs on its own: leaving this screen, or even this program, does not stop it, "
        "and the first screen shows it as long as it runs.\n\n"
        "The map shows each disk from its beginning to its end. Every sign stands for a part of it, and shows how far "
        "that part has come; what the signs mean stands below the map. Unused: holds nothing that is needed. Known "
        "already: the same data is in the repository (or on the target), and need not be stored again. Checked: it was "
        "read back and is right. Unreadable: the disk did not give it back.\n\n"
        "Source is what is read, destination or target what is written to. A repository is the folder in which system "
        "images are kept.\n\n"
        "Stop ends the work at the next safe point, after asking; it says before in what state things are left."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Leave it running", key_display="Esc"),
        Binding("s", "stop", "Stop it"),
    ]
    DEFAULT_CSS = """
    JobScreen #job-what { height: auto; text-style: bold; }
    JobScreen #job-phase { height: auto; max-height: 3; }
    JobScreen #job-amount { height: 1; }
    JobScreen #job-stored { height: auto; max-height: 2; display: none; }
    JobScreen #job-stall { height: auto; max-height: 3; display: none; }
    JobScreen #job-map { margin: 1 0 0 0; }
    JobScreen #job-legend { height: auto; max-height: 2; }
    JobScreen #job-troubles { height: auto; max-height: 5; display: none; }
    """

    def __init__(self, job: Job, offers: Offers | None = None) -> None:
        """``job``: its number, or what watches it.  ``offers``: buttons of its result, where it came out well; None:
        what is usual within a journey."""
        super().__init__()
        self._job = job
        self._offers = offers
        self.view: JobView | None = job if isinstance(job, JobView) else None
        self._question: Question | None = None
        self._shown: dict[str, str] = {}
        self._over = False

    # -- what is there

    def body(self) -> Iterable[Any]:
        """Words, the map, what went wrong."""
        glyphs = self.recovery.terminal.glyphs
        slow = self.recovery.slow_line
        yield Static("", id="job-what", markup=False)
        yield Static("Looking for the job ...", id="job-phase", markup=False)
        yield Static("", id="job-amount", markup=False)
        yield Rate(glyphs.spark, id="job-rate")
        yield Static("", id="job-stored", markup=False)
        yield Static("", id="job-stall", classes="warning", markup=False)
        yield DiskMap(
            ascii_only=self.recovery.terminal.ascii, seconds=_SLOW_DRAW_SECONDS if slow else _DRAW_SECONDS, id="job-map"
        )
        yield Static("", id="job-legend", markup=False)
        yield Static("", id="job-troubles", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """The harmless one first."""
        yield Button("Leave it running", id="leave", compact=True)
        yield Button("Stop ...", id="stop", compact=True)

    def on_mount(self) -> None:
        """Begin to watch."""
        self.query_one("#leave").focus()
        self.run_worker(self._watch(), name="watch job")

    async def _watch(self) -> None:
        if self.view is None:
            job = self._job
            try:
                watcher = job if isinstance(job, Watcher) else await self.recovery.ask(_attached, str(job))
            except RecoveryError as error:
                await self.recovery.tell(error)
                self.answer(None)
                return
            self.view = JobView(watcher)
        self.view.poll()
        self._draw()
        self.set_interval(_POLL_SECONDS, self._poll)
        self.set_interval(_SLOW_DRAW_SECONDS if self.recovery.slow_line else _DRAW_SECONDS, self._draw)

    def on_unmount(self) -> None:
        """Watched no longer."""
        if self.view is not None:
            self.view.close()

    # -- looking

    def _poll(self) -> None:
        view = self.view
        if view is None or self._over:
            return
        view.poll()
        if not view.ended:
            return
        if self._question is not None and self.app.screen is self._question:
            self._question.dismiss(None)  # what it asks is no question any more
        if self.on_top:
            self._over = True
            self._draw()
            offers = self._offers
            if offers is None:
                offers = AFTER_CAPTURE if self.journey and view.kind == "capture" else ()
            result = ResultScreen(view, offers)
            result.journey, result.step = self.journey, self.step
            self.app.push_screen(result, self.answer)

    def _draw(self) -> None:
        view = self.view
        if view is None:
            return
        now = view.progress
        self._say("job-what", job_words.title(view))
        self._say("job-phase", job_words.phase(view))
        self._say("job-amount", self._bar() + job_words.amount(now, view.bytes_per_second) if now else "")
        self._say("job-stored", job_words.stored(view.counters))
        self._say("job-stall", job_words.stall(view))
        self._say("job-troubles", self._troubles())
        self.query_one(Rate).show(view.rates(60), view.bytes_per_second)
        if view.map:
            states = _MAP_STATES.get(view.kind, _MAP_STATES_OF_TARGET)
            text = legend(states, self.recovery.terminal.ascii)
            if self._shown.get("job-legend") != text.plain:
                self._shown["job-legend"] = text.plain
                self.query_one("#job-legend", Static).update(text)
            self.query_one(DiskMap).show(view.map)
        stop = self.query_one("#stop", Button)
        label = "Stop at once ..." if view.cancelling else "Stop ..."
        if str(stop.label) != label:
            stop.label = label
            stop.refresh(layout=True)

    def _say(self, name: str, text: str) -> None:
        """Show ``text``, if it is another than before; nothing of it where there is nothing to say."""
        if self._shown.get(name, "") == text:
            return
        self._shown[name] = text
        place = self.query_one(f"#{name}", Static)
        place.update(text)
        if name in ("job-stored", "job-stall", "job-troubles"):
            place.display = bool(text)

    def _bar(self) -> str:
        now = self.view.progress if self.view is not None else None
        if now is None or now.ratio is None:
            return ""
        glyphs = self.recovery.terminal.glyphs
        cells = min(_BAR_CELLS, max(8, self.size.width - 2 - _AMOUNT_CELLS))
        done = int(now.ratio * cells)
        return f"{glyphs.used * done}{glyphs.free * (cells - done)} "

    def _troubles(self) -> str:
        assert self.view is not None
        found = job_words.troubles(self.view)
        more = len(found) - _SHOWN_TROUBLES
        return "\n".join([*([f"And {more} more before these:"] if more > 0 else []), *found[-_SHOWN_TROUBLES:]])

    # -- what a person wants

    def pressed(self, name: str) -> None:
        """Leave or stop."""
        if name == "leave":
            self.action_back()
        elif name == "stop":
            self.action_stop()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """All is possible as long as it runs."""
        return True

    def action_back(self) -> None:
        """Leave it running."""
        if not self._over:
            self.answer(LEAVE)

    def action_stop(self) -> None:
        """Stop it, after asking; at once, when it is stopping already."""
        view = self.view
        if view is None or view.ended or not self.on_top:
            return
        if view.cancelling:
            self._question = Question(
                "Stop it at once?",
                "It stops at its next safe point already, and that takes some seconds in most cases. At once means: "
                f"what is being written just now stays unfinished. {job_words.if_cancelled(view)}",
                [("wait", "Wait for it"), ("now", "Stop at once")],
            )
        elif job_words.can_finish(view):
            self._question = Question(
                "Stop this work?",
                "To finish now: bad areas are gone into no further, and a system image is made of all that was read. "
                f"To stop: {job_words.if_cancelled(view)}",
                [("go", "Go on"), ("finish", "Finish now"), ("stop", "Stop it")],
            )
        else:
            self._question = Question(
                "Stop this work?",
                f"It stops at its next safe point, which takes some seconds. {job_words.if_cancelled(view)}",
                [("go", "Go on"), ("stop", "Stop it")],
            )
        self.app.push_screen(self._question, self._stop)

    def _stop(self, answer: str | None) -> None:
        if self.view is None or self.view.ended:
            return
        if answer == "stop":
            self.view.cancel()
        elif answer == "finish":
            self.view.finish()
        elif answer == "now":
            self.view.stop()
        self._draw()


class ResultScreen(StepScreen[str | None]):
    """How a job ended; gives None, or the offer that was chosen."""

    TITLE = "The result"
    HELP = (
        "This is how the work ended, and what there is to do next.\n\n"
        "Done: everything that was to be done was done, and checked. Incomplete: it ended, but some of the data is "
        "missing, and what is said here tells which. A system image is the copy of whole disks in a repository."
    )
    OFFERS = (
        "\n\nVerify reads the stored image and checks every byte of it. Audit also looks, file by file, whether all "
        "that its filesystems need is in it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pagedown", "scroll_text('page_down')", "More", key_display="PgDn")
    ]
    DEFAULT_CSS = """
    ResultScreen #result { height: 1fr; }
    ResultScreen #result-headline { height: auto; text-style: bold; margin: 0 0 1 0; }
    """

    def __init__(self, view: JobView, offers: Offers = ()) -> None:
        """``offers`` are shown where the job came out well enough for them."""
        super().__init__()
        self.view = view
        self.can_go_back = False
        self._well = outcome_of(view) in ("done", "incomplete")
        self._offers = tuple(offers) if self._well else ()

    def body(self) -> Iterable[Any]:
        """Headline, then what there is to know."""
        view = self.view
        mark = {"done": "", "incomplete": "warning"}.get(outcome_of(view), "error")
        yield Static(job_words.title(view), classes="text", markup=False)
        yield Static(job_words.headline(view), id="result-headline", classes=mark, markup=False)
        with VerticalScroll(id="result", can_focus=False):
            for paragraph in job_words.details(view):
                yield Static(paragraph, classes="text", markup=False)
            yield Static(
                f"All that the job said is kept in {shown(str(view.watcher.folder))} until the machine is restarted.",
                classes="text",
                markup=False,
            )

    def buttons(self) -> Iterable[Button]:
        """On, and what is offered."""
        yield Button("Continue" if self.journey and self._well else "Close", id="close", compact=True)
        for name, label in self._offers:
            yield Button(label, id=name, compact=True)
        yield Button("What it said ...", id="said", compact=True)

    def on_mount(self) -> None:
        """On is nearest."""
        self.query_one("#close").focus()

    def action_help(self) -> None:
        """What it is, and what the offers are."""
        self.app.push_screen(Help(self.TITLE, self.HELP + (self.OFFERS if self._offers else "")))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc closes it."""
        return True

    def action_back(self) -> None:
        """As Close does."""
        self.answer(None)

    def pressed(self, name: str) -> None:
        """Away, or what was offered."""
        if name == "said":
            lines = [*self.view.said, *self.view.log] or ["It said nothing more."]
            self.app.push_screen(Note("What the job said", "\n".join(map(shown, lines))))
        else:
            self.answer(None if name == "close" else name)


def _attached(job: str) -> Watcher:
    """What watches the job of that number."""
    return attach(find_job(job))
