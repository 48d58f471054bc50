"""The host routes by marks (`ip rule fwmark`): packets of flows go by their mark, as the kernel routes them."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator

import pytest

from skedge.core.model import Protocol
from skedge.core.reasons import Reason
from tests.integration.links.kit import veth
from tests.integration.links.packets import ACK, SYN, ip, tcp

from ..kit import CLIENT, HOST, LISTEN, MACHINE, MACHINE_MAC, REDIRECT, SHOT, Bench, remote
from ..test_packets import BOTH, ports
from ..test_sockets import workload
from ..world import CLIENT as CLIENT_OF_WORLD
from ..world import EDGE_A, World

MARK, OTHER = 0x77, 0x78
SO_MARK = 36
BY_MARK = tuple(int(word) for word in platform.release().split("-")[0].split(".")[:2]) >= (6, 10)
"""Since then bpf_fib_lookup takes a mark. Before, packets of flows are routed as if they had none."""


@pytest.fixture
def ruled(bench: Bench) -> Iterator[Bench]:
    """What has the mark goes nowhere."""
    ns = bench.site.ns
    for family in ("-4", "-6"):
        ns.ip(family, "rule", "add", "fwmark", str(MARK), "lookup", "77")
        ns.ip(family, "route", "add", "unreachable", "default", "table", "77")
    yield bench
    for family in ("-4", "-6"):
        ns.ip(family, "rule", "del", "fwmark", str(MARK), "lookup", "77")
        ns.ip(family, "route", "flush", "table", "77")


@BOTH
def test_questions_and_answers_go_by_their_mark(ruled: Bench, v: int) -> None:
    there = remote("here", 0, (MACHINE[v], 9000), own_site=True, off_host=True)
    ruled.site.service([there], (HOST[v], LISTEN))
    first = ip(CLIENT[v], HOST[v], tcp(40000, LISTEN, SYN))
    verdict, out = ruled.lan(first, mark=OTHER)
    assert verdict == REDIRECT
    answer = ip(MACHINE[v], HOST[v], tcp(9000, ports(out, v)[0], SYN | ACK))
    for send in (lambda mark: ruled.lan(first, mark=mark),
                 lambda mark: ruled.lan(answer, source=MACHINE_MAC, mark=mark)):  # fmt: skip
        before = ruled.site.drops().get(Reason.NO_ROUTE, 0)
        assert [send(mark)[0] for mark in (0, OTHER)] == [REDIRECT, REDIRECT]
        assert send(MARK)[0] == (SHOT if BY_MARK else REDIRECT)
        assert ruled.site.drops().get(Reason.NO_ROUTE, 0) == before + BY_MARK


@BOTH
def test_an_answer_leaves_by_the_device_that_its_sockets_mark_asks_for(world: World, v: int) -> None:
    site, client, beyond = world.a, world.client, {4: "10.60.9.2", 6: "fd60:9::2"}[v]
    veth(site.ns, client, "lan9", "eth9", "10.60.9.1/24", "10.60.9.2/24")
    for ns, device, address in ((site.ns, "lan9", "fd60:9::1/64"), (client, "eth9", "fd60:9::2/64")):
        ns.ip("addr", "add", address, "dev", device, "nodad")
    known = client.sh("cat /sys/class/net/eth9/address").strip()
    site.ns.ip("neigh", "add", beyond, "lladdr", known, "dev", "lan9", "nud", "permanent")
    client.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth9.rp_filter=0")
    site.ns.ip(f"-{v}", "rule", "add", "fwmark", str(MARK), "lookup", "77")
    site.ns.ip(f"-{v}", "route", "add", CLIENT_OF_WORLD[v], "via", beyond, "dev", "lan9", "table", "77")
    try:
        server, candidate = workload(world, "near", v, kind=socket.SOCK_DGRAM)
        site.service([candidate], (EDGE_A[v], LISTEN), protocol=Protocol.UDP)
        made = world.socket(client, socket.SOCK_DGRAM, EDGE_A[v])
        for mark in (0, MARK):
            server.socket.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
            before = [_received(world, device) for device in ("eth0", "eth9")]
            for _ in range(20):
                made.sendto(b"question", (EDGE_A[v], LISTEN))
                assert made.recv(9) == b"question"
            grown = [_received(world, device) - was for device, was in zip(("eth0", "eth9"), before, strict=True)]
            assert (grown[0] >= 20, grown[1] >= 20) == ((False, True) if mark and BY_MARK else (True, False))
    finally:
        site.ns.ip(f"-{v}", "rule", "del", "fwmark", str(MARK), "lookup", "77")
        site.ns.ip("link", "del", "lan9")


def _received(world: World, device: str) -> int:
    return int(world.client.sh(f"cat /sys/class/net/{device}/statistics/rx_packets"))
