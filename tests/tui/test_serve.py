"""The interface in a browser: a real server, a real client, real jobs; only who has the key, and only from here."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest

from recovery.cli.requests import CaptureRequest
from recovery.cli.spawn import spawn
from recovery.jobs.folder import list_jobs
from recovery.repository.repository import Repository
from tests.support.disks import MIB, blank
from tests.support.images import PASSWORD, PROJECT, recovery_line
from tests.tui.support import jobs_in

_SECONDS = 60.0
Served = tuple[str, int]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that the program prints, and its process."""
    line = recovery_line("tui", "--browser", "--port", str(free_port()), *options)
    process = subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = "".join(iter(process.stdout.readline, "for a browser on this machine. Ctrl-C ends it; jobs go on.\n"))
        yield re.findall(r"http://\S+", said)[0], process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The address of a server that ends as it should, and the number of its process."""
    with jobs_in(tmp_path / "jobs"), serving() as (address, process):
        yield address, process.pid
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=_SECONDS) == 0


def host_of(address: str) -> str:
    return address.split("/")[2]


@asynccontextmanager
async def page(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A browser that has opened the address."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(address) as answer:
            assert answer.status == 200
            assert "data-session-websocket-url" in await answer.text()
        yield browser


@asynccontextmanager
async def terminal(browser: aiohttp.ClientSession, address: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """The interface in that page."""
    origin = f"http://{host_of(address)}"
    async with browser.ws_connect(f"ws://{host_of(address)}/ws?width=80&height=24", origin=origin) as connection:
        yield connection


async def shows(connection: aiohttp.ClientWebSocketResponse, *words: str) -> None:
    """Wait until these words were drawn."""
    drawn = b""
    async with asyncio.timeout(_SECONDS):
        while not all(word.encode() in drawn for word in words):
            message = await connection.receive()
            assert message.type is aiohttp.WSMsgType.BINARY, (message, drawn)
            drawn += message.data


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


async def test_whoever_has_the_address_gets_the_page_and_nobody_else(served: Served) -> None:
    address = served[0]
    async with aiohttp.ClientSession() as stranger:
        for path in ("/", "/?key=wrong", "/ws", "/static/js/textual.js"):
            async with stranger.get(f"http://{host_of(address)}{path}") as answer:
                assert answer.status == 403, path
        async with stranger.get(address, headers={"Host": "recovery.example"}) as answer:
            assert answer.status == 403
    async with page(address) as browser:
        async with browser.get(f"http://{host_of(address)}/") as answer:
            assert answer.status == 200
            assert "key=" not in str(answer.url)
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        async with browser.get(f"http://{host_of(address)}/static/js/textual.js") as answer:
            assert answer.status == 200


async def test_a_page_of_the_web_cannot_speak_to_the_interface_through_the_browser(served: Served) -> None:
    async with page(served[0]) as browser:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await browser.ws_connect(f"ws://{host_of(served[0])}/ws", origin="https://example.org")


def test_other_addresses_of_this_machine_are_not_listened_at(served: Served) -> None:
    port = int(host_of(served[0]).split(":")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    others = [
        "127.0.0.2",
        *subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split(),
    ]
    for other in others:
        family = socket.AF_INET6 if ":" in other else socket.AF_INET
        with socket.socket(family) as client:
            client.settimeout(5)
            with pytest.raises(OSError):
                client.connect((other, port))


async def test_two_browsers_see_the_same_job_and_their_end_does_not_end_it(served: Served, tmp_path: Path) -> None:
    address, process = served
    blank(tmp_path / "source.img", 4 * MIB)
    Repository.init(tmp_path / "repository", PASSWORD)
    request = CaptureRequest(sources=(tmp_path / "source.img",), review=True)
    with spawn(request, tmp_path / "repository", PASSWORD):
        async with page(address) as browser:
            async with terminal(browser, address) as first, terminal(browser, address) as second:
                await asyncio.gather(shows(first, "Running: capture"), shows(second, "Running: capture"))
                assert len(children(process)) == 2
        ends = time.monotonic() + _SECONDS
        while children(process):
            assert time.monotonic() < ends, "an interface lives on without its page"
            await asyncio.sleep(0.1)
        assert [job.running for job in list_jobs()] == [True]


async def test_an_interface_ends_when_what_serves_it_was_killed(tmp_path: Path) -> None:
    with jobs_in(tmp_path / "jobs"), serving() as (address, process):
        async with page(address) as browser, terminal(browser, address) as connection:
            await shows(connection, "What do you want to do?")
            interfaces = children(process.pid)
            assert interfaces
            process.kill()
            process.wait()
        ends = time.monotonic() + _SECONDS
        while any(alive(interface) for interface in interfaces):
            assert time.monotonic() < ends, "an interface lives on without a server"
            await asyncio.sleep(0.1)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_port_that_is_taken_is_said_to_be(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = recovery_line("tui", "--browser", "--port", str(port))
        ended = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=_SECONDS)
    assert ended.returncode == 2
    assert f"Port {port}" in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_recorded_machine_is_served_too(tmp_path: Path) -> None:
    with jobs_in(tmp_path / "jobs"), serving("--machine", "laptop") as (address, _):
        async with page(address) as browser, terminal(browser, address) as connection:
            await shows(connection, "What do you want to do?", "nvme0n1")
