# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""The pre-flight checks: what would break skedge on a host, or be broken by it. PRIVATE to the collection.

Each check takes what was read from the host and returns sentences; reading is in the module, so that tests need no
host.
"""

from __future__ import annotations

import ipaddress

from ansible_collections.skedge.edge.plugins.module_utils.transports import udp_port
from ansible_collections.skedge.edge.plugins.module_utils.ways import OUR_PREFIX, is_ours, network

SKEW_MAX_S = 300
OUR_WIREGUARD = "wireguard-go"
OUR_PROGRAMS = ("skedged", "skedge")
SKIPPABLE = ("clock", "firewall", "kernel", "ports", "routes", "addresses", "takeover")


def parse_release(text):
    """Return a distribution's name, and the words by which its packages may be known, the most exact first."""
    lines = [line.split("=", 1) for line in text.splitlines() if "=" in line]
    release = {key: value.strip("\"'") for key, value in lines}
    major = release.get("VERSION_ID", "").split(".")[0]
    words = (release.get("ID", "") + " " + release.get("ID_LIKE", "")).split()
    return release.get("PRETTY_NAME", "this system"), [name for word in words for name in (word + major, word)]


def python_of(wanted, running):
    """Return path and version of the Python that is to run the controller; ``running`` is the module's own version.

    Another one than the distribution's python3 may be yet to be installed; then its path says the version.
    """
    path = wanted.get("python", "/usr/bin/python3")
    words = path.rsplit("python", 1)[1].split(".")
    return path, tuple(int(word) for word in words) if len(words) == 2 else running


def kernel(facts):
    """Return what the host lacks: root, BTF, cgroup2, IPv6, systemd."""
    problems = []
    if facts["uid"] != 0:
        problems.append("the deployment runs as user id %d; set ansible_become: true, or log in as root" % facts["uid"])
    problems += _engine(facts)
    if not facts["ipv6"]:
        problems.append(
            "the kernel runs without IPv6, which links need; remove ipv6.disable=1 from the kernel's command line"
        )
    if not facts["systemd"]:
        problems.append("systemd is not the init system; skedge runs as a systemd service")
    if facts["python"] < (3, 11):
        python = facts.get("interpreter", "/usr/bin/python3")
        problems.append("%s is version %d.%d; skedge needs 3.11 or later" % (python, *facts["python"]))
    return problems


def distribution(name, family, known, managed):
    """Return whether nobody knows the names of this distribution's packages, though they are to be installed."""
    if family or not managed or not known:
        return []
    return [
        "%s is not among the distributions whose packages skedge knows (%s); install bcc for /usr/bin/python3, ip and "
        "nft yourself, and set skedge_manage_packages: false" % (name, ", ".join(sorted(known)))
    ]


def _engine(facts):
    """Return why the engine that is asked for cannot serve, or (auto) why none can."""
    wanted = facts["engine"]
    if wanted == "ipvs":
        lack = "the kernel %s has no IPVS (module ip_vs); install it, or set skedge_engine: ebpf" % facts["kernel"]
        return [] if facts["ipvs"] else [lack]
    if wanted == "auto" and facts["ipvs"]:
        return []
    problems = []
    if not facts["btf"]:
        problems.append(
            "the kernel %s has no BTF (/sys/kernel/btf/vmlinux); boot one with CONFIG_DEBUG_INFO_BTF, "
            "such as the distribution's own" % facts["kernel"]
        )
    if not facts["cgroup2"]:
        problems.append("no cgroup2 is mounted; boot with systemd.unified_cgroup_hierarchy=1, or mount one")
    return problems


def clock(host_now, control_now):
    """Return whether the clocks are too far apart for certificates to be valid at both ends."""
    skew = host_now - control_now
    if control_now and abs(skew) > SKEW_MAX_S:
        way = "ahead of" if skew > 0 else "behind"
        return ["the host's clock is %d s %s the control node's; set it, best with an NTP service" % (abs(skew), way)]
    return []


def has_wireguard(site):
    """Return whether a site has a wireguard link."""
    return any(link.get("transport") == "wireguard" for link in site.get("links", []))


def tunnel_ports(site):
    """Return the UDP ports of a site's links, sorted."""
    return sorted({udp_port(link) for link in site.get("links", [])} - {0})


def wireguard(site, facts):
    """Return what wireguard links lack: the kernel's WireGuard, or else a TUN device for wireguard-go."""
    if not has_wireguard(site) or facts["wireguard"] or facts["tun"]:
        return []
    return [
        "the kernel %s has neither WireGuard nor TUN (/dev/net/tun); load one of the modules wireguard and tun, "
        "or give the links transport: vxlan" % facts["kernel"]
    ]


