from __future__ import annotations

import pytest

from skedge.core.desired.render import describe
from skedge.core.model import LinkId, Protocol, WorkloadId
from skedge.core.objects import (
    Candidate,
    Endpoint,
    EndpointKey,
    KernelRoute,
    LinkDevice,
    ListenerKey,
    ListenerTarget,
    NextHop,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.reasons import Reason
from skedge.core.transports import Transport

AB = LinkId("a", "b")
WORKLOAD = WorkloadId("a", "web")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (Endpoint(WORKLOAD, "10.0.0.9", 80, off_host=True), "a/web at 10.0.0.9:80 not on this host"),
        (
            Candidate(WORKLOAD, 0, capacity=1, target4=Target("10.0.0.9", 80), own_site=True, off_host=True),
            "a/web cost 0 capacity 1 others 0 at 10.0.0.9:80 not on this host",
        ),
        ("lo", "lo"),
        (
            LinkDevice(AB, Transport.VXLAN, "fe80::1", "fe80::2", 1400, 7, "10.0.0.1", "10.0.0.2", 4790),
            "a--b vxlan, 10.0.0.1 -> 10.0.0.2 port 4790, vni 7, mtu 1400",
        ),
        (LinkDevice(AB, Transport.VXLAN, "", "", vni=7, remote="r", port=1), "a--b vxlan, * -> r port 1, vni 7"),
        (LinkDevice(AB, Transport.DIRECT, "fe80::1", "fe80::2", underlay="eth1"), "a--b direct, on eth1"),
        (
            KernelRoute((NextHop("sk-b", "fe80::2"), NextHop("sk-c", "fe80::3")), "100.64.0.1"),
            "via fe80::2 dev sk-b + via fe80::3 dev sk-c src 100.64.0.1",
        ),
        (ServiceKey("dns", Protocol.UDP), "dns/udp"),
        (ListenerKey("::1", 80), "[::1]:80/tcp"),
        (ListenerTarget(ServiceKey("web")), "web/tcp"),
        (
            ListenerTarget(ServiceKey("a"), (ServiceKey("a"), ServiceKey("b"), ServiceKey("a")), 60),
            "a/tcp*2+b/tcp*1, clients kept 60 s",
        ),
        (EndpointKey(61000), "61000/tcp"),
        (Endpoint(WORKLOAD, "::1", 9090), "a/web at [::1]:9090"),
        (ServiceTable(), "no workloads"),
        (
            ServiceTable(
                (
                    Candidate(
                        WORKLOAD, 3, capacity=2, others=1, target4=Target("10.0.0.1", 5), target6=Target("::1", 6)
                    ),
                    Candidate(WORKLOAD, 3, capacity=2, out=Reason.DRAINED),
                )
            ),
            "a/web cost 3 capacity 2 others 1 at 10.0.0.1:5 at [::1]:6; a/web cost 3 capacity 2 others 0 out: drained",
        ),
    ],
)
def test_a_value_is_one_line(value: object, text: str) -> None:
    assert describe(value) == text
