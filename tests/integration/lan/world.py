"""Two edge hosts with a link between them and machines on their LANs, in network namespaces, with the real drivers.

client - lan0 [A] lan1 - machine        near: on A itself
               |
far machine - lan0 [B]                  there: on B itself
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from skedge.core import names
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute, NextHop
from skedge.dataplane.bpf.programs import CONNECT_PROGRAMS, LAN_PROGRAMS, LINK_PROGRAMS
from skedge.dataplane.ebpf.lan.layout_flow import NatAddresses, NatConfig
from skedge.loader import host_requirements
from tests.integration.links.kit import NETWORK, Namespace, veth
from tests.kit.rows import configure_nat, set_loop, set_sources

from .kit import Site

EDGE_A = {4: "10.60.1.1", 6: "fd60:1::1"}
CLIENT = {4: "10.60.1.9", 6: "fd60:1::9"}
MACHINE = {4: "10.60.3.20", 6: "fd60:3::20"}
FAR_MACHINE = {4: "10.60.2.20", 6: "fd60:2::20"}
LISTEN = 8080
WAIT_S = 5.0


def eventually(holds: Callable[[], object], what: str, timeout: float = WAIT_S) -> None:
    until = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < until, f"{what}: not within {timeout} s"
        time.sleep(0.01)


def nat_addresses(site: Site) -> tuple[str, str]:
    """Return the overlay addresses that the site's LAN clients come from, IPv4 and IPv6."""
    network = IPv4Network("100.64.0.0/10")
    return str(names.nat_address(network, NETWORK, site.name)), str(names.nat_address6(NETWORK, site.name))


