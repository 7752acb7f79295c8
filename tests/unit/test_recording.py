"""Recordings: what ships is right, and what is wrong in one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recovery.errors import UsageError
from tui.recorded_format import find_recording, load_recording

SHIPPED = ("laptop", "server", "dying-disk")


def minimal() -> dict[str, Any]:
    return {
        "about": "",
        "machine": {},
        "disks": [
            {"name": "sda", "size_bytes": 1 << 30, "table": "gpt", "partitions": [{"type": "L", "size_bytes": 1 << 20}]}
        ],
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_found_by_its_name_and_is_right(name: str) -> None:
    recording = load_recording(find_recording(Path(name)))
    assert recording.about.endswith(".")
    assert any(disk.boot_medium for disk in recording.disks)
    assert {disk.transport for disk in recording.disks} > {"usb"}


def test_a_name_that_is_none_is_answered_with_those_that_are() -> None:
    with pytest.raises(UsageError) as caught:
        find_recording(Path("toaster"))
    assert all(name in caught.value.hint for name in SHIPPED)


def test_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    place = tmp_path / "own.json"
    place.write_text(json.dumps(minimal()))
    assert load_recording(find_recording(place)).disks[0].name == "sda"


def _with(path: str, value: Any) -> dict[str, Any]:
    recording = minimal()
    *way, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    place: Any = recording
    for step in way:
        place = place[step]
    if isinstance(place, list):
        place.append(value)
    else:
        place[last] = value
    return recording


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("disks.0.size_bytes", "large", "$.disks[0].size_bytes"),
        ("disks.0.size_bytes", -1, "$.disks[0].size_bytes"),
        ("disks.0.name", "../etc", "$.disks[0].name"),
        ("disks.0.modle", "X", "modle"),
        ("disks.0.table", None, "sda has partitions and no table"),
        ("disks.0.filesystem", {"kind": "ext4"}, "sda has a table and a filesystem in the same place"),
        ("disks.0.partitions.0.filesystem", {"kind": "zfs"}, "$.disks[0].partitions[0].filesystem.kind"),
        ("disks.0.partitions.0.size_bytes", 1 << 30, "partitions are larger than the disk"),
        ("disks.0.faults", {"unreadable": [{"offset": (1 << 30) - 1, "length": 2}]}, "ends behind the disk"),
        ("disks.1", {"name": "sda", "size_bytes": 1 << 30}, "two disks are called sda"),
        ("plug", [{"disk": "sdz", "seconds": 1}], "$.plug names sdz"),
        ("plug", [{"disk": "sda", "seconds": -1}], "$.plug[0].seconds"),
        (
            "disks.0.partitions.0.filesystem",
            {
                "kind": "ext4",
                "repository": {
                    "folder": "r",
                    "images": [{"disk": "sdz", "host": "h", "made": "2025-01-01T00:00:00Z"}],
                },
            },
            "image of sdz, which is no disk",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, path: str, value: Any, named: str) -> None:
    place = tmp_path / "recording.json"
    place.write_text(json.dumps(_with(path, value)))
    with pytest.raises(UsageError) as caught:
        load_recording(place)
    assert named in caught.value.message


def test_only_the_last_partition_may_take_the_rest(tmp_path: Path) -> None:
    recording = minimal()
    recording["disks"][0]["partitions"] = [{"type": "L"}, {"type": "L", "size_bytes": 1 << 20}]
    place = tmp_path / "recording.json"
    place.write_text(json.dumps(recording))
    with pytest.raises(UsageError, match="only the last partition"):
        load_recording(place)


def test_what_is_no_json_is_told(tmp_path: Path) -> None:
    place = tmp_path / "recording.json"
    place.write_text('{"about": "",}')
    with pytest.raises(UsageError, match="not JSON"):
        load_recording(place)
