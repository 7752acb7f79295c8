"""What ``recovery salvage`` and ``scan`` do and say; imported when they are asked for, as it takes its time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recovery.cli.output import Output
from recovery.devices.disk import Disk, disk_for
from recovery.devices.usage import System
from recovery.errors import Cancelled, ExitCode
from recovery.inventory import shown
from recovery.progress import Progress
from recovery.salvage.choose import Choice
from recovery.salvage.entry import Form
from recovery.salvage.medium import opened
from recovery.salvage.report import JSON_NAME as REPORT_JSON
from recovery.salvage.report import PAGE_NAME as REPORT_PAGE
from recovery.salvage.report import in_words, sums
from recovery.salvage.save import salvage
from recovery.salvage.scan import Proposal, scan
from recovery.salvage.volumes import find_volumes
from recovery.units import counted, format_bytes

if TYPE_CHECKING:
    from recovery.cli.requests import SalvageRequest

_SHOWN, _LINES_AT_ONCE = 50, 500


def salvage_files(request: SalvageRequest, output: Output, progress: Progress) -> ExitCode:
    """Save what can be had, or list it, and tell what cannot."""
    request = _of_disk(request)
    disk = disk_for(request.source)
    for use in disk.in_use:
        output.warn(f"{disk.path} is in use ({use}): what changes while it is read may look damaged")
    choice = Choice(request.patterns, request.kinds)
    if request.target is None:
        return _list(disk, choice, request, output, progress)
    with output.work(progress):
        try:
            done = salvage(disk, request.target, choice, progress, request.partitions, search=request.search)
        except Cancelled as stopped:
            stopped.hint = f"What was saved until now is in {shown(str(request.target))}; the last may be cut off."
            raise
    output.event(
        "summary",
        **done.tally.as_document(),
        volumes=done.volumes,
        findings=done.findings,
        notes=done.notes,
        not_whole=[trouble.as_document() for trouble in done.troubles],
        target=str(request.target),
    )
    output.say(f"Saved to {request.target}.")
    for volume in done.volumes:
        label = f" {volume['label']}" if volume["label"] else ""
        output.say(f"  {volume['name']}: {volume['kind'] or 'not recognised'}{label}")
        for sentence in (*volume["findings"], *volume["notes"]):
            output.say(f"    {sentence}")
    for trouble in done.troubles[:_SHOWN]:
        output.say(f"  {trouble.state}: {trouble.path}: {in_words(trouble)}")
    if len(done.troubles) > _SHOWN:
        output.say(f"  and more, all of which {REPORT_PAGE} and {REPORT_JSON} there name")
    for sentence in (*sums(done.tally), *done.findings, *done.notes):
        output.say(sentence)
    return ExitCode.DONE if done.complete else ExitCode.INCOMPLETE


def _of_disk(request: SalvageRequest) -> SalvageRequest:
    """The same, of the disk, where a partition was named."""
    try:
        place = request.source.resolve(strict=True)
    except (OSError, RuntimeError):
        return request  # looking for the disk tells why
    system = System()
    number = system.partition_number(place.name) if place.parent == Path("/dev") else None
    if number is None:
        return request
    return replace(request, source=place.with_name(system.whole_disk(place.name)), partitions=frozenset({number}))


def _list(disk: Disk, choice: Choice, request: SalvageRequest, output: Output, progress: Progress) -> ExitCode:
    """Everything that is found, a line each, without reading what is in it."""
    whole = True
    lines: list[str] = []
    with opened(disk.place, disk.size_bytes, disk.logical_sector_bytes, progress) as medium:
        found = find_volumes(disk, medium, progress, search=request.search)
        for volume in found.volumes:
            if request.partitions is not None and volume.number not in request.partitions:
                continue
            findings = [volume.problem] if volume.filesystem is None else volume.filesystem.findings
            output.event("volume", name=volume.name, filesystem=volume.kind, label=volume.label)
            output.say(f"{volume.name}: {volume.kind or 'not recognised'} {volume.label}".rstrip())
            for entry in volume.filesystem.walk() if volume.filesystem is not None else ():
                progress.check()
                path = entry.path.decode("utf-8", errors="backslashreplace")
                if not choice.wants(path, is_folder=entry.form is Form.FOLDER):
                    continue
                state = "lost" if entry.lost else "damaged" if entry.problem else ""
                whole = whole and not state
                output.event(
                    "file", path=path, form=entry.form, size_bytes=entry.size_bytes, state=state, problem=entry.problem
                )
                lines.append(f"{entry.size_bytes:>14,} {state:<8}{path}{'/' if entry.form is Form.FOLDER else ''}")
                if len(lines) >= _LINES_AT_ONCE:
                    output.lines(lines)
            output.lines(lines)
            whole = whole and not findings
            for sentence in (*findings, *(volume.filesystem.notes if volume.filesystem is not None else ())):
                output.say(f"  {sentence}")
    for sentence in (*found.findings, *found.notes):
        output.say(sentence)
    return ExitCode.DONE if whole and not found.findings else ExitCode.INCOMPLETE


def scan_disk(source: Path, output: Output, progress: Progress) -> ExitCode:
    """Every filesystem that a search of the whole disk finds, with what speaks for it."""
    disk = disk_for(source)
    with output.work(progress), opened(disk.place, disk.size_bytes, disk.logical_sector_bytes, progress) as medium:
        found = scan(medium, progress)
    output.event("summary", filesystems=[_proposal_document(proposal) for proposal in found])
    if not found:
        output.say(f"No filesystem was found on {disk.path}.")
    for number, proposal in enumerate(found, start=1):
        extent = proposal.extent
        output.say(
            f"{number}: {proposal.kind} {shown(proposal.label)}".rstrip()
            + f", {format_bytes(extent.length)} from byte {extent.offset} (sector {extent.offset // 512}) on"
        )
        output.say(f"   {counted(proposal.signs, 'sign')}: {'; '.join(proposal.evidence)}")
    if found:
        output.say("'recovery salvage SOURCE --search --to FOLDER' saves their files.")
    return ExitCode.DONE


def _proposal_document(proposal: Proposal) -> dict[str, object]:
    extent = proposal.extent
    return {
        "filesystem": proposal.kind,
        "label": proposal.label,
        "offset": extent.offset,
        "length": extent.length,
        "signs": proposal.signs,
        "evidence": list(proposal.evidence),
    }
