"""Every failure drill once, short and with a fixed seed.  ``python -m tests.soak`` runs them with fresh ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.drills import Bench, Drill, drills
from tests.support.faults import apart
from tests.support.fleet import workplace

pytestmark = [pytest.mark.disk, pytest.mark.skipif(os.geteuid() != 0, reason="mounts and attaches, as only root may")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with workplace(tmp_path, "drill", 1 << 29) as work:
        yield Bench(work, seed=1)


@pytest.mark.parametrize("drill", drills(), ids=str)
def test_that(drill: Drill, bench: Bench) -> None:
    def run() -> dict[str, int]:
        drill.run(bench)
        return bench.counts

    assert sum(apart(run).values()) > 0
