"""Which address family reaches which workload, and what the client sees."""

from __future__ import annotations

import socket

import pytest

from skedge.core.reasons import Reason

from .kit import FAR4, FAR6, Site, candidate, connect

V6, V4 = socket.AF_INET6, socket.AF_INET


def v6only() -> socket.socket:
    made = socket.socket(V6)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.settimeout(5)
    return made


@pytest.mark.parametrize(
    ("family", "listener", "asked", "servers", "reached"),
    [
        (V4, "127.0.0.1", "127.0.0.1", ["127.0.0.1"], "127.0.0.1"),
        (V4, "127.0.0.1", "0.0.0.0", ["127.0.0.1"], "127.0.0.1"),
        (V4, "10.77.0.1", "10.77.0.1", [FAR4[0]], FAR4[0]),
        (V4, "127.0.0.1", "127.0.0.1", [FAR4[0], FAR6[0]], FAR4[0]),
        (V6, "::1", "::1", [FAR6[0]], FAR6[0]),
        (V6, "::1", "::", ["::1"], "::1"),
        (V6, "::1", "::1", [FAR4[0], FAR6[0]], FAR6[0]),  # a native client stays native
        (V6, "::1", "::1", ["127.0.0.1"], "::ffff:127.0.0.1"),  # bound on 127.0.0.1 only: goes as mapped
        (V6, "127.0.0.1", "::ffff:127.0.0.1", ["127.0.0.1"], "::ffff:127.0.0.1"),
        (V6, "127.0.0.1", "::ffff:127.0.0.1", [FAR4[0], FAR6[0]], f"::ffff:{FAR4[0]}"),
        (V6, "127.0.0.1", "::ffff:127.0.0.1", [FAR6[0]], FAR6[0]),
    ],
)
def test_a_client_reaches_a_workload_and_sees_the_listener(
    site: Site, family: int, listener: str, asked: str, servers: list[str], reached: str
) -> None:
    targets = [site.server(address).target for address in servers]
    site.service([candidate("b", 0, *targets)], (listener, 8080))
    with connect(asked, 8080, family) as client:
        shown = "::ffff:" + listener if family == V6 and ":" not in listener else listener
        assert client.getpeername()[:2] == (shown, 8080)
        assert client.getsockname()[0] == reached  # one host: the kernel takes the same source as destination
        client.sendall(b"x")
        assert site.open("b") == 1
    assert site.open("b") == 0


def test_a_v6only_socket_takes_the_workload_it_can_reach(site: Site) -> None:
    cheap, dear = site.server("127.0.0.1"), site.server(FAR6[0])
    site.service([candidate("a", 0, cheap.target), candidate("b", 500, dear.target)], ("::1", 8080))
    with v6only() as only:
        only.connect(("::1", 8080))
        assert only.getsockname()[0] == FAR6[0]
    with connect("::1", 8080) as dual:
        assert dual.getsockname()[0] == "::ffff:127.0.0.1"


@pytest.mark.parametrize(("family", "listener", "server"), [("v6only", "::1", "127.0.0.1"), ("v4", "127.0.0.1", "::1")])
def test_no_workload_of_the_family_is_a_refusal_with_its_reason(
    site: Site, family: str, listener: str, server: str
) -> None:
    site.service([candidate("a", 0, site.server(server).target)], (listener, 8080))
    before = site.engine.drops().get(Reason.NO_FAMILY, 0)
    with v6only() if family == "v6only" else socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((listener, 8080))
    assert site.engine.drops()[Reason.NO_FAMILY] == before + 1
    assert site.open() == 0


def test_a_v6only_socket_and_a_mapped_listener_are_none_of_our_business(site: Site) -> None:
    site.service([candidate("a", 0, site.server().target)], ("127.0.0.1", 8080))
    with v6only() as client, pytest.raises(OSError, match="unreachable"):
        client.connect(("::ffff:127.0.0.1", 8080))
    assert site.count("a").chosen == 0


def test_one_socket_goes_over_both_families_in_turn(site: Site) -> None:
    """A dual socket that was sent to a mapped address stays with IPv4: the kernel would send nothing over IPv6."""
    gone = site.server("127.0.0.1")
    there = [site.server(address).target for address in (FAR4[0], FAR6[0])]
    only6 = site.server(FAR6[1]).target
    site.service([candidate("a", 0, gone.target), candidate("b", 10, *there), candidate("c", 5, only6)], ("::1", 8080))
    gone.close()
    with socket.socket(V6) as client:
        with pytest.raises(ConnectionRefusedError):
            client.connect(("::1", 8080))
        client.connect(("::1", 8080))
        client.sendall(b"x")
        assert client.getpeername()[:2] == ("::1", 8080)
        assert (site.open("a"), site.open("b")) == (0, 1)
    assert site.open() == 0


def test_foreign_destinations_are_left_alone(site: Site) -> None:
    site.service([candidate("a", 0, site.server().target)], ("127.0.0.1", 8080))
    foreign = site.server("127.0.0.1")
    with connect(foreign.target.address, foreign.target.port) as client:
        assert client.getpeername() == (foreign.target.address, foreign.target.port)
    with pytest.raises(ConnectionRefusedError):
        connect("10.77.0.1", 8080)  # the port has a listener, but at another address
    assert site.count("a").chosen == 0
