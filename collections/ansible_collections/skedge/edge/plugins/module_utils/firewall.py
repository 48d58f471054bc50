# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Which rule of the host's firewall would drop what skedge needs, and what to open. PRIVATE to the collection.

What passes the host's filter is less than one may think. Packets between links are forwarded, packets that end or begin
at a socket of the host pass its input and output chains. Connections of the LAN to listeners that leave the host again
are led past it by our own programs, but for the first packet: the input chains are asked about that as it came, and
what they let through goes once over lo. With ``skedge_lan_firewall: bypass`` the first one is led past them, too.

Packets on links, and of the LAN to listeners, are not tracked where the host tracks connections (the controller sees to
that, `skedge/dataplane/nftables/notrack.py`), so a rule for new or established connections does not fit them. What is
asked about is tracked, and new.
"""

from __future__ import annotations

import ipaddress

from ansible_collections.skedge.edge.plugins.module_utils.packetfilter import LOOPBACK, OTHER_DEVICE, Packet
from ansible_collections.skedge.edge.plugins.module_utils.transports import udp_port

OURS = "sk-?"
UNTRACKED = "untracked"
NEIGHBOUR = "fe80::1"  # any address on the link
OWN_TABLES = {("inet", "skedge")}
TAILSCALE = (
    " (tailscaled puts its rules before that at each start, unless `tailscale set --netfilter-mode=nodivert`), or give "
    "skedge_overlay_cidr a range outside of 100.64.0.0/10"
)


class Need:
    """One kind of packet that must pass, by the words that a problem says of it."""

    def __init__(self, what, packets, port=0, protocol="", instead=""):
        self.what = what
        self.packets = packets
        self.hook = packets[0].hook
        self.port = port
        self.protocol = protocol
        self.instead = instead


def needs(site, own_addresses, reachable=True, others=()):
    """Return everything that must pass the filter of a host with this configuration.

    One that neighbours do not reach calls them, and gets answers: its tunnels' ports need not be open. ``others`` are
    IPv4 overlay addresses of other sites.
    """
    links = site.get("links", [])
    own, far = site.get("overlay_address"), others[0] if others else None
    found = []
    if links:
        into, out = {"saddr": far, "daddr": own}, {"saddr": own, "daddr": far}
        found.append(Need("traffic that arrives over links", _on_links(site, "input", into, iif=OURS)))
        found.append(Need("traffic that leaves over links", _on_links(site, "output", out, oif=OURS)))
    if len({link["to"] for link in links}) > 1:
        through = {"saddr": far, "daddr": others[-1] if others else None}
        passing = _on_links(site, "forward", through, iif=OURS, oif=OURS)[:2]
        found.append(Need("forwarded traffic between links", passing))
    return found + _tunnels(links, reachable) + _listeners(site, own_addresses)


def _on_links(site, hook, ends, **devices):
    """Return connections to endpoints, and what neighbours say to each other on the link: streams and probes."""
    endpoint, control = site.get("endpoint_ports", [61000])[0], site.get("control_port", 7401)
    return [
        Packet(hook, 4, "tcp", endpoint, **devices, **ends, state=UNTRACKED),
        Packet(hook, 6, "tcp", endpoint, **devices, state=UNTRACKED),
        Packet(hook, 6, "tcp", control, **devices, saddr=NEIGHBOUR, daddr=NEIGHBOUR, state=UNTRACKED),
        Packet(hook, 6, "icmpv6", None, **devices, saddr=NEIGHBOUR, daddr=NEIGHBOUR, state=UNTRACKED),
    ]


def _tunnels(links, reachable):
    found = {}
    for link in links:
        port = udp_port(link)
        if port:
            far = _literal(link.get("remote", ""))
            version = 6 if far and ":" in far else 4
            if reachable:
                found.setdefault(("input", port), []).append(
                    Packet("input", version, "udp", port, OTHER_DEVICE, saddr=far)
                )
            if link.get("remote"):
                to = link.get("remote_port") or port
                found.setdefault(("output", to), []).append(
                    Packet("output", version, "udp", to, oif=OTHER_DEVICE, daddr=far)
                )
    words = {"input": "tunnel traffic to UDP port %d", "output": "tunnel traffic from the host to UDP port %d"}
    return [Need(words[hook] % port, packets, port, "udp") for (hook, port), packets in found.items()]


def _literal(text):
    """Return the text if it is an address, None for a name or nothing."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return None
    return text


def _listeners(site, own_addresses):
    """Return what clients of the LAN need: to be let in, and where a socket of this host serves them, to get on."""
    if not site.get("lan_devices", ["*"]):
        return []
    own = {*own_addresses, "127.0.0.1", "::1"}
    local = {c["service"] for c in site.get("connectors", []) if c["host"] in own or c["host"].startswith("127.")}
    found = []
    for listener in site.get("listeners", []):
        names = {listener.get("service")} | {share["service"] for share in listener.get("services", [])}
        if not listener.get("address", "*").startswith(("127.", "::1")):
            found += _listener(listener, is_asked(site), bool(names & local))
    return found


