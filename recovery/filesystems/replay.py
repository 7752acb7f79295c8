"""Ways to bring a filesystem up to date that was not closed cleanly; on a copy-on-write view, never on a source.

Mounting is what the machine itself would have done next.  It happens in a mount namespace of its own, so that nothing
stays mounted whatever becomes of us.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from recovery.command import Completed, run
from recovery.filesystems.mapped import Interrupt
from recovery.filesystems.source import CaptureWhole

#: ``way(device, interrupt)``: raises CaptureWhole with the reason when it did not succeed.
Way = Callable[[Path, Interrupt | None], None]

_SECONDS = 1800
_MOUNT = 'mount -i -n -t "$1" -o "$2" "$3" "$4" || exit 3; umount -n "$4" || exit 4'


def by_mounting(kind: str, options: str) -> Way:
    """Mount and unmount it with the kernel's driver ``kind``."""

    def way(device: Path, interrupt: Interrupt | None) -> None:
        with tempfile.TemporaryDirectory(prefix="recovery-mount-") as folder:
            ended = run(
                [
                    "unshare",
                    "--mount",
                    "--propagation",
                    "slave",
                    "sh",
                    "-c",
                    _MOUNT,
                    "sh",
                    kind,
                    options,
                    device,
                    folder,
                ],
                needed_for="replaying the journal of a filesystem on a copy",
                timeout_seconds=_SECONDS,
                check=False,
                interrupt=interrupt,
            )
        if kind == "btrfs":  # or the kernel keeps the view in mind as the place of this filesystem
            run(["btrfs", "device", "scan", "--forget", device], needed_for="forgetting a btrfs", check=False)
        if not ended.ok:
            raise CaptureWhole(f"mounting a copy of it failed: {_why(ended, f'mount: {folder}: ')}")

    return way


def by_program(*arguments: str, accepted: tuple[int, ...] = (0,)) -> Way:
    """Let the filesystem's own program do it, with the device as its last argument; ``accepted`` are exit statuses."""

    def way(device: Path, interrupt: Interrupt | None) -> None:
        ended = run(
            [*arguments, device],
            needed_for="bringing a copy of a filesystem up to date",
            timeout_seconds=_SECONDS,
            check=False,
            interrupt=interrupt,
        )
        if ended.status not in accepted:
            raise CaptureWhole(f"{arguments[0]} failed on a copy of it: {_why(ended, f'{device}: ')}")

    return way


def _why(ended: Completed, name: str) -> str:
    """What it said, without the ``name`` that only we gave the copy; mount's last line is that dmesg may say more."""
    lines = [line.strip() for line in (ended.stderr or ended.stdout).decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and not line.startswith("dmesg(1)")]
    return telling[-1].replace(name, "") if telling else ended.reason
