"""Prometheus metrics: a collector that reads the controller's state when it is scraped (prometheus-client)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from skedge.core.api.shown import LinkRow
from skedge.core.model import Metrics
from skedge.core.observed import FlowKind
from skedge.core.placement.nat_ports import port_limit
from skedge.core.reasons import Reason
from skedge.daemon.api.answers import Answers
from skedge.daemon.api.view import View
from skedge.daemon.kernel.resumption import HOW

SCRAPE_S = 5.0


def serve(controller: View, answers: Answers, where: Metrics) -> None:
    """Serve /metrics from a thread of its own; port 0 serves nothing. Raises OSError when the port is taken."""
    if where.port:
        registry = CollectorRegistry()
        registry.register(_Collector(controller, answers, asyncio.get_running_loop()))
        start_http_server(where.port, where.address, registry)


class _Collector(Collector):
    """Takes one look in the controller's loop, so that a scrape never sees half a change."""

    def __init__(self, controller: View, answers: Answers, loop: asyncio.AbstractEventLoop) -> None:
        self._controller, self._answers, self._loop = controller, answers, loop

    def describe(self) -> Iterable[Metric]:
        """Declare nothing: what there is depends on the configuration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        return asyncio.run_coroutine_threadsafe(self._look(), self._loop).result(SCRAPE_S)

    async def _look(self) -> list[Metric]:
        at = self._controller
        return [*network(at), *link_metrics(self._answers.link_rows()), *workloads(at), *controller(at)]


def _gauge(name: str, text: str, rows: Iterable[tuple[list[str], float]], labels: list[str] | None = None) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels or [])
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, rows: Iterable[tuple[list[str], float]], labels: list[str] | None = None) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels or [])
    for values, value in rows:
        family.add_metric(values, value)
    return family


def network(at: View) -> Iterator[Metric]:
    """Yield metrics of sites and routes."""
    paths = at.state.rib.paths
    known = sorted({at.state.config.site, *at.state.network_map.links})
    yield _gauge("skedge_site_reachable", "1 when there is a path", (([s], s in paths) for s in known), ["site"])
    yield _gauge(
        "skedge_site_path_cost", "Cheapest path cost", (([s], paths[s].cost) for s in known if s in paths), ["site"]
    )
    installed = sum(at.applied.routes.get(to) == route for to, route in at.desired.routes.items())
    yield _gauge("skedge_routes_computed", "Overlay routes wanted", [([], len(at.desired.routes))])
    yield _gauge("skedge_routes_installed", "Overlay routes that the kernel has as wanted", [([], installed)])


def link_metrics(rows: Iterable[LinkRow]) -> Iterator[Metric]:
    """Yield metrics of this site's links."""
    table = [(row, [row.link, row.to]) for row in rows]
    labels = ["link", "to"]
    yield _gauge("skedge_link_up", "1 when used", ((at, row.up) for row, at in table), labels)
    rtts = ((at, row.rtt_ms / 1000) for row, at in table if row.rtt_ms is not None)
    yield _gauge("skedge_link_rtt_seconds", "Smoothed round trip of probes", rtts, labels)
    yield _gauge("skedge_link_loss_ratio", "Measured loss of probes", ((at, row.loss) for row, at in table), labels)
    ages = ((at, row.handshake_s) for row, at in table if row.handshake_s is not None)
    yield _gauge("skedge_link_handshake_age_seconds", "Since the last WireGuard handshake", ages, labels)
    yield _gauge(
        "skedge_link_cost", "Cost as configured, or as measured", ((at, row.cost) for row, at in table), labels
    )
    yield _counter("skedge_link_probes_sent", "Probes sent", ((at, row.sent) for row, at in table), labels)
    unsent = ((at, row.unsent) for row, at in table)
    yield _counter("skedge_link_probes_unsent", "Probes that the host refused to send", unsent, labels)
    yield _counter("skedge_link_probes_answered", "Probes answered", ((at, row.received) for row, at in table), labels)


