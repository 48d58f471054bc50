from __future__ import annotations

from dataclasses import replace

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable, Target
from skedge.core.placement.candidates import Offer, candidate, merge_candidates, offers, service_table
from skedge.core.placement.view import View
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap, ServicesRecord, WorkloadState
from skedge.core.routing import rib
from skedge.core.routing.overlay_addresses import SiteAddresses, Skipped
from tests.fakes.networks import SERVICE, configs, map_of

MAP = map_of(configs([("A", "B", 10)], sites="C"))
B = Offer("B", WorkloadState("web", "web", 61001, ipv6=False))
BW = B.workload
ADDRESSES = {"A": SiteAddresses("100.64.0.1", "fd00::1"), "B": SiteAddresses("100.64.0.2", "fd00::2")}
VIEW = View(rib.compute(MAP, "A"), ADDRESSES)


def test_offers_are_by_service_and_protocol_sorted_by_workload() -> None:
    def state(name: str, service: str = "web", protocol: Protocol = Protocol.TCP) -> WorkloadState:
        return WorkloadState(name, service, 61001, protocol)

    records = {
        "B": ServicesRecord("B", (state("z"), state("a"), state("d", "dns", Protocol.UDP))),
        "A": ServicesRecord("A", (state("w"), state("t", "dns"))),
    }
    found = offers(NetworkMap({}, records))
    assert [str(one.workload) for one in found[SERVICE]] == ["A/w", "B/a", "B/z"]
    assert [str(one.workload) for one in found[ServiceKey("dns", Protocol.UDP)]] == ["B/d"]
    assert [str(one.workload) for one in found[ServiceKey("dns")]] == ["A/t"]


def test_a_remote_workload_is_reached_at_its_endpoint() -> None:
    made = candidate(SERVICE, B, replace(VIEW, others={(SERVICE, BW): 7, (ServiceKey("x"), BW): 9}))
    assert made == Candidate(BW, 10, capacity=1, others=7, target4=Target("100.64.0.2", 61001))
    both = candidate(SERVICE, replace(B, state=replace(B.state, ipv6=True)), VIEW)
    assert both.target6 == Target("fd00::2", 61001)


def test_a_local_workload_is_reached_at_its_own_address() -> None:
    offer = Offer("A", WorkloadState("web", "web", 61001))
    four = candidate(SERVICE, offer, replace(VIEW, own_site={offer.workload: Target("127.0.0.1", 9090)}))
    assert (four.own_site, four.path_cost, four.target4, four.target6) == (True, 0, Target("127.0.0.1", 9090), None)
    six = candidate(SERVICE, offer, replace(VIEW, own_site={offer.workload: Target("::1", 9090)}))
    assert (six.target4, six.target6, six.out) == (None, Target("::1", 9090), Reason.NONE)
    none = candidate(SERVICE, offer, replace(VIEW, own_site={}))
    assert (none.target4, none.target6, none.out) == (None, None, Reason.NO_FAMILY)


def test_seen_from_another_site_its_own_workloads_have_their_endpoint() -> None:
    made = candidate(SERVICE, B, View(rib.compute(MAP, "B"), ADDRESSES))
    assert (made.own_site, made.path_cost, made.target4) == (True, 0, Target("100.64.0.2", 61001))


@pytest.mark.parametrize(
    ("state", "view", "reason"),
    [
        ({}, {}, Reason.NONE),
        ({"healthy": False}, {}, Reason.UNHEALTHY),
        ({"drain": True}, {}, Reason.DRAINED),
        ({}, {"drained_sites": frozenset("B")}, Reason.DRAINED),
        ({}, {"suspended": frozenset({(SERVICE, BW)})}, Reason.SUSPENDED),
        ({}, {"suspended": frozenset({(ServiceKey("other"), BW)})}, Reason.NONE),
        ({"ipv4": False}, {}, Reason.NO_FAMILY),
        ({}, {"addresses": {}}, Reason.NO_FAMILY),
        ({"ipv4": False}, {"suspended": frozenset({(SERVICE, BW)})}, Reason.NO_FAMILY),
        ({"healthy": False, "drain": True}, {}, Reason.UNHEALTHY),
        ({"healthy": False}, {"rib": rib.compute(MAP, "C")}, Reason.UNREACHABLE),
    ],
)
def test_a_workload_that_may_not_be_chosen_has_its_reason(state: dict, view: dict, reason: Reason) -> None:
    made = candidate(SERVICE, replace(B, state=replace(B.state, **state)), replace(VIEW, **view))
    assert made.out is reason


def test_a_service_cost_is_the_path_cost_of_that_service() -> None:
    network = map_of(configs([("A", "B", 10)], service_costs={("A", "B"): {"web": 300}}))
    view = replace(VIEW, rib=rib.compute(network, "A"))
    assert candidate(SERVICE, B, view).path_cost == 300
    assert candidate(ServiceKey("other"), B, view).path_cost == 10


def test_a_table_holds_256_candidates_the_cheapest_that_may_be_chosen() -> None:
    def offer(site: str, index: int, **changes: object) -> Offer:
        return Offer(site, replace(B.state, connector=f"w{index:03}", **changes))  # type: ignore[arg-type]

    view = replace(VIEW, own_site={WorkloadId("A", f"w{index:03}"): Target("127.0.0.1", 1) for index in range(3)})
    offered = [offer("A", 0), offer("A", 1, healthy=False), offer("A", 2)]
    offered += [offer("B", index) for index in range(254)]
    full, none = service_table(SERVICE, offered[1:], view)
    assert (len(full.candidates), none) == (256, ())
    table, beyond = service_table(SERVICE, [*offered, offer("B", 254)], view)
    names = [one.workload for one in table.candidates]
    assert names == sorted(names)
    assert len(names) == 256
    assert beyond == (
        Skipped("workload", "web: B/w254", Reason.TABLE_FULL),  # the dearest, last by name
        Skipped("workload", "web: A/w001", Reason.TABLE_FULL),  # cheaper, but it may not be chosen
    )


def test_before_sync_a_candidate_of_the_kernel_is_kept() -> None:
    def made(site: str, cost: int, out: Reason = Reason.NONE) -> Candidate:
        return Candidate(WorkloadId(site, "web"), cost, capacity=1, out=out)

    current = ServiceTable((made("A", 0), made("B", 1), made("C", 2), made("E", 9, Reason.UNREACHABLE)))
    wanted = ServiceTable((made("A", 0, Reason.UNHEALTHY), made("B", 0, Reason.UNREACHABLE), made("D", 4)))
    assert merge_candidates(current, wanted) == ServiceTable(
        (made("A", 0, Reason.UNHEALTHY), made("B", 1), made("C", 2), made("D", 4), made("E", 9, Reason.UNREACHABLE))
    )
    unheard = ServiceTable((made("F", 0, Reason.UNREACHABLE),))
    assert merge_candidates(ServiceTable(), unheard) == unheard


def test_a_kept_table_has_room_for_what_is_wanted() -> None:
    current = ServiceTable(tuple(Candidate(WorkloadId("A", f"w{index:03}"), 0, capacity=1) for index in range(256)))
    wanted = ServiceTable((Candidate(WorkloadId("Z", "web"), 0, capacity=1),))
    kept = merge_candidates(current, wanted)
    assert len(kept.candidates) == 256
    assert kept.candidates[-1].workload == WorkloadId("Z", "web")
