"""Counters are compared and repaired exactly while connections come and go, with many open."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from skedge.core.objects import ServiceKey
from skedge.core.observed import FlowKind, FlowSums
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.lan.flow_table import CONFIG_MAP, NAT, NatConfigDriver
from skedge.dataplane.ebpf.lan.layout_flow import NatAddresses, NatConfig
from skedge.dataplane.ebpf.maps import Maps
from tests.kit import crowd

from .kit import FAR4, Site, candidate, connect, eventually

LISTENER = ("127.0.0.1", 8080)
WEB, LAN = ServiceKey("web"), ServiceKey("lan")
FLOWS, SOCKETS = 20_000, 3_000
PYTHON_S = 4 * 0.05  # of a look, at most: the kernel's own part hinders nobody


@pytest.fixture
def maps(site: Site) -> Iterator[Maps]:
    made = Maps(str(site.host.pins))
    yield made
    made.close()


@pytest.fixture
def many(site: Site, maps: Maps) -> Iterator[crowd.Sockets]:
    """A service with many sockets, and one with many flows."""
    servers = [socket.create_server((address, 0), backlog=4096) for address in ("127.0.0.1", *FAR4)]
    sockets = crowd.Sockets(LISTENER, servers)
    pins = str(site.host.pins)
    try:
        site.service([candidate(f"w{i}", 0, crowd.target(one)) for i, one in enumerate(servers)], LISTENER)
        site.service([candidate(f"far{i}", 9, crowd.target(servers[0])) for i in range(4)], name="lan")
        NatConfigDriver(pins).put(NAT, NatConfig())
        crowd.add_flows(maps, site.host.pins, maps.service_ids()[LAN], range(4), FLOWS)
        sockets.open(SOCKETS)
        yield sockets
    finally:
        sockets.close()
        NatConfigDriver(pins).put(NAT, NatConfig(1, (63000, 65535), *[0.0] * 5, NatAddresses(udp_stream_s=0)))
        time.sleep(0.02)  # the programs' clock is coarse
        eventually(lambda: site.engine.sweep_flows() or site.open(key=LAN) == 0, "the flows are idle, and end")
        syscall.map_update(maps.fd(CONFIG_MAP), bytes(4), bytes(NatConfig.STRUCT.size))
        for server in servers:
            server.close()


@contextlib.contextmanager
def busy(work: Callable[[], None]) -> Iterator[None]:
    """Let a child do its work again and again."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        theirs.setblocking(False)
        try:
            while True:
                work()
                with contextlib.suppress(BlockingIOError):
                    if not theirs.recv(1):
                        break
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield
    finally:
        ours.close()
        os.waitpid(child, 0)


def come_and_go() -> None:
    held = [connect(*LISTENER) for _ in range(20)]
    for one in held:
        one.close()


def wrong(site: Site) -> int:
    """Return by how many connections the counters are off what is stored."""
    stored = sum(1 for one in site.engine.connections() if one.service == WEB)
    return abs(site.open(key=WEB) - stored)


@pytest.mark.slow_in_vm
def test_a_service_that_is_never_quiet_is_repaired_exactly(site: Site, many: crowd.Sockets, maps: Maps) -> None:
    web, lan = (maps.service_ids()[key] for key in (WEB, LAN))
    with busy(come_and_go), many.accepting():
        assert site.engine.reconcile_counts() == 0, "nothing is wrong, whatever moves"
        for slot, leak in ((0, 3), (1, 1), (2, -2), (0, 40)):
            crowd.miscount(maps, web, {slot: (leak, 0)})
            crowd.miscount(maps, lan, {slot: (leak, leak)})
            before = maps.service(web).epoch
            cpu = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
            assert site.engine.reconcile_counts() == 3 * abs(leak)
            assert resource.getrusage(resource.RUSAGE_THREAD).ru_utime - cpu <= PYTHON_S
            eventually(lambda was=before: maps.service(web).epoch > was + 100, "the service is busy")
        assert site.engine.reconcile_counts() == 0
    assert wrong(site) == 0
    assert site.open(key=LAN) == FLOWS
    assert sum(count.nat for (key, _), count in site.engine.counts().items() if key == LAN) == FLOWS
    assert sum(one.service == LAN for one in site.engine.connections()) == FLOWS
    site.engine.sweep_flows()
    assert site.engine.flow_sums() == FlowSums({FlowKind.REMOTE: FLOWS}, 0)
    many.close()
    eventually(lambda: site.open(key=WEB) == 0, "all are closed, and counted as closed")


def test_a_connection_that_ends_while_it_is_not_counted_is_no_new_error(site: Site, maps: Maps) -> None:
    """A release finds the counter at 0 in the middle of a recount."""
    site.service([candidate("a", 0, site.server().target)], LISTENER)
    ident = maps.service_ids()[WEB]
    held = [connect(*LISTENER) for _ in range(3)]
    crowd.miscount(maps, ident, {0: (-3, 0)})
    maps.recount_begin(ident)
    held.pop().close()
    assert site.open() == 0
    assert site.engine.reconcile_counts() == 2
    assert site.open() == 2
    for one in held:
        one.close()
    assert site.open() == 0


def test_the_look_of_a_moment_ago_does_not_spoil_the_next_one(site: Site, maps: Maps) -> None:
    """Rounds go round: none is taken for an earlier one."""
    site.service([candidate("a", 0, site.server().target)], LISTENER)
    ident = maps.service_ids()[WEB]
    with connect(*LISTENER):
        for _ in range(300):
            maps.recount_begin(ident)
        assert site.engine.reconcile_counts() == 0
        crowd.miscount(maps, ident, {0: (1, 0)})
        assert site.engine.reconcile_counts() == 1
        assert site.open() == 1
    assert site.open() == 0
