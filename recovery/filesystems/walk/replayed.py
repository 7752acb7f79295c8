"""A captured filesystem that was not closed cleanly, after its journal was replayed on a copy-on-write view.

That is what whoever restores the image gets once it was mounted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from recovery.devices.overlay import overlay
from recovery.extent import Extent
from recovery.filesystems.source import CaptureWhole, open_source, open_view
from recovery.filesystems.usage import recovery_of
from recovery.filesystems.walk.view import NotAudited, Unreadable, View


@contextmanager
def brought_up_to_date(view: View) -> Iterator[View]:
    """A view of the filesystem after its replay, for the time of the block.

    Raises NotAudited where nothing here can replay it, Unreadable where the replay fails, DeviceError where there is no
    room for what it changes.
    """
    recovery = recovery_of(view.kind)
    if recovery is None:
        raise NotAudited(f"nothing here replays {view.kind}")
    whole = Extent(0, view.size_bytes)
    try:
        with open_source(view.path, whole, view.sector_bytes) as source:
            marks = tuple(recovery.closed_marks(source))
            ways = recovery.ways(source)
    except CaptureWhole as answer:
        raise Unreadable(answer.reason) from answer
    failures = []
    with ExitStack() as held:
        for way in ways:
            copy = held.enter_context(overlay(view.path, whole))
            for offset, data in marks:
                copy.lay_over(offset, data)
            try:
                with open_view(copy, view.sector_bytes) as opened:
                    way(opened.device, view.interrupt)
            except CaptureWhole as answer:
                failures.append(answer.reason)
                continue
            written = copy.written()  # raises when the view is spoiled
            yield replace(view, path=copy.path, written=written, missed=[])
            return
    raise Unreadable("; ".join(failures) or f"nothing here replays {view.kind}")
