"""What links need: addresses, ports and devices by transport."""

from __future__ import annotations

import re
from collections.abc import Iterator

from skedge.config.addresses import Address, parse_host
from skedge.config.parsed import ParsedFile, Problem
from skedge.config.schema import LinkSpec
from skedge.config.validation import shown
from skedge.core.model import AUTO
from skedge.core.names import PREFIX
from skedge.core.transports import VXLAN_PORT

MTU_MIN = 1280  # RFC 8200: every link that carries IPv6
KEYS_MAX = 2  # the far end's key, and the one that it changes to
NAMES_MAX = 220  # of both sites, the link and its remote together: the device's alias holds them all
_HOST_NAME = re.compile(r"(?!.*\.[0-9]+\Z)([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_-]{1,63}\.?\Z")


def link_port(link: LinkSpec) -> int:
    """Return the UDP port of a link at this end; of a transport without UDP the default of `Link`, which none uses."""
    return link.port or link.transport.facts.port or VXLAN_PORT


def remote_port(link: LinkSpec) -> int:
    """Return the far end's UDP port of a wireguard link, 0 for others."""
    return (link.remote_port or link.transport.facts.port) if link.transport.facts.roaming else 0


def _links(file: ParsedFile) -> Iterator[Problem]:
    for path, link in file.links:
        if file.good("site") and link.to == file.spec.site:
            yield f"{path}.to", f"{link.to} is this site itself; give the name of another site"
        if link.mtu and link.mtu < MTU_MIN:
            yield (
                f"{path}.mtu",
                f"{link.mtu} is too small for IPv6; give {MTU_MIN} or more, or 0 for the underlay's own",
            )
        if link.base_cost != 1 and link.cost != AUTO:
            yield f"{path}.base_cost", f"{link.base_cost} is for a cost that is measured; give cost: auto, or remove it"
        facts = link.transport.facts
        yield from _underlay_device(path, link) if facts.device else _tunnel(path, link)
        if facts.port and file.good("load_port") and link_port(link) == file.spec.load_port:
            yield f"{path}.port", f"{link_port(link)} is already load_port; give another port"
        if facts.encrypted:
            yield from _wireguard(file, path, link)
        else:
            yield from _not_wireguard(path, link)


def _underlay_device(path: str, link: LinkSpec) -> Iterator[Problem]:
    if not link.device:
        yield (
            f"{path}.device",
            f"missing; a {link.transport} link needs the name of the network device to the neighbour",
        )
    elif link.device in (".", "..", "lo") or link.device.startswith(PREFIX):
        yield f"{path}.device", f"{link.device} cannot carry a link; give the network device to the neighbour"


def _tunnel(path: str, link: LinkSpec) -> Iterator[Problem]:
    ends: dict[str, Address] = {}
    facts = link.transport.facts
    if link.device:
        yield (
            f"{path}.device",
            f"{link.device}: a {link.transport} link takes no device; remove the key or give transport: direct",
        )
    for key, text in (("local", link.local), ("remote", link.remote)):
        if not text or (key == "remote" and facts.roaming and is_host_name(text)):
            continue
        address = parse_host(text)
        if isinstance(address, str):
            or_name = " or a host name" if key == "remote" and facts.roaming else ""
            yield f"{path}.{key}", address.replace("an IP address", f"an IP address{or_name}")
        elif address.is_loopback:
            yield f"{path}.{key}", f"{text} stays inside this host; give the address that the other host sees"
        else:
            ends[key] = address
    if not link.remote and facts.remote:
        yield f"{path}.remote", f"missing; a {link.transport} link needs the neighbour's address in the network below"
    if len(ends) == 2 and ends["local"].version != ends["remote"].version:
        yield f"{path}.local", f"{link.local} and remote {link.remote} are of two IP versions; give two of one version"
    elif len(ends) == 2 and ends["local"] == ends["remote"]:
        yield f"{path}.remote", f"{link.remote} is also local; give the neighbour's address"


def is_host_name(text: str) -> bool:
    """Return whether a text may be a name of the DNS; what looks like an IPv4 address with a mistake is none."""
    return len(text) <= 253 and _HOST_NAME.match(text) is not None and not text.isdecimal() and text != "localhost"


def _wireguard(file: ParsedFile, path: str, link: LinkSpec) -> Iterator[Problem]:
    if len(set(link.keys)) > KEYS_MAX:
        yield (
            f"{path}.keys",
            f"{len(set(link.keys))} are more than {KEYS_MAX}; give the far end's key, and its next one",
        )
    length = sum(map(len, (file.spec.site, link.to, link.name, link.remote)))
    if length > NAMES_MAX:
        way_out = "give shorter names, or an address as remote"
        yield (
            path,
            f"the names of both sites, link and remote have {length} of {NAMES_MAX} characters; {way_out}",
        )


def _not_wireguard(path: str, link: LinkSpec) -> Iterator[Problem]:
    given = {"remote_port": link.remote_port, "keepalive_s": link.keepalive_s, "keys": link.keys}
    for key, value in given.items():
        if value:
            yield f"{path}.{key}", f"{shown(value)}: only a wireguard link has this; remove it"


def _links_as_set(file: ParsedFile) -> Iterator[Problem]:
    seen: dict[tuple[str, str], str] = {}
    for path, link in file.links:
        first = seen.setdefault((link.to, link.name), path)
        if first != path:
            way_out = "remove one, or give it another name for a parallel link"
            yield path, f"the link to {link.to} named {link.name} is already {first}; {way_out}"


def _ports_as_set(file: ParsedFile) -> Iterator[Problem]:
    """Each wireguard link has a UDP port of its own; all vxlan links share theirs. An inventory may leave them open."""
    ported = [(path, link, link.transport.facts.own_port) for path, link in file.links if link.transport.facts.port]
    seen = {link_port(link): (path, link) for path, link, own in ported if not own}
    for path, link, own in ported:
        if own and (link.port or not file.prefix):
            first, other = seen.setdefault(link_port(link), (path, link))
            if (other.to, other.name) != (link.to, link.name):
                way_out = f"give each {link.transport} link its own"
                yield f"{path}.port", f"{link_port(link)} is already the port of {first}; {way_out}"


LINK_CHECKS = (_links, _links_as_set, _ports_as_set)
