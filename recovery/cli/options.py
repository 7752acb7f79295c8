"""Options that every command takes, before or after its name; and where the repository's password comes from."""

from __future__ import annotations

import getpass
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from recovery.errors import UsageError, WrongPassword
from recovery.repository.repository import Repository

_REMOTE = re.compile(r"(s3|sftp|rest|b2|azure|gs|swift|rclone):.*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Common:
    """What the common options said."""

    repo: str | None
    password_file: Path | None
    no_password: bool
    json: bool

    Repo = Annotated[
        str | None,
        typer.Option("--repo", "-r", metavar="FOLDER", help="The repository [RESTIC_REPOSITORY].", show_default=False),
    ]
    PasswordFile = Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            "-p",
            metavar="FILE",
            help="A file holding the password [RESTIC_PASSWORD_FILE].",
            show_default=False,
        ),
    ]
    NoPassword = Annotated[bool, typer.Option("--no-password", help="The repository's password is empty.")]
    Json = Annotated[bool, typer.Option("--json", help="Answer in JSON: a document, or one line an event.")]
    Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what programs are run.")]

    def merged(
        self, repo: str | None = None, password_file: Path | None = None, no_password: bool = False, json: bool = False
    ) -> Common:
        """These, with what was written behind the command's name."""
        return Common(
            repo or self.repo, password_file or self.password_file, no_password or self.no_password, json or self.json
        )

    def folder(self) -> Path:
        """The repository's folder.  Raises UsageError when none is named, or one that is not a folder's name."""
        name = self.repo or os.environ.get("RESTIC_REPOSITORY")
        if not name:
            raise UsageError("no repository was named", "Use --repo FOLDER, or set RESTIC_REPOSITORY.")
        if _REMOTE.fullmatch(name):
            raise UsageError(
                f"{name} is not a folder: this version writes to folders only",
                "Mount the share, and name the folder it is mounted on.",
            )
        return Path(name.removeprefix("local:")).absolute()

    def password(self, *, twice: bool = False) -> str:
        """The password, from a file, the environment or the keyboard.  Raises UsageError when there is none."""
        if self.no_password:
            return ""
        file = self.password_file or _path(os.environ.get("RESTIC_PASSWORD_FILE"))
        if file is not None:
            return _from_file(file)
        typed = os.environ.get("RESTIC_PASSWORD", "")
        if not typed and sys.stdin.isatty():
            typed = getpass.getpass("Password of the repository: ")
            if twice and typed != getpass.getpass("Once more: "):
                raise UsageError("the two passwords differ", "Try again.")
        if not typed:
            raise UsageError(
                "no password was given",
                "Use --password-file FILE, set RESTIC_PASSWORD, or say --no-password for an empty one.",
            )
        return typed

    def open(self) -> Repository:
        """The repository, opened.  Raises what ``Repository.open`` raises, and UsageError."""
        folder = self.folder()
        password = self.password()
        try:
            return Repository.open(folder, password)
        except WrongPassword:
            if self.no_password:
                raise WrongPassword(
                    f"the repository {folder} has a password", "Leave --no-password out, and give the password."
                ) from None
            raise


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _from_file(file: Path) -> str:
    """As restic reads it: white space around it does not count."""
    try:
        text = file.read_bytes().decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"the password file {file} cannot be read: {reason}", "Check its path.") from error
    if not text:
        raise UsageError(f"the password file {file} is empty", "Say --no-password if the password is empty.")
    return text