def _services(listener):
    """Return the name of a listener's service, or the names of its services."""
    return listener.get("service") or ", ".join(share["service"] for share in listener["services"])


def ports(site, sockets, programs, units=None):
    """Return every port that a listener, the tunnels or the controller need and another program holds.

    A listener has no socket of its own, so whatever is bound to its port is another program's. ``units`` are
    {pid: unit}: a listener that takes its port over from the unit that holds it is no problem.
    """
    wanted = [
        (
            item.get("protocol", "tcp"),
            item.get("address", "*"),
            item["port"],
            "the listener of service %s" % _services(item),
            item.get("takeover", ""),
        )
        for item in site.get("listeners", [])
    ]
    wanted += [("udp", "*", port, "the tunnels of links", None) for port in tunnel_ports(site)]
    metrics = {"address": "127.0.0.1", "port": 9464, **site.get("metrics", {})}
    if metrics["port"]:
        wanted.append(("tcp", metrics["address"], metrics["port"], "the metrics endpoint", None))
    problems = []
    for protocol, address, port, what, takeover in wanted:
        for bound in sockets:
            if (bound.protocol, bound.port) != (protocol, port) or not bound.overlaps(address):
                continue
            if protocol == "udp" and bound.inode not in programs:
                continue  # the kernel's own: a tunnel, of ours or another's, which share a port by their identifiers
            name, pid = programs.get(bound.inode, ("a program that cannot be seen", 0))
            if name in OUR_PROGRAMS or (name == OUR_WIREGUARD and protocol == "udp"):
                continue
            unit = (units or {}).get(pid, "")
            if takeover and takeover == unit:
                continue
            who = "%s (pid %d)" % (name, pid) if pid else name
            shown = "[%s]" % bound.address if ":" in bound.address else bound.address
            problems.append(
                "port %d/%s of %s is held by %s on %s:%d; stop that program, bind it to another port, "
                "or give another port%s" % (port, protocol, what, who, shown, port, _or_take_over(takeover, unit))
            )
    return problems


def _or_take_over(takeover, unit):
    """Return the way out that there is besides when a service holds a listener's port."""
    if takeover is None or not unit.endswith(".service"):
        return ""
    if takeover:
        return " (it is of %s, not of %s, which takeover names)" % (unit, takeover)
    return ", or take the port over from it: takeover: %s" % unit


def resolvers(text):
    """Return the addresses of the name servers that resolv.conf names."""
    words = [line.split() for line in text.splitlines()]
    return [word[1].partition("%")[0] for word in words if len(word) > 1 and word[0] == "nameserver"]


def sites(others, own, table, resolv_conf):
    """Return every address of another site that is also the host's own, its gateway's or its resolver's."""
    found = dict.fromkeys(resolvers(resolv_conf), "its resolver")
    found.update((route["gateway"], "its gateway") for route in table if route.get("gateway") and not is_ours(route))
    found.update((one, "an address of this host") for one in own["addresses"])
    return [
        "%s is the overlay address of %s and %s, which it would not reach any more; give %s another "
        "skedge_overlay_address, or the network another skedge_overlay_cidr" % (address, site, found[address], site)
        for site, address in sorted(others.items())
        if address in found
    ]


def prefixes(site, table):
    """Return every prefix that the site announces though the host has no network or route of its own with all of it."""
    problems = []
    routes = [route.get("dst", "") for route in table if not is_ours(route) and route.get("table") != "local"]
    networks = [network for network in map(network, routes) if network is not None and network.prefixlen]
    for text in site.get("prefixes", []):
        prefix = ipaddress.ip_network(text)
        if not any(one.version == prefix.version and prefix.subnet_of(one) for one in networks):
            problems.append(
                "it announces %s, but has no network or route (beside the default one) that this lies in; give "
                "skedge_prefixes the LAN's own prefix" % prefix
            )
    return problems


def addresses(site, own):
    """Return every link whose own end is not an address of this host, and devices that are not there."""
    problems = []
    for link in site.get("links", []):
        local, device = link.get("local", ""), link.get("device", "")
        if local and local not in own["addresses"]:
            problems.append(
                "%s, its end of the link to %s, is not an address of this host (it has %s); set "
                "skedge_underlay_address, or skedge_local_address where the neighbours see another one"
                % (local, link["to"], _some(own["addresses"]))
            )
        if device and device not in own["devices"]:
            problems.append(
                "%s, the device of the link to %s, is not there (it has %s)"
                % (device, link["to"], _some(own["devices"]))
            )
    return problems


def _some(names):
    shown = [
        name for name in names if name not in ("127.0.0.1", "::1", "lo") and not name.startswith(("fe80", OUR_PREFIX))
    ]
    return ", ".join(shown[:6]) or "none"
