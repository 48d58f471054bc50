from __future__ import annotations

from dataclasses import replace

from skedge.core import names
from skedge.core.desired import compute
from skedge.core.desired.listener_addresses import REST
from skedge.core.model import Link, LinkId, Listener, Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey, KernelRoute, LinkDevice, ListenerKey, NextHop, ServiceKey, Target
from skedge.core.placement.view import view
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from skedge.core.routing import rib
from skedge.core.routing.overlay_addresses import Skipped
from skedge.core.transports import Transport
from tests.fakes.networks import NETWORK, SERVICE, configs, connector, desired_at, map_of, site_config

LINE = configs([("A", "B", 10), ("B", "C", 20)], "ABC")
MAP = map_of(LINE)


def hop(at: str, link: LinkId, version: int) -> NextHop:
    via = names.GATEWAY4 if version == 4 else str(names.link_local(NETWORK, link.far_end(at)))
    return NextHop(names.device_name(NETWORK, link, at), via)


def test_addresses_are_the_own_overlay_addresses_on_loopback() -> None:
    assert desired_at(LINE["A"], MAP).addresses == {
        f"{LINE['A'].overlay4}/32": "lo",
        f"{LINE['A'].overlay6}/128": "lo",
    }


def test_routes_lead_to_every_other_site_over_next_hops_of_their_family_with_the_own_source() -> None:
    four, six = ((hop("A", LinkId("A", "B"), version),) for version in (4, 6))
    mine = LINE["A"]
    assert desired_at(mine, MAP).routes == {
        f"{LINE['B'].overlay4}/32": KernelRoute(four, mine.overlay4),
        f"{LINE['B'].overlay6}/128": KernelRoute(six, mine.overlay6),
        f"{LINE['C'].overlay4}/32": KernelRoute(four, mine.overlay4),
        f"{LINE['C'].overlay6}/128": KernelRoute(six, mine.overlay6),
    }


def test_equal_paths_give_several_next_hops_sorted() -> None:
    all_configs = configs([("A", "B", 1, "x"), ("A", "B", 1, "y"), ("A", "C", 1), ("C", "B", 1), ("C", "D", 1),
                           ("B", "D", 1)])  # fmt: skip
    routes = desired_at(all_configs["A"], map_of(all_configs)).routes
    links = (LinkId("A", "B", "x"), LinkId("A", "B", "y"), LinkId("A", "C"))
    assert routes[f"{all_configs['D'].overlay4}/32"].next_hops == tuple(sorted(hop("A", link, 4) for link in links))


def test_a_next_hop_over_a_link_that_is_configured_no_more_is_left_out() -> None:
    assert desired_at(replace(LINE["A"], links=()), MAP).routes == {}


def test_an_address_that_cannot_be_believed_gets_no_route_and_no_candidate() -> None:
    hostile = replace(MAP, links={**MAP.links, "B": replace(MAP.links["B"], overlay4="8.8.8.8", overlay6="")})
    made = desired_at(LINE["A"], hostile)
    assert set(made.routes) == {f"{LINE['C'].overlay4}/32", f"{LINE['C'].overlay6}/128"}
    outs = {one.workload.site: one.out for one in made.services[SERVICE].candidates}
    assert outs == {"A": Reason.NONE, "B": Reason.NO_FAMILY, "C": Reason.NONE}
    assert made.skipped == (Skipped("address", "B: 8.8.8.8", Reason.NOT_OVERLAY),)


def test_candidates_of_a_listened_service_with_their_targets() -> None:
    a, b, c = desired_at(LINE["A"], MAP, others={(SERVICE, WorkloadId("C", "web")): 4}).services[SERVICE].candidates
    assert (a.path_cost, a.own_site, a.target4) == (0, True, Target("127.0.0.1", 9090))
    port = MAP.services["B"].workloads[0].port
    assert (b.path_cost, b.own_site, b.target4) == (10, False, Target(LINE["B"].overlay4, port))
    assert (c.path_cost, c.others) == (30, 4)


def test_a_service_not_listened_to_has_no_table_and_one_without_workloads_an_empty_one() -> None:
    quiet = replace(LINE["A"], listeners=())
    assert desired_at(quiet, MAP).services == {}
    other = replace(LINE["A"], listeners=(Listener("nothing", 1), Listener("web", 2, protocol=Protocol.UDP)))
    tables = desired_at(other, MAP).services
    assert {key: table.candidates for key, table in tables.items()} == {
        ServiceKey("nothing"): (),
        ServiceKey("web", Protocol.UDP): (),
    }


def test_own_workloads_come_from_the_configuration_not_from_an_older_record() -> None:
    changed = replace(LINE["A"], connectors=(connector("web", capacity=9), connector("two")))
    candidates = desired_at(changed, MAP).services[SERVICE].candidates
    assert [(str(one.workload), one.capacity) for one in candidates] == [
        ("A/two", 1),
        ("A/web", 9),
        ("B/web", 1),
        ("C/web", 1),
    ]
    gone = desired_at(replace(LINE["A"], connectors=()), MAP).services[SERVICE].candidates
    assert [one.workload.site for one in gone] == ["B", "C"]


def test_unhealthy_drained_suspended_and_unreachable_workloads_are_out() -> None:
    all_configs = configs([("A", "B", 1), ("A", "D", 1)], "ABCD", sites="C", drain="D")
    made = desired_at(
        all_configs["A"],
        map_of(all_configs),
        health={"web": False},
        suspended=frozenset({(SERVICE, WorkloadId("B", "web"))}),
    )
    assert {one.workload.site: one.out for one in made.services[SERVICE].candidates} == {
        "A": Reason.UNHEALTHY,
        "B": Reason.SUSPENDED,
        "C": Reason.UNREACHABLE,
        "D": Reason.DRAINED,
    }


