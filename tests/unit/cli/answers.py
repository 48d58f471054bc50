"""Documents as a small network gives them, one for each thing that the command prints."""

from __future__ import annotations

from skedge.cli.main import ConfigCheck
from skedge.cli.purge import PurgeReport, Step
from skedge.core.api.documents import Explain, PlanReport, PlanStep, Problem, Rows, Status, Sync
from skedge.core.api.shown import (
    CandidateRow,
    ConnectionRow,
    DrainRow,
    DropRow,
    FlowRow,
    LinkRow,
    ListenerRow,
    ListenerServiceRow,
    RouteRow,
    ServiceRow,
    SiteRow,
)

HERE = SiteRow(
    name="edge-a",
    overlay4="100.98.84.231",
    overlay6="fde7:3405:4cf7:0:600:d0f6:23d8:3601",
    reachable=True,
    path_cost=0,
    drain=False,
    overload=False,
    workloads=1,
    incarnation=3,
    sequence=17,
    software="0.1.0",
    here=True,
    engine="ebpf",
    programs="shipped",
    certificate_days=89.5,
    prefixes=("10.1.0.0/16", "fd01::/48"),
)
SITES = (
    HERE,
    SiteRow("edge-b", "100.70.1.2", "fde7::b", True, 10, True, True, 1, 1, 4, "0.1.0"),
    SiteRow("edge-c", "100.70.1.3", "fde7::c", False, None, False, False, 0, 1, 9),
)
LINKS = (
    LinkRow("edge-a--edge-b", "edge-b", "sk-edge-b-1f2e", "vxlan", 10, True, "full", 0.213, 0.0, 9000, 9000, 7384.0),
    LinkRow(
        link="edge-a--edge-c:lte",
        to="edge-c",
        device="sk-edge-c-77aa",
        transport="wireguard",
        endpoint="203.0.113.7:4791",
        handshake_s=191.0,
        keys=("ZmFrZQ=",),
        cost=9999,
        up=False,
        state="init",
        rtt_ms=None,
        loss=1.0,
        sent=100,
        received=0,
        since_s=192.0,
        reason="probe-lost",
        service_costs={"reports": 200, "logs": 3},
        cost_parts={"base": 9900, "rtt": 99, "loss": 0},
    ),
)
CANDIDATES = (
    CandidateRow(
        workload="edge-a/backend",
        site="edge-a",
        path_cost=0,
        capacity=4,
        open=30,
        others=19,
        others_age_s=0.412,
        perceived="49/4",
        perceived_float=12.25,
        reason="none",
        target="127.0.0.1:9090",
        chosen=1200,
        refused=1,
        path=("edge-a",),
    ),
    CandidateRow(
        workload="edge-b/backend",
        site="edge-b",
        path_cost=10,
        capacity=1,
        open=2,
        others=0,
        others_age_s=None,
        perceived="12/1",
        perceived_float=12.0,
        reason="none",
        winner=True,
        target="100.70.1.2:61000",
        path=("edge-a", "edge-b"),
    ),
    CandidateRow("edge-c/backend", "edge-c", None, 1, 0, 0, 95.0, "0/1", 0.0, "unreachable"),
    CandidateRow(
        "edge-b/old", "edge-b", 10, 1, 5, 0, None, "15/1", 15.0, "drained", path=("edge-a", "edge-b"), target=""
    ),
)

SHARED = ListenerRow(
    service="app-new",
    address="10.0.0.1",
    port=8081,
    protocol="tcp",
    addresses=("10.0.0.1",),
    healthy_workloads=3,
    services=(ListenerServiceRow("app-new", 3, 0.3, 1), ListenerServiceRow("backend", 7, 0.7, 2)),
    policy="weighted",
    affinity_s=10800,
    preserve_client_ip=True,
)

