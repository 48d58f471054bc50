"""Samples for the driver contract that hold for the fakes and for the real drivers alike."""

from __future__ import annotations

from dataclasses import replace

from skedge.core import names
from skedge.core.model import LinkId, Protocol, WorkloadId
from skedge.core.names import GATEWAY4
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute, LinkDevice, NextHop, RouteUse
from skedge.core.transports import Transport

NETWORK = "contract"
OWN4, OWN6 = "100.64.0.1", "fd00:64::1"
CLIENTS, TRANSIT = RouteUse.CLIENTS, RouteUse.TRANSIT
VXLAN, DIRECT = "sk-far-1", "sk-far-2"


def _device(name: str) -> LinkDevice:
    return LinkDevice(
        link=LinkId("far", "solo", name),
        transport=Transport.VXLAN,
        link_local=str(names.link_local(NETWORK, "solo")),
        peer_link_local=str(names.link_local(NETWORK, "far")),
        vni=4711,
        local="10.91.0.1",
        remote="10.91.0.2",
        port=4790,
    )


def links(underlay: str) -> tuple[dict, dict]:
    vxlan = _device("main")
    direct = replace(
        _device("second"), transport=Transport.DIRECT, vni=0, local="", remote="", port=0, underlay=underlay
    )
    good = {
        VXLAN: (vxlan, replace(vxlan, remote="10.91.0.3", mtu=1400)),
        DIRECT: (direct, replace(direct, mtu=1300)),
    }
    refused = {
        "sk-far-3": replace(vxlan, transport=Transport.WIREGUARD),
        "eth7": vxlan,
    }
    return good, refused


def routes(first: str, second: str) -> tuple[dict, dict]:
    one, two = NextHop(first, "fe80::1"), NextHop(second, "fe80::2")
    one4, two4 = NextHop(first, GATEWAY4), NextHop(second, GATEWAY4)
    good = {
        "100.64.0.2/32": (KernelRoute((one4,), OWN4), KernelRoute((one4, two4), OWN4)),
        "100.64.0.3/32": (KernelRoute((one4, two4), OWN4), KernelRoute((two4,), OWN4)),
        "100.64.0.4/32": (KernelRoute((one,), OWN4), KernelRoute((one4, two4), OWN4)),
        "fd00:64::2/128": (KernelRoute((one,), OWN6), KernelRoute((one, two), OWN6)),
        "fd00:64::3/128": (KernelRoute((one, two), OWN6), KernelRoute((two,), OWN6)),
        "10.33.0.0/16": (KernelRoute((one4, two4), OWN4, CLIENTS), KernelRoute((two4,), OWN4, TRANSIT)),
        "10.35.7.1/32": (KernelRoute((one4,), OWN4, TRANSIT), KernelRoute((one4, two4), OWN4, CLIENTS)),
        "100.64.0.5/32": (KernelRoute((one4,), OWN4, alternates=(two4,)), KernelRoute((two4,), OWN4)),
        "100.64.0.6/32": (KernelRoute((one4,), OWN4), KernelRoute((two4,), OWN4, alternates=(one4,))),
        "fd00:64::5/128": (KernelRoute((one,), OWN6), KernelRoute((two,), OWN6, alternates=(one,))),
        "fd00:64::6/128": (KernelRoute((two,), OWN6, alternates=(one,)), KernelRoute((one, two), OWN6)),
        "10.36.0.0/16": (
            KernelRoute((one4,), OWN4, TRANSIT, (two4,)),
            KernelRoute((two4,), OWN4, CLIENTS, alternates=(one4,)),
        ),
        "fd33::/48": (KernelRoute((one,), OWN6, TRANSIT), KernelRoute((one, two), OWN6, CLIENTS)),
    }
    refused = {
        "100.64.0.9/32": KernelRoute((), OWN4),
        "10.34.0.0/16": KernelRoute((NextHop("sk-none", GATEWAY4),), OWN4, CLIENTS),
        "100.64.0.8/32": KernelRoute((NextHop("sk-none", "fe80::1"),), OWN4),
    }
    return good, refused


def addresses() -> tuple[dict, dict]:
    return {f"{OWN4}/32": ("lo", "lo"), f"{OWN6}/128": ("lo", "lo")}, {"100.64.0.7/32": "eth0"}


def endpoints() -> tuple[dict, dict]:
    one, two = WorkloadId("solo", "one"), WorkloadId("solo", "two")
    good = {
        EndpointKey(61000): (Endpoint(one, "127.0.0.1", 9090), Endpoint(one, "::1", 9091)),
        EndpointKey(61001): (Endpoint(two, "127.0.0.1", 9090), Endpoint(two, "10.91.0.1", 80)),
        EndpointKey(61000, Protocol.UDP): (Endpoint(one, "127.0.0.1", 53), Endpoint(one, "fd00:64::1", 53)),
    }
    refused = {EndpointKey(61005): Endpoint(one, "db.example", 5432)}
    return good, refused
