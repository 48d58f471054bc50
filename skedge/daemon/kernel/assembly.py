"""The real kernel of one host: drivers, engine and fixtures put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from skedge.core.desired.compute import Desired
from skedge.core.desired.reconcile import Drivers
from skedge.core.errors import DataplaneError
from skedge.core.model import EngineKind, SiteConfig
from skedge.core.names import overlay_prefix6
from skedge.core.objects import Target
from skedge.core.reasons import Reason
from skedge.daemon.kernel.handover import Handover
from skedge.daemon.kernel.ipvs import IpvsSide
from skedge.daemon.kernel.kernel import Fixture, Kernel
from skedge.daemon.kernel.lan import LanSide
from skedge.daemon.kernel.matching import match
from skedge.dataplane.ebpf.engine import EbpfEngine
from skedge.dataplane.ebpf.packet_check import FilterConfig, LinkFilter
from skedge.dataplane.ebpf.prefix_table import PrefixTable
from skedge.dataplane.host import host_addresses, sock_diag
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.ipvs.marks import IpvsRules
from skedge.dataplane.ipvs.names_file import FILE as IPVS_MEMORY
from skedge.dataplane.links.driver import LinkDriver
from skedge.dataplane.links.transports.wireguard import WireGuardLinks
from skedge.dataplane.links.wireguard_backend import OwnKey
from skedge.dataplane.links.wireguard_go import WireGuardGo
from skedge.dataplane.links.wireguard_kernel import KernelWireGuard
from skedge.dataplane.nftables import forward_guard, notrack
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.default_deny import OverlayGuard
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.nftables.tunnel_guard import TunnelGuard
from skedge.dataplane.retired_engines import EbpfLeftover, IpvsLeftover
from skedge.dataplane.routing import rules
from skedge.dataplane.routing.addresses import AddressDriver
from skedge.dataplane.routing.ipv6_forwarding import MEMORY, Forwarding
from skedge.dataplane.routing.routes import RouteDriver
from skedge.dataplane.routing.rules import RuleDriver

WIREGUARD_KEY = "wireguard.key"


def build_kernel(config: SiteConfig, pin_dir: Path, state_dir: Path, identity: Path, *, why: str = "") -> Kernel:
    """Return the host's kernel as the controller sees it, with the engine of the configuration.

    Raises:
        DataplaneError: the loader has not run, or the kernel lacks what the engine needs.
    """
    if config.engine is EngineKind.IPVS:
        return _with_ipvs(config, pin_dir, state_dir, identity, why)
    netlink, table = Netlink(), NftTable()
    check, guard = LinkFilter(str(pin_dir), netlink), TunnelGuard(table)
    wireguard = WireGuardLinks(OwnKey(identity / WIREGUARD_KEY), KernelWireGuard(), WireGuardGo())
    engine = EbpfEngine(str(pin_dir))
    overlays = config.overlay_cidr, overlay_prefix6(config.network)
    left = IpvsLeftover(state_dir, overlays, check, table) if IpvsLeftover.found(state_dir, table) else None
    handover = Handover(left)
    drivers = Drivers(
        links=LinkDriver(netlink, check, guard, wireguard),
        addresses=AddressDriver(netlink, overlays),
        routes=RouteDriver(netlink, PrefixTable(str(pin_dir))),
        endpoints=engine.endpoints,
        services=engine.services,
        listeners=engine.listeners,
    )
    fixtures: list[Fixture] = [
        _Rules(netlink),
        _Check(check),
        _Guard(guard),
        _Forwarding(netlink, table, state_dir / MEMORY),
        _Tracking(table, handover),
        _Sources(engine),
        LanSide(pin_dir, netlink),
    ]
    return Kernel(drivers, engine, fixtures, _Host(netlink), wireguard, why, handover)


def _with_ipvs(config: SiteConfig, pin_dir: Path, state_dir: Path, identity: Path, why: str) -> Kernel:
    netlink, table = Netlink(), NftTable()
    check, guard = OverlayGuard(table), TunnelGuard(table)
    wireguard = WireGuardLinks(OwnKey(identity / WIREGUARD_KEY), KernelWireGuard(), WireGuardGo())
    engine = IpvsEngine(state_dir / IPVS_MEMORY, rules=IpvsRules(table))
    drivers = Drivers(
        links=LinkDriver(netlink, check, guard, wireguard),
        addresses=AddressDriver(netlink, [config.overlay_cidr, overlay_prefix6(config.network)]),
        routes=RouteDriver(netlink),
        endpoints=engine.endpoints,
        services=engine.services,
        listeners=engine.listeners,
    )
    left = EbpfLeftover(pin_dir, netlink) if EbpfLeftover.found(pin_dir) else None
    side = IpvsSide(engine, check, table, left)
    fixtures: list[Fixture] = [
        _Rules(netlink),
        side,
        _Guard(guard),
        _Forwarding(netlink, table, state_dir / MEMORY),
    ]
    return Kernel(drivers, engine, fixtures, _Host(netlink), wireguard, why, side.handover)


class _Host:
    """What the host itself has."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def addresses(self) -> frozenset[str]:
        return host_addresses.addresses(self._netlink)

    def abort_connecting(self, targets: Collection[Target]) -> int:
        return sock_diag.abort_connecting(targets)


