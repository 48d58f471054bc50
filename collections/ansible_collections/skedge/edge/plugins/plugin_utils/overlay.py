# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Which overlay addresses the sites get: what the inventory says, else what they were given, else new ones (pure)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

from ansible_collections.skedge.edge.plugins.plugin_utils.address_register import FILE, HELD_DAYS, Given, Register
from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host

from skedge.core import names

PREFIX = "skedge_"
KEYS = ("overlay_address", "overlay_address6", "nat_address")
_TRIES = 64  # by hash, before the range is looked through


@dataclass(frozen=True)
class Said:
    """What the inventory says of one site: the addresses written there, canonical, by key."""

    host: Host
    addresses: Mapping[str, str]


def overlay_range(hosts: Iterable[Host], register: Register, network: str) -> str:
    """Return the IPv4 range for hosts that are given none: the one that the network has, else one made from its name.

    Where addresses outside of that are written, it is all of the shared address space.
    """
    if register.overlay_cidr:
        return register.overlay_cidr
    made = names.overlay_network(network)
    written = [host.values.get(PREFIX + key) for host in hosts for key in ("overlay_address", "nat_address")]
    outside = any(address is not None and address not in made for address in map(_v4, written))
    return str(names.SHARED_SPACE if outside else made)


def said(host: Host) -> Said:
    """Return what the inventory says of a host; what is no address is left out, as it is refused elsewhere."""
    found = {key: host.values.get(PREFIX + key) for key in KEYS}
    return Said(host, {key: text for key, one in found.items() if (text := _canonical(one))})


def range_problems(hosts: Iterable[Host], register: Register, cidr: str) -> Iterator[str]:
    """Yield why the range cannot be changed to ``cidr``: a site has an address outside of it."""
    network = IPv4Network(cidr)
    for site, one in sorted(register.deployed.items()):
        outside = [text for text in (one.overlay_address, one.nat_address) if text and ip_address(text) not in network]
        if outside:
            host = next(iter(sorted(hosts, key=lambda host: PREFIX + "overlay_cidr" not in host.values)))
            yield (
                f"{host.where('skedge_overlay_cidr')}: skedge_overlay_cidr: {cidr} does not hold {outside[0]}, which "
                f"{site} has, and sites are not renumbered while they serve; keep {register.overlay_cidr}, or run "
                "remove.yml for all hosts and deploy anew"
            )
            return


def clashes(every: Iterable[Said], register: Register, network: str) -> Iterator[str]:
    """Yield each address that the inventory gives to a site though it is another's, by the inventory or by register."""
    every = list(every)
    for number, one in enumerate(every):
        for key, address in one.addresses.items():
            for place, other in enumerate(every):
                if other.host.site == one.host.site:
                    continue
                theirs = _kept(other, register, network)
                if address in other.addresses.values() and place < number:
                    yield _clash(one.host, key, address, other.host, "")
                elif address in theirs and address not in other.addresses.values():
                    yield _clash(one.host, key, address, other.host, theirs[address])


def _kept(one: Said, register: Register, network: str) -> Mapping[str, str]:
    """Return the addresses that a site has without the inventory's word, and why."""
    given = register.deployed.get(one.host.site, Given())
    kept = {getattr(given, key): f" (given out, {FILE})" for key in KEYS if key not in one.addresses}
    made = {str(names.nat_address6(network, one.host.site)): " (made from its name)"}
    return {address: why for address, why in {**made, **kept}.items() if address}


def _clash(host: Host, key: str, address: str, other: Host, why: str) -> str:
    variable = PREFIX + key
    same = f"{address} is also the address of {other.name}{why}"
    return f"{host.where(variable)}: {variable}: {same}; give one of them another"


