"""Routes of the packets of links that are bound to one of several uplinks (wireguard links with a ``local``).

WireGuard takes its packets' source from the route, so rules of the operator's for that source (source routing, as with
two uplinks) are too late. Packets of such a link carry a mark; a rule leads the mark to a table of its own, in which
each far end is reached from the link's address, by the way that the host's own rules have for that source; or, where
those lead over another device than the address is on, by a route over that one, if there is any.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.names import is_uplink_mark
from skedge.core.objects import Uplink, Way
from skedge.dataplane.host.netlink import PRIORITY, PROTOCOL, Netlink, gone_is_success, kernel_errors

UPLINK_PRIORITY = PRIORITY - 1
_UNICAST, _UNREACHABLE = 1, 7
_TO_TABLE = 1
_ANY_SCOPE = 255  # RT_SCOPE_NOWHERE: of a route to be deleted
_FAMILIES = (int(socket.AF_INET), int(socket.AF_INET6))
_DAMAGED = Uplink("", (Way(""),))
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH, errno.EAFNOSUPPORT)

Ip = IPv4Address | IPv6Address


def wanted(netlink: Netlink, local: str, far_ends: Iterable[str]) -> Uplink:
    """Return how packets from an address of the host reach the far ends now. Raises DataplaneError."""
    source = ip_address(local)
    on = _device_of(netlink, source)
    every = sorted(one for one in map(ip_address, far_ends) if one.version == source.version)
    ways = tuple(_way(netlink, source, one, on) for one in every)
    return Uplink(local if any(way.device for way in ways) else "", ways)


class UplinkDriver:
    """Driver[int, Uplink]: mark of a link's packets -> how they leave."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def read(self) -> Mapping[int, Uplink]:
        """Return what is there; damaged where a rule is missing, or routes have several sources."""
        ruled, found = self._ruled(), self._routes()
        return {
            mark: _uplink(found.get(mark, [])) if ruled.get(mark) == set(_FAMILIES) else _DAMAGED
            for mark in {*ruled, *found}
        }

    def strays(self) -> Mapping[int, str]:
        """Return the devices by which packets leave that are not those of their address. Raises DataplaneError."""
        found: dict[int, str] = {}
        for mark, uplink in self.read().items():
            on = _device_of(self._netlink, ip_address(uplink.local)) if uplink.local else None
            own = self._netlink.names().get(on[0], "") if on else ""
            away = [way.device for way in uplink.ways if own and way.device not in ("", own)]
            found |= dict.fromkeys([mark] if away else [], "".join(away[:1]))
        return found

    def put(self, key: int, value: Uplink) -> None:
        """Create or replace the routes, then the rules. Raises DataplaneError."""
        with kernel_errors(f"uplink {key:#x} from {value.local or 'nowhere'}"):
            for way in value.ways:
                self._replace(key, value.local, way)
            for source, way in self._routes().get(key, []):
                if way not in value.ways or source not in ("", value.local):
                    self._remove(key, way)
            for family in set(_FAMILIES) - self._ruled().get(key, set()):
                self._netlink.ipr.rule("add", family=family, **_rule(key))

    def delete(self, key: int) -> None:
        """Remove rules and routes; what is already gone is success."""
        with kernel_errors(f"remove uplink {key:#x}"):
            for family in self._ruled().get(key, set()):
                with gone_is_success():
                    self._netlink.ipr.rule("del", family=family, **_rule(key))
            for _, way in self._routes().get(key, []):
                self._remove(key, way)

    def _ruled(self) -> Mapping[int, set[int]]:
        """Return the families in which a rule of ours leads a mark to its table."""
        found: dict[int, set[int]] = {}
        for family in _FAMILIES:
            for rule in self._netlink.dump("rules", family=family):
                mark = rule.get_attr("FRA_FWMARK")
                ours = rule.get_attr("FRA_PROTOCOL") in (None, PROTOCOL) and is_uplink_mark(mark or 0)
                if ours and rule.get_attr("FRA_TABLE") == mark and rule.get_attr("FRA_PRIORITY") == UPLINK_PRIORITY:
                    found.setdefault(mark, set()).add(family)
        return found

    def _routes(self) -> Mapping[int, list[tuple[str, Way]]]:
        """Return source and way of each of our routes, by table."""
        found: dict[int, list[tuple[str, Way]]] = {}
        names = self._netlink.names()
        for family in _FAMILIES:
            for route in self._netlink.dump("routes", family=family, proto=PROTOCOL):
                table = route.get_attr("RTA_TABLE") or 0
                if route["proto"] == PROTOCOL and is_uplink_mark(table):
                    found.setdefault(table, []).append(
                        (str(route.get_attr("RTA_PREFSRC") or ""), _read_way(route, names))
                    )
        return found

    def _replace(self, table: int, local: str, way: Way) -> None:
        where = {"family": _family(way.destination), "dst": way.destination, "table": table, "proto": PROTOCOL}
        if not way.device:
            self._netlink.ipr.route("replace", type="unreachable", **where)
            return
        hop = {"gateway": way.via} if way.via else {"scope": "link"} if ":" not in way.destination else {}
        self._netlink.ipr.route("replace", oif=self._netlink.index(way.device), prefsrc=local, **hop, **where)

    def _remove(self, table: int, way: Way) -> None:
        where = {"family": _family(way.destination), "dst": way.destination, "table": table, "proto": PROTOCOL}
        what: dict[str, object] = {"scope": _ANY_SCOPE} if ":" not in way.destination else {}
        what |= {"oif": self._netlink.index(way.device)} if way.device else {"type": "unreachable"}
        with gone_is_success():
            self._netlink.ipr.route("del", **what, **where)


