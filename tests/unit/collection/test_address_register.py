"""Addresses are given out once, and remembered beside the authority."""

from __future__ import annotations

import datetime as dt
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.plugin_utils.address_register import (
    FILE,
    HELD_DAYS,
    Given,
    Register,
    RegisterError,
    read,
    write,
)
from ansible_collections.skedge.edge.plugins.plugin_utils.host import Host
from ansible_collections.skedge.edge.plugins.plugin_utils.topology import Topology, build

from skedge.config import from_dict
from skedge.core import names

TODAY = dt.date(2026, 11, 30)
OLD = "100.64.0.0/10"


def host(name: str, **values: Any) -> Host:
    variables = {f"skedge_{key}": value for key, value in {"network": "demo", **values}.items()}
    return Host(name, variables, dict.fromkeys([*variables, ""], f"host_vars/{name}.yml"), "10.0.0.1")


def deploy(hosts: list[Host], register: Register = Register("demo"), today: dt.date = TODAY) -> Topology:  # noqa: B008
    found = build(hosts, register, today)
    assert not found.errors
    return found


def present(name: str, **values: Any) -> Any:
    """What a host has that was deployed with an earlier version: its addresses, but no range."""
    network = values.get("network", "demo")
    made = str(names.overlay_address(names.SHARED_SPACE, network, name))
    return from_dict({"version": 1, "network": network, "site": name, "overlay_address": made, **values}, name)


def collide(cidr: str, wanted: str) -> tuple[str, str]:
    """Two names whose IPv4 addresses are the same in a range."""
    import ipaddress

    seen: dict[Any, str] = {}
    for number in range(100_000):
        name = f"{wanted}{number}"
        address = names.overlay_address(ipaddress.IPv4Network(cidr), "demo", name)
        if address in seen:
            return seen[address], name
        seen[address] = name
    raise AssertionError


# ---- who gets what -------------------------------------------------------------------------------------------------


def test_a_new_network_has_a_range_of_its_own_and_every_site_the_addresses_of_its_name() -> None:
    found = deploy([host("edge-a"), host("edge-b")])
    cidr = names.overlay_network("demo")
    assert found.register.overlay_cidr == str(cidr)
    for name, config in found.sites.items():
        assert config["overlay_cidr"] == str(cidr)
        assert config["overlay_address"] == str(names.overlay_address(cidr, "demo", name))
        assert config["overlay_address6"] == str(names.overlay_address6("demo", name))
        assert from_dict(config, name).nat4 == config["nat_address"]


def test_addresses_outside_of_that_range_that_are_written_make_the_range_the_whole_space() -> None:
    hosts = [host("edge-a", overlay_address="100.64.0.1"), host("edge-b")]
    found = deploy(hosts)
    assert found.sites["edge-b"]["overlay_cidr"] == OLD
    assert found.sites["edge-a"]["overlay_address"] == "100.64.0.1"


def test_a_deployed_network_keeps_range_and_addresses() -> None:
    hosts = {name: present(name) for name in ("edge-a", "edge-b")}
    found = deploy([host("edge-a"), host("edge-b"), host("edge-c")], Register("demo").learn(hosts))
    for name, before in hosts.items():
        now = from_dict(found.sites[name], name)
        same = ("overlay_cidr", "overlay4", "overlay6", "nat4", "nat6")
        assert [getattr(now, key) for key in same] == [getattr(before, key) for key in same]
    assert found.sites["edge-c"]["overlay_cidr"] == OLD


def test_the_register_is_believed_about_hosts_that_could_not_be_asked_and_hosts_about_themselves() -> None:
    first = deploy([host("edge-a"), host("edge-b")]).register
    moved = replace(first, sites={**first.sites, "edge-b": replace(first.sites["edge-b"], overlay_address=str(
        names.overlay_network("demo")[7]))})  # fmt: skip
    a = present("edge-a", overlay_cidr=first.overlay_cidr, overlay_address=str(names.overlay_network("demo")[9]))
    found = deploy([host("edge-a"), host("edge-b")], moved.learn({"edge-a": a}))
    assert found.sites["edge-a"]["overlay_address"].endswith(".0.9")
    assert found.sites["edge-b"]["overlay_address"].endswith(".0.7")


def test_who_was_there_keeps_its_address_and_a_name_that_makes_the_same_gets_another() -> None:
    cidr = "10.9.0.0/24"
    first, second = sorted(collide(cidr, "edge-"), reverse=True)  # the new one's name comes first
    before = deploy([host(first, overlay_cidr=cidr)])
    after = deploy([host(second, overlay_cidr=cidr), host(first, overlay_cidr=cidr)], before.register)
    assert after.sites[first]["overlay_address"] == before.sites[first]["overlay_address"]
    assert after.sites[second]["overlay_address"] != before.sites[first]["overlay_address"]


