"""What a disk says of its own health; the only caller of smartctl.

Disks count what went wrong in them (SMART).  The counters that tell a dying disk from an old one are few: sectors that
cannot be read and wait to be replaced, sectors that were replaced, errors that reached the computer.

Source: the manual page of smartctl ("EXIT STATUS", a bit mask in which most bits are findings, not failures) and what
``smartctl --json`` writes for ATA, NVMe and SCSI disks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from recovery.command import run
from recovery.devices.disk import Disk

Kind = Literal["ATA", "NVMe", "SCSI", ""]

_SECONDS = 30.0
_REALLOCATED, _PENDING, _UNCORRECTABLE, _TRANSFER_ERRORS = 5, 197, 198, 199
#: A disk that had to replace so many sectors goes on so.
_MANY_REALLOCATED = 100
_HOT_CELSIUS, _HOURS_OF_A_YEAR = 65, 8766
#: NVMe's critical warnings (NVM Express base specification, "SMART / Health Information").
_SPARE_LOW, _TOO_HOT, _UNRELIABLE, _WRITES_REFUSED = 0x1, 0x2, 0x4, 0x8

NOTHING_TOLD = "This disk tells nothing of its health."
SWITCHED_OFF = "Its account of its own errors (SMART) is switched off."


class Health(msgspec.Struct, frozen=True):
    """What a disk says of its health; None is what it does not say.

    ``passed`` is its own verdict.  ``uncorrectable_sectors`` could not be read when the disk tried by itself,
    ``media_errors`` are data that it could not give back, ``transfer_errors`` damage between disk and computer.
    ``percentage_used`` of the life that its maker expects.  ``dying``: it loses data or is about to.
    ``sentences`` say it for a person, the worst first.
    """

    kind: Kind = ""
    passed: bool | None = None
    temperature_celsius: int | None = None
    power_on_hours: int | None = None
    reallocated_sectors: int | None = None
    pending_sectors: int | None = None
    uncorrectable_sectors: int | None = None
    media_errors: int | None = None
    transfer_errors: int | None = None
    percentage_used: int | None = None
    dying: bool = False
    sentences: tuple[str, ...] = (NOTHING_TOLD,)


def health(disk: Disk) -> Health:
    """What ``disk`` says of its health; of one that says nothing, and of an image file, a Health of that sentence.

    May wake a sleeping disk.  Raises ProgramMissing, and DeviceError when it does not answer within 30 s.
    """
    if disk.is_image_file:
        return Health(sentences=("An image file has no health of its own.",))
    told = _ask(disk)
    if disk.transport == "usb" and not told.kind:
        told = _ask(disk, "--device=sat")  # an adapter that smartctl does not know: most speak this
    return told


def read_health(document: bytes) -> Health:
    """What a document of ``smartctl --json --all`` comes to; one that makes no sense says nothing."""
    try:
        said = msgspec.json.decode(document, type=_Document, strict=False)
    except msgspec.MsgspecError:
        return Health()
    kind = said.device.protocol
    numbers = _ata(said) if kind == "ATA" else _nvme(said) if kind == "NVMe" else _scsi(said) if kind == "SCSI" else {}
    passed = said.smart_status.passed
    known: Kind = kind if kind in ("ATA", "NVMe", "SCSI") else ""  # type: ignore[assignment]
    found = Health(
        kind=known,
        passed=passed,
        temperature_celsius=said.temperature.current or None,
        power_on_hours=said.power_on_time.hours,
        sentences=(),
    )
    found = msgspec.structs.replace(found, **numbers)
    warnings = said.nvme_smart_health_information_log.critical_warning
    worst = tuple(_worst(found, warnings))
    off = (SWITCHED_OFF,) if said.smart_support.enabled is False else ()
    sentences = (*worst, *off, *_rest(found, bool(worst), warnings))
    return msgspec.structs.replace(found, dying=bool(worst), sentences=sentences or (NOTHING_TOLD,))


def _ask(disk: Disk, *options: str) -> Health:
    ended = run(
        ["smartctl", "--json", "--all", *options, disk.place],
        needed_for=f"asking {disk.path} for its health",
        timeout_seconds=_SECONDS,
        check=False,
    )
    return read_health(ended.stdout)


def _worst(found: Health, warnings: int) -> Iterator[str]:
    """What only a disk that loses data says."""
    if found.passed is False:
        yield "The disk itself says that it is failing."
    if found.pending_sectors:
        yield f"{_sectors(found.pending_sectors)} could not be read and {_wait(found.pending_sectors)} to be replaced."
    if found.uncorrectable_sectors:
        yield f"{_sectors(found.uncorrectable_sectors)} could not be read when the disk checked itself."
    if found.media_errors:
        times = "once" if found.media_errors == 1 else f"{found.media_errors:,} times"
        yield f"The disk could not give back what was stored on it, {times}."
    if (found.reallocated_sectors or 0) >= _MANY_REALLOCATED:
        yield f"{_sectors(found.reallocated_sectors or 0)} went bad and were replaced: that is many."
    if warnings & _SPARE_LOW:
        yield "It has hardly any spare memory left to replace what wears out."
    if warnings & _UNRELIABLE:
        yield "It says that it has become unreliable."
    if warnings & _WRITES_REFUSED:
        yield "It has become read-only: it accepts no writes any more."


def _rest(found: Health, bad: bool, warnings: int) -> Iterator[str]:
    reallocated = found.reallocated_sectors or 0
    if 0 < reallocated < _MANY_REALLOCATED:
        yield f"{_sectors(reallocated)} went bad and {'was' if reallocated == 1 else 'were'} replaced: watch this disk."
    if found.transfer_errors:
        times = "once" if found.transfer_errors == 1 else f"{found.transfer_errors:,} times"
        yield f"Data was damaged on its way between disk and computer, {times}: often that is the cable."
    if (found.percentage_used or 0) >= 100:
        yield "It has been written to more than its maker meant it to be."
    hot = found.temperature_celsius
    if hot is not None and (hot >= _HOT_CELSIUS or warnings & _TOO_HOT):
        yield f"It is too hot: {hot} degrees Celsius. Let it cool down."
    if found.passed and not bad:
        yield "The disk says that it is in order."
    if found.power_on_hours is not None:
        years = found.power_on_hours / _HOURS_OF_A_YEAR
        yield f"It has run for {found.power_on_hours:,} hours" + (f" ({years:.1f} years)." if years >= 1 else ".")


def _sectors(count: int) -> str:
    return "1 sector" if count == 1 else f"{count:,} sectors"


def _wait(count: int) -> str:
    return "waits" if count == 1 else "wait"


def _ata(said: _Document) -> dict[str, int | None]:
    counts = {line.id: _leading(line.raw.string) for line in said.ata_smart_attributes.table}
    return {
        "reallocated_sectors": counts.get(_REALLOCATED),
        "pending_sectors": counts.get(_PENDING),
        "uncorrectable_sectors": counts.get(_UNCORRECTABLE),
        "transfer_errors": counts.get(_TRANSFER_ERRORS),
        "percentage_used": said.endurance_used.current_percent,
    }


def _leading(text: str) -> int | None:
    """The count; behind it some makers keep other numbers, which ``raw.value`` has mixed up with it."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def _nvme(said: _Document) -> dict[str, int | None]:
    log = said.nvme_smart_health_information_log
    return {"media_errors": log.media_errors, "percentage_used": log.percentage_used}


