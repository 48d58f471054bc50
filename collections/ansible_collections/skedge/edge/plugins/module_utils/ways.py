# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""What of a host's rules and routes leads to sites' addresses: other VPNs' before, networks' beside. PRIVATE to the
collection.

Each site's address has a route of its own, by a rule of ours. So a wider route behind that rule (10.0.0.0/8, or all of
100.64.0.0/10 unreachable) is no clash; whatever leads there before it is one.
"""

from __future__ import annotations

import ipaddress

OUR_TABLE = 7400
OUR_PRIORITY = 7400
OUR_PREFIX = "sk-"
OUR_PROTOCOL = 74  # of our routes, also of the last one in the main table
_SELECTORS = ("iif", "oif", "ipproto", "sport", "dport", "uid_start", "tos", "dst", "goto")


def is_ours(route):
    """Return whether a route is skedge's."""
    ours = route.get("dev", "").startswith(OUR_PREFIX) or str(route.get("table", "")) == str(OUR_TABLE)
    return ours or str(route.get("protocol", "")) == str(OUR_PROTOCOL)


def routes(overlays, table, addresses, rules=()):
    """Return every route of the host that leads to sites' addresses.

    ``table`` and ``rules`` are what ``ip -j route`` and ``ip -j rule`` say, ``addresses`` all sites' that are known.
    """
    ranges = [ipaddress.ip_network(text) for text in overlays]
    sites = [ipaddress.ip_address(text) for text in addresses]
    before = _tables_before(rules)
    problems = [_main_before(*before["main"])] if "main" in before else []
    for route in table:
        destination = network(route.get("dst", ""))
        at_home = route.get("table") == "local" and route.get("dev", "") == "lo"
        if is_ours(route) or at_home or destination is None or "throw" in (route.get("type"), route.get("dst", "")[:5]):
            continue
        led = [one for one in sites if one.version == destination.version and one in destination]
        rule = before.get(str(route.get("table", "main")))
        if rule is not None and destination.prefixlen > rule[1]:
            if led:
                problems.append(_before(rule[0], route, led))
        elif destination.prefixlen:
            problems += [_beside(route, destination, one) for one in ranges if _clashes(route, destination, one, led)]
    return list(dict.fromkeys(problems))


def _tables_before(rules):
    """Return the tables that are asked before ours for what bears no mark: {table: (rule's number, suppressed)}."""
    found = {}
    for rule in rules:
        number, name = rule.get("priority", 0), str(rule.get("table", ""))
        marked = "fwmark" in rule and "not" not in rule
        if number >= OUR_PRIORITY or name in ("", "local", "255") or marked or any(key in rule for key in _SELECTORS):
            continue
        if rule.get("src", "all") == "all":
            found.setdefault({"254": "main"}.get(name, name), (number, rule.get("suppress_prefixlen", -1)))
    return found


def _clashes(route, destination, overlay, led):
    """Return whether a route behind ours is to something that a site's address belongs to."""
    if destination.version != overlay.version or not destination.overlaps(overlay):
        return False
    if overlay.version == 6:  # which addresses the sites have is not said
        return destination.subnet_of(overlay)
    attached = route.get("dev") and not route.get("gateway") and route.get("type", "unicast") == "unicast"
    return bool(led) and (destination.subnet_of(overlay) or bool(attached))


def _beside(route, destination, overlay):
    return "its route %s%s overlaps the overlay %s; give skedge_overlay_cidr a range that no host has a route into" % (
        destination,
        _dev(route),
        overlay,
    )


def _before(number, route, led):
    return (
        "its rule %d leads %s%s to table %s%s, before skedge's own rule %d; let the program that made it (a VPN: its "
        "exit node, or peers with sites' addresses) leave these out, or give it a higher number"
        % (number, led[0], " and %d more sites" % (len(led) - 1) if len(led) > 1 else "", route.get("table", "main"),
           _dev(route), OUR_PRIORITY)
    )  # fmt: skip


def _main_before(number, _suppressed):
    return (
        "its rule %d asks the main table before skedge's own rule %d, and would find the last routes there, which let "
        "nothing for a site leave in the clear; give it a higher number (NetBird: NB_USE_LEGACY_ROUTING=true)"
        % (number, OUR_PRIORITY)
    )


def _dev(route):
    return " dev %s" % route["dev"] if route.get("dev") else ""


def network(text):
    """Return the network that a route is to, None for what is none."""
    text = text.split()[-1] if text else ""
    try:
        return ipaddress.ip_network("0.0.0.0/0" if text == "default" else text) if text else None
    except ValueError:
        return None
