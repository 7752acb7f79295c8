"""What ``capture``, ``restore``, ``clone`` and ``verify`` do once it is said what is wanted; they run as jobs.

A request is a plain value, so that the command line and the interface start the same thing.  An operation says what
there is to say through an ``Output`` and gives the exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from recovery.cli.forgetting import forget_snapshots
from recovery.cli.output import Output
from recovery.cli.report import (
    audit_document,
    capture_document,
    restore_document,
    restore_plan_document,
    show_capture_plan,
    show_restore_plan,
    tell_audit,
    tell_capture,
    tell_restore,
    tell_verify,
    verify_document,
)
from recovery.cli.repository import open_image
from recovery.cli.requests import (
    CaptureRequest,
    CloneRequest,
    CopyRequest,
    ForgetRequest,
    Request,
    RestoreRequest,
    SalvageRequest,
    VerifyRequest,
)
from recovery.cli.salvage import copy_out
from recovery.devices.disk import check_chosen
from recovery.errors import Cancelled, DeviceError, ExitCode, RecoveryError, Refused, RepositoryDamaged
from recovery.image.boot import BootPlan, BootResult, plan_boot, settle_boot
from recovery.image.capture import CaptureOptions, capture
from recovery.image.capture_plan import CapturePlan, Choice, check_clock, check_space, plan_capture
from recovery.image.clone import clone
from recovery.image.continuing import plan_continued
from recovery.image.machine import this_machine
from recovery.image.manifest import ImageDisk, Machine
from recovery.image.restore import RestoreResult, restore
from recovery.image.restore_plan import RestorePlan, plan_clone, plan_restore
from recovery.image.verify import verify
from recovery.image.view import SystemImage
from recovery.inventory import shown
from recovery.progress import Progress
from recovery.repository.repository import Repository

if TYPE_CHECKING:
    from recovery.image.audit import AuditResult


def operation_of(
    request: Request, repository: Repository | None, password: str = ""
) -> Callable[[Output, Progress], ExitCode]:
    """What does it.  All but a clone and a copy take a repository, opened; to forget takes its password, for restic."""
    if isinstance(request, CloneRequest):
        return partial(clone_disk, request)
    if isinstance(request, CopyRequest):
        return partial(copy_out, request)
    if isinstance(request, SalvageRequest):
        from recovery.cli.salvaging import salvage_files

        return partial(salvage_files, request)
    assert repository is not None
    match request:
        case CaptureRequest():
            return partial(capture_disks, request, repository)
        case RestoreRequest():
            return partial(restore_disk, request, repository)
        case VerifyRequest():
            return partial(verify_image, request, repository)
        case ForgetRequest():
            return partial(forget_snapshots, request, repository, password)


def capture_disks(request: CaptureRequest, repository: Repository, output: Output, progress: Progress) -> ExitCode:
    """Plan, and unless it is a dry run, capture."""
    with output.work(progress) as work, repository.lock() as lock, ExitStack() as held:
        for problem in repository.load_index(present_only=True):
            output.warn(problem)
        if request.clock_check:
            check_clock(repository)
        plan = _plan_capture(request, repository, progress, held)
        if request.chosen:
            for chosen, planned in zip(request.chosen, plan.disks, strict=True):
                check_chosen(chosen, planned.disk)
        with work.paused():
            show_capture_plan(output, plan, repository.store)
        if request.space_check:
            check_space(plan, repository.store)
        if request.dry_run:
            return ExitCode.DONE
        if request.review:
            with work.paused():
                request = _agreed(request, output, progress)
        options = CaptureOptions(
            level=request.level,
            verify=request.verify,
            chunk_bytes=request.chunk_bytes,
            hostname=request.hostname,
            tags=request.tags,
            patience_seconds=request.patience_seconds,
            interim_seconds=request.interim_seconds,
        )
        try:
            result = capture(repository, lock, plan, progress, options)
        except Cancelled as stopped:
            goes_on = "What was stored until now is kept: the next capture of this disk goes on from there."
            stopped.hint = stopped.hint or goes_on
            raise
        audited = _audit_new(repository, result.snapshot_id, progress) if request.audit else None
    output.event("summary", **capture_document(result), audit=audit_document(audited))
    tell_capture(output, result)
    if audited is not None:
        tell_audit(output, audited)
        if not audited.passed:
            return ExitCode.REPOSITORY_DAMAGED
    return ExitCode.DONE if result.complete else ExitCode.INCOMPLETE


def _plan_capture(request: CaptureRequest, repository: Repository, progress: Progress, held: ExitStack) -> CapturePlan:
    if request.continues:
        return plan_continued(request.sources, repository, progress, held)
    return plan_capture(
        request.sources,
        repository,
        progress,
        held,
        choice=Choice(request.only, request.without),
        chunk_bytes=request.chunk_bytes,
        machine_uuid=this_machine().uuid,
        level=request.level,
    )


def _agreed(request: CaptureRequest, output: Output, progress: Progress) -> CaptureRequest:
    """Have the plan agreed to; the request as it is then.  Raises Cancelled, or Refused where nobody can be asked."""
    progress.check()
    if not output.can_ask:
        raise Refused("the plan was not agreed to, and there is nobody to ask", "Capture without a review.")
    yes, *wishes = output.ask("Start the capture? Type yes: ").split() or [""]
    chosen = {"verify": request.verify, "audit": request.audit}
    chosen |= {wish.removeprefix("no-"): not wish.startswith("no-") for wish in wishes}
    if yes != "yes" or len(chosen) > 2:
        raise Cancelled("not agreed to; no image was made", "Nothing was stored.")
    return replace(request, verify=chosen["verify"], audit=chosen["audit"])


def _audit_new(repository: Repository, snapshot: str, progress: Progress) -> AuditResult:
    """Audit what was captured just now.  Raises what ``audit`` raises; the image stays whatever it is."""
    try:
        return _audit(SystemImage(repository, repository.find_snapshot(snapshot)), progress)
    except RecoveryError as error:
        error.hint = f"The system image {snapshot[:8]} was captured all the same. {error.hint}".rstrip()
        raise


def restore_disk(request: RestoreRequest, repository: Repository, output: Output, progress: Progress) -> ExitCode:
    """Plan, show it, have it confirmed, and restore."""
    with _shared_lock(repository, output) as settle:
        whole = open_image(repository, request.snapshot, output)
        image = whole.disk(request.disk)
        plan = plan_restore(
            image,
            request.target,
            repository=repository.store.root,
            partition=request.partition,
            to_partition=request.to_partition,
            accept_breaks=request.break_members,
            partial=request.partial,
        )
        missing = image.missing(plan.source)
        if missing and not request.partial:
            raise RepositoryDamaged(
                f"the repository lacks {len(missing)} chunks of this image, the first because {missing[0]}; "
                f"{request.target} is untouched",
                "'recovery verify' says what is hit; --partial writes the rest and zeros there.",
            )
        boot = _plan_boot(request, whole.manifest.machine, image.record, plan)
        show_restore_plan(output, plan, image.record, boot)
        output.event("plan", **restore_plan_document(plan, boot))
        if request.dry_run:
            return ExitCode.DONE
        _confirm(output, plan, progress, request.confirmed)
        settle()
        with output.work(progress):
            result = restore(
                image,
                plan,
                progress,
                verify=request.verify,
                partial=request.partial,
                differential=request.differential,
            )
            settled = settle_boot(boot)
    return _tell_restored(output, plan, result, settled)


def clone_disk(request: CloneRequest, output: Output, progress: Progress) -> ExitCode:
    """Plan, show it, have it confirmed, and clone."""
    with ExitStack() as held:
        with output.work(progress):
            planned = plan_capture([request.source], None, progress, held).disks[0]
            if request.chosen is not None:
                check_chosen(request.chosen, planned.disk)
            plan = plan_clone(planned, request.target, accept_breaks=request.break_members)
        boot = _plan_boot(request, this_machine(), planned.record, plan)
        show_restore_plan(output, plan, planned.record, boot)
        output.event("plan", **restore_plan_document(plan, boot))
        if request.dry_run:
            return ExitCode.DONE
        _confirm(output, plan, progress, request.confirmed)
        with output.work(progress):
            result = clone(planned, plan, progress, verify=request.verify, differential=request.differential)
            settled = settle_boot(boot)
    return _tell_restored(output, plan, result, settled)


def _plan_boot(
    request: RestoreRequest | CloneRequest, machine: Machine, record: ImageDisk, plan: RestorePlan
) -> BootPlan:
    if plan.partition is not None:
        return BootPlan(plan.target)
    return plan_boot(machine, record, plan.target, write_entries=request.boot_entry, fallback=request.fallback_loader)


def _tell_restored(output: Output, plan: RestorePlan, result: RestoreResult, settled: BootResult) -> ExitCode:
    output.event("summary", **restore_document(result, settled))
    tell_restore(output, plan, result)
    for sentence in settled.sentences:
        output.say(sentence)
    for finding in settled.findings:
        output.warn(finding)
    return ExitCode.DONE if result.complete and not settled.findings else ExitCode.INCOMPLETE


def verify_image(request: VerifyRequest, repository: Repository, output: Output, progress: Progress) -> ExitCode:
    """Check an image."""
    with _shared_lock(repository, output) as settle:
        image = open_image(repository, request.snapshot, output)
        settle()
        with output.work(progress):
            result = verify(image, progress)
            # Of a damaged image an audit could not tell what was left out from what was lost.
            audited = _audit(image, progress) if request.audit and result.sound else None
    output.event("summary", **verify_document(image, result), audit=audit_document(audited))
    tell_verify(output, image, result)
    if audited is not None:
        tell_audit(output, audited)
    elif request.audit:
        output.say("It was not audited, because it is damaged.")
    passed = result.sound and (audited is None or audited.passed)
    return ExitCode.DONE if passed else ExitCode.REPOSITORY_DAMAGED


@contextmanager
def _shared_lock(repository: Repository, output: Output) -> Iterator[Callable[[], None]]:
    """A reader's lock, and what to call before the long work begins.

    A repository on a read-only medium is read without one: nothing can change it there.
    """
    with ExitStack() as held:
        try:
            lock = held.enter_context(repository.lock())
        except DeviceError as error:
            output.warn(f"the repository cannot be locked, and is read as it is: {error.message}")
            yield lambda: None
            return
        yield lock.settle


def _confirm(output: Output, plan: RestorePlan, progress: Progress, confirmed: bool) -> None:
    """Have the target's short name typed.  Raises Cancelled, or Refused where nobody can be asked."""
    untouched = f"{plan.target.path} is untouched"
    try:
        progress.check()
    except Cancelled as stopped:
        raise Cancelled(f"stopped as asked; {untouched}", "Nothing was written.") from stopped
    if confirmed:
        return
    if not output.can_ask:
        raise Refused("the plan was not confirmed, and there is nobody to ask", "Say --yes when the plan is right.")
    name = plan.target.short_name
    answer = output.ask(f"Type {shown(name)} to overwrite it, anything else to stop: ").strip()
    if answer not in (name, shown(name)):  # what cannot be typed is typed as it is shown
        raise Cancelled(f"not confirmed; {untouched}", "Nothing was written.")


def _audit(image: SystemImage, progress: Progress) -> AuditResult:
    from recovery.image.audit import audit  # a tenth of a second at every start, and few ask for it

    return audit(image, progress)
