"""What is refused, seen on real mounts and loop devices."""

from __future__ import annotations

import os
import subprocess
import threading
import zlib
from pathlib import Path

import msgspec
import pytest

from recovery.devices.blockio import SourceGuard
from recovery.devices.disk import check_identity, disk_for, identity, list_disks
from recovery.devices.probe import probe
from recovery.devices.safety import disks_under, members, source_problems, target_problems
from recovery.errors import DeviceError, Refused
from recovery.extent import Extent
from tests.support.disks import (
    GPT_SCRIPT,
    MIB,
    blank,
    loop,
    make_filesystem,
    mounted,
    overwrite,
    partitioned,
    run,
    umount,
)

pytestmark = pytest.mark.disk

SIZE = 32 * MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image file with ext4 straight on it."""
    made = blank(tmp_path / "disk.img", SIZE)
    make_filesystem(made, 0, SIZE, "mkfs.ext4", "-q", "-F")
    return made


def test_a_free_image_file_and_a_free_device_are_not_refused(image: Path) -> None:
    disk = disk_for(image)
    assert source_problems(disk) == []
    assert target_problems(disk) == []
    with loop(image) as device:
        assert source_problems(disk_for(device)) == []
        assert target_problems(disk_for(device)) == []


def test_an_image_file_tells_what_it_is(tmp_path: Path) -> None:
    image = partitioned(tmp_path / "disk.img", SIZE + 16 * MIB, GPT_SCRIPT, 4096)
    disk = disk_for(image)
    assert (disk.size_bytes, disk.logical_sector_bytes, disk.transport) == (SIZE + 16 * MIB, 4096, "file")
    assert disk.is_image_file
    assert disk.place == image


def test_a_loop_device_is_listed_while_it_is_attached(image: Path) -> None:
    with loop(image, sector_bytes=4096) as device:
        disk = disk_for(device)
        assert (disk.size_bytes, disk.logical_sector_bytes, disk.transport) == (SIZE, 4096, "loop")
        assert disk.diskseq is not None
        assert device in [found.place for found in list_disks()]
    assert device not in [found.place for found in list_disks()]


def test_no_memory_disk_is_listed() -> None:
    assert not [disk.name for disk in list_disks() if disk.name.startswith(("ram", "zram"))]
    assert all(disk.size_bytes for disk in list_disks())


def test_a_link_to_a_disk_is_followed(tmp_path: Path, image: Path) -> None:
    with loop(image) as device:
        link = tmp_path / "by-id"
        link.symlink_to(device)
        assert disk_for(link) == disk_for(device)


def test_what_is_no_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "fifo")
    for name, words in [(".", "folder"), ("none", "No such file"), ("circle", "cannot be opened"), ("fifo", "neither")]:
        with pytest.raises(DeviceError, match=words):
            disk_for(tmp_path / name)
    with pytest.raises(DeviceError, match="empty"):
        disk_for(blank(tmp_path / "empty.img", 0))


def test_a_file_name_that_is_not_text_fits_json_and_can_be_opened(tmp_path: Path, image: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.img"))
    image.rename(odd)
    disk = disk_for(odd)
    assert msgspec.json.decode(msgspec.json.encode(disk), type=type(disk)).place == odd


def test_a_mounted_device_is_refused_and_so_is_its_image_file(tmp_path: Path, image: Path) -> None:
    with loop(image) as device, mounted(device, tmp_path / "a b"):
        name = device.name
        assert disk_for(device).in_use == (f"mounted at {tmp_path}/a b",)
        assert disk_for(image).in_use == (f"attached as {device}", f"{name} mounted at {tmp_path}/a b")
        for disk in (disk_for(device), disk_for(image)):
            assert any("mounted at" in problem for problem in source_problems(disk))
            assert any("mounted at" in problem for problem in target_problems(disk))


def test_what_was_mounted_after_a_disk_was_read_is_seen(tmp_path: Path, image: Path) -> None:
    with loop(image) as device:
        disk = disk_for(device)
        with mounted(device, tmp_path / "mnt"):
            assert source_problems(disk)
        assert not source_problems(disk)


def test_a_read_only_loop_disturbs_no_source_but_forbids_a_target(image: Path) -> None:
    with loop(image, read_only=True) as device:
        assert source_problems(disk_for(image)) == []
        assert target_problems(disk_for(image)) == [f"{image} is in use: attached as {device}."]
    with loop(image) as device:
        assert source_problems(disk_for(image)) == [f"{image} is in use: attached as {device}."]


def test_a_reader_that_is_about_to_end_does_not_forbid_a_target(image: Path) -> None:
    """A prober that is still at a loop device keeps it, although whoever attached it let go of it."""
    device = Path(run("losetup", "--find", "--show", "--read-only", image).strip())
    with subprocess.Popen(["sh", "-c", "echo; sleep 0.3"], stdin=device.open("rb"), stdout=subprocess.PIPE) as prober:
        assert prober.stdout is not None
        prober.stdout.readline()
        run("losetup", "--detach", device)
        assert str(device) in run("losetup", "--associated", image)
        assert target_problems(disk_for(image)) == []


def test_a_disk_is_in_use_by_what_is_stacked_upon_it(tmp_path: Path, image: Path) -> None:
    with loop(image) as lower, loop(lower) as upper, mounted(upper, tmp_path / "mnt"):
        assert f"{upper.name} mounted at {tmp_path}/mnt" in disk_for(lower).in_use


def test_btrfs_over_two_devices_is_seen_on_both(tmp_path: Path) -> None:
    images = [blank(tmp_path / f"{number}.img", 128 * MIB) for number in range(2)]
    with loop(images[0]) as first, loop(images[1]) as second:
        run("mkfs.btrfs", "-q", "-d", "single", first, second)
        run("btrfs", "device", "scan", first, second)
        with mounted(first, tmp_path / "mnt") as folder:
            for device in (first, second):
                assert any(f"at {folder}" in reason for reason in disk_for(device).in_use)
            run("btrfs", "subvolume", "create", folder / "inside")
            assert {first.name, second.name} <= disks_under(folder / "inside")
        run("btrfs", "device", "scan", "--forget", check=False)


def test_swap_is_in_use(tmp_path: Path) -> None:
    image = blank(tmp_path / "swap.img", SIZE)
    image.write_bytes(bytes(SIZE))
    with loop(image) as device:
        run("mkswap", "-q", device)
        try:
            run("swapon", device)
        except AssertionError as refusal:
            pytest.skip(f"swap cannot be switched on here: {refusal}")
        try:
            assert disk_for(device).in_use == ("used as swap",)
        finally:
            run("swapoff", device)


def test_a_disk_that_another_program_holds_is_in_use(image: Path) -> None:
    with loop(image) as device:
        held = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            assert disk_for(device).in_use == ("opened exclusively by another program",)
        finally:
            os.close(held)
        assert disk_for(device).in_use == ()


def test_who_only_looks_whether_a_disk_is_held_does_not_hold_it(image: Path) -> None:
    with loop(image) as device:
        for take in (lambda: disk_for(device).in_use, lambda: SourceGuard(device).close()):
            looking = os.open(device, os.O_RDONLY | os.O_EXCL)
            ended = threading.Timer(0.03, os.close, [looking])
            ended.start()
            assert not take()
            ended.join()


def test_the_disk_that_holds_the_repository_is_refused(tmp_path: Path, image: Path) -> None:
    with loop(image) as device, mounted(device, tmp_path / "mnt") as folder:
        repository = folder / "deep" / "repository"
        repository.mkdir(parents=True)
        for disk in (disk_for(device), disk_for(image)):
            said = f"{disk.path} holds the repository {repository}."
            assert said in target_problems(disk, repository=repository)
            assert said in source_problems(disk, repository=repository)
        assert device.name in disks_under(repository)
        assert device.name in disks_under(repository / "not" / "yet" / "made")


def test_the_repository_is_found_through_links_binds_and_overlays(tmp_path: Path, image: Path) -> None:
    with loop(image) as device, mounted(device, tmp_path / "mnt") as folder:
        for name in ("up", "work", "low"):
            (folder / name).mkdir()
        (tmp_path / "link").symlink_to(folder / "up")
        assert device.name in disks_under(tmp_path / "link")
        with mounted(folder / "up", tmp_path / "bound", "bind"):
            assert device.name in disks_under(tmp_path / "bound")
        (tmp_path / "over").mkdir()
        options = f"lowerdir={folder}/low,upperdir={folder}/up,workdir={folder}/work"
        run("mount", "-t", "overlay", "-o", options, "overlay", tmp_path / "over")
        try:
            assert device.name in disks_under(tmp_path / "over")
        finally:
            umount(tmp_path / "over")


def test_an_image_file_inside_the_repository_is_refused(tmp_path: Path, image: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    inside = repository / "disk.img"
    image.rename(inside)
    said = [f"{inside} lies inside the repository folder {repository}."]
    assert target_problems(disk_for(inside), repository=repository) == said
    assert source_problems(disk_for(inside), repository=repository) == said
    beside = blank(tmp_path / "repository.img", SIZE)
    assert target_problems(disk_for(beside), repository=repository) == []


def test_the_running_system_is_refused() -> None:
    names = disks_under(Path("/"))
    disks = [disk for disk in list_disks() if disk.name in names]
    if not disks:
        pytest.skip("the root filesystem lies on no disk of this machine")
    for disk in disks:
        assert f"{disk.path} holds the system that is running now." in target_problems(disk)


def test_a_source_is_no_target_under_any_name(tmp_path: Path, image: Path) -> None:
    source = disk_for(image)
    (tmp_path / "hard.img").hardlink_to(image)
    (tmp_path / "soft.img").symlink_to(image)
    assert target_problems(source, sources=[source]) == [f"{image} is the source itself."]
    for name in ("hard.img", "soft.img"):
        assert target_problems(disk_for(tmp_path / name), sources=[source])
    with loop(image) as device, loop(device) as upper:
        assert any("same storage" in problem for problem in target_problems(disk_for(upper), sources=[source]))
        assert any("same storage" in problem for problem in target_problems(source, sources=[disk_for(device)]))
        assert any("same storage" in p for p in target_problems(disk_for(upper), sources=[disk_for(device)]))
    other = disk_for(blank(tmp_path / "other.img", SIZE))
    assert target_problems(other, sources=[source]) == []


def test_the_disk_that_holds_a_source_image_is_no_target(tmp_path: Path, image: Path) -> None:
    with loop(image) as device, mounted(device, tmp_path / "mnt") as folder:
        source = disk_for(blank(folder / "source.img", MIB))
        said = target_problems(disk_for(device), sources=[source])
    assert f"{device} holds the source {source.path}." in said


def test_a_read_only_target_is_refused(image: Path) -> None:
    with loop(image, read_only=True) as device:
        assert f"{device} is read-only." in target_problems(disk_for(device))


def test_a_member_of_a_volume_group_needs_its_own_confirmation(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", SIZE)
    label = (32).to_bytes(4, "little") + b"LVM2 001" + b"0123456789abcdefghijklmnopqrstuv" + SIZE.to_bytes(8, "little")
    label = label.ljust(512 - 20, b"\0")  # what the label's checksum, a CRC-32 from another start, covers
    checksum = zlib.crc32(label, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    overwrite(image, 512, b"LABELONE" + (1).to_bytes(8, "little") + checksum.to_bytes(4, "little") + label)
    content = probe(image, Extent(0, SIZE))
    assert content is not None
    assert content.kind == "lvm"
    said = members(disk_for(image), {"the whole disk": content, "partition 1": None})
    assert len(said) == 1
    assert said[0].startswith(f"The whole disk of {image} is a member of an LVM volume group (LVM2_member ")


def test_a_disk_that_changed_under_its_name_is_refused(tmp_path: Path, image: Path) -> None:
    before = identity(disk_for(image), "11111111-2222-3333-4444-555555555555")
    check_identity(before, identity(disk_for(image), "11111111-2222-3333-4444-555555555555"))
    with pytest.raises(Refused, match="table uuid was 11111111"):
        check_identity(before, identity(disk_for(image), None))
    other = blank(tmp_path / "other.img", SIZE + 512)
    other.replace(image)
    with pytest.raises(Refused, match=r"size bytes was 33554432, is 33554944; .*file id was"):
        check_identity(before, identity(disk_for(image), before.table_uuid))


def test_a_loop_device_attached_anew_is_another_disk(image: Path) -> None:
    with loop(image) as device:
        before = identity(disk_for(device))
    with loop(image) as again:
        if again != device:
            pytest.skip("another loop device was given")
        with pytest.raises(Refused, match="diskseq was"):
            check_identity(before, identity(disk_for(again)))
