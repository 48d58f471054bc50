"""Which devices are the LAN's, and what putting programs on them changes on the host: nothing that stays."""

from __future__ import annotations

from skedge.dataplane.ebpf import lan_devices
from skedge.dataplane.ebpf.lan_devices import LanDevice
from skedge.dataplane.host.sysctls import LoopSettingDriver, loop_settings
from tests.kit.rows import set_loop

from .kit import HOST, MACHINE, Bench

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
