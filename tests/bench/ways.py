"""Four ways from a client on edge-a's LAN to a server at edge-b: what is set up for each, and taken away afterwards.

direct     edge-a is made a router, edge-b has a route back to the LAN
skedge     to the listener at edge-a's LAN address, placed and translated by skedge
haproxy    to a haproxy on edge-a in TCP mode, outside of skedge's cgroup
nftables   to a port of edge-a that nftables translates (DNAT, masquerade); its table is there only while it is
           measured, or connection tracking would be paid by the others
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.probes import CLIENT_CPU, Place
from tests.lab.lab import Lab
from tests.lab.machine import LanMachine
from tests.lab.sh import LabError, run

LISTENER, MANY, PROXIED, TRANSLATED = 8080, 8090, 8081, 8082
# Each way has a port of the server's to itself: another's connections in TIME_WAIT there would delay its own.
FAR_DIRECT, FAR_PROXIED, FAR_TRANSLATED = FAR = 9091, 9092, 9093

HAPROXY = """\
global
    maxconn {connections}
    nbthread 2
    maxpipes 100
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bench
    bind {own}:{port}
    server far {far}:{port_far}
"""

NFTABLES = """\
table ip bench {{
    chain before {{
        type nat hook prerouting priority dstnat;
        ip daddr {own} tcp dport {port} dnat to {far}:{port_far}
    }}
    chain after {{
        type nat hook postrouting priority srcnat;
        ip daddr {far} tcp dport {port_far} masquerade
    }}
}}
"""


@dataclass(frozen=True)
class Client:
    """The LAN machine, from which everything is measured; the program runs there without a root of its own."""

    machine: LanMachine

    def argv(self, program: Path, *words: object) -> list[str]:
        """Return a command line that runs the client there, on its processor."""
        group = self.machine.cgroup()
        group.mkdir(parents=True, exist_ok=True)
        namespace = f"/run/netns/{self.machine.plan.namespace(self.machine.name)}"
        enter = f'echo $$ > {group}/cgroup.procs; exec nsenter --net={namespace} taskset -c {CLIENT_CPU} "$@"'
        return ["sh", "-ec", enter, "sh", str(program), *map(str, words)]

    def measure(self, program: Path, *words: object) -> list[float]:
        """Run the client there and return the numbers that it prints."""
        return [float(word) for word in run(*self.argv(program, *words)).split()]


@dataclass(frozen=True)
class Way:
    """One way to the server: what the client connects to, and the nftables that stand while it does."""

    name: str
    address: str
    port: int
    many: int = 0  # port for very many connections; 0 is the same
    namespace: str = ""
    rules: str = ""

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Have the way there for a while."""
        try:
            if self.rules:
                run("ip", "netns", "exec", self.namespace, "nft", "-f", "-", stdin=self.rules)
            yield
        finally:
            if self.rules:
                run("ip", "netns", "exec", self.namespace, "nft", "delete", "table", "ip", "bench")

    def answers(self, client: Client, program: Path, patience: float) -> bool:
        """Tell whether the way leads to the server, within some seconds."""
        end = time.monotonic() + patience
        with self.open():
            while True:
                with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                    argv = client.argv(program, "conn", self.address, self.port, 1)
                    if subprocess.run(argv, capture_output=True, timeout=5, check=False).returncode == 0:
                        return True
                if time.monotonic() > end:
                    return False
                time.sleep(0.5)


@contextlib.contextmanager
def ways(lab: Lab, client: Client, outside: Place, connections: int, log: Path) -> Iterator[list[Way]]:
    """Give all four ways, and take away what was set up for them.

    Args:
        lab: the lab of topology ``lan-pair``.
        client: the machine on edge-a's LAN.
        outside: a place on edge-a outside of skedge's cgroup, for the proxy.
        connections: so many are held at once.
        log: where the proxy's words go.
    """
    far = str(lab.plan.segment_address(lab.plan.segment("edge-a", "edge-b"), "edge-b"))
    near = str(lab.plan.segment_address(lab.plan.segment("edge-a", "edge-b"), "edge-a"))
    own, network = str(client.machine.gateway), str(lab.plan.lan("edge-a", "lan0")[0])
    known = {"own": own, "far": far}
    translate = NFTABLES.format(port=TRANSLATED, port_far=FAR_TRANSLATED, **known)
    lab.ssh("edge-b", f"ip route replace {network} via {near}")
    lab.ssh("edge-a", "sysctl -qw net.ipv4.ip_forward=1")  # which skedge does not need, and leaves as it is
    config = outside.host.root / "root/bench-haproxy.cfg"
    config.write_text(HAPROXY.format(port=PROXIED, port_far=FAR_PROXIED, connections=connections + 100, **known))
    root = str(outside.host.root)
    argv = outside.argv("0,1", "chroot", root, "haproxy", "-db", "-f", "/root/bench-haproxy.cfg")
    with log.open("wb") as out:
        proxy = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield [
            Way("direct", far, FAR_DIRECT),
            Way("skedge", own, LISTENER, MANY),
            Way("haproxy", own, PROXIED),
            Way("nftables", own, TRANSLATED, namespace=lab.plan.namespace("edge-a"), rules=translate),
        ]
    finally:
        proxy.terminate()
        proxy.wait()
        config.unlink()
        lab.ssh("edge-a", "sysctl -qw net.ipv4.ip_forward=0", check=False)
        lab.ssh("edge-b", f"ip route del {network} via {near}", check=False)
