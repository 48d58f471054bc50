"""What somebody else does to objects of ours, one fault after another, and which steps must repair it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from skedge.core import names
from skedge.core.model import LinkId
from skedge.dataplane.bpf import syscall, tcx
from tests.fakes.networks import NETWORK, site_config
from tests.kit.snapshot_maps import KEPT

from .kit import Host
from .world import LINKS

THEIRS = (
    "nft 'add table inet theirs; add chain inet theirs c { type filter hook output priority 0; };"
    " add rule inet theirs c ct state new accept'"
)
OTHERS, OWN = (b"\xff\xff" + socket.inet_aton(address) for address in ("10.66.0.0", "10.95.0.5"))
TABLE = ("chain", "link", "site")
TRACKED = "ping -c1 -W1 127.0.0.1"


def device(link: str) -> str:
    return names.device_name(NETWORK, LinkId.between("a", LINKS[link]["to"], link), "a")


HERE, B, D = (site_config(site) for site in "abd")
SITE = {
    "o4": HERE.overlay4, "o6": HERE.overlay6, "b4": B.overlay4, "b6": B.overlay6, "d4": D.overlay4,
    "net4": HERE.overlay_cidr, "net6": names.overlay_prefix6(NETWORK),
    **{link: device(link) for link in LINKS},
    "ll": str(names.link_local(NETWORK, "a")), "peer": str(names.link_local(NETWORK, "b")), "gw": names.GATEWAY4,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One fault: a shell command or a function, the step that names it, and the kinds that fall with it."""

    name: str
    do: str | Callable[[Host], None]
    kind: str
    key: str = ""
    also: tuple[str, ...] = ()
    after: str = ""  # what puts back what was not ours

    def strike(self, host: Host) -> None:
        if isinstance(self.do, str):
            host.ns.sh(self.do.format_map(SITE))
        else:
            host.ns(self.do, host)

    @property
    def object(self) -> tuple[str, str]:
        return self.kind, self.key.format_map(SITE)


def _rules() -> list[Fault]:
    found = []
    for kind, priority, families in (
        ("rule", 7400, "46"), ("answers", 7401, "46"), ("loopback", 7402, "4"), ("closed", 7404, "46"),
    ):  # fmt: skip
        for family in families:
            key = f"{kind} {'inet' if family == '4' else 'inet6'}"
            found.append(Fault(f"{key} deleted", f"ip -{family} rule del pref {priority}", "rule", key))
    found.append(
        Fault("rule inet of another table", "ip rule del pref 7400; ip rule add pref 7400 lookup 99", "rule",
              "rule inet", after="ip rule del pref 7400 lookup 99")
    )  # fmt: skip
    found.append(
        Fault("closed inet from elsewhere", "ip rule del pref 7404; ip rule add pref 7404 from 192.0.2.0/24"
              " unreachable protocol 74", "rule", "closed inet")
    )  # fmt: skip
    found.append(
        Fault("rule inet narrowed", "ip rule del pref 7400; ip rule add pref 7400 fwmark 5 lookup 7400 protocol 74",
              "rule", "rule inet", after="ip rule del pref 7400 fwmark 5")
    )  # fmt: skip
    for family, of, site, v in (("inet", "{b4}", " {b4}", 4), ("inet6", "{net6}", "", 6)):
        for last, table in (("unreachable", "7400"), ("guard", "main")):
            route, key = f"unreachable {of} table {table} metric 65535", f"{last} {family}{site}"
            found.append(Fault(f"{last} {family} deleted", f"ip -{v} route del {route}", "rule", key))
    found.append(
        Fault("guard inet replaced", "ip route replace {b4} via 10.95.0.1 dev eth0 metric 65535", "rule",
              "guard inet {b4}")
    )  # fmt: skip
    return found


