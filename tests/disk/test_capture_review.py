"""A capture that shows its plan and waits: nothing is stored before it was agreed to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from recovery.cli.requests import CaptureRequest
from recovery.cli.spawn import spawn
from recovery.jobs.control import Order
from tests.support.disks import MIB
from tests.support.fleet import noise
from tests.support.program import PASSWORD, recovery

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="captures disks, which only root may")]


def answered(repository: Path, answer: str, *sources: Path) -> tuple[int, list[dict[str, Any]]]:
    """Capture with a review; the exit code, and all that was said."""
    said: list[dict[str, Any]] = []
    with spawn(CaptureRequest(sources, review=True), repository, PASSWORD) as watcher:
        while not watcher.ended:
            fresh = [json.loads(line) for line in watcher.events()]
            said += fresh
            if any(event["message_type"] == "question" for event in fresh):
                assert [event["message_type"] for event in said].count("plan") == 1
                assert not list((repository / "data").glob("*/*"))
                watcher.order(Order("answer", answer))
            watcher.wait(0.1)
        said += [json.loads(line) for line in watcher.events()]
        code, ended_itself = watcher.exit_code()
    assert ended_itself
    return code, said


def test_nothing_is_stored_before_the_plan_was_agreed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOVERY_JOBS", str(tmp_path / "jobs"))
    disk, repository = noise(tmp_path / "disk.img", 3 * MIB), tmp_path / "repository"
    recovery("init", repository=repository)
    for declined in ("", "yes please"):
        code, said = answered(repository, declined, disk)
        assert code == 130
        assert "no image was made" in said[-1]["message"]
        assert not list((repository / "snapshots").iterdir())
        assert not list((repository / "data").glob("*/*"))
        assert not list((repository / "locks").iterdir())
    code, said = answered(repository, "yes no-verify audit", disk)
    assert code == 0
    (snapshot,) = (repository / "snapshots").iterdir()
    (summary,) = [event for event in said if event["message_type"] == "summary"]
    assert summary["snapshot_id"] == snapshot.name
    assert (summary["verified"], summary["audit"]["passed"]) == (False, True)


def test_a_capture_that_cannot_be_done_ends_before_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOVERY_JOBS", str(tmp_path / "jobs"))
    repository = tmp_path / "repository"
    recovery("init", repository=repository)
    inside = noise(repository / "disk.img", MIB)
    code, said = answered(repository, "yes", inside)
    assert code == 20
    assert "question" not in [event["message_type"] for event in said]
