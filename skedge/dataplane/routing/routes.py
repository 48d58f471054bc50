"""Routes to the overlay addresses and LANs of the other sites, in our own tables with our own protocol number.

Links are unnumbered, so an IPv4 next hop is "on link" though no address of the device says so; one of IPv6 may serve an
IPv4 route too (RTA_VIA). Every route names our own overlay address as its source; without it the kernel would take the
egress device's.

LANs have tables of their own, which only packets from the overlay are led to (`rules.py`): whatever another site
announces, no packet of this host's own goes another way than before. The packet check lets their clients in by the
table of prefixes, so a route and its prefix come and go together.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.core.objects import KernelRoute, NextHop, RouteUse
from skedge.dataplane.ebpf.prefix_table import HERE, PrefixTable
from skedge.dataplane.host.netlink import ANSWER_TABLE, LAN_TABLE, PROTOCOL, TABLE, Netlink, kernel_errors

_UNICAST = 1
_ONLINK = 4
METRIC = 1024  # the kernel's own default for IPv6; said, so that a replace names the same route


class RouteDriver:
    """Driver[str, KernelRoute]: destination ``addr/len`` -> next hops and source."""

    def __init__(self, netlink: Netlink, prefixes: PrefixTable | None = None) -> None:
        self._netlink = netlink
        self._prefixes = prefixes

    def read(self) -> Mapping[str, KernelRoute]:
        """Return our unicast routes of both families; the route to a LAN without hops where its parts do not agree."""
        lans, answers = self._table(LAN_TABLE), self._table(ANSWER_TABLE)
        routes = dict(self._table(TABLE))
        known = self._prefixes.read() if self._prefixes else {}
        for key in {*lans, *answers, *known}:
            use = RouteUse.CLIENTS if key in answers else RouteUse.TRANSIT
            route, flags = lans.get(key), HERE if key in answers else 0
            whole = route is not None and answers.get(key, route) == route
            whole &= self._prefixes is None or known.get(key) == flags
            routes[key] = (
                KernelRoute(route.next_hops, route.source, use) if whole and route else KernelRoute((), "", use)
            )
        return routes

    def _table(self, table: int) -> Mapping[str, KernelRoute]:
        names = self._netlink.names()
        return {
            _destination(message): _route(message, names)
            for family in (socket.AF_INET, socket.AF_INET6)
            for message in self._netlink.routes(family, table)
            if _ours(message, table) and message["type"] == _UNICAST
        }

    def put(self, key: str, value: KernelRoute) -> None:
        """Create or replace the route. Raises DataplaneError, also when a device is not there (yet)."""
        if value.use is RouteUse.OVERLAY:
            self._replace(key, value, TABLE)
            return
        self._replace(key, value, LAN_TABLE)
        if value.use is RouteUse.CLIENTS:
            self._replace(key, value, ANSWER_TABLE)
        else:
            self._delete(key, ANSWER_TABLE)
        if self._prefixes:
            self._prefixes.put(key, HERE if value.use is RouteUse.CLIENTS else 0)

    def _replace(self, key: str, value: KernelRoute, table: int) -> None:
        network = ip_network(key)
        hops = [self._hop(key, hop, network.version) for hop in value.next_hops]
        if not hops:
            raise DataplaneError(f"route to {key}: it has no next hop")
        nexthop: dict[str, object] = hops[0] if len(hops) == 1 else {"multipath": hops}
        with kernel_errors(f"route to {key}"):
            self._netlink.ipr.route(
                "replace",
                family=_family(network.version),
                dst=key,
                table=table,
                proto=PROTOCOL,
                priority=METRIC,
                prefsrc=value.source,
                **nexthop,
            )

    def delete(self, key: str) -> None:
        """Remove the route; one that is already gone is success."""
        if self._prefixes:
            self._prefixes.delete(key)
        for table in (ANSWER_TABLE, LAN_TABLE, TABLE):
            self._delete(key, table)

    def _delete(self, key: str, table: int) -> None:
        network = ip_network(key)
        with kernel_errors(f"remove the route to {key}"):
            try:
                self._netlink.ipr.route(
                    "del", family=_family(network.version), dst=key, table=table, proto=PROTOCOL, type=_UNICAST
                )
            except NetlinkError as error:
                if error.code not in (errno.ESRCH, errno.ENOENT):
                    raise

    def _hop(self, key: str, hop: NextHop, version: int) -> dict[str, object]:
        """Return one next hop in pyroute2's form."""
        index = self._netlink.index(hop.device)
        if index is None:
            raise DataplaneError(f"route to {key}: there is no device {hop.device}")
        if version == 6:
            return {"oif": index, "gateway": hop.via}
        if ip_address(hop.via).version == 4:
            return {"oif": index, "gateway": hop.via, "flags": _ONLINK}
        return {"oif": index, "via": {"family": socket.AF_INET6, "addr": hop.via}}


def fall(remade: Collection[str], routes: Mapping[str, KernelRoute]) -> Mapping[str, KernelRoute]:
    """Return what the kernel leaves of routes when devices go: none of IPv4 with such a hop, of IPv6 the other hops."""
    left: dict[str, KernelRoute] = {}
    for key, route in routes.items():
        hops = tuple(hop for hop in route.next_hops if hop.device not in remade)
        if hops == route.next_hops:
            left[key] = route
        elif hops and ":" in key:
            left[key] = replace(route, next_hops=hops)
    return left


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _ours(message: Any, table: int) -> bool:
    return bool(message["proto"] == PROTOCOL and message.get_attr("RTA_TABLE") == table)


def _destination(message: Any) -> str:
    return f"{message.get_attr('RTA_DST')}/{message['dst_len']}"


def _next_hop(part: Any, index: int, names: Mapping[int, str]) -> NextHop:
    via = part.get_attr("RTA_VIA")
    address = via["addr"] if via else part.get_attr("RTA_GATEWAY")
    return NextHop(names.get(index, f"#{index}"), str(address))


def _route(message: Any, names: Mapping[int, str]) -> KernelRoute:
    """Return one route; the next hops sorted, as the kernel's order says nothing."""
    parts = message.get_attr("RTA_MULTIPATH")
    if parts:
        hops = [_next_hop(part, part["oif"], names) for part in parts]
    else:
        hops = [_next_hop(message, message.get_attr("RTA_OIF"), names)]
    return KernelRoute(tuple(sorted(hops)), str(message.get_attr("RTA_PREFSRC") or ""))
