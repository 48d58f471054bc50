"""Sites without eBPF in network namespaces: the real drivers, IPVS and nftables, held connections."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from tempfile import mkdtemp

from skedge.core import names
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import (
    Candidate,
    Endpoint,
    EndpointKey,
    ListenerKey,
    ListenerTarget,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.ipvs import chains, sysctls
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.ipvs.marks import IpvsRules
from skedge.dataplane.ipvs.names_file import FILE
from skedge.dataplane.links.driver import LinkDriver
from skedge.dataplane.links.transports.wireguard import WireGuardLinks
from skedge.dataplane.links.wireguard_backend import OwnKey
from skedge.dataplane.links.wireguard_go import WireGuardGo
from skedge.dataplane.links.wireguard_kernel import KernelWireGuard
from skedge.dataplane.nftables import arrivals, default_deny, forward_guard
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.default_deny import DefaultDeny
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.nftables.tunnel_guard import TunnelGuard
from skedge.dataplane.routing.addresses import AddressDriver
from skedge.dataplane.routing.ipv6_forwarding import MEMORY, ForwardingDriver
from skedge.dataplane.routing.routes import RouteDriver
from skedge.dataplane.routing.rules import RuleDriver, wanted
from tests.integration.links.kit import (
    CIDR,
    CONTROL_PORT,
    ENDPOINT_PORTS,
    LOAD_PORT,
    NETWORK,
    Namespace,
    listen,
    run,
)
from tests.integration.links.kit import Site as WithPrograms
from tests.kit.rows import Forwarding, make

WEB, DNS = ServiceKey("web"), ServiceKey("dns", Protocol.UDP)
PORT, WORKLOAD, ENDPOINT = 8080, 9090, 61001
PATIENCE_S = 20  # emulated processors are slow


class Site:
    """One site whose engine is ipvs; without ``engine``, what nftables does of it."""

    engine: IpvsEngine = None  # type: ignore[assignment]
    vxlan = WithPrograms.vxlan
    device = WithPrograms.device

    def __init__(self, name: str, *, engine: bool = True) -> None:
        self.name = name
        self.ns = Namespace(f"v{name}")
        self.overlay4 = str(names.overlay_address(IPv4Network(CIDR), NETWORK, name))
        self.overlay6 = str(names.overlay_address6(NETWORK, name))
        self.prefix6 = names.overlay_prefix6(NETWORK)
        self.link_local = str(names.link_local(NETWORK, name))
        self.state = Path(mkdtemp(prefix="ipvstest-"))
        self.netlink, self.nft = Netlink(), NftTable()
        self.check = DefaultDeny(self.nft)
        self.chains = ChainGroupDriver(self.nft, arrivals.OWNED, default_deny.OWNED, chains.OWNED, forward_guard.OWNED)
        wireguard = WireGuardLinks(OwnKey(self.state / "wireguard.key"), KernelWireGuard(), WireGuardGo())
        self.links = LinkDriver(self.netlink, self.check, TunnelGuard(self.nft), wireguard)
        self.addresses = AddressDriver(self.netlink, [CIDR, self.prefix6])
        self.routes, self.rules = RouteDriver(self.netlink), RuleDriver(self.netlink)
        self.config = PacketCheckConfig(
            self.overlay4, self.overlay6, CIDR, self.prefix6, CONTROL_PORT, LOAD_PORT, ENDPOINT_PORTS
        )
        switch = ForwardingDriver(self.netlink, self.state / MEMORY)
        self.forwarding = Forwarding(self.chains, switch, self.config, translates=True)
        if engine:
            self.start()

    def start(self, pace_s: float = 0.02) -> IpvsEngine:
        """Start an engine, as a controller does."""
        self.engine = self.ns(IpvsEngine, self.state / FILE, rules=IpvsRules(self.nft), pace_s=pace_s)
        return self.engine

    def put_base(self) -> None:
        self.ns(lambda: self.chains.put(default_deny.NAME, default_deny.group(self.config.on_host())))
        self.ns(self.chains.put, arrivals.NAME, arrivals.group(self.config, translates=True))
        if self.engine is not None:
            self.ns(make, self.engine.settings, sysctls.WANTED)
            self.put_chains()
        for address in (f"{self.overlay4}/32", f"{self.overlay6}/128"):
            self.ns(self.addresses.put, address, "lo")
        for key, value in wanted(self.prefix6, (self.overlay4, self.overlay6)).items():
            self.ns(self.rules.put, key, value)
        self.ns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0")
        self.ns(self.forwarding.ensure, transit=True)

    def put_chains(self) -> None:
        self.ns(self.chains.put, chains.NAME, chains.group(self.config))

    def publish(self, host: str, port: int = ENDPOINT, protocol: Protocol = Protocol.TCP) -> None:
        endpoint = Endpoint(WorkloadId(self.name, protocol.value), host, WORKLOAD)
        self.ns(self.engine.endpoints.put, EndpointKey(port, protocol), endpoint)

    def serve(self, table: ServiceTable, key: ServiceKey = WEB) -> None:
        self.ns(self.engine.services.put, key, table)

    def listen(self, address: str, port: int = PORT, key: ServiceKey = WEB, affinity_s: int = 0) -> None:
        listener = ListenerKey(address, port, key.protocol)
        self.ns(self.engine.listeners.put, listener, ListenerTarget(key, affinity_s=affinity_s))

    def open(self, key: ServiceKey = WEB) -> dict[str, int]:
        self.ns(self.engine.look)
        return {workload.site: one.open for (of, workload), one in self.ns(self.engine.counts).items() if of == key}

    def drops(self) -> dict[Reason, int]:
        return dict(self.ns(self.check.drops))

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.ns(self.netlink.close)
        self.ns.close()
        run("rm", "-rf", str(self.state), check=False)


def candidate(site: Site, cost: int, *, here: str = "", here6: str = "", port: int = ENDPOINT, **more) -> Candidate:
    """A workload as it is chosen at site a: by its endpoint, or at the host's own addresses."""
    four, six = (here, here6) if here or here6 else (site.overlay4, site.overlay6)
    to = WORKLOAD if here or here6 else port
    targets = {"target4": Target(four, to) if four else None, "target6": Target(six, to) if six else None}
    return Candidate(WorkloadId(site.name, "tcp"), cost, capacity=1, own_site=bool(here or here6), **(targets | more))


