"""From state to the rows of `core.api.documents`: what `skedge show` answers (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from skedge.core import names
from skedge.core.api.shown import ConnectionRow, DropRow, FlowRow, LinkRow, ListenerRow, RouteRow, ServiceRow, SiteRow
from skedge.core.desired.compute import Desired, link_id
from skedge.core.desired.render import describe
from skedge.core.linkstate.database import Database
from skedge.core.linkstate.messages import Key, Kind
from skedge.core.model import Link, LinkId
from skedge.core.objects import KernelRoute, NextHop
from skedge.core.observed import Flow, Receipt, TunnelFacts
from skedge.core.placement.explain import explain, known_services, listener_rows
from skedge.core.reasons import Reason
from skedge.core.routing import spf
from skedge.core.routing.alternates import Protection
from skedge.daemon.api.filters import Filter
from skedge.daemon.link_status import LinkFacts
from skedge.daemon.state import State

EVERY = Filter()


def sites(
    state: State,
    database: Database,
    *,
    engine: str,
    certificate_days: float,
    software: str,
    engine_why: str = "",
    programs: str = "",
) -> list[SiteRow]:
    """Return one row a known site, this one first; ``programs`` is where those of this host came from."""
    here = state.config.site
    known = {here, *state.network_map.links, *state.network_map.services}
    return [
        _site(state, database, site, (engine, engine_why, programs), certificate_days, software)
        for site in sorted(known, key=lambda site: (site != here, site))
    ]


def _site(
    state: State, database: Database, site: str, engine: tuple[str, str, str], days: float, software: str
) -> SiteRow:
    here = site == state.config.site
    record = state.network_map.links.get(site)
    services = state.full_map().services.get(site)
    entry = database.get(Key(site, Kind.LINKS))
    version = entry.record.version if entry else None
    return SiteRow(
        name=site,
        overlay4=state.config.overlay4 if here else record.overlay4 if record else "",
        overlay6=state.config.overlay6 if here else record.overlay6 if record else "",
        reachable=site in state.rib.paths,
        path_cost=state.rib.path_cost(site),
        drain=state.config.drain if here else bool(record and record.drain),
        overload=state.config.overload if here else bool(record and record.overload),
        workloads=len(services.workloads) if services else 0,
        incarnation=version.incarnation if version else 0,
        sequence=version.sequence if version else 0,
        software=software if here else record.software if record else "",
        here=here,
        prefixes=state.config.prefixes if here else record.prefixes if record else (),
        engine=engine[0] if here else "",
        engine_why=engine[1] if here else "",
        programs=engine[2] if here else "",
        certificate_days=round(days, 1) if here else None,
    )


def links(
    state: State, facts: Mapping[LinkId, LinkFacts], now: float, tunnels: Mapping[LinkId, TunnelFacts]
) -> list[LinkRow]:
    """Return one row a configured link of this site."""
    return [_link(state, link, facts, now, tunnels) for link in state.config.links]


def _link(
    state: State, link: Link, facts: Mapping[LinkId, LinkFacts], now: float, tunnels: Mapping[LinkId, TunnelFacts]
) -> LinkRow:
    identity = link_id(state.config, link)
    tunnel = tunnels.get(identity, TunnelFacts(None))
    fact = facts.get(identity, LinkFacts())
    unused = spf.unused_reason(state.network_map, identity, state.config.site)
    reason = fact.reason if fact.reason is not Reason.NONE else unused
    if fact.up and reason is Reason.PROBE_LOST:
        reason = Reason.NO_ANSWER  # probes are answered; this site gave the link up for its neighbour's silence
    up = reason is Reason.NONE and fact.up
    parts = state.link_costs.get(identity)
    return LinkRow(
        link=str(identity),
        to=link.to,
        device=names.device_name(state.config.network, identity, state.config.site),
        transport=link.transport.value,
        cost=parts.total if parts else link.configured_cost,
        up=up,
        state=fact.adjacency,
        rtt_ms=fact.rtt_us / 1000 if fact.rtt_us else None,
        loss=fact.loss,
        sent=fact.sent,
        received=fact.received,
        since_s=max(0.0, now - fact.since),
        reason=(fact.last_resort if up else reason).word,
        service_costs=dict(link.service_costs),
        handshake_s=tunnel.handshake_s,
        endpoint=tunnel.endpoint or link.remote,
        keys=tunnel.keys,
        unsent=fact.unsent,
        unsent_errno=fact.unsent_errno,
        cost_parts={"base": parts.base, "rtt": parts.rtt, "loss": parts.loss} if parts else {},
    )


def routes(state: State, desired: Desired, installed: Mapping[str, KernelRoute]) -> list[RouteRow]:
    """Return one row an overlay route: what was computed, and whether the kernel has just that."""
    owner: dict[str, str] = {}
    for site, record in state.network_map.links.items():
        owner[f"{record.overlay4}/32"] = owner[f"{record.overlay6}/128"] = site
        owner |= dict.fromkeys((f"{record.nat4}/32", f"{record.nat6}/128"), site)
    owner |= state.prefixes().others
    hops = state.forwarding.hops()
    return [
        RouteRow(
            destination=destination,
            site=(site := owner.get(destination, "")),
            path_cost=state.rib.path_cost(site) or 0,
            next_hops=_hops(route.next_hops),
            installed=installed.get(destination) == route,
            protection=hops[site].protection.value if site in hops else Protection.NONE.value,
            alternates=_hops(route.alternates),
        )
        for destination, route in sorted(desired.routes.items())
    ]


def _hops(hops: Iterable[NextHop]) -> tuple[str, ...]:
    return tuple(f"{hop.via}%{hop.device}" for hop in hops)


def services(state: State, now: float) -> list[ServiceRow]:
    """Return one row a service that any site offers or this one listens to."""
    facts, here, listened = state.facts(), state.config.site, state.listened()
    return [
        ServiceRow(key.name, key.protocol.value, explain(facts, key, here, now).candidates, key in listened)
        for key in sorted(known_services(facts))
    ]


def listeners(state: State, desired: Desired) -> list[ListenerRow]:
    """Return one row a configured listener."""
    return listener_rows(state.config.listeners, desired.listeners, desired.services, state.suspended, desired.shared)


def connections(
    receipts: Iterable[Receipt], limit: int, boot_now: float, wanted: Filter = EVERY
) -> list[ConnectionRow]:
    """Return rows of receipts, at most ``limit`` + 1 (one more tells that there are more).

    ``boot_now`` is seconds since boot, the clock of ``Receipt.placed_at``.
    """
    rows: list[ConnectionRow] = []
    for receipt in receipts:
        if len(rows) > limit:
            break
        if wanted.matches(receipt.client, receipt.service.name, str(receipt.workload), receipt.placed_at):
            rows.append(_connection(receipt, boot_now))
    return rows


def _connection(receipt: Receipt, boot_now: float) -> ConnectionRow:
    runner = receipt.runner_up_perceived
    return ConnectionRow(
        client=receipt.client,
        listener=describe(receipt.listener),
        service=receipt.service.name,
        protocol=receipt.service.protocol.value,
        workload=str(receipt.workload),
        path_cost=receipt.path_cost,
        perceived="{}/{}".format(*receipt.perceived),
        runner_up=str(receipt.runner_up) if receipt.runner_up else "",
        runner_up_perceived="{}/{}".format(*runner) if runner else "",
        table_version=receipt.table_version,
        age_s=max(0.0, boot_now - receipt.placed_at),
        reason=receipt.reason.word,
        placed_s=receipt.placed_at,
    )


def flows(found: Iterable[Flow], limit: int, boot_now: float, wanted: Filter = EVERY) -> list[FlowRow]:
    """Return rows of flows, at most ``limit`` + 1."""
    rows: list[FlowRow] = []
    for one in found:
        if len(rows) > limit:
            break
        service, workload = one.service.name if one.service else "", str(one.workload or "")
        if wanted.matches(one.client, service, workload, one.placed_at):
            rows.append(
                FlowRow(
                    client=one.client,
                    listener=describe(one.listener),
                    protocol=one.listener.protocol.value,
                    kind=one.kind.value,
                    state=one.state.value,
                    service=service,
                    workload=workload,
                    target=describe(one.target),
                    source=one.source,
                    idle_s=one.idle_s,
                    age_s=max(0.0, boot_now - one.placed_at),
                )
            )
    return rows


def drops(counted: Mapping[Reason, int]) -> list[DropRow]:
    """Return one row a reason that was counted, most often first."""
    found = [(reason, number) for reason, number in counted.items() if number]
    found.sort(key=lambda item: (-item[1], item[0].code))
    return [DropRow(reason.word, number, reason.sentence) for reason, number in found]