def test_an_address_that_was_written_stays_when_it_is_written_no_more() -> None:
    mine = str(names.overlay_network("demo")[77])
    before = deploy([host("edge-a", overlay_address=mine)])
    assert deploy([host("edge-a")], before.register).sites["edge-a"]["overlay_address"] == mine


@pytest.mark.parametrize("key", ["overlay_address", "nat_address", "overlay_address6"])
def test_an_address_that_another_site_was_given_is_refused(key: str) -> None:
    before = deploy([host("edge-a"), host("edge-b")])
    theirs = before.sites["edge-a"][key]
    found = build([host("edge-a"), host("edge-b", **{key: theirs})], before.register, TODAY)
    assert found.errors == [
        f"host_vars/edge-b.yml: skedge_{key}: {theirs} is also the address of edge-a (given out, {FILE}); "
        "give one of them another"
    ]


def test_an_address_that_is_made_from_another_site_s_name_for_nat_is_refused() -> None:
    theirs = str(names.nat_address6("demo", "edge-a"))
    found = build([host("edge-a"), host("edge-b", overlay_address6=theirs)], Register("demo"), TODAY)
    assert "is also the address of edge-a (made from its name)" in "".join(found.errors)


def test_addresses_of_two_hosts_that_were_the_same_are_so_no_more() -> None:
    hosts = {name: present(name, overlay_address="100.64.1.1") for name in ("edge-a", "edge-b")}
    found = deploy([host("edge-a"), host("edge-b")], Register("demo").learn(hosts))
    assert found.sites["edge-a"]["overlay_address"] == "100.64.1.1" != found.sites["edge-b"]["overlay_address"]


def test_no_site_s_nat_address_takes_what_another_is_reached_under() -> None:
    a = present("edge-a", nat_address="100.64.1.1", overlay_address="100.64.1.2")
    b = present("edge-b", overlay_address="100.64.1.1")
    found = deploy([host("edge-a"), host("edge-b")], Register("demo").learn({"edge-a": a, "edge-b": b}))
    assert found.sites["edge-b"]["overlay_address"] == "100.64.1.1" != found.sites["edge-a"]["nat_address"]


def test_no_site_is_given_an_address_among_the_clouds_resolvers() -> None:
    hosts = [host(f"edge-{number}", overlay_cidr=OLD) for number in range(400)]  # some six would have got one
    addresses = [one["overlay_address"] for one in deploy(hosts).sites.values()]
    assert not any(one.startswith("100.100.") for one in addresses)


def test_two_hundred_sites_share_no_address() -> None:
    found = deploy([host(f"edge-{number}", overlay_cidr="10.9.0.0/23") for number in range(200)])
    every = [address for one in found.register.sites.values() for address in one.addresses]
    assert len(set(every)) == len(every) == 600


# ---- who left ------------------------------------------------------------------------------------------------------


def test_what_a_site_leaves_is_kept_for_it() -> None:
    cidr = "10.9.0.0/24"
    first, second = collide(cidr, "edge-")
    before = deploy([host(first, overlay_cidr=cidr)])
    theirs = before.sites[first]["overlay_address"]
    meanwhile = deploy([host(second, overlay_cidr=cidr)], before.register)
    assert meanwhile.register.sites[first].gone == TODAY.isoformat()
    assert meanwhile.sites[second]["overlay_address"] != theirs
    later = deploy([host(second, overlay_cidr=cidr), host(first, overlay_cidr=cidr)], meanwhile.register)
    assert later.sites[first]["overlay_address"] == theirs
    assert not later.register.sites[first].gone


def test_every_site_is_told_who_left_until_it_is_back_or_forgotten() -> None:
    before = deploy([host("edge-a"), host("edge-b")])
    assert "removed_sites" not in before.sites["edge-a"]
    later = TODAY + dt.timedelta(HELD_DAYS - 1)
    for today, told in ((TODAY, ["edge-b"]), (later, ["edge-b"]), (later + dt.timedelta(1), None)):
        left = deploy([host("edge-a")], before.register, TODAY)
        assert deploy([host("edge-a")], left.register, today).sites["edge-a"].get("removed_sites") == told
    back = deploy([host("edge-a"), host("edge-b")], left.register)
    assert "removed_sites" not in back.sites["edge-a"]


