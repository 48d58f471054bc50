"""Every refusal as the operator reads it: place, what is wrong, way out."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from skedge.config import from_dict, problems
from skedge.core.errors import ConfigError

GOOD: dict[str, Any] = {
    "version": 1,
    "network": "demo",
    "site": "edge-a",
    "links": [{"to": "edge-b", "transport": "vxlan", "remote": "10.9.0.2"}],
    "listeners": [{"service": "backend", "port": 8080}],
    "connectors": [{"service": "backend", "host": "127.0.0.1", "port": 9090}],
}
DELETE = object()


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """Return GOOD with values set (or deleted) at paths such as ``links.0.cost``."""
    data = copy.deepcopy(GOOD)
    for path, value in changes:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        at: Any = data
        for part in parents:
            at = at[part]
        if value is DELETE:
            del at[last]
        elif isinstance(at, list) and last == len(at):
            at.append(value)
        else:
            at[last] = value
    return data


LINK = {"to": "edge-b", "remote": "10.9.0.2", "transport": "vxlan"}
KEY = "b" * 42 + "A="
LABEL = "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
PORT = "an integer from 1 to 65535"

CASES: list[tuple[list[tuple[str, Any]], str]] = [
    # single values
    ([("links.0.cost", 0)], f"links[0].cost: 0 is not a cost; give {PORT}, or auto"),
    ([("links.0.cost", 70000)], f"links[0].cost: 70000 is not a cost; give {PORT}, or auto"),
    ([("links.0.cost", 1.5)], f"links[0].cost: 1.5 is not a cost; give {PORT}, or auto"),
    ([("links.0.cost", True)], f"links[0].cost: true is not a cost; give {PORT}, or auto"),
    ([("links.0.cost", "10")], f"links[0].cost: '10' is not a cost; give {PORT}, or auto"),
    ([("links.0.cost", None)], f"links[0].cost: null is not a cost; give {PORT}, or auto"),
    ([("links.0.cost", "Auto")], f"links[0].cost: 'Auto' is not a cost; give {PORT}, or auto"),
    ([("links.0.base_cost", 5)], "links[0].base_cost: 5 is for a cost that is measured; give cost: auto, or remove it"),
    ([("links.0.cost", 10**30)], f"links[0].cost: a very large number is not a cost; give {PORT}, or auto"),
    ([("links.0.service_costs", {"reports": 0})], f"links[0].service_costs.reports: 0 is not in 1..65535; give {PORT}"),
    (
        [("links.0.service_costs", {"a b": 1})],
        "links[0].service_costs.a b: 'a b' is not a service name; give"
        " 1 to 63 printable ASCII characters without a space",
    ),
    ([("links.0.service_costs", 3)], "links[0].service_costs: 3 is not a mapping; give a mapping, one key each, or {}"),
    (
        [("links.0.transport", "gre")],
        "links[0].transport: 'gre' is not any of wireguard, vxlan, direct; give one of them",
    ),
    ([("links.0.to", "edge_b")], f"links[0].to: 'edge_b' is not a site name; give {LABEL}"),
    ([("site", "edge-a\n")], f"site: 'edge-a\\n' is not a site name; give {LABEL}"),
    ([("site", "a" * 64)], f"site: '{'a' * 27}...{'a' * 28}' is not a site name; give {LABEL}"),
    ([("site", DELETE)], f"site: missing; give a site name, {LABEL}"),
    ([("network", "Demo")], f"network: 'Demo' is not a network name; give {LABEL}"),
    ([("version", 2)], "version: 2 is not 1; give 1"),
    ([("drain", "no")], "drain: 'no' is not a boolean; give true or false without quotes"),
    ([("hold_time_s", float("nan"))], "hold_time_s: nan is not in 1..86400; give a number from 1 to 86400"),
    ([("connectors.0.capacity", 0)], f"connectors[0].capacity: 0 is not in 1..65535; give {PORT}"),
    ([("connectors.0.host", 9)], "connectors[0].host: 9 is not a string; write it in quotes"),
    (
        [("connectors.0.health", {"type": "http", "path": "healthz"})],
        "connectors[0].health.path: 'healthz' is not a path; give a path that begins with / and has no space,"
        " such as /healthz",
    ),
    (
        [("connectors.0.health", {"interval_s": 0})],
        "connectors[0].health.interval_s: 0 is not in 0.05..3600; give a number from 0.05 to 3600",
    ),
    (
        [("connectors.0.health", {"fall": 0})],
        "connectors[0].health.fall: 0 is not in 1..100; give an integer from 1 to 100",
    ),
    ([("listeners.0.port", 0)], f"listeners[0].port: 0 is not in 1..65535; give {PORT}"),
    (
        [("listeners.0.service", "a" * 64)],
        f"listeners[0].service: '{'a' * 27}...{'a' * 28}' is not a service name;"
        " give 1 to 63 printable ASCII characters without a space",
    ),
    (
        [("endpoint_ports", [61000])],
        "endpoint_ports: [61000] is not a list of 2; give 2 values, such as [61000, 62999]",
    ),
    ([("links", {})], "links: {} is not a list; give a list, one item each, or []"),
    (
        [("links.0.probe", 3)],
        "links[0].probe: 3 is not a mapping; give a mapping with keys among interval_ms, lost",
    ),
    # unknown keys
    ([("links.0.cots", 5)], "links[0].cots: unknown key; did you mean cost?"),
    ([("lisseners", [])], "lisseners: unknown key; did you mean listeners?"),
    ([("metrics", {"qqq": 1})], "metrics.qqq: unknown key; the keys here are address, port"),
    ([("metrics", {7: 1})], "metrics.7: unknown key; the keys here are address, port"),
    # the engine
    ([("engine", "xdp")], "engine: 'xdp' is not any of auto, ebpf, ipvs; give one of them"),
    (
        [("engine", "ipvs")],
        "connectors[0].host: clients of this site cannot be led to 127.0.0.1 with engine: ipvs; bind the workload to"
        " another address of this host",
    ),
    (
        [("engine", "ipvs"), ("listeners", []), ("connectors.0.host", "::1")],
        "connectors[0].host: ::1 cannot be reached from outside with engine: ipvs; bind the workload to another"
        " address, or to 127.0.0.1",
    ),
    (
        [("engine", "ipvs"), ("connectors", []), ("listeners.0.address", "127.0.0.1")],
        "listeners[0].address: 127.0.0.1 cannot be listened at with engine: ipvs; give another address of this host,"
        " which its programs can use too",
    ),
    (
        [
            ("engine", "ipvs"),
            ("connectors", []),
            ("listeners.0", {"services": [{"service": "a"}], "policy": "weighted", "affinity": "client", "port": 80}),
        ],
        "listeners[0].affinity: policy: weighted leads a client's connections to several services with engine: ipvs;"
        " remove it, or give another policy",
    ),
    # addresses
    ([("overlay_cidr", "100.64.1.0/10")], "overlay_cidr: 100.64.1.0/10 has host bits set; give 100.64.0.0/10"),
    ([("overlay_cidr", "x")], "overlay_cidr: 'x' is not an IPv4 network; give one such as 100.64.0.0/10"),
    (
        [("overlay_cidr", "10.0.0.0/31")],
        "overlay_cidr: 10.0.0.0/31 is not between /8 and /30; give a network such as 100.64.0.0/10",
    ),
    (
        [("overlay_cidr", "127.0.0.0/8")],
        "overlay_cidr: 127.0.0.0/8 is not for hosts; give a private network such as 100.64.0.0/10",
    ),
    (
        [("overlay_address", "10.0.0.1")],
        "overlay_address: 10.0.0.1 is not a host address of the overlay; give a host address inside overlay_cidr"
        " 100.64.0.0/10, or none for the one made from the site's name",
    ),
    (
        [("overlay_address", "100.64.0.0")],
        "overlay_address: 100.64.0.0 is not a host address of the overlay; give a host address inside overlay_cidr"
        " 100.64.0.0/10, or none for the one made from the site's name",
    ),
    (
        [("overlay_address6", "fd00::1")],
        "overlay_address6: fd00::1 is not an overlay address; give one inside fde7:3405:4cf7::/48, the network's own"
        " prefix, or none for the one made from the site's name",
    ),
    (
        [("metrics", {"address": "localhost"})],
        "metrics.address: 'localhost' is not an IP address; give one such as 10.0.0.5 or fd00::5",
    ),
    # ports
    ([("load_port", 7401)], "load_port: 7401 is already control_port; give each its own port"),
    ([("metrics", {"port": 7402})], "metrics.port: 7402 is already load_port; give each its own port"),
    (
        [("endpoint_ports", [62999, 61000])],
        "endpoint_ports: [62999, 61000] is not a range of ports above 1023; give [first, last], such as [61000, 62999]",
    ),
    (
        [("endpoint_ports", [7000, 7401])],
        "endpoint_ports: [7000, 7401] contains 7401, which is control_port; move one of the two",
    ),
    (
        [("nat_ports", [63000, 63010])],
        "nat_ports: [63000, 63010] is not a range of ports above 1023;"
        " give [first, last] with 64 ports at least, such as [63000, 65535]",
    ),
    (
        [("nat_ports", [7000, 7401])],
        "nat_ports: [7000, 7401] contains 7401, which is control_port; move one of the two",
    ),
    (
        [("nat_ports", [62000, 63000])],
        "nat_ports: [62000, 63000] overlaps endpoint_ports [61000, 62999]; give ranges that have no port in common",
    ),
    (
        [("lan_devices", ["*", "eth0"])],
        "lan_devices[0]: * is every device; give it alone, or only names",
    ),
    (
        [("lan_devices", ["lo"])],
        "lan_devices[0]: lo has no LAN behind it; give the device that clients or workloads are at",
    ),
    (
        [("lan_devices", ["a b"])],
        "lan_devices[0]: 'a b' is not a device name; give the name of a network device, as in `ip link`, or *",
    ),
    (
        [("prefixes", ["10.1.0.0/16", "10.1.4.0/24"])],
        "prefixes[1]: 10.1.4.0/24 overlaps prefixes[0], 10.1.0.0/16; give prefixes that have no address in common",
    ),
    (
        [("overlay_cidr", "100.64.0.0/10"), ("prefixes", ["100.64.7.0/24"])],
        "prefixes[0]: 100.64.7.0/24 overlaps the overlay 100.64.0.0/10; give prefixes that have no address in common",
    ),
    ([("prefixes", ["10.1.2.3/16"])], "prefixes[0]: '10.1.2.3/16' is not in its one form; give 10.1.0.0/16"),
    (
        [("prefixes", ["lan"])],
        "prefixes[0]: 'lan' is not a prefix; give one such as 10.1.0.0/16 or fd12:3456::/48",
    ),
    ([("prefixes", [7])], "prefixes[0]: 7 is not a string; write it in quotes"),
    (
        [("prefixes", [f"10.{n}.0.0/16" for n in range(17)])],
        "prefixes: 17 are more than 16; give fewer, larger ones",
    ),
    (
        [("listeners.0.preserve_client_ip", True)],
        "listeners[0].preserve_client_ip: other sites would not find the way back to the clients;"
        " give the LAN's prefix in prefixes",
    ),
    (
        [("listeners.0.preserve_client_ip", True), ("prefixes", ["10.1.0.0/16"]), ("lan_devices", [])],
        "listeners[0].preserve_client_ip: lan_devices has no device that clients could come from;"
        " give devices, or remove it",
    ),
    ([("log_placements", "yes")], "log_placements: 'yes' is not a boolean; give true or false without quotes"),
    ([("flow_times", {"udp_s": 0})], "flow_times.udp_s: 0 is not in 1..604800; give an integer from 1 to 604800"),
    (
        [("endpoint_ports", [4000, 5000])],
        "endpoint_ports: [4000, 5000] contains 4790, which is links[0].port; move one of the two",
    ),
    (
        [("endpoint_ports", [61000, 61000]), ("connectors.1", {"service": "x", "host": "::1", "port": 1})],
        "endpoint_ports: 1 ports are too few for 2 connectors; give a range of at least 2 ports",
    ),
    # links
    ([("links.0.to", "edge-a")], "links[0].to: edge-a is this site itself; give the name of another site"),
    (
        [("links.0.transport", "wireguard"), ("links.0.remote", "10.9.0.300")],
        "links[0].remote: '10.9.0.300' is not an IP address or a host name; give one such as 10.0.0.5 or fd00::5",
    ),
    (
        [("links.0.transport", "wireguard"), ("links.0.keys", ["secret"])],
        "links[0].keys[0]: 'secret' is not a WireGuard public key; give 44 characters, as `wg pubkey` prints",
    ),
    (
        [("links.0.transport", "wireguard"), ("links.0.keys", [KEY, KEY.replace("b", "c"), KEY.replace("b", "d")])],
        "links[0].keys: 3 are more than 2; give the far end's key, and its next one",
    ),
    (
        [("links.0.transport", "wireguard"), ("links.1", {"to": "edge-c", "port": 4791})],
        "links[1].port: 4791 is already the port of links[0]; give each wireguard link its own",
    ),
    (
        [("links.0.transport", "wireguard"), ("links.0.remote", ".".join(["a" * 60] * 4))],
        "links[0]: the names of both sites, link and remote have 259 of 220 characters; give shorter names, or an"
        " address as remote",
    ),
    ([("links.0.keepalive_s", 25)], "links[0].keepalive_s: 25: only a wireguard link has this; remove it"),
    (
        [("links.0.remote", DELETE)],
        "links[0].remote: missing; a vxlan link needs the neighbour's address in the network below",
    ),
    (
        [("links.0.remote", "b.example.com")],
        "links[0].remote: 'b.example.com' is not an IP address; give one such as 10.0.0.5 or fd00::5",
    ),
    (
        [("links.0.remote", "127.0.0.1")],
        "links[0].remote: 127.0.0.1 stays inside this host; give the address that the other host sees",
    ),
    (
        [("links.0.local", "fd00::1")],
        "links[0].local: fd00::1 and remote 10.9.0.2 are of two IP versions; give two of one version",
    ),
    ([("links.0.local", "10.9.0.2")], "links[0].remote: 10.9.0.2 is also local; give the neighbour's address"),
    (
        [("links.0", {"to": "edge-b", "transport": "direct"})],
        "links[0].device: missing; a direct link needs the name of the network device to the neighbour",
    ),
    (
        [("links.0", {"to": "edge-b", "transport": "direct", "device": "sk-x"})],
        "links[0].device: sk-x cannot carry a link; give the network device to the neighbour",
    ),
    (
        [("links.0.device", "a/b")],
        "links[0].device: 'a/b' is not a device name; give the name of a network device, as in `ip link`",
    ),
    (
        [("links.0.device", "eth0")],
        "links[0].device: eth0: a vxlan link takes no device; remove the key or give transport: direct",
    ),
    (
        [("links.0.mtu", 576)],
        "links[0].mtu: 576 is too small for IPv6; give 1280 or more, or 0 for the underlay's own",
    ),
    ([("links.0.port", 7402)], "links[0].port: 7402 is already load_port; give another port"),
    (
        [("links.1", {**LINK, "cost": 5})],
        "links[1]: the link to edge-b named main is already links[0]; remove one, or give it another name for a"
        " parallel link",
    ),
    # listeners
    (
        [("listeners.0.service", DELETE)],
        "listeners[0].service: missing; give the name of a service, or services and a policy",
    ),
    (
        [("listeners.0.services", [{"service": "x"}])],
        "listeners[0].services: service is there too; give one of the two",
    ),
    (
        [("listeners.0", {"port": 80, "services": [{"service": "x"}, {"service": "y"}]})],
        "listeners[0].policy: cost is among the workloads of one service, not among services; give policy: priority or"
        " policy: weighted",
    ),
    (
        [("listeners.0.policy", "weighted")],
        "listeners[0].services: missing; weighted is among several, give services: [{service: backend}, …]",
    ),
    (
        [("listeners.0", {"port": 80, "policy": "priority", "services": [{"service": "x"}, {"service": "x"}]})],
        "listeners[0].services[1].service: 'x' is already listeners[0].services[0]; remove one",
    ),
    (
        [("listeners.0", {"port": 80, "policy": "priority", "services": [{"service": "x", "weight": 2}]})],
        "listeners[0].services[0].weight: priority knows no weights; remove it or give policy: weighted",
    ),
    (
        [("listeners.0", {"port": 80, "policy": "weighted", "services": [{"service": "x", "weight": 0}]})],
        "listeners[0].services[0].weight: 0 is not in 1..100; give an integer from 1 to 100",
    ),
    (
        [("listeners.0", {"port": 80, "policy": "weighted", "services": [{"service": f"s{i}"} for i in range(17)]})],
        "listeners[0].services: 17 are more than 16; give fewer",
    ),
    (
        [("listeners.0.policy", "fair")],
        "listeners[0].policy: 'fair' is not any of cost, priority, weighted; give one of them",
    ),
    (
        [("listeners.0.affinity", "server")],
        "listeners[0].affinity: 'server' is not any of none, client; give one of them",
    ),
    (
        [("listeners.0.affinity_timeout_s", 60)],
        "listeners[0].affinity_timeout_s: there is no affinity that could end; give affinity: client too, or remove it",
    ),
    (
        [("listeners.0.affinity", "client"), ("listeners.0.affinity_timeout_s", 0)],
        "listeners[0].affinity_timeout_s: 0 is not in 1..604800; give an integer from 1 to 604800",
    ),
    (
        [("listeners.0.address", "0.0.0.0")],
        "listeners[0].address: 0.0.0.0 is not the address of one host; give a unicast address; for all of this host's"
        " addresses give *",
    ),
    (
        [("listeners.0.address", "fe80::1")],
        "listeners[0].address: fe80::1 is valid on one device only; give a global or private address",
    ),
    (
        [("listeners.0.address", "::ffff:10.0.0.1")],
        "listeners[0].address: '::ffff:10.0.0.1' is an IPv4 address in IPv6 form; give 10.0.0.1",
    ),
    (
        [("listeners.0.port", 61500)],
        "listeners[0].port: 61500 is inside endpoint_ports [61000, 62999]; give a port outside of it",
    ),
    ([("listeners.0.port", 9464)], "listeners[0].port: 9464 is already metrics.port; give another port"),
    (
        [("listeners.0.takeover", "haproxy.socket")],
        "listeners[0].takeover: 'haproxy.socket' is no service; give one such as haproxy.service",
    ),
    (
        [("listeners.1", {"service": "x", "port": 8080})],
        "listeners[1]: *:8080 tcp is already taken by listeners[0]; give each listener its own address and port",
    ),
    (
        [
            ("listeners.0.address", "fd00:0::1"),
            ("listeners.1", {"service": "x", "port": 8080, "address": "fd00::0001"}),
        ],
        "listeners[1]: [fd00::1]:8080 tcp is already taken by listeners[0]; give each listener its own address and"
        " port",
    ),
    # connectors
    (
        [("connectors.0.host", "localhost")],
        "connectors[0].host: 'localhost' is not an IP address; give one such as 10.0.0.5 or fd00::5",
    ),
    (
        [("connectors.1", {"service": "backend", "host": "127.0.0.1", "port": 9091})],
        "connectors[1].name: 'backend' is already the name of connectors[0]; give each connector of this site its own"
        " name",
    ),
    (
        [("connectors.0.protocol", "udp"), ("connectors.0.health", {"type": "http"})],
        "connectors[0].health.type: http cannot check a udp workload; give type: socket or none",
    ),
    (
        [("connectors.0.health", {"host": "shop.example"})],
        "connectors[0].health.host: the Host header is of an http check, this is listen; give type: http",
    ),
    (
        [("connectors.0.health", {"type": "none", "tls": True})],
        "connectors[0].health.tls: a check of type none speaks no TLS; give type: tcp or http",
    ),
    (
        [("connectors.0.health", {"type": "http", "tls_verify": False})],
        "connectors[0].health.tls_verify: means nothing to a check without TLS; give tls: true beside it",
    ),
    (
        [("connectors.0.health", {"tls_ca": "/etc/ca.pem"})],
        "connectors[0].health.tls_ca: means nothing to a check without TLS; give tls: true beside it",
    ),
    (
        [("connectors.0.health", {"tls_server_name": "shop.example"})],
        "connectors[0].health.tls_server_name: means nothing to a check without TLS; give tls: true beside it",
    ),
    (
        [("connectors.0.health", {"tls": True, "tls_verify": False, "tls_ca": "/etc/ca.pem"})],
        "connectors[0].health.tls_ca: a certificate that is not verified needs no CA; remove it, or tls_verify: false",
    ),
    (
        [("connectors.0.health", {"tls": True, "tls_ca": "ca.pem"})],
        "connectors[0].health.tls_ca: 'ca.pem' is not a file; give the absolute path of a PEM file with CA"
        " certificates",
    ),
    (
        [("connectors.0.health", {"type": "http", "host": "a b"})],
        "connectors[0].health.host: 'a b' is not a Host header; give a name or address, with a port or without,"
        " such as shop.example",
    ),
    (
        [("connectors.0.health", {"type": "socket"})],
        "connectors[0].health.type: socket cannot check a tcp workload; give type: listen or tcp or http or none",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), CASES, ids=[sentence.split(";")[0] for _, sentence in CASES])
def test_one_wrong_thing_gives_one_sentence(changes: list[tuple[str, Any]], sentence: str) -> None:
    assert problems(changed(*changes), "edge-a.yml") == [f"edge-a.yml: {sentence}"]
    with pytest.raises(ConfigError) as error:
        from_dict(changed(*changes), "edge-a.yml")
    assert str(error.value) == f"edge-a.yml: {sentence}"


def test_the_good_one_has_no_problem() -> None:
    assert problems(GOOD, "x") == []


@pytest.mark.parametrize("addresses", [("*", "10.0.0.1"), ("127.0.1.1", "*")])
def test_one_address_beside_all_of_them(addresses: tuple[str, str]) -> None:
    listeners = [{"service": f"web{number}", "port": 8080, "address": one} for number, one in enumerate(addresses)]
    assert problems(changed(("listeners", listeners)), "x") == []


def test_all_problems_come_at_once_and_none_is_made_up() -> None:
    data = changed(("links.0.cost", 0), ("listeners.0.port", 70000), ("connectors.0.host", "x"), ("overlay_cidr", 5))
    data["overlay_address"] = "192.0.2.1"  # cannot be judged while overlay_cidr is broken
    paths = [line.split(": ")[1] for line in problems(data, "x")]
    assert paths == ["overlay_cidr", "links[0].cost", "listeners[0].port", "connectors[0].host"]


def test_the_index_is_the_files_own_though_an_item_before_is_invalid() -> None:
    data = changed(("links.0.cost", 0), ("links.1", {"to": "edge-a", "remote": "10.0.0.9"}))
    assert "links[1].to: edge-a is this site itself" in problems(data, "x")[1]


def test_prefix_names_inventory_variables() -> None:
    data = changed(("links.0.cost", 0), ("lnks", 1), ("overlay_address", "10.0.0.1"))
    found = problems(data, "host_vars/edge-a.yml", prefix="skedge_")
    assert found[0] == "host_vars/edge-a.yml: skedge_lnks: unknown key; did you mean skedge_links?"
    assert found[1] == f"host_vars/edge-a.yml: skedge_links[0].cost: 0 is not a cost; give {PORT}, or auto"
    assert found[2].startswith("host_vars/edge-a.yml: skedge_overlay_address: 10.0.0.1 is not a host address")


def test_too_many_services_and_workloads() -> None:
    listeners = [{"service": f"s{i}", "port": 10000 + i} for i in range(1025)]
    assert problems({**GOOD, "listeners": listeners, "connectors": []}, "x") == [
        "x: listeners: with the connectors they name 1025 services of 1024; give fewer services to this site"
    ]
    connectors = [{"service": "s", "name": f"c{i}", "host": "127.0.0.1", "port": 9000} for i in range(257)]
    assert problems({**GOOD, "connectors": connectors}, "x") == [
        "x: connectors: 257 connectors of s are more than 256; give fewer, with a higher capacity each"
    ]


def test_services_behind_one_listener_count_too() -> None:
    listeners = [
        {"port": 10000 + i, "policy": "priority", "services": [{"service": f"s{i}-{j}"} for j in range(16)]}
        for i in range(65)
    ]
    assert problems({**GOOD, "listeners": listeners, "connectors": []}, "x") == [
        "x: listeners: with the connectors they name 1040 services of 1024; give fewer services to this site"
    ]


@pytest.mark.parametrize("data", [None, [], 3, "x"])
def test_no_mapping_at_all(data: object) -> None:
    (sentence,) = problems(data, "x")
    assert sentence.endswith("; give keys and values, at least network and site")