def _scsi(said: _Document) -> dict[str, int | None]:
    counts = [page.total_uncorrected_errors for page in said.scsi_error_counter_log.values()]
    return {
        "reallocated_sectors": said.scsi_grown_defect_list,
        "pending_sectors": said.scsi_pending_defects.count,
        "media_errors": sum(count for count in counts if count) if counts else None,
        "percentage_used": said.scsi_percentage_used_endurance_indicator,
    }


# -- what of smartctl's document is of interest


class _Device(msgspec.Struct):
    protocol: str = ""


class _Status(msgspec.Struct):
    passed: bool | None = None


class _Support(msgspec.Struct):
    enabled: bool | None = None


class _Temperature(msgspec.Struct):
    current: int | None = None


class _PowerOn(msgspec.Struct):
    hours: int | None = None


class _Raw(msgspec.Struct):
    string: str = ""


class _Attribute(msgspec.Struct):
    id: int
    raw: _Raw = msgspec.field(default_factory=_Raw)


class _Attributes(msgspec.Struct):
    table: list[_Attribute] = []


class _NvmeLog(msgspec.Struct):
    critical_warning: int = 0
    media_errors: int | None = None
    percentage_used: int | None = None


class _Endurance(msgspec.Struct):
    current_percent: int | None = None


class _ErrorPage(msgspec.Struct):
    total_uncorrected_errors: int | None = None


class _Defects(msgspec.Struct):
    count: int | None = None


class _Document(msgspec.Struct):
    device: _Device = msgspec.field(default_factory=_Device)
    smart_status: _Status = msgspec.field(default_factory=_Status)
    smart_support: _Support = msgspec.field(default_factory=_Support)
    temperature: _Temperature = msgspec.field(default_factory=_Temperature)
    power_on_time: _PowerOn = msgspec.field(default_factory=_PowerOn)
    ata_smart_attributes: _Attributes = msgspec.field(default_factory=_Attributes)
    endurance_used: _Endurance = msgspec.field(default_factory=_Endurance)
    nvme_smart_health_information_log: _NvmeLog = msgspec.field(default_factory=_NvmeLog)
    scsi_grown_defect_list: int | None = None
    scsi_pending_defects: _Defects = msgspec.field(default_factory=_Defects)
    scsi_percentage_used_endurance_indicator: int | None = None
    scsi_error_counter_log: dict[str, _ErrorPage] = {}
