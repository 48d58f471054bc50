"""The real kernel of one host: registry, engine and counters put together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import EngineKind, SiteConfig
from skedge.core.objects import Target
from skedge.core.reasons import Reason
from skedge.core.routing.surroundings import Surroundings
from skedge.daemon.kernel.handover import Handover
from skedge.daemon.kernel.kernel import Kernel
from skedge.dataplane import registry
from skedge.dataplane.common_rows import Base, overlays
from skedge.dataplane.ebpf.engine import EbpfEngine
from skedge.dataplane.ebpf.lan.host_rules import HostRulesDriver
from skedge.dataplane.ebpf.packet_check import PacketCheck, PacketCheckConfig
from skedge.dataplane.ebpf.stalled import StalledConnections
from skedge.dataplane.ending import sockets
from skedge.dataplane.ending.flows import FlowEnder
from skedge.dataplane.ending.ipvs import IpvsEnder
from skedge.dataplane.ending.sockets import SocketEnder
from skedge.dataplane.host import host_addresses, sock_diag, surroundings
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.ipvs.marks import IpvsRules
from skedge.dataplane.ipvs.names_file import FILE as IPVS_MEMORY
from skedge.dataplane.links.driver import Check, LinkDriver
from skedge.dataplane.links.transports.wireguard import WireGuardLinks
from skedge.dataplane.links.wireguard_backend import OwnKey
from skedge.dataplane.links.wireguard_go import WireGuardGo
from skedge.dataplane.links.wireguard_kernel import KernelWireGuard
from skedge.dataplane.nftables import arrivals, forward_guard, notrack, tunnel_guard
from skedge.dataplane.nftables.accepted import AcceptedDriver
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.default_deny import DefaultDeny
from skedge.dataplane.nftables.other_filters import OtherFilters
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.nftables.tunnel_guard import TunnelGuard
from skedge.dataplane.retired_engines import RetiredEbpf, RetiredIpvs

WIREGUARD_KEY = "wireguard.key"
_COUNTERS = {
    tunnel_guard.COUNTER: Reason.WRONG_TUNNEL_PEER,
    forward_guard.COUNTER: Reason.NOT_FORWARDED,
    **arrivals.COUNTERS,
}


def build_kernel(config: SiteConfig, pin_dir: Path, state_dir: Path, identity: Path, *, why: str = "") -> Kernel:
    """Return the host's kernel as the controller sees it, with the engine of the configuration.

    Raises:
        DataplaneError: the loader has not run, or the kernel lacks what the engine needs.
    """
    base = Base(Netlink(), NftTable(), state_dir, overlays(config))
    wireguard = WireGuardLinks(OwnKey(identity / WIREGUARD_KEY), KernelWireGuard(), WireGuardGo())
    build = _with_ipvs if config.engine is EngineKind.IPVS else _with_ebpf
    return build(base, wireguard, pin_dir, why)


def _with_ebpf(base: Base, wireguard: WireGuardLinks, pin_dir: Path, why: str) -> Kernel:
    check = PacketCheck(str(pin_dir), base.netlink)
    engine = EbpfEngine(str(pin_dir))
    found = RetiredIpvs.found(base.state, base.table)
    handover = Handover(RetiredIpvs(base.state, base.overlays, check, base.table) if found else None)
    _follow(base, handover)
    rows = registry.ebpf(base, engine, _links(base, check, wireguard), check, str(pin_dir))
    refused = [check.drops, HostRulesDriver(str(pin_dir)).refused, _counted(base.table)]
    enders = SocketEnder(), FlowEnder(str(pin_dir))
    kernel = Kernel(rows, engine, _host(base), wireguard, why, handover, refused, enders=enders)
    kernel.stalls = StalledConnections(str(pin_dir))
    return kernel


def _with_ipvs(base: Base, wireguard: WireGuardLinks, pin_dir: Path, why: str) -> Kernel:
    check = DefaultDeny(base.table)
    engine = IpvsEngine(base.state / IPVS_MEMORY, rules=IpvsRules(base.table))
    beginning = ChainGroupDriver(base.table, chains.OWNED, notrack.OWNED)

    def begin(config: SiteConfig) -> None:
        """Serve, and let everything be tracked, in one change."""
        beginning.change({chains.NAME: chains.group(PacketCheckConfig.of_site(config))}, (notrack.NAME,))

    handover = Handover(RetiredEbpf(pin_dir, base.netlink) if RetiredEbpf.found(pin_dir) else None, begin)
    _follow(base, handover)
    rows = registry.ipvs(base, engine, _links(base, check, wireguard))
    refused = [check.drops, _counted(base.table)]
    enders = SocketEnder(), IpvsEnder()
    return Kernel(rows, engine, _host(base), wireguard, why, handover, refused, enders=enders)


def _links(base: Base, check: Check, wireguard: WireGuardLinks) -> LinkDriver:
    return LinkDriver(base.netlink, check, TunnelGuard(base.table), wireguard)


def _follow(base: Base, handover: Handover) -> None:
    base.other_serves = lambda: handover.waiting
    base.other_drains = lambda: handover.draining


def _counted(table: NftTable) -> Callable[[], Mapping[Reason, int]]:
    def refused() -> Mapping[Reason, int]:
        packets = table.packets("counters")
        return {reason: packets.get(name, 0) for name, reason in _COUNTERS.items()}

    return refused


def _host(base: Base) -> _Host:
    return _Host(base.netlink, base.overlays[0], base.table, base.accepted)


class _Host:
    """What the host itself has, and what is known of it."""

    def __init__(self, netlink: Netlink, overlay: str, *tables: NftTable | AcceptedDriver) -> None:
        self._netlink, self._overlay, self._tables = netlink, overlay, tables
        self._filters = OtherFilters()

    def addresses(self) -> frozenset[str]:
        return host_addresses.addresses(self._netlink)

    def surroundings(self, prefixes: Collection[str], sites: Collection[str]) -> Surroundings:
        found, filtered = surroundings.read(prefixes, sites), ""
        with suppress(DataplaneError):  # what cannot be looked at is not known
            filtered = self._filters.dropping(self._overlay) if sites else ""
        return replace(found, filtered=filtered)

    def abort_connecting(self, targets: Collection[Target]) -> int:
        return sockets.abort_connecting(targets)

    def end_datagrams(self, targets: Collection[Target], placed: Callable[[], Collection[int]]) -> int:
        return sockets.end_datagrams(targets, placed)

    def serving(self, ports: Collection[int]) -> int:
        return sum(sock_diag.held(port) for port in ports)

    def forget(self) -> None:
        for table in self._tables:
            table.forget()
