"""The LANs that a site announces, and what a listener needs of them: one sentence for each contradiction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network

from skedge.config.schema import ListenerSpec
from skedge.config.validation import shown
from skedge.core.routing.lan_prefixes import PREFIXES_PER_SITE_MAX, Network, parse_prefix

Problem = tuple[str, str]


def prefixes(path: str, given: Sequence[object], overlay: Sequence[str]) -> Iterator[Problem]:
    """Yield what is wrong with a site's prefixes; ``overlay`` are the network's own ranges."""
    if len(given) > PREFIXES_PER_SITE_MAX:
        yield path, f"{len(given)} are more than {PREFIXES_PER_SITE_MAX}; give fewer, larger ones"
    seen: list[tuple[Network, str]] = [(ip_network(text), f"the overlay {text}") for text in overlay]
    for number, text in enumerate(given):
        where = f"{path}[{number}]"
        if not isinstance(text, str):
            continue  # said already
        try:
            network = parse_prefix(text)
        except ValueError as error:
            yield where, f"{shown(text)} is {error}"
            continue
        for other, name in seen:
            if other.version == network.version and network.overlaps(other):
                yield where, f"{text} overlaps {name}; give prefixes that have no address in common"
        seen.append((network, f"{where}, {text}"))


def preserving(
    path: str, listener: ListenerSpec, given: Sequence[object], devices: Sequence[object]
) -> Iterator[Problem]:
    """Yield what is wrong with a listener whose clients keep their addresses."""
    if not listener.preserve_client_ip:
        return
    where = f"{path}.preserve_client_ip"
    if not devices:
        yield where, "lan_devices has no device that clients could come from; give devices, or remove it"
    elif not given:
        yield where, "other sites would not find the way back to the clients; give the LAN's prefix in prefixes"
