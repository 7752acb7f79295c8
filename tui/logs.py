"""The program's logs: the interface's own, and what each job said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from recovery.errors import ExitCode
from recovery.inventory import shown
from recovery.jobs.folder import Job, jobs_folder, list_jobs

#: The end of a log is what tells.
SHOWN_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Log:
    """``files`` are shown one below the other."""

    name: str
    files: tuple[Path, ...]


class _Event(msgspec.Struct, frozen=True):
    message_type: str
    text: str = ""
    message: str = ""
    hint: str = ""


def logs() -> list[Log]:
    """The newest job first, the interface's own last.  Raises DeviceError."""
    jobs = sorted(list_jobs(), key=lambda job: job.record.started, reverse=True)
    found = [
        Log(
            shown(
                f"Job {job.id}: {job.record.kind} {job.record.what}, {job.record.started:%d %b %H:%M}: {_state(job)}"
            ),
            (job.folder / "events.jsonl", job.folder / "log"),
        )
        for job in jobs
    ]
    return [*found, Log("This program", (interface_log(),))]


def _state(job: Job) -> str:
    if job.running:
        return "at work"
    if job.exit_code is None:
        return "died"
    known = {ExitCode.DONE: "done", ExitCode.INCOMPLETE: "incomplete", ExitCode.CANCELLED: "stopped"}
    return known.get(ExitCode(job.exit_code), "failed") if job.exit_code in set(ExitCode) else "failed"


def interface_log() -> Path:
    """Where the interface writes its own."""
    return jobs_folder().parent / "interface.log"


def lines(log: Log) -> list[str]:
    """Its last lines, as a person reads them."""
    found: list[str] = []
    for file in log.files:
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                opened.seek(max(0, size - SHOWN_BYTES))
                data = opened.read(SHOWN_BYTES)
        except FileNotFoundError:
            continue  # nothing was written yet
        except OSError as error:
            found.append(f"{file}: {error.strerror}")
            continue
        whole = data.splitlines()[1 if size > SHOWN_BYTES else 0 :]
        found += [text for line in whole if (text := _text(line) if file.suffix == ".jsonl" else _plain(line))]
    return found or ["Nothing was written yet."]


def _text(line: bytes) -> str:
    try:
        event = msgspec.json.decode(line, type=_Event)
    except msgspec.MsgspecError:
        return _plain(line)
    match event.message_type:
        case "text" | "log":
            return shown(event.text)
        case "warning":
            return shown(f"Warning: {event.message}")
        case "error":
            return shown(f"Error: {event.message}. {event.hint}".strip())
    return ""


def _plain(line: bytes) -> str:
    return shown(line.decode(errors="replace").rstrip())
