"""The recovery program, run as a user runs it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.measure import Measured, measure
from tests.support.machine import run

PROGRAM = Path(sys.executable).parent / "recovery"


class Ours:
    """One repository of ours."""

    def __init__(self, repository: Path) -> None:
        """Make the repository and its password file beside it."""
        self.repository = repository
        password = repository.with_suffix(".password")
        password.write_text("bench\n")
        self.environment = {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD_FILE": str(password)}
        if not repository.exists():
            run(PROGRAM, "init", environment=self.environment)

    def capture(self, image: Path, *, verify: bool, chunk_bytes: int = 0) -> Measured:
        """Capture at zstd level 1, with or without the read-back, in chunks of the usual size when 0."""
        options = [] if verify else ["--no-verify"]
        options += ["--chunk-size", str(chunk_bytes), "--no-space-check"] if chunk_bytes else []
        return measure([PROGRAM, "capture", image, "--level", "1", *options], self.environment)

    def restore(self, target: Path) -> Measured:
        """Restore the newest image without reading it back; the engine fsyncs the target itself."""
        return measure([PROGRAM, "restore", "latest", target, "--yes", "--no-verify"], self.environment)
