"""The registry: every kind of kernel object that the controller changes, in the order of creation.

`skedge plan`, the controller, `purge` and what is left of another engine read these rows, and nothing else changes the
host (docs/architecture.md has the list with the time within which a change by somebody else is repaired). Not in it,
because they are counted and not configured: the other sites' load in the tables, suspensions, the far end's address
that WireGuard follows, idle flows that are swept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from ipaddress import ip_network
from operator import or_
from pathlib import Path

from skedge.core.desired.compute import Desired
from skedge.core.desired.forwarding import host_forwards
from skedge.core.desired.kinds import Kind, Registry
from skedge.core.desired.kinds import field as desired_field
from skedge.core.model import Lan, LanFirewall, SiteConfig
from skedge.core.names import overlay_prefix6
from skedge.core.objects import ChainGroup, KernelRoute, LinkDevice, Uplink
from skedge.core.placement.candidates import merge_candidates
from skedge.dataplane.ebpf.engine import EbpfEngine, settings
from skedge.dataplane.ebpf.lan import host_rules
from skedge.dataplane.ebpf.lan.devices import LanDevice, LanDriver, looped, source_towards
from skedge.dataplane.ebpf.lan.flow_table import NAT, NatConfigDriver, NatSourceDriver
from skedge.dataplane.ebpf.lan.layout_flow import NatAddresses, NatConfig
from skedge.dataplane.ebpf.link_table import path_bit
from skedge.dataplane.ebpf.packet_check import SITE, PacketCheck, PacketCheckConfig, PacketCheckDriver
from skedge.dataplane.ebpf.prefix_table import HOST_MAP, OWN_MAP, OwnAddressDriver, PathDriver, PrefixTable
from skedge.dataplane.host import host_addresses
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.host.sysctls import LoopSettingDriver, loop_settings
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.ipvs.sysctls import WANTED as IPVS_SETTINGS
from skedge.dataplane.links.driver import LinkDriver
from skedge.dataplane.nftables import accepted, arrivals, default_deny, forward_guard, notrack
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.routing import rules, uplinks
from skedge.dataplane.routing.addresses import AddressDriver
from skedge.dataplane.routing.ipv6_forwarding import MEMORY, ForwardingDriver
from skedge.dataplane.routing.routes import RouteDriver, fall
from skedge.dataplane.routing.rules import RuleDriver
from skedge.dataplane.routing.uplinks import UplinkDriver

_NAT_OFF = NatConfig(device=0, ports=(1, 0))


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


def ebpf(base: Base, engine: EbpfEngine, links: LinkDriver, check: PacketCheck, pin_dir: str) -> Registry:
    """Return the registry of a site with the engine ``ebpf``."""
    owned = ChainGroupDriver(base.table, arrivals.OWNED, forward_guard.OWNED, notrack.OWNED)
    own_prefixes, others_prefixes = PrefixTable(pin_dir, OWN_MAP), PrefixTable(pin_dir)
    host_prefixes = PrefixTable(pin_dir, HOST_MAP)
    nat, sources, devices = NatConfigDriver(pin_dir), NatSourceDriver(pin_dir), LanDriver(pin_dir, base.netlink)
    packets, loop, asks = PacketCheckDriver(check), LoopSettingDriver(), host_rules.HostRulesDriver(pin_dir)
    own_addresses, paths = OwnAddressDriver(others_prefixes), PathDriver(pin_dir, others_prefixes)

    def groups(config: SiteConfig, desired: Desired, held: Mapping[str, ChainGroup]) -> Mapping[str, ChainGroup]:
        site, translates = PacketCheckConfig.of_site(config), base.other_serves() or base.other_drains()
        return {
            arrivals.NAME: arrivals.group(site, translates=translates),
            **_forward_guard(base, site, config, translates=translates),
            **_notrack(base, config, desired, held),
        }

    def source(_config: SiteConfig, desired: Desired, _held: object) -> Mapping[str, str]:
        lan = desired.off_host if _config.lan.devices else ()
        found = {address: source_towards(base.netlink, address) for address in lan}
        return {address: one for address, one in found.items() if one}

    def path(_config: SiteConfig, desired: Desired, _held: object) -> Mapping[str, int]:
        lans = {one: devices for one, devices in desired.sources.items() if devices and one in desired.routes}
        bits = {name: path_bit(device.link) for name, device in desired.links.items()}
        return {
            key: reduce(or_, (bits.get(one, 0) for one in devices), 0)
            for key, devices in {**desired.sites, **lans}.items()
        }

    def lan_devices(config: SiteConfig, _desired: Desired, _held: object) -> Mapping[str, LanDevice]:
        return devices.devices(config.lan.devices)

    return (
        _rule(base),
        Kind(
            "packet-check",
            packets,
            lambda config, _desired, _held: {SITE: check.wanted(PacketCheckConfig.of_site(config))},
            glance=lambda: tuple(packets.read().items()),
        ),
        Kind("chain", owned, groups),
        Kind("accepted", base.accepted, lambda config, _d, _held: accepted.wanted(honoured=honoured(config.lan))),
        _site(base),
        _forwarding(base),
        Kind(
            "placement",
            engine.settings,
            lambda config, _desired, _held: settings(config.overlay4, config.overlay6),
            glance=lambda: tuple(engine.settings.read().items()),
        ),
        Kind(
            "nat",
            nat,
            lambda config, desired, _held: {NAT: nat_config(config.lan, desired)},
            glance=lambda: tuple(nat.read().items()),
        ),
        Kind("nat-source", sources, source, glance=lambda: tuple(sorted(sources.read().items()))),
        Kind(
            "lan-prefix",
            own_prefixes,
            lambda _config, desired, _held: dict.fromkeys(desired.prefixes, 0),
            glance=lambda: tuple(sorted(own_prefixes.read().items())),
        ),
        Kind(
            "host-prefix",
            host_prefixes,
            lambda _config, desired, _held: dict.fromkeys(host_addresses.host_prefixes() | desired.shared, 0),
            glance=lambda: tuple(sorted(host_prefixes.read().items())),
        ),
        Kind(
            "setting",
            loop,
            lambda config, _desired, held: loop_settings() if config.lan.devices else {} if looped() else held,
        ),
        Kind("lan-device", devices, lan_devices),
        Kind(  # behind the programs that can ask, and the chains that answer
            "host-rules",
            asks,
            lambda config, _desired, _held: host_rules.wanted(honoured=honoured(config.lan)),
            glance=lambda: tuple(asks.read().items()),
        ),
        _uplink(base, links),
        _link(links, rests_on=lambda: check.directions),
        _address(base),
        _route(base, others_prefixes),
        Kind(
            "own-address",
            own_addresses,
            lambda config, _desired, _held: dict.fromkeys(host_addresses.local(base.netlink) - own_overlay(config), ""),
            glance=lambda: tuple(sorted(own_addresses.read())),
        ),
        Kind("path", paths, path, waits=True, glance=lambda: tuple(sorted(paths.read().items()))),
        Kind(
            "endpoint",
            engine.endpoints,
            desired_field("endpoints"),
            waits=True,
            glance=engine.endpoints.glance,
        ),
        Kind(
            "service",
            engine.services,
            desired_field("services"),
            waits=True,
            merge=merge_candidates,
            glance=engine.services.glance,
        ),
        Kind(
            "listener",
            engine.listeners,
            desired_field("listeners"),
            waits=True,
            glance=engine.listeners.glance,
        ),
    )


def ipvs(base: Base, engine: IpvsEngine, links: LinkDriver) -> Registry:
    """Return the registry of a site with the engine ``ipvs``."""
    owned = ChainGroupDriver(base.table, arrivals.OWNED, default_deny.OWNED, forward_guard.OWNED, chains.OWNED)

    def groups(config: SiteConfig, desired: Desired, held: Mapping[str, ChainGroup]) -> Mapping[str, ChainGroup]:
        site = PacketCheckConfig.of_site(config).on_host()
        return {
            arrivals.NAME: arrivals.group(site, translates=True),
            default_deny.NAME: default_deny.group(site, desired.links),
            **_forward_guard(base, site, config, translates=True),
            **chains.wanted(site, held, serving=not base.other_serves()),
        }

    return (
        _rule(base),
        Kind("chain", owned, groups),
        _site(base),
        _forwarding(base),
        Kind(
            "setting",
            engine.settings,
            lambda _config, _desired, _held: IPVS_SETTINGS,
            glance=lambda: tuple(engine.settings.read().items()),
        ),
        _uplink(base, links),
        _link(links),
        _address(base),
        _route(base, None),
        Kind("endpoint", engine.endpoints, desired_field("endpoints"), waits=True),
        Kind(
            "service",
            engine.services,
            desired_field("services"),
            waits=True,
            merge=merge_candidates,
            glance=engine.services.glance,
        ),
        Kind("listener", engine.listeners, desired_field("listeners"), waits=True),
    )


def honoured(lan: Lan) -> bool:
    """Return whether the host's own input rules decide on what comes from its LAN."""
    return bool(lan.devices) and lan.firewall is LanFirewall.HONOUR


