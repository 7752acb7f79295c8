"""Pictures of what a command really printed.  ``python -m tests.support.pictures OUT COMMAND...``"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

_COLUMNS = 100


def printed_by(arguments: list[str]) -> str:
    """What a command prints on a terminal of 100 columns; what a live line wrote over itself is left out."""
    chunks: list[bytes] = []

    def read(file: int) -> bytes:
        data = os.read(file, 65536)
        chunks.append(data)
        return data

    os.environ.update(COLUMNS=str(_COLUMNS), LINES="50", TERM="xterm-256color")
    pty.spawn(arguments, read)
    text = b"".join(chunks).decode(errors="replace").replace("\r\n", "\n")
    return "\n".join(line.rpartition("\r")[2] for line in text.split("\n"))


def picture(title: str, text: str, place: Path) -> None:
    """Draw ``text``, with its colours, as a terminal window."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip()))
    console.save_svg(str(place), title=title)
    place.write_text(without_web_fonts(place.read_text()))


def without_web_fonts(drawn: str) -> str:
    """rich names a font to be fetched from the network: a picture needs none."""
    drawn = re.sub(r"\s*@font-face \{.*?\}\n", "\n", drawn, flags=re.DOTALL)
    return drawn.replace("Fira Code", "DejaVu Sans Mono")


if __name__ == "__main__":
    out, *command = sys.argv[1:]
    shown = Path(command[0]).name
    picture(" ".join([shown, *command[1:]]), printed_by(command), Path(out))