def test_a_site_drained_by_its_own_configuration_drains_its_workloads_before_its_record_says_so() -> None:
    candidates = desired_at(replace(LINE["A"], drain=True), MAP).services[SERVICE].candidates
    assert [one.out for one in candidates] == [Reason.DRAINED, Reason.NONE, Reason.NONE]
    stale = replace(MAP, links={**MAP.links, "A": replace(MAP.links["A"], drain=True)})
    assert desired_at(LINE["A"], stale).services[SERVICE].candidates[0].out is Reason.NONE


def test_endpoints_publish_every_own_workload_whatever_its_health() -> None:
    config = site_config(
        "A",
        connectors=(connector("web", drain=True), connector("name", host="db.lan"), connector("lost", host="x.lan")),
    )
    made = desired_at(
        config, NetworkMap({}, {}), health={}, endpoint_ports={"web": 61001, "name": 61002, "lost": 61003},
        resolved={"name": Target("10.1.1.1", 9090)},
    )  # fmt: skip
    assert made.endpoints == {
        EndpointKey(61001): Endpoint(WorkloadId("A", "web"), "127.0.0.1", 9090),
        EndpointKey(61002): Endpoint(WorkloadId("A", "name"), "10.1.1.1", 9090),
    }
    assert compute.endpoints(config, {}) == {}


def test_workloads_at_other_addresses_than_the_hosts_are_elsewhere() -> None:
    config = replace(
        LINE["A"],
        connectors=(connector("web"), connector("here", host="10.0.0.1"), connector("there", host="10.0.0.9")),
    )
    made = desired_at(config, MAP, ["10.0.0.1/24"])
    assert {e.workload.connector: e.off_host for e in made.endpoints.values()} == {
        "web": False,
        "here": False,
        "there": True,
    }
    candidates = made.services[SERVICE].candidates
    assert [str(one.workload) for one in candidates if one.off_host] == ["A/there"]
    assert [str(one.workload) for one in candidates if one.own_site] == ["A/here", "A/there", "A/web"]
    assert made.off_host == {"10.0.0.9"}
    unknown = desired_at(config, MAP)
    assert not unknown.off_host
    assert not any(one.off_host for one in unknown.endpoints.values())


def test_a_star_listener_is_every_address_of_the_host_and_loopback() -> None:
    config = site_config("A", listeners=(Listener("web", 80),))
    addresses = ["10.0.0.1/24", "fd01::0001", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "169.254.1.1", "junk"]
    assert compute.listeners(config, addresses) == {
        ListenerKey(address, 80): config.listeners[0]
        for address in ("127.0.0.1", "::1", "10.0.0.1", "fd01::1", "169.254.1.1", *REST)
    }


def test_a_given_address_goes_before_star() -> None:
    config = site_config(
        "A",
        listeners=(Listener("mine", 80, "10.0.0.1"), Listener("web", 80), Listener("six", 81, "FD01:0::1")),
    )
    made = compute.listeners(config, ["10.0.0.1"])
    assert made[ListenerKey("10.0.0.1", 80)].service == "mine"
    assert made[ListenerKey("127.0.0.1", 80)].service == "web"
    assert made[ListenerKey("fd01::1", 81)].service == "six"
    assert made[ListenerKey("0.0.0.0", 80)].service == "web"
    assert len(made) == 6


def test_link_devices_hold_what_their_transport_uses() -> None:
    config = site_config(
        "A",
        links=(
            Link("B", transport=Transport.VXLAN, local="10.0.0.1", remote="10.0.0.2", mtu=1400),
            Link("C", transport=Transport.DIRECT, device="eth1", local="x", remote="y"),
            Link(
                "D",
                transport=Transport.WIREGUARD,
                remote="10.0.0.4",
                port=51820,
                remote_port=4791,
                keepalive_s=25,
                keys=("one", "two"),
            ),
        ),
    )
    made = compute.link_devices(config)
    mine = str(names.link_local(NETWORK, "A"))
    ab, ac, ad = (LinkId("A", site) for site in "BCD")
    assert made == {
        names.device_name(NETWORK, ab, "A"): LinkDevice(
            ab, Transport.VXLAN, mine, str(names.link_local(NETWORK, "B")), 1400, names.vni(NETWORK, ab),
            "10.0.0.1", "10.0.0.2", 4790,
        ),
        names.device_name(NETWORK, ac, "A"): LinkDevice(
            ac, Transport.DIRECT, mine, str(names.link_local(NETWORK, "C")), underlay="eth1"
        ),
        names.device_name(NETWORK, ad, "A"): LinkDevice(
            ad, Transport.WIREGUARD, mine, str(names.link_local(NETWORK, "D")), remote="10.0.0.4", port=51820,
            remote_port=4791, keepalive_s=25, keys=("one", "two"),
        ),
    }  # fmt: skip


def test_the_view_of_another_site_has_no_local_targets() -> None:
    other = view(LINE["A"], rib.compute(MAP, "B"), MAP, {}, others={})
    assert other.own_site is None
    mine = view(LINE["A"], rib.compute(MAP, "A"), MAP, {}, others={})
    assert mine.own_site == {WorkloadId("A", "web"): Target("127.0.0.1", 9090)}
