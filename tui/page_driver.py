"""Textual's driver of an interface in a browser, which ends with what serves it, whatever ended that."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from textual.drivers.web_driver import WebDriver


class PageDriver(WebDriver):
    """The server gives input through a pipe; when nobody holds its other end any more, the interface is over."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._write = self._write_if_read  # type: ignore[assignment]

    def run_input_thread(self) -> None:
        """Until there is no more input."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            with suppress(RuntimeError):  # it is ending by itself
                self._app.call_from_thread(self._app.exit)

    def _write_if_read(self, data: bytes) -> None:
        with suppress(BrokenPipeError):
            os.write(self.fileno, data)
