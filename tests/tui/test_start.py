"""The interface that broke is started again; no job is hurt by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tui.start import until_left


def test_an_interface_that_broke_is_started_again_and_says_where_the_reason_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    codes = [1, 1, 0]

    assert until_left(lambda attaches: codes.pop(0), Path("/run/recovery/interface.log"), pause_seconds=0) == 0

    said = capsys.readouterr().err
    assert codes == []
    assert said.count("It starts again") == 2
    assert "/run/recovery/interface.log" in said
    assert "No job was stopped" in said


def test_an_interface_that_always_breaks_gives_the_terminal_back(capsys: pytest.CaptureFixture[str]) -> None:
    runs = []

    def run(attaches: bool) -> int:
        runs.append(attaches)
        return 1

    assert until_left(run, None, pause_seconds=0) == 1
    assert runs == [True, True, False], "what runs may be what breaks it"
    assert "recovery jobs" in capsys.readouterr().err
