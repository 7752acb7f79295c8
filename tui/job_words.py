"""What a screen says of a job: sentences for a person who has never seen one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from recovery.inventory import shown
from recovery.progress import ProgressSnapshot, Side
from recovery.units import counted, format_bytes, format_seconds
from tui.job_view import JobView, outcome_of

#: Without progress for so long, it is said what is waited for.
STALLED_SECONDS = 10.0
#: A job tells how it is every second, or every 15 where it cannot be asked.
SILENT_SECONDS = 20.0

_KINDS = {
    "capture": "Capture of {}",
    "restore": "Restore of {}",
    "clone": "Copy of {}",
    "verify": "Check of the system image {}",
    "copy": "Copy of {}",
    "salvage": "Saving of {}",
    "forget": "Forgetting of {}",
}
#: A command to be typed, or an option of one.
_COMMAND = re.compile(r"'(recovery|restic)\b|(?<!\w)--\w")
_WRITES_TARGET = ("restore", "clone")
#: Of the files that could not be copied, so many are named.
_NAMED_FILES = 20
_PHASES = {
    "starting": "Beginning",
    "map": "Finding out which parts of the disk are in use",
    "finding the used areas": "Finding out which parts of the disk are in use",
    "predict": "Estimating how much there will be to store",
    "capture": "Reading the disk and storing what is new",
    "names": "Finding out which files could not be read",
    "publish": "Entering what was stored into the repository, the folder of the images",
    "check the medium": "Reading back what was stored, to be sure",
    "compare with the image": "Looking whether it is the disk of the image",
    "compare": "Comparing the disk with what it is to become",
    "list": "Looking how many files there are",
    "copy": "Copying files",
    "look": "Looking what is on the disk",
    "scan": "Searching the disk for filesystems",
    "salvage": "Saving files",
    "discard": "Clearing what will not be used of the disk",
    "write": "Writing the disk",
    "sync": "Waiting until the disk has taken everything in",
    "audit": "Looking whether all that its filesystems need is in the image",
}
#: Phases in which the side that is written to is read.
_READS_BACK = ("verify", "compare", "check the medium")


def title(view: JobView) -> str:
    """What the job does, and since when."""
    began = f", begun at {view.started:%H:%M}" if view.started else ""
    return shown(_KINDS.get(view.kind, f"{view.kind} {{}}").format(view.what)) + began


def phase(view: JobView) -> str:
    """What it is at."""
    if view.asks:
        return "It waits for its plan to be agreed to, on the screen that shows the plan."
    if view.stuck:
        return (
            "It does not end, because a device does not answer: it ends when that does, or is unplugged. "
            "This screen can be left."
        )
    if view.stopping:
        return "It is being stopped at once ..."
    words = ""
    if view.progress is not None:
        name = view.progress.phase
        words = _PHASES.get(name, name[:1].upper() + name[1:])
        if name == "verify":
            words = "Reading the stored image and checking it"
            if view.kind in _WRITES_TARGET:
                words = "Reading back what was written, to be sure"
    if view.cancelling:
        return f"It was told to stop, and does at its next safe point. Until then: {words[:1].lower()}{words[1:]} ..."
    return f"{words} ..." if words else "Beginning ..."


def amount(now: ProgressSnapshot | None, bytes_per_second: float) -> str:
    """How much is done, how much and how long there is to go."""
    if now is None or not now.total_bytes:
        return "How long this step takes cannot be told."
    left = max(0, now.total_bytes - now.done_bytes)
    words = f"{100 * (now.ratio or 0):.0f} %  {format_bytes(now.done_bytes)} of {format_bytes(now.total_bytes)}, "
    words += f"{format_bytes(left)} to go"
    if left and now.stalled_seconds < STALLED_SECONDS:
        mean = now.bytes_per_second
        rate = (mean + bytes_per_second) / 2 if bytes_per_second else mean
        words += f", about {format_seconds(left / rate)} left" if rate else ""
    return words


def stored(counters: dict[str, int]) -> str:
    """Deduplication and compression so far; empty where nothing is stored."""
    new, known, kept = (counters.get(name, 0) for name in ("new_bytes", "known_bytes", "stored_bytes"))
    if not new and not known:
        return ""
    words = f"New: {format_bytes(new)}"
    if kept and new:
        words += f", stored in {format_bytes(kept)} so far"
    return f"{words}. Known already, not stored again: {format_bytes(known)}."


def stall(view: JobView) -> str:
    """What is waited for, once that is long; empty as long as it goes on."""
    now = view.progress
    if view.silent_seconds >= SILENT_SECONDS:
        return f"Nothing was heard of it for {view.silent_seconds:.0f} seconds. It still runs, but does not answer."
    if now is None or view.asks or now.stalled_seconds < STALLED_SECONDS:
        return ""
    return (
        f"Nothing has come forward for {now.stalled_seconds:.0f} seconds. It waits for {_waited_for(view.kind, now)}."
    )


def _waited_for(kind: str, now: ProgressSnapshot) -> str:
    if now.waits_for is Side.PROCESSOR:
        return "this machine's processor: it is still calculating"
    if now.waits_for is Side.SOURCE:
        name = "the disk with the images" if kind in ("restore", "verify") else "the disk that is read"
    else:
        name = "the disk that is overwritten" if kind in _WRITES_TARGET else "the disk that is stored on"
    if now.waits_for is Side.SOURCE or now.phase in _READS_BACK:
        return f"{name}: it was asked for data and has not answered yet"
    return f"{name}: it was given data and has not taken it in yet"


def troubles(view: JobView) -> list[str]:
    """What went wrong so far, oldest first."""
    lost = view.counters.get("unreadable_bytes", 0)
    put_off = view.counters.get("put_off_bytes", 0)
    found = [f"{format_bytes(lost)} could not be read so far. The rest is read all the same."] if lost else []
    if put_off:
        found.append(
            f"{format_bytes(put_off)} lie around places that are hard to read: they are tried when all else is read."
        )
    found += [_sentence(text) for text in (*view.warnings, *view.log)]
    return found + [_sentence(error.message) for error in view.errors]


def can_finish(view: JobView) -> bool:
    """Whether it can end early with an image of what was read: it is at places that cannot be read easily."""
    return view.kind == "capture" and not view.asks and view.counters.get("put_off_bytes", 0) > 0


def if_cancelled(view: JobView) -> str:
    """In what state things are left by stopping now."""
    if view.asks:
        return "The plan was not agreed to yet: nothing was written, and nothing will be."
    name = view.progress.phase if view.progress is not None else ""
    if view.kind == "capture" and view.counters.get("interim_images"):
        return (
            "An incomplete system image of what was read until some minutes ago is kept in the repository: it can be "
            "completed later. The disk that is read is not changed in any case."
        )
    if view.kind == "capture":
        return (
            "No system image is made of this run. What was stored until then stays in the repository, and the next "
            "capture of this disk goes on from there. The disk that is read is not changed in any case."
        )
    if view.kind == "verify":
        return "A check changes nothing. What was not checked yet stays unchecked."
    if view.kind in ("copy", "salvage"):
        return "The files that were copied until then stay where they are. The disk that is read is not changed."
    if view.kind == "forget":
        return (
            "What was forgotten until then stays forgotten. The space that only it used may not be free yet: that is "
            "made up for the next time that something is forgotten."
        )
    if name in ("starting", "compare", "map", "predict", "finding the used areas"):
        return "Nothing was written yet: the disk stays as it was."
    if name == "verify":
        return "Everything was written. What was not read back yet stays unchecked."
    return (
        "The disk is partly written: it holds neither its old nor its new content, and cannot be used before it is "
        "written again. That can go on from where it stopped."
    )


def headline(view: JobView) -> str:
    """How it came out, in a sentence."""
    outcome = outcome_of(view)
    names = {
        "capture": ("The system image was made.", "A system image was made, but it is incomplete."),
        "restore": ("All of it was restored.", "It was restored, but not everything is well."),
        "clone": ("The copy was made.", "The copy was made, but not everything is well."),
        "verify": ("The system image is in order.", "The check ended, but not everything is well."),
        "copy": ("All of the files were copied.", "Files were copied, but not all of them, or not all of them whole."),
        "salvage": ("All files that were found are whole.", "Files were saved. Not all is whole: read below."),
        "forget": ("It was forgotten.", "It was forgotten, but not everything is well."),
    }
    done, incomplete = names.get(view.kind, ("Done.", "Done, but not everything is well."))
    match outcome:
        case "done":
            return done
        case "incomplete":
            return incomplete
        case "cancelled":
            return "It was stopped before its end."
        case "died":
            return "It was ended from outside, before it could finish."
    if view.kind == "verify" and view.summary is not None:
        return "The system image is NOT in order."
    if view.kind == "capture" and view.summary is not None:
        return "A system image was made, but it did not pass its audit."
    return "It did not work."


def details(view: JobView) -> Iterator[str]:
    """What was done, what is wrong, what to do next; a paragraph each."""
    outcome = outcome_of(view)
    if outcome == "died":
        yield _left_by_death(view)
        yield (
            "Memory may have run out, or somebody ended it. Look into the kernel's messages (the command dmesg), and "
            "begin it again."
        )
    for error in view.errors:
        hint = plain_hint(error.hint)
        yield _sentence(error.message) + (f"\n{hint}" if hint else "")
    if view.summary is not None:
        yield from _summary(view.kind, view.summary)
    if view.kind == "capture" and outcome == "incomplete":
        yield from _lost(view.summary or {})
        yield (
            "In the image, zeros stand for what could not be read. Copy what matters soon: a disk with unreadable "
            "areas will fail altogether. To try once more what is missing, capture it again into the same repository: "
            "you are asked whether this image is to be completed."
        )
    if view.kind == "capture" and outcome == "done":
        yield (
            "Next, if you have the time: Verify reads the stored image once more and checks every byte of it. Audit "
            "does that, and also looks whether everything that its filesystems need is in it."
        )
    if view.kind in _WRITES_TARGET and outcome == "done":
        yield "If this machine was started from a stick or disc with this program, take that out before you restart it."
    if view.warnings:
        yield "\n".join(f"Note: {_sentence(text)}" for text in view.warnings)


def _lost(summary: dict[str, Any]) -> Iterator[str]:
    """Whose the bytes are that could not be read."""
    for disk, partitions in summary.get("lost", {}).items():
        for lost in partitions:
            where = f"partition {lost['partition']} of {disk}" if lost["partition"] else disk
            files = [f"{file['name']}: {format_bytes(file['lost_bytes'])}" for file in lost["files"]]
            more = lost["more"] + max(0, len(files) - _NAMED_FILES)
            words = [f"Lost of {where}:", *files[:_NAMED_FILES]]
            words += [f"and {more} more files."] if more else []
            words += [f"The filesystem's own: {format_bytes(lost['own_bytes'])}"] if lost["own_bytes"] else []
            words += [f"Free space, which is no loss: {format_bytes(lost['free_bytes'])}"] if lost["free_bytes"] else []
            words += [f"Cannot be looked at any more: {name}" for name in lost["unfollowed"][:_NAMED_FILES]]
            words += [_sentence(f"not all can be said: {lost['untold']}")] if lost["untold"] else []
            yield "\n".join(shown(line) for line in words)


def _left_by_death(view: JobView) -> str:
    kind = view.kind
    if kind == "capture" and view.counters.get("interim_images"):
        return (
            "An incomplete system image of what was read until some minutes before is kept in the repository: it can "
            "be completed. The disk that was read is not changed."
        )
    if kind == "capture":
        return (
            "No system image was made of this run. The repository is in order: what was stored until then is found by "
            "the next capture, which goes on from there. The disk that was read is not changed."
        )
    if kind in _WRITES_TARGET:
        return (
            "The disk may be partly written: it may hold neither its old nor its new content. Do not use it before "
            "it is written again."
        )
    if kind in ("copy", "salvage"):
        return (
            "The files that were copied until then are there; the last one may be incomplete. The disk that was read "
            "is not changed."
        )
    if kind == "forget":
        return (
            "What was to be forgotten may be forgotten or still be there, and its space may not be free yet. All other "
            "images are as they were."
        )
    return "Nothing was changed."


def _summary(kind: str, summary: dict[str, Any]) -> Iterator[str]:
    def size(name: str) -> str:
        value = summary.get(name)
        return format_bytes(value if isinstance(value, int) else 0)

    if kind == "capture":
        yield (
            f"System image {str(summary.get('snapshot_id', ''))[:8]}: {size('used_bytes')} in use were read, "
            f"{size('new_bytes')} of it new, stored in {size('stored_bytes')}."
        )
        if summary.get("unreadable_bytes"):
            yield f"{size('unreadable_bytes')} could not be read."
        if summary.get("verified"):
            yield "What was stored was read back from the medium and is right."
        else:
            yield "What was stored was NOT read back."
    elif kind in _WRITES_TARGET:
        kept = f"; {size('kept_bytes')} were there already" if summary.get("kept_bytes") else ""
        checked = "and read back: it is right" if summary.get("verified") else "and was NOT read back"
        yield f"{size('written_bytes')} were written{kept}, {checked}."
        for name, words in (
            ("damaged", "Not as it was: {} of zeros, because the repository is damaged there"),
            ("unreadable", "Not as it was: {} of zeros, because the disk could not be read there when it was saved"),
        ):
            if summary.get(name):
                areas = counted(len(summary[name]), "area")
                yield f"{words.format(areas)}. Check its filesystems before you use it."
        if summary.get("stale_table"):
            yield "The system still sees the old partitions: restart, or unplug the disk and plug it in again."
        boot = summary.get("boot")
        if isinstance(boot, dict):
            yield from (_sentence(str(text)) for name in ("sentences", "findings") for text in boot.get(name, ()))
    elif kind == "verify":
        yield (
            f"Read whole: {counted(summary.get('packs', 0), 'file')} of the repository ({size('pack_bytes')}). "
            f"Checked: {counted(summary.get('blobs', 0), 'piece')} of the image."
        )
        problems, damages = summary.get("pack_problems") or [], summary.get("damages") or []
        if summary.get("unreadable_bytes"):
            yield (
                f"The image is incomplete: {size('unreadable_bytes')} could not be read from the disk when it was "
                "made; zeros stand for that in it. What is checked here is what is stored."
            )
        if damages:
            yield f"Damaged: {counted(len(damages), 'area')} of its disks. The rest can be restored."
        if problems:
            yield "\n".join(_sentence(str(text)) for text in problems[:5])
    elif kind == "forget":
        yield f"{size('freed_bytes')} came free. The repository holds {size('remaining_bytes')} now."
    elif kind == "salvage":
        yield from _salvaged(summary)
    elif kind == "copy":
        target = shown(str(summary.get("target")))
        if not summary.get("files"):
            yield "There was no file in what was marked."
        yield f"Copied to {target}: {counted(summary.get('files', 0), 'file')}, {size('copied_bytes')}."
        if summary.get("unreadable_bytes"):
            yield f"{size('unreadable_bytes')} could not be read; zeros stand for that in the copies."
        found = [f"{one['path']}: {one['problem']}" for one in summary.get("problems", ())]
        yield "\n".join(shown(line) for line in found[:_NAMED_FILES])
        if len(found) > _NAMED_FILES:
            yield f"And {summary['problem_count'] - _NAMED_FILES} more; 'What it said' lists them."
    audit = summary.get("audit")
    if isinstance(audit, dict):
        yield (
            "The audit found nothing that is missing."
            if audit.get("passed")
            else "The image lacks what its filesystems need, says the audit. Keep the source until an image passes."
        )


def _salvaged(summary: dict[str, Any]) -> Iterator[str]:
    """What was saved of each part of the disk, and what is not whole."""
    counts = {name: int(summary.get(name, 0)) for name in ("found", "whole", "damaged", "lost", "saved_bytes")}
    yield (
        f"Found: {counted(counts['found'], 'file')}. Whole: {counts['whole']}. Damaged: {counts['damaged']}. "
        f"Lost: {counts['lost']}. {format_bytes(counts['saved_bytes'])} were saved to {summary.get('target')}."
    )
    for volume in summary.get("volumes", ()):
        name = " ".join(word for word in (volume["name"], volume["kind"], volume["label"]) if word)
        told = [*volume["findings"], *volume["notes"]] or ["Nothing is wrong with it."]
        yield "\n".join([f"{name[:1].upper()}{name[1:]}:", *told])
    yield from (_sentence(text) for text in (*summary.get("findings", ()), *summary.get("notes", ())))
    troubles = summary.get("not_whole", ())
    if troubles:
        lines = [f"{one['state']}: {one['path']}" for one in troubles[:_NAMED_FILES]]
        more = "salvage-report.html there names all of them, with what is wrong."
        yield "\n".join(shown(line) for line in [*lines, more])


def _sentence(text: str) -> str:
    text = shown(text.strip())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ":")) else ".")


def battery_words(level: str) -> str:
    """What to do about a machine that runs on its battery; ``level``: how full it is, empty when that is not told."""
    filled = f" ({level} full)" if level else ""
    return f"This machine runs on its battery{filled}. Connect it to power before it is empty."


def plain_hint(hint: str) -> str:
    """What to do next, without the sentences that name commands to be typed at a prompt."""
    sentences = re.split(r"(?<=[.;]) ", shown(hint))
    return " ".join(sentence for sentence in sentences if not _COMMAND.search(sentence))
