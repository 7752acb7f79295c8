"""The lock files and the package list say what make setup and the live image rely on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recovery.command import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [".ci/requirements-build.txt", ".ci/requirements-dev.txt", "image-build/requirements.txt"]


def requirements(lock: str) -> dict[str, str]:
    """Each requirement's name, and the whole of what is said about it."""
    joined = (ROOT / lock).read_text().replace("\\\n", " ")
    return {re.split("[=<>~! ;]", line)[0]: line for line in joined.splitlines() if line.strip()}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_one_exact_version_and_hashes(lock: str) -> None:
    for name, line in requirements(lock).items():
        assert re.match(rf"{name}==\d[^ ]* ", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), f"{name} has no hash"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_name_no_index_and_no_host(lock: str) -> None:
    for line in (ROOT / lock).read_text().splitlines():
        assert "://" not in line
        assert not line.startswith("-")


def test_the_live_image_gets_the_very_files_that_the_tests_ran_with() -> None:
    tested = requirements(".ci/requirements-dev.txt")
    for name, line in requirements("image-build/requirements.txt").items():
        assert tested[name].split() == line.split()


def test_packages_that_errors_tell_to_install_are_those_that_setup_installs() -> None:
    listed = {line.split()[0] for line in (ROOT / ".ci/packages").read_text().splitlines() if line and line[0] != "#"}
    assert set(PACKAGES.values()) <= listed
