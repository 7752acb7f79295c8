"""Restarting the machine or switching it off, from wherever that is offered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recovery.inventory import shown
from recovery.jobs.folder import Job, list_jobs
from tui.leaving import stop_jobs
from tui.machine import Leave
from tui.modals import Note, Question

if TYPE_CHECKING:
    from tui.app import RecoveryApp

_WORDS: dict[Leave, str] = {"reboot": "restart", "poweroff": "switch off"}


async def leave_machine(app: RecoveryApp, how: Leave) -> None:
    """Restart it or switch it off, after asking; what runs on it is named, and stopped first when that is wanted."""
    word = _WORDS[how]
    if app.unfinished:
        await app.push_screen_wait(Note("Not now", f"{app.unfinished} Wait until that has ended."))
        return
    jobs = await app.ask(_running)
    if not jobs:
        text = f"This machine will {word}. Nothing is running."
        buttons = [("stay", "Stay here"), ("leave", f"{word.capitalize()} now")]
        if await app.push_screen_wait(Question(f"{word.capitalize()}?", text, buttons)) == "leave":
            await app.ask(app.machine.leave, how)
        return
    names = "\n".join(shown(f"  {job.record.kind} {job.record.what}") for job in jobs)
    text = (
        f"This machine should not {word} now, because this is still running:\n\n{names}\n\n"
        "You can wait until it has ended. Or it is stopped at its next safe point first, which can take a minute; "
        "a disk that was being overwritten is then left unfinished."
    )
    buttons = [("stay", "Wait, do nothing"), ("stop", f"Stop it, then {word}")]
    if await app.push_screen_wait(Question("Something is running", text, buttons)) != "stop":
        return
    app.notify("Stopping what runs ...")
    await app.ask(stop_jobs, jobs)
    await app.ask(app.machine.leave, how)


def _running() -> list[Job]:
    return [job for job in list_jobs() if job.running]
