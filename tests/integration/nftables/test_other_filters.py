"""Tailscale's own rules, as recorded, in a real kernel: what they drop is named, opened as told it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skedge.dataplane.host import legacy_iptables
from skedge.dataplane.nftables.other_filters import OtherFilters
from tests.integration.links.kit import Namespace
from tests.lab.image import base_image

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
FIXTURES = Path(__file__).parents[2] / "unit/collection/fixtures"
RULES = FIXTURES / "nft-tailscale.json"
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


# ---- old iptables, which nft does not list ---------------------------------------------------------------------

OVERLAY = "100.104.0.0/16"


@dataclass
class Legacy:
    """A namespace, and the old iptables of a host's image."""

    ns: Namespace
    image: Path

    def __call__(self, *rules: str) -> str:
        libraries = self.image / "usr/lib/x86_64-linux-gnu"
        program = f"{self.image}/lib64/ld-linux-x86-64.so.2 --library-path {libraries}"
        program += f" {self.image}/usr/sbin/xtables-legacy-multi iptables"
        own = f"export XTABLES_LIBDIR={libraries}/xtables XTABLES_LOCKFILE=/run/{self.ns.name}.lock"
        return self.ns.sh("\n".join([f"set -e; {own}", *(f"{program} {rule}" for rule in rules)]))

    def dropping(self) -> str:
        return self.ns(OtherFilters().dropping, OVERLAY)


@pytest.fixture
def legacy() -> Iterator[Legacy]:
    made = Legacy(Namespace("tl"), base_image("bookworm"))
    try:
        yield made
    finally:
        made.ns.close()
        Path(f"/run/{made.ns.name}.lock").unlink(missing_ok=True)


def test_looking_makes_no_table(legacy: Legacy) -> None:
    assert legacy.dropping() == ""
    assert legacy.ns.sh("cat /proc/net/ip_tables_names") == ""


def test_what_tailscale_drops_by_old_iptables_is_named_until_links_are_let_in(legacy: Legacy) -> None:
    legacy(*(FIXTURES / "iptables-tailscale.txt").read_text().splitlines())
    assert legacy.dropping() == "ts-input of iptables-legacy"
    legacy("-A INPUT -i sk-+ -j ACCEPT")
    assert legacy.dropping() == "ts-input of iptables-legacy", "it comes too late"
    legacy("-I INPUT -i sk-+ -j ACCEPT")
    assert legacy.dropping() == ""
    legacy("-F INPUT", "-A INPUT -j ts-input", "-F ts-input")
    assert legacy.dropping() == ""


def test_old_rules_are_told_in_the_words_of_nft(legacy: Legacy) -> None:
    legacy(
        "-N one", "-N two", "-A FORWARD -j one", "-A INPUT -i eth0 -j two", "-A INPUT ! -s 10.0.0.0/8 -j DROP",
        "-A INPUT -p tcp --dport 22 -j ACCEPT", "-A two -i sk-+ -j RETURN", "-A one -j ACCEPT",
    )  # fmt: skip
    from_device = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}
    source = {"payload": {"protocol": "ip", "field": "saddr"}}
    not_from = {"match": {"op": "!=", "left": source, "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}}
    by_link = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "sk-*"}}

    def rules(chain: str) -> list[list[object]]:
        return [list(rule) for rule in legacy.ns(legacy_iptables.rules_of, "filter", chain)]

    assert rules("INPUT") == [
        [from_device, {"jump": {"target": "two"}}], [not_from, {"drop": None}], [{"xt": None}, {"accept": None}],
        [{"accept": None}],
    ]  # fmt: skip
    assert rules("two") == [[by_link, {"return": None}], [{"return": None}]]
    assert rules("one") == [[{"accept": None}], [{"return": None}]]
    assert rules("none") == []
