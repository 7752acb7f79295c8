"""Loop devices, mounts and this machine's own files, for the demo and the benchmark."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{_SBIN}", "LC_ALL": "C"}


class CommandFailed(Exception):
    """A program exited with anything but 0; the text is its command line and what it said."""


def run(*arguments: str | Path, input: str | None = None, environment: dict[str, str] | None = None) -> str:
    """What a program writes to stdout.  Raises CommandFailed."""
    ended = subprocess.run(
        arguments,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        env={**ENVIRONMENT, **(environment or {})},
    )
    if ended.returncode != 0:
        raise CommandFailed(
            f"{' '.join(map(str, arguments))}\nexit status {ended.returncode}\n{ended.stdout}{ended.stderr}".rstrip()
        )
    return ended.stdout


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Behind the ``with`` block the process is gone: what interrupts us ends it too, gently first."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def become_root(module: str) -> None:
    """Go on as root: through sudo where it is there, else say so and exit with 1."""
    if os.geteuid() == 0:
        return
    program = ["sudo", "--preserve-env=TMPDIR", sys.executable, "-m", module, *sys.argv[1:]]
    try:
        os.execvp(program[0], program)
    except FileNotFoundError:
        sys.exit("This mounts filesystems, which only root may: run it as root (there is no sudo here).")


def in_own_mount_namespace(module: str) -> None:
    """Go on where no mount outlives the process, however it ends; in a chroot, which forbids that, where we are."""
    if os.environ.get("RECOVERY_TEST_NAMESPACE") == str(os.getpid()):
        return
    os.environ["RECOVERY_TEST_NAMESPACE"] = str(os.getpid())
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
        os.execvp(unshare[0], [*unshare, sys.executable, "-m", module, *sys.argv[1:]])


def end_on_signals() -> None:
    """Let a terminating signal unwind the program as Ctrl-C does, so that it cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


@contextmanager
def loop_device(path: Path, offset: int = 0, length: int = 0, *, read_only: bool = False) -> Iterator[Path]:
    """A block device over ``length`` bytes of ``path`` from ``offset`` on; to the end when 0."""
    arguments = ["losetup", "--find", "--show", f"--offset={offset}"]
    arguments += [f"--sizelimit={length}"] if length else []
    arguments += ["--read-only"] if read_only else []
    device = Path(run(*arguments, path).strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(device: Path, folder: Path, *, read_only: bool = False) -> Iterator[Path]:
    """The filesystem on ``device``, at ``folder``, which is made; read-only means without journal replay."""
    folder.mkdir(parents=True, exist_ok=True)
    options = "ro,noload" if read_only else "rw"
    run("mount", "--options", options, device, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


@dataclass(frozen=True, slots=True)
class RealFile:
    """A regular file or symlink of this machine."""

    path: Path
    is_link: bool
    size_bytes: int

    @property
    def space_bytes(self) -> int:
        """About what it takes on ext4: whole blocks, an inode, a place in a folder."""
        return -(-self.size_bytes // 4096) * 4096 + 512


def real_files(
    roots: Sequence[str], total_bytes: int, *, largest_bytes: int = 1 << 62, exclude: Sequence[Path] = ()
) -> list[RealFile]:
    """This machine's own files below ``roots``, in a fixed order, until they take ``total_bytes``; no inode twice.

    Left out: files larger than ``largest_bytes``, of another filesystem than their root's, or below ``exclude``.
    """
    found: list[RealFile] = []
    seen: set[int] = set()
    total = 0
    excluded = {path.resolve() for path in exclude}
    for root in dict.fromkeys(Path(name).resolve() for name in roots if Path(name).is_dir()):
        device = root.stat().st_dev
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(name for name in subfolders if Path(folder, name) not in excluded)
            for name in sorted(names):
                path = Path(folder, name)
                status = path.lstat()
                if status.st_ino in seen or status.st_dev != device or status.st_size > largest_bytes:
                    continue
                if not _can_copy(path, status.st_mode):
                    continue
                seen.add(status.st_ino)
                found.append(RealFile(path, stat.S_ISLNK(status.st_mode), status.st_size))
                total += found[-1].space_bytes
                if total >= total_bytes:
                    return found
    return found


def _can_copy(path: Path, mode: int) -> bool:
    return stat.S_ISLNK(mode) or (stat.S_ISREG(mode) and os.access(path, os.R_OK))


def hold_back(files: Sequence[RealFile], every: int = 40) -> tuple[list[RealFile], list[RealFile]]:
    """Files to use, and those whose contents an upgrade will bring: one in ``every``, so of the same kind."""
    used = [file for number, file in enumerate(files) if number % every or file.is_link]
    spare = [file for number, file in enumerate(files) if not (number % every or file.is_link)]
    return used, spare


def copy_files(files: Sequence[RealFile], folder: Path) -> None:
    """Copy files with their paths, modes, owners, times and attributes below ``folder``."""
    names = b"\0".join(os.fsencode(file.path).lstrip(b"/") for file in files)
    pack = ["tar", "-C", "/", "--null", "--no-recursion", "--xattrs", "--acls", "-T", "-", "-cf", "-"]
    unpack = ["tar", "-C", str(folder), "--xattrs", "--acls", "--xattrs-include=*", "-xpf", "-"]
    with tempfile.TemporaryFile() as said:
        packing = subprocess.Popen(
            pack, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        )
        unpacking = subprocess.Popen(unpack, stdin=packing.stdout, stderr=said, env=ENVIRONMENT)
        with ended(packing), ended(unpacking):
            assert packing.stdout
            packing.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                packing.communicate(names)
            unpacking.wait()
        # tar exits with 1 for a file that changed while it was read: that is another real file, and no matter.
        if unpacking.returncode != 0 or packing.returncode not in (0, 1):
            said.seek(0)
            reason = said.readline().decode(errors="replace").strip()
            raise CommandFailed(f"this machine's files could not be copied to {folder}: {reason}")


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What was changed: how many files, and how many bytes their new contents hold."""

    files: int
    new_bytes: int


def upgrade_files(folder: Path, share: float, spare: Sequence[RealFile], seed: int = 1) -> Upgrade:
    """Replace ``share`` of the files below ``folder`` as an upgrade does: a new file, then a rename over the old.

    Whole folders change, as a package's files lie together; the new contents are those of ``spare``, other real files.
    """
    folders: list[list[Path]] = []
    for current, subfolders, names in os.walk(folder):
        subfolders.sort()
        here = [Path(current, name) for name in sorted(names)]
        folders.append([path for path in here if not path.is_symlink()])
    wanted = max(1, int(sum(map(len, folders)) * share))
    random.Random(seed).shuffle(folders)
    chosen = [path for paths in folders for path in paths][:wanted]
    if len(chosen) > len(spare):
        raise CommandFailed(f"an upgrade of {len(chosen)} files needs as many new contents; there are {len(spare)}")
    new_bytes = 0
    for path, new in zip(chosen, spare, strict=False):
        content = new.path.read_bytes()
        status = path.lstat()
        temporary = path.with_name("upgrade.dpkg-new")
        temporary.write_bytes(content)
        os.chown(temporary, status.st_uid, status.st_gid)
        temporary.chmod(stat.S_IMODE(status.st_mode))
        temporary.replace(path)
        new_bytes += len(content)
    return Upgrade(len(chosen), new_bytes)
