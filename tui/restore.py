"""Put a system image back onto a disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recovery.cli.requests import RestoreRequest
from recovery.cli.spawn import spawn
from recovery.devices.safety import members
from recovery.errors import ExitCode
from recovery.image.boot import has_boot_parts
from recovery.image.fit import misfit, misfit_of_partition
from recovery.image.manifest import ImageDisk, ImagePartition
from recovery.inventory import DiskReport, shown
from recovery.jobs.watching import Watcher
from recovery.units import format_bytes
from tui.images import StoredImage
from tui.job_view import JobView
from tui.journey import Journey, Step
from tui.screens.base import StepScreen
from tui.screens.finished import FinishedScreen
from tui.screens.images import ImagesScreen
from tui.screens.job import JobScreen
from tui.screens.overwrite import BreaksScreen, Options, Overwrite, OverwriteReview
from tui.screens.partition import WHOLE, ImageDiskScreen, PartScreen, TargetPartitionScreen, partition_words
from tui.screens.password import OpenRepository, password_screen
from tui.screens.place import Place, PlaceScreen
from tui.screens.place_entries import disk_of
from tui.screens.target import TargetScreen
from tui.widgets.disk_bar import Segment, segments, segments_of_image

if TYPE_CHECKING:
    from tui.app import RecoveryApp


class RestoreJourney(Journey):
    """Repository, image, disk, the whole or a part, target; review; the work; what to do next."""

    title = "Restore a machine"

    def __init__(
        self, app: RecoveryApp, *, opened: OpenRepository | None = None, image: StoredImage | None = None
    ) -> None:
        """``opened``, ``image``: known already, and not asked for."""
        super().__init__(app)
        self.place: Place | None = None
        self.opened, self.image = opened, image
        self._given = opened is not None, image is not None
        self.disk = ""
        self.part = ""
        self.target: DiskReport | None = None
        self.to_partition = ""
        self.options = Options()
        self.view: JobView | None = None
        self.done: tuple[str, ...] = ()
        self.again = False

    async def run(self) -> None:
        """One disk of the image after the other, for as long as the person wants the next."""
        await super().run()
        while self.again:
            self._given = True, True
            self.again, self.disk, self.part, self.target, self.to_partition = False, "", "", None, ""
            self.options, self.view = Options(), None
            await super().run()

    def steps(self) -> Sequence[Step]:
        """From the repository to the restored disk."""
        return [
            Step("Where from", self._place_screen, self._keep("place")),
            Step("Password", self._password_screen, self._keep("opened")),
            Step("Image", self._image_screen, self._keep_image),
            Step("Disk of the image", self._disk_screen, self._keep_disk),
            Step("Whole or part", lambda: PartScreen(self._record, chosen=self.part), self._keep("part")),
            Step("Onto which disk", self._target_screen, self._keep_target),
            Step("Partition", self._target_partition_screen, self._keep("to_partition")),
            Step("What breaks", self._breaks_screen, lambda accepted: None),
            Step("Review", self._review_screen, self._keep("view"), final=True),
            Step("Work", self._job_screen, lambda wanted: None, final=True),
            Step("Next", self._finished_screen, self._keep_next, final=True),
        ]

    # -- which image

    def _place_screen(self) -> StepScreen[Any] | None:
        return None if self._given[0] else PlaceScreen("read", chosen=self.place)

    def _password_screen(self) -> StepScreen[Any] | None:
        if self._given[0]:
            return None
        assert self.place is not None
        return password_screen(self.place, self.opened)

    def _image_screen(self) -> StepScreen[Any] | None:
        if self._given[1]:
            return None
        assert self.opened is not None
        return ImagesScreen(self.opened.repository, chosen=self.image.id if self.image else "")

    def _keep_image(self, image: StoredImage) -> None:
        if self.image is None or self.image.id != image.id:
            self.disk = self.part = self.to_partition = ""
        self.image = image

    def _disk_screen(self) -> StepScreen[Any] | None:
        assert self.image is not None
        assert self.image.manifest is not None
        if len(self.image.manifest.disks) == 1:
            self.disk = self.image.manifest.disks[0].name
            return None
        return ImageDiskScreen(self.image, chosen=self.disk, done=self.done)

    def _keep_disk(self, disk: str) -> None:
        if self.disk != disk:
            self.part = self.to_partition = ""
        self.disk = disk

    @property
    def _record(self) -> ImageDisk:
        assert self.image is not None
        assert self.image.manifest is not None
        return self.image.manifest.disk(self.disk)

    @property
    def _partition(self) -> ImagePartition | None:
        if self.part == WHOLE:
            return None
        return next(part for part in self._record.partitions if str(part.number) == self.part)

    # -- onto which disk

    def _target_screen(self) -> StepScreen[Any]:
        return TargetScreen(
            self._misfit,
            self._fit,
            repository=self.opened.folder if self.opened else None,
            chosen=self.target.disk.path if self.target else "",
        )

    def _misfit(self, report: DiskReport) -> str | None:
        record, part = self._record, self._partition
        if part is None:
            return misfit(report.disk, record.size_bytes, record.logical_sector_bytes)
        if not report.partitions:
            return "It has no partitions, and only one partition is to be restored."
        why = [
            misfit_of_partition(report.disk, found.entry, part.length, record.logical_sector_bytes)
            for found in report.partitions
        ]
        if None in why:
            return None
        return why[0] if len(why) == 1 else f"None of its partitions can take {format_bytes(part.length)}."

    def _fit(self, report: DiskReport) -> str:
        record, part = self._record, self._partition
        if part is None:
            return fit_words(record.size_bytes, report.disk.size_bytes)
        numbers = [
            str(found.entry.number)
            for found in report.partitions
            if misfit_of_partition(report.disk, found.entry, part.length, record.logical_sector_bytes) is None
        ]
        return f"Large enough: {'partition' if len(numbers) == 1 else 'partitions'} {', '.join(numbers)}."

    def _keep_target(self, target: DiskReport) -> None:
        if self.target is None or self.target.disk.path != target.disk.path:
            self.to_partition = ""
        self.target = target

    def _target_partition_screen(self) -> StepScreen[Any] | None:
        part = self._partition
        if part is None:
            return None
        assert self.target is not None
        return TargetPartitionScreen(self.target, part, self._record.logical_sector_bytes, chosen=self.to_partition)

    @property
    def _into(self) -> int | None:
        return int(self.to_partition) if self._partition is not None else None

    def _breaks_screen(self) -> StepScreen[Any] | None:
        assert self.target is not None
        breaks = breaks_of(self.target, self._into)
        return BreaksScreen(breaks) if breaks else None

    # -- the work

    def _review_screen(self) -> StepScreen[Any]:
        assert self.target is not None
        assert self.image is not None
        part = self._partition
        what = f"disk {self.disk}" if part is None else f"{partition_words(part)}, of disk {self.disk}"
        overwrite = Overwrite(
            self.target,
            self.app.machine.place(self.target.disk),
            self._becoming(self.target),
            shown(f"{what} of {self.image.machine}, {self.image.when}"),
            self._into,
            self._lacking(),
            self.app.machine.recorded,
            disk_of(self.place.device, self.app.reports or ()) if self.place is not None else None,
        )
        return OverwriteReview(self._spawn, overwrite, self.options, self._keep("options"))

    def _lacking(self) -> tuple[str, ...]:
        lost = self._record.unreadable_bytes
        if not lost:
            return ()
        what = f"{format_bytes(lost)} of disk {self.disk} could not be read when it was made"
        return (f"The image is incomplete: {what}. Zeros are written there.",)

    def _becoming(self, target: DiskReport) -> tuple[Segment, ...]:
        part = self._partition
        if part is None:
            return tuple(segments_of_image(self._record, target.disk.size_bytes))
        source = next(segment for segment in segments_of_image(self._record) if segment.number == part.number)
        return tuple(
            Segment(source.name, segment.length, source.used_bytes, number=segment.number)
            if segment.number == self._into
            else segment
            for segment in segments(target)
        )

    def _spawn(self) -> Watcher:
        assert self.opened is not None
        assert self.image is not None
        assert self.target is not None
        part = self._partition
        request = RestoreRequest(
            snapshot=self.image.id,
            target=self.app.machine.place(self.target.disk),
            disk=self.disk,
            partition=part.number if part else None,
            to_partition=self._into,
            partial=self.options.partial,
            differential=self.options.differential,
            break_members=bool(breaks_of(self.target, self._into)),
        )
        return spawn(request, self.opened.folder, self.opened.password)

    def _job_screen(self) -> StepScreen[Any]:
        assert self.view is not None
        return JobScreen(self.view)

    def _finished_screen(self) -> StepScreen[Any] | None:
        assert self.view is not None
        assert self.image is not None
        assert self.image.manifest is not None
        if self.view.exit_code not in (ExitCode.DONE, ExitCode.INCOMPLETE):
            return None
        self.done += (self.disk,) if self.part == WHOLE else ()
        remaining = tuple(disk.name for disk in self.image.manifest.disks if disk.name not in self.done)
        name = self.app.machine.place(self.target.disk).name if self.target else ""
        if self.part != WHOLE:
            remaining = ()
        return FinishedScreen(
            name,
            whole=self.part == WHOLE,
            starts=has_boot_parts(self._record.table),
            sound=self.view.exit_code == ExitCode.DONE,
            remaining=remaining,
        )

    def _keep_next(self, answer: str) -> None:
        self.again = answer == "next"


def fit_words(source_bytes: int, target_bytes: int) -> str:
    """How a disk fits onto one that is at least as large."""
    spare = target_bytes - source_bytes
    if not spare:
        return f"It fits: both hold {format_bytes(target_bytes)}."
    return (
        f"It fits: {format_bytes(source_bytes)} onto {format_bytes(target_bytes)}. {format_bytes(spare)} stay free at "
        "the end, and the last partition can grow into them afterwards."
    )


def breaks_of(target: DiskReport, partition: int | None = None) -> list[str]:
    """What else breaks when ``target``, or one partition of it, is overwritten; as it was when it was listed."""
    contents = {f"partition {part.entry.number}": part.content for part in target.partitions}
    if target.table is None:
        contents = {"the whole disk": target.content}
    if partition is not None:
        contents = {where: content for where, content in contents.items() if where == f"partition {partition}"}
    return members(target.disk, contents)
