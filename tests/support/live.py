"""The marks of our live system in a folder of a test's own, and disks protected as that system protects them.

Nothing here uses the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.disks import loop, run

MEDIUM_UUID = "2026-11-22-18-04-12-34"
BUILT = 1763800000


@dataclass(frozen=True)
class Live:
    """A folder that stands for / of the live system."""

    root: Path

    def mark(self, kind: str, device: Path) -> Path:
        """The file that says "protected" or "released" of a disk."""
        sequence = (Path("/sys/block") / device.name / "diskseq").read_text().strip()
        return self.root / "run/recovery" / kind / f"{device.name}-{sequence}"

    @contextmanager
    def disk(self, image: Path) -> Iterator[Path]:
        """An image file as a disk that is write-protected, as the image's udev rule does it."""
        with loop(image) as device:
            try:
                self.protect(device)
                yield device
            finally:
                run("blockdev", "--setrw", device)  # a loop device keeps the flag for its next user

    def protect(self, device: Path) -> None:
        run("blockdev", "--setro", device)
        mark = self.mark("protected", device)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def is_protected(self, device: Path) -> bool:
        """Whether the kernel refuses writes, and nothing says that this disk is to be left alone."""
        return run("blockdev", "--getro", device).strip() == "1" and not self.mark("released", device).exists()


def live(folder: Path, monkeypatch: pytest.MonkeyPatch, *, built: int = BUILT, medium: str = MEDIUM_UUID) -> Live:
    """Let this process, and the programs that it starts, find themselves in a live system."""
    made = Live(folder / "live")
    for name, text in {
        "proc/cmdline": f"BOOT_IMAGE=/live/vmlinuz boot=recovery recovery.medium={medium} quiet\n",
        "usr/lib/recovery/build.json": json.dumps({"version": "0.1.0", "epoch": built}),
    }.items():
        place = made.root / name
        place.parent.mkdir(parents=True)
        place.write_text(text)
    monkeypatch.setenv("RECOVERY_LIVE_ROOT", str(made.root))
    return made


def medium(image: Path, folder: Path, uuid: str = MEDIUM_UUID) -> Path:
    """A hybrid image like ours: an ISO 9660 volume with that UUID, behind a GPT."""
    content = folder / "content"
    content.mkdir()
    (content / "file").write_text("live system\n")
    part = folder / "esp"
    part.write_bytes(bytes(1 << 20))
    run(
        *("xorriso", "-as", "mkisofs", "-quiet", "-o", image, "-V", "RECOVERY", "-partition_offset", "16"),
        *("-appended_part_as_gpt", "-append_partition", "2", "0xef", part, content),
        *(f"--modification-date={uuid.replace('-', '')}",),
    )
    with suppress(OSError):
        part.unlink()
    return image
