"""One edge host as data: its namespace, the real programs and drivers, and what packets on its devices are made of."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import (
    Candidate,
    KernelRoute,
    ListenerKey,
    ListenerTarget,
    NextHop,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.engine import EbpfEngine
from skedge.dataplane.ebpf.lan.devices import LanDriver
from skedge.dataplane.ebpf.lan.flow_table import FlowTable
from skedge.dataplane.ebpf.lan.layout_flow import FlowEntry, FlowKey, NatAddresses, NatConfig
from skedge.dataplane.ebpf.packet_check import link_mac
from skedge.dataplane.ebpf.prefix_table import OWN_MAP, PrefixTable
from skedge.loader import loader
from tests.integration.links import kit as links
from tests.integration.links.packets import frame, tcp, udp
from tests.kit import bytecode
from tests.kit.rows import configure_engine, configure_nat, set_loop, set_sources

UNSPEC, OK, SHOT, REDIRECT = 0xFFFFFFFF, 0, 2, 7
HOST = {4: "10.55.0.1", 6: "fd55::1"}
CLIENT = {4: "10.55.0.9", 6: "fd55::9"}
MACHINE = {4: "10.55.0.20", 6: "fd55::20"}
CLIENT_MAC, MACHINE_MAC = bytes.fromhex("0255000000c1"), bytes.fromhex("0255000000a1")
PORTS = (63000, 63063)
FAR = "peer"
LISTEN, FAR_PORT = 8080, 61005


class Site(links.Site):
    """A site whose programs are loaded by the product's own loader."""

    nat_flows = 512

    def __init__(self, name: str, bpffs: Path, programs: Sequence = bytecode.OF_LAN,
                 cgroup: str | None = None) -> None:  # fmt: skip
        self._cgroup = cgroup
        links.load_programs, before = (lambda pin_dir: self._load(pin_dir, programs)), links.load_programs
        try:
            super().__init__(name, bpffs)
        finally:
            links.load_programs = before
        self.engine = EbpfEngine(self.pin_dir)
        self.ns(configure_engine, self.engine, self.overlay4, self.overlay6)
        self.flows = FlowTable(self.pin_dir)
        configure_nat(self, NatConfig(ports=PORTS))
        self.lan = LanDriver(self.pin_dir, self.netlink)
        self.own_prefixes = PrefixTable(self.pin_dir, OWN_MAP)

    def _load(self, pin_dir: str, programs: Sequence) -> None:
        wanted = tuple(programs)
        options = loader.Options(
            Path(pin_dir), self._cgroup, programs=wanted, nat_flows=self.nat_flows, cache=bytecode.cache()
        )
        self._loader = loader.Loader(options)
        self.ns.patience_s = 600  # an emulated machine compiles for minutes
        self.ns(self._loader.load)

    def unload(self) -> None:
        self._loader.unload()

    def overlay(self, v: int) -> str:
        return self.overlay4 if v == 4 else self.overlay6

    def service(
        self,
        candidates: Sequence[Candidate],
        *listeners: tuple[str, int],
        name: str = "web",
        protocol: Protocol = Protocol.TCP,
        affinity_s: int = 0,
        preserves_src: bool = False,
    ) -> ServiceKey:
        key = ServiceKey(name, protocol)
        self.engine.services.put(key, ServiceTable(tuple(sorted(candidates, key=lambda one: one.workload))))
        for address, port in listeners:
            self.engine.listeners.put(
                ListenerKey(address, port, protocol), ListenerTarget(key, (), affinity_s, preserves_src)
            )
        return key

    def open(self, name: str = "") -> int:
        counts = self.engine.counts()
        return sum(one.open for (_, workload), one in counts.items() if name in ("", workload.site))

    def drops(self) -> dict[Reason, int]:
        both: dict[Reason, int] = dict(self.filter.drops())
        for reason, count in self.engine.drops().items():
            both[reason] = both.get(reason, 0) + count
        return both

    def calm(self) -> None:
        """Forget that half-open flows had to make room."""
        with syscall.Fd(syscall.obj_get(f"{self.pin_dir}/nat_crowded_v1")) as fd:
            syscall.map_update(fd, bytes(4), bytes(8))

    def end_flows(self) -> None:
        """End all flows as idle ones end."""
        self.calm()
        configure_nat(self, NatConfig(1, PORTS, *[0.0] * 5, NatAddresses(udp_stream_s=0)))
        time.sleep(0.01)  # the programs' clock is coarse
        self.flows.sweep()
        configure_nat(self, NatConfig(ports=PORTS))

    def entry(self, key: FlowKey) -> FlowEntry | None:
        with syscall.Fd(syscall.obj_get(f"{self.pin_dir}/nat_flows_v1")) as fd:
            raw = syscall.map_lookup(fd, key.pack(), FlowEntry.SIZE)
        return None if raw is None else FlowEntry.unpack(raw)


