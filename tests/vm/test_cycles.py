"""Victims are captured with the bootable image, restored onto blank disks of other kinds, and boot from them alone.

Every two of victim, firmware, kind of disk and size meet at least once.  What is done is remembered below build/vm for
the image and the victims that it was done with.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pytest

from tests.support.disks import sha256
from tests.vm.base import KEPT
from tests.vm.cycle import Cycle, Target, cycle
from tests.vm.live import IMAGE
from tests.vm.machine import Bus, Firmware, Medium
from tests.vm.victims import made

pytestmark = [pytest.mark.vm, pytest.mark.timeout(4 * 3600)]

BIOS, UEFI, SECURE_BOOT = Firmware.BIOS, Firmware.UEFI, Firmware.SECURE_BOOT
VIRTIO, SATA, NVME, USB = Bus.VIRTIO, Bus.SATA, Bus.NVME, Bus.USB
CD, STICK = Medium.CD, Medium.STICK

MATRIX = (
    Cycle("bios", BIOS, SATA, CD, (Target(BIOS, NVME, 700, STICK),)),
    Cycle(
        "bios",
        BIOS,
        VIRTIO,
        STICK,
        (Target(BIOS, USB), Target(BIOS, SATA, 4000, STICK), Target(BIOS, VIRTIO)),
        crashed=True,
    ),
    Cycle(
        "ntfs",
        SECURE_BOOT,
        VIRTIO,
        STICK,
        (
            Target(SECURE_BOOT, NVME),
            Target(UEFI, SATA, 1, STICK),
            Target(SECURE_BOOT, USB, 700),
            Target(UEFI, VIRTIO),
        ),
    ),
    Cycle(
        "xfs",
        UEFI,
        NVME,
        CD,
        (
            Target(UEFI, USB, 1000),
            Target(SECURE_BOOT, VIRTIO, 300, STICK),
            Target(UEFI, NVME),
            Target(SECURE_BOOT, SATA),
        ),
    ),
    Cycle("xfs", UEFI, SATA, STICK, (Target(UEFI, VIRTIO, 2000),), crashed=True),
    Cycle(
        "luks",
        UEFI,
        USB,
        CD,
        (
            Target(SECURE_BOOT, SATA, 100),
            Target(UEFI, NVME, 0, STICK),
            Target(UEFI, VIRTIO, 512),
            Target(SECURE_BOOT, USB),
        ),
    ),
)


@cache
def kept(victim: str) -> Path:
    """Where is remembered what was done with this image and this victim."""
    key = hashlib.sha256(f"{sha256(IMAGE)} {made(victim).name}".encode()).hexdigest()[:12]
    return KEPT / f"cycles-{key}"


def test_the_matrix_pairs_everything() -> None:
    seen: set[frozenset[object]] = {
        frozenset(pair)
        for plan in MATRIX
        for target in plan.targets
        for values in [(plan.victim, target.firmware, target.bus, "larger" if target.more_mib else "same")]
        for pair in ((first, second) for first in values for second in values if first is not second)
    }
    pairs: set[frozenset[object]] = {
        frozenset((victim, bus)) for victim in ("bios", "ntfs", "xfs", "luks") for bus in Bus
    }
    pairs |= {frozenset((firmware, bus)) for firmware in Firmware for bus in Bus}
    pairs |= {
        frozenset((size, what))
        for size in ("larger", "same")
        for what in (*Bus, *Firmware, "bios", "ntfs", "xfs", "luks")
    }
    pairs |= {frozenset((victim, firmware)) for victim in ("ntfs", "xfs", "luks") for firmware in (UEFI, SECURE_BOOT)}
    assert pairs <= seen, pairs - seen


@pytest.mark.parametrize("plan", MATRIX, ids=lambda plan: plan.name)
def test_every_kind_of_machine_comes_back(plan: Cycle) -> None:
    cycle(plan, kept(plan.victim) / plan.name)
