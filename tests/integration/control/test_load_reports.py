"""Load reports between two namespaces, over overlay addresses; and a health check whose socket carries our mark."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.control.health.monitor import CheckedWorkload, HealthMonitor, HealthState
from skedge.control.identity.identity import Identity, load
from skedge.control.loads.exchange import LoadExchange, LoadPeer, encode
from skedge.core.model import Health, WorkloadId
from skedge.core.names import SOCKET_MARK
from skedge.core.reasons import Reason
from skedge.core.records import Version
from tests.integration.control.netns import Pair, Place, wait
from tests.unit.control.authority import Authority

pytestmark = pytest.mark.needs_root

W = WorkloadId("edge-b", "backend")
V = WorkloadId("edge-c", "reports")
PORT = 7402


class Site:
    """One site's load exchange."""

    def __init__(self, place: Place, identity: Identity) -> None:
        self.place, self.identity = place, identity
        self.news: list[tuple[float, str]] = []
        self.exchange = place.call(lambda: LoadExchange(identity, PORT, incarnation=lambda: 5, on_report=self._told))
        place.call(self.exchange.open, place.overlay)

    def _told(self, site: str) -> None:
        self.news.append((time.monotonic(), site))

    def meet(self, other: Site, *services: str) -> None:
        peer = LoadPeer(other.place.overlay, other.identity.certificate, frozenset(services))
        self.place.call(self.exchange.set_peers, {other.identity.site: peer})

    def count(self, **counts: dict[WorkloadId, int]) -> None:
        self.place.call(self.exchange.set_counts, counts)

    def heard_of(self, site: str) -> dict[WorkloadId, int] | None:
        report = self.exchange.reports().get(site)
        return None if report is None else dict(report.open)


