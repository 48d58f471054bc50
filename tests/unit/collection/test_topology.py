"""The whole network is judged on the control node, every problem with its file."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.plugin_utils import topology as topo
from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host
from ansible_collections.skedge.edge.plugins.plugin_utils.topology import build

from skedge.config import from_dict


def host(name: str, address: str = "", **values: Any) -> Host:
    variables = {f"skedge_{key}": value for key, value in values.items()}
    files = dict.fromkeys([*variables, ""], f"host_vars/{name}.yml")
    return Host(name, variables, files, address or f"10.0.0.{ord(name[-1])}", variables.get("skedge_local_address", ""),
        address or f"10.0.0.{ord(name[-1])}", variables.get("skedge_reachable", True))  # fmt: skip


def line(**of_a: Any) -> list[Host]:
    """Three sites in a line, a --10-- b --20-- c, with the given variables at a."""
    a = {"links": [{"to": "edge-b", "cost": 10}], **of_a}
    return [host("edge-a", **a), host("edge-b", links=[{"to": "edge-c", "cost": 20}]), host("edge-c")]


def link(config: dict[str, Any], to: str, name: str = "main") -> dict[str, Any]:
    return next(item for item in config["links"] if item["to"] == to and item["name"] == name)


def test_a_link_written_at_one_end_is_completed_at_the_other():
    sites = build(line(links=[{"to": "edge-b", "cost": 10, "transport": "vxlan"}])).sites
    common = {"name": "main", "cost": 10, "transport": "vxlan"}
    ends = {"local": "10.0.0.97", "remote": "10.0.0.98"}
    assert link(sites["edge-a"], "edge-b") == {"to": "edge-b", **common, **ends}
    mirrored = {"local": "10.0.0.98", "remote": "10.0.0.97"}
    assert link(sites["edge-b"], "edge-a") == {"to": "edge-a", **common, **mirrored}
    assert [item["to"] for item in sites["edge-c"]["links"]] == ["edge-b"]


def test_every_completed_site_is_what_the_controllers_parser_accepts():
    for name, config in build(line()).sites.items():
        assert from_dict(config, name).site == name
        assert from_dict(config, name).overlay4 == config["overlay_address"]


def test_of_two_ends_the_larger_cost_holds_and_costs_by_service_too():
    hosts = [
        host("edge-a", links=[{"to": "edge-b", "cost": 5, "service_costs": {"reports": 200, "web": 1}}]),
        host("edge-b", links=[{"to": "edge-a", "cost": 7, "service_costs": {"reports": 100}}]),
    ]
    sites = build(hosts).sites
    for name, far in (("edge-a", "edge-b"), ("edge-b", "edge-a")):
        assert link(sites[name], far)["cost"] == 7
        assert link(sites[name], far)["service_costs"] == {"reports": 200, "web": 1}


def test_a_measured_cost_holds_at_both_ends_unless_the_other_has_a_number():
    hosts = line(links=[{"to": "edge-b", "cost": "auto", "base_cost": 5}])
    sites = build(hosts).sites
    for here, there in (("edge-a", "edge-b"), ("edge-b", "edge-a")):
        assert (link(sites[here], there)["cost"], link(sites[here], there)["base_cost"]) == ("auto", 5)
        made = from_dict(sites[here], here).links[0]
        assert (made.cost, made.configured_cost) == ("auto", 5)
    hosts = line(links=[{"to": "edge-b", "cost": "auto"}])
    hosts[1] = host("edge-b", "10.0.0.2", links=[{"to": "edge-a", "cost": 40}])
    sites = build(hosts).sites
    assert (link(sites["edge-a"], "edge-b")["cost"], link(sites["edge-b"], "edge-a")["cost"]) == ("auto", 40)


def test_a_parallel_link_is_another_link():
    links = [
        {"to": "edge-b"},
        {"to": "edge-b", "name": "backup", "cost": 50, "port": 4791, "mtu": 1400, "transport": "vxlan"},
    ]
    sites = build([host("edge-a", links=links), host("edge-b")]).sites
    assert [item["name"] for item in sites["edge-b"]["links"]] == ["backup", "main"]
    assert link(sites["edge-b"], "edge-a", "backup") | {"port": 4791, "mtu": 1400} == link(
        sites["edge-b"], "edge-a", "backup"
    )


def test_addresses_of_a_link_are_mirrored_and_override_the_inventory():
    links = [{"to": "edge-b", "transport": "vxlan", "local": "192.0.2.1", "remote": "192.0.2.2"}]
    sites = build([host("edge-a", links=links), host("edge-b")]).sites
    assert (link(sites["edge-b"], "edge-a")["local"], link(sites["edge-b"], "edge-a")["remote"]) == (
        "192.0.2.2",
        "192.0.2.1",
    )


def test_behind_address_translation_each_end_uses_what_it_has():
    links = [{"to": "edge-b", "transport": "vxlan"}]
    hosts = [host("edge-a", links=links), host("edge-b", address="198.51.100.7", local_address="10.9.9.9")]
    sites = build(hosts).sites
    assert link(sites["edge-a"], "edge-b")["remote"] == "198.51.100.7"
    assert link(sites["edge-b"], "edge-a")["local"] == "10.9.9.9"


def test_skedge_site_names_the_site_of_a_host_with_a_long_name():
    hosts = [host("a.example.com", site="edge-a", links=[{"to": "edge-b"}]), host("edge-b")]
    sites = build(hosts).sites
    assert sites["a.example.com"]["site"] == "edge-a"
    assert link(sites["edge-b"], "edge-a")["remote"] == "10.0.0.109"


def test_a_wireguard_link_has_a_port_at_each_end_that_both_know():
    links = [{"to": "edge-b"}, {"to": "edge-b", "name": "lte", "port": 5000, "remote_port": 5001}]
    sites = build([host("edge-a", links=links), host("edge-b", links=[{"to": "edge-c"}]), host("edge-c")]).sites
    for name in ("main", "lte"):
        a, b = link(sites["edge-a"], "edge-b", name), link(sites["edge-b"], "edge-a", name)
        assert (a["port"], a["remote_port"]) == (b["remote_port"], b["port"])
        assert (a["remote"], b["remote"]) == ("10.0.0.98", "10.0.0.97")
        assert "local" not in a
    assert (link(sites["edge-a"], "edge-b", "lte")["port"], link(sites["edge-b"], "edge-a", "lte")["port"]) == (
        5000,
        5001,
    )
    of_b = [item["port"] for item in sites["edge-b"]["links"]]
    assert len(set(of_b)) == 3
    without = build([host("edge-a", links=links[:1]), host("edge-b"), host("edge-c")]).sites
    assert link(without["edge-a"], "edge-b")["port"] == link(sites["edge-a"], "edge-b")["port"]  # others change nothing


def test_a_host_that_cannot_be_called_calls_and_keeps_its_way_open():
    hosts = [host("edge-a", links=[{"to": "edge-b"}], reachable=False), host("edge-b")]
    sites = build(hosts).sites
    a, b = link(sites["edge-a"], "edge-b"), link(sites["edge-b"], "edge-a")
    assert (a["remote"], a["keepalive_s"]) == ("10.0.0.98", 25)
    assert "remote" not in b
    assert "keepalive_s" not in b
    both = [host("edge-a", links=[{"to": "edge-b"}], reachable=False), host("edge-b", reachable=False)]
    assert "joins two hosts with skedge_reachable false" in build(both).errors[0]
    vxlan = [host("edge-a", links=[{"to": "edge-b", "transport": "vxlan"}], reachable=False), host("edge-b")]
    assert "is vxlan, but edge-a has skedge_reachable false; give transport: wireguard" in build(vxlan).errors[0]


def test_a_far_end_may_be_a_name():
    sites = build([host("edge-a", links=[{"to": "edge-b"}]), host("edge-b", address="edge-b.example.com")]).sites
    assert link(sites["edge-a"], "edge-b")["remote"] == "edge-b.example.com"


BAD = [
    ({"lisners": []}, "skedge_lisners: unknown variable; did you mean skedge_listeners?"),
    ({"links": [{"to": "edge-b", "csot": 3}]}, "skedge_links[0].csot: unknown key; did you mean cost?"),
    ({"links": [{"to": "edge-b", "cost": 0}]}, "skedge_links[0].cost: 0 is not a cost; give an integer"),
    ({"links": [{"to": "edge-b", "cost": 70000}]}, "skedge_links[0].cost: 70000 is not a cost"),
    ({"links": [{"to": "edge-x"}]}, "skedge_links[0].to: 'edge-x' is not a site of this inventory; did you mean edge-"),
    ({"links": [{"to": "edge-a"}]}, "skedge_links[0].to: edge-a is this site itself"),
    ({"links": [{"to": "edge-b"}, {"to": "edge-b"}]}, "skedge_links[1]: the link to edge-b named main is already"),
    ({"links": "edge-b"}, "skedge_links: 'edge-b' is not a list"),
    ({"links": [{"to": ["edge-b"]}]}, "skedge_links[0].to: "),
    ({"links": [{"to": "edge-b", "transport": "direct", "device": "eth1"}]}, "its device at edge-b is not known"),
    (
        {"links": [{"to": "edge-b", "remote": "100.64.0.9"}], "overlay_address": "100.80.0.1"},
        "is inside skedge_overlay_cidr 100.64.0.0/10",
    ),
    (
        {"listeners": [{"service": "a", "port": 80}, {"service": "b", "port": 80}]},
        "skedge_listeners[1]: *:80 tcp is already taken by skedge_listeners[0]",
    ),
    (
        {"connectors": [{"service": "a", "host": "127.0.0.1", "port": port} for port in (1, 2)]},
        "skedge_connectors[1].name: 'a' is already the name of skedge_connectors[0]",
    ),
    ({"overlay_address": "10.1.1.1"}, "skedge_overlay_address: 10.1.1.1 is not a host address of the overlay"),
    ({"overlay_cidr": "100.64.0.0/11"}, "skedge_overlay_cidr: "),
    ({"network": "other"}, "skedge_network: "),
    ({"site": "edge-c"}, "edge-c is already the site of"),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "sentence"), BAD, ids=[text[:40] for _, text in BAD])
def test_bad_input_is_refused_with_its_place(variables: dict[str, Any], sentence: str):
    result = build(line(**variables))
    assert result.sites == {}
    hits = [error for error in result.errors if sentence in error]
    assert hits, result.errors
    assert hits[0].startswith(
        ("host_vars/edge-a.yml: skedge_", "host_vars/edge-b.yml: skedge_", "host_vars/edge-c.yml: skedge_")
    )
    assert len(result.errors) == 1 or variables.keys() & {"links", "site"}, result.errors


def test_two_sites_with_one_overlay_address_are_named_with_their_files():
    hosts = [host("edge-a", overlay_address="100.64.0.9"), host("edge-b", overlay_address="100.64.0.9")]
    assert build(hosts).errors == [
        "host_vars/edge-b.yml: skedge_overlay_address: 100.64.0.9 is also the address of edge-a; "
        "give one of them another"
    ]


def test_a_range_without_room_is_named():
    names = [host(f"h{i}", overlay_cidr="10.9.0.0/29") for i in range(7)]  # six addresses for seven sites
    assert build(names).errors == [
        "host_vars/h6.yml: skedge_overlay_cidr: 10.9.0.0/29 has no address left for h6; give it a wider range"
    ]
    assert not build(names[:6]).errors  # nobody has one for NAT, and needs none


def test_all_problems_are_reported_at_once():
    hosts = [
        host("edge-a", links=[{"to": "edge-b", "cost": 0}, {"to": "nowhere"}], lniks=[]),
        host("edge-b", overlay_address="100.64.0.9"),
        host("edge-c", overlay_address="100.64.0.9", listeners=[{"service": "a"}]),
    ]
    errors = "\n".join(build(hosts).errors)
    for part in (
        ".cost: 0 is not a cost",
        "'nowhere' is not a site",
        "skedge_lniks",
        "also the address of",
        ".port: missing",
    ):
        assert part in errors


def test_ends_that_contradict_each_other_are_refused():
    ends = [{"to": to, "port": port, "transport": "vxlan"} for to, port in (("edge-b", 1), ("edge-a", 2))]
    hosts = [host("edge-a", links=ends[:1]), host("edge-b", links=ends[1:])]
    assert "has port 1 here and 2 at edge-b" in build(hosts).errors[0]


def test_a_neighbour_without_an_address_says_which_variable_to_set():
    hosts = [host("edge-a", links=[{"to": "edge-b", "transport": "vxlan"}]), Host("edge-b", {}, {"": "hosts.yml"}, "")]
    assert build(hosts).errors[0].endswith("; set skedge_underlay_address of edge-b")


def test_a_host_without_an_address_of_its_own_is_named():
    links = [{"to": "edge-b", "transport": "vxlan", "remote": "10.0.0.2"}]
    hosts = [Host("edge-a", {"skedge_links": links}, {}, ""), host("edge-b")]
    assert "edge-a has no address for the link to edge-b; set skedge_underlay_address" in build(hosts).errors[0]


def test_links_whose_devices_would_have_one_name_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(topo, "device_name", lambda network, link_id, site: "sk-same")
    links = [{"to": "edge-b"}, {"to": "edge-b", "name": "backup"}]
    errors = build([host("edge-a", links=links), host("edge-b")]).errors
    assert "would have the same device as" in errors[0]


def test_services_behind_one_listener_are_judged_before_any_host_is_touched():
    shares = [{"service": "app", "weight": 7}, {"service": "app-new", "weight": 3}]
    good = {"port": 80, "policy": "weighted", "services": shares, "affinity": "client", "affinity_timeout_s": 60}
    built = build(line(listeners=[good]))
    assert built.errors == []
    (listener,) = from_dict(built.sites["edge-a"], "x").listeners
    assert [(share.service, share.weight) for share in listener.services] == [("app", 7), ("app-new", 3)]
    bad = {**good, "policy": "priority", "services": [*shares, {"servise": "x"}]}
    assert build(line(listeners=[bad])).errors == [
        "host_vars/edge-a.yml: skedge_listeners[0].services[2].servise: unknown key; did you mean service?",
        "host_vars/edge-a.yml: skedge_listeners[0].services[2].service: missing; give a service name, 1 to 63 printable"
        " ASCII characters without a space",
    ]
    assert build(line(listeners=[{**good, "policy": "priority"}])).errors == [
        f"host_vars/edge-a.yml: skedge_listeners[0].services[{index}].weight: priority knows no weights; remove it or"
        " give policy: weighted"
        for index in (0, 1)
    ]


def test_two_sites_cannot_announce_the_same_lan():
    hosts = line(prefixes=["10.1.0.0/16", "fd01::/48"])
    assert from_dict(build(hosts).sites["edge-a"], "a").prefixes == ("10.1.0.0/16", "fd01::/48")
    hosts[2] = host("edge-c", prefixes=["10.2.0.0/16", "10.1.4.0/24", "nonsense"])
    assert build(hosts).errors == [
        "host_vars/edge-c.yml: skedge_prefixes[2]: 'nonsense' is not a prefix; give one such as"
        " 10.1.0.0/16 or fd12:3456::/48",
        "host_vars/edge-c.yml: skedge_prefixes[1]: 10.1.4.0/24 overlaps 10.1.0.0/16, which edge-a announces;"
        " give one of them prefixes of its own",
    ]
