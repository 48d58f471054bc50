"""The engine `ipvs` on a real kernel: clients of host and LAN, both families, drain, restart, default deny."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pytest
from pyroute2 import IPVS, IPVSDest, IPVSService

from skedge.core.desired.reconcile import reconcile
from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.names import GATEWAY4
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
from skedge.core.placement.rule import fill
from skedge.core.reasons import Reason
from skedge.dataplane import purge
from skedge.dataplane.ipvs import purge as ipvs_purge
from tests.integration.links.kit import listen

from .conftest import CLIENT, HOST, HOST6, Line
from .kit import CONTROL_PORT, DNS, ENDPOINT, PATIENCE_S, PORT, WEB, WORKLOAD, Clients, Site, dial, server

STRANGER = "198.51.100.9"
ECHO = ServiceKey("echo", Protocol.UDP)


@contextmanager
def echo(site: Site, address: str) -> Iterator[None]:
    """Answer each datagram with the site's name."""
    with site.ns(listen, address, WORKLOAD, socket.SOCK_DGRAM) as answering:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    _, peer = answering.recvfrom(100)
                    if peer is None:  # shut down
                        return
                    answering.sendto(site.name.encode(), peer)

        answering.settimeout(None)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield
        with suppress(OSError):
            answering.shutdown(socket.SHUT_RDWR)


def settled(line: Line) -> None:
    """Let the engine see what came."""
    line.a.ns(line.a.engine.look)


