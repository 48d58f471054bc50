"""A controller whose link has `cost: auto`: what it measures is in its record, its paths, and what it shows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.daemon.api import rows
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import LINK_AB, document, running, site

pytestmark = pytest.mark.usefixtures("wireless")


def test_a_slower_link_costs_more_at_every_site_within_five_seconds(tmp_path: Path, authority: Authority) -> None:
    auto = [document()["links"][0] | {"cost": "auto", "base_cost": 10}]

    async def main() -> None:
        async with running(tmp_path, authority, first=site(tmp_path, links=auto)) as run:
            await run.reach_sync()
            assert run.at.state.rib.path_cost("b") == 10, "0.25 ms are no millisecond"
            run.control.measured[LINK_AB] = replace(run.control.measured[LINK_AB], rtt_us=100_000)
            slow = time.monotonic()
            await run.until(lambda: run.at.state.rib.path_cost("b") == 110)
            assert time.monotonic() - slow < 5 * 4
            assert run.at.flooder.network_map().links["a"].links[0].cost == 110
            (shown,) = rows.links(run.at.state, {}, time.monotonic(), {})
            assert (shown.cost, shown.cost_parts) == (110, {"base": 10, "rtt": 100, "loss": 0})

    asyncio.run(main())
