"""The link check beside another engine's: what it lets through, and what stays its own (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.packet_check import LEFT
from tests.kit.rows import configure_check

from .kit import client
from .packets import ACK, RST, ip, tcp, udp
from .test_verdicts import BOTH, DROP, FAR, FARTHER, PASS, TCP_EP, UDP_EP, Bench, bench, standing  # noqa: F401

ELSEWHERE_EP = TCP_EP + 9


@pytest.fixture
def yielding(bench: Bench) -> Iterator[Bench]:  # noqa: F811
    bench.site.filter.give_way()
    yield bench
    configure_check(bench.site.filter, bench.site.config)


@pytest.fixture
def beside(bench: Bench) -> Iterator[Bench]:  # noqa: F811
    bench.site.filter.beside = LEFT
    configure_check(bench.site.filter, bench.site.config)
    yield bench
    bench.site.filter.beside = 0
    configure_check(bench.site.filter, bench.site.config)


@BOTH
def test_what_another_engine_checks_passes_uncounted(yielding: Bench, v: int) -> None:
    far, own = yielding.overlay(FARTHER)[v], yielding.own[v]
    for l4 in (
        *(tcp(40000, port) for port in (22, TCP_EP, TCP_EP + 5)),
        *(tcp(40000, 22, flags) for flags in (ACK, RST)),
        *(udp(40000, port) for port in (53, UDP_EP)),
    ):
        assert yielding.verdict(ip(far, own, l4)) == (PASS, None)
    outside = {4: "192.0.2.1", 6: "2001:db8::1"}[v]
    assert yielding.verdict(ip(outside, own, tcp(1, 22))) == (PASS, None)
    assert yielding.site.filter.configuration() != yielding.site.filter.wanted(yielding.site.config), (
        "it is the check again once it is configured"
    )


@BOTH
def test_a_new_connection_is_not_handed_to_the_workload(yielding: Bench, v: int) -> None:
    """Else the socket would have it, and the other engine's translation would come too late."""
    before = yielding.site.filter.drops().get(Reason.WORKLOAD_CLOSED, 0)
    assert yielding.verdict(ip(yielding.overlay(FAR)[v], yielding.own[v], tcp(40000, TCP_EP))) == (PASS, None)
    assert yielding.site.filter.drops().get(Reason.WORKLOAD_CLOSED, 0) == before, "no workload was looked for"


def test_flows_of_the_lan_stay_this_engines(yielding: Bench) -> None:
    """Here no NAT is loaded, which would have taken them: that it was called is seen by what is counted."""
    key = EndpointKey(ELSEWHERE_EP)
    yielding.site.endpoints.put(key, Endpoint(WorkloadId("solo", "m"), "10.91.0.9", 80, off_host=True))
    try:
        for l4 in (tcp(40000, ELSEWHERE_EP), tcp(40000, ELSEWHERE_EP, ACK)):
            assert yielding.verdict(ip(yielding.overlay(FAR)[4], yielding.own[4], l4))[0] == PASS
    finally:
        yielding.site.endpoints.delete(key)


@BOTH
def test_answers_to_what_the_other_engine_translates_pass_where_no_socket_is(beside: Bench, v: int) -> None:
    far, own = beside.overlay(FAR)[v], beside.own[v]
    assert beside.verdict(ip(far, own, udp(61001, 40000))) == (PASS, None)
    assert beside.verdict(ip(far, own, udp(1024, 40000))) == (DROP, Reason.NOT_PUBLISHED), "only those of workloads"
    bound = beside.keep(beside.site.ns(client, own, socket.SOCK_DGRAM))
    bound.bind((own, 0))
    answer = udp(61001, bound.getsockname()[1])
    assert beside.verdict(ip(far, own, answer)) == (DROP, Reason.NO_SOCKET), "never to some other service of the host"


@BOTH
def test_default_deny_holds_beside_what_is_left_of_the_other_engine(beside: Bench, v: int) -> None:
    far, own = beside.overlay(FARTHER)[v], beside.own[v]
    for l4, reason in (
        (tcp(40000, 22), Reason.NOT_PUBLISHED),
        (tcp(40000, 22, ACK), Reason.NO_SOCKET),
        (udp(40000, 53), Reason.NOT_PUBLISHED),
    ):
        assert beside.verdict(ip(far, own, l4)) == (DROP, reason)
    assert beside.site.endpoints.read()[EndpointKey(UDP_EP, Protocol.UDP)].port
