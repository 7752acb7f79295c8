"""A survey by processes that can be left behind: it says what a plain one says, and a disk that hangs stops nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from recovery.errors import DeviceError
from recovery.inventory import survey
from recovery.surveyor import SILENT, survey_apart
from tests.support.disks import GPT_SCRIPT, MIB, blank, loop, make_filesystem, partitioned
from tests.support.hanging_child import hanging

pytestmark = pytest.mark.disk

SIZE = 48 * MIB
_LIMIT, _GRACE = 3.0, 10.0  # a hang would last for minutes; the machine may be busy


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = partitioned(tmp_path / "disk.img", SIZE, GPT_SCRIPT)
    make_filesystem(path, 24 * MIB, 8 * MIB, "mkfs.ext4", "-q", "-L", "root")
    return path


@pytest.fixture
def hanging_device(tmp_path: Path) -> Iterator[Path]:
    """A disk whose first megabyte is never answered."""
    with ExitStack() as served:
        file = served.enter_context(hanging(blank(tmp_path / "hangs.img", SIZE), 0, MIB))
        with loop(file) as device:
            yield device
            served.close()  # the device cannot be detached before


def test_it_says_of_files_and_devices_what_a_plain_survey_says(image: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd\udcff name.img"
    blank(odd, SIZE)
    with loop(image, read_only=True) as device:
        assert survey_apart([device, image, odd]) == survey([device, image, odd])
        everything = survey_apart()
    assert str(device) in [report.disk.path for report in everything]


def test_what_lies_in_the_current_folder_is_not_run(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken-disk").mkdir()
    for name in ("msgspec.py", "recovery.py"):
        (tmp_path / "broken-disk" / name).write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path / "broken-disk")
    assert [report.disk.name for report in survey_apart([image])] == ["disk.img"]
    assert not (tmp_path / "was-run").exists()


def test_more_disks_than_children_are_all_told_in_the_order_asked(tmp_path: Path) -> None:
    paths = [blank(tmp_path / f"{number}.img", (number + 1) * MIB) for number in range(9)]
    assert [report.disk.size_bytes for report in survey_apart(paths)] == [(n + 1) * MIB for n in range(9)]


def test_a_name_that_is_no_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is a folder, not a disk"):
        survey_apart([tmp_path])


def test_a_disk_that_hangs_is_told_by_what_the_kernel_knows_of_it_and_the_others_in_full(
    hanging_device: Path, image: Path
) -> None:
    with loop(image) as sound:
        began = time.monotonic()
        reports = {report.disk.place: report for report in survey_apart(seconds=_LIMIT)}
        assert time.monotonic() - began < _LIMIT + _GRACE
        assert reports[hanging_device].findings == (SILENT,)
        assert reports[hanging_device].disk.size_bytes == SIZE
        assert reports[hanging_device].disk.transport == "loop"
        report = reports[sound]
        while report.findings == (SILENT,) and time.monotonic() - began < 60:  # the machine may be busy
            (report,) = survey_apart([sound], seconds=_LIMIT)
        assert [part.content.type for part in report.partitions if part.content] == ["ext4"]


def test_a_disk_known_to_hang_is_not_waited_for_again(hanging_device: Path) -> None:
    survey_apart([hanging_device], seconds=_LIMIT)
    before = _waiting_for(hanging_device)
    assert before
    (again,) = survey_apart([hanging_device], seconds=_LIMIT)
    assert again.findings == (SILENT,)
    assert again.disk.size_bytes == SIZE
    assert _waiting_for(hanging_device) == before


def test_a_disk_that_answers_late_is_told_by_the_next_survey(tmp_path: Path) -> None:
    """What answers in the end is the kernel, that the disk is gone: what it hung on is taken away."""
    with ExitStack() as served:
        file = served.enter_context(hanging(blank(tmp_path / "hangs.img", SIZE), 0, MIB))
        with loop(file) as device:
            (first,) = survey_apart([device], seconds=1)
            served.close()
            ends = time.monotonic() + 30
            while (report := survey_apart([device], seconds=1)[0]).findings == (SILENT,):
                assert time.monotonic() < ends
                time.sleep(0.1)
    assert first.findings == (SILENT,)
    assert any("could not be read" in finding for finding in report.findings), report.findings


def _waiting_for(device: Path) -> list[str]:
    """The processes that have ``device`` open."""
    return sorted(
        link.parent.parent.name
        for link in Path("/proc").glob("[0-9]*/fd/*")
        if link.is_symlink() and _target(link) == device
    )


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:
        return None
