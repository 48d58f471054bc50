"""Names and addresses derived from the names of network, sites and links (pure functions of their arguments)."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from skedge.core.model import LinkId

NFT_TABLE = "skedge"  # in the family inet
PREFIX = "sk-"
DEVICE_NAME_MAX = 15  # IFNAMSIZ - 1
GATEWAY4 = "169.254.74.1"  # next hop of IPv4 routes on each of our devices: it only stands for the one neighbour
UPLINK_MARK = 0x70000000  # of the tunnel packets of links that are bound to an uplink
SHARED_SPACE = IPv4Network("100.64.0.0/10")  # RFC 6598
RESOLVERS = IPv4Network("100.100.0.0/16")  # where clouds have their resolvers, and Tailscale its own: nobody's default
_SIXTEENTHS = 64  # /16s in the shared space
SOCKET_MARK = 0x736B  # "sk": SO_MARK of the controller's own sockets, which are never balanced


def _digest(*parts: str) -> bytes:
    """Return SHA-256 over the parts, separated unambiguously."""
    return hashlib.sha256(b"\0".join(part.encode() for part in parts)).digest()


def overlay_network(network: str) -> IPv4Network:
    """Return the network's own /16 of the shared address space, never the one that resolvers are in."""
    second = 64 + int.from_bytes(_digest("v4net", network)[:8]) % (_SIXTEENTHS - 1)
    return IPv4Network(f"100.{second if second < 100 else second + 1}.0.0/16")


def overlay_address(cidr: IPv4Network, network: str, site: str, attempt: int = 0) -> IPv4Address:
    """Return the site's IPv4 overlay address: stable when sites are added, never network or broadcast.

    ``attempt`` numbers the further ones, for where an earlier one is another site's.
    """
    return _host_address(cidr, _digest("v4", network, site, *_again(attempt)))


def nat_address(
    cidr: IPv4Network, network: str, site: str, beside: IPv4Address | None = None, attempt: int = 0
) -> IPv4Address:
    """Return the IPv4 overlay address that the site's LAN clients have on other sites; no socket uses it.

    ``beside`` is the site's overlay address, which it is not (where the network has room for two).
    """
    address = _host_address(cidr, _digest("nat4", network, site, *_again(attempt)))
    if address != beside:
        return address
    return address + 1 if address + 1 < cidr.broadcast_address else cidr.network_address + 1


def _host_address(cidr: IPv4Network, digest: bytes) -> IPv4Address:
    hosts = cidr.num_addresses - 2
    if hosts < 1:
        raise ValueError(f"{cidr} has no room for a host address")
    return cidr.network_address + 1 + int.from_bytes(digest[:8]) % hosts


def _again(attempt: int) -> tuple[str, ...]:
    return (str(attempt),) if attempt else ()


def nat_address6(network: str, site: str) -> IPv6Address:
    """Return the IPv6 overlay address that the site's LAN clients have on other sites."""
    prefix = b"\xfd" + _digest("v6net", network)[:5] + b"\0\0"
    return IPv6Address(prefix + _digest("nat6", network, site)[:8])


def overlay_address6(network: str, site: str, attempt: int = 0) -> IPv6Address:
    """Return the site's IPv6 overlay address: a ULA (RFC 4193), /48 from the network, host part from the site."""
    prefix = b"\xfd" + _digest("v6net", network)[:5] + b"\0\0"
    return IPv6Address(prefix + _digest("v6", network, site, *_again(attempt))[:8])


def overlay_prefix6(network: str) -> str:
    """Return the /48 that holds every IPv6 overlay address of the network."""
    prefix = b"\xfd" + _digest("v6net", network)[:5] + bytes(10)
    return f"{IPv6Address(prefix)}/48"


def link_local(network: str, site: str) -> IPv6Address:
    """Return the fixed link-local address that the site has on each of its link devices."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + _digest("ll", network, site)[:8])


def vni(network: str, link: LinkId) -> int:
    """Return the VXLAN network identifier of a link, 1..2^24-1, the same at both ends."""
    return int.from_bytes(_digest("vni", network, link.a, link.b, link.name)[:3]) or 1


def device_name(network: str, link: LinkId, site: str) -> str:
    """Return the name of the link's device at ``site``, at most 15 characters: ``sk-<far end>-<hash>``."""
    tail = "-" + _digest("dev", network, link.a, link.b, link.name).hex()[:4]
    room = DEVICE_NAME_MAX - len(PREFIX) - len(tail)
    return PREFIX + link.far_end(site)[:room] + tail


def uplink_mark(port: int) -> int:
    """Return the mark of a link's own packets, which is its routing table, too; ``port``: no two links have the same.

    Bits 14 and 15 are left out: Kubernetes drops or translates what has them, and Tailscale reads 16 to 23.
    """
    return UPLINK_MARK | (port >> 14) << 24 | (port & 0x3FFF)


def is_uplink_mark(mark: int) -> bool:
    """Return whether a mark is one of `uplink_mark`."""
    return mark & ~0x03003FFF == UPLINK_MARK and mark != UPLINK_MARK


def address_port(address: str, port: int) -> str:
    """Return an address literal and a port as one text, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
