"""A serial line as a person at a terminal uses it: read until something is there, type, look what a command says."""

from __future__ import annotations

import codecs
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

#: What moves the cursor or colours the text (ECMA-48): of no meaning here.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()#%][0-9A-Z]|[=>78A-Z])")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[()#%])?$")

PROMPT = r"root@[\w-]+:[^\n]*# $"


class Silence(AssertionError):
    """What was waited for did not come; the text ends with what did."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command at the prompt ended."""

    command: str
    status: int
    text: str


class Console:
    """One serial line.  A thread of its own takes what arrives, so that the machine never has to wait for us."""

    def __init__(self, typed: IO[bytes], shown: IO[bytes]) -> None:
        self._typed = typed
        self._shown = shown
        self._arrived = threading.Condition()
        self._text = ""
        self._raw = ""
        self._ended = False
        self._read = 0
        self._watchers: list[Callable[[bytes], None]] = []
        threading.Thread(target=self._listen, name="serial line", daemon=True).start()

    @property
    def text(self) -> str:
        """All that was shown since the start, without escape sequences."""
        with self._arrived:
            return self._text

    def watch(self, taker: Callable[[bytes], None]) -> None:
        """Give ``taker`` whatever arrives from now on, as it is."""
        self._watchers.append(taker)

    def wait_for(self, pattern: str, seconds: float, until: Callable[[], bool] = lambda: False) -> re.Match[str]:
        """Wait until what was not read yet matches a regular expression (``$`` is the end of a line or of all).

        What stands before the match's end counts as read from then on.  Raises Silence when the time is over, the
        machine ended or ``until`` came true, which is asked every second.
        """
        found = re.compile(pattern, re.MULTILINE)
        ends = time.monotonic() + seconds
        with self._arrived:
            while True:
                match = found.search(self._text, self._read)
                if match is not None:
                    self._read = match.end()
                    return match
                left = ends - time.monotonic()
                panic = self._text.find("Kernel panic - ", self._read) >= 0
                if left <= 0 or self._ended or panic or until():
                    why = "the machine ended" if self._ended else "panic" if panic else f"not within {seconds:.0f} s"
                    raise Silence(f"{why}: {pattern!r}; the last that was shown:\n{self._text[-3000:]}")
                self._arrived.wait(min(left, 1.0))

    def send(self, text: str) -> None:
        """Type, without a line's end."""
        self._typed.write(text.encode())
        self._typed.flush()

    def send_line(self, text: str = "") -> None:
        self.send(text + "\r")

    def log_in(self, seconds: float) -> None:
        """Wait for root's prompt and make the line fit for :meth:`run`."""
        self.wait_for(PROMPT, seconds)
        self.send_line("stty cols 200 rows 50 -echo; bind 'set enable-bracketed-paste off'; dmesg -n 1")
        self.run("true", 60)

    def run(self, command: str, seconds: float = 120, status: int | None = 0) -> Said:
        """Run a command at the prompt: all that it shows, and its exit code, which must be ``status`` (None: any)."""
        mark = secrets.token_hex(6)
        half = f"{mark[:6]}''{mark[6:]}"  # so that the line as it is typed does not match, should it be echoed
        self.send_line(f"echo begin-{half}; {{ {command} ; }}; printf '\\nend-%s %d\\n' {half} $?")
        match = self.wait_for(rf"begin-{mark}\n((?s:.*?))\nend-{mark} (\d+)\n", seconds)
        said = Said(command, int(match[2]), match[1].strip("\n"))
        assert status is None or said.status == status, f"{command} exited with {said.status}:\n{said.text}"
        return said

    def _listen(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            data = self._shown.read1(65536)  # type: ignore[attr-defined]  # a pipe is a BufferedReader
            with self._arrived:
                if not data:
                    self._ended = True
                    self._arrived.notify_all()
                    return
                for taker in self._watchers:
                    taker(data)
                self._raw += decoder.decode(data)
                whole = _UNFINISHED.search(self._raw)
                cut = whole.start() if whole else len(self._raw)
                self._text += _ESCAPE.sub("", self._raw[:cut]).replace("\r", "").replace("\x00", "")
                self._raw = self._raw[cut:]
                self._arrived.notify_all()
