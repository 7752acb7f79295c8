"""The command line: each mistake is one clear message with a hint and an exit code; answers are JSON when asked."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.disks import MIB, blank, run
from tests.support.fleet import noise
from tests.support.program import PASSWORD, recovery, refused, restic
from tests.support.restic import restic_binaries

pytestmark = pytest.mark.disk

RESTIC = restic_binaries()[-1]


@dataclass(frozen=True)
class Place:
    """A repository with an image and a snapshot of files, the older and the newer."""

    repository: Path
    disk: Path
    image: str
    files: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("cli")
    repository, disk = folder / "repository", noise(folder / "disk.img", 3 * MIB)
    recovery("init", repository=repository, quick_keys=False)
    image = recovery("capture", disk, "--json", repository=repository).event("summary")["snapshot_id"]
    (folder / "files").mkdir()
    (folder / "files" / "system.json").write_text("{}")
    restic(RESTIC, "backup", folder / "files", repository=repository)
    listed = json.loads(restic(RESTIC, "snapshots", "--json", repository=repository))
    files = next(snapshot["id"] for snapshot in listed if snapshot["id"] != image)
    return Place(repository, disk, image, files)


@pytest.mark.parametrize(
    ("what", "status"),
    [("folder", 21), ("empty", 21), ("missing", 21), ("/dev/null", 21), ("fifo", 21), ("loop", 21), ("n" * 500, 21)],
    ids=lambda value: value[:8] if isinstance(value, str) else "",
)
@pytest.mark.parametrize("command", ["capture", "restore", "disks"])
def test_what_is_no_disk_is_said_to_be_none(what: str, status: int, command: str, place: Place, tmp_path: Path) -> None:
    named = tmp_path / what
    if what == "folder":
        named.mkdir()
    elif what == "empty":
        named.touch()
    elif what == "fifo":
        os.mkfifo(named)
    elif what == "loop":
        named.symlink_to(named)
    if command == "capture":
        refused("capture", named, repository=place.repository, status=status)
    elif command == "disks":
        refused("disks", named, status=status)
    elif what == "missing":
        recovery("restore", "latest", named, "--yes", repository=place.repository)  # a new file
    elif what == "loop":
        assert recovery("restore", "latest", named, "--yes", repository=place.repository, status=None).status in (
            20,
            21,
        )
    elif what.startswith("n"):
        refused("restore", "latest", named, "--yes", repository=place.repository, status=2)
    else:
        refused("restore", "latest", named, "--yes", repository=place.repository, status=status)


def test_a_mistyped_device_is_not_made_as_a_file(place: Place) -> None:
    refused("restore", "latest", "/dev/sdzz", "--yes", repository=place.repository, status=2)
    assert not Path("/dev/sdzz").exists()
    refused("restore", "latest", "/nowhere/at/all.img", "--yes", repository=place.repository, status=2)


@pytest.mark.parametrize("command", ["show", "verify", "restore"])
def test_an_unknown_snapshot_is_a_usage_error(command: str, place: Place, tmp_path: Path) -> None:
    target = [str(tmp_path / "x.img"), "--yes"] if command == "restore" else []
    for name in ("../../etc", "", "lates") if command == "show" else ("0" * 64,):
        refused(command, name, *target, repository=place.repository, status=2)


@pytest.mark.parametrize("command", ["show", "verify", "restore"])
def test_a_snapshot_of_files_is_no_image_even_if_it_holds_a_system_json(
    command: str, place: Place, tmp_path: Path
) -> None:
    target = [str(tmp_path / "x.img"), "--yes"] if command == "restore" else []
    message = refused(command, place.files[:10], *target, repository=place.repository, status=2)
    assert "not a system image" in message


def test_latest_is_the_latest_image_although_files_came_later(place: Place) -> None:
    assert recovery("show", "latest", "--json", repository=place.repository).document["id"] == place.image
    assert (
        recovery("show", place.image[:6].upper(), "--json", repository=place.repository).document["id"] == place.image
    )


def test_snapshots_tells_images_from_files(place: Place) -> None:
    kinds = {s["id"]: s["kind"] for s in recovery("snapshots", "--json", repository=place.repository).document}
    assert kinds == {place.image: "system image", place.files: "files"}
    assert place.image[:8] in recovery("snapshots", repository=place.repository).said


def test_a_damaged_snapshot_does_not_spoil_the_answer(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    run("cp", "-r", place.repository, copy)
    path = copy / "snapshots" / place.files
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    ran = recovery("snapshots", "--json", repository=copy)
    assert [snapshot["id"] for snapshot in ran.document] == [place.image]
    assert place.files[:8] in ran.err
    assert place.files[:8] in recovery("snapshots", repository=copy).err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("capture",), 2),
        (("restore", "latest"), 2),
        (("nonsense",), 2),
        (("capture", "--nonsense", "x"), 2),
        (("capture", "--level", "99", "x"), 2),
        (("restore", "latest", "x", "--partition", "one"), 2),
        (("init", "--format-version", "3"), 2),
        (("capture", "x", "--chunk-size", "1000"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_words_that_make_no_sense_are_a_usage_error(words: tuple[str, ...], status: int, place: Place) -> None:
    refused(*words, repository=place.repository, status=status)


def test_a_place_without_a_repository(place: Place, tmp_path: Path) -> None:
    for command in (("snapshots",), ("show",), ("verify",), ("capture", place.disk)):
        refused(*command, repository=tmp_path / "none", status=10)
        refused(*command, status=2)
    assert "not a folder" in refused("snapshots", repository=Path("sftp:host:/x"), status=2)


def test_passwords(place: Place, tmp_path: Path) -> None:
    right, wrong, empty = tmp_path / "right", tmp_path / "wrong", tmp_path / "empty"
    right.write_text(f"{PASSWORD}\n")
    wrong.write_text("something else")
    empty.touch()
    recovery("snapshots", "-p", right, repository=place.repository)
    recovery("-p", right, "snapshots", repository=place.repository)
    refused("snapshots", "-p", wrong, repository=place.repository, status=12)
    refused("snapshots", "--no-password", repository=place.repository, status=12)
    refused("snapshots", "-p", empty, repository=place.repository, status=2)
    refused("snapshots", "-p", tmp_path / "none", repository=place.repository, status=2)
    refused("snapshots", "-p", tmp_path, repository=place.repository, status=2)


def test_an_empty_password_that_is_asked_for_works(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    recovery("init", "--no-password", repository=repository)
    recovery("capture", noise(tmp_path / "disk.img", MIB), "--no-password", repository=repository)
    refused("snapshots", repository=repository, status=12)
    assert len(recovery("snapshots", "--no-password", "--json", repository=repository).document) == 1


def test_a_repository_is_not_made_over_something(place: Place, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    (tmp_path / "file").touch()
    refused("init", repository=place.repository, status=2)
    refused("init", repository=tmp_path / "full", status=2)
    assert refused("init", repository=tmp_path / "file", status=10)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["something"]


def test_errors_are_one_line_of_json_when_asked(place: Place, tmp_path: Path) -> None:
    for words, status in (
        (("show", "ffff", "--json"), 2),
        (("--json", "capture", tmp_path / "none"), 21),
        (("verify", place.files, "--json"), 2),
        (("capture", "--json", "--nonsense"), 2),
    ):
        ran = recovery(*words, repository=place.repository, status=status)
        error = ran.events[-1]
        assert error["message_type"] == "error"
        assert error["code"] == status
        assert error["message"]
        assert error["hint"]
        assert ran.err == ""


def test_work_is_told_line_by_line(place: Place, tmp_path: Path) -> None:
    for words in (
        ("restore", "latest", tmp_path / "a.img", "--yes"),
        ("clone", place.disk, tmp_path / "b.img", "--yes"),
        ("verify",),
        ("init", "--repo", tmp_path / "new"),
    ):
        ran = recovery(*words, "--json", repository=place.repository)
        assert ran.events[-1]["message_type"] in ("summary", "initialized")
        assert all("message_type" in event for event in ran.events)


def test_questions_are_one_document(place: Place) -> None:
    for words in (("snapshots",), ("show",), ("disks", place.disk), ("disks",)):
        ran = recovery(*words, "--json", repository=place.repository)
        assert isinstance(ran.document, (list, dict))
        assert ran.err == ""


def test_no_lock_stays_behind_an_error(place: Place, tmp_path: Path) -> None:
    refused("capture", tmp_path / "none", repository=place.repository, status=21)
    refused("restore", "latest", blank(tmp_path / "small", MIB), "--yes", repository=place.repository)
    assert list((place.repository / "locks").iterdir()) == []
