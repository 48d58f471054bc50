"""At which addresses the listeners of a site are (pure).

Tables add up, they do not multiply: of a host with very many addresses only the first ones get an entry a listener; the
others are one prefix each, and one entry of each listener on every address stands for them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

from skedge.core.abilities import ABILITIES
from skedge.core.model import ANY_ADDRESS, Listener, SiteConfig
from skedge.core.objects import ListenerKey
from skedge.core.routing.overlay_addresses import plain_address

LOOPBACK = ("127.0.0.1", "::1")
EXACT_MAX = 64  # addresses of the host at which a listener on every address has an entry of its own, the quicker way
REST = ("0.0.0.0", "::")  # noqa: S104 (a listener's key for what is the host's and has no entry of its own)


def listeners(config: SiteConfig, host_addresses: Iterable[str]) -> Mapping[ListenerKey, Listener]:
    """Return the listener of every concrete address:port of this site; a given address goes before ``*``.

    ``*`` is loopback and every current address of the host, except IPv6 link-local ones: they mean nothing
    without a device, and every link device of ours has one. Loopback is left out where the engine cannot listen there.
    `REST` stands for what is the host's by a local route alone, and for its addresses after the first `EXACT_MAX`.
    """
    can = ABILITIES[config.engine]
    every = [*LOOPBACK, *_usable(host_addresses)]
    if can.whole_prefixes:
        every = [*LOOPBACK, *REST, *_in_order(host_addresses)[:EXACT_MAX]]
    every = sorted(set(every))
    found: dict[ListenerKey, Listener] = {}
    for listener in sorted(config.listeners, key=lambda listener: listener.address != ANY_ADDRESS):
        given = plain_address(listener.address)
        for address in every if listener.address == ANY_ADDRESS else [str(given or listener.address)]:
            if not can.loopback_listeners and ip_address(address).is_loopback:
                continue
            found[ListenerKey(address, listener.port, listener.protocol)] = listener
    return found


def shared(config: SiteConfig, host_addresses: Iterable[str]) -> frozenset[str]:
    """Return the host's addresses, as prefixes, at which `REST` stands for listeners on every address."""
    if not ABILITIES[config.engine].whole_prefixes:
        return frozenset()
    return frozenset(str(ip_network(one)) for one in _in_order(host_addresses)[EXACT_MAX:])


def _in_order(host_addresses: Iterable[str]) -> list[str]:
    """Return the usable addresses but loopback, always in one order: the first ones keep their place in tables."""
    return sorted(one for one in set(_usable(host_addresses)) if not ip_address(one).is_loopback)


def _usable(host_addresses: Iterable[str]) -> Iterable[str]:
    for text in host_addresses:
        address = plain_address(text)
        if address is None or address.is_unspecified or address.is_multicast:
            continue
        if not (address.version == 6 and address.is_link_local):
            yield str(address)
