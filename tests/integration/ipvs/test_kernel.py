"""The controller's whole kernel with the engine ipvs: applied, applied again, adopted, removed."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from skedge.config import from_dict
from skedge.core.desired import compute
from skedge.core.linkstate.own_records import endpoint_ports, links_record, services_record
from skedge.core.model import SiteConfig
from skedge.core.names import overlay_prefix6
from skedge.core.records import NetworkMap
from skedge.core.routing import rib
from skedge.daemon.kernel.assembly import build_kernel
from skedge.daemon.kernel.kernel import Kernel
from skedge.dataplane import purge
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.ipvs.engine import IpvsEngine
from tests.integration.links.kit import Namespace

HOST = "10.94.0.5"
STATE = (  # without the devices' states: the kernel settles those later
    "ip -j addr | jq -c '.[] | [.ifname, [.addr_info[].local]]'; ip rule; ip -6 rule;"
    " sysctl -a 2>/dev/null | grep -E 'vs\\.|all.forwarding'"
)


def config() -> SiteConfig:
    return from_dict(
        {
            "network": "ipvskernel",
            "site": "one",
            "engine": "ipvs",
            "links": [{"to": "two", "transport": "vxlan", "remote": "10.94.0.6", "local": HOST}],
            "listeners": [
                {"service": "web", "port": 8080},
                {"service": "web", "port": 8081, "affinity": "client"},
                {"services": [{"service": "web", "weight": 2}, {"service": "api"}], "policy": "weighted", "port": 8082},
            ],
            "connectors": [
                {"service": "web", "host": HOST, "port": 9090},
                {"service": "api", "host": HOST, "port": 9091},
                {"service": "other", "host": "127.0.0.1", "port": 9092},
            ],
        },
        "test",
    )


def desired(site: SiteConfig) -> compute.Desired:
    ports = endpoint_ports(site, {})
    health = {connector.name: True for connector in site.connectors}
    network_map = NetworkMap({site.site: links_record(site, {})}, {site.site: services_record(site, health, ports)})
    return compute.compute(
        site,
        rib.compute(network_map, site.site),
        network_map,
        host_addresses=["127.0.0.1", "::1", HOST],
        endpoint_ports=ports,
        health=health,
        others={},
    )


def test_applied_twice_changes_nothing_and_purge_takes_it_all_back(tmp_path: Path) -> None:
    ns, site = Namespace("vkernel"), config()
    try:
        ns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        ns.ip("addr", "add", f"{HOST}/24", "dev", "eth0")
        ns.ip("link", "set", "eth0", "up")
        before = ns.sh(STATE)
        kernel: Kernel = ns(build_kernel, site, tmp_path / "pins", tmp_path, tmp_path, why="configured")
        for _ in range(2):
            first = ns(kernel.apply, site, desired(site), allow_delete=True)
            assert first.failed == {}
        assert first.changed == ()
        assert ns(kernel.plan, site, desired(site), allow_delete=True) == ()
        assert (kernel.engine.name, kernel.why) == ("ipvs", "configured")
        assert ns(kernel.drops) is not None
        assert {counts.open for counts in ns(kernel.readings).counts.values()} == {0}
        again: Kernel = ns(build_kernel, site, tmp_path / "pins", tmp_path, tmp_path)
        adopted = ns(again.apply, site, desired(site), allow_delete=False)
        assert (adopted.changed, adopted.failed) == ((), {})
        for one in (kernel, again):
            cast(IpvsEngine, one.engine).close()
        # an old kernel marks no address as ours: the overlay's networks say it
        ns(purge.purge, Netlink(), (site.overlay_cidr, overlay_prefix6(site.network)), tmp_path)
        assert ns.sh(STATE) == before
        assert ns.sh("nft list ruleset; cat /proc/net/ip_vs | grep FWM", check=False) == ""
    finally:
        ns.close()
