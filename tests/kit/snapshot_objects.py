"""From the kernel's answers to objects that can be compared: what is a key, what is a value, what is left out."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Key = tuple[Any, ...]
Objects = dict[Key, Mapping[str, Any]]
Raw = Mapping[str, Any]

MAIN, LOCAL = 254, 255
KERNEL, RA = "2", "9"  # protocols of routes
KERNEL_MADE = (1, 2, 3)  # protocols of addresses: loopback, router advertisement, link-local
TENTATIVE, DEPRECATED, DADFAILED = 0x40, 0x20, 0x08  # they come and go by themselves
ROUTE_TYPES = {"1": "unicast", "2": "local", "6": "blackhole", "7": "unreachable", "8": "prohibit", "9": "throw"}
OF_BRIDGE = re.compile(r".*_timer$|root_|bridge_id$|topology_change")  # the spanning tree's own
HINTS = {"route": 2, "neighbour": 2}  # how many parts of a key the hint has, after the kind; all of the others


def hint(key: Key) -> Key:
    """Return the part of a key by which plans and people name the object.

    ("link", name), ("address", "10.0.0.1/24", dev), ("route", "10.0.0.0/8", table), ("rule", family, priority, text),
    ("neighbour", address, dev), ("fdb", …), ("qdisc", dev, kind, …), ("filter", dev, place, preference, …),
    ("tcx", dev, direction), ("sysctl", path), ("nft table", family, table), ("nft chain", family, table, chain),
    ("nft set", …), ("pin", name), ("map entry", map, *key), ("ipvs service", …), ("wireguard peer", dev, key).
    """
    return key[: 1 + HINTS.get(key[0], len(key))]


def devices(key: Key, *values: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the devices that an object is on."""
    match key:
        case ("address" | "neighbour", _, device, *_):
            yield device
        case ("fdb" | "qdisc" | "filter" | "tcx" | "wireguard" | "wireguard peer" | "wireguard endpoint", device, *_):
            yield device
        case ("sysctl", path) if "/conf/" in path:
            yield path.partition("/conf/")[2].rpartition("/")[0]
        case ("route", *_):
            for value in values:
                for text in (value or {}).get("routes", ()):
                    words = text.split()
                    yield from (name for word, name in itertools.pairwise(words) if word == "dev")


def objects(raw: Raw) -> Objects:
    """Return all objects of a namespace."""
    found: Objects = {}
    for source in (links, addresses, routes, rules, neighbours, traffic_control, nftables, wireguard, ipvs):
        for key, value in source(raw):
            assert key not in found, f"two objects of the key {key}: {found[key]} and {value}"
            found[key] = value
    found |= {("sysctl", path): {"value": value} for path, value in raw["sysctls"].items()}
    return found


# ---- links, addresses ----------------------------------------------------------------------------------------------


