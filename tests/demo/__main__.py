"""``make demo``: capture a disk of real files, destroy it, restore it, and prove the result with other programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from recovery.units import MIB, format_bytes
from tests.demo.disk import SIZE_BYTES, DemoDisk, check_filesystems, check_table, destroy, make_disk, read_contents
from tests.support.machine import (
    ENVIRONMENT,
    CommandFailed,
    become_root,
    end_on_signals,
    ended,
    hold_back,
    in_own_mount_namespace,
    real_files,
    run,
    upgrade_files,
)
from tests.support.restic import restic_binaries, restic_version

PROGRAM = Path(sys.executable).parent / "recovery"
SOURCES = ["/usr/lib", "/usr/share", "/usr/bin", "/usr/local", "/var/lib"]
FILES_BYTES = 430 * MIB
UPGRADED_SHARE = 0.015
NEEDED_BYTES = 1600 * MIB


class Disagreement(Exception):
    """What was restored is not what was captured."""


class Demo:
    """The story, one method a chapter, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        password = folder / "password"
        password.write_text("correct horse battery staple\n")
        self.environment = {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD_FILE": str(password)}

    def tell(self) -> None:
        """Run the whole story.  Raises Disagreement or CommandFailed."""
        files, spare = hold_back(real_files(SOURCES, FILES_BYTES, largest_bytes=4 * MIB))
        disk = make_disk(self.folder / "disk.img", files, self.folder / "mount")
        total = sum(file.size_bytes for file in files)
        say(
            f"A disk of {format_bytes(SIZE_BYTES)}: GPT, an EFI system partition (FAT32), ext4 with {len(files):,} of "
            f"this machine's files ({format_bytes(total)}), swap."
        )

        self.recovery("init")
        before, seconds = self.recovery("capture", disk.path)
        say(f"Captured in {seconds:.1f} s; the repository holds {format_bytes(before)}.")

        with disk.mounted_root(self.folder / "mount") as root:
            upgrade = upgrade_files(root, UPGRADED_SHARE, spare)
        say(f"An upgrade: {upgrade.files} files replaced, {format_bytes(upgrade.new_bytes)} of new content.")
        after, seconds = self.recovery("capture", disk.path)
        say(f"Captured again in {seconds:.1f} s; that added {format_bytes(after - before)}.")

        original = read_contents(disk, self.folder / "original")
        destroy(disk)
        self.prove_destroyed(disk)
        say("The disk is destroyed: both tables, the superblocks and every other byte overwritten.")

        _, seconds = self.recovery("restore", "latest", disk.path, "--yes")
        say(f"Restored in {seconds:.1f} s.  The proof, by other programs:")
        say(f"  sfdisk --verify: {check_table(disk)}")
        check_filesystems(disk)
        say("  e2fsck -fn, fsck.fat -n: clean")
        difference = original.difference(read_contents(disk, self.folder / "restored"))
        if difference:
            raise Disagreement(f"after the restore this differs: {difference}")
        say(
            f"  {len(original.files):,} files and folders, {format_bytes(original.total_bytes)}: "
            "every SHA-256, mode, owner, time and attribute equal; table and swap too"
        )
        self.check_with_restic()

    def recovery(self, *arguments: str | Path) -> tuple[int, float]:
        """Run the recovery program as a user would; the repository's size (bytes) after it, and how long it took."""
        shown = " ".join(item.name if isinstance(item, Path) else item for item in arguments)
        say(f"\n$ recovery {shown}")
        started = time.monotonic()
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**ENVIRONMENT, **self.environment},
            )
            with ended(process):
                process.wait()
            seconds = time.monotonic() - started
            if process.returncode != 0:
                said.seek(0)
                text = said.read().decode(errors="replace").rstrip()
                raise CommandFailed(f"recovery {shown} ended with {process.returncode}:\n{text}")
        return sum(file.stat().st_size for file in self.repository.rglob("*") if file.is_file()), seconds

    def prove_destroyed(self, disk: DemoDisk) -> None:
        """Make sure that a restore which did nothing could not pass."""
        for partition in (None, disk.esp, disk.root, disk.swap):
            place = [] if partition is None else [f"--offset={partition.offset}", f"--size={partition.length}"]
            seen = subprocess.run(["blkid", "-p", *place, disk.path], capture_output=True, text=True, env=ENVIRONMENT)
            if seen.returncode != 2:
                raise Disagreement(f"the disk should be destroyed, but blkid still finds: {seen.stdout}")

    def check_with_restic(self) -> None:
        """Let stock restic read and check every byte of the repository."""
        for restic in restic_binaries():
            said = run(restic, "--no-cache", "check", "--read-data", environment=self.environment)
            verdict = said.strip().splitlines()[-1]
            version = ".".join(map(str, restic_version(restic)))
            say(f"  restic {version} check --read-data: {verdict}")


def say(text: str) -> None:
    """One line of the story, at once."""
    print(text, flush=True)


def main() -> int:
    """Run the demo.  Exit status 0 only when everything agreed."""
    parent = Path(os.environ.get("TMPDIR") or "build")
    parent.mkdir(parents=True, exist_ok=True)
    become_root("tests.demo")
    in_own_mount_namespace("tests.demo")
    end_on_signals()
    free = shutil.disk_usage(parent).free
    if free < NEEDED_BYTES:
        say(
            f"{parent} has {format_bytes(free)} free; the demo needs {format_bytes(NEEDED_BYTES)}. "
            "TMPDIR names another place."
        )
        return 1
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-", dir=parent.resolve()))
            Demo(Path(folder)).tell()
    except KeyboardInterrupt:
        say("\nInterrupted; cleaned up.")
        return 130
    except (CommandFailed, Disagreement) as failure:
        say(f"\nFAILED: {failure}")
        return 1
    say(f"\nEverything agrees, after {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
