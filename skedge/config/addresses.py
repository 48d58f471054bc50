"""Addresses in the configuration: what is accepted, and the sentence that says why another is not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from skedge.config.validation import shown
from skedge.core.names import SHARED_SPACE, overlay_network

Address = IPv4Address | IPv6Address


def parse_host(text: str) -> Address | str:
    """Return the unicast address that ``text`` is, or the sentence that says why it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return f"{shown(text)} is not an IP address; give one such as 10.0.0.5 or fd00::5"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return f"{shown(text)} carries a scope; give an address without %"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"{shown(text)} is an IPv4 address in IPv6 form; give {address.ipv4_mapped}"
    if address.is_unspecified or address.is_multicast or text == "255.255.255.255":
        return f"{text} is not the address of one host; give a unicast address"
    return address


def parse_cidr(text: str) -> IPv4Network | str:
    """Return the overlay's IPv4 network, or the sentence that says why it is none."""
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        return f"{shown(text)} is not an IPv4 network; give one such as 100.64.0.0/10"
    if "/" in text and str(network.network_address) != text.split("/")[0]:
        return f"{text} has host bits set; give {network}"
    if not 8 <= network.prefixlen <= 30:
        return f"{text} is not between /8 and /30; give a network such as 100.64.0.0/10"
    first = network.network_address
    if (
        first.is_loopback
        or first.is_multicast
        or first.is_link_local
        or first.is_unspecified
        or first.is_reserved
        or int(first) >> 24 == 0
    ):
        return f"{text} is not for hosts; give a private network such as 100.64.0.0/10"
    return network


def overlay_range(cidr: str, network: str, address: str) -> IPv4Network | str:
    """Return the overlay's IPv4 network, or the sentence that says why ``cidr`` is none.

    Without one it is made from the network's name; but a file that names the site's ``address`` alone was written when
    the default was all of the shared address space, and means that.
    """
    if cidr:
        return parse_cidr(cidr)
    return SHARED_SPACE if address else overlay_network(network)


def canonical(address: str) -> str:
    """Return the address in its one canonical form; ``*``, ``""`` and what does not parse as it is."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address
