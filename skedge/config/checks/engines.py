"""What a site may not ask for when its engine is given: one sentence each, with the way out.

With ``engine: auto`` the host decides, so the same is told at run time (`core.reasons.Reason.ENGINE`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from skedge.config.addresses import parse_host
from skedge.config.schema import ListenerSpec
from skedge.core.abilities import ABILITIES
from skedge.core.model import Affinity, EngineKind, Policy

if TYPE_CHECKING:
    from skedge.config.parsed import ParsedFile

Problem = tuple[str, str]


def engine_limits(file: ParsedFile) -> Iterator[Problem]:
    """Yield what the engine that is given cannot do."""
    engine = file.spec.engine
    can = ABILITIES[engine]
    for path, listener in file.listeners:
        yield from _listener(path, listener, engine)
    services = {(name, listener.protocol) for _, listener in file.listeners for name in listener.names}
    for path, connector in file.connectors:
        if not _loopback(connector.host):
            continue
        if not can.loopback6_endpoints and parse_host(connector.host) == parse_host("::1"):
            way_out = "bind the workload to another address, or to 127.0.0.1"
            yield f"{path}.host", f"::1 cannot be reached from outside with engine: {engine}; {way_out}"
        elif not can.loopback_workloads and (connector.service, connector.protocol) in services:
            why = f"clients of this site cannot be led to {connector.host} with engine: {engine}"
            yield f"{path}.host", f"{why}; bind the workload to another address of this host"


def _listener(path: str, listener: ListenerSpec, engine: EngineKind) -> Iterator[Problem]:
    can = ABILITIES[engine]
    if not can.loopback_listeners and _loopback(listener.address):
        way_out = "give another address of this host, which its programs can use too"
        yield f"{path}.address", f"{listener.address} cannot be listened at with engine: {engine}; {way_out}"
    weighted = listener.affinity is Affinity.CLIENT and listener.policy is Policy.WEIGHTED
    if weighted and not can.affinity_across_services:
        why = f"policy: weighted leads a client's connections to several services with engine: {engine}"
        yield f"{path}.affinity", f"{why}; remove it, or give another policy"


def _loopback(text: str) -> bool:
    address = parse_host(text)
    return not isinstance(address, str) and address.is_loopback