# what the command is called with -> the field of the answer and the document
DOCUMENTS = {
    "status": Status(
        site="edge-a",
        live=True,
        ready=True,
        synced=False,
        problems=(
            Problem("info", "edge-b", "is drained", 5.0),
            Problem("error", "link edge-a--edge-c:lte", "the far end does not answer probes (probe-lost)", 192.0),
            Problem("warning", "certificate", "ends in 6 days", 90_000.0),
        ),
    ),
    "status-well": Status(site="edge-a", live=True, ready=True, synced=True, reachable=4, protected=3),
    "show site": Rows(sites=(HERE,)),
    "show sites": Rows(sites=SITES),
    "show links": Rows(links=LINKS),
    "show routes": Rows(
        routes=(
            RouteRow(
                "100.70.1.2/32",
                "edge-b",
                10,
                ("edge-b via sk-edge-b-1f2e",),
                True,
                "link",
                ("edge-d via sk-edge-d-0001",),
            ),
            RouteRow("100.70.1.3/32", "edge-c", 30, ("edge-b via sk-edge-b-1f2e", "edge-d via sk-edge-d-0001"), False),
        )
    ),
    "show services": Rows(
        services=(ServiceRow("backend", "tcp", CANDIDATES, True), ServiceRow("dns", "udp", (), False))
    ),
    "show listeners": Rows(
        listeners=(
            ListenerRow("backend", "*", 8080, "tcp", ("10.0.0.1", "127.0.0.1", "::1"), 2),
            ListenerRow("dns", "fd00::5", 53, "udp", (), 0, "no-workload"),
            SHARED,
        )
    ),
    "show connections": Rows(
        connections=(
            ConnectionRow(
                client="127.0.0.1:41234",
                listener="127.0.0.1:8080",
                service="backend",
                protocol="tcp",
                workload="edge-b/backend",
                path_cost=10,
                perceived="12/1",
                runner_up="edge-a/backend",
                runner_up_perceived="49/4",
                table_version=7,
                age_s=3725.0,
                placed_s=90_000.25,
            ),
            ConnectionRow(
                "[::1]:5", "[::1]:8080", "backend", "tcp", "edge-a/backend", 0, "0/1", "", "", 7, 0.02, "suspended"
            ),
        ),
        truncated=True,
    ),
    "show flows": Rows(
        flows=(
            FlowRow(
                client="10.0.5.9:40000",
                listener="10.0.5.1:8080/tcp",
                protocol="tcp",
                kind="remote",
                state="established",
                service="backend",
                workload="edge-b/backend",
                target="100.70.1.2:61001",
                source="100.70.1.1:63007",
                idle_s=0.2,
                age_s=61.0,
            ),
            FlowRow(
                "[fd05::9]:5",
                "[fd05::1]:53/udp",
                "udp",
                "lan",
                "udp",
                "",
                "",
                "[fd05::7]:53",
                "[fd05::1]:63001",
                59.0,
                3600.0,
            ),
        ),
    ),
    "show drops": Rows(
        drops=(
            DropRow("no-workload", 3, "no site offers a healthy workload of this service"),
            DropRow("not-published", 65535, "a new connection to something that is not a published endpoint"),
        )
    ),
    "show drains": Rows(
        drains=(
            DrainRow("site", "", "root", 1_900_000_000.0, 75.0, True, True, 12, 4000.0, 1, ("edge-a from edge-c",)),
            DrainRow("workload", "backend", "ann", 1_900_000_000.0, 75.0, connections=0),
            DrainRow("workload", "db", by_configuration=True, connections=None),
            DrainRow("link", "edge-a--edge-b:second", "root", 1_900_000_000.0, 75.0),
        )
    ),
    "show sync": Sync(
        synced=False,
        records=6,
        waiting_for=("edge-c",),
        reconcile_runs=41,
        reconcile_failures=2,
        last_reconcile_s=1.5,
        dirty=("route 100.70.1.3/32",),
        count_drift=0,
        config_error="/etc/skedge/skedge.yaml: links[0].cost: 0 is not in 1..65535; give an integer from 1 to 65535",
    ),
    "explain backend": Explain("backend", "edge-a", CANDIDATES, "edge-b/backend", listeners=(SHARED,)),
    "explain-none backend": Explain("backend", "edge-c", CANDIDATES[2:], None, "no-workload"),
    "plan": PlanReport(
        steps=(
            PlanStep("put", "link", "sk-edge-b-1f2e", "", "vxlan to 10.90.0.2"),
            PlanStep("delete", "route", "100.70.1.3/32", "via sk-edge-b-1f2e", ""),
        )
    ),
    "plan-none": PlanReport(),
    "config-check": ConfigCheck("x.yaml", ["x.yaml: version: 2 is not 1; give 1"]),
    "purge": PurgeReport([Step("programs and maps", False, "not done after 120 s")]),
}
