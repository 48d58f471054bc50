"""What nftables has of the engine `ipvs` when another one takes over, on any kernel: emptied, then taken away."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from skedge.core.desired.reconcile import reconcile
from skedge.core.model import WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, ListenerKey
from skedge.dataplane.ebpf.packet_check import LEFT
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.marks import IpvsRules, Marks
from skedge.dataplane.nftables import notrack
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.retired_engines import RetiredIpvs

from .kit import ENDPOINT, WORKLOAD, Site

LISTENER = ListenerKey("10.93.0.5", 8080)


class Check:
    """Where the flag of eBPF's link check is kept."""

    beside = 0


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site("left", engine=False)
    try:
        made.put_base()
        rules = IpvsRules(made.nft)
        made.put_chains()
        made.ns(rules.put_listeners, {LISTENER: Marks((0x5CED0002,))})
        made.ns(rules.put_endpoint, EndpointKey(ENDPOINT), Endpoint(WorkloadId("left", "w"), "127.0.0.1", WORKLOAD))
        yield made
    finally:
        made.close()


def items(site: Site) -> list[tuple[str, dict]]:
    listed = json.loads(site.ns.sh("nft -j list table inet skedge"))["nftables"]
    return [next(iter(one.items())) for one in listed]


def rules_of(site: Site) -> list[str]:
    return [value["chain"] for kind, value in items(site) if kind == "rule"]


def test_handed_over_it_neither_marks_nor_translates_nor_checks_and_openings_are_untracked(site: Site) -> None:
    assert site.ns(RetiredIpvs.found, site.state)
    check = Check()
    left = RetiredIpvs(site.state, (site.config.network4, site.config.network6), check)  # type: ignore[arg-type]
    assert check.beside == LEFT
    others = [chain for chain in rules_of(site) if chain.startswith(("forward", "arrivals"))]
    for _ in range(2):
        site.ns(left.hand_over, [LISTENER])
        kinds = set(rules_of(site)) - set(others)
        assert {one for one in kinds if not one.startswith("to-")} == {"untracked-in", "untracked-out", "sources"}
        (elements,) = [
            value.get("elem", []) for kind, value in items(site) if (kind, value.get("name")) == ("map", "listeners4")
        ]
        assert elements == []
    assert "nat" in {value.get("type") for kind, value in items(site) if kind == "chain"}, "the kernel translates on"
    site.nft.forget()
    wanted = {chains.NAME: chains.group(site.config)}
    marks = ChainGroupDriver(site.nft, chains.OWNED)
    assert site.ns(reconcile, marks, wanted).changed == [chains.NAME], "it can come back"
    assert site.ns(marks.read) == wanted
    site.ns(left.remove)
    names = {value["name"] for kind, value in items(site) if kind in ("chain", "map", "set", "counter")}
    stays = ("untracked", "forward", "arriv", "sites")
    assert {one for one in names if not one.startswith(stays)} <= {"not-forwarded"}
    assert [chain for chain in rules_of(site) if chain.startswith(("forward", "arrivals"))] == others, (
        "what is no engine's stays"
    )
    assert not site.ns(RetiredIpvs.found, site.state)
    assert check.beside == 0
    site.ns(left.remove)


def test_the_new_engines_first_step_takes_the_untracked_chains_away(site: Site) -> None:
    both = ChainGroupDriver(site.nft, chains.OWNED, notrack.OWNED)
    site.ns(both.put, notrack.NAME, notrack.group([LISTENER]))
    site.ns(RetiredIpvs(site.state, (), Check()).hand_over, [LISTENER])  # type: ignore[arg-type]
    assert "untracked-in" in rules_of(site)
    site.ns(both.change, {chains.NAME: chains.group(site.config)}, [notrack.NAME])
    assert not [chain for chain in rules_of(site) if chain.startswith("untracked")]
