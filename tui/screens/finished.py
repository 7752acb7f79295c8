"""A disk was written: what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from textual.widgets import Button, Static

from recovery.inventory import shown
from tui.screens.base import LEAVE, StepScreen
from tui.screens.leave import leave_machine

Next = Literal["next"]


class FinishedScreen(StepScreen[Next]):
    """Says how the machine is started from the disk; gives ``next`` when another disk of the image is to follow."""

    TITLE = "What to do next"
    HELP = (
        "The disk was written. When the machine was started from a stick or disc with this program, take that out "
        "while it restarts, or the machine starts this program again instead of the restored system.\n\n"
        "When the machine does not start from the disk, look into its setup (often F2, F10, F12 or Del right after "
        "switching on) and choose the disk there as the one to start from."
    )

    def __init__(
        self,
        name: str,
        *,
        whole: bool,
        starts: bool,
        sound: bool,
        remaining: tuple[str, ...] = (),
        twin: str = "",
    ) -> None:
        """``name``: the disk that was written; ``whole``: not only a partition of it; ``starts``: it holds what a
        machine starts from; ``sound``: nothing was missing; ``remaining``: disks of the image not put back yet;
        ``twin``: the disk that it is a copy of."""
        super().__init__()
        self.can_go_back = False
        self._disk, self._whole, self._starts, self._sound = name, whole, starts, sound
        self._remaining, self._twin = remaining, twin

    def body(self) -> Iterable[Any]:
        """What there is to be done, in its order."""
        for sentence in self._sentences():
            yield Static(sentence, classes="text", markup=False)

    def _sentences(self) -> Iterable[str]:
        name = shown(self._disk)
        yield f"{name} was written."
        if self._remaining:
            others = ", ".join(map(shown, self._remaining))
            yield f"The image holds more disks that were not put back yet: {others}. The machine may need them."
        if self._twin:
            yield (
                f"{name} and {shown(self._twin)} now hold the same, down to the marks (UUIDs) by which a system finds "
                "its partitions. Take one of the two out before a system is started, or it may mix them up."
            )
        if not self._sound:
            yield (
                "Not everything on it is as it was: the result named what is missing or went wrong. A system on it may "
                "not start, or not work in all parts."
            )
        if self._whole and not self._starts:
            yield (
                "It holds no part that a machine starts from: it is a disk for data, or its system is started in "
                "another way. Put it into the machine that it is for, beside the disk that this starts from."
            )
        elif self._whole and self.recovery.machine.live:
            yield (
                "1. Take out the stick or disc with this program when the machine restarts.\n"
                f"2. Leave {name} in the machine, and take out the disk with the repository.\n"
                f"3. The machine should start from {name} now; when it does not, F1 says what to do. The first start "
                "can take some minutes longer than usual."
            )
        elif self._whole:
            yield f"Put {name} into the machine that it is for, and switch that on: it should start from {name}."
        else:
            yield "Its other partitions are as they were."

    def buttons(self) -> Iterable[Button]:
        """Restart and switch off only where this program is the whole system."""
        if self._remaining:
            yield Button("Put back the next disk", id="next", compact=True)
        yield Button("To the first screen", id="home", compact=True)
        if self.recovery.machine.live:
            yield Button("Restart", id="reboot", compact=True)
            yield Button("Switch off", id="poweroff", compact=True)

    def on_mount(self) -> None:
        """The first has the focus."""
        self.query(Button).first().focus()

    def pressed(self, name: str) -> None:
        """On, away, or out."""
        if name == "next":
            self.answer("next")
        elif name == "home":
            self.answer(LEAVE)
        elif name == "reboot":
            self.begin(lambda: leave_machine(self.recovery, "reboot"))
        else:
            self.begin(lambda: leave_machine(self.recovery, "poweroff"))
