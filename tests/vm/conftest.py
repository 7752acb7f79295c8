"""These tests boot virtual machines for hours: they run only when this folder is named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: boots virtual machines")
    config.addinivalue_line("markers", "core: the part that continuous integration runs")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(_HERE) for path in named) else True
