"""Files off filesystems that do not mount: nothing that is damaged is called whole, and the source is never written."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.broken import DAMAGES, KINDS, digest, make
from tests.support.disks import KIB, MIB, blank, loop, mounted, partitioned, run, sha256
from tests.support.faulty_disk import Faults, faulty_disk
from tests.support.program import Ran, recovery, refused

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="fills filesystems, which only root may")]

Made = tuple[Path, dict[str, str]]
REPORT = "salvage-report.json"
#: Another one is another damage.
SEED = int(os.environ.get("SALVAGE_SEED", "1"))


@pytest.fixture(scope="module")
def image_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """An image of each kind, made once for all processes of a run; it must not be changed."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str) -> Made:
        kind = KINDS[name]
        missing = kind.missing()
        if missing:
            pytest.skip(f"{', '.join(missing)} not installed")
        folder = shared / f"salvage-{name}"
        with (shared / f"salvage-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            told = folder / "made.json"
            if not told.exists():
                folder.mkdir()
                told.write_text(json.dumps(make(kind, folder)[1]))
        return folder / f"{name}.img", json.loads(told.read_text())

    return get


def saved(ran: Ran, to: Path) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """By the path below their volume: files that are called whole, those that are called damaged; and the report."""
    report = json.loads((to / REPORT).read_text())
    (volume,) = [volume for volume in report["volumes"] if "totals" in volume]
    damaged = {entry["saved_as"] for entry in report["not_whole"] if entry["saved_as"]}
    top = to / volume["folder"]
    called: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = path.relative_to(to).as_posix()
            called[name in damaged][path.relative_to(top).as_posix()] = digest(path)
    totals = report["totals"]
    assert totals["found"] == totals["whole"] + totals["damaged"] + totals["lost"], ran
    assert ran.event("summary")["found"] == totals["found"]
    return called[0], called[1], report


def salvage(image: Path, to: Path, *more: str, status: int | None = None) -> Ran:
    before = sha256(image)
    ran = recovery("--json", "salvage", image, "--to", to, *more, status=status)
    assert ran.status in (0, 3), ran
    assert sha256(image) == before, "the source was written to"
    return ran


@pytest.mark.parametrize("name", KINDS)
def test_all_of_a_healthy_filesystem_is_had(name: str, image_of: Callable[[str], Made], tmp_path: Path) -> None:
    image, files = image_of(name)
    whole, damaged, report = saved(salvage(image, tmp_path / "saved", status=0), tmp_path / "saved")
    assert whole == files
    assert not damaged
    assert not report["not_whole"]


@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs"])
def test_names_modes_owners_times_links_and_attributes_are_kept(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    image = blank(tmp_path / f"{name}.img", kind.size)
    run(*kind.mkfs, image)
    with loop(image) as device, mounted(device, tmp_path / "mounted") as at:
        (at / "folder").mkdir(mode=0o710)
        (at / "folder" / "file").write_bytes(b"content")
        os.chown(at / "folder" / "file", 1234, 70000)
        (at / "folder" / "file").chmod(0o4751)
        os.setxattr(at / "folder" / "file", "user.note", b"kept")
        os.utime(at / "folder" / "file", ns=(10**18 + 5, 4 * 10**18 + 7))
        os.link(at / "folder" / "file", at / "another name")
        (at / "link").symlink_to("folder/file")
        (at / "long link").symlink_to("a" * 900)
        with (at / os.fsdecode(b"not \xff UTF-8")).open("wb") as file:
            file.truncate(MIB)
            file.seek(8 * KIB)
            file.write(b"x" * 9 * KIB)
        run("setfacl", "-m", "u:33:r", at / "folder")
        expected = listed(at)
    salvage(image, tmp_path / "saved", status=0)
    top = next(path for path in (tmp_path / "saved").iterdir() if path.is_dir())
    assert listed(top) == expected
    assert (top / "another name").samefile(top / "folder" / "file")
    assert os.getxattr(top / "folder" / "file", "user.note") == b"kept"
    assert "user:www-data:r--" in run("getfacl", top / "folder") or "user:33:r--" in run("getfacl", top / "folder")


def listed(top: Path) -> list[str]:
    """Path, kind, mode, owner, time and target of everything but empty lost+found."""
    form = "%P|%y|%m|%U|%G|%T@|%l\n"
    raw = subprocess.run(["find", top, "-mindepth", "1", "-printf", form], capture_output=True, check=True).stdout
    return sorted(
        line for line in raw.decode(errors="surrogateescape").splitlines() if not line.startswith("lost+found")
    )


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_called_whole_is_whole(name: str, damage: str, image_of: Callable[[str], Made], tmp_path: Path) -> None:
    pristine, files = image_of(name)
    image = tmp_path / f"{name}.img"
    run("cp", "--sparse=always", pristine, image)
    DAMAGES[damage](image, random.Random(f"{name} {damage} {SEED}"))
    before = sha256(image)
    ran = recovery("--json", "salvage", image, "--to", tmp_path / "saved", status=None)
    assert sha256(image) == before, "the source was written to"
    if ran.status == 2:  # nothing is left that says what it was
        assert damage in ("first MiB", "cut"), ran
        return
    assert ran.status in (0, 3), ran
    whole, _, report = saved(ran, tmp_path / "saved")
    wrong = [path for path, found in whole.items() if found not in set(files.values())]
    assert not wrong, f"called whole, and is not: {wrong}\n{report['volumes']}"
    if damage == "head":
        assert whole == files


@pytest.mark.parametrize("options", [(), ("-O", "^metadata_csum"), ("-b", "1024"), ("-t", "ext3")], ids=" ".join)
def test_what_is_only_in_the_journal_is_had_too(options: tuple[str, ...], tmp_path: Path) -> None:
    image, crashed = blank(tmp_path / "disk.img", 64 * MIB), tmp_path / "crashed.img"
    run("mkfs.ext4", "-q", "-F", *options, image)
    made = random.Random(SEED)
    with loop(image) as device, mounted(device, tmp_path / "mounted", "data=journal") as at:
        for number in range(60):
            (at / f"folder {number % 5}").mkdir(exist_ok=True)
            (at / f"folder {number % 5}" / f"{number}").write_bytes(made.randbytes(made.randrange(20000)))
        os.sync()
        for number in range(0, 60, 3):
            (at / f"folder {number % 5}" / f"{number}").unlink()
        (at / "like a journal").write_bytes(b"\xc0\x3b\x39\x98" * 2048)
        for number in range(60, 90):
            with (at / f"folder {number % 5}" / f"{number}").open("wb") as file:
                file.write(made.randbytes(made.randrange(20000)))
                file.flush()
                os.fsync(file.fileno())
        run("cp", "--sparse=always", image, crashed)
    assert "needs_recovery" in run("dumpe2fs", "-h", crashed)
    salvage(crashed, tmp_path / "saved", status=0)
    with loop(crashed) as device, mounted(device, tmp_path / "after") as at:  # the kernel replays it
        expected = {path.relative_to(at).as_posix(): digest(path) for path in at.rglob("*") if path.is_file()}
    top = next(path for path in (tmp_path / "saved").iterdir() if path.is_dir())
    assert {path.relative_to(top).as_posix(): digest(path) for path in top.rglob("*") if path.is_file()} == expected


@pytest.mark.parametrize("name", KINDS)
def test_files_on_unreadable_sectors_are_damaged_and_say_where(
    name: str, image_of: Callable[[str], Made], tmp_path: Path
) -> None:
    image, files = image_of(name)
    hit = "noise-3.bin"
    content = (image.parent / f"{name}-files" / hit).read_bytes()
    at = image.read_bytes().index(content[16 * KIB : 20 * KIB])
    bad = (at, 4 * KIB)
    with faulty_disk(Faults(str(image), unreadable=(bad,))) as disk:
        ran = recovery("--json", "salvage", disk, "--to", tmp_path / "saved", status=3)
    whole, damaged, report = saved(ran, tmp_path / "saved")
    assert whole == {path: found for path, found in files.items() if path != hit}
    assert list(damaged) == [hit]
    (told,) = report["not_whole"]
    assert told["bad"] == [[16 * KIB, 4 * KIB]]
    top = next(path for path in (tmp_path / "saved").iterdir() if path.is_dir())
    assert (top / hit).read_bytes() == content[: 16 * KIB] + bytes(4 * KIB) + content[20 * KIB :]


def test_a_disk_whose_table_is_gone_is_searched(image_of: Callable[[str], Made], tmp_path: Path) -> None:
    (first, files), (second, others) = image_of("ext4"), image_of("ntfs")
    table = f"label: gpt\nstart=2048, size={first.stat().st_size // 512}\nsize={second.stat().st_size // 512}\n"
    disk = partitioned(tmp_path / "disk.img", 200 * MIB, table)
    places = [
        entry["start"] * 512 for entry in json.loads(run("sfdisk", "--json", disk))["partitiontable"]["partitions"]
    ]
    with disk.open("r+b") as file:
        for place, image in zip(places, (first, second), strict=True):
            file.seek(place)
            file.write(image.read_bytes())
        for place in (0, 200 * MIB - 34 * 512, places[0]):  # the table, its copy, and the first superblock
            file.seek(place)
            file.write(bytes(34 * 512))
    found = recovery("--json", "scan", disk).event("summary")["filesystems"]
    assert [(one["filesystem"], one["offset"]) for one in found] == [("ext4", places[0]), ("ntfs", places[1])]
    assert all(one["evidence"] for one in found)
    recovery("salvage", disk, "--to", tmp_path / "saved")
    for path, told in {**{f"partition-1-LABEL/{p}": d for p, d in files.items()}}.items():
        assert digest(tmp_path / "saved" / path) == told
    for path, told in others.items():
        assert digest(tmp_path / "saved" / "partition-2" / path) == told


def test_files_are_chosen_by_pattern_and_kind(image_of: Callable[[str], Made], tmp_path: Path) -> None:
    image, files = image_of("ext4")
    salvage(image, tmp_path / "a", "--path", "noise-*", status=0)
    assert set(saved_paths(tmp_path / "a")) == {path for path in files if path.startswith("noise-")}
    salvage(image, tmp_path / "b", "--path", "folder 1/inner", "--kind", "documents", status=0)
    assert set(saved_paths(tmp_path / "b")) == {path for path in files if path.startswith("folder 1/inner/")}
    assert json.loads((tmp_path / "b" / REPORT).read_text())["totals"]["left_out"] == len(files) + 1 - len(
        saved_paths(tmp_path / "b")
    )


def saved_paths(to: Path) -> list[str]:
    top = next(path for path in to.iterdir() if path.is_dir())
    return [path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()]


def test_a_list_reads_no_file_and_saves_nothing(image_of: Callable[[str], Made], tmp_path: Path) -> None:
    image, files = image_of("ext4")
    log = tmp_path / "log"
    with faulty_disk(Faults(str(image), log=str(log))) as disk:
        ran = recovery("--json", "salvage", disk, "--list")
    listed = {event["path"]: event["size_bytes"] for event in ran.events if event["message_type"] == "file"}
    assert files.keys() <= listed.keys()
    assert all(listed[path] == (image.parent / "ext4-files" / path).stat().st_size for path in files)
    assert sum(int(line.split()[1]) for line in log.read_text().splitlines()) < image.stat().st_size // 2


def test_what_cannot_be_is_refused(image_of: Callable[[str], Made], tmp_path: Path) -> None:
    image, _ = image_of("ext4")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    assert "is not empty" in refused("salvage", image, "--to", tmp_path / "full", status=2)
    assert "--to FOLDER or --list" in refused("salvage", image, status=2)
    empty = blank(tmp_path / "blank.img", 4 * MIB)
    told = refused("salvage", empty, "--to", tmp_path / "to", status=2)
    assert "filesystem was found" in told
    with loop(image) as device, mounted(device, tmp_path / "mounted") as at:
        assert "lies on" in refused("salvage", device, "--to", at / "saved")
        assert "lies on" in refused("salvage", image, "--to", at / "saved")


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path) -> None:
    image, victim = blank(tmp_path / "disk.img", 32 * MIB), tmp_path / "victim"
    victim.mkdir()
    run("mkfs.ext4", "-q", "-F", image)
    with loop(image) as device, mounted(device, tmp_path / "mounted") as at:
        (at / "nameless").symlink_to(victim)
        (at / "up").mkdir()
        (at / "up" / "link").symlink_to("../../../victim/made")
        (at / "gone").mkdir()
        (at / "gone" / "link without a name").symlink_to("somewhere")
        (at / "gone" / "file without a name").write_bytes(b"content")
        number = (at / "gone").stat().st_ino
    run("debugfs", "-w", "-R", f"clri <{number}>", image)  # what was in it is in no folder any more
    salvage(image, tmp_path / "saved", status=3)
    assert not list(victim.iterdir())
    (found,) = [path for path in (tmp_path / "saved").rglob("file-*") if path.is_file() and not path.is_symlink()]
    assert found.read_bytes() == b"content"


def test_names_that_the_destination_cannot_have_end_nothing(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", 32 * MIB)
    run("mkfs.ext2", "-q", "-F", "-b", "1024", image)
    with loop(image) as device, mounted(device, tmp_path / "mounted") as at:
        (at / "link").symlink_to("a\u00e4" * 5)
        (at / "whole").write_bytes(b"whole")
        (at / "absurd").write_bytes(b"x" * 5000)
        deep = at
        for _ in range(8):
            deep = deep / ("d" * 200)
            deep.mkdir()
        (deep / "deep").write_bytes(b"deep")
    data = bytearray(image.read_bytes())
    place = data.index("a\u00e4".encode() * 5)
    data[place + 2] = 0  # in the middle of where the link leads to
    image.write_bytes(data)
    run("debugfs", "-w", "-R", "sif absurd size 0x7fffffff00000000", image)
    salvage(image, tmp_path / "saved", status=3)
    report = json.loads((tmp_path / "saved" / REPORT).read_text())
    assert {entry["path"] for entry in report["not_whole"]} == {"link", "absurd"}
    assert (tmp_path / "saved/disk/whole").read_bytes() == b"whole"
    (found,) = (tmp_path / "saved").rglob("deep")
    assert found.read_bytes() == b"deep"


@pytest.mark.parametrize("checksum", ["crc32c", "xxhash", "sha256", "blake2"])
def test_content_of_a_btrfs_that_nothing_vouches_for_is_not_whole(checksum: str, tmp_path: Path) -> None:
    image = blank(tmp_path / "btrfs.img", 128 * MIB)
    run("mkfs.btrfs", "-q", "-f", "--csum", checksum, image)
    content = random.Random(SEED).randbytes(300 * KIB)
    with loop(image) as device, mounted(device, tmp_path / "mounted") as at:
        (at / "file").write_bytes(content)
        (at / "other").write_bytes(content[::-1])
    data = bytearray(image.read_bytes())
    data[data.index(content[8 * KIB : 9 * KIB])] ^= 1
    image.write_bytes(data)
    salvage(image, tmp_path / "saved", status=3)
    (told,) = json.loads((tmp_path / "saved" / REPORT).read_text())["not_whole"]
    assert (told["path"], told["bad"]) == ("file", [[8 * KIB, 4 * KIB]])
    if checksum == "crc32c":
        owner = (7).to_bytes(8, "little")
        fsid = bytes(data[64 * KIB + 32 : 64 * KIB + 48])
        for place in range(0, len(data), 4 * KIB):  # every node of the tree of checksums
            if data[place + 32 : place + 48] == fsid and data[place + 88 : place + 96] == owner:
                data[place] ^= 1
        image.write_bytes(data)
        salvage(image, tmp_path / "doubtful", status=3)
        not_whole = json.loads((tmp_path / "doubtful" / REPORT).read_text())["not_whole"]
        assert {entry["path"] for entry in not_whole} == {"file", "other"}


def test_a_full_destination_is_told_and_what_was_saved_stays(image_of: Callable[[str], Made], tmp_path: Path) -> None:
    image, _ = image_of("ext4")
    small = blank(tmp_path / "small.img", 4 * MIB)
    run("mkfs.ext4", "-q", "-F", small)
    with loop(small) as device, mounted(device, tmp_path / "small") as at:
        told = refused("salvage", image, "--to", at / "saved", status=23)
        assert "no room left" in told
        assert any(path.stat().st_size for path in (at / "saved").rglob("noise-*"))