@pytest.fixture
def sites(joined: Pair, authority: Authority, tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    a, b = (
        Site(place, load(authority.directory(tmp_path / name, name), "demo", name))
        for place, name in ((joined.a, "edge-a"), (joined.b, "edge-b"))
    )
    b.meet(a, "backend", "reports")
    a.meet(b, "backend")
    wait(lambda: b.heard_of("edge-a") == {}, 3, "that nothing is open, which a new site is told")
    time.sleep(0.25)  # one site is told at most every 200 ms
    for one in (a, b):
        one.news.clear()
    yield a, b
    for site in (a, b):
        site.place.call(site.exchange.close)


def test_a_change_is_heard_at_once_and_repeats_are_no_news(sites: tuple[Site, Site]) -> None:
    a, b = sites
    start, sent = time.monotonic(), a.exchange.sent
    a.count(backend={W: 3}, reports={V: 9})
    wait(lambda: bool(b.news), 1, "report")
    print(f"heard after {(b.news[0][0] - start) * 1000:.1f} ms")
    assert b.heard_of("edge-a") == {W: 3}  # edge-b does not listen to reports
    time.sleep(2.5)
    assert a.exchange.sent == sent + 3
    assert len(b.news) == 1
    age = b.place.call(b.exchange.age, "edge-a")
    assert age is not None
    assert age < 1.2
    a.count()
    wait(lambda: b.heard_of("edge-a") == {}, 1, "empty report")


def test_a_lost_report_is_healed_by_the_next(sites: tuple[Site, Site], joined: Pair) -> None:
    a, b = sites
    a.count(backend={W: 1})
    wait(lambda: b.heard_of("edge-a") == {W: 1}, 1, "report")
    joined.cut()
    time.sleep(0.25)
    a.count(backend={W: 2})
    time.sleep(0.3)
    assert b.heard_of("edge-a") == {W: 1}  # the last word holds
    joined.mend()
    wait(lambda: b.heard_of("edge-a") == {W: 2}, 2, "repeat")


def test_a_burst_costs_five_reports_a_second(sites: tuple[Site, Site]) -> None:
    a, b = sites
    for n in range(1, 201):
        a.count(backend={W: n})
        time.sleep(0.01)
    assert a.exchange.sent <= 14
    wait(lambda: b.heard_of("edge-a") == {W: 200}, 1, "the last count")


def test_what_an_unreachable_site_said_is_forgotten(sites: tuple[Site, Site]) -> None:
    a, b = sites
    a.count(backend={W: 3})
    wait(lambda: b.heard_of("edge-a") == {W: 3}, 1, "report")
    b.place.call(b.exchange.set_peers, {})
    assert b.heard_of("edge-a") is None
    assert [site for _, site in b.news] == ["edge-a", "edge-a"]


def test_forged_misdirected_and_old_reports_are_refused(
    sites: tuple[Site, Site], authority: Authority, tmp_path: Path
) -> None:
    a, b = sites
    mallory = load(Authority().directory(tmp_path / "m", "edge-a"), "demo", "edge-a")
    other = load(authority.directory(tmp_path / "c", "edge-c"), "demo", "edge-c")
    version = Version(9, 9)
    sign = a.identity.sign
    cases = [
        (Reason.BAD_SIGNATURE, encode("demo", "edge-a", "edge-b", version, {W: 9}, mallory.sign)),
        (Reason.BAD_SIGNATURE, encode("demo", "edge-a", "edge-b", version, {W: 9}, other.sign)),
        (Reason.BAD_SIGNATURE, encode("demo", "edge-c", "edge-b", version, {W: 9}, other.sign)),
        (Reason.BAD_SIGNATURE, encode("demo", "edge-a", "edge-c", version, {W: 9}, sign)),
        (Reason.BAD_SIGNATURE, encode("other", "edge-a", "edge-b", version, {W: 9}, sign)),
        (Reason.BAD_FRAME, [b"", b"x" * 63, b"x" * 1500]),
        (Reason.NONE, encode("demo", "edge-a", "edge-b", version, {W: 8}, sign)),
        (Reason.STALE, encode("demo", "edge-a", "edge-b", version, {W: 7}, sign)),
        (Reason.STALE, encode("demo", "edge-a", "edge-b", Version(8, 99), {W: 7}, sign)),
    ]
    for reason, datagrams in cases:
        before = b.exchange.refused[reason]

        def send(datagrams: list[bytes] = datagrams) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((a.place.overlay, 0))
                for datagram in datagrams:
                    sock.sendto(datagram, (b.place.overlay, PORT))

        a.place.call(send)
        if reason is Reason.NONE:
            wait(lambda: b.heard_of("edge-a") == {W: 8}, 1, "the good one")
        else:
            want = before + len(datagrams)
            wait(lambda want=want, reason=reason: b.exchange.refused[reason] == want, 1, reason.word)  # type: ignore[misc]
    assert b.heard_of("edge-a") == {W: 8}


def test_a_flood_is_limited_before_it_costs_signatures(sites: tuple[Site, Site]) -> None:
    a, b = sites

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((a.place.overlay, 0))
            for number in range(1000):
                sock.sendto(b"x" * 200, (b.place.overlay, PORT))
                if number % 50 == 0:
                    time.sleep(0.005)  # a busy receiver's socket would drop the rest unseen

    a.place.call(flood)
    time.sleep(0.5)
    assert b.exchange.refused[Reason.BAD_FRAME] < 150
    assert b.exchange.refused[Reason.RATE_LIMITED] > 100


def test_strangers_are_not_even_looked_at(sites: tuple[Site, Site], joined: Pair) -> None:
    from tests.integration.control.netns import ip

    a, b = sites
    ip("-n", joined.a.name, "addr", "add", "100.64.77.9/32", "dev", "lo")
    ip("-n", joined.b.name, "route", "add", "100.64.77.9/32", "via", "inet6", "fe80::a", "dev", joined.b.device)
    datagram = encode("demo", "edge-a", "edge-b", Version(9, 9), {W: 9}, a.identity.sign)[0]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("100.64.77.9", 0))
            sock.sendto(datagram, (b.place.overlay, PORT))

    before = b.exchange.refused[Reason.NOT_OVERLAY]
    a.place.call(send)
    wait(lambda: b.exchange.refused[Reason.NOT_OVERLAY] == before + 1, 1, "refusal")


# ---- health over the overlay ------------------------------------------------------------------------------------


def test_health_of_a_server_across_the_link(joined: Pair) -> None:
    """A real server in the other namespace: seen, its death seen, and every probe marked as the controller's own."""
    changes: list[HealthState] = []

    async def serve() -> asyncio.Server:
        return await asyncio.start_server(lambda _r, writer: writer.close(), joined.b.overlay, 9090)

    joined.a.nft(
        "table inet trial {",
        f" chain leave {{ type filter hook output priority 0; tcp dport 9090 mark != {SOCKET_MARK} reject; }}",
        "}",
    )
    server = joined.b.do(serve())
    monitor = HealthMonitor(lambda _workload, state: changes.append(state))
    health = Health(interval_s=0.2, timeout_s=0.3, fall=2, rise=1)
    joined.a.call(monitor.set_targets, {W: CheckedWorkload(joined.b.overlay, 9090, health)})
    wait(lambda: len(changes) == 1, 2, "healthy")
    assert changes[0].healthy
    joined.b.call(server.close)
    took = wait(lambda: len(changes) == 2, 2, "dead")
    print(f"a closed socket across the link is seen after {took * 1000:.0f} ms (interval 200 ms, fall 2)")
    assert changes[1].cause == "Connection refused"
    joined.cut()
    joined.a.do(asyncio.sleep(0.8))
    assert monitor.snapshot()[W].cause == "no answer within 0.3 s"
    joined.a.do(monitor.close())
