"""Recorded machines: real disks with real faults in files, judged by the tools of the trade, with real jobs on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recovery.cli.requests import CaptureRequest, RestoreRequest
from recovery.cli.spawn import spawn
from recovery.errors import Refused, UsageError
from recovery.inventory import DiskReport
from recovery.surveyor import SILENT
from tests.support.disks import MIB, read_at, run, sfdisk_json
from tests.support.images import PROJECT, restic
from tests.support.restic import restic_binaries
from tests.tui.support import jobs_in
from tui.recorded import RecordedMachine, recorded_machine

RESTIC = restic_binaries()[-1]
GIB = 1 << 30
_BAD = [{"offset": 40 * MIB + 8192, "length": 4096}, {"offset": 61 * MIB, "length": 69632}]

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse cannot be opened")


def small() -> dict[str, Any]:
    """A disk with faults that holds two systems, an empty one, one with a repository that is plugged in later."""
    image = {"disk": "sda", "host": "old-host", "vendor": "Acme", "product": "Anvil"}
    return {
        "about": "For tests.",
        "machine": {"hostname": "recovery", "product": "Small"},
        "disks": [
            {
                "name": "sda",
                "size_bytes": 192 * MIB,
                "model": "Old disk",
                "serial": "S1",
                "transport": "ata",
                "rotational": True,
                "table": "gpt",
                "partitions": [
                    {
                        "type": "U",
                        "size_bytes": 33 * MIB,
                        "filesystem": {"kind": "vfat", "label": "EFI", "boots": True},
                    },
                    {"type": "S", "size_bytes": 40 * MIB},
                    {
                        "type": "L",
                        "size_bytes": 100 * MIB,
                        "name": "root",
                        "filesystem": {
                            "kind": "ext4",
                            "label": "root",
                            "used_bytes": 60 * MIB,
                            "data_bytes": 5 * MIB,
                            "system": "Debian GNU/Linux 13 (trixie)",
                        },
                    },
                ],
                "faults": {"unreadable": _BAD},
                "smart": {"device": {"protocol": "ATA"}, "smart_status": {"passed": False}},
            },
            {"name": "sdb", "size_bytes": 320 * MIB, "model": "New disk", "transport": "ata"},
            {
                "name": "sdc",
                "size_bytes": 400 * MIB,
                "transport": "usb",
                "table": "dos",
                "plugged": False,
                "partitions": [
                    {
                        "type": "83",
                        "filesystem": {
                            "kind": "ext4",
                            "label": "store",
                            "repository": {
                                "folder": "recovery",
                                "images": [
                                    {**image, "made": "2025-02-03T04:05:06+01:00"},
                                    {**image, "made": "2025-03-03T04:05:06+01:00"},
                                ],
                            },
                        },
                    }
                ],
            },
            {
                "name": "sdd",
                "size_bytes": 64 * MIB,
                "transport": "usb",
                "boot_medium": True,
                "read_only": True,
                "in_use": ["sdd mounted at /run/live/medium"],
            },
        ],
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


def machine_of(recording: dict[str, Any], folder: Path, cache: Path) -> Any:
    place = folder / "recording.json"
    place.write_text(json.dumps(recording))
    return recorded_machine(place, folder / "machine", cache)


@pytest.fixture
def machine(tmp_path: Path, cache: Path) -> Iterator[RecordedMachine]:
    with jobs_in(tmp_path / "jobs"), machine_of(small(), tmp_path, cache) as made:
        yield made


def reports(machine: RecordedMachine) -> dict[str, DiskReport]:
    return {report.disk.name: report for report in machine.survey()}


def finished(watcher: Any) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of a job, and what it said."""
    with watcher:
        ends = time.monotonic() + 60
        said: list[dict[str, Any]] = []
        while not watcher.ended:
            assert time.monotonic() < ends, said
            watcher.wait(0.2)
            said += map(json.loads, watcher.events())
        said += map(json.loads, watcher.events())
        return watcher.exit_code()[0], said


