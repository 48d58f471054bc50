"""Flows of the LAN that stand still are found, with the number that their machine sends again."""

from __future__ import annotations

import time

from skedge.core.stalls import StallKind
from skedge.dataplane.ebpf.layout_placement import pack_address
from skedge.dataplane.ebpf.stalled import StalledConnections
from tests.integration.links.packets import ACK

from ..kit import CLIENT, HOST, LISTEN, Bench, far_overlay
from ..test_packets import BOTH, one_far
from .test_resets import Talk

PAUSE_S = 0.45


@BOTH
def test_the_client_alone_speaks(bench: Bench, v: int) -> None:
    one_far(bench, v)
    stalls = StalledConnections(bench.site.pin_dir)
    talk = Talk(bench, v).establish()
    talk.exchange()
    talk.next["client"] += 1000  # what the workload acknowledged by packets that were not the first of their tick
    assert stalls.flows() == []
    time.sleep(PAUSE_S)
    asked = talk.next["client"]
    talk.send("client", ACK, b"question")
    (found,) = stalls.flows()
    assert (found.kind, found.sequence) == (StallKind.FLOW, asked)
    assert (found.local, found.local_port) == (pack_address(CLIENT[v]), talk.client_port)
    assert (found.remote, found.remote_port) == (pack_address(HOST[v]), LISTEN)
    assert found.far == pack_address(far_overlay()[v])
    assert found.unanswered_ms >= PAUSE_S * 1000 - 20
    talk.send("workload", ACK, b"answer")
    assert stalls.flows() == [], "answered"
    time.sleep(PAUSE_S)
    talk.send("workload", ACK, b"more")
    assert stalls.flows() == [], "the far end alone speaks, whose own site tells it"