@dataclass
class Server:
    """Accepts in a namespace, says its name, holds what it accepted until the client closes."""

    name: str
    listener: socket.socket
    peers: list[str] = field(default_factory=list)
    held: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener.settimeout(None)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, peer = self.listener.accept()
                self.peers.append(peer[0])
                self.held.append(accepted)
                accepted.sendall(self.name.encode())

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for one in (self.listener, *self.held):
            one.close()


def server(name: str, ns: Namespace, address: str, port: int = WORKLOAD) -> Server:
    made = ns(listen, address, port)
    made.listen(1024)
    return Server(name, made)


def dial(address: str, port: int = PORT) -> tuple[socket.socket, str]:
    """Connect; return the connection and who answered."""
    made = socket.create_connection((address, port), PATIENCE_S)
    made.settimeout(PATIENCE_S)
    return made, made.recv(16).decode()


class Clients:
    """Held connections of one client, from one namespace."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.held: list[tuple[socket.socket, str]] = []

    def open(self, address: str, n: int, pause_s: float = 0.0, after=lambda: None) -> Counter[str]:
        for _ in range(n):
            self.held.append(self.ns(dial, address))
            after()
            time.sleep(pause_s)
        return self.split()

    def split(self) -> Counter[str]:
        return Counter(name for _, name in self.held)

    def close(self) -> None:
        for one, _ in self.held:
            one.close()
        self.held.clear()
