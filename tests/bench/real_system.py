"""A real Debian server on a disk image, and what time does to one: use, edited files, upgrades.

Everything happens inside the mounted image, by Debian's own programs, and ends with a clean unmount.  Where packages
come from is read from this system's own apt configuration.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from recovery.units import GIB, MIB
from tests.support.machine import CommandFailed, loop_device, mounted, run

SUITE = "bookworm"
NEXT_SUITE = "trixie"
SIZE_BYTES = 12 * GIB
_TABLE = "label: gpt\ntype=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root\n"
_SECTOR_BYTES = 512

PACKAGES = """
apache2 apt-listchanges bind9-dnsutils build-essential ca-certificates cmake cron curl debian-archive-keyring default-
jre-headless ethtool fail2ban file gdb git htop initramfs-tools less libapache2-mod-php linux-image-amd64 locales
locales-all logrotate lsof lvm2 man-db mariadb-server mdadm needrestart nftables openssh-server pciutils perl-doc php-
cli php-curl php-gd php-mysql plocate postfix postgresql python3 python3-dev python3-django python3-numpy
python3-psycopg2 python3-requests redis-server rsync rsyslog samba smartmontools strace sudo systemd-sysv systemd-
timesyncd tcpdump tmux unattended-upgrades unzip vim wget xfsprogs zip
""".split()  # noqa: SIM905 - sixty names read better so

#: Settings of this system's apt that the new system needs to fetch anything at all.
_APT_SETTINGS = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
_LOG_MIB = 24


@dataclass(frozen=True, slots=True)
class Archives:
    """Where this system fetches packages from: the archive, and its security updates."""

    main: str
    security: str

    def lines(self, suite: str, *, updates: bool) -> str:
        """sources.list for ``suite``."""
        lines = [f"deb {self.main} {suite} main"]
        if updates:
            lines += [f"deb {self.main} {suite}-updates main", f"deb {self.security} {suite}-security main"]
        return "".join(f"{line}\n" for line in lines)


def own_archives() -> Archives:
    """The archives of Debian that this system's apt is told to use.  Raises CommandFailed when it is told none."""
    said = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages", "Component: main"
    )
    targets = [line.split() for line in said.splitlines()]
    security = [uri for uri, release in targets if release.endswith("-security")]
    plain = {release.removesuffix("-security") for _, release in targets if release.endswith("-security")}
    main = [uri for uri, release in targets if release in plain]
    if not main or not security:
        raise CommandFailed("this needs a Debian whose apt knows an archive and its security updates")
    return Archives(main[0], security[0])


@dataclass(frozen=True, slots=True)
class Change:
    """What a step did: packages whose version changed, packages that are new, and the packages there are behind it."""

    upgraded: int
    added: int
    packages: int