def workloads(at: View) -> Iterator[Metric]:
    """Yield metrics of every workload of the services listened to here."""
    labels = ["service", "protocol", "workload"]
    slots = [
        ([key.name, key.protocol.value, str(one.workload)], key, one)
        for key, table in sorted(at.desired.services.items())
        for one in table.candidates
    ]
    counted = {(key, workload): counts for (key, workload), counts in at.state.counts.items()}
    others = at.state.others()
    up = ((names, one.out is Reason.NONE) for names, key, one in slots)
    yield _gauge("skedge_workload_up", "1 when it may be chosen here", up, labels)
    for name, text, of in (
        ("skedge_workload_open", "Open connections of this site", "open"),
        ("skedge_workload_chosen", "Connections placed here", "chosen"),
        ("skedge_workload_refused", "Placed connections that failed", "refused"),
        ("skedge_workload_nat_ports", "Connections of the LAN that hold a port towards it", "nat"),
    ):
        rows = [
            (names, getattr(counted[key, one.workload], of))
            for names, key, one in slots
            if (key, one.workload) in counted
        ]
        yield (_gauge if of in ("open", "nat") else _counter)(name, text, rows, labels)
    far = any(at.desired.nat_remote)
    limits = ((names, port_limit(at.state.config.lan, far=far and not one.own_site)) for names, key, one in slots)
    yield _gauge("skedge_workload_nat_port_limit", "How many of them there may be", limits, labels)
    reported = ((names, others.get((key, one.workload), 0)) for names, key, one in slots)
    yield _gauge("skedge_workload_open_others", "Open connections of other sites, as reported", reported, labels)


def controller(at: View) -> Iterator[Metric]:
    """Yield metrics of the controller itself."""
    tally = at.tally
    yield _gauge("skedge_ready", "1 when forwarding and balancing", [([], at.life.ready)])
    yield _gauge("skedge_synced", "1 when every neighbour was heard", [([], at.life.synced)])
    yield _gauge("skedge_config_error", "1 while the configuration file is refused", [([], bool(at.config_error))])
    yield _gauge("skedge_certificate_days_left", "Days the certificate is valid", [([], at.identity.days_left)])
    yield _gauge("skedge_database_records", "Records in the link-state database", [([], len(at.flooder.database))])
    yield _gauge("skedge_reconcile_duration_seconds", "Duration of the last run", [([], tally.last_duration_s)])
    yield _gauge("skedge_reconcile_failing", "Keys that the kernel refused", [([], len(at.applied.failed))])
    yield _counter("skedge_reconcile_runs", "Reconcile runs", [([], tally.reconcile_runs)])
    yield _counter("skedge_reconcile_failures", "Runs with a failed key", [([], tally.reconcile_failures)])
    yield _counter("skedge_reconcile_changes", "Kernel objects changed", [([], tally.reconcile_changes)])
    yield _counter("skedge_spf_runs", "Path computations", [([], tally.spf_runs)])
    drifted = (([kind], number) for kind, number in sorted(at.applied.drifted.items()))
    yield _counter("skedge_drift", "Kernel objects that somebody else changed", drifted, ["kind"])
    yield _counter("skedge_count_drift", "Connections that counters were off by", [([], tally.count_drift_total)])
    resumed = (([how], at.resumption.tally[how]) for how in HOW.values())
    yield _counter("skedge_resumed", "Connections that stood still when a path came back", resumed, ["how"])
    kinds = (([kind.value], at.counting.flows.get(kind, 0)) for kind in FlowKind)
    yield _gauge("skedge_flows", "Flows of the LAN", kinds, ["kind"])
    yield _gauge("skedge_flows_half_open", "Connections of the LAN that are half open", [([], at.counting.half_open)])
    yield _gauge("skedge_flow_room", "Flows that there may be", [([], at.counting.flow_room)])
    by_reason = {**at.endings.ended, Reason.WITHDRAWN: at.worker.kernel.withdrawn}
    ended = (([reason.word], number) for reason, number in sorted(by_reason.items()))
    yield _counter("skedge_connections_ended", "Connections that the controller ended", ended, ["reason"])
    yield _counter(
        "skedge_drops",
        "Refused connects and packets",
        (([r.word], n) for r, n in at.counting.drops.items()),
        ["reason"],
    )
