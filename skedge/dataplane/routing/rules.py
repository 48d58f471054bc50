"""What leads overlay traffic into our tables and keeps it there: rules of both families, and last routes.

A last route makes a site's address unreachable where no route to it is; else such a packet would go on to the host's
own default route and leave in the clear. There is one in our table, and one in the main table (``guard``) for the
moment in which somebody else has deleted our rules or routes. Of IPv6 there is one for the overlay's whole network,
which is ours alone. Of IPv4 there is one for each site: the rest of the range may be where the host's provider has its
gateway or its resolver, and is left to the host.

* ``closed``: what is from an overlay address of this site and was not led anywhere goes nowhere, not out by the default
  route, when a site is no more known or a LAN's site is unreachable.

Where any site announces a LAN, whose clients keep their addresses, there are more rules:

* ``answers``: packets from overlay addresses find the LANs of other sites. No others do: a host in such a LAN that
  reaches this one another way (its operator, say) is answered the way that it always was.
* ``loopback``: so do those from 127/8. They are of workloads whose packets are rewritten on the link device, as no
  packet from there leaves a host otherwise.
* ``udp PORT``: and the answers of UDP workloads, whose sockets choose no source before the route is known.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping
from ipaddress import ip_network
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.dataplane.host.netlink import (
    ANSWER_TABLE,
    LAN_TABLE,
    LAST_METRIC,
    MAIN,
    PRIORITY,
    PROTOCOL,
    TABLE,
    Netlink,
    gone_is_success,
    kernel_errors,
)

_FAMILIES = {"inet": int(socket.AF_INET), "inet6": int(socket.AF_INET6)}
_UNREACHABLE = 7
_TO_TABLE = 1
_UDP = 17
_ONE4 = 32
_INVERTED = 0x2  # FIB_RULE_INVERT
_NARROWS = ("FRA_DST", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_FWMARK", "FRA_TUN_ID", "FRA_UID_RANGE", "FRA_DPORT_RANGE")
_OF_UDP = ("FRA_IP_PROTO", "FRA_SPORT_RANGE")
RULE, ANSWERS, LOOPBACK, UDP, CLOSED = "rule", "answers", "loopback", "udp", "closed"
LAST, GUARD = "unreachable", "guard"
_LAST_TABLES = {LAST: TABLE, GUARD: MAIN}
_PRIORITIES = {RULE: PRIORITY, ANSWERS: PRIORITY + 1, LOOPBACK: PRIORITY + 2, UDP: PRIORITY + 3, CLOSED: PRIORITY + 4}
_TABLES = {RULE: TABLE, ANSWERS: LAN_TABLE, LOOPBACK: LAN_TABLE, UDP: ANSWER_TABLE}


def wanted(overlay_prefix6: str, own: Collection[str], sites: Collection[str] = ()) -> Mapping[str, str]:
    """Return what `RuleDriver` must hold: ``rule inet`` -> ``""``, ``guard inet6`` -> network.

    ``own`` are this site's overlay addresses, ``sites`` those of the others, of which the IPv4 ones count.
    """
    return {
        **{f"{kind} inet {one}": f"{one}/32" for kind in (GUARD, LAST) for one in sorted(sites) if ":" not in one},
        **{f"{kind} inet6": overlay_prefix6 for kind in (GUARD, LAST)},
        **{f"{RULE} {family}": "" for family in _FAMILIES},
        **{f"{CLOSED} {'inet6' if ':' in one else 'inet'}": str(ip_network(one)) for one in own},
    }


def wanted_for_lans(overlay_cidr: str, overlay_prefix6: str, answering: Collection[int]) -> Mapping[str, str]:
    """Return what it must hold, too, where any site announces a LAN; ``answering``: ports of UDP workloads here."""
    networks = {"inet": overlay_cidr, "inet6": overlay_prefix6}
    return {
        **{f"{ANSWERS} {family}": network for family, network in networks.items()},
        f"{LOOPBACK} inet": "127.0.0.0/8",
        **{f"{UDP} {family} {port}": "" for family in networks for port in sorted(answering)},
    }


def for_lans(held: Collection[str]) -> bool:
    """Return whether rules for LANs are among those held. They stay once they are there, over restarts too."""
    return f"{ANSWERS} inet" in held


class RuleDriver:
    """Driver[str, str] of the keys of `wanted` and `wanted_for_lans`."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def read(self) -> Mapping[str, str]:
        """Return our rules and last routes."""
        found: dict[str, str] = {}
        for name, family in _FAMILIES.items():
            for rule in self._netlink.dump("rules", family=family):
                if (kind := _kind(rule)) is not None:
                    ports = rule.get_attr("FRA_SPORT_RANGE") if kind == UDP else None
                    found[f"{kind} {name}" + (f" {ports.split(':')[0]}" if ports else "")] = _from(rule)
            for last, table in _LAST_TABLES.items():
                for route in self._netlink.routes(family, table):
                    ours = route["proto"] == PROTOCOL and route.get_attr("RTA_TABLE") == table
                    if ours and route["type"] == _UNREACHABLE:
                        network = f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
                        of_site = family == socket.AF_INET and route["dst_len"] == _ONE4
                        found[f"{last} {name}" + (f" {route.get_attr('RTA_DST')}" if of_site else "")] = network
        return found

    def put(self, key: str, value: str) -> None:
        """Create or replace a rule or a last route."""
        kind, family, port = _parse(key)
        of_site = kind in _LAST_TABLES and _site(key)
        previous = None if of_site else self.read().get(key)  # many, and none has another value
        with kernel_errors(f"{key} {value}".strip()):
            if kind in _LAST_TABLES:
                self._last_route("replace", kind, family, value)
                if previous not in (None, value):
                    self._last_route("del", kind, family, str(previous))
                return
            try:
                self._rule("add", kind, family, port, value)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
            if previous not in (None, value):
                self._rule("del", kind, family, port, str(previous))

    def delete(self, key: str) -> None:
        """Remove a rule or a last route; one that is already gone is success."""
        kind, family, port = _parse(key)
        if kind in _LAST_TABLES and (site := _site(key)):
            with kernel_errors(f"remove {key}"), gone_is_success():
                self._last_route("del", kind, family, f"{site}/{_ONE4}")
            return
        have = self.read()
        if key not in have:
            return
        with kernel_errors(f"remove {key}"):
            if kind in _LAST_TABLES:
                self._last_route("del", kind, family, have[key])
            else:
                self._rule("del", kind, family, port, have[key])

    def _rule(self, verb: str, kind: str, family: int, port: int, source: str) -> None:
        what: dict[str, Any] = {"priority": _PRIORITIES[kind], "protocol": PROTOCOL}
        if kind == CLOSED:
            what |= {"action": _UNREACHABLE}
        else:
            what |= {"action": _TO_TABLE, "table": _TABLES[kind]}
        if source:
            what |= {"src": source.split("/")[0], "src_len": int(source.split("/")[1])}
        if port:
            what |= {"ip_proto": _UDP, "sport_range": f"{port}:{port}"}
        self._netlink.ipr.rule(verb, family=family, **what)

    def _last_route(self, verb: str, kind: str, family: int, network: str) -> None:
        where = {"table": _LAST_TABLES[kind], "priority": LAST_METRIC}
        self._netlink.ipr.route(verb, family=family, dst=network, proto=PROTOCOL, type="unreachable", **where)


