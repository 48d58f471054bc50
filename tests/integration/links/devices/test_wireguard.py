"""WireGuard links, of the kernel where it has WireGuard, else of wireguard-go: devices without a link-layer header."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.core import names
from skedge.core.errors import DataplaneError, Waiting
from skedge.core.model import LinkId, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute, LinkDevice, NextHop
from skedge.dataplane.host.resolver import PeerResolver
from skedge.dataplane.links.transports import wireguard

from ..kit import CONTROL_PORT, Site, client, listen, make_key, run, veth
from .wg import Go, kernel_has_wireguard

PORT, WORKLOAD = 61001, 9090
KERNEL_HAS_IT = kernel_has_wireguard()


class Pair:
    """Sites P and Q over one wireguard link; the underlay has an MTU of 1400."""

    def __init__(self, bpffs: Path) -> None:
        self.sites: list[Site] = []
        self.processes: list[Go] = []
        try:
            self.sites = [Site(name, bpffs) for name in ("p", "q")]
            self.p, self.q = self.sites
            veth(self.p.ns, self.q.ns, "u0", "u0", "10.96.1.1/24", "10.96.1.2/24")
            for one in self.sites:
                one.ns.ip("link", "set", "u0", "mtu", "1400")
                one.put_base()
                if not KERNEL_HAS_IT:
                    self.processes.append(Go(one.ns, one.sockets, self.device(one)))
            self.put(self.p, self.wanted(self.p))
            self.put(self.q, self.wanted(self.q))
            for one in self.sites:
                self._route(one, self.far(one))
        except BaseException:
            self.close()
            raise

    def far(self, site: Site) -> Site:
        return self.q if site is self.p else self.p

    def device(self, site: Site) -> str:
        return site.device(self.far(site).name)

    def wanted(self, site: Site, **more: object) -> LinkDevice:
        remote, port, far_port = ("10.96.1.2", 5001, 5002) if site is self.p else ("10.96.1.1", 5002, 5001)
        return site.wg(self.far(site), port, remote, far_port, **more)

    def put(self, site: Site, value: LinkDevice) -> None:
        site.ns(site.links.put, self.device(site), value)

    def _route(self, at: Site, to: Site) -> None:
        gateway = NextHop(self.device(at), names.GATEWAY4)
        at.ns(at.routes.put, f"{to.overlay4}/32", KernelRoute((gateway,), at.overlay4))
        hop = NextHop(self.device(at), to.link_local)
        at.ns(at.routes.put, f"{to.overlay6}/128", KernelRoute((hop,), at.overlay6))

    def ping(self, site: Site) -> bool:
        """Probe the far end as the controller does."""
        far = f"{self.far(site).link_local}%{self.device(site)}"
        return "1 received" in site.ns.sh(f"ping -6 -c1 -W1 {far}", check=False)

    def close(self) -> None:
        for process in self.processes:
            process.close()
        for one in self.sites:
            one.close()


@pytest.fixture(scope="module")
def pair(bpffs: Path) -> Iterator[Pair]:
    made = Pair(bpffs)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def as_it_was(pair: Pair) -> None:
    """Both ends as wanted, before each test."""
    for one in pair.sites:
        pair.put(one, pair.wanted(one))
    until(lambda: pair.ping(pair.p))


def until(true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def tunnel(site: Site) -> object:
    facts, _ = site.ns(site.wireguard.tend)
    return next(iter(facts.values()))


def test_what_is_put_is_read_and_the_far_end_answers_probes(pair: Pair) -> None:
    for one in pair.sites:
        assert pair.ping(one)
        assert one.ns(one.links.read) == {pair.device(one): pair.wanted(one)}
        facts = tunnel(one)
        assert facts.handshake_s is not None
        assert facts.handshake_s < 30
        assert facts.endpoint == f"{pair.wanted(one).remote}:{pair.wanted(one).remote_port}"


def test_mtu_leaves_room_for_the_tunnels_headers(pair: Pair) -> None:
    p, device = pair.p, pair.device(pair.p)
    assert "mtu 1340" in p.ns.ip("link", "show", device)
    pair.put(p, pair.wanted(p, mtu=1300))
    assert "mtu 1300" in p.ns.ip("link", "show", device)
    assert p.ns(p.links.read) == {device: pair.wanted(p, mtu=1300)}


@pytest.mark.parametrize("v", [4, 6])
def test_tcp_reaches_a_workload_on_loopback_by_its_endpoint(pair: Pair, v: int) -> None:
    p, q = pair.sites
    host, to = ("127.0.0.1", q.overlay4) if v == 4 else ("::1", q.overlay6)
    q.endpoints.put(EndpointKey(PORT), Endpoint(WorkloadId("q", "w"), host, WORKLOAD))
    payload = bytes(range(256)) * 4000
    try:
        with q.ns(listen, host, WORKLOAD) as server:
            for _ in range(3):  # the same ports again: what meets TIME_WAIT is sent round once more
                mine = p.ns(client, to)
                mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                mine.bind((p.overlay4 if v == 4 else p.overlay6, 40123))
                until(lambda mine=mine: mine.connect_ex((to, PORT)) == 0)  # not before the last one has ended here
                accepted, _ = server.accept()
                accepted.settimeout(10)
                with mine, accepted:
                    mine.settimeout(10)
                    mine.sendall(payload[:200])
                    assert accepted.recv(200) == payload[:200]
                    accepted.sendall(payload[: 1 << 17])
                    got = b""
                    while len(got) < 1 << 17:
                        got += mine.recv(1 << 17)
                    assert got == payload[: 1 << 17]
                    accepted.close()  # this end remembers the connection
                    assert mine.recv(1) == b""
    finally:
        q.endpoints.delete(EndpointKey(PORT))


def test_nothing_else_is_reached(pair: Pair) -> None:
    p, q = pair.sites
    q.ns.ip("addr", "add", "192.0.2.9/32", "dev", "lo")
    p.ns.ip("route", "add", "192.0.2.9/32", "dev", pair.device(p), "src", p.overlay4, "table", "7400")
    before = q.drops()
    try:
        with q.ns(listen, "0.0.0.0", 80), q.ns(listen, "::", 8081):
            for address, port in ((q.overlay4, 80), (q.overlay6, 8081), ("192.0.2.9", 80)):
                with pytest.raises(TimeoutError):
                    p.ns(socket.create_connection, (address, port), 0.4)
            scope = p.ns(socket.if_nametoindex, pair.device(p))
            refused = p.ns(client, q.link_local)
            refused.settimeout(0.4)
            with refused, pytest.raises(TimeoutError):
                refused.connect((q.link_local, 8081, 0, scope))
    finally:
        q.ns.ip("addr", "del", "192.0.2.9/32", "dev", "lo")
        p.ns.ip("route", "del", "192.0.2.9/32", "table", "7400")
    after = q.drops()
    grown = {reason for reason in after if after[reason] > before.get(reason, 0)}
    assert {"NOT_PUBLISHED", "NOT_OVERLAY", "NOT_NEIGHBOUR"} <= grown


def test_the_neighbours_control_stream_passes(pair: Pair) -> None:
    p, q = pair.sites
    with q.ns(listen, "::", CONTROL_PORT) as server, p.ns(client, q.link_local) as mine:
        mine.connect((q.link_local, CONTROL_PORT, 0, p.ns(socket.if_nametoindex, pair.device(p))))
        accepted, peer = server.accept()
        accepted.close()
    assert peer[0].split("%")[0] == p.link_local


def test_a_site_that_cannot_be_reached_calls_and_is_found_again_where_it_moves(pair: Pair) -> None:
    p, q = pair.sites
    wanted = replace(pair.wanted(q), remote="", remote_port=0)
    pair.put(q, wanted)
    pair.put(p, pair.wanted(p, keepalive_s=1))
    until(lambda: pair.ping(p))
    assert pair.ping(q)
    p.ns.ip("addr", "del", "10.96.1.1/24", "dev", "u0")
    p.ns.ip("addr", "add", "10.96.1.77/24", "dev", "u0")
    try:
        until(lambda: tunnel(q).endpoint.startswith("10.96.1.77:"))
        assert pair.ping(q)
        assert q.ns(q.links.read) == {pair.device(q): wanted}  # nothing to repair
    finally:
        p.ns.ip("addr", "del", "10.96.1.77/24", "dev", "u0")
        p.ns.ip("addr", "add", "10.96.1.1/24", "dev", "u0")


def test_a_far_end_that_changes_its_key_is_followed(pair: Pair) -> None:
    p, q = pair.sites
    old, new = q.public_key, make_key(q.state / "next.key")
    pair.put(p, pair.wanted(p, keys=tuple(sorted((old, new)))))
    assert tunnel(p).handshake_s is not None
    assert pair.ping(p)
    own = (q.state / "wireguard.key").read_text()
    try:
        (q.state / "wireguard.key").write_text((q.state / "next.key").read_text())
        assert q.ns(q.links.read) != {pair.device(q): pair.wanted(q)}  # the key in the kernel is not the host's
        pair.put(q, pair.wanted(q))
        until(lambda: pair.ping(q) or not p.ns(p.wireguard.tend))
        assert pair.ping(p)
        assert p.ns(p.links.read) == {pair.device(p): pair.wanted(p, keys=tuple(sorted((old, new))))}
        pair.put(p, pair.wanted(p, keys=(new,)))
        assert pair.ping(p)
        assert pair.ping(q)
        assert p.ns(p.links.read) == {pair.device(p): pair.wanted(p, keys=(new,))}
    finally:
        (q.state / "wireguard.key").write_text(own)


def test_what_cannot_be_is_one_sentence_and_the_device_goes_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    p, device = pair.p, pair.device(pair.p)
    with pytest.raises(Waiting, match="link p--q: the WireGuard key of its far end is not known at this site yet"):
        pair.put(p, pair.wanted(p, keys=()))
    assert pair.ping(p)
    with (
        p.ns(listen, "0.0.0.0", 5055, socket.SOCK_DGRAM),
        pytest.raises(DataplaneError, match="UDP port 5055 is in use"),
    ):
        pair.put(p, replace(pair.wanted(p), port=5055))
    with pytest.raises(DataplaneError, match=r"its remote no\.such\.invalid does not resolve; correct the name"):
        pair.put(p, replace(pair.wanted(p), remote="no.such.invalid"))
    assert pair.ping(p)  # the far end is known from before, and calls
    monkeypatch.setattr(PeerResolver, "addresses", lambda self, host: ("10.96.1.2",))
    pair.put(p, replace(pair.wanted(p), remote="q.example.net"))
    assert p.ns(p.links.read) == {device: replace(pair.wanted(p), remote="q.example.net")}
    monkeypatch.undo()
    pair.put(p, pair.wanted(p))
    stranger = make_key(p.state / "stranger.key")
    pair.put(p, pair.wanted(p, keys=(stranger,)))
    assert not pair.ping(p)
    assert tunnel(p).handshake_s is None


def test_the_private_key_is_in_no_error_and_only_in_its_file(pair: Pair) -> None:
    p = pair.p
    secret = (p.state / "wireguard.key").read_text()
    try:
        (p.state / "wireguard.key").write_text(secret[:20])
        with pytest.raises(DataplaneError, match=r"wireguard.key: is no WireGuard key; remove it") as refused:
            pair.put(p, pair.wanted(p))
        assert secret[:20] not in str(refused.value)
        (p.state / "wireguard.key").unlink()
        with pytest.raises(DataplaneError, match="cannot be read"):
            pair.put(p, pair.wanted(p))
        assert pair.ping(p)
    finally:
        (p.state / "wireguard.key").write_text(secret)


def test_without_wireguard_the_way_out_is_named(pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if KERNEL_HAS_IT:
        pytest.skip("this kernel has WireGuard")
    p = pair.p
    other = replace(pair.wanted(p), link=LinkId("p", "r", "main"), port=5099)
    with pytest.raises(DataplaneError, match=r"this kernel has no WireGuard, and wireguard-go does not run .*sk-r-0"):
        p.ns(p.links.put, "sk-r-0", other)
    monkeypatch.setattr(wireguard, "TUN", tmp_path / "tun")
    with pytest.raises(DataplaneError, match=r"wireguard-go needs .*/tun, which is not there; load or install"):
        p.ns(p.links.put, "sk-r-0", other)
    assert pair.ping(p)
    assert "sk-r-0" not in run("ip", "-n", p.ns.name, "link").stdout