def is_asked(site):
    """Return whether the input rules of a host decide on new connections of its LAN, wherever the workload is."""
    honoured = site.get("lan_firewall", "honour") == "honour" and site.get("engine", "auto") != "ipvs"
    return bool(honoured and site.get("lan_devices", ["*"]) and site.get("listeners"))


def _listener(listener, asked, local):
    protocol, port, address = listener.get("protocol", "tcp"), listener["port"], listener.get("address", "*")
    version, to = 6 if ":" in address else 4, None if address == "*" else address
    carried = [] if not local else [UNTRACKED] if protocol == "tcp" else ["new"]
    found, instead = [], "" if local else "or let the LAN in past these rules: skedge_lan_firewall: bypass"
    states = dict.fromkeys((["new"] if asked else []) + carried)
    if states:
        packets = [Packet("input", version, protocol, port, OTHER_DEVICE, daddr=to, state=state) for state in states]
        words = "clients of the LAN that come to the listener on port %d/%s" % (port, protocol)
        found.append(Need(words, packets, port, protocol, instead))
    if asked:
        words = "clients of the LAN on their way over lo to the listener on port %d/%s" % (port, protocol)
        out = Packet("output", version, protocol, port, oif=LOOPBACK, daddr=to, state=UNTRACKED)
        found.append(Need(words, [out], port, protocol, instead))
    if asked and local and protocol == "tcp":
        into = Packet("input", version, protocol, port, LOOPBACK, daddr=to, state=UNTRACKED)
        found.append(Need(words, [into], port, protocol))
    return found


def problems(bases, wanted):
    """Return a sentence for each base chain and need that it certainly drops."""
    found = []
    for need in wanted:
        for base in bases:
            how = next(filter(None, (base.drops(packet) for packet in need.packets)), "")
            if how:
                opened = ", ".join(filter(None, [_opener(base, need), need.instead]))
                found.append("%s drops %s %s; open it: %s" % (base.label, need.what, how, opened))
    return list(dict.fromkeys(found))


# What `dup` looks like where the host's rules are asked: is it known to the kernel?
TRIAL = """table ip skedge_trial {
  chain trial {
    type filter hook input priority 0
    dup to 127.0.0.1 device "lo"
  }
}
"""


def trial_problems(site, code):
    """Return a sentence where the host's kernel cannot do what asking its rules takes; ``code``: of nft, None: none."""
    if not code or not is_asked(site):
        return []
    return [
        "the kernel has no nftables expression dup (module nft_dup_ipv4), so this host's input rules cannot be asked "
        "about connections of its LAN; load it, or let the LAN in past these rules: skedge_lan_firewall: bypass"
    ]


# ---- what to open --------------------------------------------------------------------------------------------------


def _opener(base, need):
    """Return the command that lets it pass, in the words of whatever manages the chain."""
    if not need.port and any(name.startswith("ts-") for name in base.chains):
        return _simple(base, need) + TAILSCALE
    return _managed(base, need)


def _managed(base, need):
    if any(name.startswith(("ufw-", "ufw6-")) for name in base.chains):
        return _ufw(need)
    if base.label.startswith("nftables chain inet firewalld "):
        return _firewalld(need)
    return _simple(base, need)


def _simple(base, need):
    if base.label.startswith("nftables "):
        return "nft insert rule %s %s accept" % (base.label[len("nftables chain ") :], _nft(need))
    chain = "DOCKER-USER" if base.name == "FORWARD" and _calls(base, "DOCKER-USER") else base.name
    return "%s -I %s %s -j ACCEPT" % (base.label.split()[0], chain, _iptables(need))


def _calls(base, name):
    return any(rule.target == name for rule in base.chains.get(base.name, []))


def _nft(need):
    if need.port:
        return "%s dport %d" % (need.protocol, need.port)
    words = {"input": 'iifname "sk-*"', "output": 'oifname "sk-*"', "forward": 'iifname "sk-*" oifname "sk-*"'}
    return words[need.hook]


def _iptables(need):
    if need.port:
        return "-p %s --dport %d" % (need.protocol, need.port)
    return {"input": "-i sk-+", "output": "-o sk-+", "forward": "-i sk-+ -o sk-+"}[need.hook]


def _ufw(need):
    out = "out " if need.hook == "output" else ""
    if need.port:
        return "ufw allow %s%d/%s" % (out, need.port, need.protocol)
    words = {
        "input": "allow in on sk-+",
        "output": "allow out on sk-+",
        "forward": "route allow in on sk-+ out on sk-+",
    }
    return "ufw %s" % words[need.hook]


def _firewalld(need):
    what = "--add-port=%d/%s" % (need.port, need.protocol) if need.port else "--zone=trusted --add-interface=sk-+"
    return "firewall-cmd --permanent %s && firewall-cmd --reload" % what