def _way(netlink: Netlink, source: Ip, far_end: Ip, on: tuple[int, str] | None) -> Way:
    destination = f"{far_end}/{far_end.max_prefixlen}"
    if on is None:
        return Way(destination)
    index, network = on
    found = _ask(netlink, far_end, src=str(source), src_len=source.max_prefixlen)
    if found is None or found[0] != index:
        over = _ask(netlink, far_end, oif=index)
        reached = over is not None and over[0] == index and (over[1] or far_end in ip_interface(network).network)
        found = over if reached else found
    return Way(destination, netlink.names().get(found[0], ""), found[1]) if found else Way(destination)


def _ask(netlink: Netlink, far_end: Ip, **match: object) -> tuple[int, str] | None:
    """Return interface index and next hop ("" for none) of the kernel's own way to an address, None for no way."""
    try:
        answers = list(netlink.ipr.route("get", dst=str(far_end), **match))
    except NetlinkError as error:
        if error.code in _NO_WAY:
            return None
        raise
    route = answers[0] if answers else None
    if route is None or route["type"] != _UNICAST:
        return None
    return int(route.get_attr("RTA_OIF")), str(route.get_attr("RTA_GATEWAY") or "")


def _device_of(netlink: Netlink, address: Ip) -> tuple[int, str] | None:
    """Return the interface that has an address, and its network; None where the host has it not."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    for message in netlink.dump("addr", family=int(family)):
        own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if own == str(address):
            return int(message["index"]), f"{own}/{message['prefixlen']}"
    return None


def _uplink(routes: list[tuple[str, Way]]) -> Uplink:
    sources = {source for source, way in routes if way.device}
    return Uplink("".join(sources), tuple(sorted(way for _, way in routes))) if len(sources) < 2 else _DAMAGED


def _read_way(route: Any, names: Mapping[int, str]) -> Way:
    destination = f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
    if route["type"] == _UNREACHABLE:
        return Way(destination)
    return Way(destination, names.get(route.get_attr("RTA_OIF"), "?"), str(route.get_attr("RTA_GATEWAY") or ""))


def _rule(mark: int) -> dict[str, object]:
    return {
        "priority": UPLINK_PRIORITY,
        "protocol": PROTOCOL,
        "action": _TO_TABLE,
        "table": mark,
        "fwmark": mark,
    }


def _family(destination: str) -> int:
    return int(socket.AF_INET6 if ":" in destination else socket.AF_INET)