class _Rules:
    """Our routing rules, and the last route that keeps overlay packets from leaving another way."""

    name = "rules"

    def __init__(self, netlink: Netlink) -> None:
        self._driver = RuleDriver(netlink)

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:
        networks = config.overlay_cidr, overlay_prefix6(config.network)
        wanted = dict(rules.wanted(*networks))
        if desired.announced or rules.for_lans(self._driver.read()):
            wanted |= rules.wanted_for_lans(*networks, desired.answering)
        return match(self._driver, wanted)

    def drops(self) -> Mapping[Reason, int]:
        return {}


class _Check:
    """The configuration of the packet check on link devices."""

    name = "packet check"

    def __init__(self, check: LinkFilter) -> None:
        self._check = check

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:  # noqa: ARG002  (one shape for all fixtures)
        wanted = FilterConfig.of_site(config)
        if self._check.configured(wanted):
            return False
        self._check.configure(wanted)
        return True

    def drops(self) -> Mapping[Reason, int]:
        return self._check.drops()


class _Guard:
    """The tunnel guard's counter; its rules come and go with the link devices."""

    name = "tunnel guard"

    def __init__(self, guard: TunnelGuard) -> None:
        self._guard = guard

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:  # noqa: ARG002  (one shape for all fixtures)
        return False

    def drops(self) -> Mapping[Reason, int]:
        try:
            return {Reason.WRONG_TUNNEL_PEER: self._guard.dropped()}
        except DataplaneError:
            return {}


class _Forwarding:
    """What the host forwards: packets between links, and for nobody else because of us."""

    name = "forwarding"

    def __init__(self, netlink: Netlink, table: NftTable, memory: Path) -> None:
        self._table = table
        self._forwarding = Forwarding(netlink, ChainGroupDriver(table, forward_guard.OWNED), memory)

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:  # noqa: ARG002  (one shape for all fixtures)
        transit = len({link.to for link in config.links}) > 1 and not config.overload
        answers = config.engine is EngineKind.IPVS and bool(config.listeners)  # to LAN clients, which IPVS forwards
        return self._forwarding.ensure(transit=transit or answers)

    def drops(self) -> Mapping[Reason, int]:
        try:
            return {Reason.NOT_FORWARDED: self._table.packets(self.name).get(forward_guard.COUNTER, 0)}
        except DataplaneError:
            return {}


class _Tracking:
    """What is not tracked, so that sockets may be assigned also where the host translates addresses."""

    name = "untracked packets"

    def __init__(self, table: NftTable, handover: Handover) -> None:
        self._chains, self._handover = ChainGroupDriver(table, notrack.OWNED), handover

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:
        if config.lan.devices and config.listeners and not desired.listeners:
            return False  # nothing is decided yet: as it was found
        if self._handover.waiting:
            return False  # the other engine needs all to be tracked
        listeners = desired.listeners if config.lan.devices else ()
        opening, tracked = self._handover.draining, notrack.tracks()
        return match(self._chains, notrack.wanted(self._chains.read(), listeners, opening=opening, tracked=tracked))

    def drops(self) -> Mapping[Reason, int]:
        return {}


class _Sources:
    """The addresses that a client may be bound to and still reach other sites."""

    name = "source addresses"

    def __init__(self, engine: EbpfEngine) -> None:
        self._engine = engine

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:  # noqa: ARG002  (one shape for all fixtures)
        return self._engine.configure(config.overlay4, config.overlay6)

    def drops(self) -> Mapping[Reason, int]:
        return {}
