"""Repositories for tests, without the key files that take a tenth of a second each."""

from __future__ import annotations

from pathlib import Path

from recovery.repository.crypto import Key
from recovery.repository.format import Config
from recovery.repository.repository import Repository
from recovery.repository.store import LocalStore


def fresh_repository(folder: Path, version: int = 2, store: type[LocalStore] = LocalStore) -> Repository:
    """An empty repository in ``folder`` that only who has this object can open."""
    made = store(folder)
    made.create()
    return Repository(made, Key.generate(), Config(version, "ab" * 32, "3DA3358B4DC173"))


def reopened(repository: Repository) -> Repository:
    """The same repository as another program finds it: in memory is what its index files say, and no more."""
    other = Repository(LocalStore(repository.store.root), repository.key, repository.config)
    other.load_index()
    return other
