"""What leads overlay traffic into our table and keeps it there: one rule a family, and a last route.

The last route makes the overlay's networks unreachable where no site's route matches; else such a packet would go on
to the host's own default route and leave in the clear.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.dataplane.netlink import PRIORITY, PROTOCOL, TABLE, Netlink, kernel_errors

_FAMILIES = {"inet": int(socket.AF_INET), "inet6": int(socket.AF_INET6)}
_UNREACHABLE = 7
_TO_TABLE = 1
_LAST_METRIC = 65535
RULE = "rule"
LAST = "unreachable"


def wanted(overlay_cidr: str, overlay_prefix6: str) -> Mapping[str, str]:
    """Return what `RuleDriver` must hold for an overlay: ``rule inet`` -> ``""``, ``unreachable inet`` -> network."""
    return {
        "rule inet": "",
        "rule inet6": "",
        "unreachable inet": overlay_cidr,
        "unreachable inet6": overlay_prefix6,
    }


class RuleDriver:
    """Driver[str, str] of the keys of `wanted`."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def read(self) -> Mapping[str, str]:
        """Return our rules and last routes."""
        found: dict[str, str] = {}
        for name, family in _FAMILIES.items():
            for rule in self._netlink.dump("rules", family=family):
                if _our_rule(rule):
                    found[f"{RULE} {name}"] = ""
            for route in self._netlink.dump("routes", family=family, table=TABLE):
                if route["proto"] == PROTOCOL and route["type"] == _UNREACHABLE:
                    found[f"{LAST} {name}"] = f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
        return found

    def put(self, key: str, value: str) -> None:
        """Create or replace a rule or a last route."""
        kind, family = _parse(key)
        with kernel_errors(f"{key} {value}".strip()):
            if kind == LAST:
                previous = self.read().get(key)
                self._last_route("replace", family, value)
                if previous not in (None, value):
                    self._last_route("del", family, str(previous))
                return
            try:
                self._netlink.ipr.rule(
                    "add", family=family, priority=PRIORITY, table=TABLE, protocol=PROTOCOL, action=_TO_TABLE
                )
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise

    def delete(self, key: str) -> None:
        """Remove a rule or a last route; one that is already gone is success."""
        kind, family = _parse(key)
        have = self.read()
        if key not in have:
            return
        with kernel_errors(f"remove {key}"):
            if kind == LAST:
                self._last_route("del", family, have[key])
            else:
                self._netlink.ipr.rule("del", family=family, priority=PRIORITY, table=TABLE, protocol=PROTOCOL)

    def _last_route(self, verb: str, family: int, network: str) -> None:
        self._netlink.ipr.route(
            verb, family=family, dst=network, table=TABLE, proto=PROTOCOL, type="unreachable", priority=_LAST_METRIC
        )


def _our_rule(rule: object) -> bool:
    """Return whether a rule message is ours: our table, priority and protocol number."""
    get = rule.get_attr  # type: ignore[attr-defined]
    return bool(
        get("FRA_PRIORITY") == PRIORITY and get("FRA_TABLE") == TABLE and get("FRA_PROTOCOL") in (None, PROTOCOL)
    )


def _parse(key: str) -> tuple[str, int]:
    kind, _, family = key.partition(" ")
    if kind not in (RULE, LAST) or family not in _FAMILIES:
        raise DataplaneError(f"{key!r} is not one of: rule inet, rule inet6, unreachable inet, unreachable inet6")
    return kind, _FAMILIES[family]