@pytest.mark.parametrize("name", ["laptop", "server", "dying-disk"])
def test_disks_that_ship_are_as_the_tools_of_the_trade_see_them(name: str, tmp_path: Path) -> None:
    with jobs_in(tmp_path / "jobs"), recorded_machine(Path(name), tmp_path / "machine") as machine:
        for disk in machine.recording.disks:
            file = tmp_path / "machine" / "dev" / disk.name
            assert file.stat().st_size == disk.size_bytes
            assert file.stat().st_blocks * 512 < 256 * MIB
            if disk.table is None:
                continue
            listed = sfdisk_json(file)["partitions"]
            assert [part.get("name", "") for part in listed] == [part.name for part in disk.partitions]
            for part, made in zip(disk.partitions, listed, strict=True):
                assert part.size_bytes in (0, made["size"] * 512)
                check_filesystem(file, made["start"] * 512, part.filesystem)
        assert not [finding for report in machine.survey() for finding in report.findings]


_BLKID = {"luks": "crypto_LUKS", "raid": "linux_raid_member", "lvm": "LVM2_member"}


def check_filesystem(file: Path, offset: int, wanted: Any) -> None:
    if wanted is None:
        return
    said = run("blkid", "-p", "-o", "udev", f"--offset={offset}", file)
    assert f"ID_FS_TYPE={_BLKID.get(wanted.kind, wanted.kind)}\n" in said
    if wanted.kind == "ext4":
        place = f"{file}?offset={offset}"
        run("e2fsck", "-f", "-n", place)
        free = next(line for line in run("dumpe2fs", "-h", place).splitlines() if line.startswith("Free blocks:"))
        count = next(line for line in run("dumpe2fs", "-h", place).splitlines() if line.startswith("Block count:"))
        used = (int(count.split()[-1]) - int(free.split()[-1])) * 4096
        assert wanted.used_bytes <= used < wanted.used_bytes * 1.02 + GIB


def test_reports_are_the_engines_with_what_was_recorded_laid_over(machine: RecordedMachine) -> None:
    found = reports(machine)
    assert list(found) == ["sda", "sdb", "sdd"]
    old = found["sda"]
    assert (old.disk.path, old.disk.model, old.disk.serial) == ("/dev/sda", "Old disk", "S1")
    assert (old.disk.transport, old.disk.rotational, old.disk.size_bytes) == ("ata", True, 192 * MIB)
    assert [part.content.type if part.content else None for part in old.partitions] == ["vfat", None, "ext4"]
    assert old.partitions[2].system == "Debian GNU/Linux 13 (trixie)"
    assert 60 * MIB <= (old.partitions[2].used_bytes or 0) < 80 * MIB
    assert found["sdb"].table is None
    assert found["sdd"].disk.boot_medium
    assert machine.health(old.disk).passed is False


def test_what_is_in_use_or_our_medium_can_be_neither_read_nor_overwritten(machine: RecordedMachine) -> None:
    found = reports(machine)
    assert machine.source_problems(found["sda"].disk, None) == []
    assert machine.target_problems(found["sda"].disk, None) == []
    assert machine.source_problems(found["sdd"].disk, None) == ["/dev/sdd is in use: sdd mounted at /run/live/medium."]
    against = " ".join(machine.target_problems(found["sdd"].disk, None))
    assert "read-only" in against
    assert "the medium that this system was started from" in against
    same = machine.target_problems(found["sda"].disk, None, [found["sda"].disk])
    assert same == ["/dev/sda is the source itself."]