def _kind(rule: Any) -> str | None:
    """Return what a rule message is of ours, by our priority, table and protocol number; None for another's.

    One that asks for more than ours do is another's.
    """
    if rule.get_attr("FRA_PROTOCOL") not in (None, PROTOCOL):
        return None
    found = (kind for kind, priority in _PRIORITIES.items() if rule.get_attr("FRA_PRIORITY") == priority)
    kind = next(found, None)
    narrows = _NARROWS if kind == UDP else (*_NARROWS, *_OF_UDP)
    if rule["tos"] or rule["flags"] & _INVERTED or any(rule.get_attr(name) is not None for name in narrows):
        return None
    if kind == CLOSED:
        return kind if rule["action"] == _UNREACHABLE else None
    return kind if kind and rule.get_attr("FRA_TABLE") == _TABLES[kind] else None


def _from(rule: Any) -> str:
    return f"{rule.get_attr('FRA_SRC')}/{rule['src_len']}" if rule["src_len"] else ""


def _site(key: str) -> str:
    """Return the site that a last route is of; "" of one that is of the whole overlay."""
    return key.split(" ")[2] if key.count(" ") > 1 else ""


def _parse(key: str) -> tuple[str, int, int]:
    kind, family, port = (*key.split(" "), "0")[:3]
    if kind in _LAST_TABLES and family in _FAMILIES:
        return kind, _FAMILIES[family], 0
    if kind not in _PRIORITIES or family not in _FAMILIES or not port.isdecimal():
        known = ", ".join((*_LAST_TABLES, *_PRIORITIES))
        raise DataplaneError(f"{key!r} is none of our rules; they are {known}, and a family")
    return kind, _FAMILIES[family], int(port)