class Server:
    """An echo server that holds its connections: it answers what it gets, and half-closes when the client does."""

    def __init__(
        self, ns: Namespace, address: str, kind: int = socket.SOCK_STREAM, reuseport: bool = False, port: int = 0,
        protocol: int = 0,
    ) -> None:  # fmt: skip
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.peers: list[tuple[str, int]] = []
        self.accepted: list[socket.socket] = []
        self.socket = ns(socket.socket, family, kind, protocol)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuseport:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind((address, port))
        self.port: int = self.socket.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            self.socket.listen(1024)
        threading.Thread(target=self._accept if kind == socket.SOCK_STREAM else self._answer, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, peer = self.socket.accept()
                self.peers.append(peer[:2])
                self.accepted.append(made)
                threading.Thread(target=self._echo, args=(made,), daemon=True).start()

    def _echo(self, made: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := made.recv(1 << 16):
                made.sendall(data)
            made.shutdown(socket.SHUT_WR)
            made.close()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.socket.recvfrom(1 << 16)
                if peer is None:
                    return
                self.peers.append(peer[:2])
                self.socket.sendto(data, peer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for one in self.accepted:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # or it lives on while its thread waits for a peer that is gone
            one.close()


class World:
    """The two sites and the machines. The process is in A's cgroup while a `World` lives."""

    def __init__(self, bpffs: Path) -> None:
        self._undo = contextlib.ExitStack()
        self._made = contextlib.ExitStack()
        try:
            self._make(bpffs)
        except BaseException:
            self._undo.close()
            raise

    def _make(self, bpffs: Path) -> None:
        self._undo.enter_context(_own_cgroup(cgroup := host_requirements.cgroup2_root() / f"skw-{os.getpid()}"))
        self.a = Site("near", bpffs, (*CONNECT_PROGRAMS, *LAN_PROGRAMS, *LINK_PROGRAMS), str(cgroup))
        self._undo.callback(self._close_site, self.a)
        self.b = Site("there", bpffs)
        self._undo.callback(self._close_site, self.b)
        machines = [Namespace(name) for name in ("client", "machine", "far")]
        for one in machines:
            self._undo.callback(one.close)
        self.client, self.machine, self.far_machine = machines
        veth(self.a.ns, self.b.ns, "under0", "under0", "10.92.1.1/24", "10.92.1.2/24")
        for number, (edge, device, machine) in enumerate(
            ((self.a, "lan0", CLIENT), (self.b, "lan0", FAR_MACHINE), (self.a, "lan1", MACHINE)), 1
        ):
            ns = {1: self.client, 2: self.far_machine, 3: self.machine}[number]
            veth(edge.ns, ns, device, "eth0", f"10.60.{number}.1/24", f"{machine[4]}/24")
            for at, name, address in ((edge.ns, device, f"fd60:{number}::1"), (ns, "eth0", machine[6])):
                at.ip("addr", "add", f"{address}/64", "dev", name, "nodad")
            ns.ip("route", "add", "default", "via", f"10.60.{number}.1")
            ns.ip("-6", "route", "add", "default", "via", f"fd60:{number}::1")
        self._link()
        for site, sources in (
            (self.a, {MACHINE[4]: "10.60.3.1", MACHINE[6]: "fd60:3::1", CLIENT[4]: EDGE_A[4], CLIENT[6]: EDGE_A[6]}),
            (self.b, {FAR_MACHINE[4]: "10.60.2.1", FAR_MACHINE[6]: "fd60:2::1"}),
        ):
            self.configure_nat(site)
            set_sources(site, sources)
            site.ns(set_loop)
            for name, value in site.ns(site.lan.devices, [f"lan{n}" for n in (0, 1)]).items():
                site.ns(site.lan.put, name, value)

    def _link(self) -> None:
        for one in (self.a, self.b):
            one.config = dataclasses.replace(one.config, nat_addresses=nat_addresses(one))
            one.put_base()
            one.ns.sh("sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv4.ip_forward=0")
            one.ns.sh("sysctl -qw net.ipv4.ip_local_reserved_ports=61000-65535")
        for one, other, local, remote in ((self.a, self.b, "10.92.1.1", "10.92.1.2"),
                                          (self.b, self.a, "10.92.1.2", "10.92.1.1")):  # fmt: skip
            self.put_link(one, other, local, remote)
            hop = NextHop(one.device(other.name), str(names.link_local(NETWORK, other.name)))
            for four, six in ((other.overlay4, other.overlay6), nat_addresses(other)):
                one.ns(one.routes.put, f"{four}/32", KernelRoute((hop,), one.overlay4))
                one.ns(one.routes.put, f"{six}/128", KernelRoute((hop,), one.overlay6))
            for address in nat_addresses(one):
                one.ns.ip("addr", "add", address, "dev", "lo")

    def configure_nat(self, site: Site, *, towards_sites: bool = True, **changes: Any) -> None:
        """Tell a site's programs what the product tells them; ``towards_sites``: no site is of an older version."""
        addresses = NatAddresses(*nat_addresses(site), towards_sites)
        configure_nat(site, NatConfig(addresses=addresses, **changes))

    def put_link(self, one: Site, other: Site, local: str, remote: str) -> None:
        """Make one end of the link."""
        one.ns(one.links.put, one.device(other.name), one.vxlan(other.name, local, remote))

    def _close_site(self, site: Site) -> None:
        if site is self.a:
            site.ns(site.unload)
        site.engine.close()
        site.close()

    # ---- what a test makes ----

    def server(self, ns: Namespace, address: str, kind: int = socket.SOCK_STREAM, **options: Any) -> Server:
        made = Server(ns, address, kind, **options)
        self._made.callback(made.close)
        return made

    def endpoint(
        self, port: int, host: str, at: int, protocol: Protocol = Protocol.TCP, off_host: bool = False
    ) -> None:
        """Publish a workload of B."""
        key = EndpointKey(port, protocol)
        self.b.endpoints.put(key, Endpoint(WorkloadId("b", f"w{port}"), host, at, off_host))
        self._made.callback(self.b.endpoints.delete, key)

    def connect(self, ns: Namespace, to: tuple[str, int], source: tuple[str, int] | None = None) -> socket.socket:
        made = self.socket(ns, socket.SOCK_STREAM, to[0])
        if source:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(source)
        made.connect(to)
        return made

    def socket(self, ns: Namespace, kind: int, to: str) -> socket.socket:
        made = ns(socket.socket, socket.AF_INET6 if ":" in to else socket.AF_INET, kind)
        self._made.callback(made.close)
        made.settimeout(WAIT_S)
        return made

    def clean(self) -> None:
        """Take everything of a test away; nothing may stay counted."""
        self._made.close()
        self.a.engine.refresh_port_limit()
        for site in (self.a, self.b):
            site.calm()
            configure_nat(site, NatConfig(1, (63000, 65535), *[0.0] * 5, NatAddresses(udp_stream_s=0)))
            time.sleep(0.01)
            site.flows.sweep()
            self.configure_nat(site)
        for listener in list(self.a.engine.listeners.read()):
            self.a.engine.listeners.delete(listener)
        for service in list(self.a.engine.services.read()):
            self.a.engine.services.delete(service)

    def close(self) -> None:
        self._undo.close()


@contextlib.contextmanager
def _own_cgroup(path: Path) -> Iterator[None]:
    """Move this process into a cgroup of its own."""
    line = next(one for one in Path("/proc/self/cgroup").read_text().splitlines() if one.startswith("0::"))
    before = host_requirements.cgroup2_root() / line[3:].lstrip("/")
    path.mkdir()
    (path / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        eventually(lambda: _removed(path), f"{path} is empty")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return False
    return True
