"""Two processors at one flow: its state words are said first and looked at then, and what frees comes last."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.integration.links.packets import ACK, FIN, SYN, ip, tcp

from .kit import CLIENT, HOST, LISTEN, Bench, far_overlay
from .racing import Arrival, from_lan, from_link, race
from .test_packets import FAR_PORT, Flow, one_far

BATCH, BATCHES = 50, 40


@pytest.fixture
def swept(bench: Bench) -> Iterator[Bench]:
    """The site, whose flows are swept all the time."""
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            bench.site.flows.sweep()

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        yield bench
    finally:
        done.set()
        thread.join()


def client(bench: Bench, flow: Flow, flags: int) -> Arrival:
    return from_lan(bench, ip(CLIENT[4], HOST[4], tcp(flow.client_port, LISTEN, flags)))


def workload(bench: Bench, flow: Flow, flags: int) -> Arrival:
    return from_link(bench, ip(far_overlay()[4], bench.site.overlay4, tcp(FAR_PORT, flow.port, flags)))


def established(bench: Bench, port: int) -> Flow:
    flow = Flow(bench, 4, port)
    flow.workload(SYN | ACK)
    flow.client(ACK)
    return flow


def test_two_fins_at_the_same_moment(bench: Bench) -> None:
    one_far(bench, 4)
    missed = 0
    for batch in range(BATCHES):
        flows = [established(bench, 20000 + batch * BATCH + number) for number in range(BATCH)]
        race(
            bench,
            [client(bench, flow, FIN | ACK) for flow in flows],
            [workload(bench, flow, FIN | ACK) for flow in flows],
        )
        missed += bench.site.open()
        bench.site.end_flows()
    assert missed == 0, f"{missed} of {BATCH * BATCHES} are still counted"
    assert bench.site.engine.reconcile_counts() == 0
