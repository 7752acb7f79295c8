"""The password of a repository: of one that is there, and of one that is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from recovery.errors import RecoveryError, WrongPassword
from recovery.image.capture_plan import check_build_date
from recovery.inventory import shown
from recovery.repository.repository import Repository
from tui.screens.base import StepScreen
from tui.screens.place_entries import Place
from tui.widgets.password import PasswordField
from tui.widgets.tick import Tick

_WITH = "With a password nobody can read the images without it, nor can you if you forget it: write it down."


@dataclass(frozen=True, slots=True)
class OpenRepository:
    """A repository that was opened, and with what.  The password is in no representation of it."""

    folder: Path
    password: str = field(repr=False)
    repository: Repository = field(repr=False, compare=False)


def password_screen(place: Place, opened: OpenRepository | None) -> StepScreen[OpenRepository] | None:
    """The screen that a journey needs for ``place``; None when it was opened before and has no password.

    ``opened``: what the step gave before, of whichever place.
    """
    mine = opened if opened is not None and opened.folder == place.folder else None
    if mine is not None and not mine.password:
        return None
    if mine is None and not place.exists:
        return NewPasswordScreen(place)
    return UnlockScreen(place, mine.password if mine is not None else "")


class UnlockScreen(StepScreen[OpenRepository]):
    """Opens a repository.  One without a password is opened at once, and nothing is asked."""

    TITLE = "The repository's password"
    HELP = (
        "The images in this repository are encrypted: nobody can read them without its password, which was chosen "
        "when the repository was made. A repository is the folder that holds the images.\n\n"
        "When a password is not accepted although it is right, look at the keyboard layout: on another layout some "
        "keys give other characters. 'Show what I type' shows what really arrives."
    )
    DEFAULT_CSS = """
    UnlockScreen #problem { height: auto; margin: 1 0 0 0; }
    """

    def __init__(self, place: Place, before: str = "") -> None:
        """``before``: the password that opened it, when the person comes back."""
        super().__init__()
        self._place, self._before = place, before
        self._busy = False

    def body(self) -> Iterable[Any]:
        """The line; it is shown once it is known to be needed."""
        words = f"The repository {shown(str(self._place.folder))} is protected by a password."
        yield Static(words, classes="text", id="words", markup=False)
        yield PasswordField(first=self._before, id="field")
        yield Static("", id="problem", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and on."""
        yield Button("Back", id="back", compact=True)
        yield Button("Open", id="open", compact=True)

    def on_mount(self) -> None:
        """Perhaps it has none."""
        field = self.query_one("#field", PasswordField)
        if self._before:
            field.focus_first()
            return
        field.display = self.query_one("#words").display = False
        self.query_one("#open").display = False
        self.query_one("#back").focus()
        self._say("Opening the repository ...")
        self.run_worker(self._try(""), exclusive=True)

    def on_password_field_submitted(self, event: PasswordField.Submitted) -> None:
        """Enter is as good as Open."""
        event.stop()
        self.pressed("open")

    def pressed(self, name: str) -> None:
        """Try it."""
        if not self._busy:
            self._say("Opening the repository ...")
            self.run_worker(self._try(self.query_one("#field", PasswordField).values[0]), exclusive=True)

    def _say(self, sentence: str) -> None:
        self.query_one("#problem", Static).update(sentence)

    async def _try(self, password: str) -> None:
        field = self.query_one("#field", PasswordField)
        first = not field.display
        self._busy = True
        try:
            repository = await self.recovery.ask(Repository.open, self._place.folder, password)
        except WrongPassword:
            self._say("" if first else "This password does not open it. What you typed is kept: correct it.")
        except RecoveryError as error:
            message = error.message[:1].upper() + error.message[1:]
            self._say(f"{message.rstrip('.')}. {error.hint}")
            if first:
                return
        else:
            self.passed_over = first
            self.answer(OpenRepository(self._place.folder, password, repository))
            return
        finally:
            self._busy = False
        if first:
            field.display = self.query_one("#words").display = self.query_one("#open").display = True
        field.focus_first()


class NewPasswordScreen(StepScreen[OpenRepository]):
    """A password, or none, for a repository that is made then."""

    TITLE = "A password for the new repository?"
    HELP = (
        "A repository is the folder that the images are kept in. With a password all in it is encrypted: whoever "
        "finds or steals the disk can read nothing. Nobody can open it without the password, not even with other "
        "programs, and nobody can tell you the password when it is forgotten. Write it down, and keep it elsewhere.\n\n"
        "Without a password whoever holds the disk can read every file of the machine that was saved.\n\n"
        "The repository is made when you continue; an image is stored only after the next screen."
    )
    DEFAULT_CSS = """
    NewPasswordScreen #all { height: 1fr; }
    NewPasswordScreen #without { margin: 0 0 1 0; }
    NewPasswordScreen #problem { height: auto; }
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._busy = False

    def body(self) -> Iterable[Any]:
        """What a password does; two lines to type in; the way without."""
        with VerticalScroll(id="all", can_focus=False):
            yield Static(f"A new repository will be made: {shown(str(self._place.folder))}", markup=False)
            yield Static(_WITH, classes="text", markup=False)
            yield Tick("No password. Whoever holds the disk can read everything on it.", id="without")
            yield PasswordField(("Password:", "The same once more:"), id="field")
        yield Static("", id="problem", classes="warning", markup=False)

    def buttons(self) -> Iterable[Button]:
        """Back, and on."""
        yield Button("Back", id="back", compact=True)
        yield Button("Make the repository", id="make", compact=True)

    def on_mount(self) -> None:
        """Typing at once."""
        self.query_one("#field", PasswordField).focus_first()

    @property
    def _wanted(self) -> bool:
        return not self.query_one("#without", Tick).on

    def on_tick_changed(self, event: Tick.Changed) -> None:
        """Lines only where there is something to type."""
        event.stop()
        self.query_one("#field").display = self._wanted
        self._say("")

    def on_password_field_submitted(self, event: PasswordField.Submitted) -> None:
        """Enter is as good as the button."""
        event.stop()
        self.pressed("make")

    def on_password_field_changed(self, event: PasswordField.Changed) -> None:
        """What was said of the lines before is over."""
        event.stop()
        if not self._busy:
            self._say("")

    def pressed(self, name: str) -> None:
        """Make it, if the password was typed twice alike."""
        if self._busy:
            return
        typed, again = self.query_one("#field", PasswordField).values if self._wanted else ("", "")
        if self._wanted and not typed:
            self._say("Type a password, or mark: No password.")
        elif typed != again:
            self._say("The two lines differ. Show what you type, and correct it.")
        else:
            self._say("Making the repository ...")
            self.run_worker(self._make(typed), exclusive=True)

    def _say(self, sentence: str) -> None:
        self.query_one("#problem", Static).update(sentence)

    async def _make(self, password: str) -> None:
        self._busy = True
        try:
            repository = await self.recovery.ask(_make, self._place.folder, password)
        except RecoveryError as error:
            message = error.message[:1].upper() + error.message[1:]
            self._say(f"{message.rstrip('.')}. {error.hint}")
            return
        finally:
            self._busy = False
        self.answer(OpenRepository(self._place.folder, password, repository))


def _make(folder: Path, password: str) -> Repository:
    check_build_date()
    return Repository.init(folder, password)
