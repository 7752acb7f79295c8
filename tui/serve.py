"""The interface in a browser of this machine, through textual-serve: each page is an interface of its own.

Only this machine's own address is listened at.  That alone keeps out neither other users of the machine nor pages of
the web that the browser has open (they may ask it to speak to 127.0.0.1), and what listens here may overwrite disks.
So whoever asks shows a key, made for this run: it stands in the address that is printed, and the browser keeps it as a
cookie that no other site can send.  The page asks nothing of other machines: ours may not have a network.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shlex
import sys
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.server import Server

from recovery.errors import DeviceError, UsageError

HOST = "127.0.0.1"
PORT = 8000
#: What the interface in a browser can show: everything.
_TERMINAL = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: "
    "blob:; connect-src 'self' ws://{host}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
#: An interface that does not end with its page is not waited for any longer.
_END_SECONDS = 3.0


class LoopbackServer(Server):
    """Serves ``command`` at ``port`` of this machine alone, to whom has ``key``."""

    def __init__(self, command: str, port: int, key: str) -> None:
        super().__init__(command, host=HOST, port=port, title="Recovery")
        self._key, self._cookie = key, f"recovery-{port}"
        self._host = f"{HOST}:{port}"

    @property
    def address(self) -> str:
        """What is typed into the browser."""
        return f"{self.public_url}/?key={self._key}"

    async def application(self) -> web.Application:
        """What answers, with its guard before it."""
        made = await self._make_app()
        made.on_startup.clear()  # textual-serve's own greeting
        made.middlewares.append(self._guard())
        return made

    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.headers.get("Host") != self._host or not self._from_here(request.headers.get("Origin")):
                raise web.HTTPForbidden(text="This is not asked for from here.\n")
            shown = request.query.get("key")
            if shown is not None and self._is_key(shown):
                entered = web.HTTPSeeOther("/")
                entered.set_cookie(self._cookie, self._key, httponly=True, samesite="Strict")
                raise entered
            if not self._is_key(request.cookies.get(self._cookie, "")):
                raise web.HTTPForbidden(text="Open the address that 'recovery tui --browser' has printed, whole.\n")
            answer = await handler(request)
            if not answer.prepared:
                answer.headers["Content-Security-Policy"] = _POLICY.format(host=self._host)
                answer.headers["Referrer-Policy"] = "no-referrer"
            return answer

        return guard

    def _is_key(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._key.encode())

    def _from_here(self, origin: str | None) -> bool:
        return origin is None or origin == f"http://{self._host}"


def serve(recording: Path | None, port: int = PORT) -> None:
    """Serve until Ctrl-C.  Raises UsageError when the port cannot be had, DeviceError when no page can be served."""
    os.environ.update(_TERMINAL)
    server = LoopbackServer(command_line(recording), port, secrets.token_urlsafe(16))

    def begun(*_: object) -> None:
        sys.stdout.write(f"The interface is at\n\n    {server.address}\n\n")
        sys.stdout.write("for a browser on this machine. Ctrl-C ends it; jobs go on.\n")
        sys.stdout.flush()

    try:
        web.run_app(
            server.application(),
            host=HOST,
            port=port,
            print=begun,
            access_log=None,  # the key is in the first line that it would have
            shutdown_timeout=_END_SECONDS,
        )
    except OSError as error:
        if error.errno is None or port == 0:
            raise DeviceError(f"the interface cannot be served: {error}") from error
        raise UsageError(
            f"port {port} of this machine cannot be had: {os.strerror(error.errno)}", "Choose another with --port."
        ) from error


def command_line(recording: Path | None) -> str:
    """What is run for each page, for the shell."""
    words = [sys.executable, "-P", "-c", "from recovery.cli import main; main()", "tui"]
    words += ["--machine", str(recording)] if recording is not None else []
    return shlex.join(words)
