"""The programs we are measured against, in Debian 13's versions, in a chroot of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.bench.measure import Measured, measure
from tests.support.machine import CommandFailed, run

SUITE = "trixie"
PACKAGES = ["partclone", "libcom-err2", "zstd", "fsarchiver", "borgbackup", "restic", "e2fsprogs"]
VERSIONED = ["partclone", "zstd", "fsarchiver", "borgbackup", "restic"]

#: Clonezilla's own buffer size; partclone's default is 1 MiB.
_BUFFER = "-z 10485760"


class Chroot:
    """A Debian 13 holding the peers, ready to run them for the time of a ``with`` block."""

    def __init__(self, folder: Path, work: Path) -> None:
        """Make the chroot in ``folder`` unless it is there; ``work`` is seen inside under the same path."""
        self.folder = folder
        self._mounted: list[Path] = []
        if not (folder / "usr/bin/borg").exists():
            if shutil.which("mmdebstrap") is None:
                raise CommandFailed("the peers need mmdebstrap, which is not installed: apt-get install mmdebstrap")
            if folder.exists():
                shutil.rmtree(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            run("mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}", SUITE, folder)
        self._work = work

    def __enter__(self) -> Chroot:
        self._mount("-t", "proc", "proc", target=Path("/proc"))
        for path in (Path("/dev"), Path("/sys")):
            self._mount("--rbind", path, target=path)
            run("mount", "--make-rslave", self.folder / path.relative_to("/"))
        if not self._work.is_relative_to("/dev"):
            self._mount("--bind", self._work, target=self._work)
        return self

    def __exit__(self, *exception: object) -> None:
        for path in reversed(self._mounted):
            run("umount", "--recursive", "--lazy", path)

    def _mount(self, *arguments: str | Path, target: Path) -> None:
        inside = self.folder / target.relative_to("/")
        inside.mkdir(parents=True, exist_ok=True)
        run("mount", *arguments, inside)
        self._mounted.append(inside)

    def _line(self, script: str) -> list[str]:
        return ["chroot", str(self.folder), "/bin/bash", "-c", f"set -e -o pipefail; {script}"]

    def run(self, script: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a shell script inside, unmeasured."""
        return run(*self._line(script), environment=dict(environment or {}))

    def measure(self, script: str, environment: Mapping[str, str] | None = None) -> Measured:
        """Run a shell script inside, measured."""
        return measure(self._line(script), environment)

    def versions(self) -> dict[str, str]:
        """Debian's versions of the peers."""
        lines = self.run(f"dpkg-query --show {' '.join(VERSIONED)}").split("\n")
        return dict(line.split("\t") for line in lines if line)


def zstd_floor(used: Path, output: Path) -> str:
    """One zstd pass over the used bytes alone."""
    return f"zstd -q -T0 -1 {used} -o {output}; sync {output}"


def partclone_capture(image: Path, output: Path, *, checksums: bool = True) -> str:
    """Clonezilla's pipeline, with partclone's default checksums or without any."""
    mode = "" if checksums else "-a0"
    return (
        f"partclone.extfs -q -c {_BUFFER} {mode} -L /dev/null -s {image} -o - | zstd -q -T0 -1 >{output}; sync {output}"
    )


def partclone_check(output: Path) -> str:
    """Clonezilla's own check of what it saved."""
    return f"zstd -q -dc {output} | partclone.chkimg {_BUFFER} -L /dev/null -s - 2>/dev/null"


def partclone_restore(saved: Path, device: Path) -> str:
    """Clonezilla's pipeline back onto a block device."""
    return f"zstd -q -dc {saved} | partclone.restore -q {_BUFFER} -L /dev/null -s - -o {device}; sync {device}"


def fsarchiver_capture(device: Path, output: Path) -> str:
    """fsarchiver with zstd level 1 and a thread a core."""
    return f"fsarchiver savefs -Z1 -j2 {output} {device}; sync {output}"


def borg_environment(folder: Path) -> dict[str, str]:
    """Where borg keeps its repository and everything else."""
    return {"BORG_REPO": str(folder / "borg"), "BORG_BASE_DIR": str(folder / "borg-home"), "BORG_PASSPHRASE": "bench"}


def borg_init() -> str:
    """An encrypted repository, as ours always is."""
    return "borg init --encryption=repokey"


def borg_capture(device: Path, name: str, folder: Path) -> str:
    """borg over the raw device, at zstd level 1."""
    return f"borg create --read-special --compression zstd,1 ::{name} {device}; sync -f {folder}"


def restic_environment(folder: Path) -> dict[str, str]:
    """Where restic keeps its repository and its cache."""
    return {
        "RESTIC_REPOSITORY": str(folder / "restic"),
        "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
        "RESTIC_PASSWORD": "bench",
    }


def restic_init() -> str:
    """A repository of restic's own making."""
    return "restic -q init"


def restic_capture(image: Path, folder: Path) -> str:
    """restic over the raw image from its standard input, at its default compression."""
    return f"restic -q backup --stdin --stdin-filename disk.img <{image}; sync -f {folder}"


def restic_restore(target: Path) -> str:
    """restic's restore of the image, sparse, into a folder."""
    return f"restic -q restore latest --sparse --target {target}; sync -f {target}"
