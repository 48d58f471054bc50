"""Which devices are the LAN's, and what putting programs on them changes on the host: nothing that stays."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from skedge.core.errors import Waiting
from skedge.dataplane.ebpf.lan import devices as lan_devices
from skedge.dataplane.ebpf.lan.devices import LanDevice
from skedge.dataplane.host.sysctls import LoopSettingDriver, loop_settings
from tests.integration.links.kit import Namespace
from tests.kit.rows import set_loop

from ..kit import HOST, MACHINE, Bench

LOOP = LanDevice(loop=True)
SETTINGS = "cd /proc/sys/net; cat ipv4/conf/lo/{forwarding,accept_local,route_localnet} ipv6/conf/lo/forwarding"


def test_ports_of_bridges_and_our_own_devices_are_none(bench: Bench) -> None:
    ns, driver = bench.site.ns, bench.site.lan
    ns.ip("link", "add", "br0", "type", "bridge")
    ns.ip("link", "add", "port0", "type", "veth", "peer", "name", "box0")
    ns.ip("link", "set", "port0", "master", "br0")
    try:
        found = ns(driver.devices)
        ethernet = ("br0", "box0", "lan0", "lan1", "under0", "under1")
        assert found == {**dict.fromkeys(ethernet, LanDevice()), "lo": LOOP}
        assert ns(driver.devices, ["lan0"]) == {"lan0": LanDevice(), "lo": LOOP}
        assert ns(driver.devices, []) == {}
    finally:
        ns.ip("link", "del", "br0")
        ns.ip("link", "del", "port0")


def makes(*device: str) -> bool:
    """Return whether this kernel has such devices."""
    with contextlib.suppress(subprocess.CalledProcessError):
        space = Namespace("kinds")
        try:
            space.ip("link", "add", "under", "type", "veth", "peer", "name", "other")
            space.ip("link", "add", *device)
            return True
        finally:
            space.close()
    return False


@pytest.fixture
def vrf(bench: Bench) -> Iterator[None]:
    if not makes("red", "type", "vrf", "table", "10"):
        pytest.skip("this kernel has no VRF")
    bench.site.ns.ip("link", "add", "red", "type", "vrf", "table", "10")
    bench.site.ns.ip("link", "set", "under1", "master", "red")
    yield
    bench.site.ns.ip("link", "del", "red")


def test_devices_of_a_vrf_are_named(bench: Bench, vrf: None) -> None:
    ns, driver = bench.site.ns, bench.site.lan
    found = ns(driver.devices)
    assert found["under1"] == LanDevice(vrf="red")
    assert "red" not in found
    assert found == {**ns(driver.devices, found), "lo": LOOP}
    ns(driver.put, "under1", LanDevice())  # as it was before it came into the VRF
    with pytest.raises(Waiting, match="VRF red"):
        ns(driver.put, "under1", found["under1"])
    assert "under1" not in ns(driver.read)


def links_of(*given: tuple[str, int, str, int | None]) -> Any:
    """A netlink socket that tells of these devices: name, index, kind, index of the master."""
    found = []
    for name, index, kind, master in given:
        about, link = MagicMock(), MagicMock()
        about.get_attr.side_effect = {"IFLA_INFO_KIND": kind}.get
        said = {"IFLA_IFNAME": name, "IFLA_LINKINFO": about if kind else None, "IFLA_MASTER": master}
        link.get_attr.side_effect = said.get
        link.__getitem__.side_effect = {"index": index, "ifi_type": 1}.get
        found.append(link)
    return MagicMock(dump=lambda _what: found)


def test_which_devices_of_a_host_are_the_lans() -> None:
    host = links_of(
        ("lo", 1, "", None), ("eth0", 2, "", 9), ("eth1", 3, "", None), ("eth1.7", 4, "vlan", None),
        ("red", 5, "vrf", None),
        ("eth2", 6, "", 5), ("br0", 7, "bridge", 5), ("port", 8, "veth", 7), ("bond0", 9, "bond", None),
        ("mac0", 10, "macvlan", None), ("sk-1", 11, "vxlan", None), ("team", 12, "team", None), ("leg", 13, "", 12),
    )  # fmt: skip
    plain = dict.fromkeys(("eth1", "eth1.7", "bond0", "mac0", "team"), LanDevice())
    expected = {**plain, "eth2": LanDevice(vrf="red"), "br0": LanDevice(vrf="red"), "lo": LOOP}
    assert lan_devices.LanDriver("/", host).devices() == expected
    assert lan_devices.LanDriver("/", host).devices(["eth2", "eth1"]) == {
        "eth2": LanDevice(vrf="red"), "eth1": LanDevice(), "lo": LOOP,
    }  # fmt: skip


def test_put_twice_read_and_taken_off(bench: Bench) -> None:
    ns, driver = bench.site.ns, bench.site.lan
    wanted = ns(driver.devices, ["lan0"])
    assert ns(driver.read) == wanted
    for name, value in wanted.items():
        ns(driver.put, name, value)
    assert ns(driver.read) == wanted
    try:
        assert set(ns(lan_devices.attached, bench.site.netlink)) == set(wanted)
        assert ns.sh(f"bash -c '{SETTINGS}'").split() == ["1"] * 4
        for name in wanted:
            ns(lan_devices.detach, bench.site.netlink, name)
        ns(set_loop, off=True)
        assert ns(driver.read) == {}
        forwarding6 = ns.sh("cat /proc/sys/net/ipv6/conf/all/forwarding").strip()
        assert ns.sh(f"bash -c '{SETTINGS}'").split() == ["0", "0", "0", forwarding6]
        ns(driver.delete, "gone0")
        assert "clsact" not in ns.sh("tc qdisc show")
    finally:
        ns(set_loop)
        for name, value in wanted.items():
            ns(driver.put, name, value)


def test_filters_of_others_stay(bench: Bench) -> None:
    ns, driver = bench.site.ns, bench.site.lan
    ns.sh(
        f"tc filter add dev lan0 egress prio 5 bpf direct-action object-pinned {bench.site.pin_dir}/{lan_devices.PIN}"
    )
    try:
        ns(lan_devices.detach, bench.site.netlink, "lan0")
        assert lan_devices.PIN in ns.sh("tc filter show dev lan0 egress")
    finally:
        ns.sh("tc filter del dev lan0 egress prio 5")
        ns(driver.put, "lan0", LanDevice())


def test_lo_that_the_hosts_own_switches_changed_is_set_again(bench: Bench) -> None:
    ns, driver = bench.site.ns, LoopSettingDriver()
    wanted = ns(loop_settings)
    assert ns(driver.read) == wanted
    for value in "10":  # a change of the host's switch is written to every device
        ns.sh(f"sysctl -qw net.ipv4.ip_forward={value}")
    assert ns(driver.read).keys() == wanted.keys() - {"net.ipv4.conf.lo.forwarding"}
    assert ns(set_loop)
    assert ns(driver.read) == wanted
    assert not ns(set_loop)


def test_the_address_on_the_way_to_a_machine(bench: Bench) -> None:
    ns, netlink = bench.site.ns, bench.site.netlink
    for v in (4, 6):
        assert ns(lan_devices.source_towards, netlink, MACHINE[v]) == HOST[v]
    assert ns(lan_devices.source_towards, netlink, "192.0.2.1") is None
