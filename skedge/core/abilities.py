"""What each balancing engine can do, as one value: the only place that knows engines by name.

Everything else asks for an ability, so a new engine is one row here and its drivers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skedge.core.model import EngineKind


@dataclass(frozen=True, slots=True)
class Abilities:
    """What an engine serves, and what it needs of the host.

    ``loopback_listeners``: a listener may be at a loopback address. ``whole_prefixes``: a listener on every address is
    also on those that are the host's by a local route alone (AnyIP, 127.0.0.0/8). ``loopback_workloads``: clients of
    this site may be led to a workload at one. ``loopback6_endpoints``: clients of other sites may be led to a workload
    at ``::1``. ``off_host``: workloads may be on another machine than this host. ``preserves_src``: LAN clients of
    other sites may come under their own addresses. ``affinity_across_services``: a client keeps its workload also where
    a listener leads in turn to several services. ``replies_forwarded``: the host must forward packets, because replies
    to LAN clients pass through it as foreign ones. ``bytecode``: it consists of programs that the loader puts into the
    kernel.
    """

    loopback_listeners: bool
    whole_prefixes: bool
    loopback_workloads: bool
    loopback6_endpoints: bool
    off_host: bool
    preserves_src: bool
    affinity_across_services: bool
    replies_forwarded: bool
    bytecode: bool


_EBPF = Abilities(
    loopback_listeners=True,
    whole_prefixes=True,
    loopback_workloads=True,
    loopback6_endpoints=True,
    off_host=True,
    preserves_src=True,
    affinity_across_services=True,
    replies_forwarded=False,
    bytecode=True,
)

_IPVS = Abilities(
    loopback_listeners=False,
    whole_prefixes=False,
    loopback_workloads=False,
    loopback6_endpoints=False,
    off_host=False,
    preserves_src=False,  # its default deny knows sites only
    affinity_across_services=False,
    replies_forwarded=True,
    bytecode=False,
)

ABILITIES: Mapping[EngineKind, Abilities] = {
    EngineKind.AUTO: _EBPF,  # nothing is refused before the host has decided
    EngineKind.EBPF: _EBPF,
    EngineKind.IPVS: _IPVS,
}
