"""Routes to the overlay addresses and LANs of the other sites, in our own tables with our own protocol number.

Links are unnumbered, so an IPv4 next hop is "on link" though no address of the device says so; one of IPv6 may serve an
IPv4 route too (RTA_VIA). Every route names our own overlay address as its source; without it the kernel would take the
egress device's.

An alternate is a second route of a higher metric: the kernel takes it by itself once it has lost the first, as it does
when a device is set down, or loses its carrier. (Tunnels never lose theirs: there the controller puts another route.)

LANs have tables of their own, which only packets from the overlay are led to (`rules.py`): whatever another site
announces, no packet of this host's own goes another way than before. The packet check lets their clients in by the
table of prefixes, so a route and its prefix come and go together.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from skedge.core.errors import DataplaneError
from skedge.core.objects import KernelRoute, NextHop, RouteUse
from skedge.dataplane.ebpf.prefix_table import HERE, PrefixTable
from skedge.dataplane.host.netlink import (
    ALTERNATE_PROTOCOL,
    ANSWER_TABLE,
    LAN_TABLE,
    PROTOCOL,
    TABLE,
    Netlink,
    kernel_errors,
)
from skedge.dataplane.routing.route_messages import Hop, RouteChange, send

_UNICAST = 1
FIRST = (PROTOCOL, 1024)  # the kernel's own metric for IPv6; said, so that a replace names the same route
ALTERNATE = (ALTERNATE_PROTOCOL, 2048)
_GONE = (errno.ESRCH, errno.ENOENT)


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
            routes[key] = replace(route, use=use) if whole and route else KernelRoute((), "", use)
        return routes

    def _table(self, table: int) -> Mapping[str, KernelRoute]:
        names = self._netlink.names()
        found: dict[str, KernelRoute] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._netlink.routes(family, table):
                if _ours(message, table) and message["type"] == _UNICAST:
                    key = _destination(message)
                    found[key] = _joined(found.get(key), message, names)
        return found

    def put(self, key: str, value: KernelRoute) -> None:
        """Create or replace the route. Raises DataplaneError, also when a device is not there (yet)."""
        for error in self.put_all({key: value}).values():
            raise error

    def put_all(self, wanted: Mapping[str, KernelRoute]) -> Mapping[str, DataplaneError]:
        """Create or replace these routes in one step; return why some could not be."""
        indexes = {index: name for name, index in self._netlink.names().items()}
        failed: dict[str, DataplaneError] = {}
        changes: list[RouteChange] = []
        for key, value in wanted.items():
            try:
                changes += _changes(key, value, indexes)
            except DataplaneError as error:
                failed[key] = error
        failed |= self._send(changes, "route to")
        for key, value in wanted.items():
            if self._prefixes and value.use is not RouteUse.OVERLAY and key not in failed:
                try:
                    self._prefixes.put(key, HERE if value.use is RouteUse.CLIENTS else 0)
                except DataplaneError as error:
                    failed[key] = error
        return failed

    def lead(self, routes: Mapping[str, KernelRoute]) -> Mapping[str, DataplaneError]:
        """Lead routes that are there another way, in one step and no more than that: alternates stay as they are."""
        indexes = {index: name for name, index in self._netlink.names().items()}
        changes = [
            RouteChange(key, table, *FIRST, hops, route.source)
            for key, route in routes.items()
            if (hops := tuple(Hop(indexes[hop.device], hop.via) for hop in route.next_hops if hop.device in indexes))
            for table in _tables(route.use)
        ]
        return self._send(changes, "lead the route to")

    def delete(self, key: str) -> None:
        """Remove the route; one that is already gone is success."""
        for error in self.delete_all((key,)).values():
            raise error

    def delete_all(self, keys: Collection[str]) -> Mapping[str, DataplaneError]:
        """Remove these routes in one step; return why some could not be."""
        if self._prefixes:
            for key in keys:
                self._prefixes.delete(key)
        kinds = (ALTERNATE, FIRST)  # while the first is there, the second carries nothing
        tables = (ANSWER_TABLE, LAN_TABLE, TABLE)
        changes = [RouteChange(key, table, *kind) for key in keys for table in tables for kind in kinds]
        return self._send(changes, "remove the route to")

    @staticmethod
    def _send(changes: list[RouteChange], what: str) -> dict[str, DataplaneError]:
        """Make changes; return the first refusal of each route. Removing what is not there is success."""
        failed: dict[str, DataplaneError] = {}
        with kernel_errors("change routes"):
            codes = send(changes)
        for change, code in zip(changes, codes, strict=True):
            if code and not (not change.hops and code in _GONE):
                failed.setdefault(
                    change.destination, DataplaneError(f"{what} {change.destination}: {os.strerror(code)}")
                )
        return failed


def _changes(key: str, value: KernelRoute, indexes: Mapping[str, int]) -> Iterable[RouteChange]:
    """Return what makes the kernel have a route. Raises DataplaneError when it leads nowhere."""
    if not value.next_hops:
        raise DataplaneError(f"route to {key}: it has no next hop")
    first, spare = (
        tuple(Hop(_index(key, hop, indexes), hop.via) for hop in hops) for hops in (value.next_hops, value.alternates)
    )
    if value.use is RouteUse.TRANSIT:
        yield from (RouteChange(key, ANSWER_TABLE, *kind) for kind in (ALTERNATE, FIRST))
    for table in _tables(value.use):
        yield RouteChange(key, table, *FIRST, first, value.source)
        yield RouteChange(key, table, *ALTERNATE, spare, value.source if spare else "")


def _tables(use: RouteUse) -> tuple[int, ...]:
    """Return the tables that a route is in."""
    if use is RouteUse.OVERLAY:
        return (TABLE,)
    return (LAN_TABLE, ANSWER_TABLE) if use is RouteUse.CLIENTS else (LAN_TABLE,)


def _index(key: str, hop: NextHop, indexes: Mapping[str, int]) -> int:
    if hop.device not in indexes:
        raise DataplaneError(f"route to {key}: there is no device {hop.device}")
    return indexes[hop.device]


def fall(remade: Collection[str], routes: Mapping[str, KernelRoute]) -> Mapping[str, KernelRoute]:
    """Return what the kernel leaves of routes when devices go: none of IPv4 with such a hop, of IPv6 the other hops."""
    left: dict[str, KernelRoute] = {}
    for key, route in routes.items():
        first, spare = (_left(key, hops, remade) for hops in (route.next_hops, route.alternates))
        if first or spare:
            left[key] = replace(route, next_hops=first, alternates=spare)
    return left


def _left(key: str, hops: tuple[NextHop, ...], remade: Collection[str]) -> tuple[NextHop, ...]:
    left = tuple(hop for hop in hops if hop.device not in remade)
    return left if left == hops or ":" in key else ()


def _ours(message: Any, table: int) -> bool:
    return bool(message["proto"] in (PROTOCOL, ALTERNATE_PROTOCOL) and message.get_attr("RTA_TABLE") == table)


def _destination(message: Any) -> str:
    return f"{message.get_attr('RTA_DST')}/{message['dst_len']}"


def _next_hop(part: Any, index: int, names: Mapping[int, str]) -> NextHop:
    via = part.get_attr("RTA_VIA")
    address = via["addr"] if via else part.get_attr("RTA_GATEWAY")
    return NextHop(names.get(index, f"#{index}"), str(address))


def _joined(other: KernelRoute | None, message: Any, names: Mapping[int, str]) -> KernelRoute:
    """Return a destination's two routes as one; ``other`` is what was read of it before."""
    route = _route(message, names)
    if message["proto"] == ALTERNATE_PROTOCOL:
        return KernelRoute(other.next_hops if other else (), route.source, alternates=route.next_hops)
    return replace(route, alternates=other.alternates if other else ())


def _route(message: Any, names: Mapping[int, str]) -> KernelRoute:
    """Return one route; the next hops sorted, as the kernel's order says nothing."""
    parts = message.get_attr("RTA_MULTIPATH")
    if parts:
        hops = [_next_hop(part, part["oif"], names) for part in parts]
    else:
        hops = [_next_hop(message, message.get_attr("RTA_OIF"), names)]
    return KernelRoute(tuple(sorted(hops)), str(message.get_attr("RTA_PREFSRC") or ""))