def test_it_is_given_away_when_it_was_kept_for_long_enough() -> None:
    gone = Register("demo", "10.9.0.0/30", {"edge-a": Given("10.9.0.1", gone=TODAY.isoformat()),
        "edge-b": Given("10.9.0.2", gone=TODAY.isoformat())})  # fmt: skip
    held = build([host("edge-c")], gone, TODAY + dt.timedelta(HELD_DAYS - 1))
    assert held.errors == [
        "host_vars/edge-c.yml: skedge_overlay_cidr: 10.9.0.0/30 has no address left for edge-c (edge-a, edge-b left, "
        f"whose addresses are kept for {HELD_DAYS} days in {FILE}); give it a wider range"
    ]
    found = deploy([host("edge-c")], gone, TODAY + dt.timedelta(HELD_DAYS))
    assert found.sites["edge-c"]["overlay_address"] in ("10.9.0.1", "10.9.0.2")
    assert "edge-c" in found.register.sites


# ---- another range -------------------------------------------------------------------------------------------------


def test_a_range_without_the_sites_addresses_is_refused_before_anything_changes() -> None:
    before = deploy([host("edge-a"), host("edge-b")])
    hosts = [host("edge-a", overlay_cidr="10.50.0.0/16"), host("edge-b", overlay_cidr="10.50.0.0/16")]
    found = build(hosts, before.register, TODAY)
    had = before.sites["edge-a"]["overlay_address"]
    assert found.errors == [
        f"host_vars/edge-a.yml: skedge_overlay_cidr: 10.50.0.0/16 does not hold {had}, which edge-a has, and sites are "
        f"not renumbered while they serve; keep {before.register.overlay_cidr}, or run remove.yml for all hosts and "
        "deploy anew"
    ]
    assert not found.sites


def test_a_wider_or_narrower_range_with_all_of_them_is_taken() -> None:
    before = deploy([host("edge-a"), host("edge-b")])
    for cidr in (OLD, before.register.overlay_cidr):
        found = deploy([host("edge-a", overlay_cidr=cidr), host("edge-b", overlay_cidr=cidr)], before.register)
        assert found.register.overlay_cidr == cidr
        assert found.register.sites == before.register.sites


def test_any_range_is_taken_when_all_sites_were_removed() -> None:
    register = deploy([host("edge-a"), host("edge-b")]).register
    for site in ("edge-a", "edge-b"):
        register = register.without(site, TODAY)
    found = deploy([host("edge-a", overlay_cidr="10.50.0.0/16"), host("edge-b", overlay_cidr="10.50.0.0/16")], register)
    assert all(one["overlay_address"].startswith("10.50.") for one in found.sites.values())
    assert all(one["nat_address"].startswith("10.50.") for one in found.sites.values())


# ---- the file ------------------------------------------------------------------------------------------------------


def test_the_file_comes_back_as_it_was_written_and_is_the_owner_s(tmp_path: Path) -> None:
    register = deploy([host("edge-a"), host("edge-b")]).register
    directory = str(tmp_path / "ca")
    assert read(directory, "demo") == Register("demo")
    assert write(directory, register)
    assert not write(directory, register)
    assert read(directory, "demo") == register
    assert stat.S_IMODE((tmp_path / "ca" / FILE).stat().st_mode) == 0o600
    assert not list((tmp_path / "ca").glob("*.new"))


def test_what_another_deployment_gave_out_meanwhile_is_kept_and_never_given_twice(tmp_path: Path) -> None:
    write(str(tmp_path), Register("demo", OLD, {"edge-a": Given("100.64.0.1"), "edge-b": Given("100.64.0.2")}))
    write(str(tmp_path), Register("demo", OLD, {"edge-c": Given("100.64.0.3")}))
    assert sorted(read(str(tmp_path), "demo").sites) == ["edge-a", "edge-b", "edge-c"]
    with pytest.raises(RegisterError, match="was given to edge-a by another deployment"):
        write(str(tmp_path), Register("demo", OLD, {"edge-d": Given("100.64.0.1")}))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1}', '{"version": 1, "network": "demo", "overlay_cidr": "x", "sites": {}}',
     '{"version": 1, "network": "demo", "overlay_cidr": "10.0.0.0/8", "sites": {"a": {"overlay_address": "x"}}}',
     '{"version": 1, "network": "demo", "overlay_cidr": "10.0.0.0/8", "sites": {"a": {"other": "10.0.0.1"}}}',
     '{"version": 1, "network": "demo", "overlay_cidr": "10.0.0.0/8", "sites": []}'],
)  # fmt: skip
def test_a_register_that_is_none_is_one_sentence_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RegisterError, match=r"is no register of addresses .*restore it from backup, or remove it"):
        read(str(tmp_path), "demo")


def test_another_network_s_register_and_a_later_version_s_are_refused(tmp_path: Path) -> None:
    write(str(tmp_path), Register("demo", OLD, {}))
    with pytest.raises(RegisterError, match="is the register of network demo, not of other"):
        read(str(tmp_path), "other")
    document = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**document, "version": 2}))
    with pytest.raises(RegisterError, match="is of a later version of skedge"):
        read(str(tmp_path), "demo")
