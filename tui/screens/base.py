"""What all screens have: where the person is, help, a way back, a row of buttons."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Button, Footer, Input, OptionList, Static

from tui.modals import Help

if TYPE_CHECKING:
    from tui.app import RecoveryApp

ResultT = TypeVar("ResultT")


class _Word:
    def __init__(self, word: str) -> None:
        self._word = word

    def __repr__(self) -> str:
        return self._word


#: What a screen gives when the person goes back, and when they leave the whole journey.
BACK: Final = _Word("BACK")
LEAVE: Final = _Word("LEAVE")


class PlainScreen(Screen[ResultT], Generic[ResultT]):
    """Heading, body, buttons, keys.  ``TITLE`` names it, ``HELP`` explains it and every word on it."""

    TITLE: ClassVar[str] = ""
    HELP: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("f1", "help", "Help", key_display="F1"),
        Binding("question_mark", "help", "Help", show=False),
        Binding("space", "choose", "Choose", show=False),
        Binding("pagedown", "scroll_text('page_down')", "Scroll", show=False),
        Binding("pageup", "scroll_text('page_up')", "Scroll", show=False),
    ]

    #: Of which journey it is a step, and which; empty outside journeys.
    journey: str = ""
    step: str = ""
    can_go_back: bool = True
    #: It gave its answer without asking.
    passed_over: bool = False
    _given: tuple[Any, ...] = ()
    _at_work: bool = False

    def compose(self) -> ComposeResult:
        """From the parts below."""
        where = f" {self.recovery.terminal.glyphs.arrow} ".join(part for part in (self.journey, self.step) if part)
        yield Static(where or self.TITLE, id="where", markup=False)
        with Vertical(id="body"):
            if self.journey:
                yield Static(self.TITLE, id="title", markup=False)
            yield from self.body()
        with Horizontal(id="buttons", classes="buttons"):
            yield from self.buttons()
        yield Footer(compact=True, show_command_palette=False)

    def body(self) -> Iterable[Any]:
        """What stands between heading and buttons."""
        return ()

    def buttons(self) -> Iterable[Button]:
        """Below the body; their ids are what ``pressed`` gets."""
        if self.can_go_back:
            yield Button("Back", id="back", compact=True)

    @property
    def recovery(self) -> RecoveryApp:
        """The program."""
        return cast("RecoveryApp", self.app)

    @property
    def on_top(self) -> bool:
        """Whether nothing lies over it.  (``is_current`` is true for a screen below a dialog as well.)"""
        return self.app.screen is self

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what waits for other screens, once at a time: a key that is pressed twice begins nothing twice."""
        if self._at_work or not self.on_top:
            return
        self._at_work = True

        async def once() -> None:
            try:
                await work()
            finally:
                self._at_work = False

        self.recovery.begin(once)

    def answer(self, value: Any) -> None:
        """Give the answer, once; while a dialog lies over this screen, as soon as that is closed."""
        if self._given:
            return
        self._given = (value,)
        if self.on_top:
            self.dismiss(value)

    def on_screen_resume(self) -> None:
        """What lay over it is closed."""
        if self._given and self.on_top:
            self.dismiss(self._given[0])

    def pressed(self, name: str) -> None:
        """A button of this screen other than Back was pressed."""

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """No cursor blinks: each time would be drawn, over whatever line, and read out by a screen reader."""
        if isinstance(event.widget, Input):
            event.widget.cursor_blink = False

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back goes back, the others go to ``pressed``."""
        event.stop()
        if event.button.id == "back":
            self.action_back()
        elif event.button.id:
            self.pressed(event.button.id)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Back is not offered where there is nothing before."""
        return self.can_go_back if action == "back" else True

    def action_back(self) -> None:
        """Where the person came from."""
        self.dismiss(None)

    def action_choose(self) -> None:
        """In a list, and on a button, Space is as good as Enter."""
        if isinstance(self.focused, OptionList):
            self.focused.action_select()
        elif isinstance(self.focused, Button):
            self.focused.press()

    def action_scroll_text(self, how: str) -> None:
        """The text of the screen by a page, wherever the focus is."""
        for text in self.query(VerticalScroll):
            getattr(text, f"scroll_{how}")(animate=False)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Behind the last that can be chosen may stand what cannot, and why: that is to be seen too."""
        rows = event.option_list
        behind = rows.options[event.option_index + 1 :]
        if behind and all(option.disabled for option in behind):
            self.call_after_refresh(rows.scroll_to_highlight, top=True)

    def action_help(self) -> None:
        """What this screen is for."""
        self.app.push_screen(Help(self.TITLE, self.HELP))


class StepScreen(PlainScreen[ResultT], Generic[ResultT]):
    """One step of a journey: dismissed with its answer, ``BACK`` or ``LEAVE``."""

    def action_back(self) -> None:
        """To the step before."""
        if self.can_go_back:
            self.answer(BACK)
