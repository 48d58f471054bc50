"""Packets whose whole sum a device has made (CHECKSUM_COMPLETE) keep a right one, whatever is changed on them.

The kernel's own test run makes such a sum and compares it afterwards (since Linux 6.16; without, these are skipped).
With a wrong one the receiver sums the packet up once more, or loses it (test_real_sums.py); the kernel's log gets a
"hw csum failure". Packets that get shorter are not here: their sum the kernel forgets.
"""

from __future__ import annotations

import errno
import inspect
import itertools
import socket
from collections.abc import Callable, Iterator

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.dataplane.bpf.syscall import BpfError
from tests.integration.lan import test_packets as plain
from tests.integration.lan.kit import CLIENT, HOST, LISTEN, OK, REDIRECT, Bench, far_overlay, remote, serve
from tests.integration.links.kit import listen
from tests.integration.links.packets import ICMP, ICMP6, L4, frame, ip, udp

COMPLETE = 4  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE
BOTH = pytest.mark.parametrize("v", [4, 6])
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
PORT = 61300
VALUES = {
    "v": (4, 6),
    "kind": (Protocol.TCP, Protocol.UDP),
    "options": (plain.MSS_FIRST, b"\1" + plain.MSS_FIRST + b"\1\1\1"),
}


@pytest.fixture
def complete(bench: Bench) -> Iterator[Bench]:
    bench.test_flags = COMPLETE
    try:
        bench.lan(ip(CLIENT[4], HOST[4], udp(1, 2)))
    except BpfError as error:
        bench.test_flags = 0
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this kernel's test run makes no sums over packets")
    yield bench
    bench.test_flags = 0


def cases() -> Iterator:
    for function in (
        plain.test_to_another_site_and_back,
        plain.test_to_a_machine_of_the_lan_and_back,
        plain.test_an_endpoint_of_ours_that_is_a_machine_of_the_lan,
        plain.test_the_segment_size_fits_the_way,
        plain.test_errors_reach_who_sent_the_original,
        plain.test_an_error_about_a_fragment_reaches_who_sent_it,
    ):
        names = [name for name in inspect.signature(function).parameters if name != "bench"]
        for number, values in enumerate(itertools.product(*(VALUES[name] for name in names))):
            yield pytest.param(
                function,
                dict(zip(names, values, strict=True)),
                id=f"{function.__name__.removeprefix('test_')}-{number}",
            )


@pytest.mark.parametrize(("case", "options"), list(cases()))
def test_what_is_translated(complete: Bench, case: Callable[..., None], options: dict[str, object]) -> None:
    case(complete, **options)


def pieces(v: int, source: str, to: str, sport: int, dport: int) -> tuple[bytes, bytes]:
    """Return the fragments of a datagram."""
    first = ip(source, to, udp(sport, dport, bytes(range(1, 41))), fragment=0x2000 if v == 4 else 1)
    return first, ip(source, to, L4(17, b"others" * 4, None), fragment=6 if v == 4 else 48)


@BOTH
def test_a_datagram_without_a_checksum(complete: Bench, v: int) -> None:
    """Over IPv6, too, tunnels may do without (RFC 6935)."""
    serve(complete, v, Protocol.UDP)
    verdict, out = complete.lan(ip(CLIENT[v], HOST[v], L4(17, udp(40000, LISTEN).data, None)))
    assert (verdict, out[26:28] if v == 4 else out[46:48]) == (REDIRECT, bytes(2))


@BOTH
def test_fragments_of_a_flow(complete: Bench, v: int) -> None:
    serve(complete, v, Protocol.UDP)
    for one in pieces(v, CLIENT[v], HOST[v], 40000, LISTEN):
        assert complete.lan(one)[0] == REDIRECT


@pytest.fixture
def workload(complete: Bench, v: int) -> Iterator[socket.socket]:
    made = complete.site.ns(listen, LOOPBACK[v], 0, socket.SOCK_DGRAM)
    yield made
    made.close()


@BOTH
def test_a_workload_of_the_host_that_is_reached_over_lo(complete: Bench, v: int, workload: socket.socket) -> None:
    near = remote("near", 0, (LOOPBACK[v], workload.getsockname()[1]), own_site=True)
    complete.site.service([near], (HOST[v], LISTEN), protocol=Protocol.UDP)
    verdict, out = complete.lan(ip(CLIENT[v], HOST[v], udp(40000, LISTEN)))
    assert verdict == REDIRECT
    source, destination = (socket.inet_ntop({4: 2, 6: 10}[v], part) for part in plain.address(out, v))
    sport, dport = plain.ports(out, v)
    back = complete.run("lan_loop_v1", 1, frame(bytes(6), bytes(6), ip(destination, source, udp(dport, sport))))
    assert (back.retval, back.data[14:]) == (REDIRECT, ip(HOST[v], CLIENT[v], udp(LISTEN, 40000), hops=63))


@pytest.fixture(params=["loopback", "address"])
def published(complete: Bench, v: int, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a workload of the host that is published at PORT, with its port."""
    host = {"loopback": LOOPBACK, "address": HOST}[request.param][v]
    key = EndpointKey(PORT, Protocol.UDP)
    with complete.site.ns(listen, host, 0, socket.SOCK_DGRAM) as server:
        complete.site.endpoints.put(key, Endpoint(WorkloadId("edge", "u"), host, server.getsockname()[1]))
        yield host
        complete.site.endpoints.delete(key)


@BOTH
def test_fragments_from_a_link(complete: Bench, v: int, published: str) -> None:
    for one in pieces(v, far_overlay()[v], complete.site.overlay(v), 40000, PORT):
        verdict, out = complete.link(one)
        assert verdict == (REDIRECT if published == "::1" else OK)
        assert plain.address(out, v)[1] == socket.inet_pton({4: 2, 6: 10}[v], published)


@BOTH
def test_errors_about_what_a_workload_of_the_host_sent(complete: Bench, v: int, published: str) -> None:
    own, far = complete.site.overlay(v), far_overlay()[v]
    quoted = ip(own, far, udp(PORT, 40000))
    error = L4(ICMP, b"\3\4\0\0\0\0\5\0" + quoted, 2) if v == 4 else L4(ICMP6, b"\2\0\0\0\0\0\5\0" + quoted, 2)
    verdict, out = complete.link(ip(far, own, error))
    assert verdict == OK
    assert plain.address(out[28 if v == 4 else 48 :], v)[0] == socket.inet_pton({4: 2, 6: 10}[v], published)


@BOTH
def test_answers_that_leave_by_a_link(complete: Bench, v: int, published: str) -> None:
    own, far = complete.site.overlay(v), far_overlay()[v]
    port = complete.site.endpoints.read()[EndpointKey(PORT, Protocol.UDP)].port
    for answer in (udp(port, 40000), L4(17, udp(port, 40000).data, None)):
        sent = frame(complete.peer_mac, complete.link_mac, ip(published, far, answer))
        result = complete.run("link_egress_v1", complete.link_index, sent)
        assert (result.retval, result.data[14:]) == (OK, ip(own, far, L4(17, udp(PORT, 40000).data, answer.sum_at)))