class _Pool:
    """Who has which address, of both families."""

    def __init__(self, network: str, cidr: IPv4Network) -> None:
        self.network, self.cidr = network, cidr
        self.holder: dict[str, str] = {}
        self._avoided = names.RESOLVERS if not cidr.subnet_of(names.RESOLVERS) else None

    def take(self, site: str, address: str) -> bool:
        """Give an address to a site; return whether it is the site's now."""
        return self.holder.setdefault(address, site) == site

    def fits(self, address: str) -> bool:
        """Return whether an address given out earlier is still one for a site."""
        one = ip_address(address)
        return one.version == 6 or (one in self.cidr and one not in (self.cidr[0], self.cidr[-1]))

    def new4(self, site: str, made: Callable[..., IPv4Address]) -> str:
        """Return a free IPv4 address, and give it to the site; "" when there is none."""
        for attempt in range(_TRIES):
            last = made(self.cidr, self.network, site, attempt=attempt)
            if self._free(last):
                break
        else:
            hosts = self.cidr.num_addresses - 2
            first = int(last) - int(self.cidr.network_address)
            places = ((first + step) % hosts + 1 for step in range(min(hosts, len(self.holder) + 1 + _AVOIDED)))
            last = next((one for one in (self.cidr[place] for place in places) if self._free(one)), self.cidr[0])
        return str(last) if last != self.cidr[0] and self.take(site, str(last)) else ""

    def _free(self, one: IPv4Address) -> bool:
        return str(one) not in self.holder and (self._avoided is None or one not in self._avoided)

    def new6(self, site: str) -> str:
        """Return a free IPv6 address, and give it to the site."""
        for attempt in range(_TRIES):
            one = str(names.overlay_address6(self.network, site, attempt))
            if self.take(site, one):
                return one
        raise AssertionError("2^64 addresses collide")


_AVOIDED = names.RESOLVERS.num_addresses


def assign(every: Iterable[Said], register: Register, cidr: str, today: dt.date) -> tuple[Register, list[str]]:
    """Return the register with every site of the inventory in it, and the problems: the range has no room.

    Who is in no inventory any more is marked as gone, and forgotten when somebody else gets the address.
    """
    every = sorted(every, key=lambda one: one.host.site)
    pool = _Pool(register.network, IPv4Network(cidr))
    chosen: dict[str, dict[str, str]] = {one.host.site: {} for one in every}
    for one in every:
        pool.take(one.host.site, str(names.nat_address6(register.network, one.host.site)))
        for key, address in one.addresses.items():
            if pool.take(one.host.site, address):
                chosen[one.host.site][key] = address
    left = {
        site: one if one.gone else replace(one, gone=today.isoformat())
        for site, one in register.sites.items()
        if site not in chosen
    }
    _keep(register, chosen, left, pool, today)
    problems = [sentence for one in every for sentence in _new(one.host, chosen, pool, left, today)]
    for site in chosen:
        if "nat_address" not in chosen[site] and (address := pool.new4(site, names.nat_address)):
            chosen[site]["nat_address"] = address
    given = {site: Given(**addresses) for site, addresses in chosen.items()}
    taken = {address for one in given.values() for address in one.addresses}
    left = {site: one for site, one in left.items() if taken.isdisjoint(one.addresses)}
    return replace(register, overlay_cidr=cidr, sites={**left, **given}), problems


def _keep(
    register: Register, chosen: Mapping[str, dict[str, str]], left: Mapping[str, Given], pool: _Pool, today: dt.date
) -> None:
    """Let sites have what they were given: first what they are reached under; who is there goes before who left."""
    entries = sorted(register.sites.items(), key=lambda item: (bool(item[1].gone), item[0]))
    for key in KEYS:
        for site, one in entries:
            address = getattr(one, key)
            if not address:
                continue
            if site not in chosen:
                if left[site].held(today):
                    pool.take(site, address)
            elif key not in chosen[site] and pool.fits(address) and address not in chosen[site].values():
                chosen[site] |= {key: address} if pool.take(site, address) else {}


def _new(
    host: Host, chosen: Mapping[str, dict[str, str]], pool: _Pool, left: Mapping[str, Given], today: dt.date
) -> Iterator[str]:
    """Give a site what it has not; yield why that cannot be."""
    mine = chosen[host.site]
    if "overlay_address6" not in mine:
        mine["overlay_address6"] = pool.new6(host.site)
    if "overlay_address" in mine:
        return
    address = pool.new4(host.site, names.overlay_address)
    if address:
        mine["overlay_address"] = address
        return
    held = sorted(site for site, one in left.items() if one.held(today))
    kept = f" ({', '.join(held[:4])} left, whose addresses are kept for {HELD_DAYS} days in {FILE})" if held else ""
    yield (
        f"{host.where('skedge_overlay_cidr')}: skedge_overlay_cidr: {pool.cidr} has no address left for {host.site}"
        f"{kept}; give it a wider range"
    )


def _v4(value: Any) -> IPv4Address | None:
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return address if isinstance(address, IPv4Address) else None


def _canonical(value: Any) -> str:
    try:
        return str(ip_address(value)) if isinstance(value, str) and value else ""
    except ValueError:
        return ""
