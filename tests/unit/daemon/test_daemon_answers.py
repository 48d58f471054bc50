"""What the local API and the metrics answer about a controller that runs."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from pathlib import Path

import pytest

from skedge.core.api.documents import Request
from skedge.core.model import Metrics, WorkloadId
from skedge.core.objects import ListenerKey
from skedge.core.observed import Counts, FlowKind, Receipt
from skedge.core.reasons import Reason
from skedge.daemon.api import answers as module
from skedge.daemon.api import metrics
from skedge.daemon.api.answers import Answers
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import LINK_AB, WEB, Running, document, report, running, write

pytestmark = pytest.mark.usefixtures("wireless")
A, B = WorkloadId("a", "web"), WorkloadId("b", "web")
FILLED = {"site": "sites"}

PROMISED = {
    "skedge_site_reachable",
    "skedge_site_path_cost",
    "skedge_routes_computed",
    "skedge_routes_installed",
    "skedge_link_up",
    "skedge_link_rtt_seconds",
    "skedge_link_loss_ratio",
    "skedge_link_cost",
    "skedge_link_probes_sent_total",
    "skedge_link_probes_answered_total",
    "skedge_workload_up",
    "skedge_workload_open",
    "skedge_workload_chosen_total",
    "skedge_workload_refused_total",
    "skedge_workload_open_others",
    "skedge_ready",
    "skedge_synced",
    "skedge_config_error",
    "skedge_certificate_days_left",
    "skedge_database_records",
    "skedge_reconcile_duration_seconds",
    "skedge_reconcile_failing",
    "skedge_reconcile_runs_total",
    "skedge_reconcile_failures_total",
    "skedge_reconcile_changes_total",
    "skedge_spf_runs_total",
    "skedge_count_drift_total",
    "skedge_drops_total",
    "skedge_flows",
    "skedge_flow_room",
    "skedge_flows_half_open",
}


def receipt(client: str) -> Receipt:
    return Receipt(client, ListenerKey("10.0.0.1", 8080), WEB, A, 1, 0, (3, 1), B, (10, 1), 0.0, 7)


async def loaded(run: Running) -> Answers:
    """A site with open connections and reports of the other one."""
    await run.reach_sync()
    run.kernel.engine.counted = {(WEB, A): Counts(3, 5, 1, 5), (WEB, B): Counts(0)}
    run.kernel.engine.receipts = [receipt(f"10.0.0.7:{port}") for port in range(1, 6)]
    run.kernel.engine.dropped = {Reason.NO_WORKLOAD: 2}
    run.control.loads.said["b"] = report("b", b=4)
    run.at.load_reported()
    await run.until(lambda: run.at.state.counts and run.at.state.heard)
    return Answers(run.at)


def test_every_show_fills_its_list(tmp_path: Path, authority: Authority) -> None:
    sizes = {
        "site": 1,
        "sites": 2,
        "links": 1,
        "routes": 4,
        "services": 1,
        "listeners": 1,
        "connections": 5,
        "drops": 1,
    }

    async def main() -> None:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            for what, size in sizes.items():
                found = (await api.answer(Request("show", what))).rows
                assert found is not None, what
                assert len(getattr(found, FILLED.get(what, what))) == size, what
            sync = (await api.answer(Request("show", "sync"))).sync
            assert sync is not None
            assert (sync.synced, sync.records, sync.waiting_for, sync.dirty) == (True, 4, (), ())
            assert sync.reconcile_runs > 0

    asyncio.run(main())


def test_status_tells_what_is_wrong_and_since_when(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            status = (await api.answer(Request("status"))).status
            assert status is not None
            assert (status.site, status.live, status.ready, status.synced) == ("a", True, True, True)
            assert status.problems == ()
            run.control.measure(LINK_AB, False)
            await run.until(lambda: "site b" in {one.what for one in api.status().problems})
            await asyncio.sleep(0.05)
            found = {one.what: one for one in api.status().problems}
            assert "probe-lost" in found["link a--b"].cause
            assert found["link a--b"].since_s > 0.04
            assert found["site b"].severity == "error"

    asyncio.run(main())


def test_a_kernel_that_refuses_is_not_in_sync(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            run.kernel.drivers.listeners.broken.add(ListenerKey("10.0.0.1", 8081))
            write(run.path, document(listeners=[{"service": "web", "port": 8080}, {"service": "web", "port": 8081}]))
            run.at.reload()
            await run.until(lambda: run.at.applied.failed)
            status, sync = api.status(), (await api.answer(Request("show", "sync"))).sync
            assert not status.synced
            assert [one.what for one in status.problems] == ["listener 10.0.0.1:8081/tcp"]
            assert sync is not None
            assert sync.dirty == ("listener 10.0.0.1:8081/tcp",)
            assert sync.reconcile_failures > 0

    asyncio.run(main())


def test_explain_here_and_from_there(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            here = (await api.answer(Request("explain", name="web"))).explain
            there = (await api.answer(Request("explain", name="web", site="b"))).explain
            assert here is not None
            assert there is not None
            assert (here.site, here.winner) == ("a", "a/web")
            assert [(row.open, row.others) for row in here.candidates] == [(3, 0), (0, 4)]
            assert (there.site, there.winner) == ("b", "b/web")
            assert [(row.open, row.others) for row in there.candidates] == [(0, 3), (4, 0)]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("explain", name="mail"), ("mail", "show services")),
        (Request("explain", name="web", site="z"), ("'z'", "show sites")),
        (Request("show", "everything"), ("everything",)),
        (Request("dance"), ("dance",)),
        (Request("explain-connection", name="10.0.0.7:99"), ("10.0.0.7:99", "show connections")),
    ],
)
def test_a_no_is_one_sentence_with_the_way_out(
    tmp_path: Path, authority: Authority, request_: Request, words: tuple[str, ...]
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            error = (await (await loaded(run)).answer(request_)).error
            assert all(word in error for word in words), error

    asyncio.run(main())


def test_one_connection_by_its_client_and_many_up_to_the_limit(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            one = (await api.answer(Request("explain-connection", name="10.0.0.7:4"))).rows
            assert one is not None
            assert [row.client for row in one.connections or ()] == ["10.0.0.7:4"]
            some = (await api.answer(Request("show", "connections", limit=2))).rows
            assert some is not None
            assert (len(some.connections or ()), some.truncated) == (2, True)
            every = (await api.answer(Request("show", "connections", limit=5))).rows
            assert every is not None
            assert (len(every.connections or ()), every.truncated) == (5, False)

    asyncio.run(main())


def test_the_plan_is_empty_at_rest_and_names_what_somebody_took_away(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            empty = (await api.answer(Request("plan"))).plan
            assert empty is not None
            assert empty.steps == ()
            route = next(iter(run.kernel.drivers.routes.objects))
            del run.kernel.drivers.routes.objects[route]
            steps = (await api.answer(Request("plan"))).plan
            assert steps is not None
            assert [(step.action, step.kind, step.key) for step in steps.steps] == [("create", "route", route)]

    asyncio.run(main())


def test_before_health_is_known_the_plan_leaves_balancing_alone(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            plan = (await Answers(run.at).answer(Request("plan"))).plan
            assert plan is not None
            assert not {step.kind for step in plan.steps} & {"service", "listener"}

    asyncio.run(main())


def test_problems_are_watched_without_being_asked(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)

    async def main() -> None:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            task = asyncio.create_task(api.watch())
            run.control.measure(LINK_AB, False)
            await asyncio.sleep(0.4)
            task.cancel()
            assert max(one.since_s for one in api.status().problems) > 0.2

    asyncio.run(main())


# ---- metrics ---------------------------------------------------------------------------------------------------


def test_the_metrics_that_are_promised_are_served_with_bounded_labels(tmp_path: Path, authority: Authority) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def main() -> str:
        async with running(tmp_path, authority) as run:
            api = await loaded(run)
            run.at.counting.drops = {Reason.NO_WORKLOAD: 2}
            run.at.counting.flows, run.at.counting.flow_room = {FlowKind.LAN: 5}, 1000
            run.at.counting.half_open = 3
            metrics.serve(run.at, api, Metrics("127.0.0.1", port))
            with pytest.raises(OSError):
                metrics.serve(run.at, api, Metrics("127.0.0.1", port))
            address = f"http://127.0.0.1:{port}/metrics"
            return await asyncio.to_thread(lambda: urllib.request.urlopen(address, timeout=5).read().decode())

    text = asyncio.run(main())
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert {name.partition("{")[0] for name in values} >= PROMISED
    assert values['skedge_workload_open{protocol="tcp",service="web",workload="a/web"}'] == "3.0"
    assert values['skedge_workload_open_others{protocol="tcp",service="web",workload="b/web"}'] == "4.0"
    assert values['skedge_site_path_cost{site="b"}'] == "10.0"
    assert values['skedge_link_up{link="a--b",to="b"}'] == "1.0"
    assert values['skedge_drops_total{reason="no-workload"}'] == "2.0"
    assert (values['skedge_flows{kind="lan"}'], values['skedge_flows{kind="local"}']) == ("5.0", "0.0")
    assert values["skedge_flow_room"] == "1000.0"
    assert values["skedge_flows_half_open"] == "3.0"
    assert values["skedge_routes_installed"] == values["skedge_routes_computed"] == "4.0"
    assert values["skedge_synced"] == values["skedge_ready"] == "1.0"
    assert "10.0.0.7" not in text, "no client address in a label"


def test_port_0_serves_nothing(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            metrics.serve(run.at, Answers(run.at), Metrics("127.0.0.1", 0))

    asyncio.run(main())
