"""What this machine's network is like: its links and their addresses, and the way out; asked of ``ip``."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from recovery.command import run
from recovery.devices.live import live_root
from recovery.errors import DeviceError

_NEEDED_FOR = "looking at the network"
_SECONDS = 10.0
T = TypeVar("T")


class _Address(msgspec.Struct, frozen=True):
    family: str
    local: str = ""
    prefixlen: int = 0
    scope: str = ""


class _Link(msgspec.Struct, frozen=True):
    ifname: str
    flags: tuple[str, ...] = ()
    operstate: str = ""
    address: str = ""
    addr_info: tuple[_Address, ...] = ()


class _Route(msgspec.Struct, frozen=True):
    dst: str = ""
    gateway: str = ""
    dev: str = ""


class Link(msgspec.Struct, frozen=True):
    """One network card.  ``connected``: its cable or its wireless network is there.

    ``addresses`` come with the length of their network ("192.0.2.2/24"), those that only this link knows last.
    """

    name: str
    connected: bool
    hardware_address: str
    addresses: tuple[str, ...]
    reachable: tuple[str, ...]


class Network(msgspec.Struct, frozen=True):
    """``gateways``: through whom everything else is reached, and by which link; ``names``: who is asked for names."""

    links: tuple[Link, ...]
    gateways: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def reachable(self) -> tuple[str, ...]:
        """The addresses under which other machines may reach this one, those of version 4 first."""
        found = [address for link in self.links if link.connected for address in link.reachable]
        return tuple(sorted(found, key=lambda address: ":" in address))

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person should know, first."""
        if not self.links:
            return ("No network card was found.",)
        if not any(link.connected for link in self.links):
            return ("No cable is plugged in, and no wireless network is connected.",)
        if not self.reachable:
            return ("The network is connected but gave this machine no address: no DHCP server answered.",)
        if not self.gateways:
            return ("This machine has an address; only its own network can be reached, for no gateway is known.",)
        return ("This machine is connected, and has a way out.",)


def look_at_network() -> Network:
    """The network as it is now.  Raises ProgramMissing, DeviceError."""
    links = _asked(tuple[_Link, ...], "addr")
    routes = [*_asked(tuple[_Route, ...], "-4", "route"), *_asked(tuple[_Route, ...], "-6", "route")]
    return Network(
        links=tuple(_link(link) for link in links if _is_card(link)),
        gateways=tuple(f"{route.gateway} through {route.dev}" for route in routes if route.dst == "default"),
        names=_name_servers(),
    )


def _asked(form: type[T], *words: str) -> T:
    said = run(["ip", "-json", *words], needed_for=_NEEDED_FOR, timeout_seconds=_SECONDS).stdout
    try:
        return msgspec.json.decode(said.strip() or b"[]", type=form)
    except msgspec.MsgspecError as error:
        raise DeviceError("the program ip answers in a form that is not known", str(error)) from error


def _is_card(link: _Link) -> bool:
    """Not the machine's line to itself, nor one that only programs made and nobody switched on."""
    made_of_metal = (Path("/sys/class/net") / link.ifname / "device").exists()
    return "LOOPBACK" not in link.flags and (made_of_metal or "UP" in link.flags)


def _link(link: _Link) -> Link:
    ordered = sorted(link.addr_info, key=lambda address: (address.scope != "global", address.family))
    return Link(
        name=link.ifname,
        connected="LOWER_UP" in link.flags,
        hardware_address=link.address,
        addresses=tuple(f"{address.local}/{address.prefixlen}" for address in ordered),
        reachable=tuple(address.local for address in ordered if address.scope in ("global", "site")),
    )


def _name_servers() -> tuple[str, ...]:
    for name in ("run/systemd/resolve/resolv.conf", "etc/resolv.conf"):
        try:
            lines = (live_root() / name).read_text(errors="replace").splitlines()
        except OSError:
            continue
        return tuple(line.split()[1] for line in lines if line.startswith("nameserver ") and len(line.split()) > 1)
    return ()
