"""Tailscale's own rules, as recorded, in a real kernel: what they drop is named, opened as told it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.dataplane.nftables.other_filters import OtherFilters
from tests.integration.links.kit import Namespace

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
RULES = Path(__file__).parents[2] / "unit/collection/fixtures/nft-tailscale.json"
OPEN = "nft insert rule ip filter INPUT iifname 'sk-*' accept"


@pytest.fixture
def ns(tmp_path: Path) -> Iterator[Namespace]:
    made = Namespace("ts")
    try:
        document = [item for item in json.loads(RULES.read_text())["nftables"] if "metainfo" not in item]
        script = tmp_path / "rules.json"
        script.write_text(json.dumps({"nftables": [{"add": item} for item in document]}))
        made.sh(f"nft -j -f {script}")
        yield made
    finally:
        made.close()


def test_what_tailscale_drops_is_named_until_links_are_let_in(ns: Namespace) -> None:
    assert ns(OtherFilters().dropping, "100.104.0.0/16") == "ip filter ts-input"
    assert ns(OtherFilters().dropping, "10.200.0.0/16") == ""
    ns.sh(OPEN)
    assert ns(OtherFilters().dropping, "100.104.0.0/16") == ""


def test_links_let_in_behind_it_are_dropped_before(ns: Namespace) -> None:
    ns.sh(OPEN.replace("insert", "add"))
    assert ns(OtherFilters().dropping, "100.104.0.0/16") == "ip filter ts-input"


def test_its_chain_without_that_rule_and_none_at_all_are_no_problem(ns: Namespace) -> None:
    ns.sh("nft flush chain ip filter ts-input")
    assert ns(OtherFilters().dropping, "100.104.0.0/16") == ""
    ns.sh("nft flush ruleset")
    assert ns(OtherFilters().dropping, "100.104.0.0/16") == ""


def test_it_is_looked_at_again_when_it_was_known_for_a_while(ns: Namespace) -> None:
    now = [0.0]
    filters = OtherFilters(clock=lambda: now[0])
    assert ns(filters.dropping, "100.104.0.0/16")
    ns.sh(OPEN)
    assert ns(filters.dropping, "100.104.0.0/16")
    now[0] = 31.0
    assert not ns(filters.dropping, "100.104.0.0/16")
