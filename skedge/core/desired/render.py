"""One line of text for a value of desired state, as `skedge plan` prints it."""

from __future__ import annotations

import zlib
from functools import singledispatch

from skedge.core.names import address_port
from skedge.core.objects import (
    Candidate,
    ChainGroup,
    Endpoint,
    EndpointKey,
    KernelRoute,
    LinkDevice,
    ListenerKey,
    ListenerTarget,
    NftChain,
    RouteUse,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.reasons import Reason

_NAT = " not on this host"
_USES = {
    RouteUse.OVERLAY: "",
    RouteUse.TRANSIT: ", LAN clients in transit",
    RouteUse.CLIENTS: ", LAN clients",
}


@singledispatch
def describe(value: object) -> str:
    """Return the value as one line; "" for None."""
    return "" if value is None else str(value)


@describe.register
def _(value: LinkDevice) -> str:
    parts = [f"{value.link} {value.transport.value}"]
    if value.remote or value.local:
        there = f" to {value.remote_port}" if value.remote_port else ""
        parts.append(f"{value.local or '*'} -> {value.remote or '*'} port {value.port}{there}")
    if value.keys:
        parts.append("far end's key " + " or ".join(key[:8] for key in value.keys))
    if value.vni:
        parts.append(f"vni {value.vni}")
    if value.underlay:
        parts.append(f"on {value.underlay}")
    if value.mtu:
        parts.append(f"mtu {value.mtu}")
    return ", ".join(parts)


@describe.register
def _(value: KernelRoute) -> str:
    ways = [
        " + ".join(f"via {hop.via} dev {hop.device}" for hop in hops) for hops in (value.next_hops, value.alternates)
    ]
    return f"{ways[0]} src {value.source}{_USES[value.use]}" + (f", else {ways[1]}" if ways[1] else "")


@describe.register
def _(value: ServiceKey) -> str:
    return f"{value.name}/{value.protocol.value}"


@describe.register
def _(value: ListenerTarget) -> str:
    shares = value.services
    turns = "+".join(f"{describe(key)}*{turns}" for key, turns in shares.items())
    text = turns if value.schedule else describe(value.service)
    text = f"{text}, clients kept {value.affinity_s} s" if value.affinity_s else text
    return f"{text}, with their own addresses" if value.preserves_src else text


@describe.register
def _(value: ListenerKey) -> str:
    return f"{address_port(value.address, value.port)}/{value.protocol.value}"


@describe.register
def _(value: EndpointKey) -> str:
    return f"{value.port}/{value.protocol.value}"


@describe.register
def _(value: Endpoint) -> str:
    return f"{value.workload} at {address_port(value.host, value.port)}{_NAT if value.off_host else ''}"


@describe.register
def _(value: Target) -> str:
    return address_port(value.address, value.port)


@describe.register
def _(value: Candidate) -> str:
    terms = " ".join(f"{name} {number}" for name, number in value.terms().items())
    parts = [f"{value.workload} cost {value.path_cost} {terms} others {value.others}"]
    parts += [f"at {describe(target)}" for target in (value.target4, value.target6) if target is not None]
    if value.off_host:
        parts[-1] += _NAT
    if value.out is not Reason.NONE:
        parts.append(f"out: {value.out.word}")
    return " ".join(parts)


@describe.register
def _(value: ServiceTable) -> str:
    return "; ".join(describe(candidate) for candidate in value.candidates) or "no workloads"


@describe.register
def _(value: NftChain) -> str:
    where = f" at {value.hook} {value.priority}" if value.hook else ""
    other = f", policy {value.policy}" if value.policy not in ("", "accept") else ""
    comments = "\n".join(rule.comment for rule in value.rules)
    return f"{value.name}{where}{other}: {len(value.rules)} rules {zlib.crc32(comments.encode()):08x}"


@describe.register
def _(value: ChainGroup) -> str:
    parts = [describe(chain) for chain in value.chains]
    parts += [f"{one.name} {{{one.type}}}" for one in value.sets]
    if value.counters:
        parts.append(f"{len(value.counters)} counters")
    return "; ".join(parts)
