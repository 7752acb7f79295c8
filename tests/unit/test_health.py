"""What is made of a disk's account of itself, in documents as smartctl writes them for each kind of disk."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from recovery.devices.health import NOTHING_TOLD, SWITCHED_OFF, Health, read_health


def _read(**document: Any) -> Health:
    return read_health(json.dumps({"json_format_version": [1, 0], **document}).encode())


def _attribute(number: int, name: str, raw: str, packed: int | None = None) -> dict[str, Any]:
    flags = {"value": 51, "string": "PO--CK ", "prefailure": True}
    value = packed if packed is not None else int(raw)
    line = {"id": number, "name": name, "value": 100, "worst": 100, "thresh": 10, "when_failed": "", "flags": flags}
    return {**line, "raw": {"value": value, "string": raw}}


def _ata(passed: bool, *attributes: dict[str, Any], **more: Any) -> Health:
    return _read(
        smartctl={"version": [7, 3], "exit_status": 0},
        device={"name": "/dev/sda", "info_name": "/dev/sda [SAT]", "type": "sat", "protocol": "ATA"},
        smart_support={"available": True, "enabled": True},
        smart_status={"passed": passed},
        ata_smart_attributes={"revision": 16, "table": list(attributes)},
        temperature={"current": 34},
        power_on_time={"hours": 20_000, "minutes": 12},
        **more,
    )


def test_a_sound_disk_is_in_order() -> None:
    found = _ata(
        True,
        _attribute(5, "Reallocated_Sector_Ct", "0"),
        _attribute(197, "Current_Pending_Sector", "0"),
        _attribute(198, "Offline_Uncorrectable", "0"),
        _attribute(199, "UDMA_CRC_Error_Count", "0"),
    )
    assert (found.kind, found.passed, found.dying) == ("ATA", True, False)
    assert (found.reallocated_sectors, found.pending_sectors, found.uncorrectable_sectors) == (0, 0, 0)
    assert (found.temperature_celsius, found.power_on_hours) == (34, 20_000)
    assert found.sentences == ("The disk says that it is in order.", "It has run for 20,000 hours (2.3 years).")


def test_sectors_that_wait_to_be_replaced_make_it_dying_whatever_the_disk_says_itself() -> None:
    found = _ata(
        True,
        _attribute(5, "Reallocated_Sector_Ct", "1975"),
        _attribute(197, "Current_Pending_Sector", "14"),
        _attribute(198, "Offline_Uncorrectable", "1"),
    )
    assert found.dying
    assert found.sentences == (
        "14 sectors could not be read and wait to be replaced.",
        "1 sector could not be read when the disk checked itself.",
        "1,975 sectors went bad and were replaced: that is many.",
        "It has run for 20,000 hours (2.3 years).",
    )


def test_the_verdict_of_the_disk_comes_first() -> None:
    found = _ata(False, _attribute(197, "Current_Pending_Sector", "1"))
    assert found.dying
    assert found.sentences[:2] == (
        "The disk itself says that it is failing.",
        "1 sector could not be read and waits to be replaced.",
    )


def test_a_few_replaced_sectors_and_a_bad_cable_are_told_but_it_is_not_dying() -> None:
    found = _ata(True, _attribute(5, "Reallocated_Sector_Ct", "8"), _attribute(199, "UDMA_CRC_Error_Count", "31"))
    assert not found.dying
    assert "8 sectors went bad and were replaced: watch this disk." in found.sentences
    assert (
        "Data was damaged on its way between disk and computer, 31 times: often that is the cable." in found.sentences
    )


def test_a_counter_that_its_maker_packed_with_others_is_read_by_its_first_number() -> None:
    packed = 1975 | 13 << 16 | 7 << 32
    assert _ata(True, _attribute(5, "Reallocated_Sector_Ct", "1975 (7 13)", packed)).reallocated_sectors == 1975


def _nvme(critical_warning: int, media_errors: int = 0, percentage_used: int = 3, celsius: int = 35) -> Health:
    return _read(
        smartctl={"version": [7, 3], "exit_status": 0},
        device={"name": "/dev/nvme0n1", "info_name": "/dev/nvme0n1", "type": "nvme", "protocol": "NVMe"},
        smart_status={"passed": not critical_warning, "nvme": {"value": critical_warning}},
        nvme_smart_health_information_log={
            "critical_warning": critical_warning,
            "temperature": celsius,
            "available_spare": 99,
            "available_spare_threshold": 10,
            "percentage_used": percentage_used,
            "data_units_written": 2**70,
            "media_errors": media_errors,
            "temperature_sensors": [celsius, celsius + 4],
        },
        temperature={"current": celsius},
        power_on_time={"hours": 127},
    )


def test_a_sound_nvme_disk_is_in_order() -> None:
    found = _nvme(0)
    assert (found.kind, found.passed, found.dying, found.percentage_used) == ("NVMe", True, False, 3)
    assert found.sentences == ("The disk says that it is in order.", "It has run for 127 hours.")


@pytest.mark.parametrize(
    ("warning", "sentence"),
    [
        (0x1, "It has hardly any spare memory left to replace what wears out."),
        (0x4, "It says that it has become unreliable."),
        (0x8, "It has become read-only: it accepts no writes any more."),
    ],
)
def test_the_critical_warnings_of_nvme_are_told(warning: int, sentence: str) -> None:
    found = _nvme(warning)
    assert found.dying
    assert sentence in found.sentences


def test_data_that_nvme_lost_make_it_dying() -> None:
    found = _nvme(0, media_errors=7)
    assert found.dying
    assert found.sentences[0] == "The disk could not give back what was stored on it, 7 times."
    assert "The disk says that it is in order." not in found.sentences


def test_a_worn_and_hot_disk_is_told_so_but_it_is_not_dying() -> None:
    found = _nvme(0, percentage_used=104, celsius=71)
    assert not found.dying
    assert "It has been written to more than its maker meant it to be." in found.sentences
    assert "It is too hot: 71 degrees Celsius. Let it cool down." in found.sentences


def test_a_scsi_disk_is_told_by_its_own_counters() -> None:
    page = {"total_errors_corrected": 300_357_663, "gigabytes_processed": "176987.332"}
    found = _read(
        device={"name": "/dev/sdg", "info_name": "/dev/sdg", "type": "scsi", "protocol": "SCSI"},
        smart_status={"passed": True},
        temperature={"current": 0, "drive_trip": 68},
        scsi_grown_defect_list=56,
        power_on_time={"hours": 43549, "minutes": 33},
        scsi_error_counter_log={
            "read": {**page, "total_uncorrected_errors": 2},
            "write": {**page, "total_uncorrected_errors": 1},
        },
    )
    assert (found.kind, found.reallocated_sectors, found.media_errors) == ("SCSI", 56, 3)
    assert found.temperature_celsius is None
    assert found.dying


def test_a_disk_whose_account_is_switched_off_is_told_so() -> None:
    device = {"name": "/dev/sda", "type": "sat", "protocol": "ATA"}
    found = _read(device=device, smart_support={"available": True, "enabled": False})
    assert found.passed is None
    assert found.sentences == (SWITCHED_OFF,)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"smart_status": "yes"}',
        b'{"device": {"protocol": "ATA"}, "ata_smart_attributes": {"table": [{"id": 5}]}}',
        b'{"smartctl": {"messages": [{"string": "Unable to detect device type", "severity": "error"}]}}',
    ],
)
def test_what_says_nothing_or_makes_no_sense_says_nothing(document: bytes) -> None:
    found = read_health(document)
    assert (found.passed, found.dying, found.sentences) == (None, False, (NOTHING_TOLD,))


def test_it_is_the_same_after_a_way_through_json() -> None:
    found = _nvme(0, media_errors=7)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Health) == found
