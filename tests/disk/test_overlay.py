"""Copy-on-write views as the kernel and the filesystems' programs see them, and what is left when something dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.devices.loop import view_loop
from recovery.devices.overlay import overlay
from recovery.devices.probe import probe
from recovery.errors import DeviceError
from recovery.extent import Extent, Extents
from recovery.filesystems import replay, used_extents
from tests.support.badblocks import with_bad_blocks
from tests.support.crash import Kind, record
from tests.support.disks import KIB, MIB, blank, loop, mounted, read_at, run, sha256
from tests.support.program import ROOT

pytestmark = pytest.mark.disk

XFS = Kind("xfs", ("mkfs.xfs", "-q"), ("xfs_repair", "-n"), 300 * MIB, "nouuid")
EXT4 = Kind("ext4", ("mkfs.ext4", "-q", "-b4096"), ("e2fsck", "-fn"), 96 * MIB)
OFFSET = 3 * MIB + 512


def noise(path: Path, size: int) -> bytes:
    content = random.Random(1).randbytes(size)
    path.write_bytes(content)
    return content


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XFS whose log must be replayed."""
    folder = tmp_path_factory.mktemp("overlay")
    recording = record(XFS, folder / "xfs", 1, files=20)
    recording.cut(recording.length * 3 // 4, folder / "crashed.img", random.Random(1))
    return folder / "crashed.img"


def served_views() -> list[str]:
    """Processes that serve a view."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = folder.joinpath("cmdline").read_bytes()
        except OSError:
            continue
        if b"recovery.devices.overlay_child" in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def eventually(condition: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 30
    while not condition() and time.monotonic() < ends:
        time.sleep(0.05)
    return condition()


def test_a_view_takes_writes_and_the_source_keeps_its_bytes(tmp_path: Path) -> None:
    content = noise(tmp_path / "source", 8 * MIB)
    extent = Extent(OFFSET, 4 * MIB + 512)
    with overlay(tmp_path / "source", extent, scratch=tmp_path) as view:
        with view.path.open("r+b", buffering=0) as file:
            assert file.read(2 * MIB) == content[OFFSET : OFFSET + 2 * MIB]
            file.seek(1 * MIB + 100)
            file.write(b"changed")
        view.lay_over(extent.length - 4, b"last")
        expected = bytearray(content[extent.offset : extent.end])
        expected[1 * MIB + 100 : 1 * MIB + 107] = b"changed"
        expected[-4:] = b"last"
        assert view.path.read_bytes() == expected
        assert view.report().changed_bytes == 2 * 4 * KIB
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]  # the scratch has no name
    assert (tmp_path / "source").read_bytes() == content
    assert not any(str(view.path.parent.name) in line for line in served_views())


def test_a_filesystem_on_a_read_only_device_is_changed_on_the_view_only(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 40 * MIB)
    run("mkfs.ext4", "-q", image)
    before = sha256(image)
    with loop(image, read_only=True) as device:
        with overlay(device, Extent(0, 40 * MIB)) as view, view_loop(view.path) as copy:
            with mounted(copy, tmp_path / "mount") as at:
                at.joinpath("file").write_bytes(b"y" * 5 * MIB)
            run("e2fsck", "-fn", copy)
            with mounted(copy, tmp_path / "mount") as at:
                assert at.joinpath("file").read_bytes() == b"y" * 5 * MIB
    assert sha256(image) == before


def test_writing_more_than_the_view_may_take_fails_and_is_known(tmp_path: Path) -> None:
    noise(tmp_path / "source", 2 * MIB)
    with overlay(tmp_path / "source", Extent(0, 2 * MIB), scratch=tmp_path, limit_bytes=64 * KIB) as view:
        view.lay_over(0, b"x" * 64 * KIB)
        assert view.source_read() == Extents()
        with pytest.raises(DeviceError, match="cannot be written"):
            view.lay_over(1 * MIB, b"one more")
        with pytest.raises(DeviceError, match=r"more than the 64\.0 KiB"):
            view.source_read()


def test_a_scratch_folder_without_room_is_told(tmp_path: Path) -> None:
    noise(tmp_path / "source", 1 * MIB)
    folder = tmp_path / "small"
    folder.mkdir()
    script = (
        'mount -t tmpfs -o size=40m tmpfs "$1" && exec "$2" -c "import sys; from pathlib import Path; '
        "from recovery.devices.overlay import overlay; from recovery.extent import Extent; "
        'overlay(Path(sys.argv[1]), Extent(0, 4096), scratch=Path(sys.argv[2])).__enter__()" "$3" "$1"'
    )
    line = ["unshare", "--mount", "sh", "-c", script, "sh", folder, sys.executable, tmp_path / "source"]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode
    assert "40.0 MiB free, too little for a copy-on-write view" in ended.stderr


def test_a_replay_that_needs_too_much_leaves_the_partition_whole(
    crashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recovery.devices.overlay._affordable", lambda folder: 64 * KIB)
    size, before = crashed.stat().st_size, sha256(crashed)
    usage = used_extents(crashed, Extent(0, size), probe(crashed, Extent(0, size)), 512)
    assert (usage.method, usage.clean, usage.used) == ("whole", False, Extents([(0, size)]))
    assert "not closed cleanly" in usage.reason
    assert "needs more than the 64.0 KiB that it may take" in usage.reason
    assert sha256(crashed) == before


def test_a_source_that_cannot_be_read_leaves_the_partition_whole(tmp_path: Path) -> None:
    """A block of the journal, which the replay needs, has gone bad."""
    recording, image = record(EXT4, tmp_path / "ext4", 1, files=20), tmp_path / "crashed.img"
    recording.cut(recording.length * 3 // 4, image, random.Random(1))
    journal = int(run("debugfs", "-R", "bmap <8> 0", image)) * 4 * KIB
    start = int.from_bytes(read_at(image, journal + 28, 4), "big")
    first = int(run("debugfs", "-R", f"bmap <8> {start}", image))
    assert read_at(image, first * 4 * KIB, 4) == b"\xc0\x3b\x39\x98"  # jbd2's magic number
    size = image.stat().st_size
    assert used_extents(image, Extent(0, size), probe(image, Extent(0, size)), 512).method == "map"
    with with_bad_blocks(image, [first * 4 * KIB], tmp_path) as source:
        usage = used_extents(source, Extent(0, size), probe(source, Extent(0, size)), 512)
    assert (usage.method, usage.clean, usage.used) == ("whole", False, Extents([(0, size)])), usage.reason
    assert "the source cannot be read at byte" in usage.reason


def test_an_interrupt_ends_a_replay(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that takes for ever is killed with all that it started."""
    monkeypatch.setattr(replay, "_MOUNT", "sleep 1000")
    size = crashed.stat().st_size
    started = time.monotonic()

    class Stopped(Exception):
        pass

    def interrupt() -> None:
        if time.monotonic() > started + 1:
            raise Stopped

    with pytest.raises(Stopped):
        used_extents(crashed, Extent(0, size), probe(crashed, Extent(0, size)), 512, interrupt=interrupt)
    assert eventually(lambda: not backed_by(crashed))


def test_a_replay_that_hangs_is_given_up(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MOUNT", "sleep 1000")
    monkeypatch.setattr(replay, "_SECONDS", 1)
    size = crashed.stat().st_size
    usage = used_extents(crashed, Extent(0, size), probe(crashed, Extent(0, size)), 512)
    assert (usage.method, usage.clean) == ("whole", False)
    assert "did not end within 1 s" in usage.reason


_HOLDER = """
import sys, time
from pathlib import Path
from recovery.devices.loop import view_loop
from recovery.devices.overlay import overlay
from recovery.extent import Extent
source = Path(sys.argv[1])
with overlay(source, Extent(0, source.stat().st_size)) as view, view_loop(view.path) as device:
    print(view.path, device, flush=True)
    time.sleep(1000)
"""


def backed_by(path: Path) -> list[str]:
    return [
        line for line in run("losetup", "--list", "--noheadings", "-O", "BACK-FILE").splitlines() if str(path) in line
    ]


@pytest.mark.parametrize("victim", ["parent", "child"])
def test_nothing_stays_when_either_is_killed(victim: str, crashed: Path, tmp_path: Path) -> None:
    before = sha256(crashed)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, crashed], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert holder.stdout is not None
    view, device = holder.stdout.readline().split()
    child, folder = int(view.split("/")[2]), "/" + view.split("/root/")[1].rpartition("/")[0]
    assert folder in " ".join(served_views())
    assert backed_by(Path(folder))
    os.kill(holder.pid if victim == "parent" else child, signal.SIGKILL)
    if victim == "child":
        assert subprocess.run(["dd", f"if={device}", "of=/dev/null", "count=1", "iflag=direct"], check=False).returncode
        holder.kill()
    holder.wait()
    assert eventually(lambda: not any(folder in line for line in served_views()))
    assert eventually(lambda: not backed_by(Path(folder)))
    assert folder not in Path("/proc/mounts").read_text()
    assert sha256(crashed) == before
    Path(folder).rmdir()