def _routes() -> list[Fault]:
    b4, b6 = "{b4}/32", "{b6}/128"
    lan4, lan6 = "10.66.0.0/16", "fd66::/48"
    return [
        Fault("route deleted", "ip route del {b4} table 7400", "route", b4),
        Fault("route 6 deleted", "ip -6 route flush {b6} table 7400", "route", b6),
        Fault("one hop of a route 6 deleted", "ip -6 route del {b6} table 7400 dev {x}", "route", b6),
        Fault("route over one hop", "ip route replace {b4} via {gw} dev {z} onlink table 7400 metric 1024 proto 74",
              "route", b4),
        Fault("route of another's", "ip route replace {b4} via 10.95.0.1 dev eth0 table 7400 metric 1024", "route", b4),
        Fault("route 6 of another's", "ip -6 route flush {b6} table 7400;"
              " ip -6 route replace {b6} via fd95::1 dev eth0 table 7400 metric 1024", "route", b6),
        Fault("route with another source", "ip route replace {b4} src 10.95.0.5 table 7400 metric 1024 proto 74"
              " nexthop via {gw} dev {x} onlink nexthop via {gw} dev {y} onlink nexthop via {gw} dev {d} onlink",
              "route", b4),
        Fault("table flushed", "ip route flush table 7400", "route", b4, ("rule", "route")),
        Fault("table 6 flushed", "ip -6 route flush table 7400", "route", b6, ("rule", "route")),
        Fault("route to a LAN deleted", f"ip route del {lan4} table 7401", "route", lan4),
        Fault("answers to a LAN deleted", f"ip route del {lan4} table 7402", "route", lan4),
        Fault("route 6 to a LAN deleted", f"ip -6 route flush {lan6} table 7401", "route", lan6),
    ]  # fmt: skip


def _links() -> list[Fault]:
    x, z, route = "{x}", "{z}", ("route",)
    sysctls4 = {"rp_filter": 1, "forwarding": 0, "accept_redirects": 1, "send_redirects": 1, "route_localnet": 0}
    sysctls6 = {"accept_ra": 1, "forwarding": 0, "force_forwarding": 0}
    sysctls4 |= (lost := {"ignore_routes_with_linkdown": 0})
    sysctls6 |= lost
    return [
        Fault("overlay address deleted", "ip addr del {o4}/32 dev lo", "address", "{o4}/32", route),
        Fault("overlay address 6 deleted", "ip addr del {o6}/128 dev lo", "address", "{o6}/128", route),
        Fault("neighbour deleted", "ip neigh del {peer} dev {x}", "link", x),
        Fault("gateway deleted", "ip neigh del {gw} dev {d}", "link", "{d}"),
        Fault("neighbour changed", "ip neigh replace {peer} lladdr 02:00:00:00:00:99 dev {x} nud permanent", "link", x),
        Fault("link-local address deleted", "ip addr del {ll}/64 dev {x}", "link", x, route),
        Fault("another link-local address", "ip addr add fe80::99/64 dev {x} nodad", "link", x),
        Fault("link down", "ip link set {x} down", "link", x, route),
        Fault("direct link down", "ip link set {d} down", "link", "{d}", route),
        Fault("alias changed", "ip link set {x} alias 'skedge a z main'", "link", x),
        Fault("link deleted", "ip link del {x}", "link", x, route),
        Fault("direct link deleted", "ip link del {d}", "link", "{d}", route),
        Fault("link mtu", "ip link set {z} mtu 1300", "link", z),
        Fault("link mac", "ip link set {x} address 02:00:00:00:00:98", "link", x, route),
        Fault("addresses by the kernel", "ip link set {x} addrgenmode eui64", "link", x),
        Fault("link program detached", lambda host: _detach(host, "ingress"), "link", x),
        Fault("link's other program detached", lambda host: _detach(host, "egress"), "link", x),
        *(Fault(f"link {name}", f"sysctl -qw net.ipv4.conf.{{x}}.{name}={value}", "link", x)
          for name, value in sysctls4.items()),
        *(Fault(f"link {name} 6", f"sysctl -qw net.ipv6.conf.{{x}}.{name}={value}", "link", x)
          for name, value in sysctls6.items()),
        Fault("link disable_ipv6", "sysctl -qw net.ipv6.conf.{x}.disable_ipv6=1", "link", x, route),
    ]  # fmt: skip