def test_a_disk_that_is_plugged_in_brings_its_repository(machine: RecordedMachine) -> None:
    told: list[bool] = []
    stop = machine.watch(lambda: told.append(True))
    with pytest.raises(UsageError):
        machine.mount(Path("/dev/sdc1"))
    machine.plug("sdc")
    assert told == [True]
    made = machine.mount(Path("/dev/sdc1"))
    assert machine.destinations() == [made]
    assert (made.label, made.filesystem, len(made.repositories)) == ("store", "ext4", 1)
    snapshots = json.loads(
        restic(
            RESTIC,
            Path(made.repositories[0]),
            "snapshots",
            "--json",
            "--insecure-no-password",
            more={"RESTIC_PASSWORD": ""},
        ).stdout
    )
    assert [shot["hostname"] for shot in snapshots] == ["old-host", "old-host"]
    assert [shot["time"] for shot in snapshots] == ["2025-02-03T03:05:06Z", "2025-03-03T03:05:06Z"]
    disk = reports(machine)["sdc"].disk
    assert disk.in_use == ("sdc1 mounted at /media/store",)
    problems = machine.target_problems(disk, Path(made.repositories[0]))
    assert "/dev/sdc holds the repository /media/store/recovery." in problems
    machine.unplug("sdc")
    assert len(told) == 2
    assert machine.destinations() == []
    assert "sdc" not in reports(machine)
    stop()
    machine.plug("sdc")
    assert len(told) == 2


def test_disks_come_and_go_as_it_was_recorded(tmp_path: Path, cache: Path) -> None:
    recording = small()
    recording["plug"] = [{"disk": "sdc", "seconds": 0.05}, {"disk": "sdb", "seconds": 0.1, "out": True}]
    with machine_of(recording, tmp_path, cache) as machine:
        told = threading.Semaphore(0)
        stop = machine.watch(told.release)
        assert told.acquire(timeout=30)
        assert told.acquire(timeout=30)
        assert set(reports(machine)) == {"sda", "sdc", "sdd"}
        stop()


@needs_fuse
def test_jobs_are_real_and_meet_the_faults(machine: RecordedMachine) -> None:
    """Captured with the areas that cannot be read named, and restored onto the other disk: equal but there."""
    machine.plug("sdc")
    repository = Path(machine.mount(Path("/dev/sdc1")).repositories[0])
    found = reports(machine)
    source, target = (machine.place(found[name].disk) for name in ("sda", "sdb"))
    code, said = finished(spawn(CaptureRequest(sources=(source,)), repository, ""))
    summary = next(event for event in said if event["message_type"] == "summary")
    lost = [(area["offset"], area["length"]) for area in _BAD]
    assert code == 3
    assert [tuple(area) for area in summary["unreadable"]["sda"]] == lost
    restore = RestoreRequest(snapshot=summary["snapshot_id"], target=target, confirmed=True)
    code, said = finished(spawn(restore, repository, ""))
    assert code == 3, said
    file = machine.folder / "dev" / "sda"
    root = sfdisk_json(file)["partitions"][2]["start"] * 512
    copy = machine.folder / "dev" / "sdb"
    assert read_at(copy, root, 64 * MIB) == read_at(file, root, 64 * MIB)
    assert sfdisk_json(copy)["id"] == sfdisk_json(file)["id"]
    run("e2fsck", "-f", "-n", f"{copy}?offset={root}")
    offset, length = lost[1]
    assert read_at(copy, offset, length) == bytes(length)
    assert len(reports(machine)["sdb"].partitions) == 3
    with pytest.raises(Refused, match="overwritten"):
        machine.mount(Path("/dev/sdb3"))


@needs_fuse
def test_disks_that_hang_hold_nothing_up(tmp_path: Path, cache: Path) -> None:
    """One answers nothing from the start, the other not at its beginning."""
    recording = small()
    recording["disks"][0]["faults"] = {"hangs_after_bytes": 0}
    recording["disks"][1]["faults"] = {"silent": [{"offset": 0, "length": 4096}]}
    with jobs_in(tmp_path / "jobs"), machine_of(recording, tmp_path, cache) as machine:
        machine.patience_seconds = 3.0
        found = reports(machine)
        assert found["sda"].findings == found["sdb"].findings == (SILENT,)
        assert found["sda"].disk.model == "Old disk"
        assert found["sdd"].findings == ()


