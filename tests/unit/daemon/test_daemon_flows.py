"""Which flows and connections are shown, and in which words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.api.documents import Request
from skedge.core.api.shown import FlowRow
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import ListenerKey, ServiceKey, Target
from skedge.core.observed import Flow, FlowKind, FlowState
from skedge.daemon.api import rows
from skedge.daemon.api.filters import Filter

FLOW = Flow(
    client="10.0.5.9:40000",
    listener=ListenerKey("10.0.5.1", 8080),
    kind=FlowKind.REMOTE,
    state=FlowState.ESTABLISHED,
    target=Target("100.64.0.2", 61001),
    source="100.64.0.1:63007",
    idle_s=0.5,
    placed_at=40.0,
    service=ServiceKey("web"),
    workload=WorkloadId("b", "web"),
)
SIX = replace(
    FLOW, client="[fd05::9]:5", listener=ListenerKey("fd05::1", 53, Protocol.UDP), service=None, workload=None
)


def test_rows_of_flows() -> None:
    one, two = rows.flows([FLOW, SIX], 10, 100.0)
    assert one == FlowRow(
        "10.0.5.9:40000", "10.0.5.1:8080/tcp", "tcp", "remote", "established", "web", "b/web", "100.64.0.2:61001",
        "100.64.0.1:63007", 0.5, 60.0,
    )  # fmt: skip
    assert (two.service, two.workload, two.protocol) == ("", "", "udp")


def test_one_row_more_than_the_limit_tells_that_there_are_more() -> None:
    assert len(rows.flows([FLOW] * 9, 3, 100.0)) == 4


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (Request("show"), 2),
        (Request("show", service="web"), 1),
        (Request("show", service="other"), 0),
        (Request("show", workload="b/web"), 1),
        (Request("show", client="10.0.5.9"), 1),
        (Request("show", client="10.0.5.9:40000"), 1),
        (Request("show", client="10.0.5.9:4"), 0),
        (Request("show", client="10.0.5.90"), 0),
        (Request("show", client="fd05::9"), 1),
        (Request("show", since=40.0), 2),
        (Request("show", since=40.1), 0),
    ],
)
def test_filters(wanted: Request, kept: int) -> None:
    assert len(rows.flows([FLOW, SIX], 10, 100.0, Filter.of(wanted))) == kept
