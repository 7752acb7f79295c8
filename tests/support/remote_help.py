"""Remote help with a real SSH server, password database and client, in namespaces of its own; says as JSON what it saw.

Run as ``unshare --mount --pid --net --fork --mount-proc python -m tests.support.remote_help FOLDER``.  ``/etc`` and
``/run`` are copies in FOLDER there, and root's home is another.  Only systemd is not real: a script in its place starts
and stops the server as the unit of the live system does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
_SYSTEMCTL = """#!/bin/sh
case "$*" in
    "start ssh.service") ssh-keygen -A && mkdir -p /run/sshd && exec /usr/sbin/sshd ;;
    "stop ssh.service") [ ! -e /run/sshd.pid ] || kill "$(cat /run/sshd.pid)" ;;
    *) exit 1 ;;
esac
"""
_PROFILE = PROJECT / "image-build/overlay/root/.bash_profile"
_SECONDS = 60.0


def main() -> None:
    """Switch on, log in, switch off; one JSON document on standard output."""
    folder = Path(sys.argv[1])
    _private(folder)
    sys.stdout.write(json.dumps(observe(folder)))


def _private(folder: Path) -> None:
    """Nothing that is written from here on is seen outside."""
    _run("mount", "--make-rprivate", "/")
    _run("ip", "link", "set", "lo", "up")
    profile = folder / "root/.bash_profile"
    profile.parent.mkdir()
    shutil.copyfile(_PROFILE, profile)
    (folder / "run").mkdir()
    shutil.copytree("/etc", folder / "etc", symlinks=True)
    for key in (folder / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    shutil.copytree(
        PROJECT / "image-build/overlay/etc/ssh/sshd_config.d", folder / "etc/ssh/sshd_config.d", dirs_exist_ok=True
    )
    (folder / "bin").mkdir()
    recovery = f'#!/bin/sh\nexec {sys.executable} -c "from recovery.cli import main; main()" "$@"\n'
    for name, text in (("systemctl", _SYSTEMCTL), ("recovery", recovery)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    for name, place in (("passwd", 5), ("shadow", 1)):
        _set_root(folder / "etc" / name, place, str(profile.parent) if name == "passwd" else "*")
    for name in ("etc", "run"):
        _run("mount", "--bind", folder / name, f"/{name}")
    _run("mount", "--bind", folder / "bin", "/usr/local/bin")
    marks = folder / "live"
    (marks / "usr/lib/recovery").mkdir(parents=True)
    (marks / "usr/lib/recovery/build.json").write_text('{"version": "1", "epoch": 1}')
    for name in ("proc", "run", "etc"):
        (marks / name).symlink_to(f"/{name}")
    os.environ["RECOVERY_LIVE_ROOT"] = str(marks)
    os.environ["PATH"] = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def _set_root(file: Path, place: int, value: str) -> None:
    """Change a field of root's line."""
    lines = [line.split(":") for line in file.read_text().splitlines()]
    for line in lines:
        if line[0] == "root":
            line[place] = value
    file.write_text("".join(":".join(line) + "\n" for line in lines))


def observe(folder: Path) -> dict[str, Any]:
    """What there was to be seen at each step."""
    from recovery.cli.requests import CaptureRequest
    from recovery.cli.spawn import spawn
    from recovery.jobs.folder import list_jobs
    from recovery.repository.repository import Repository
    from tui.remote import remote_help, switch_off, switch_on

    seen: dict[str, Any] = {"before": _listens(), "locked before": _locked()}
    source = folder / "source.img"
    source.touch()
    os.truncate(source, 4 << 20)
    Repository.init(folder / "repository", "")
    with spawn(CaptureRequest(sources=(source,), review=True), folder / "repository"):
        made = switch_on()
        _until(_listens)
        kept = Path("/run/recovery/remote-help")
        seen |= {
            "shown again": remote_help() == made,
            "the same for who switches it on too": switch_on().password == made.password,
            "mode": oct(kept.stat().st_mode & 0o777),
            "key": made.fingerprint in _said("ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key.pub"),
            "wrong password": _login(folder, "0000-0000-0000", "true").wait(timeout=_SECONDS),
            "right password": _login(folder, made.password, "true").wait(timeout=_SECONDS),
        }
        screen = folder / "screen"
        with screen.open("wb") as drawn:
            session = _login(folder, made.password, "", drawn)
            seen["lands in the interface"] = _until(lambda: b"source.img" in screen.read_bytes())
            # Not at once: what it starts has its command line too, until the other program has taken its place.
            seen["interfaces"] = 1 if _until(lambda: len(_interfaces()) == 1) else len(_interfaces())
            switch_off()
            seen["session ended"] = session.wait(timeout=_SECONDS) != 0
        seen |= {
            "interface ended": _until(lambda: not _interfaces()),
            "after": _listens(),
            "locked after": _locked(),
            "kept after": kept.exists(),
            "off": remote_help() is None,
            "refused": _login(folder, made.password, "true").wait(timeout=_SECONDS),
            "job runs": [job.running for job in list_jobs()],
            "password told": made.password in repr(made),
            "screen": screen.read_bytes().decode(errors="replace")[-2000:],
        }
    return seen


def _login(folder: Path, password: str, command: str, drawn: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    ask = folder / "ask"
    ask.write_text(f"#!/bin/sh\necho '{password}'\n")
    ask.chmod(0o700)
    line = ["ssh", "-tt", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    line += ["-o", "NumberOfPasswordPrompts=1", "-o", "PubkeyAuthentication=no", "root@127.0.0.1"]
    environment = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "TERM": "xterm-256color"}
    return subprocess.Popen(
        [*line, command] if command else line,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=drawn,
        stderr=subprocess.DEVNULL,
    )


def _listens() -> bool:
    return bool(_said("ss", "--listening", "--tcp", "--numeric", "--no-header").strip())


def _locked() -> bool:
    return any(line.startswith("root:*:") for line in Path("/etc/shadow").read_text().splitlines())


def _interfaces() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"tui" in words and b"from recovery.cli import main; main()" in words:
                found.append(folder.name)
    return found


def _until(condition: Callable[[], bool]) -> bool:
    ends = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return True


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, timeout=_SECONDS, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
