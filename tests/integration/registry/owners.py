"""Which step of a plan owns a change that the judge from outside has seen: the kind, and the key where it follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.kit.snapshot import Change, Snapshot

Owner = tuple[str, str]  # a key of "" stands for any of the kind
MAIN, OVERLAY = 254, 7400
RULES = {7400: "rule", 7401: "answers", 7402: "loopback", 7403: "udp", 7404: "closed"}
FAMILY = {"ipv4": "inet", "ipv6": "inet6"}
NUMBERS = {"6": "tcp", "17": "udp"}
CHAINS = {
    "forwarding": "forward-guard",
    "not-forwarded": "forward-guard",
    "arrivals-in": "arrivals",
    "arrivals-claimed": "arrivals",
    "arrived-host-address": "arrivals",
    "arrived-claimed": "arrivals",
    "untracked-in": "notrack",
    "untracked-out": "notrack",
}
PLACEMENT = {
    "netns_cookie": "network namespace",
    "port_limit": "source ports",
    "overlay4": "source ipv4",
    "overlay6": "source ipv6",
}


class Owners:
    """Who owns each change between two moments; ``devices``: interface index -> name, of both moments."""

    def __init__(self, before: Snapshot, after: Snapshot, devices: Mapping[int, str]) -> None:
        self._devices = devices
        self._services = {}
        for one in (before, after):
            for key, value in one.objects.items():
                if key[:2] == ("map entry", "service_names_v1"):
                    self._services[str(value["id"] & 0x7FFFFFFF)] = f"{key[2]}/{NUMBERS[key[3]]}"

    def of(self, change: Change) -> set[Owner]:
        """Return all that have a part in a change; nothing when nobody owns such an object."""
        if change.kind == "map entry":
            return set(self._map(change, *change.key))
        return set(self._object(change))

    def _object(self, change: Change) -> Iterator[Owner]:
        match (change.kind, *change.key):
            case ("route", destination, table, family, *_) if table in (MAIN, OVERLAY):
                if "unreachable" in str(change.before or change.after):
                    last = f"{'guard' if table == MAIN else 'unreachable'} {FAMILY[family]}"
                    yield "rule", last if "/" in destination else f"{last} {destination}"
                elif table == OVERLAY:
                    yield "route", _whole(destination)
            case ("route", destination, 7401 | 7402, *_):
                yield "route", _whole(destination)
            case ("rule", family, priority, text, *_) if priority in RULES:
                port = text.partition("sport ")[2].split(" ")[0]
                yield "rule", f"{RULES[priority]} {FAMILY[family]}" + (f" {port}" if port else "")
            case ("address", address, "lo", *_):
                yield "address", address
            case ("link", device) | ("address" | "neighbour", _, device, *_) | ("fdb" | "tcx", device, *_) if (
                device.startswith("sk-")
            ):
                yield "link", device
            case ("qdisc" | "filter", device, *_):
                yield "lan-device", device
            case ("sysctl", path) if "/conf/lo/" in path:
                yield "setting", path.replace("/", ".")
            case ("sysctl", path) if "/conf/sk-" in path:
                yield "link", path.split("/")[3]
            case ("sysctl", "net/ipv6/conf/all/forwarding"):
                yield "forwarding", "ipv6"
            case ("nft table", "inet", "skedge"):
                yield from (("chain", ""), ("link", ""), ("site", ""))
            case ("nft table" | "nft chain", "ip" | "ip6" as family, "skedge", *_):
                yield "accepted", family
            case ("nft set", "inet", "skedge", name):
                yield from (("chain", "arrivals"), ("site", name))
            case ("nft chain" | "nft counter", "inet", "skedge", name) if name in CHAINS:
                yield "chain", CHAINS[name]
            case ("nft chain", "inet", "skedge", "tunnels"):
                before, after = (set(_rules(one)) for one in (change.before, change.after))
                yield from (("link", rule.split("comment ")[1].strip("'")) for rule in before ^ after)
                if not before ^ after:
                    yield "link", ""
            case ("nft counter", "inet", "skedge", "wrong-tunnel-peer"):
                yield "link", ""

    def _map(self, change: Change, pin: str, *key: Any) -> Iterator[Owner]:
        before, after = change.before or {}, change.after or {}
        match pin:
            case "services_v1" | "workload_names_v1":
                yield "service", self._services[key[0]]
            case "service_names_v1":
                yield "service", f"{key[0]}/{NUMBERS[key[1]]}"
            case "listeners_v2":
                yield "listener", f"{_host(key[0])}:{key[1]}/{NUMBERS[key[2]]}"
            case "ports_v1":
                bits, index = before.get("bits", 0) ^ after.get("bits", 0), int(key[0])
                for bit in range(64):
                    if bits >> bit & 1:
                        yield "listener", f":{index % 1024 * 64 + bit}/{'udp' if index >= 1024 else 'tcp'}"
            case "config_v1":
                yield from (("placement", PLACEMENT[name]) for name in _different(before, after))
            case "nat_config_v1" | "nat_addresses_v1":
                yield "nat", "nat"
            case "host_rules_v1":
                yield "host-rules", "lan"
            case "nat_sources_v1":
                yield "nat-source", key[0]
            case "link_config_v2":
                yield "packet-check", "site"
            case "link_table_v2":
                # a slot that a device left may be another's now
                found = {one["ifindex"] for one in (before, after) if one and one["ifindex"]}
                yield from (("link", self._devices.get(index, f"#{index}")) for index in found)
            case "endpoints_v1":
                yield "endpoint", f"{key[0]}/{NUMBERS[key[1]]}"
            case "endpoint_marks_v1":
                yield "endpoint", f"{key[0]}/tcp"
            case "endpoint_sources_v1":
                for port in {one["port"] for one in (before, after) if one}:
                    yield "endpoint", f"{port}/{NUMBERS[key[2]]}"
            case "host_prefixes_v2":
                yield "host-prefix", _prefix(key)
            case "lan_prefixes_v1":
                yield "lan-prefix", _prefix(key)
            case "link_prefixes_v1":
                yield from ((kind, _prefix(key)) for kind in ("route", "own-address", "path"))
            case "link_sites_v1":
                yield "path", key[0]


def fits(owner: Owner, steps: set[Owner]) -> bool:
    """Return whether a step is one of the owner's."""
    kind, key = owner
    if key.startswith(":"):  # a port, of any address
        return any(one == kind and name.endswith(key) for one, name in steps)
    return any(one == kind and key in ("", name) for one, name in steps)


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            yield name


def _rules(chain: Mapping[str, Any] | None) -> list[str]:
    return list(chain["rules"]) if chain else []


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _whole(destination: str) -> str:
    """Return a destination with its length, which ``ip`` leaves out of one host's."""
    return destination if "/" in destination else f"{destination}/{128 if ':' in destination else 32}"


def _prefix(key: tuple[Any, ...]) -> str:
    length, address = int(key[0]), key[1]
    return f"{address}/{length if ':' in address else length - 96}"