def _hosts() -> list[Fault]:
    lo = "net.ipv{}.conf.lo.{}"
    chains = {"forwarding": ("chain", "forward-guard"), "untracked-in": ("chain", "notrack"), "tunnels": ("link", ""),
              "arrivals-in": ("chain", "arrivals"), "arrivals-claimed": ("chain", "arrivals")}  # fmt: skip
    return [
        *(Fault(f"lo {name}", f"sysctl -qw {lo.format(4, name)}=0", "setting", lo.format(4, name))
          for name in ("forwarding", "accept_local", "route_localnet")),
        Fault("lo forwarding 6", f"sysctl -qw {lo.format(6, 'forwarding')}=0", "setting", lo.format(6, "forwarding")),
        Fault("clsact deleted", "tc qdisc del dev lan0 clsact", "lan-device", "lan0"),
        Fault("clsact of lo deleted", "tc qdisc del dev lo clsact", "lan-device", "lo", ("setting",)),
        Fault("filter deleted", "tc filter del dev lan0 ingress", "lan-device", "lan0"),
        *(Fault(f"nft {chain} emptied", f"nft flush chain inet skedge {chain}", *owner, also=("link",))
          for chain, owner in chains.items()),
        *(Fault(f"nft {chain} deleted", f"nft flush chain inet skedge {chain};"
                f" nft delete chain inet skedge {chain}", *owner, also=("link",)) for chain, owner in chains.items()),
        *(Fault(f"nft {chain} let all in", f"nft insert rule inet skedge {chain} accept", *owner, also=("link",))
          for chain, owner in chains.items()),
        *(Fault(f"nft {family} {what}", command.format(f"{family} skedge"), "accepted", family)
          for family in ("ip", "ip6") for what, command in {
              "chain emptied": "nft flush chain {} accepted", "table deleted": "nft delete table {}",
              "chain lets all in": "nft insert rule {} accepted accept"}.items()),
        Fault("site's address deleted", "nft 'delete element inet skedge sites4 {{ {b4} }}'", "site", "sites4"),
        Fault("address of no site", "nft 'add element inet skedge sites6 {{ fd00::1 }}'", "site", "sites6"),
        Fault("nft table deleted", f"{TRACKED}; nft delete table inet skedge", "chain", "notrack", TABLE),
        Fault("nft flush ruleset", f"{TRACKED}; nft flush ruleset", "chain", "forward-guard",
              (*TABLE, "accepted"), after=THEIRS),
    ]  # fmt: skip