def nat_config(lan: Lan, desired: Desired) -> NatConfig:
    """Return what the NAT programs are told."""
    if not lan.devices:
        return _NAT_OFF
    times = lan.times
    return NatConfig(
        ports=lan.ports,
        syn_s=times.syn_s,
        established_s=times.established_s,
        fin_s=times.fin_s,
        closed_s=times.closed_s,
        udp_s=times.udp_s,
        addresses=NatAddresses(*desired.nat_local, any(desired.nat_remote), udp_stream_s=times.udp_stream_s),
    )


# ---- rows of both engines ----------------------------------------------------------------------------------------


def _rule(base: Base) -> Kind[str, str]:
    def wanted(config: SiteConfig, desired: Desired, held: Mapping[str, str]) -> Mapping[str, str]:
        own = (config.overlay4, config.overlay6)
        found = dict(rules.wanted(overlay_prefix6(config.network), own, desired.sites))
        if desired.announced or rules.for_lans(held):
            found |= rules.wanted_for_lans(*overlays(config), desired.answering)
        return found

    return Kind("rule", RuleDriver(base.netlink), wanted, waits=True)


def _forwarding(base: Base) -> Kind[str, str]:
    return Kind(
        "forwarding",
        base.forwarding,
        lambda config, _desired, held: base.forwarding.wanted(held, transit=host_forwards(config)),
    )