def test_an_erased_disk_becomes_a_place_for_a_repository(machine: RecordedMachine) -> None:
    found = reports(machine)
    with pytest.raises(Refused, match="medium"):
        machine.plan_format(found["sdd"].disk)
    plan = machine.plan_format(found["sdb"].disk)
    assert plan.short_name == "sdb"
    made = machine.format(plan)
    assert (made.device, made.repositories) == ("/dev/sdb1", ())
    assert Path(made.folder).is_dir()
    after = reports(machine)["sdb"]
    assert [part.content.type for part in after.partitions if part.content] == ["ext4"]
    assert after.disk.in_use


def test_a_recording_leaves_nothing_behind_and_never_switches_this_machine_off(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.recorded.scratch_folder", lambda: tmp_path)
    before = set(tmp_path.iterdir())
    place = tmp_path / "own.json"
    place.write_text(json.dumps(small()))
    with recorded_machine(place, cache=cache) as machine:
        assert Path(os.environ["RECOVERY_JOBS"]) == machine.folder / "jobs"
        with pytest.raises(Refused):
            machine.leave("poweroff")
    assert set(tmp_path.iterdir()) - before == {place}
    assert "RECOVERY_JOBS" not in os.environ


_WITHOUT_ROOT = """
import os, sys
from pathlib import Path
from recovery.devices.table import examine_table
from recovery.image.domain import disk_domain
from tui.recorded import recorded_machine
assert os.geteuid() != 0
with recorded_machine(Path(sys.argv[1]), Path(sys.argv[2])) as machine:
    found = {report.disk.name: report for report in machine.survey()}
    disk = found["sda"].disk
    file = machine.place(disk)
    table = examine_table(file, disk.size_bytes, 512).table
    parts = disk_domain(file, disk.size_bytes, 512, table).partitions
    print([part.usage.method for part in parts], found["sda"].findings)
"""


@needs_fuse
def test_it_needs_no_root(tmp_path: Path) -> None:
    """In a namespace where nobody has any rights: filesystems are made and mapped all the same, faults are there."""
    words = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives no user namespaces")
    place = tmp_path / "own.json"
    place.write_text(json.dumps(small()))
    said = subprocess.run(
        [*words, sys.executable, "-c", _WITHOUT_ROOT, place, tmp_path / "machine"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "RECOVERY_JOBS": str(tmp_path / "jobs")},
        timeout=120,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "['map', 'whole', 'map'] ()"


_TELL = """
import json, sys
from pathlib import Path
from tui.recorded import recorded_machine
with recorded_machine(Path(sys.argv[1]), Path(sys.argv[2])) as machine:
    print(json.dumps({report.disk.name: report.findings for report in machine.survey()}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding programs and devices needs root")
def test_what_is_missing_here_is_told_and_the_rest_is_made(tmp_path: Path) -> None:
    """Without FUSE and the maker of FAT: the disk is shown healthy, that partition without a filesystem."""
    place, nothing = tmp_path / "own.json", tmp_path / "nothing"
    place.write_text(json.dumps(small()))
    nothing.touch(mode=0o644)
    maker = Path(run("sh", "-c", "command -v mkfs.fat").strip()).resolve()
    hide = 'mount --bind /dev/null /dev/fuse && mount --bind "$0" "$1" && shift && exec "$@"'
    told = run(
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, nothing, maker),
        *("env", f"RECOVERY_JOBS={tmp_path / 'jobs'}", f"PYTHONPATH={PROJECT}"),
        *(sys.executable, "-c", _TELL, place, tmp_path / "machine"),
    )
    findings = json.loads(told)
    made, faults = findings["sda"]
    assert "mkfs.fat is not installed" in made
    assert "it has faults; they cannot be shown here" in faults
    assert findings["sdb"] == findings["sdd"] == []
    parts = sfdisk_json(tmp_path / "machine" / "dev" / "sda")["partitions"]
    root = parts[2]["start"] * 512
    run("e2fsck", "-f", "-n", f"{tmp_path / 'machine' / 'dev' / 'sda'}?offset={root}")
    assert read_at(tmp_path / "machine" / "dev" / "sda", parts[0]["start"] * 512, MIB) == bytes(MIB)
