"""Connects that are not answered, clients that vanish, and Multipath TCP: real sockets through two edge hosts."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.core.objects import Candidate
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.layout_flow import NatConfig
from tests.integration.links.kit import Namespace
from tests.kit.rows import configure_nat

from ..kit import Site, remote
from ..test_sockets import KINDS, workload
from ..world import CLIENT, EDGE_A, LISTEN, World, eventually

MPTCP = 262
TCP_REPAIR, REPAIR_ON = 19, 1
FLOOD = Path(__file__).parents[2] / "workloads" / "flood.py"


@pytest.fixture(scope="module")
def standing_world(bpffs: Path) -> Iterator[World]:
    before, Site.nat_flows = Site.nat_flows, 262_144
    try:
        made = World(bpffs)
    finally:
        Site.nat_flows = before
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def world(standing_world: World) -> Iterator[World]:
    yield standing_world
    for _, one in standing_world.a.engine.suspended():
        standing_world.a.engine.resume(one)
    standing_world.clean()
    eventually(lambda: standing_world.a.open() == 0, "nothing stays counted")


@contextlib.contextmanager
def silence(ns: Namespace) -> Iterator[None]:
    """The machine takes no SYN any more, and says nothing of it."""
    ns.sh("nft add table inet quiet; nft add chain inet quiet in '{ type filter hook input priority 0; }'; "
          "nft add rule inet quiet in tcp flags syn drop")  # fmt: skip
    try:
        yield
    finally:
        ns.sh("nft delete table inet quiet")


def begin(world: World, ns: Namespace, port: int = LISTEN) -> socket.socket:
    """Start a connect."""
    made = world.socket(ns, socket.SOCK_STREAM, EDGE_A[4])
    made.setblocking(False)
    assert made.connect_ex((EDGE_A[4], port)) == errno.EINPROGRESS
    return made


def is_connected(made: socket.socket, within: float) -> bool:
    done = bool(select.select([], [made], [], within)[1])
    return done and made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def suspended(world: World) -> list[str]:
    return sorted(workload.site for _, workload in world.a.engine.suspended())


@contextlib.contextmanager
def full(world: World) -> Iterator[Candidate]:
    """A workload of this host whose queue is full, so that it answers no SYN."""
    with world.a.ns(socket.create_server, ("127.0.0.1", 0), backlog=0) as listening:
        fillers = []
        for _ in range(3):
            one = world.a.ns(socket.socket)
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
            fillers.append(one)
        yield remote("full", 0, ("127.0.0.1", listening.getsockname()[1]), own_site=True)
        for one in fillers:
            one.close()


@pytest.mark.parametrize(
    ("where", "how"),
    [("there", "unhealthy"), ("there", "removed"), ("there", "drained"), ("machine", "unhealthy"), ("near", "drained")],
)
def test_a_connect_under_way_is_moved(world: World, where: str, how: str) -> None:
    server, other = workload(world, "hairpin", 4, 9)
    with contextlib.ExitStack() as stack:
        if where == "near":
            first = stack.enter_context(full(world))
        else:
            first = workload(world, where, 4)[1]
            stack.enter_context(silence({"there": world.b.ns, "machine": world.machine}[where]))
        world.a.service([first, other], (EDGE_A[4], LISTEN))
        made = begin(world, world.client)
        assert (world.a.open(first.workload.site), world.a.open("hairpin")) == (1, 0)
        out = {"unhealthy": Reason.UNHEALTHY, "drained": Reason.DRAINED, "removed": Reason.NONE}[how]
        world.a.service([replace(first, out=out), other] if out else [other])
        assert is_connected(made, 3)
        assert (world.a.open(first.workload.site), world.a.open("hairpin")) == (0, 1)
        made.sendall(b"x")
        made.setblocking(True)
        assert made.recv(1) == b"x"
        made.close()
        eventually(lambda: world.a.open() == 0, "the count ends")
    assert len(server.peers) == 1
    assert world.a.engine.reconcile_counts() == 0


@pytest.mark.parametrize("where", ["there", "near"])
def test_a_connect_that_nobody_answers_is_moved_in_a_few_seconds(world: World, where: str) -> None:
    """Nobody has noticed yet that the workload is dead."""
    other = workload(world, "hairpin", 4, 9)[1]
    with contextlib.nullcontext() if where == "near" else silence(world.b.ns):
        with full(world) as near:
            first = near if where == "near" else workload(world, "there", 4)[1]
            world.a.service([first, other], (EDGE_A[4], LISTEN))
            made = begin(world, world.client)
            assert is_connected(made, 5)
        assert (world.a.open(first.workload.site), world.a.open("hairpin")) == (0, 1)
    assert suspended(world) == []


def test_a_local_workload_that_goes_away_before_it_answered_is_left(world: World) -> None:
    other = workload(world, "hairpin", 4, 9)[1]
    with full(world) as near:
        world.a.service([near, other], (EDGE_A[4], LISTEN))
        made = begin(world, world.client)
        assert world.a.open("full") == 1
    assert is_connected(made, 3)
    assert (world.a.open("full"), world.a.open("hairpin"), suspended(world)) == (0, 1, ["full"])


# ---- what half a handshake says ---------------------------------------------------------------------------------


def flood(world: World, *options: str) -> subprocess.Popen[bytes]:
    mac = world.a.ns.sh("cat /sys/class/net/lan0/address").strip()
    argv = [sys.executable, str(FLOOD), "eth0", mac, EDGE_A[4], str(LISTEN), *options]
    return world.client(lambda: subprocess.Popen(argv))


@pytest.mark.parametrize("where", [one for one in KINDS if one != "hairpin"])
def test_a_client_that_never_finishes_suspends_nobody(world: World, where: str) -> None:
    first, other = workload(world, where, 4)[1], workload(world, "hairpin", 4, 50)[1]
    world.a.service([first, other], (EDGE_A[4], LISTEN))
    world.client.sh(f"ping -c1 -W2 {EDGE_A[4]}")  # what waits for the gateway's address may be lost
    assert flood(world, "--number", "3", "--spoof", "10.60.1.128/25").wait() == 0
    eventually(lambda: world.a.open() == 3, "all three arrive, also where the gateway had to be asked for first")
    configure_nat(world.a, NatConfig(syn_s=0))
    time.sleep(0.02)
    world.a.flows.sweep()
    assert (world.a.open(), suspended(world)) == (0, [])
    with world.connect(world.client, (EDGE_A[4], LISTEN)):
        assert (world.a.open(first.workload.site), world.a.open("hairpin")) == (1, 0)


@pytest.mark.slow_in_vm
def test_a_flood_refuses_nobody(world: World) -> None:
    flood_refuses_nobody(world, False, 2)


@pytest.mark.long
@pytest.mark.parametrize("spoofed", [False, True], ids=["one machine", "spoofed"])
def test_a_minute_of_flood_refuses_nobody(world: World, spoofed: bool) -> None:
    flood_refuses_nobody(world, spoofed, 60)


def flood_refuses_nobody(world: World, spoofed: bool, seconds: int) -> None:
    """20,000 SYNs a second from one machine, while another one connects, and a connection goes on."""
    room = (65535 - 63000 + 1) * 7 // 8 // 2
    table = [workload(world, "near", 4)[1], workload(world, "there", 4)[1]]
    world.a.service(table, (EDGE_A[4], LISTEN))
    held = world.connect(world.machine, (EDGE_A[4], LISTEN))
    options = ["--rate", "20000", "--seconds", str(seconds), *(["--spoof", "10.60.1.16/28"] * spoofed)]
    served, most = 0, 0
    with flood(world, *options) as attack:
        try:
            while attack.poll() is None:
                with world.connect(world.machine, (EDGE_A[4], LISTEN)) as made:
                    made.sendall(b"x")
                    assert made.recv(1) == b"x"
                served, most = served + 1, max(most, world.a.open())
                held.sendall(b"y")
                assert held.recv(1) == b"y"
        finally:
            attack.kill()
    assert served > 10
    assert most <= room + 2
    assert suspended(world) == []
    assert sum(1 for _ in world.a.flows.records()) < 100_000
    configure_nat(world.a, NatConfig(syn_s=0, closed_s=0))
    time.sleep(0.02)
    world.a.flows.sweep()
    eventually(lambda: world.a.open() == 1, "the last one closed, too")
    assert world.a.engine.reconcile_counts() == 0


# ---- clients that come back -------------------------------------------------------------------------------------


def lose_power(made: socket.socket) -> None:
    """Let a connection vanish without a word."""
    made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, REPAIR_ON)
    made.close()


@pytest.mark.parametrize("where", KINDS)
def test_a_client_that_lost_power_comes_back_by_the_same_port_at_once(world: World, where: str) -> None:
    server, candidate = workload(world, where, 4)
    world.a.service([candidate], (EDGE_A[4], LISTEN))
    lose_power(world.connect(world.client, (EDGE_A[4], LISTEN), source=(CLIENT[4], 20003)))
    eventually(lambda: len(server.accepted) == 1, "accepted")
    for turn in (2, 3):
        began = time.monotonic()
        made = world.connect(world.client, (EDGE_A[4], LISTEN), source=(CLIENT[4], 20003))
        assert time.monotonic() - began < 0.3
        made.sendall(b"x")
        assert made.recv(1) == b"x"
        eventually(lambda: world.a.open() == 1, "the old one has ended")
        assert len(server.accepted) == turn
        lose_power(made)
    assert suspended(world) == []


# ---- Multipath TCP ----------------------------------------------------------------------------------------------


def has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def second_address(ns: Namespace, address: str) -> Iterator[None]:
    """The client opens a further subflow of each connection from this address."""
    ns.ip("addr", "add", f"{address}/24", "dev", "eth0")
    ns.ip("mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    ns.ip("mptcp", "endpoint", "add", address, "dev", "eth0", "subflow")
    try:
        yield
    finally:
        ns.ip("mptcp", "endpoint", "flush")
        ns.ip("addr", "del", f"{address}/24", "dev", "eth0")


@pytest.mark.skipif(not has_mptcp(), reason="this kernel has no MPTCP")
@pytest.mark.parametrize("where", ["near", "there", "machine"])
def test_a_further_subflow_of_a_client_suspends_nobody(world: World, where: str) -> None:
    server, first = workload(world, where, 4, protocol=MPTCP)
    second = workload(world, "hairpin", 4, 0)[1]
    world.a.service([first], (EDGE_A[4], LISTEN))
    before = world.a.drops().get(Reason.NO_SOCKET, 0)
    with second_address(world.client, "10.60.1.10"):
        made = world.client(socket.socket, socket.AF_INET, socket.SOCK_STREAM, MPTCP)
        with made:
            made.settimeout(5)
            made.connect((EDGE_A[4], LISTEN))
            world.a.service([first, second])
            for _ in range(3):
                made.sendall(b"x")
                assert made.recv(1) == b"x"
                time.sleep(0.05)
            eventually(lambda: world.a.drops().get(Reason.NO_SOCKET, 0) > before, "a subflow was refused")
            made.sendall(b"x")
            assert made.recv(1) == b"x"
            assert (world.a.open(), world.a.open("hairpin")) == (1, 0)
    eventually(lambda: world.a.open() == 0, "the count ends")
    assert suspended(world) == []
    assert len(server.accepted) == 1


@pytest.mark.skipif(not has_mptcp(), reason="this kernel has no MPTCP")
@pytest.mark.parametrize("where", ["near", "there"])
def test_a_client_of_this_host_that_speaks_mptcp(world: World, where: str) -> None:
    """Its first subflow is placed; further ones go where that went, and count nothing."""
    server, candidate = workload(world, where, 4, protocol=MPTCP)
    world.a.service([candidate], (EDGE_A[4], LISTEN))
    made = world.a.ns(socket.socket, socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    with made:
        made.settimeout(5)
        made.connect((EDGE_A[4], LISTEN))
        made.sendall(b"x")
        assert made.recv(1) == b"x"
        assert world.a.open() == 1
        assert world.a.engine.reconcile_counts() == 0
    eventually(lambda: world.a.open() == 0, "the count ends")
    assert suspended(world) == []
    assert len(server.accepted) == 1
