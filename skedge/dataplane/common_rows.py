"""The rows of the registry that both engines have, and what they stand on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from skedge.core.desired.compute import Desired
from skedge.core.desired.forwarding import host_forwards
from skedge.core.desired.kinds import Kind
from skedge.core.desired.kinds import field as desired_field
from skedge.core.model import SiteConfig
from skedge.core.names import overlay_prefix6
from skedge.core.objects import ChainGroup, KernelRoute, LinkDevice, Uplink
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.ebpf.prefix_table import PrefixTable
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.links.driver import LinkDriver
from skedge.dataplane.nftables import accepted, arrivals, forward_guard
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.routing import rules, uplinks
from skedge.dataplane.routing.addresses import AddressDriver
from skedge.dataplane.routing.ipv6_forwarding import MEMORY, ForwardingDriver
from skedge.dataplane.routing.routes import RouteDriver, fall
from skedge.dataplane.routing.rules import RuleDriver
from skedge.dataplane.routing.uplinks import UplinkDriver


@dataclass
class Base:
    """What both engines stand on. ``other_serves``: another engine still serves; ``other_drains``: it has open ones."""

    netlink: Netlink
    table: NftTable
    state: Path
    overlays: tuple[str, ...] = ()
    other_serves: Callable[[], bool] = lambda: False
    other_drains: Callable[[], bool] = lambda: False
    accepted: accepted.AcceptedDriver = field(default_factory=accepted.AcceptedDriver)
    forwarding: ForwardingDriver = field(init=False)

    def __post_init__(self) -> None:
        self.forwarding = ForwardingDriver(self.netlink, self.state / MEMORY)


def overlays(config: SiteConfig) -> tuple[str, str]:
    """Return the overlay's networks of both families."""
    return config.overlay_cidr, overlay_prefix6(config.network)


def own_overlay(config: SiteConfig) -> frozenset[str]:
    """Return this site's overlay addresses, as prefixes: those of NAT, too, whether they are in use or not."""
    every = (config.overlay4, config.overlay6, config.nat4, config.nat6)
    return frozenset(str(ip_network(one)) for one in every if one)


def rule(base: Base) -> Kind[str, str]:
    """Return the row of ip rules, and last routes."""

    def wanted(config: SiteConfig, desired: Desired, held: Mapping[str, str]) -> Mapping[str, str]:
        own = (config.overlay4, config.overlay6)
        found = dict(rules.wanted(overlay_prefix6(config.network), own, desired.sites))
        if desired.announced or rules.for_lans(held):
            found |= rules.wanted_for_lans(*overlays(config), desired.answering)
        return found

    return Kind("rule", RuleDriver(base.netlink), wanted, waits=True)


def forwarding(base: Base) -> Kind[str, str]:
    """Return the row of the host's switch for IPv6 forwarding."""
    return Kind(
        "forwarding",
        base.forwarding,
        lambda config, _desired, held: base.forwarding.wanted(held, transit=host_forwards(config)),
    )


def closed_devices(
    base: Base, site: PacketCheckConfig, config: SiteConfig, *, translates: bool
) -> Mapping[str, ChainGroup]:
    """Return the chain that keeps closed what the switch for IPv6 forwarding opened."""
    closed = base.forwarding.closed(transit=host_forwards(config))
    return {forward_guard.NAME: forward_guard.group(closed, site, translates=translates)}


def site(base: Base) -> Kind[str, arrivals.Addresses]:
    """Return the row of the other sites' addresses, as the nftables table knows them."""
    return Kind(
        "site",
        arrivals.SiteAddressDriver(base.table),
        lambda _config, desired, _held: arrivals.by_family(desired.sites),
        waits=True,
        merge=arrivals.join,
    )


def uplink(base: Base, links: LinkDriver) -> Kind[int, Uplink]:
    """Return the row of the ways of links that are bound to an uplink."""
    desired_now: Mapping[int, tuple[str, LinkDevice, str]] = {}

    def look() -> Mapping[int, Uplink]:
        return {
            mark: uplinks.wanted(base.netlink, local, links.far_ends(name, device))
            for mark, (name, device, local) in desired_now.items()
        }

    def wanted(_config: SiteConfig, desired: Desired, _held: object) -> Mapping[int, Uplink]:
        nonlocal desired_now
        devices = ((name, desired.links[name], local) for name, local in desired.uplinks.items())
        desired_now = {device.mark: (name, device, local) for name, device, local in devices}
        return look()

    return Kind("uplink", UplinkDriver(base.netlink), wanted, glance=lambda: tuple(sorted(look().items())))


def link(links: LinkDriver, rests_on: Callable[[], Hashable] | None = None) -> Kind[str, LinkDevice]:
    """Return the row of link devices."""
    return Kind(
        "link",
        links,
        desired_field("links"),
        waits=True,
        remakes=links.remakes,
        rests_on=rests_on,
        glance=links.glance,
    )


def address(base: Base) -> Kind[str, str]:
    """Return the row of overlay addresses."""
    return Kind("address", AddressDriver(base.netlink, base.overlays), desired_field("addresses"), waits=True)


def route(base: Base, prefixes: PrefixTable | None) -> Kind[str, KernelRoute]:
    """Return the row of routes to other sites and their LANs."""
    return Kind(
        "route",
        RouteDriver(base.netlink, prefixes),
        desired_field("routes"),
        waits=True,
        fall=fall,
        glance=None if prefixes is None else lambda: tuple(sorted(prefixes.read().items())),
    )
