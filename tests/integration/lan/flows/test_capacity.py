"""How many clients of a LAN one workload of another site takes, beside the same by nftables DNAT in one run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.core.model import Protocol
from skedge.core.reasons import Reason
from tests.integration.links.kit import Namespace
from tests.workloads import many

from ..kit import Site, remote
from ..world import CLIENT, EDGE_A, World

pytestmark = pytest.mark.long

WAYS = {"dnat": 8081, "through": 8080}  # ports at A: of nftables, and of a listener of ours
SERVER = 9000
SOURCES = [CLIENT[4], "10.60.1.10", "10.60.1.11", "10.60.1.12"]
OPEN = 50_000
UDP_RATE, UDP_S = 2000, 40  # longer than a flow of one exchange lives
CLOSING_RATE, CLOSING_S = 1000, 20
SHARE = 0.95


@pytest.fixture(scope="module")
def world(bpffs: Path) -> Iterator[World]:
    before, Site.nat_flows = Site.nat_flows, 262_144
    made = World(bpffs)
    try:
        made.a.ns.sh("sysctl -qw net.ipv4.ip_forward=1")
        made.a.ns.sh(
            "nft add table ip base; nft 'add chain ip base pre { type nat hook prerouting priority dstnat; }'; "
            f"nft 'add rule ip base pre meta l4proto {{ tcp, udp }} th dport {WAYS['dnat']} "
            f"dnat to 10.92.1.2:{SERVER}'; "
            "nft 'add chain ip base post { type nat hook postrouting priority srcnat; }'; "
            "nft 'add rule ip base post oifname under0 ct status dnat masquerade'"
        )
        for address in SOURCES[1:]:
            made.client.ip("addr", "add", f"{address}/24", "dev", "eth0")
        made.client.sh("sysctl -qw net.ipv4.ip_local_port_range='1024 65535'")
        for protocol, number in ((Protocol.TCP, 61001), (Protocol.UDP, 61002)):
            made.endpoint(number, "127.0.0.1", SERVER, protocol)
            made.a.service([remote("there", 0, (made.b.overlay4, number))], (EDGE_A[4], WAYS["through"]),
                           name=f"web-{protocol}", protocol=protocol)  # fmt: skip
        yield made
    finally:
        made.close()
        Site.nat_flows = before


@contextlib.contextmanager
def program(ns: Namespace, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run tests/workloads/many.py in a namespace; it ends with all of its children."""
    argv = ["ip", "netns", "exec", ns.name, sys.executable, many.__file__, *map(str, arguments)]
    made = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(made.pid, signal.SIGKILL)
        made.wait()


@contextlib.contextmanager
def server(world: World, what: str) -> Iterator[None]:
    with program(world.b.ns, what, "0.0.0.0", SERVER) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        yield


@contextlib.contextmanager
def swept(world: World) -> Iterator[None]:
    """Sweep idle flows as the controller does."""
    stop = threading.Event()

    def sweep() -> None:
        while not stop.wait(5):
            world.a.flows.sweep()

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_connections_that_are_open_at_once(world: World) -> None:
    got = {}
    for way, port in WAYS.items():
        with server(world, "hold"), contextlib.ExitStack() as running:
            each = OPEN // len(SOURCES)
            clients = [
                running.enter_context(program(world.client, "open", source, EDGE_A[4], port, each))
                for source in SOURCES
            ]
            got[way] = sum(int(one.stdout.readline()) for one in clients)  # type: ignore[union-attr]
        print(f"{way}: {got[way]} of {OPEN} connections open at once")
    assert got["through"] >= SHARE * max(got["dnat"], OPEN)
    assert world.a.drops().get(Reason.NO_PORT, 0) == 0


@pytest.mark.parametrize(
    ("serve", "ask", "rate", "seconds"),
    [("echo", "asked", UDP_RATE, UDP_S), ("close", "served", CLOSING_RATE, CLOSING_S)],
)
def test_new_clients_a_second(world: World, serve: str, ask: str, rate: int, seconds: int) -> None:
    got = {}
    for way, port in WAYS.items():
        with server(world, serve), swept(world), contextlib.ExitStack() as running:
            each = rate // len(SOURCES)
            clients = [
                running.enter_context(program(world.client, ask, source, EDGE_A[4], port, each, seconds))
                for source in SOURCES
            ]
            said = [one.stdout.readline().split() for one in clients]  # type: ignore[union-attr]
        got[way], took = sum(int(number) for number, _ in said), max(float(taken) for _, taken in said)
        print(f"{way}: {ask}: {got[way]} of {rate * seconds}, {got[way] / took:.0f} a second")
    assert got["through"] >= SHARE * max(got["dnat"], rate * seconds)
    assert world.a.drops().get(Reason.NO_PORT, 0) == 0
