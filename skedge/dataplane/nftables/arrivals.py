"""What arrives where, judged once more by nftables, which shares no table with the checks on link devices.

* From a link, nothing is taken in but for this site's overlay addresses and link-local ones. A workload's own address
  is reached only by what our program rewrote (it sets a mark, which nothing else from a link has), or what connection
  tracking translates from or to an overlay address of this site.
* With the address of a site of the network comes nothing by any other device than a link. Only the sites' own
  addresses count: whatever else is in the range is the host's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from skedge.core.errors import DataplaneError
from skedge.core.objects import ChainGroup, NftRule
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.chain_groups import Owned, base
from skedge.dataplane.nftables.syntax import ACCEPT, DROP, FROM_LINK, Expression, field, match, meant, named_set
from skedge.dataplane.nftables.table import Item, NftTable

NAME = "arrivals"
IN, CLAIMS = "arrivals-in", "arrivals-claimed"
SITES = {4: "sites4", 6: "sites6"}
COUNTERS = {"arrived-" + reason.word: reason for reason in (Reason.HOST_ADDRESS, Reason.CLAIMED)}
OWNED = Owned(NAME, (IN, CLAIMS), tuple(SITES.values()), tuple(COUNTERS))
REWRITTEN_MARK = 0x736B7277  # as bpf/link/sk_lookup.h says it
_PRIORITIES = {IN: -15, CLAIMS: -305}  # before the host's own rules; before connection tracking
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_SETS = tuple(named_set(SITES[family], _TYPES[family]) for family in (4, 6))
_MARK: Expression = {"meta": {"key": "mark"}}
_IFNAME: Expression = {"meta": {"key": "iifname"}}

Addresses = frozenset[str]


def group(config: PacketCheckConfig, *, translates: bool = False) -> ChainGroup:
    """Return the chains, sets and counters as they should be; addresses are `SiteAddressDriver`'s.

    ``translates``: connection tracking does, with the engine `ipvs`, or while connections of it go on. Else no rule
    asks it: that would have the kernel track all packets of the host.
    """
    return ChainGroup(
        (
            base(IN, "filter", "input", _PRIORITIES[IN], _arriving(config, translates)),
            base(CLAIMS, "filter", "prerouting", _PRIORITIES[CLAIMS], _claimed(config)),
        ),
        _SETS,
        tuple(COUNTERS),
    )


def _arriving(config: PacketCheckConfig, translates: bool) -> list[NftRule]:
    tracked = [(family, way) for family in (4, 6) for way in ("original", "reply")] if translates else []
    link_local = [syntax.prefix("fe80::/10"), syntax.prefix("ff00::/8")]
    own = {4: config.overlay4, 6: config.overlay6}
    unmark = {"mangle": {"key": _MARK, "value": 0}}
    rules: list[list[Expression]] = [
        [match(_IFNAME, FROM_LINK["match"]["right"], "!="), ACCEPT],
        [match(_MARK, REWRITTEN_MARK), unmark, ACCEPT],
        *([match(field(syntax.ip(family), "daddr"), own[family]), ACCEPT] for family in (4, 6)),
        # the stack tells a workload whose client's flow is lost
        *([match(field(syntax.ip(6 if ":" in one else 4), "daddr"), one), ACCEPT] for one in config.nat_addresses),
        [match(field("ip6", "daddr"), syntax.either(link_local)), ACCEPT],
        *([match(translated(family, way), own[family]), ACCEPT] for family, way in tracked),
        _deny(Reason.HOST_ADDRESS),
    ]
    return [meant(parts) for parts in rules]


def translated(family: int, way: str) -> Expression:
    """Return where packets of a connection go in one direction before it was, or after it is, translated."""
    return {"ct": {"key": f"{syntax.ip(family)} daddr", "dir": way}}


def _claimed(config: PacketCheckConfig) -> list[NftRule]:
    # What is nearly all of it leaves at once: every packet of every connection comes through here.
    rules = [meant([FROM_LINK, ACCEPT]), meant([match(_IFNAME, "lo"), ACCEPT])]
    for family, net, own in ((4, config.network4, config.overlay4), (6, config.network6, config.overlay6)):
        source = field(syntax.ip(family), "saddr")
        inside = match(source, syntax.prefix(net))
        rules += [meant([inside, match(source, of), *_deny(Reason.CLAIMED)]) for of in (f"@{SITES[family]}", own)]
    return rules


def _deny(reason: Reason) -> list[Expression]:
    return [{"counter": f"arrived-{reason.word}"}, DROP]


# ---- the sites' addresses ------------------------------------------------------------------------------------------


def by_family(addresses: Iterable[str]) -> Mapping[str, Addresses]:
    """Return what `SiteAddressDriver` must hold."""
    found = list(addresses)
    sets = {SITES[family]: frozenset(one for one in found if ip_address(one).version == family) for family in (4, 6)}
    return {name: held for name, held in sets.items() if held}


def join(held: Addresses, wanted: Addresses) -> Addresses:
    """Return the addresses to hold while other sites may not have been heard of yet."""
    return held | wanted


class SiteAddressDriver:
    """Driver[str, Addresses]: name of a set -> the addresses of all other sites; a set is written in one change."""

    def __init__(self, table: NftTable) -> None:
        self._table = table

    def read(self) -> Mapping[str, Addresses]:
        """Return the sets that are there. Raises DataplaneError."""
        return _found(self._table.items(NAME))

    def put(self, key: str, value: Addresses) -> None:
        """Make a set hold these addresses. Raises DataplaneError."""
        family = next((family for family, name in SITES.items() if name == key), None)
        if family is None:
            raise DataplaneError(f"{NAME}: {key} is none of its sets")
        held = _found(self._table.fresh(NAME)).get(key, frozenset())
        changes = [("delete", sorted(held - value)), ("add", sorted(value - held))]
        told = [syntax.element(action, key, which) for action, which in changes if which]
        self._table.change(NAME, [syntax.add_set(named_set(key, _TYPES[family])), *told])

    def delete(self, key: str) -> None:
        """Empty a set; it goes with its chains."""
        held = _found(self._table.fresh(NAME)).get(key)
        if held:
            self._table.change(NAME, [syntax.element("delete", key, sorted(held))])


def _found(items: Iterable[Item]) -> Mapping[str, Addresses]:
    return {
        str(value["name"]): frozenset(str(one) for one in value.get("elem", []))
        for kind, value in items
        if kind == "set" and value["name"] in SITES.values() and value.get("elem")
    }