class RealSystem:
    """A GPT disk image with one ext4 partition that holds a Debian."""

    def __init__(self, path: Path, scratch: Path) -> None:
        """Make the disk, with an empty filesystem; ``scratch`` is a folder to mount it in."""
        self.path, self._scratch = path, scratch
        self._archives = own_archives()
        self._random = random.Random(1)
        with path.open("wb") as image:
            image.truncate(SIZE_BYTES)
        run("sfdisk", "--quiet", path, input=_TABLE)
        (part,) = json.loads(run("sfdisk", "--json", path))["partitiontable"]["partitions"]
        self._offset, self._length = part["start"] * _SECTOR_BYTES, part["size"] * _SECTOR_BYTES
        with loop_device(path, self._offset, self._length) as device:
            run("mkfs.ext4", "-q", "-L", "root", device)

    def install(self) -> Change:
        """Install ``SUITE`` as it was released, without any update."""
        settings = dict(line.split(" ", 1) for line in run("apt-config", "dump").splitlines() if " " in line)
        options = [f"--aptopt={key} {settings[key]}" for key in _APT_SETTINGS if settings.get(key, '"";') != '"";']
        with self._mounted() as root:
            include = f"--include={','.join(PACKAGES)}"
            options += ["--aptopt=APT::Install-Recommends true", "--mode=root", "--variant=important", include]
            sources = self._archives.lines(SUITE, updates=False)
            run("mmdebstrap", "--quiet", *options, SUITE, root, "-", input=sources)
            policy = root / "usr/sbin/policy-rc.d"
            policy.write_text("#!/bin/sh\nexit 101\n")  # nothing may start in the chroot
            policy.chmod(0o755)
            before: dict[str, str] = {}
            with self._chroot(root):
                self._use(root)
                return self._change(root, before)

    def edit(self, count: int) -> int:
        """Add a line to ``count`` files below ``/etc``, as an editor does: a new file, renamed over the old."""
        with self._mounted() as root:
            files = sorted(path for path in (root / "etc").rglob("*.conf") if path.is_file() and not path.is_symlink())
            for path in self._random.sample(files, count):
                new = path.with_name(f".{path.name}.swp")
                shutil.copy2(path, new)
                with new.open("a") as file:
                    file.write("# edited\n")
                new.replace(path)
        return count

    def upgrade(self, suite: str) -> Change:
        """Use the system for a while, then upgrade it to what ``suite`` and its updates hold now."""
        with self._mounted() as root, self._chroot(root):
            before = self._versions(root)
            (root / "etc/apt/sources.list").write_text(self._archives.lines(suite, updates=True))
            shutil.rmtree(root / "etc/apt/sources.list.d", ignore_errors=True)
            (root / "etc/apt/sources.list.d").mkdir()
            self._apt(root, "update")
            self._apt(root, "dist-upgrade")
            self._apt(root, "clean")
            self._use(root)
            return self._change(root, before)

    def check(self, image: Path) -> None:
        """e2fsck over a copy of the disk.  Raises CommandFailed unless it is clean."""
        with loop_device(image, self._offset, self._length, read_only=True) as device:
            run("e2fsck", "-f", "-n", device)

    # -- inside

    @contextmanager
    def _mounted(self) -> Iterator[Path]:
        with loop_device(self.path, self._offset, self._length) as device:
            with mounted(device, self._scratch) as root:
                yield root
                run("fstrim", root)  # what was deleted takes no memory any more

    @contextmanager
    def _chroot(self, root: Path) -> Iterator[None]:
        with ExitStack() as stack:
            for name, kind in (("proc", "proc"), ("sys", "sysfs")):  # /dev has mmdebstrap's own nodes
                run("mount", "-t", kind, kind, root / name)
                stack.callback(run, "umount", root / name)
            for name in ("resolv.conf", "hosts"):
                target = root / "etc" / name
                target.unlink(missing_ok=True)
                shutil.copyfile(f"/etc/{name}", target)
            yield

    def _inside(self, root: Path, *arguments: str) -> str:
        environment = {
            "DEBIAN_FRONTEND": "noninteractive",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        return run("chroot", root, *arguments, environment=environment)

    def _apt(self, root: Path, command: str) -> None:
        self._inside(root, "apt-get", "--quiet=2", "--yes", "-o", "Dpkg::Options::=--force-confold", command)

    def _versions(self, root: Path) -> dict[str, str]:
        lines = self._inside(root, "dpkg-query", "--show", "--showformat=${Package}:${Architecture} ${Version}\\n")
        return dict(line.split(" ", 1) for line in lines.splitlines())

    def _change(self, root: Path, before: dict[str, str]) -> Change:
        after = self._versions(root)
        upgraded = sum(name in before and before[name] != version for name, version in after.items())
        return Change(upgraded, len(after.keys() - before.keys()), len(after))

    def _use(self, root: Path) -> None:
        """Logs that grow and are rotated, package lists, the database of file names, caches."""
        self._apt(root, "update")
        folder = root / "var/log/apache2"
        folder.mkdir(exist_ok=True)
        for number in range(8, 0, -1):
            old = folder / f"access.log.{number}.gz"
            if old.exists():
                old.rename(folder / f"access.log.{number + 1}.gz")
        current = folder / "access.log"
        if current.exists():
            (folder / "access.log.1.gz").write_bytes(gzip.compress(current.read_bytes(), 6))
        with current.open("w") as log:
            written = 0
            while written < _LOG_MIB * MIB:
                written += log.write(self._log_line())
        self._inside(root, "updatedb.plocate")
        self._inside(root, "mandb", "--quiet")
        self._inside(root, "python3", "-c", "import django, numpy, psycopg2, requests")

    def _log_line(self) -> str:
        source, second = self._random.getrandbits(32), self._random.randrange(86400)
        path = self._random.choice(("index.html", "login", "api/v1/items", "static/app.js", "favicon.ico"))
        size = self._random.randrange(100, 60_000)
        octets = ".".join(str(source >> shift & 255) for shift in (24, 16, 8, 0))
        moment = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        return f'{octets} - - [12/May/2025:{moment} +0000] "GET /{path} HTTP/1.1" 200 {size} "-" "Mozilla/5.0"\n'
