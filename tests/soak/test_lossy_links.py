"""Whole sites over links that delay and lose packets, for ten minutes: ``make soak-vm``.

A -- B is a long way on land (50 ms, 1 % each way) with the defaults, B -- C goes by satellite (1 s, 7 % each way) with
the settings of docs/inventory.md. No link may go down, no connection may be cut, and a real cut must be seen all the
same.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from skedge.core.errors import ApiError
from tests.integration.control.netns import Ping, has_netem, netem
from tests.integration.control.test_netem import SATELLITE
from tests.integration.daemon.kit import Clients, Line, Site, until

SOAK_S = float(os.environ.get("SOAK_S", "600"))
PATIENCE_S = 600.0
HELD = 30
LAND_MS, LAND_LOSS, SKY_MS, SKY_LOSS = 50, 1, 1000, 7

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_bpf,
    pytest.mark.needs_netem,
    pytest.mark.timeout(SOAK_S + 5000),
    pytest.mark.skipif(os.geteuid() != 0 or not has_netem(), reason="this kernel has no tc-netem"),
]


class LossyLine(Line):
    """A -- B -- C without a spare link; the second by satellite."""

    LINKS = (("a", "b", 1, "10.93.1"), ("b", "c", 1, "10.93.2"))

    def document(self, name: str, costs: Mapping[str, int] | None = None) -> dict[str, Any]:
        made = super().document(name, costs)
        for link in made["links"]:
            if {name, link["to"]} == {"b", "c"}:
                link["probe"] = {"interval_ms": SATELLITE.interval_ms, "lost": SATELLITE.lost}
        return made

    def make(self) -> None:
        self.build()
        for one, other, delay_ms, loss in (("a", "b", LAND_MS, LAND_LOSS), ("b", "c", SKY_MS, SKY_LOSS)):
            for here, far in ((one, other), (other, one)):
                words = ("delay", f"{delay_ms}ms", "loss", f"{loss}%", "limit", "10000")
                netem(self.sites[here].netns, f"u-{far}", *words)
        for site in self.sites.values():
            site.start()
        for site in self.sites.values():
            took = until(site.works, PATIENCE_S, f"{site.name} in sync")
            print(f"{site.name} in sync after {took:.0f} s")
        for site in self.sites.values():
            until(lambda site=site: set(site.reasons().values()) == {"none"}, PATIENCE_S, f"workloads at {site.name}")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[LossyLine]:
    made = LossyLine(tmp_path)
    try:
        made.make()
        yield made
    finally:
        print(made.logs(25))
        made.close()


def links(site: Site) -> dict[str, Any]:
    """Neighbour -> row of `skedge show links`; a question that is not answered in time is asked again later."""
    try:
        return {row.to: row for row in site.rows("links")}
    except (ApiError, OSError):
        return {}


def test_no_false_alarm_in_ten_minutes_and_a_cut_is_seen(line: LossyLine) -> None:
    a, b = line.sites["a"], line.sites["b"]
    clients = Clients(a, patience_s=PATIENCE_S)  # connects by satellite, one after another, some of them twice
    opened = clients.open(HELD)
    assert sum(opened.values()) == HELD
    assert opened["c"] > 0
    began = {name: site.log_size() for name, site in line.sites.items()}
    shown: dict[str, list[float]] = defaultdict(list)
    pings = {"a": Ping(b.netns, "10.93.1.1", SOAK_S), "c": Ping(b.netns, "10.93.2.2", SOAK_S)}
    end = time.monotonic() + SOAK_S
    while time.monotonic() < end:
        time.sleep(2)
        for name, row in links(b).items():
            shown[name].append(row.rtt_ms)
    said = {name: site.log_since(began[name]) for name, site in line.sites.items()}
    rows = links(b)
    for far, delay_ms in (("a", LAND_MS), ("c", SKY_MS)):
        rtt, real, row = statistics.fmean(shown[far]), pings[far].mean_ms(), rows[far]
        print(f"b -- {far}: delay 2 x {delay_ms} ms, round trip {rtt:.1f} ms, ping says {real:.1f};"
              f" {row.sent} probes, {row.received} answered, loss shown {row.loss:.3f}, {row.state}")  # fmt: skip
        assert rtt >= 2 * delay_ms
        assert rtt == pytest.approx(real, rel=0.1)
    streams = {name: len(re.findall(r"stream=down", text)) for name, text in said.items()}
    print(f"links down: {alarms(said)}; streams lost: {streams}; connections: {opened}")
    assert alarms(said) == []
    assert clients.do("check", 60)["alive"] == HELD
    for far, within in (("a", 10), ("c", 40)):
        line.cut("b", far)
        took = until(lambda far=far: far in links(b) and not links(b)[far].up, within, f"cut of b -- {far}")
        print(f"b -- {far}: cut seen after {took:.1f} s")


def alarms(said: Mapping[str, str]) -> list[str]:
    """Return what the daemons say of links that went down."""
    return [f"{name}: {line}" for name, text in said.items() for line in text.splitlines() if " up=False" in line]