def _maps() -> list[Fault]:
    link, service, endpoint = ("link", "{x}"), ("service", "web/tcp"), ("endpoint", "")
    return [
        Fault("listener deleted", _pull("listeners_v2", b"\x1f\x93"), "listener", "10.95.0.5:8083/tcp"),
        Fault("listener changed", _poke("listeners_v2", b"\x1f\x93", 4, "=I", 300), "listener", "10.95.0.5:8083/tcp"),
        Fault("listener added", _add_listener, "listener", "192.0.2.1:99/tcp"),
        Fault("port bit cleared", _poke("ports_v1", struct.pack("=I", 8083 // 64), 0, "=Q", 0), "listener",
              "10.95.0.5:8083/tcp", ("listener",)),
        Fault("udp port bit cleared", _no_udp_mark, "listener", also=("listener",)),
        Fault("endpoint deleted", _pull("endpoints_v1"), *endpoint),
        Fault("endpoint changed", _poke("endpoints_v1", b"", 16, "=H", 77), *endpoint),
        Fault("endpoint mark cleared", _poke("endpoint_marks_v1", b"", 0, "=I", 0), *endpoint),
        Fault("endpoint source deleted", _pull("endpoint_sources_v1"), *endpoint),
        Fault("endpoint source changed", _poke("endpoint_sources_v1", b"", 0, "=H", 77), *endpoint),
        Fault("service name deleted", _pull("service_names_v1", b"web"), *service, also=("listener",)),
        Fault("service name changed", _poke("service_names_v1", b"web", 0, "=I", 900), *service, also=("listener",)),
        Fault("workload name deleted", _pull("workload_names_v1"), "service"),
        Fault("workload name changed", _poke("workload_names_v1", b"", 0, "=4s", b"evil"), "service"),
        Fault("slot's cost", _slot(0, "=I", 12345), "service"),
        Fault("slot's flags", _slot(12, "=I", 0), "service"),
        *(Fault(f"slot's flag {bit}", _flip_flag(bit), "service") for bit in (1, 2, 8, 16, 32, 64, 128, 1 << 8)),
        Fault("slot's address", _slot(56, "=I", 3), "service"),
        Fault("slot's capacity", _slot(4, "=I", 3), "service"),
        Fault("link table emptied", _of_link(lambda raw: bytes(len(raw))), *link),
        Fault("link table changed", _of_link(lambda raw: raw[:32] + bytes(6) + raw[38:]), *link),
        Fault("link config emptied", _poke("link_config_v2", b"", 0, "=92s", bytes(92)), "packet-check", "site"),
        Fault("link config changed", _poke("link_config_v2", b"", 80, "=H", 1), "packet-check", "site"),
        Fault("nat config changed", _poke("nat_config_v1", b"", 4, "=H", 1), "nat", "nat"),
        Fault("nat config emptied", _poke("nat_config_v1", b"", 0, "=64s", bytes(64)), "nat", "nat"),
        Fault("nat addresses changed", _poke("nat_addresses_v1", b"", 0, "=I", 1), "nat", "nat"),
        Fault("nat addresses emptied", _poke("nat_addresses_v1", b"", 0, "=72s", bytes(72)), "nat", "nat"),
        Fault("host rules no longer asked", _poke("host_rules_v1", b"", 0, "=I", 0), "host-rules", "lan"),
        Fault("nat source deleted", _pull("nat_sources_v1"), "nat-source"),
        Fault("nat source changed", _poke("nat_sources_v1", b"", 12, "=I", 1), "nat-source"),
        Fault("own prefix deleted", _pull("lan_prefixes_v1"), "lan-prefix"),
        Fault("own prefix changed", _poke("lan_prefixes_v1", b"", 0, "=I", 1), "lan-prefix"),
        Fault("host prefix deleted", _pull("host_prefixes_v2"), "host-prefix", "10.97.0.0/24"),
        Fault("host prefix changed", _poke("host_prefixes_v2", b"", 0, "=I", 1), "host-prefix", "10.97.0.0/24"),
        Fault("other's prefix deleted", _pull("link_prefixes_v1", OTHERS), "route", "10.66.0.0/16", ("path",)),
        Fault("other's prefix changed", _poke("link_prefixes_v1", OTHERS, 0, "=I", 8), "route"),
        Fault("other's prefix by other links", _poke("link_prefixes_v1", OTHERS, 4, "=I", 0), "path", "10.66.0.0/16"),
        Fault("own address deleted", _pull("link_prefixes_v1", OWN), "own-address", "10.95.0.5/32"),
        Fault("own address announced", _poke("link_prefixes_v1", OWN, 0, "=I", 0), "own-address", "10.95.0.5/32",
              ("route",)),
        Fault("site deleted", _pull("link_sites_v1"), "path"),
        Fault("site by other links", _poke("link_sites_v1", b"", 0, "=I", 0), "path"),
        Fault("other's prefix added", _add_prefix, "route", "192.0.2.0/24", ("path",)),
        Fault("source ports", _poke("config_v1", b"", 16, "=Q", 3), "placement", "source ports"),
        Fault("network namespace", _poke("config_v1", b"", 0, "=Q", 3), "placement", "network namespace"),
        Fault("source address", _poke("config_v1", b"", 32, "=I", 3), "placement", "source ipv4"),
    ]  # fmt: skip


# ---- hands in maps ---------------------------------------------------------------------------------------------------


def _entry(host: Host, pin: str, has: bytes = b"") -> tuple[bytes, bytes]:
    """Return the last entry of a map whose key has these bytes."""
    found = [one for one in host.entries(pin, (KEPT[pin].key.size, KEPT[pin].size)) if has in one[0]]
    return sorted(found)[-1]


def _pull(pin: str, has: bytes = b"") -> Callable[[Host], None]:
    return lambda host: host.pull(pin, _entry(host, pin, has)[0])


def _poke(pin: str, has: bytes, at: int, form: str, value: int | bytes) -> Callable[[Host], None]:
    def do(host: Host) -> None:
        key, raw = _entry(host, pin, has)
        changed = bytearray(raw)
        struct.pack_into(form, changed, at, value)
        assert bytes(changed) != raw
        host.poke(pin, key, bytes(changed))

    return do


def _slot(at: int, form: str, value: int) -> Callable[[Host], None]:
    """Change the first slot of the first service."""
    entries = KEPT["services_v1"]

    def do(host: Host) -> None:
        key, raw = host.entries("services_v1", (entries.key.size, entries.size))[0]
        changed = bytearray(raw)
        struct.pack_into(form, changed, entries.value.size + at, value)
        assert bytes(changed) != raw
        host.poke("services_v1", key, bytes(changed))

    return do


def _flip_flag(bit: int) -> Callable[[Host], None]:
    """Change one flag of the first slot of the first service; one of its targets is IPv6."""
    entries = KEPT["services_v1"]
    at = entries.value.size + 12

    def do(host: Host) -> None:
        key, raw = host.entries("services_v1", (entries.key.size, entries.size))[0]
        (flags,) = struct.unpack_from("=I", raw, at)
        host.poke("services_v1", key, raw[:at] + struct.pack("=I", flags ^ bit) + raw[at + 4 :])

    return do


def _of_link(change: Callable[[bytes], bytes]) -> Callable[[Host], None]:
    def do(host: Host) -> None:
        index, at = host.indexes()[device("x")], 40
        pin = KEPT["link_table_v2"]
        for key, raw in host.entries("link_table_v2", (pin.key.size, pin.size)):
            if struct.unpack_from("=I", raw, at)[0] == index:
                host.poke("link_table_v2", key, change(raw))

    return do


def _no_udp_mark(host: Host) -> None:
    """Take the mark of the only UDP listeners' port away."""
    host.poke("ports_v1", struct.pack("=I", 1024 + 53 // 64), bytes(8))


def _add_listener(host: Host) -> None:
    key, value = _entry(host, "listeners_v2", b"\x1f\x93")
    host.poke("listeners_v2", bytes(10) + b"\xff\xff\xc0\x00\x02\x01" + (99).to_bytes(2) + key[18:], value)


def _add_prefix(host: Host) -> None:
    _, value = _entry(host, "link_prefixes_v1", OTHERS)
    host.poke("link_prefixes_v1", struct.pack("=I16s", 96 + 24, bytes(10) + b"\xff\xff\xc0\x00\x02\x00"), value)


def _detach(host: Host, direction: str) -> None:
    with syscall.Fd(syscall.obj_get(str(host.pins / f"link_{direction}_v1"))) as fd:
        assert tcx.attached(host.indexes()[device("x")], {syscall.prog_id(fd)})[direction]
        tcx.detach(host.indexes()[device("x")], direction, fd)


FAULTS = [*_rules(), *_routes(), *_links(), *_hosts(), *_maps()]
