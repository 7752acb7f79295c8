"""The audit finds whatever was left out of an image that a filesystem needs, and nothing where nothing is missing.

More seeds: ``RECOVERY_SEEDS=100``.  Sound images of all filesystems, tables and sector sizes: ``test_cycle.py``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.errors import Cancelled
from recovery.image.audit import AuditResult, PartitionAudit, audit
from recovery.image.view import SystemImage
from recovery.progress import Progress
from tests.support.crash_kinds import CUTS, KINDS, Recordings
from tests.support.disks import MIB, partitioned, run
from tests.support.fleet import Fleet, Place, make_fleet, workplace
from tests.support.program import recovery
from tests.support.removed import Captures, Needed, enrich, needed, needed_after_crash, one_extent, written_by_replay
from tests.support.repositories import fresh_repository

pytestmark = pytest.mark.disk

SEEDS = range(int(os.environ.get("RECOVERY_SEEDS", "3")))

#: The unit of what is removed, no larger than the filesystem's own.
BLOCKS = {"ext4": 1024, "xfs": 4096, "btrfs": 4096, "ntfs": 4096, "vfat": 512}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with workplace(tmp_path_factory.mktemp("audit"), "audit", 1200 * MIB) as folder:
        yield folder


@pytest.fixture(scope="module")
def fleet(work: Path) -> Fleet:
    made = make_fleet(work, "gpt", 512, 8 * MIB)
    enrich(made, work / "mount")
    return made


@pytest.fixture(scope="module", params=BLOCKS)
def captures(request: pytest.FixtureRequest, fleet: Fleet, work: Path) -> Iterator[tuple[str, Captures, Needed]]:
    """One filesystem, captures of it, and what it needs."""
    kind = request.param
    repository = fresh_repository(work / f"repository-{kind}")
    found = needed(fleet, kind, work / "mount", 1)
    with Captures(fleet, kind, repository) as made:
        yield kind, made, found


def the_partition(result: AuditResult) -> PartitionAudit:
    (found,) = [partition for partition in result.partitions if "allocation" in partition.routes or partition.findings]
    return found


def test_a_whole_capture_passes_on_every_route(captures: tuple[str, Captures, Needed]) -> None:
    _, made, _ = captures
    result = made.audit_without()
    found = the_partition(result)
    assert result.passed
    assert found.passed
    assert found.routes == ("allocation", "files", "checker")
    assert found.remarks == ()
    assert found.files > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_one_extent_that_was_left_out_is_found(seed: int, captures: tuple[str, Captures, Needed]) -> None:
    kind, made, found = captures
    category, extent = one_extent(found, BLOCKS[kind], seed)
    result = made.audit_without(extent)
    assert not result.passed, f"{category} at {extent}"
    assert max(finding.missing_bytes for finding in the_partition(result).findings) >= BLOCKS[kind]
    if category == "data":
        assert any(finding.route == "files" for finding in the_partition(result).findings)
    print(f"figures {kind}: removed {category}, {extent[1]} bytes, found")


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def crashed(request: pytest.FixtureRequest, work: Path) -> Iterator[tuple[str, Captures, Needed]]:
    """The same of a filesystem after a power cut."""
    kind, image, disk = KINDS[request.param], work / "crashed.img", work / "crashed disk.img"
    recordings = Recordings(work / f"recordings-{kind.name}")
    found: Needed = {"log": []}
    for seed in range(CUTS):
        if not found["log"]:  # btrfs may just have written all of its trees
            recordings.crash(kind, seed, image)
            found = needed_after_crash(kind.name, image, work, seed)
    partitioned(disk, kind.size + 5 * MIB, f"label: gpt\nstart={3 * MIB // 512}, size={kind.size // 512}\n")
    run("dd", f"if={image}", f"of={disk}", "bs=1M", "seek=3", "conv=notrunc,sparse", "status=none")
    place = Place(1, kind.name, 3 * MIB, kind.size)
    with Captures(
        Fleet(disk, 512, (place,)), kind.name, fresh_repository(work / f"repository-crashed-{kind.name}")
    ) as made:
        yield kind.name, made, found


def test_a_whole_capture_after_a_power_cut_passes(crashed: tuple[str, Captures, Needed]) -> None:
    _, made, found = crashed
    result = made.audit_without()
    assert result.passed, [partition.findings for partition in result.partitions]
    assert all(found.values()), {category: len(places) for category, places in found.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_one_extent_that_was_left_out_after_a_power_cut_is_found(
    seed: int, crashed: tuple[str, Captures, Needed], work: Path
) -> None:
    kind, made, found = crashed
    for number in itertools.count(seed, 100 * len(found)):
        category, extent = one_extent(found, BLOCKS[kind], number)
        if category != "metadata" or not written_by_replay(kind, work / "crashed.img", extent, work):
            break
    assert not made.audit_without(extent).passed, f"{category} at {extent}"
    print(f"figures crashed {kind}: removed {category}, {extent[1]} bytes, found")


@pytest.mark.parametrize("number", [0, 20])
def test_a_block_of_the_log_that_the_replay_writes_again_is_missed(
    number: int, crashed: tuple[str, Captures, Needed]
) -> None:
    """A log without its first block looks empty, one without another looks short: nothing complains of either."""
    _, made, found = crashed
    blocks = [(at, 4096) for offset, length in found["log"] for at in range(offset, offset + length, 4096)]
    result = made.audit_without(blocks[min(number, len(blocks) - 1)])
    assert "log" in [finding.route for finding in the_partition(result).findings]


def test_all_that_a_filesystem_begins_with_left_out_is_found(captures: tuple[str, Captures, Needed]) -> None:
    """Its superblock or boot sector among it: nothing can be read then."""
    kind, made, _ = captures
    start = 64 * 1024 if kind == "btrfs" else 0
    result = made.audit_without((start, 4096))
    assert not result.passed


def test_faults_that_were_there_before_are_not_held_against_the_image(fleet: Fleet, work: Path) -> None:
    """A wrong number of links on the disk itself: e2fsck finds fault, and saw nothing but what was captured."""
    with fleet.device(fleet.place("ext4")) as device:
        run("debugfs", "-w", "-R", "set_inode_field /holey links_count 5", device)
    try:
        with Captures(fleet, "ext4", fresh_repository(work / "repository-faulty")) as made:
            result = made.audit_without()
    finally:
        with fleet.device(fleet.place("ext4")) as device:
            run("debugfs", "-w", "-R", "set_inode_field /holey links_count 1", device)
    found = the_partition(result)
    assert result.passed
    assert any("e2fsck" in remark and "not a fault of the image" in remark for remark in found.remarks), found


def test_an_audit_can_be_cancelled(captures: tuple[str, Captures, Needed]) -> None:
    _, made, _ = captures
    repository, stored = made.captured()
    stopped = Progress()
    stopped.cancel()
    with pytest.raises(Cancelled):
        audit(SystemImage(repository, stored), stopped)


def test_the_command_line_says_what_is_missing_and_exits_with_22(fleet: Fleet, work: Path) -> None:
    repository = work / "repository-cli"
    recovery("init", repository=repository)
    captured = recovery("capture", fleet.image, "--only", "2", "--audit", "--json", repository=repository)
    assert captured.event("summary")["audit"]["passed"] is True
    place = fleet.place("ext4")
    opened = Captures.open(repository)
    extent = one_extent(needed(fleet, "ext4", work / "mount", 2), BLOCKS["ext4"], 0)[1]
    with Captures(fleet, "ext4", opened) as made:
        made.captured(extent)
    said = recovery("verify", "latest", repository=repository).said
    assert "All of it is sound" in said  # no hash notices
    ran = recovery("verify", "latest", "--audit", repository=repository, status=22)
    assert "NOT SOUND" in ran.said
    assert "not captured" in ran.said
    audited = recovery("verify", "latest", "--audit", "--json", repository=repository, status=22).event("summary")
    assert audited["sound"] is True
    assert audited["audit"]["passed"] is False
    (hit,) = [partition for partition in audited["audit"]["partitions"] if partition["findings"]]
    assert hit["number"] == place.number
    assert {finding["route"] for finding in hit["findings"]} >= {"allocation", "files"}
    first = min(finding["offset"] for finding in hit["findings"] if finding["offset"] is not None)
    assert first == place.offset + extent[0]
