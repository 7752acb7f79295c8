"""A small world for journeys: disks as image files, and a repository with an image on a filesystem that is mounted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import OptionList

from recovery.destination import Destination
from recovery.jobs.folder import Job, list_jobs
from tests.support.disks import MIB, run
from tests.support.images import PARTITION_START, equal_where, gpt_disk, recovery
from tests.tui.support import FileMachine, jobs_in, screen_text, until

ScreenT = TypeVar("ScreenT", bound=Screen[Any])

#: The disk that was captured, and one that is larger, one that is smaller.
OLD, NEW, SMALL = "old.img", "new.img", "small.img"
_SIZES = {OLD: (96, 40), NEW: (128, 60), SMALL: (64, 40)}


@dataclass(frozen=True)
class World:
    """``disks`` holds the image files; ``repository`` has no password."""

    disks: Path
    repository: Path
    jobs: Path

    def machine(self) -> FileMachine:
        """The machine that has these disks."""
        stick = Destination(
            device="/dev/sdz1",
            folder=str(self.repository.parent),
            filesystem="ext4",
            label="stick",
            size_bytes=1 << 30,
            free_bytes=1 << 29,
            read_only=False,
            repositories=(str(self.repository),),
        )
        return FileMachine(self.disks, [stick])

    def disk(self, name: str) -> Path:
        """An image file."""
        return self.disks / name


def make_world(folder: Path, *captured: str, before: Sequence[str] = ()) -> World:
    """Three disks, and an image of those that are ``captured``, together; an older one of those ``before``, if any."""
    world = make_disks(folder)
    recovery(world.repository, "init", "--no-password")
    for names in filter(None, (before, captured)):
        recovery(world.repository, "capture", "--no-password", *(world.disk(name) for name in names))
    return world


def make_disks(folder: Path) -> World:
    """Three disks, and no repository yet."""
    world = World(folder / "disks", folder / "stick" / "recovery", folder / "jobs")
    world.disks.mkdir()
    world.repository.parent.mkdir()
    for seed, (name, (size, partition)) in enumerate(_SIZES.items(), 1):
        gpt_disk(world.disk(name), size * MIB, partition * MIB, seed=seed)
    return world


@contextmanager
def living_in(world: World, folder: Path, *, own_repository: bool = False) -> Iterator[World]:
    """A copy of the world in ``folder`` whose disks may be overwritten, and whose jobs are kept apart."""
    repository = world.repository
    run("cp", "--archive", "--sparse=always", world.disks, folder / "disks")
    if own_repository:
        repository = folder / "stick" / "recovery"
        shutil.copytree(world.repository, repository)
    with jobs_in(folder / "jobs"):
        yield World(folder / "disks", repository, folder / "jobs")


def used_by_ext4(disk: Path) -> list[tuple[int, int]]:
    """What of the partition dumpe2fs does not call free, as (start, end) in bytes of the disk."""
    said = run("dumpe2fs", f"{disk}?offset={PARTITION_START}")
    size = next(int(line.split()[2]) for line in said.splitlines() if line.startswith("Block size:"))
    count = next(int(line.split()[2]) for line in said.splitlines() if line.startswith("Block count:"))
    free = set()
    for line in said.splitlines():
        if line.startswith("  Free blocks: "):
            for part in filter(None, line.removeprefix("  Free blocks: ").split(", ")):
                first, _, last = part.partition("-")
                free |= set(range(int(first), int(last or first) + 1))
    return [
        (PARTITION_START + block * size, PARTITION_START + (block + 1) * size)
        for block in range(count)
        if block not in free
    ]


def same_filesystem(one: Path, other: Path) -> bool:
    """Whether both disks hold the same bytes wherever the ext4 of the first has something."""
    return equal_where(one, other, used_by_ext4(one))


def sound(disk: Path) -> str:
    """What e2fsck says of the partition; it fails when that has any fault."""
    return run("e2fsck", "-f", "-n", f"{disk}?offset={PARTITION_START}")


# -- a person


async def reaches(pilot: Pilot[None], kind: type[ScreenT]) -> ScreenT:
    """The screen, once it is there."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    screen = pilot.app.screen
    assert isinstance(screen, kind)
    return screen


async def choose(pilot: Pilot[None], kind: type[Screen[Any]], ending: str = "") -> None:
    """On that screen go to the line whose id ends so, by keys, and press Enter; it must be one that can be chosen."""
    await reaches(pilot, kind)

    def rows() -> OptionList:
        return pilot.app.screen.query(OptionList).first()

    def there() -> bool:
        found = [option for option in rows().options if (option.id or "").endswith(ending)]
        return any(not option.disabled for option in found) and rows().highlighted_option is not None

    await until(pilot, there)
    rows().focus()
    for _ in range(2 * len(rows().options)):
        option = rows().highlighted_option
        if option is not None and (option.id or "").endswith(ending):
            await pilot.press("enter")
            return
        await pilot.press("down")
    raise AssertionError(f"no line ends with {ending!r}:\n{screen_text(pilot)}")


async def types(pilot: Pilot[None], text: str) -> None:
    """Key by key."""
    names = {".": "full_stop", " ": "space", "-": "minus", "_": "underscore", "/": "slash"}
    await pilot.press(*(names.get(letter, letter) for letter in text))


def running() -> list[Job]:
    """The jobs that run."""
    return [job for job in list_jobs() if job.running]