def until(condition, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_one_after_another_is_the_rule_from_host_and_lan(line: Line, clients: Clients, address: str) -> None:
    far, cost = ("b", 10) if address == HOST else ("c", 20)
    wanted = fill([one for one in line.table().candidates if one.workload.site in ("a", far)], cost + 4)
    split = clients.open(address, cost + 4, after=lambda: settled(line))
    assert (split["a"] + split["a6"], split[far]) == wanted == (cost + 2, 2)
    assert line.a.open() == {"a": cost + 2, "b": 0, "c": 0, far: 2}
    clients.close()
    until(lambda: line.a.open() == {"a": 0, "b": 0, "c": 0}, "closed connections are not counted")


def test_the_far_workload_sees_the_sites_own_address_and_both_ways_pass(line: Line, clients: Clients) -> None:
    line.serve(out=Reason.DRAINED)
    seen = line.servers[2].peers
    before = len(seen)
    made, name = clients.ns(dial, HOST)
    with made:
        assert (name, seen[before:]) == ("b", [line.a.overlay4])
        held = line.servers[2].held[-1]
        data = bytes(100_000)
        held.sendall(data)
        got = b""
        while len(got) < len(data):
            got += made.recv(65536)
        made.sendall(b"back")
        held.settimeout(PATIENCE_S)
        assert held.recv(4) == b"back"


def test_a_loopback_listener_is_refused_with_the_way_out(line: Line) -> None:
    for address in ("127.0.0.1", "::1"):
        with pytest.raises(DataplaneError, match="give another address of this host"):
            line.a.listen(address)


def test_with_no_healthy_workload_a_connect_is_refused_at_once(line: Line, clients: Clients) -> None:
    table = ServiceTable(tuple(replace(one, out=Reason.UNHEALTHY) for one in line.table().candidates))
    line.a.serve(table)
    for address in (HOST, HOST6):
        started = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            clients.ns(socket.create_connection, (address, PORT), PATIENCE_S)
        assert time.monotonic() - started < PATIENCE_S / 2


def test_datagrams_go_to_one_workload_and_back(line: Line) -> None:
    line.b.publish("127.0.0.1", ENDPOINT + 1, Protocol.UDP)
    table = ServiceTable(
        (Candidate(WorkloadId("b", "udp"), 10, capacity=1, target4=Target(line.b.overlay4, ENDPOINT + 1)),)
    )
    line.a.serve(table, DNS)
    line.a.listen(HOST, 53, DNS)
    with line.b.ns(listen, "127.0.0.1", WORKLOAD, socket.SOCK_DGRAM) as answering:
        for ns in (line.a.ns, line.lan):
            with ns(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(PATIENCE_S)
                asking.connect((HOST, 53))
                asking.send(b"question")
                data, peer = answering.recvfrom(100)
                assert (data, peer[0]) == (b"question", line.a.overlay4)
                answering.sendto(b"answer", peer)
                assert asking.recv(100) == b"answer"
    assert line.a.open(DNS) == {"b": 2}


def test_flows_of_udp_are_balanced_by_the_rule(line: Line) -> None:
    """Local and far, one after another; each flow's answers come back to it."""
    line.b.publish("127.0.0.1", ENDPOINT + 1, Protocol.UDP)
    table = ServiceTable(
        (
            Candidate(WorkloadId("a", "udp"), 0, capacity=1, target4=Target(HOST, WORKLOAD), own_site=True),
            Candidate(WorkloadId("b", "udp"), 3, capacity=1, target4=Target(line.b.overlay4, ENDPOINT + 1)),
        )
    )
    line.a.serve(table, ECHO)
    line.a.listen(HOST, 54, ECHO)
    with ExitStack() as stack:
        for site, address in ((line.a, HOST), (line.b, "127.0.0.1")):
            stack.enter_context(echo(site, address))
        split: Counter[str] = Counter()
        for _ in range(9):
            asking = stack.enter_context(line.lan(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
            asking.settimeout(PATIENCE_S)
            asking.connect((HOST, 54))
            for _ in range(2):
                asking.send(b"who")
                answer = asking.recv(100).decode()
            split[answer] += 1
            settled(line)
    assert (split["a"], split["b"]) == fill(table.candidates, 9) == (6, 3)
    assert line.a.open(ECHO) == {"a": 6, "b": 3}


def test_a_drained_workload_keeps_its_connections(line: Line, clients: Clients) -> None:
    clients.open(HOST, 3, after=lambda: settled(line))
    line.serve(out=Reason.DRAINED)
    clients.open(HOST, 2, after=lambda: settled(line))
    assert clients.split() == {"a": 3, "b": 2}
    line.a.serve(ServiceTable(line.table().candidates[1:]))
    for one, _ in clients.held:
        one.sendall(b"x")
    assert line.a.open()["a"] == 3
    held = line.servers[0].held[-1]
    held.sendall(b"still here")
    assert clients.held[2][0].recv(10) == b"still here"


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_a_client_keeps_its_workload_where_asked(line: Line, clients: Clients, address: str) -> None:
    """The listener beside it of the same service does not, and the connections of both are counted together."""
    keeping = ListenerKey(address, PORT + 1)
    (near, far), cost = (("a", "b"), 10) if address == HOST else (("a6", "c"), 20)
    line.a.listen(address, PORT + 1, affinity_s=300)
    try:
        for _ in range(cost + 4):
            clients.held.append(clients.ns(dial, address, PORT + 1))
            settled(line)
        assert clients.split() == {near: cost + 4}
        assert line.a.open()["a"] == cost + 4
        clients.held.append(clients.ns(dial, address, PORT))
        assert clients.split() == {near: cost + 4, far: 1}, "others see what it is loaded with"
        line.serve(out=Reason.DRAINED)
        clients.held.append(clients.ns(dial, address, PORT + 1))
        assert clients.split() == {near: cost + 4, far: 2}, "a drained workload keeps no client"
        line.a.engine.close()
        line.a.start()
        assert line.a.ns(line.a.engine.listeners.read)[keeping] == ListenerTarget(WEB, affinity_s=300)
        line.a.listen(address, PORT + 1)
        made, name = clients.ns(dial, address, PORT + 1)
        made.close()
        assert name == far, "the listener without affinity takes what is new"
        for one, _ in clients.held:
            one.sendall(b"x")
    finally:
        line.a.ns(line.a.engine.listeners.delete, keeping)
        clients.close()


def test_the_kernel_goes_on_without_us_and_a_restart_adopts_it(line: Line, clients: Clients) -> None:
    clients.open(HOST, 12, after=lambda: settled(line))
    before = {kind: line.a.ns(getattr(line.a.engine, kind).read) for kind in ("services", "listeners")}
    line.a.engine.close()
    time.sleep(0.1)
    clients.open(HOST, 1)
    line.a.start()
    for kind, wanted in before.items():
        driver = getattr(line.a.engine, kind)
        assert line.a.ns(driver.read) == wanted != {}
        assert line.a.ns(reconcile, driver, wanted).changed == []
    assert sum(line.a.open().values()) == 13
    for one, _ in clients.held:
        one.sendall(b"x")


def test_others_services_stay_and_are_not_covered(line: Line) -> None:
    service = {"addr": HOST, "port": 9999, "protocol": socket.IPPROTO_TCP}
    flagged = {"flags": 0x20, "mask": 0xFFFFFFFF}  # as ours are, but for what else they are
    other = {"addr": HOST, "port": 9997, "protocol": socket.IPPROTO_TCP, "sched_name": "rr", "flags": flagged}
    sctp = {"addr": HOST, "port": 9996, "protocol": socket.IPPROTO_SCTP, "flags": flagged}

    def add() -> None:
        with IPVS() as ipvs:
            for one in (service, other, sctp):
                ipvs.service("add", service=IPVSService(**one))
            ipvs.dest("add", service=IPVSService(**service), dest=IPVSDest(addr="192.0.2.1", port=80, fwd_method=0))

    line.c.ns(add)
    with pytest.raises(DataplaneError, match="an IPVS service that is not ours has this address and port"):
        line.c.ns(line.c.engine.listeners.put, ListenerKey(HOST, 9999), ListenerTarget(WEB))
    with pytest.raises(DataplaneError, match="an IPVS service that is not ours has this address and port"):
        line.c.ns(line.c.engine.listeners.put, ListenerKey(HOST, 9997), ListenerTarget(WEB, affinity_s=60))
    line.c.ns(line.c.engine.listeners.put, ListenerKey(HOST, 9998), ListenerTarget(WEB))
    line.c.ns(line.c.engine.listeners.delete, ListenerKey(HOST, 9998))
    text = line.c.ns.sh("cat /proc/net/ip_vs")
    assert "0A5D0005:270F wlc" in text
    assert "C0000201:0050" in text
    found = line.c.ns(ipvs_purge.found, line.c.state)
    assert not [one for one in found if HOST in one], "nor are they purged"


def test_what_is_not_published_does_not_come_in(line: Line) -> None:
    b, c = line.b, line.c
    with c.ns(listen, "::", 22) as ssh, c.ns(listen, "::", 61500) as other, c.ns(listen, "::", CONTROL_PORT) as control:
        for address in (c.overlay4, c.overlay6):
            for port in (22, 61500, CONTROL_PORT, PORT):
                before = sum(c.drops().values())
                with pytest.raises(TimeoutError):
                    line.a.ns(socket.create_connection, (address, port), 0.8)
                assert sum(c.drops().values()) > before
        assert c.drops()[Reason.NOT_PUBLISHED] > 0
        device = b.device("c")
        made = b.ns(socket.create_connection, (f"{c.link_local}%{device}", CONTROL_PORT), 3)
        accepted, _ = control.accept()
        made.close()
        accepted.close()
        with pytest.raises(TimeoutError):
            b.ns(socket.create_connection, (f"{c.link_local}%{device}", 22), 0.4)
        assert c.drops()[Reason.NOT_NEIGHBOUR] > 0
        assert "1 received" in b.ns.sh(f"ping -c1 -W3 {c.link_local}%{device}", check=False)
        for listener in (ssh, other):
            listener.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listener.accept()
    made, name = b.ns(dial, c.overlay6, ENDPOINT)
    made.close()
    assert name == "c", "what is published does"


def test_the_lan_is_not_reached_over_a_link(line: Line) -> None:
    """Neither by a route at the other site, nor in answer to a packet that claims to come from the LAN."""
    with server("lan", line.lan, CLIENT, 8000).listener:
        line.b.ns.ip("route", "add", f"{CLIENT}/32", "via", GATEWAY4, "dev", line.b.device("a"), "onlink")
        line.b.ns.ip(
            "addr", "add", f"{STRANGER}/32", "dev", "lo"
        )  # from its overlay address B itself sends nothing there
        try:
            before = line.a.drops().get(Reason.NOT_OVERLAY, 0)
            with pytest.raises((TimeoutError, OSError)):
                line.b.ns(socket.create_connection, (CLIENT, 8000), 0.6, (STRANGER, 0))
            assert line.a.drops()[Reason.NOT_OVERLAY] > before
        finally:
            line.b.ns.ip("addr", "del", f"{STRANGER}/32", "dev", "lo")
            line.b.ns.ip("route", "del", f"{CLIENT}/32", "dev", line.b.device("a"))


def test_purge_leaves_nothing_of_ours_and_all_of_others(line: Line) -> None:
    c = line.c
    c.ns(c.engine.services.put, WEB, line.table())
    c.ns(c.engine.listeners.put, ListenerKey("10.92.2.2", PORT), ListenerTarget(WEB))
    c.ns(c.engine.listeners.put, ListenerKey("10.92.2.2", PORT + 1), ListenerTarget(WEB, affinity_s=60))
    before = c.ns.sh("cat /proc/net/ip_vs")
    assert f"0A5C0202:{PORT + 1:04X}" in before
    assert "persistent" in before
    c.ns(c.engine.endpoints.put, EndpointKey(ENDPOINT + 5), Endpoint(WorkloadId("c", "x"), "127.0.0.1", 1))
    c.engine.close()
    removed = c.ns(purge.purge, c.netlink, (), c.state)
    assert [one for one in removed if one.startswith("engine ipvs service")]
    after = c.ns.sh("cat /proc/net/ip_vs")
    assert "FWM" not in after
    assert "persistent" not in after
    assert f"0A5C0202:{PORT + 1:04X}" not in after
    assert c.ns.sh("nft list ruleset") == ""
    assert c.ns.sh("sysctl -n net.ipv4.vs.conntrack").strip() == "0"
    assert list(c.state.iterdir()) == []
