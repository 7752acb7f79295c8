"""A journey: a short row of screens.  Each gives one answer; Back returns to the one before, with what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tui.screens.base import BACK, LEAVE, StepScreen

if TYPE_CHECKING:
    from tui.app import RecoveryApp


@dataclass(frozen=True, slots=True)
class Step:
    """``screen`` makes it (None: it is not needed, and passed over), ``keep`` takes its answer.

    A step that is ``final`` is not returned from: what follows from it has begun.
    """

    name: str
    screen: Callable[[], StepScreen[Any] | None]
    keep: Callable[[Any], None]
    final: bool = False


class Journey:
    """What a person came for."""

    title: ClassVar[str]

    def __init__(self, app: RecoveryApp) -> None:
        self.app = app

    def steps(self) -> Sequence[Step]:
        """In their order."""
        raise NotImplementedError

    def _keep(self, name: str) -> Callable[[Any], None]:
        """What keeps a step's answer as the journey's ``name``."""
        return lambda answer: setattr(self, name, answer)

    async def run(self) -> None:
        """From the first screen until the last was answered, or the person went back before the first."""
        steps = self.steps()
        number, direction, barrier = 0, 1, 0
        seen: list[int] = []  # the steps before this one that the person was asked, which is how they are counted
        while 0 <= number < len(steps):
            step = steps[number]
            screen = step.screen()
            if screen is None:
                number += direction
                continue
            screen.journey = self.title
            seen = [before for before in seen if before < number]
            screen.step = f"Step {len(seen) + 1}: {step.name}"
            screen.can_go_back = number > barrier or not barrier
            answer = await self.app.push_screen_wait(screen)
            if answer is LEAVE:
                return
            if answer is BACK:
                direction = -1
            else:
                step.keep(answer)
                if not screen.passed_over:  # else it is passed over on the way back too
                    direction = 1
                    seen.append(number)
                if step.final:
                    barrier = number + 1
            number += direction
            if number < barrier:
                return
