"""Which of the files are wanted: by pattern, or by what they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class FileKind(StrEnum):
    """What people ask for."""

    DOCUMENTS = "documents"
    PICTURES = "pictures"
    MUSIC = "music"
    VIDEOS = "videos"
    MAIL = "mail"
    DATABASES = "databases"
    SETTINGS = "settings"


_ENDINGS: dict[FileKind, str] = {
    FileKind.DOCUMENTS: (
        "doc docx docm dot dotx odt ott fodt rtf txt md tex pdf ps epub mobi djvu pages wpd wps xls xlsx xlsm xlsb ods "
        "ots csv tsv numbers ppt pptx pptm pps ppsx odp key odg vsd vsdx pub one onepkg html htm xml json yaml yml org "
        "rst kdbx kdb gnucash qif ofx elster dwg dxf step stl blend skp"
    ),
    FileKind.PICTURES: (
        "jpg jpeg jpe png gif tif tiff bmp webp heic heif avif svg eps ai psd psb xcf raw cr2 cr3 crw nef nrw arw srf "
        "sr2 orf rw2 raf pef dng x3f ico indd afphoto afdesign"
    ),
    FileKind.MUSIC: "mp3 ogg oga opus flac wav aif aiff m4a m4b aac wma mid midi ape wv mka als flp logicx aup aup3",
    FileKind.VIDEOS: "mp4 m4v mkv webm avi mov mpg mpeg mts m2ts wmv flv 3gp ogv vob ts mxf dv prproj",
    FileKind.MAIL: "eml emlx mbox mbx msg pst ost dbx wab vcf ics nsf msf",
    FileKind.DATABASES: "sqlite sqlite3 db db3 mdb accdb dbf mdf ldf ndf frm ibd myd myi sql dump bak fdb gdb odb",
    FileKind.SETTINGS: "conf cfg ini reg plist desktop service env netrc gitconfig",
}
_KIND_OF = {ending: kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
#: Folders all of whose files are of a kind, as parts of paths in lower case.
_FOLDERS: dict[FileKind, tuple[str, ...]] = {
    FileKind.SETTINGS: ("/etc/", "/.config/", "/.ssh/", "/.gnupg/", "/windows/system32/config/", "/appdata/roaming/"),
    FileKind.MAIL: ("/maildir/", "/.thunderbird/", "/.local/share/evolution/", "/mail/cur/", "/mail/new/"),
    FileKind.DATABASES: ("/var/lib/mysql/", "/var/lib/postgresql/", "/var/lib/mongodb/"),
}


def kinds_of(path: str) -> frozenset[FileKind]:
    """What a file is, by its name and folder."""
    lower = "/" + path.lower()
    name = lower.rpartition("/")[2]
    found = {_KIND_OF[ending]} if (ending := name.rpartition(".")[2]) in _KIND_OF and "." in name else set()
    found |= {kind for kind, parts in _FOLDERS.items() if any(part in lower for part in parts)}
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is wanted: paths that fit one of ``patterns``, of one of ``kinds``; empty: any.

    A pattern is a path with ``*``, ``?`` and ``[...]``; what lies below a folder that fits, fits too.  Without a
    slash it is held against names alone.  Case does not matter.
    """

    patterns: Sequence[str] = ()
    kinds: frozenset[FileKind] = frozenset()

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.patterns and not self.kinds

    def wants(self, path: str, *, is_folder: bool) -> bool:
        """Whether it is to be saved.  Folders are wanted only for themselves when everything is."""
        if self.everything:
            return True
        if is_folder:
            return False
        if self.kinds and not self.kinds & kinds_of(path):
            return False
        return not self.patterns or any(_fits(path.lower(), pattern.lower().strip("/")) for pattern in self.patterns)


def _fits(path: str, pattern: str) -> bool:
    if "/" not in pattern:
        return any(fnmatch.fnmatchcase(part, pattern) for part in path.split("/"))
    parts = path.split("/")
    depth = pattern.count("/") + 1
    return fnmatch.fnmatchcase("/".join(parts[:depth]), pattern)
