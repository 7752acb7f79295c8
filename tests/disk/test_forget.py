"""Forgetting snapshots, by the restic of each version; judged by restic itself and by the size of the folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from recovery import command
from recovery.errors import (
    Cancelled,
    NoRepository,
    ProgramMissing,
    RepositoryLocked,
    UsageError,
    WrongPassword,
)
from recovery.progress import Progress
from recovery.repository.repository import Repository
from recovery.restic import forget, forget_preview, restic_version
from tests.support.disks import MIB
from tests.support.program import PASSWORD, on_terminal, recovery, refused, restic
from tests.support.restic import restic_binaries, restic_id
from tests.support.restic import restic_version as version_of


@pytest.fixture(params=restic_binaries(), ids=restic_id)
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The restic that is found first."""
    found: Path = request.param
    monkeypatch.setenv("PATH", f"{found.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(command, "SEARCH_PATH", f"{found.parent}{os.pathsep}{command.SEARCH_PATH}")
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of three snapshots of 2 MiB that have nothing in common."""
    folder = tmp_path_factory.mktemp("made")
    Repository.init(folder / "repository", PASSWORD)
    file = folder / "file"
    for seed in range(3):
        file.write_bytes(random.Random(seed).randbytes(2 * MIB))
        restic(restic_binaries()[0], "backup", "--quiet", file, repository=folder / "repository")
    return folder / "repository"


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "repository"))


def ids(program: Path, repository: Path) -> list[str]:
    """Oldest first, as restic says."""
    said = json.loads(restic(program, "--no-lock", "snapshots", "--json", repository=repository))
    return [line["id"] for line in sorted(said, key=lambda line: line["time"])]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_preview_says_what_goes_and_stays_and_comes_free_and_writes_nothing(program: Path, repository: Path) -> None:
    first, *others = ids(program, repository)
    files = sorted(repository.rglob("*"))
    preview = forget_preview(repository, PASSWORD, [first])
    assert [line.id for line in preview.removed] == [first]
    assert [line.id for line in preview.kept] == others
    assert preview.freed_bytes is not None
    assert preview.remaining_bytes is not None
    assert 2 * MIB <= preview.freed_bytes < 2.1 * MIB
    assert 4 * MIB <= preview.remaining_bytes < 4.1 * MIB
    assert sorted(repository.rglob("*")) == files
    assert forget_preview(repository, PASSWORD, [first], prune=False).freed_bytes is None


def test_what_is_forgotten_is_gone_and_its_space_free_and_the_rest_is_sound(program: Path, repository: Path) -> None:
    first, second, third = ids(program, repository)
    before = size(repository)
    progress = Progress()
    result = forget(repository, PASSWORD, [first, third], progress=progress)
    assert ids(program, repository) == [second]
    assert result.removed == tuple(sorted([first, third]))
    assert result.freed_bytes == before - size(repository) > 4 * MIB
    assert result.remaining_bytes == size(repository)
    assert not list((repository / "locks").iterdir())
    restic(program, "check", "--read-data", repository=repository)


def test_without_pruning_only_the_snapshots_go(program: Path, repository: Path) -> None:
    first, *others = ids(program, repository)
    result = forget(repository, PASSWORD, [first], prune=False)
    assert ids(program, repository) == others
    assert result.freed_bytes < MIB
    restic(program, "check", repository=repository)


def test_a_prune_that_is_cancelled_leaves_no_lock_and_a_sound_repository(program: Path, repository: Path) -> None:
    """A quick restic may have pruned before it hears of it."""
    progress = _CancelledIn("freeing the space of what nothing needs any more")
    with contextlib.suppress(Cancelled):
        forget(repository, PASSWORD, ids(program, repository)[:2], progress=progress)
    assert len(ids(program, repository)) == 1
    assert not list((repository / "locks").iterdir())
    restic(program, "check", "--read-data", repository=repository)


@pytest.mark.parametrize("tidies_up", [True, False])
def test_a_program_that_tidies_up_is_interrupted_before_it_is_killed(tidies_up: bool, tmp_path: Path) -> None:
    """A shell that removes its lock when it is interrupted; it has set that up when its lock is there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell cannot trap what was ignored before
    lock = tmp_path / "lock"
    script = f"trap 'rm {lock}; exit 130' INT; echo > {lock}; while :; do sleep 0.05; done"

    def interrupt() -> None:
        if lock.exists():
            raise Cancelled("stopped")

    try:
        with pytest.raises(Cancelled):
            command.run(["bash", "-c", script], needed_for="a test", interrupt=interrupt, tidies_up=tidies_up)
    finally:
        signal.signal(signal.SIGINT, before)
    assert lock.exists() is not tidies_up


class _CancelledIn(Progress):
    """Cancelled as soon as a phase begins."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def phase(self, name: str, total_bytes: int = 0) -> None:
        super().phase(name, total_bytes)
        if name == self._name:
            self.cancel()


def test_what_cannot_be_is_said(program: Path, repository: Path, tmp_path: Path) -> None:
    some = ids(program, repository)[:1]
    with pytest.raises(WrongPassword):
        forget_preview(repository, "wrong", some)
    with pytest.raises(NoRepository):
        forget_preview(tmp_path / "nothing", PASSWORD, some)
    with pytest.raises(UsageError, match="holds no snapshot"):
        forget_preview(repository, PASSWORD, ["ab" * 32])
    with pytest.raises(UsageError, match="no snapshot was named"):
        forget(repository, PASSWORD, [])
    assert restic_version() == version_of(program)


def test_a_repository_in_use_is_not_touched(program: Path, repository: Path) -> None:
    before = ids(program, repository)
    with Repository.open(repository, PASSWORD).lock():
        assert forget_preview(repository, PASSWORD, before[:1]).freed_bytes
        with pytest.raises(RepositoryLocked):
            forget(repository, PASSWORD, before[:1])
    assert ids(program, repository) == before


def test_an_empty_password_is_taken_or_it_is_said_which_restic_takes_it(program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    recovery("init", "--no-password", repository=folder)
    if version_of(program) >= (0, 17):
        with pytest.raises(UsageError, match="holds no snapshot"):
            forget_preview(folder, "", ["ab" * 32])
    else:
        with pytest.raises(ProgramMissing, match="opens no repository whose password is empty"):
            forget_preview(folder, "", ["ab" * 32])


def test_a_password_with_spaces_around_it_and_settings_for_another_repository_do_not_mislead(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository"
    monkeypatch.setenv("RESTIC_PASSWORD", "another")
    monkeypatch.setenv("RESTIC_PASSWORD_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("RESTIC_REPOSITORY_FILE", str(tmp_path / "missing"))
    Repository.init(folder, " spaces \u2603 ")
    with pytest.raises(UsageError, match="holds no snapshot"):
        forget_preview(folder, " spaces \u2603 ", ["ab" * 32])


def test_at_a_terminal_it_is_asked_for_by_its_name(program: Path, repository: Path) -> None:
    first, *others = ids(program, repository)
    ran = on_terminal("forget", first[:8], question="Type forget", answer=b"yes\n", repository=repository)
    assert ran.status == 130, ran
    assert "nothing was forgotten" in ran.said
    assert len(ids(program, repository)) == 3
    ran = on_terminal("forget", first[:8], question="Type forget", answer=b"forget\n", repository=repository)
    assert ran.status == 0, ran
    assert "2 snapshots will stay." in ran.said
    assert "About 2.00 MiB will come free." in ran.said
    assert "Forgot 1 snapshot. 2.00 MiB came free" in ran.said
    assert ids(program, repository) == others


def test_the_command_line_previews_and_forgets(program: Path, repository: Path) -> None:
    first, second, third = ids(program, repository)
    said = recovery("forget", "--dry-run", "latest", repository=repository).said
    assert third[:8] in said
    assert "2 snapshots will stay" in said
    refused("forget", first, repository=repository)
    assert len(ids(program, repository)) == 3
    ran = recovery("forget", "--yes", "--json", first[:10], second, repository=repository)
    assert [line["id"] for line in ran.event("plan")["removed"]] == [first, second]
    assert ran.event("summary")["removed"] == sorted([first, second])
    assert ids(program, repository) == [third]


def test_without_restic_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match="restic is not installed"):
        forget_preview(tmp_path, PASSWORD, ["ab" * 32])
