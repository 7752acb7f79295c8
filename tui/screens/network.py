"""The state of the network."""

from __future__ import annotations

from rich.console import RenderableType

from tui.network import Link
from tui.screens.facts import FactsScreen, paragraph, table


class NetworkScreen(FactsScreen):
    """Links, addresses, the way out."""

    TITLE = "Network"
    HELP = (
        "What this machine's network cards say.\n\n"
        "An address is the number under which other machines reach this one; it is given by the network's router (by "
        "DHCP, the usual way of giving addresses). The number behind the slash says how large the network is. A "
        "gateway is the machine through which everything outside is reached. A name server turns names into "
        "addresses.\n\n"
        "A cable is enough: addresses are asked for as soon as it is plugged in. A wireless network is connected "
        "with the program iwctl, from the shell in the tools."
    )
    WAITING = "Looking at the network ..."

    def find(self) -> list[RenderableType]:
        """From ``ip``."""
        network = self.recovery.machine.network()
        facts = [paragraph(sentence, "bold") for sentence in network.sentences]
        facts += [table(_rows(link)) for link in network.links]
        facts.append(
            table(
                [
                    ("Gateway", ", ".join(network.gateways) or "none"),
                    ("Name server", ", ".join(network.names) or "none"),
                ]
            )
        )
        return facts


def _rows(link: Link) -> list[tuple[str, str]]:
    state = "connected" if link.connected else "not connected"
    rows = [(f"Network card {link.name}", state)]
    rows += [("  address", address) for address in link.addresses]
    rows += [("  hardware address", link.hardware_address)] if link.hardware_address else []
    return rows
