"""Sites in network namespaces: each with its own thread, its own pins and the real drivers."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from skedge.core import names
from skedge.core.model import LinkId
from skedge.core.objects import LinkDevice
from skedge.core.transports import Transport
from skedge.dataplane.ebpf.endpoints import EndpointDriver
from skedge.dataplane.ebpf.packet_check import PacketCheck, PacketCheckConfig
from skedge.dataplane.ebpf.prefix_table import PrefixTable
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.links.driver import LinkDriver
from skedge.dataplane.links.transports.wireguard import WireGuardLinks
from skedge.dataplane.links.wireguard_backend import OwnKey
from skedge.dataplane.links.wireguard_go import WireGuardGo
from skedge.dataplane.links.wireguard_kernel import KernelWireGuard
from skedge.dataplane.nftables import arrivals, forward_guard
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.nftables.tunnel_guard import TunnelGuard
from skedge.dataplane.routing.addresses import AddressDriver
from skedge.dataplane.routing.ipv6_forwarding import MEMORY, ForwardingDriver
from skedge.dataplane.routing.routes import RouteDriver
from skedge.dataplane.routing.rules import RuleDriver, wanted
from skedge.loader import bytecode, load_image
from skedge.loader.compiling.sources import compilations
from skedge.loader.constants import kernel_defines, map_sizes, of_site
from skedge.loader.publish import Publication
from tests.kit.bytecode import CHECK, cache
from tests.kit.rows import Forwarding, configure_check

T = TypeVar("T")
NETWORK = "linktest"
CIDR = "100.64.0.0/10"
CONTROL_PORT, LOAD_PORT = 7401, 7402
ENDPOINT_PORTS = (61000, 62999)
_CLONE_NEWNET = 0x40000000
FLOWS = 4096
KERNEL = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def make_key(path: Path) -> str:
    """Write a new private key of WireGuard; return its public key."""
    key = X25519PrivateKey.generate()
    path.write_text(b64encode(key.private_bytes_raw()).decode() + "\n")
    return b64encode(key.public_key().public_bytes_raw()).decode()


def run(*command: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=check, **options)


def load_programs(pin_dir: str) -> None:
    """Put the programs of link devices, and their maps, under a pin directory."""
    pins = Path(pin_dir)
    pins.mkdir(parents=True, exist_ok=True)
    units = compilations(CHECK)
    found = bytecode.obtain(units, cache(), None)
    members = [(unit, one.programs) for unit, one in zip(found.units, units, strict=True)]
    numbers = {**kernel_defines(), **of_site(FLOWS)}
    with (
        load_image.load(members, pins, map_sizes(FLOWS), numbers) as loaded,
        Publication(pins, Path("/")) as publication,
    ):
        publication.publish(loaded, CHECK)


class Namespace:
    """A network namespace with one thread that lives in it."""

    patience_s = 60

    def __init__(self, name: str) -> None:
        self.name = f"skl{os.getpid()}-{name}"
        run("ip", "netns", "add", self.name)
        self._pool = ThreadPoolExecutor(1, initializer=self._enter)
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def _enter(self) -> None:
        with open(f"/run/netns/{self.name}") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def __call__(self, function: Callable[..., T], *args, **kwargs) -> T:
        """Call the function in this namespace."""
        return self._pool.submit(function, *args, **kwargs).result(timeout=self.patience_s)

    def ip(self, *arguments: str, check: bool = True) -> str:
        return run("ip", "-n", self.name, *arguments, check=check).stdout

    def sh(self, command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.name, "sh", "-c", command, check=check).stdout

    def close(self) -> None:
        self._pool.shutdown()
        run("ip", "netns", "del", self.name, check=False)


def veth(a: Namespace, b: Namespace, name_a: str, name_b: str, address_a: str, address_b: str) -> None:
    a.ip("link", "add", name_a, "type", "veth", "peer", "name", name_b, "netns", b.name)
    for namespace, name, address in ((a, name_a, address_a), (b, name_b, address_b)):
        namespace.ip("addr", "add", address, "dev", name)
        namespace.ip("link", "set", name, "up")


class Site:
    """One site: its namespace, its pins, the real drivers."""

    def __init__(self, name: str, bpffs: Path) -> None:
        self.name = name
        self.ns = Namespace(name)
        self.pin_dir = str(bpffs / self.ns.name)
        try:
            load_programs(self.pin_dir)
        except BaseException:
            self.ns.close()
            raise
        self.overlay4 = str(names.overlay_address(IPv4Network(CIDR), NETWORK, name))
        self.overlay6 = str(names.overlay_address6(NETWORK, name))
        self.prefix6 = names.overlay_prefix6(NETWORK)
        self.link_local = str(names.link_local(NETWORK, name))
        self.netlink = Netlink()
        self.filter = PacketCheck(self.pin_dir, self.netlink)
        self.nft = NftTable()
        self.guard = TunnelGuard(self.nft)
        self.state = Path(mkdtemp(prefix="linktest-"))
        self.chains = ChainGroupDriver(self.nft, arrivals.OWNED, forward_guard.OWNED)
        self.sockets = self.state / "wireguard"
        self.public_key = make_key(self.state / "wireguard.key")
        self.kernel_wireguard = KernelWireGuard()
        self.wireguard = WireGuardLinks(
            OwnKey(self.state / "wireguard.key"), self.kernel_wireguard, WireGuardGo(self.sockets)
        )
        self.links = LinkDriver(self.netlink, self.filter, self.guard, self.wireguard)
        self.addresses = AddressDriver(self.netlink, [CIDR, self.prefix6])
        self.prefixes = PrefixTable(self.pin_dir)
        self.routes = RouteDriver(self.netlink, self.prefixes)
        self.rules = RuleDriver(self.netlink)
        self.endpoints = EndpointDriver(self.pin_dir)
        self.config = PacketCheckConfig(
            self.overlay4, self.overlay6, CIDR, self.prefix6, CONTROL_PORT, LOAD_PORT, ENDPOINT_PORTS
        )
        switch = ForwardingDriver(self.netlink, self.state / MEMORY)
        self.forwarding = Forwarding(self.chains, switch, self.config)
        self.ns(configure_check, self.filter, self.config)

    def put_base(self) -> None:
        self.ns(self.addresses.put, f"{self.overlay4}/32", "lo")
        self.ns(self.addresses.put, f"{self.overlay6}/128", "lo")
        for key, value in wanted(self.prefix6, (self.overlay4, self.overlay6)).items():
            self.ns(self.rules.put, key, value)
        self.ns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0")
        self.ns(self.chains.put, arrivals.NAME, arrivals.group(self.config))

    def device(self, far: str, name: str = "main") -> str:
        return names.device_name(NETWORK, LinkId.between(self.name, far, name), self.name)

    def vxlan(self, far: str, local: str, remote: str, name: str = "main", mtu: int = 0) -> LinkDevice:
        link = LinkId.between(self.name, far, name)
        return LinkDevice(
            link=link,
            transport=Transport.VXLAN,
            link_local=self.link_local,
            peer_link_local=str(names.link_local(NETWORK, far)),
            mtu=mtu,
            vni=names.vni(NETWORK, link),
            local=local,
            remote=remote,
            port=4790,
        )

    def wg(self, far: Site, port: int, remote: str, remote_port: int = 0, **more: Any) -> LinkDevice:
        """Return the device of a wireguard link; no ``remote``: the far end calls."""
        return LinkDevice(
            link=LinkId.between(self.name, far.name, "main"),
            transport=Transport.WIREGUARD,
            link_local=self.link_local,
            peer_link_local=far.link_local,
            remote=remote,
            port=port,
            remote_port=remote_port if remote else 0,
            **{"keys": (far.public_key,), **more},
        )

    def direct(self, far: str, underlay: str, name: str = "main") -> LinkDevice:
        return LinkDevice(
            link=LinkId.between(self.name, far, name),
            transport=Transport.DIRECT,
            link_local=self.link_local,
            peer_link_local=str(names.link_local(NETWORK, far)),
            underlay=underlay,
        )

    def drops(self) -> dict[str, int]:
        return {reason.name: count for reason, count in self.filter.drops().items()}

    def close(self) -> None:
        self.ns(self.netlink.close)
        self.ns(self.kernel_wireguard.close)
        self.ns.close()
        run("rm", "-rf", self.pin_dir, str(self.state), check=False)


def listen(address: str, port: int, kind: int = socket.SOCK_STREAM, reuseport: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuseport:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((address, port))
    if kind == socket.SOCK_STREAM:
        server.listen(64)
    server.settimeout(3)
    return server


def client(address: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(3)
    return made
