"""Which filesystem is opened to save files from, and where the copies go."""

from __future__ import annotations

from collections.abc import Collection

from recovery.devices.disk import Disk
from tui.screens.place import PlaceScreen
from tui.screens.place_entries import Place


class OpenScreen(PlaceScreen):
    """Gives the top folder of a filesystem, opened for reading only."""

    HELP = (
        "A filesystem is what folders and files lie in; it fills a partition, which is a part of a disk. Choose the "
        "one that the files are on. It is opened for reading only: nothing on its disk is changed, not even put in "
        "order.\n\n"
        "A filesystem that is too damaged cannot be opened. Then choose: an image of the whole disk. It can be "
        "put onto a healthy disk, and repaired there."
    )

    def __init__(self, *, chosen: Place | None = None) -> None:
        """``chosen``: from before."""
        super().__init__("look", chosen=chosen, title="On which filesystem are the files?")


class CopyToScreen(PlaceScreen):
    """Gives a new folder for copies of files."""

    HELP = (
        "Choose where the copies go: a USB disk, or another disk in the machine, or a folder on a share of the network "
        "that is mounted here. A new folder is made there, and nothing that is there already is replaced.\n\n"
        "To mount a filesystem is to make its folders available here; the program does it when you choose it."
    )

    def __init__(self, *, kept_off: Collection[Disk], chosen: Place | None = None) -> None:
        """``kept_off``: the disk that is read."""
        super().__init__("files", kept_off=kept_off, chosen=chosen, title="Where do the copies go?")
