"""The registry and its page: every kind of kernel object has a row, a bound, and somebody who takes it away."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from skedge.core.desired.kinds import TRAFFIC_S, Registry
from skedge.dataplane import purge, registry
from skedge.dataplane.common_rows import Base
from skedge.dataplane.nftables.table import NftTable

PAGE = (Path(__file__).parents[3] / "docs/kernel-objects.md").read_text()
ROWS = re.findall(r"^\| `([a-z-]+)` \|.*\| (ebpf|ipvs|both) \|.*\| (\d+) s \|$", PAGE, re.MULTILINE)
GOES_WITH_PINS = {
    "packet-check", "placement", "nat", "nat-source", "lan-prefix", "host-prefix", "host-rules", "endpoint", "service",
    "listener",
}  # fmt: skip
GOES_WITH_PINS |= {"own-address", "path"}
PURGED = {
    "link": "device",
    "lan-device": "lan",
    "chain": "table",
    "site": "table",
}  # kind -> row of the purge, where the words differ


def rows(engine: str) -> Registry:
    base = Base(MagicMock(), NftTable(lambda _script: {}), Path("/nonexistent"))
    if engine == "ipvs":
        return registry.ipvs(base, MagicMock(), MagicMock())
    return registry.ebpf(base, MagicMock(), MagicMock(), MagicMock(), "/nonexistent")


@pytest.mark.parametrize("engine", ["ebpf", "ipvs"])
def test_the_page_has_every_kind_in_the_order_of_creation_with_its_bound(engine: str) -> None:
    told = [(kind, float(bound)) for kind, of, bound in ROWS if of in (engine, "both")]
    assert told == [(kind.name, kind.bound_s) for kind in rows(engine)]


def test_what_carries_or_admits_traffic_is_whole_again_within_two_seconds() -> None:
    assert {kind.bound_s for engine in ("ebpf", "ipvs") for kind in rows(engine)} == {TRAFFIC_S} == {2.0}


def test_every_kind_is_taken_away_by_the_purge_or_goes_with_the_pins() -> None:
    taken = {row.name for row in purge.rows(MagicMock(), (), Path("/nonexistent"))}
    for kind in rows("ebpf"):
        assert kind.name in GOES_WITH_PINS or PURGED.get(kind.name, kind.name) in taken, kind.name
    assert "engine ipvs" in taken
