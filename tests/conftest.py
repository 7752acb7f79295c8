"""For all tests: hypothesis judges behaviour and not how busy the machine is; what takes long begins first."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

#: The files that take longest, the longest first (by --durations=0): begun last, one of them would keep all others
#: waiting for its end.
_LONG = (
    *("drills", "repository", "audit", "cycle", "restore", "restic_interop", "cli", "capture", "borrowed", "jobs"),
    *("responsive", "places", "destination", "recorded", "locks", "pictures", "look", "domain", "rescue", "clone"),
    *("filesystems_mapped", "job", "crashed", "refusals", "forget", "verify", "table", "boot_entries", "read_errors"),
    *("terminal", "hard_cases", "sparse_sources", "live", "differential", "filesystems_whole", "serve"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; within a file nothing changes its place."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))