def remote(name: str, cost: int = 0, *targets: tuple[str, int], own_site: bool = False, off_host: bool = False,
           capacity: int = 1, out: Reason = Reason.NONE, preserves_src: bool = False) -> Candidate:  # fmt: skip
    """A workload ``name/w`` with one target of each family at most."""
    by = {ip_address(address).version: Target(address, port) for address, port in targets}
    return Candidate(
        WorkloadId(name, "w"),
        cost,
        capacity=capacity,
        others=0,
        target4=by.get(4),
        target6=by.get(6),
        own_site=own_site,
        out=out,
        off_host=off_host,
        preserves_src=preserves_src,
    )


@dataclass
class Bench:
    """One site with a LAN device ``lan0`` and one link; `lan` and `link` run one packet through the programs."""

    site: Site
    lan_index: int
    lan_mac: bytes
    link_index: int
    link_mac: bytes
    peer_mac: bytes
    link_mtu: int
    test_flags: int = 0  # BPF_F_TEST_*

    def run(
        self, pin: str, index: int, data: bytes, gso_size: int = 0, mark: int = 0, left: int = 0
    ) -> syscall.TestRun:
        """``left``: what others have left in each word of skb->cb."""
        context = bytearray(192)
        struct.pack_into("=5I", context, 48, *[left] * 5)
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=II", context, 36, 0, index)
        if gso_size:
            struct.pack_into("=I", context, 176, gso_size)
        with syscall.Fd(syscall.obj_get(f"{self.site.pin_dir}/{pin}")) as fd:
            return self.site.ns(syscall.prog_test_run, fd, data, bytes(context), flags=self.test_flags)

    def lan(self, packet: bytes, source: bytes = CLIENT_MAC, to: bytes = b"", ethertype: int | None = None, **options):
        """Return the verdict on a packet that comes from the LAN, and the IP packet afterwards."""
        result = self.run(
            "lan_ingress_v1", self.lan_index, frame(to or self.lan_mac, source, packet, ethertype), **options
        )
        return result.retval, result.data[14:]

    def link(self, packet: bytes):
        """Return the verdict on a packet that comes from the neighbour, and the IP packet afterwards."""
        result = self.run("link_ingress_v1", self.link_index, frame(self.link_mac, self.peer_mac, packet))
        return result.retval, result.data[14:]


def make_bench(site: Site) -> Bench:
    """Give the site a LAN device and a link to the site FAR, with routes and neighbours."""
    ns = site.ns
    ns.ip("link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    ns.ip("link", "add", "under0", "type", "veth", "peer", "name", "under1")
    for device in ("lan0", "lan1", "under0", "under1"):
        ns.ip("link", "set", device, "up")
    ns.ip("addr", "add", "10.91.0.1/24", "dev", "under0")
    for v, length in ((4, 24), (6, 64)):
        ns.ip("addr", "add", f"{HOST[v]}/{length}", "dev", "lan0", *(["nodad"] if v == 6 else []))
        ns.ip("neigh", "add", CLIENT[v], "lladdr", CLIENT_MAC.hex(":"), "dev", "lan0", "nud", "permanent")
        ns.ip("neigh", "add", MACHINE[v], "lladdr", MACHINE_MAC.hex(":"), "dev", "lan0", "nud", "permanent")
    site.put_base()
    name = site.device(FAR)
    device = site.vxlan(FAR, "10.91.0.1", "10.91.0.2")
    ns(site.links.put, name, device)
    far = far_overlay()
    hop = NextHop(name, str(links.names.link_local(links.NETWORK, FAR)))
    ns(site.routes.put, f"{far[4]}/32", KernelRoute((hop,), site.overlay4))
    ns(site.routes.put, f"{far[6]}/128", KernelRoute((hop,), site.overlay6))
    for lan, value in ns(site.lan.devices, ["lan0"]).items():
        ns(site.lan.put, lan, value)
    set_sources(site, {MACHINE[4]: HOST[4], MACHINE[6]: HOST[6]})
    site.ns(set_loop)
    mac = bytes.fromhex(ns.sh("cat /sys/class/net/lan0/address").strip().replace(":", ""))
    return Bench(
        site,
        ns(site.netlink.index, "lan0"),
        mac,
        ns(site.netlink.index, name),
        link_mac(device, device.link_local),
        link_mac(device, device.peer_link_local),
        int(ns.sh(f"cat /sys/class/net/{name}/mtu")),
    )


def far_overlay() -> dict[int, str]:
    names, cidr = links.names, links.IPv4Network(links.CIDR)
    return {4: str(names.overlay_address(cidr, links.NETWORK, FAR)), 6: str(names.overlay_address6(links.NETWORK, FAR))}


def segment(kind: Protocol, sport: int = 40000, dport: int = LISTEN):
    return tcp(sport, dport) if kind is Protocol.TCP else udp(sport, dport)


def serve(bench: Bench, v: int, kind: Protocol, *addresses: str, preserves_src: bool = False) -> None:
    far = remote("far", 1, (far_overlay()[v], FAR_PORT), preserves_src=preserves_src)
    bench.site.service(
        [far], *((one, LISTEN) for one in addresses or (HOST[v],)), protocol=kind, preserves_src=preserves_src
    )


def counted(bench: Bench, reason: Reason) -> int:
    return bench.site.drops().get(reason, 0)