def _forward_guard(
    base: Base, site: PacketCheckConfig, config: SiteConfig, *, translates: bool
) -> Mapping[str, ChainGroup]:
    closed = base.forwarding.closed(transit=host_forwards(config))
    return {forward_guard.NAME: forward_guard.group(closed, site, translates=translates)}


def _site(base: Base) -> Kind[str, arrivals.Addresses]:
    return Kind(
        "site",
        arrivals.SiteAddressDriver(base.table),
        lambda _config, desired, _held: arrivals.by_family(desired.sites),
        waits=True,
        merge=arrivals.join,
    )


def _notrack(
    base: Base, config: SiteConfig, desired: Desired, held: Mapping[str, ChainGroup]
) -> Mapping[str, ChainGroup]:
    """Return what is not tracked, so that sockets may be assigned also where the host translates addresses."""
    undecided = config.lan.devices and config.listeners and not desired.listeners
    if undecided or base.other_serves():  # as it was found: another engine needs all to be tracked
        return {name: one for name, one in held.items() if name == notrack.NAME}
    listeners = desired.listeners if config.lan.devices else ()
    return notrack.wanted(
        held, listeners, opening=base.other_drains(), tracked=notrack.tracks(), shared=bool(desired.shared)
    )


def _uplink(base: Base, links: LinkDriver) -> Kind[int, Uplink]:
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


def _link(links: LinkDriver, rests_on: Callable[[], Hashable] | None = None) -> Kind[str, LinkDevice]:
    return Kind(
        "link",
        links,
        desired_field("links"),
        waits=True,
        remakes=links.remakes,
        rests_on=rests_on,
        glance=links.glance,
    )


def _address(base: Base) -> Kind[str, str]:
    return Kind("address", AddressDriver(base.netlink, base.overlays), desired_field("addresses"), waits=True)


def _route(base: Base, prefixes: PrefixTable | None) -> Kind[str, KernelRoute]:
    return Kind(
        "route",
        RouteDriver(base.netlink, prefixes),
        desired_field("routes"),
        waits=True,
        fall=fall,
        glance=None if prefixes is None else lambda: tuple(sorted(prefixes.read().items())),
    )
