"""The registry: every kind of kernel object that the controller changes, in the order of creation.

`skedge plan`, the controller, `purge` and what is left of another engine read these rows, and nothing else changes the
host (docs/architecture.md has the list with the time within which a change by somebody else is repaired). Not in it,
because they are counted and not configured: the other sites' load in the tables, suspensions, the far end's address
that WireGuard follows, idle flows that are swept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

from skedge.core.desired.compute import Desired
from skedge.core.desired.kinds import Kind, Registry
from skedge.core.desired.kinds import field as desired_field
from skedge.core.model import Lan, LanFirewall, SiteConfig
from skedge.core.objects import ChainGroup
from skedge.core.placement.candidates import merge_candidates
from skedge.dataplane import common_rows
from skedge.dataplane.common_rows import Base, own_overlay
from skedge.dataplane.ebpf.engine import EbpfEngine, settings
from skedge.dataplane.ebpf.lan import host_rules
from skedge.dataplane.ebpf.lan.devices import LanDevice, LanDriver, looped, source_towards
from skedge.dataplane.ebpf.lan.flow_table import NAT, NatConfigDriver, NatSourceDriver
from skedge.dataplane.ebpf.lan.layout_flow import NatAddresses, NatConfig
from skedge.dataplane.ebpf.link_table import path_bit
from skedge.dataplane.ebpf.packet_check import SITE, PacketCheck, PacketCheckConfig, PacketCheckDriver
from skedge.dataplane.ebpf.prefix_table import HOST_MAP, OWN_MAP, OwnAddressDriver, PathDriver, PrefixTable
from skedge.dataplane.host import host_addresses
from skedge.dataplane.host.sysctls import LoopSettingDriver, loop_settings
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.ipvs.sysctls import WANTED as IPVS_SETTINGS
from skedge.dataplane.links.driver import LinkDriver
from skedge.dataplane.nftables import accepted, arrivals, default_deny, forward_guard, notrack
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver

_NAT_OFF = NatConfig(device=0, ports=(1, 0))


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
            **common_rows.closed_devices(base, site, config, translates=translates),
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
        common_rows.rule(base),
        Kind(
            "packet-check",
            packets,
            lambda config, _desired, _held: {SITE: check.wanted(PacketCheckConfig.of_site(config))},
            glance=lambda: tuple(packets.read().items()),
        ),
        Kind("chain", owned, groups),
        Kind("accepted", base.accepted, lambda config, _d, _held: accepted.wanted(honoured=honoured(config.lan))),
        common_rows.site(base),
        common_rows.forwarding(base),
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
        common_rows.uplink(base, links),
        common_rows.link(links, rests_on=lambda: check.directions),
        common_rows.address(base),
        common_rows.route(base, others_prefixes),
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
            **common_rows.closed_devices(base, site, config, translates=True),
            **chains.wanted(site, held, serving=not base.other_serves()),
        }

    return (
        common_rows.rule(base),
        Kind("chain", owned, groups),
        common_rows.site(base),
        common_rows.forwarding(base),
        Kind(
            "setting",
            engine.settings,
            lambda _config, _desired, _held: IPVS_SETTINGS,
            glance=lambda: tuple(engine.settings.read().items()),
        ),
        common_rows.uplink(base, links),
        common_rows.link(links),
        common_rows.address(base),
        common_rows.route(base, None),
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
