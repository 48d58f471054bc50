"""The judge from outside: what it makes of the kernel's answers, how it tells two moments apart, which bytes count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from skedge.dataplane.ebpf import layout_listener, layout_placement, layout_service, link_table, packet_check
from skedge.dataplane.ebpf.lan import layout_flow
from tests.kit import snapshot_maps, snapshot_objects
from tests.kit.snapshot import Change, Snapshot

BPF = Path(__file__).parents[3] / "skedge" / "bpf"
EMPTY: dict[str, Any] = {
    name: []
    for name in (
        *("links", "routes4", "routes6", "rules4", "rules6", "neighbours", "proxies", "fdb", "qdiscs", "nft"),
        *("addresses", "filters", "tcx", "ipvs", "wireguard"),
    )
} | {"sysctls": {}}


def link(name: str, up: bool = True, mtu: int = 1500) -> dict[str, Any]:
    return {"ifname": name, "flags": ["UP"] if up else [], "mtu": mtu, "link_type": "[1]", "address": "02::"}


def taken(**raw: Any) -> Snapshot:
    return Snapshot(snapshot_objects.objects(EMPTY | raw))


def said(before: Snapshot, after: Snapshot) -> list[str]:
    return [str(change) for change in before.diff(after)]


def nft(*objects: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"nftables": [{kind: {"family": "inet", **fields}} for kind, fields in objects]}


# ---- diff ----------------------------------------------------------------------------------------------------------


def test_two_equal_moments_differ_in_nothing() -> None:
    assert taken(links=[link("a")]).diff(taken(links=[link("a")])) == ()


def test_new_gone_and_changed_are_told_in_words() -> None:
    before, after = taken(links=[link("a"), link("b")]), taken(links=[link("b", mtu=1400), link("c")])
    gone, changed, new = said(before, after)
    assert gone.startswith("link a: gone: kind=[1] mtu=1500")
    assert changed == "link b: mtu 1500 => 1400"
    assert new.startswith("link c: new: kind=[1]")


def test_a_hint_names_the_object_and_not_its_ways() -> None:
    route = {"dst": "10.0.0.0/8", "table": "7400", "protocol": "74", "metric": 5, "gateway": "10.1.0.1", "dev": "a"}
    (change,) = taken().diff(taken(routes4=[route]))
    assert change.owner_hint == ("route", "10.0.0.0/8", 7400)
    assert change.key == ("10.0.0.0/8", 7400, "ipv4", 5, "")
    assert change.after == {"routes": ("unicast proto 74 nexthop gateway 10.1.0.1 dev a",)}
    assert Change("link", ("a",), None, {}).owner_hint == ("link", "a")


def test_what_goes_with_a_device_says_so_and_its_sysctls_are_not_told() -> None:
    address = {"dev": "a", "address": "10.1.0.1/24", "peer": "", "scope": 0, "flags": 0x80, "proto": 74, "metric": 0}
    route = {"dst": "10.0.0.0/8", "dev": "a"}
    there = {"net/ipv4/conf/a/rp_filter": "2", "net/ipv4/conf/default/rp_filter": "0"}
    default = {"net/ipv4/conf/default/rp_filter": "0"}
    before = taken(links=[link("a")], addresses=[address], routes4=[route], sysctls=there)
    changes = before.diff(taken(sysctls=default))
    assert [(c.kind, c.because) for c in changes] == [
        ("address", ("link", "a")),
        ("link", None),
        ("route", ("link", "a")),
    ]
    down = before.diff(taken(links=[link("a", up=False)], addresses=[address], sysctls=there))
    assert [(c.kind, c.because) for c in down] == [("link", None), ("route", ("link", "a"))]


def test_what_is_put_on_a_new_device_is_a_change_of_its_own() -> None:
    address = {"dev": "a", "address": "10.1.0.1/24", "peer": "", "scope": 0, "flags": 0x80, "proto": 74, "metric": 0}
    (one, two) = taken().diff(taken(links=[link("a")], addresses=[address]))
    assert (one.because, two.because) == (None, None)


def test_a_new_devices_sysctls_are_told_where_they_are_not_the_default() -> None:
    default = {"net/ipv4/conf/default/rp_filter": "0", "net/ipv6/conf/default/accept_ra": "1"}
    new = {"net/ipv4/conf/a/rp_filter": "0", "net/ipv6/conf/a/accept_ra": "0"}
    changes = taken(sysctls=default).diff(taken(links=[link("a")], sysctls=default | new))
    assert [str(c) for c in changes[1:]] == ["sysctl net/ipv6/conf/a/accept_ra: new: value=0"]


def test_devices_follow_the_sysctl_of_all() -> None:
    names = [f"net/ipv6/conf/{device}/forwarding" for device in ("a", "all", "b", "default")]
    changes = taken(sysctls=dict.fromkeys(names, "0")).diff(taken(sysctls=dict.fromkeys(names, "1")))
    assert [c.because for c in changes] == [("sysctl", names[1]), None, ("sysctl", names[1]), ("sysctl", names[1])]
    (alone,) = taken(sysctls=dict.fromkeys(names, "0")).diff(taken(sysctls=dict.fromkeys(names, "0") | {names[0]: "1"}))
    assert alone.because is None


# ---- what the kernel makes by itself -------------------------------------------------------------------------------


def test_the_kernels_own_addresses_and_routes_are_no_objects() -> None:
    addresses = [
        {"dev": "lo", "address": "127.0.0.1/8", "proto": 0},
        {"dev": "a", "address": "fe80::1/64", "proto": 3},
        {"dev": "a", "address": "2001:db8::1/64", "proto": 2},
    ]
    four = [{"dst": "10.1.0.0/24", "dev": "a", "protocol": "2"}, {"dst": "10.1.0.255", "type": "3", "protocol": "2"}]
    six = [{"dst": "ff00::/8", "dev": "a", "protocol": "2", "table": "255"}, {"dst": "default", "protocol": "9"}]
    assert taken(addresses=addresses, routes4=four, routes6=six).objects == {}


def test_a_counter_counts_only_as_being_there() -> None:
    def rules(counter: Any, handle: int) -> Snapshot:
        expr = [{"counter": counter}, {"drop": None}] if counter else [{"drop": None}]
        rule = ("rule", {"table": "t", "chain": "c", "handle": handle, "expr": expr})
        return taken(nft=nft(("table", {"name": "t"}), ("chain", {"table": "t", "name": "c", "handle": 1}), rule))

    quiet = rules({"packets": 0, "bytes": 0}, 2)
    assert quiet.diff(rules({"packets": 9, "bytes": 900}, 7)) == ()
    (change,) = quiet.diff(rules(None, 2))
    assert change.owner_hint == ("nft chain", "inet", "t", "c")


def test_the_order_of_rules_and_the_elements_of_sets_count() -> None:
    def chain(*words: str) -> Snapshot:
        rules = [("rule", {"table": "t", "chain": "c", "handle": 1, "expr": [{word: None}]}) for word in words]
        return taken(nft=nft(("chain", {"table": "t", "name": "c"}), *rules))

    def elements(*elem: str) -> Snapshot:
        return taken(nft=nft(("set", {"table": "t", "name": "s", "type": "ipv4_addr", "elem": list(elem)})))

    assert len(chain("accept", "drop").diff(chain("drop", "accept"))) == 1
    assert elements("1.1.1.1", "2.2.2.2").diff(elements("2.2.2.2", "1.1.1.1")) == ()
    assert len(elements("1.1.1.1").diff(elements())) == 1


def test_ipvs_is_read_without_its_counts() -> None:
    lines = [
        "IP Virtual Server version 1.2.1 (size=4096)",
        "Prot LocalAddress:Port Scheduler Flags",
        "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn",
        "TCP  0A4D0001:1F90 wrr  ",
        "  -> 0A4D0002:2382      Masq    3      {}          0         ",
    ]
    one, two = (taken(ipvs=[line.format(n) for line in lines]) for n in (0, 7))
    assert one.diff(two) == ()
    assert one.objects["ipvs destination", "TCP", "0A4D0001:1F90", "0A4D0002:2382"] == {
        "forward": "Masq",
        "weight": "3",
    }
    assert one.objects["ipvs service", "TCP", "0A4D0001:1F90"] == {"scheduler": "wrr"}


# ---- masks of maps -------------------------------------------------------------------------------------------------


def test_every_pinned_map_has_a_mask_or_is_left_out() -> None:
    text = "\n".join(path.read_text() for path in sorted(BPF.rglob("*.h")))
    pinned = set(re.findall(r'PIN_DIR "/(\w+)"', text))
    assert len(pinned) > 20
    assert pinned - snapshot_maps.KEPT.keys() - snapshot_maps.LEFT_OUT == set()
    assert snapshot_maps.KEPT.keys() & snapshot_maps.LEFT_OUT == set()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("services_v1", layout_service.Service.SIZE),
        ("listeners_v2", layout_listener.ListenerValue.STRUCT.size),
        ("config_v1", layout_placement.Config.SIZE),
        ("workload_names_v1", layout_placement.WORKLOAD_NAME.size),
        ("nat_config_v1", layout_flow.NatConfig.STRUCT.size),
        ("nat_addresses_v1", layout_flow.NatAddresses.STRUCT.size),
        ("link_config_v2", packet_check._CONFIG.size),
        ("link_table_v2", link_table.ENTRY.size),
    ],
)
def test_a_mask_has_the_size_of_its_struct(name: str, size: int) -> None:
    assert snapshot_maps.KEPT[name].size == size


def test_of_a_service_what_the_controller_writes_is_read_and_counts_are_not() -> None:
    how = snapshot_maps.KEPT["services_v1"]
    slot = layout_service.Service.SLOT
    raw = bytearray(how.size)
    layout_service.Service.HEADER.pack_into(raw, 0, 0, 8, 3, 99, 98, 97, 96, 95, 0)
    four, six = bytes((10, 0, 0, 7)), bytes(16)
    values = (30, 2, 1, 5, 71, 72, 73, 74, 1, four, (9090).to_bytes(2), bytes(2), six, 4, 75)
    slot.pack_into(raw, layout_service.Service.HEADER.size + slot.size, *values)
    service, only = snapshot_maps._objects("services_v1", how, (5).to_bytes(4, "little"), bytes(raw))
    assert service == (("services_v1", "5"), {"size": 8, "version": 3})
    assert only[0] == ("services_v1", "5", "slot 1")
    shown = {"path_cost": 30, "capacity": 2, "others": 1, "flags": 5, "addr4": "0a000007", "port4": "9090"}
    assert only[1] == {**shown, "port6": "0", "addr6": "::", "generation": 4}
