"""Words of the command line that are more than words: lists of partitions, sizes, the repository's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.cli.images import _chunk_bytes, _numbers
from recovery.cli.options import Common
from recovery.errors import UsageError
from recovery.units import KIB, MIB


@pytest.mark.parametrize(("text", "numbers"), [(None, None), ("1", {1}), ("3,1,3", {1, 3}), (" 1 , 2 ", {1, 2})])
def test_lists_of_partitions(text: str | None, numbers: set[int] | None) -> None:
    assert _numbers(text) == numbers


@pytest.mark.parametrize("text", ["", ",", "1,", "1;2", "one", "1.5", "1-3", "0x1"])
def test_what_is_no_list_of_partitions(text: str) -> None:
    with pytest.raises(UsageError):
        _numbers(text)


@pytest.mark.parametrize(("text", "size"), [("64K", 64 * KIB), ("4M", 4 * MIB), ("8M", 8 * MIB), ("1048576", MIB)])
def test_sizes_of_chunks(text: str, size: int) -> None:
    assert _chunk_bytes(text) == size


@pytest.mark.parametrize("text", ["0", "32K", "65K", "16M", "-1", "1.5M", "much"])
def test_what_is_no_size_of_a_chunk(text: str) -> None:
    with pytest.raises(UsageError):
        _chunk_bytes(text)


def test_the_repository_may_be_named_in_three_places(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Common(None, None, False, False)
    monkeypatch.delenv("RESTIC_REPOSITORY", raising=False)
    with pytest.raises(UsageError, match="no repository"):
        nothing.folder()
    monkeypatch.setenv("RESTIC_REPOSITORY", "/a")
    assert nothing.folder() == Path("/a")
    assert nothing.merged(repo="/b").folder() == Path("/b")
    assert Common("/c", None, False, False).merged().folder() == Path("/c")
    assert Common("/c", None, False, False).merged(repo="/d").folder() == Path("/d")
    assert Common("local:/e", None, False, False).folder() == Path("/e")


@pytest.mark.parametrize("name", ["sftp:host:/x", "s3:https://host/bucket", "rest:http://host/", "RCLONE:remote:x"])
def test_stores_that_are_no_folder_are_named_as_such(name: str) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        Common(name, None, False, False).folder()


def test_a_password_is_read_without_the_white_space_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "password"
    file.write_bytes("  gehe\u0069m ä \r\n".encode())
    assert Common(None, file, False, False).password() == "geheim ä"
    assert Common(None, file, True, False).password() == ""
    monkeypatch.setenv("RESTIC_PASSWORD_FILE", str(file))
    assert Common(None, None, False, False).password() == "geheim ä"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        Common(None, file, False, False).password()
