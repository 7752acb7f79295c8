"""What came of a salvage: a JSON document, and a page for people; written as it goes on, for lists may be long."""

from __future__ import annotations

import contextlib
import html
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from recovery.extent import Extents
from recovery.inventory import shown
from recovery.units import counted, format_bytes

JSON_NAME, PAGE_NAME = "salvage-report.json", "salvage-report.html"
_STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #999;padding:.2em .5em;text-align:left;vertical-align:top}"
)


@dataclass(slots=True)
class Tally:
    """How many files, folders, links and other things there were, and how each came out; bytes of what was saved."""

    whole: int = 0
    damaged: int = 0
    lost: int = 0
    saved_bytes: int = 0
    bad_bytes: int = 0
    folders: int = 0
    left_out: int = 0
    facts_not_kept: int = 0

    @property
    def found(self) -> int:
        """All that was found and wanted, but for folders."""
        return self.whole + self.damaged + self.lost

    def as_document(self) -> dict[str, int]:
        """For JSON."""
        names = (
            "found",
            "whole",
            "damaged",
            "lost",
            "saved_bytes",
            "bad_bytes",
            "folders",
            "left_out",
            "facts_not_kept",
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is not whole."""

    volume: str
    path: str
    state: str
    problem: str
    size_bytes: int = 0
    bad: Extents = field(default_factory=Extents)
    saved_as: str = ""

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "volume": self.volume,
            "path": self.path,
            "state": self.state,
            "problem": self.problem,
            "size_bytes": self.size_bytes,
            "bad": [[extent.offset, extent.length] for extent in self.bad],
            "saved_as": self.saved_as,
        }


class Report:
    """The two files in ``folder``, for the time of a ``with`` block; whole after ``finish`` only."""

    def __init__(self, folder: Path, source: str) -> None:
        self._source = source
        self._document: IO[str] = (folder / JSON_NAME).open("x", encoding="utf-8")
        self._page: IO[str] = (folder / PAGE_NAME).open("x", encoding="utf-8")
        self._first = True
        self._document.write('{\n"source": ' + json.dumps(source) + ',\n"not_whole": [')
        title = f"What was saved from {html.escape(shown(source))}"
        self._page.write(
            f'<!doctype html>\n<meta charset="utf-8">\n<title>{title}</title>\n<style>{_STYLE}</style>\n'
            f"<h1>{title}</h1>\n"
            "<h2>Not whole</h2>\n<table>\n<tr><th>Where</th><th>Path</th><th>State</th><th>What is wrong</th></tr>\n"
        )

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._document, self._page):
            with contextlib.suppress(OSError):  # told already, by what was written last
                file.close()

    def tell(self, trouble: Trouble) -> None:
        """One more that is not whole."""
        self._document.write(("\n " if self._first else ",\n ") + json.dumps(trouble.as_document()))
        self._first = False
        cells = (trouble.volume, trouble.path, trouble.state, in_words(trouble))
        self._page.write("<tr>" + "".join(f"<td>{html.escape(shown(cell))}</td>" for cell in cells) + "</tr>\n")

    def finish(self, volumes: list[dict[str, Any]], tally: Tally, findings: list[str]) -> None:
        """The sums.  Raises OSError."""
        rest = {"volumes": volumes, "findings": findings, "totals": tally.as_document()}
        self._document.write("\n],\n" + json.dumps(rest, indent=1)[2:-2] + "\n}\n")
        self._page.write("</table>\n<h2>In all</h2>\n<ul>\n")
        for sentence in (*sums(tally), *findings):
            self._page.write(f"<li>{html.escape(shown(sentence))}</li>\n")
        for volume in volumes:
            heading = f"{volume['name']}: {volume['kind'] or 'unknown'} {volume['label']}".strip()
            self._page.write(f"<li>{html.escape(shown(heading))}\n<ul>\n")
            for sentence in (*volume["findings"], *volume["notes"]):
                self._page.write(f"<li>{html.escape(shown(sentence))}</li>\n")
            self._page.write("</ul>\n</li>\n")
        self._page.write("</ul>\n")
        for file in (self._document, self._page):
            file.flush()
            os.fsync(file.fileno())


def in_words(trouble: Trouble) -> str:
    """What is wrong with it."""
    words = [trouble.problem] if trouble.problem else []
    if trouble.bad:
        gone = format_bytes(sum(extent.length for extent in trouble.bad))
        words.append(f"{gone} of {format_bytes(trouble.size_bytes)} could not be read: zeros stand for that")
    if trouble.saved_as:
        words.append(f"saved as {trouble.saved_as}")
    return "; ".join(words)


def sums(tally: Tally) -> list[str]:
    """How it came out, in sentences."""
    words = [
        f"{counted(tally.whole, 'file')} whole, {tally.damaged} damaged, {tally.lost} lost, of {tally.found} found."
    ]
    words.append(f"{format_bytes(tally.saved_bytes)} saved.")
    if tally.bad_bytes:
        words.append(f"{format_bytes(tally.bad_bytes)} of the damaged files could not be read: zeros stand for that.")
    if tally.left_out:
        words.append(f"{counted(tally.left_out, 'file')} found and not asked for.")
    if tally.facts_not_kept:
        words.append(
            f"Not all of owner, mode, times and attributes could be kept of {counted(tally.facts_not_kept, 'file')}."
        )
    return words
