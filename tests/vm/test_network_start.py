"""A start over the network, with Secure Boot: shim, GRUB, kernel and initramfs by TFTP, the system by HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.vm.live import IMAGE, Live, leave_interface
from tests.vm.machine import Firmware, Machine, fresh_variables, started

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

NETBOOT = IMAGE.parent / "netboot"
#: The last byte of the EFI variable: 1 where the firmware checks signatures.
_SECURE_BOOT = "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@contextmanager
def web_server(folder: Path) -> Iterator[list[str]]:
    """``folder`` on port 80 of this machine, which the menu names; what was asked for is in the list."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            asked.append(self.path)

    try:
        server = ThreadingHTTPServer(("127.0.0.1", 80), partial(Handler, directory=str(folder)))
    except OSError as error:
        pytest.skip(f"no web server on port 80 of this machine: {error}")
    threading.Thread(target=server.serve_forever, name="web server", daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_machine_with_secure_boot_starts_over_the_network(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "recovery").symlink_to(NETBOOT)
    variables = fresh_variables(Firmware.SECURE_BOOT, tmp_path / "variables")
    machine = Machine(Firmware.SECURE_BOOT, variables=variables, memory_mib=2048, served=NETBOOT)
    with web_server(tmp_path / "web") as asked, started(machine, tmp_path / "machine") as running:
        running.console.wait_for("Start Recovery", 300)
        leave_interface(running.console)
        there = Live(running)
        assert there.run(_SECURE_BOOT).text.strip() == "1"
        assert there.run("findmnt --noheadings --output FSTYPE /run/live/medium").text.strip() == "ramfs"
        there.power_off()
    assert asked == ["/recovery/filesystem.squashfs"]
