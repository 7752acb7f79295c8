"""The measured rounds.  Every round runs every contestant once, in an order that turns from round to round."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import peers
from tests.bench import report as names
from tests.bench.inputs import Image, used_digest
from tests.bench.measure import folder_bytes
from tests.bench.ours import PROGRAM, Ours
from tests.bench.peers import Chroot
from tests.bench.report import Results
from tests.support.machine import CommandFailed, loop_device

Runner = Callable[[], None]


class Bench:
    """The image, where outputs go, and what was measured so far."""

    def __init__(self, work: Path, chroot: Chroot, image: Image, results: Results) -> None:
        self.work = work
        self.chroot = chroot
        self.image = image
        self.results = results
        self.output = work / "output"
        self.kept = work / "kept"
        self.saved = self.kept / "partclone.zst"
        self.has_ours = PROGRAM.exists()

    def captures(self, rounds: int, used: Path) -> None:
        """First captures, each into an empty place, and unchanged ones right behind; the last round's outputs stay."""
        runners: list[Runner] = [
            lambda: self._floor(used),
            *([self._ours] if self.has_ours else []),
            self._clonezilla,
            *([self._ours_verified] if self.has_ours else []),
            self._clonezilla_unchecked,
            self._fsarchiver,
            self._borg,
            self._restic,
        ]
        self._rounds("capture", rounds, runners)

    def restores(self, rounds: int) -> None:
        """Restores of what the last capture round left."""
        original = used_digest(self.image.path, self.image)
        runners: list[Runner] = [
            lambda: self._restore_clonezilla(original),
            *([lambda: self._restore_ours(original, onto_device=True)] if self.has_ours else []),
            lambda: self._restore_restic(original),
            *([lambda: self._restore_ours(original, onto_device=False)] if self.has_ours else []),
        ]
        self._rounds("restore", rounds, runners)

    def upgraded_captures(self, rounds: int) -> None:
        """Captures of the upgraded image, each into a copy of the first capture's repository."""
        runners: list[Runner] = [*([self._ours_upgraded] if self.has_ours else []), self._restic_upgraded]
        self._rounds("capture after an upgrade", rounds, runners)

    def _rounds(self, title: str, rounds: int, runners: Sequence[Runner]) -> None:
        for number in range(rounds):
            print(f"{title}, round {number + 1} of {rounds}", flush=True)
            turned = number % len(runners)
            for runner in [*runners[turned:], *runners[:turned]]:
                self._empty_output()
                runner()
        self._empty_output()

    def _empty_output(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()

    def _keep(self, path: Path) -> None:
        """Keep an output for the phases behind, instead of the one of an earlier round."""
        self.kept.mkdir(exist_ok=True)
        target = self.kept / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)

    def _floor(self, used: Path) -> None:
        output = self.output / "floor.zst"
        measured = self.chroot.measure(peers.zstd_floor(used, output))
        self.results.add(names.FLOOR, measured, folder_bytes(output))

    def _ours(self) -> None:
        ours = Ours(self.output / "ours")
        measured = ours.capture(self.image.path, verify=False)
        first = folder_bytes(ours.repository)
        self.results.add(names.OURS, measured, first)
        self._keep_first(ours.repository)
        measured = ours.capture(self.image.path, verify=False)
        self.results.add(names.UNCHANGED, measured, folder_bytes(ours.repository) - first)

    def _keep_first(self, repository: Path) -> None:
        """Keep a repository as it is now; restic's files never change, so that hard links do."""
        copy = repository.with_name("copy")
        shutil.copytree(repository, copy, copy_function=_link)
        shutil.rmtree(self.kept / repository.name, ignore_errors=True)
        self.kept.mkdir(exist_ok=True)
        copy.replace(self.kept / repository.name)

    def _ours_verified(self) -> None:
        ours = Ours(self.output / "ours")
        measured = ours.capture(self.image.path, verify=True)
        self.results.add(names.OURS_VERIFIED, measured, folder_bytes(ours.repository))

    def _clonezilla(self) -> None:
        output = self.output / self.saved.name
        measured = self.chroot.measure(peers.partclone_capture(self.image.path, output))
        self.results.add(names.CLONEZILLA, measured, folder_bytes(output))
        self.results.add(names.CLONEZILLA_CHECK, self.chroot.measure(peers.partclone_check(output)))
        self._keep(output)

    def _clonezilla_unchecked(self) -> None:
        output = self.output / "partclone-a0.zst"
        measured = self.chroot.measure(peers.partclone_capture(self.image.path, output, checksums=False))
        self.results.add(names.CLONEZILLA_UNCHECKED, measured, folder_bytes(output))

    def _fsarchiver(self) -> None:
        output = self.output / "archive.fsa"
        with loop_device(self.image.path, read_only=True) as device:
            measured = self.chroot.measure(peers.fsarchiver_capture(device, output))
        self.results.add(names.FSARCHIVER, measured, folder_bytes(output))

    def _borg(self) -> None:
        environment = peers.borg_environment(self.output)
        repository = self.output / "borg"
        self.chroot.run(peers.borg_init(), environment)
        with loop_device(self.image.path, read_only=True) as device:
            measured = self.chroot.measure(peers.borg_capture(device, "first", self.output), environment)
            first = folder_bytes(repository)
            self.results.add(names.BORG, measured, first)
            measured = self.chroot.measure(peers.borg_capture(device, "second", self.output), environment)
        self.results.add(names.BORG_UNCHANGED, measured, folder_bytes(repository) - first)

    def _restic(self) -> None:
        environment = peers.restic_environment(self.output)
        repository = self.output / "restic"
        self.chroot.run(peers.restic_init(), environment)
        script = peers.restic_capture(self.image.path, self.output)
        measured = self.chroot.measure(script, environment)
        first = folder_bytes(repository)
        self.results.add(names.RESTIC, measured, first)
        self._keep_first(repository)
        measured = self.chroot.measure(script, environment)
        self.results.add(names.RESTIC_UNCHANGED, measured, folder_bytes(repository) - first)

    def _restore_clonezilla(self, original: str) -> None:
        target = self._sparse_target()
        with loop_device(target) as device:
            self.results.add(names.CLONEZILLA_RESTORE, self.chroot.measure(peers.partclone_restore(self.saved, device)))
        self._prove(names.CLONEZILLA_RESTORE, target, original)

    def _restore_ours(self, original: str, *, onto_device: bool) -> None:
        target = self._sparse_target()
        ours = Ours(self.kept / "ours")
        title = names.RESTORE_DEVICE if onto_device else names.RESTORE_FILE
        if onto_device:
            with loop_device(target) as device:
                self.results.add(title, ours.restore(device))
        else:
            self.results.add(title, ours.restore(target))
        self._prove(title, target, original)

    def _restore_restic(self, original: str) -> None:
        environment = {**peers.restic_environment(self.kept), "RESTIC_CACHE_DIR": str(self.output / "restic-cache")}
        self.results.add(
            names.RESTIC_RESTORE, self.chroot.measure(peers.restic_restore(self.output / "files"), environment)
        )
        self._prove(names.RESTIC_RESTORE, self.output / "files" / "disk.img", original)

    def _sparse_target(self) -> Path:
        target = self.output / "target.img"
        with target.open("wb") as file:
            file.truncate(self.image.size_bytes)
        return target

    def _prove(self, title: str, target: Path, original: str) -> None:
        """A restore that did not bring every used byte back has no time worth naming."""
        if used_digest(target, self.image) != original:
            raise CommandFailed(f"{title}: what was restored differs from the image")

    def _ours_upgraded(self) -> None:
        repository = self._copy_of_kept("ours")
        before = folder_bytes(repository)
        measured = Ours(repository).capture(self.image.path, verify=False)
        self.results.add(names.CHANGED, measured, folder_bytes(repository) - before)

    def _restic_upgraded(self) -> None:
        repository = self._copy_of_kept("restic")
        before = folder_bytes(repository)
        environment = peers.restic_environment(self.output)
        measured = self.chroot.measure(peers.restic_capture(self.image.path, self.output), environment)
        self.results.add(names.RESTIC_CHANGED, measured, folder_bytes(repository) - before)

    def _copy_of_kept(self, name: str) -> Path:
        return Path(shutil.copytree(self.kept / name, self.output / name, copy_function=_link))


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
