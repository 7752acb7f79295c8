"""Disks that come and go are told as they do."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recovery.devices.disk import watch_disks
from recovery.devices.loop import read_only_loop
from recovery.extent import Extent
from tests.support.disks import MIB, blank, loop

pytestmark = pytest.mark.disk

_LONG, _SHORT = 10.0, 0.8
_TRIES = 8


class _Heard:
    def __init__(self) -> None:
        self.count = 0
        self._called = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        self._called.set()

    def within(self, seconds: float) -> bool:
        """Whether it was called since this was last asked, or is within ``seconds``."""
        called = self._called.wait(seconds)
        self._called.clear()
        return called


@pytest.fixture
def heard() -> Iterator[_Heard]:
    told = _Heard()
    stop = watch_disks(told)
    yield told
    stop()


def test_a_disk_that_comes_and_goes_is_told_each_time(tmp_path: Path, heard: _Heard) -> None:
    with loop(blank(tmp_path / "disk.img", MIB)):
        assert heard.within(_LONG)
    assert heard.within(_LONG)


def test_what_happens_together_is_told_once(tmp_path: Path) -> None:
    def two_come(heard: _Heard) -> set[str]:
        with loop(blank(tmp_path / "1.img", MIB)) as one, loop(blank(tmp_path / "2.img", MIB)) as other:
            heard.within(_LONG)
            heard.within(_SHORT)
            return {one.name, other.name}

    assert _calls_while_nothing_else_happens(two_come) == 1


def test_the_devices_by_which_we_look_into_a_disk_are_none_that_came(tmp_path: Path) -> None:
    image = blank(tmp_path / "disk.img", MIB)

    def look(heard: _Heard) -> set[str]:
        with read_only_loop(image, Extent(0, MIB)) as device:
            heard.within(_SHORT)
        heard.within(_SHORT)
        return {device.name}

    assert _calls_while_nothing_else_happens(look) == 0


def test_nothing_is_told_after_it_was_stopped(tmp_path: Path) -> None:
    told = _Heard()
    stop = watch_disks(told)
    stop()
    stop()
    with loop(blank(tmp_path / "disk.img", MIB)):
        assert not told.within(_SHORT)


def _calls_while_nothing_else_happens(work: Callable[[_Heard], set[str]]) -> int:
    """How often it is told while ``work`` runs, which names its own devices; again when others came or went as well."""
    for _ in range(_TRIES):
        heard = _Heard()
        with _kernel_events() as names:
            stop = watch_disks(heard)
            own = work(heard)
            calls = heard.count
            stop()
            told_of = names()
        if told_of and told_of <= own:
            return calls
    pytest.skip("other programs attach loop devices all the time")


@contextmanager
def _kernel_events() -> Iterator[Callable[[], set[str]]]:
    """The names of the block devices of which the kernel tells anything during the block, by ``udevadm monitor``."""
    with tempfile.TemporaryFile("w+") as out:
        command = ["udevadm", "monitor", "--kernel", "--subsystem-match=block"]
        monitor = subprocess.Popen(command, stdout=out, env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"})
        try:
            while b"KERNEL - the kernel uevent" not in os.pread(out.fileno(), 1 << 12, 0):
                time.sleep(0.01)
            yield lambda: set(re.findall(r"/block/(\S+)", os.pread(out.fileno(), 1 << 20, 0).decode()))
        finally:
            monitor.kill()
            monitor.wait()