def links(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield devices; their state of operation, queues and offloads are the kernel's business."""
    for one in raw["links"]:
        info = one.get("linkinfo", {})
        data = {name: value for name, value in info.get("info_data", {}).items() if not OF_BRIDGE.match(name)}
        yield (
            ("link", one["ifname"]),
            {
                "kind": info.get("info_kind", one["link_type"]),
                "mtu": one["mtu"],
                "alias": one.get("ifalias", ""),
                "mac": one.get("address", ""),
                "up": "UP" in one["flags"],
                "noarp": "NOARP" in one["flags"],
                "master": one.get("master", ""),
                "group": one.get("group", ""),
                "addr_gen_mode": one.get("inet6_addr_gen_mode", ""),
                "link": one.get("link", ""),
                "data": data,
            },
        )


def addresses(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield addresses but those that the kernel gives by itself: of lo, fe80 from the MAC, from advertisements."""
    for one in raw["addresses"]:
        of_itself = one["proto"] in KERNEL_MADE or (one["dev"] == "lo" and one["address"] in ("127.0.0.1/8", "::1/128"))
        if not of_itself:
            flags = one["flags"] & ~(TENTATIVE | DEPRECATED | DADFAILED)
            value = {name: one[name] for name in ("peer", "scope", "proto", "metric")} | {"flags": f"{flags:#x}"}
            yield ("address", one["address"], one["dev"]), value


# ---- routes, rules, neighbours -------------------------------------------------------------------------------------


def routes(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield routes by destination, table, family, metric and TOS, those of one key together.

    Left out: what the kernel makes from addresses and devices (protocol kernel: connected, local, broadcast, anycast,
    ff00::/8, fe80::/64) and from router advertisements; whether a next hop's carrier is up.
    """
    found: dict[Key, list[str]] = {}
    for family in (4, 6):
        for one in raw[f"routes{family}"]:
            if one.get("protocol", "") in (KERNEL, RA):
                continue
            table = int(one.get("table", MAIN))
            destination = {"default": "0.0.0.0/0" if family == 4 else "::/0"}.get(one["dst"], one["dst"])
            key = ("route", destination, table, f"ipv{family}", one.get("metric", 0), one.get("tos", ""))
            found.setdefault(key, []).append(_route(one))
    for key, values in found.items():
        yield key, {"routes": tuple(values if key[3] == "ipv4" else sorted(values))}


def _route(one: Raw) -> str:
    """Return a route in words: type, protocol, source and next hops."""
    kind = str(one.get("type", "1"))
    parts = [ROUTE_TYPES.get(kind, f"type {kind}"), f"proto {one.get('protocol', '3')}"]
    parts += [f"{name} {one[name]}" for name in ("scope", "prefsrc", "nhid", "pref") if name in one]
    if "metrics" in one:
        parts.append(json.dumps(one["metrics"], sort_keys=True))
    parts += sorted(_hop(hop) for hop in one.get("nexthops", [one]))
    return " ".join(part for part in parts if part)


def _hop(hop: Raw) -> str:
    words = [f"{name} {hop[name]}" for name in ("gateway", "via", "dev", "weight") if name in hop]
    if "onlink" in hop.get("flags", ()):
        words.append("onlink")
    return f"nexthop {' '.join(words)}" if words else ""


def rules(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield policy rules, also those that a namespace begins with: they can be deleted. The key has what selects."""
    actions = ("table", "protocol", "action", "goto", "suppress_prefixlen", "flags")
    for family in (4, 6):
        seen: dict[Key, int] = {}
        for one in raw[f"rules{family}"]:
            rest = {name: value for name, value in one.items() if name not in (*actions, "priority")}
            text = " ".join(f"{name} {value}".strip() for name, value in sorted(rest.items()))
            key: Key = ("rule", f"ipv{family}", one["priority"], text)
            seen[key] = seen.get(key, 0) + 1
            again = (f"again {seen[key]}",) if seen[key] > 1 else ()
            yield (*key, *again), {name: one[name] for name in actions if one.get(name)}


def neighbours(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield permanent neighbours, proxies, and forwarding entries of a VXLAN or bridge that somebody made."""
    for one in raw["neighbours"]:
        yield ("neighbour", one["dst"], one["dev"]), {"mac": one.get("lladdr", "")}
    for one in raw["proxies"]:
        yield ("neighbour", one["dst"], one["dev"], "proxy"), {}
    for one in raw["fdb"]:
        made = one.get("state") in ("permanent", "static") and not one["mac"].startswith(("33:33:", "01:00:5e:"))
        if made and "dst" in one and one["mac"] != "00:00:00:00:00:00":  # that one is the VXLAN's `remote`
            yield ("fdb", one["ifname"], one["mac"], one["dst"]), {"state": one["state"]}
        elif made and one.get("state") == "static":
            yield ("fdb", one["ifname"], one["mac"]), {"state": one["state"]}


# ---- traffic control -----------------------------------------------------------------------------------------------


def traffic_control(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield qdiscs but the default one (handle 0:), filters, and the order of tcx programs."""
    for one in raw["qdiscs"]:
        if one["handle"] != "0:":
            place = "root" if one.get("root") else one.get("parent", "")
            yield ("qdisc", one["dev"], one["kind"], place, one["handle"]), {"options": one.get("options", {})}
    for one in raw["filters"]:
        options = {name: value for name, value in one["options"].items() if name not in ("jited", "tag", "actions")}
        actions = [{n: v for n, v in act.items() if n != "stats"} for act in one["options"].get("actions", ())]
        place = one["dev"], one["place"], one["pref"], one["kind"], options.pop("handle", "")
        yield ("filter", *place), {"protocol": one["protocol"], **options, **({"actions": actions} if actions else {})}
    for one in raw["tcx"]:
        yield ("tcx", one["dev"], one["direction"]), {"programs": tuple(one["programs"])}


# ---- nftables ------------------------------------------------------------------------------------------------------


def nftables(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield tables, chains with their rules in order, sets with their elements, and other named objects.

    Left out: handles, and what counters count; that there is a counter is kept.
    """
    listed = [next(iter(one.items())) for one in raw["nft"]["nftables"]] if raw["nft"] else []
    lines: dict[Key, list[str]] = {}
    for kind, one in listed:
        if kind == "rule":
            lines.setdefault((one["family"], one["table"], one["chain"]), []).append(_rule(one))
    for kind, one in listed:
        if kind in ("metainfo", "rule"):
            continue
        value = {n: v for n, v in one.items() if n not in ("family", "table", "name", "handle", "bytes", "packets")}
        if kind == "table":
            yield ("nft table", one["family"], one["name"]), _bare(value)
        elif kind == "chain":
            key = one["family"], one["table"], one["name"]
            yield ("nft chain", *key), {**value, "rules": tuple(lines.get(key, ()))}
        else:
            elements = sorted(json.dumps(_bare(e), sort_keys=True) for e in value.pop("elem", ()))
            yield (f"nft {kind}", one["family"], one["table"], one["name"]), {**_bare(value), "elements": elements}


def _rule(one: Raw) -> str:
    comment = f" comment {one['comment']!r}" if "comment" in one else ""
    return json.dumps(_bare(one["expr"]), sort_keys=True) + comment


def _bare(value: Any) -> Any:
    """Return a part of the rule set without what changes by itself."""
    if isinstance(value, list):
        return [_bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {n: {} if n == "counter" and isinstance(v, dict) else _bare(v) for n, v in value.items() if n != "expires"}


# ---- WireGuard, IPVS -----------------------------------------------------------------------------------------------


def wireguard(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield keys, ports and peers of the kernel's WireGuard (``wg show all dump``); a peer's endpoint, which roams, is
    an object of its own. Nothing where there is no ``wg``."""
    for line in raw["wireguard"]:
        device, *words = line.split("\t")
        if len(words) == 4:
            yield ("wireguard", device), dict(zip(("public", "port", "mark"), words[1:], strict=True))
            continue
        peer, _, endpoint, allowed, _, _, _, keepalive = words
        yield ("wireguard peer", device, peer), {"allowed": allowed, "keepalive": keepalive}
        yield ("wireguard endpoint", device, peer), {"endpoint": endpoint}


def ipvs(raw: Raw) -> Iterator[tuple[Key, Raw]]:
    """Yield virtual services and destinations of /proc/net/ip_vs without their counts."""
    service: Key = ()
    for line in _after_header(raw["ipvs"]):
        words = line.split()
        if words[0] == "->":
            yield ("ipvs destination", *service, words[1]), {"forward": words[2], "weight": words[3]}
        else:
            service = words[0], words[1]
            yield ("ipvs service", *service), {"scheduler": " ".join(words[2:])}


def _after_header(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith(("TCP", "UDP", "SCTP", "FWM", "  ->")) and "RemoteAddress" not in line:
            yield line
