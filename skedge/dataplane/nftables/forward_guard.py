"""What the host must not forward though it could: one nftables chain beside the tunnel guard's, in the same table.

* Nothing but a link's packets goes out over a link: clients enter by listeners, also where the operator's own switch
  makes the host a router.
* Nothing that came over a link goes on but over a link: what is for this site's LAN goes the way of its flow. (Where
  connection tracking translates, as with the engine `ipvs`, answers to what went out from an overlay address of this
  site do.)
* Nothing goes between devices that are *closed*: those between which IPv6 is forwarded only because skedge had to
  throw the host's one switch (`ipv6_forwarding.py`).
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from skedge.core.objects import ChainGroup
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.nftables.arrivals import translated
from skedge.dataplane.nftables.chain_groups import Owned, base
from skedge.dataplane.nftables.syntax import ACCEPT, DROP, FROM_LINK, TO_LINK, Expression, match, meant

NAME, CHAIN, COUNTER = "forward-guard", "forwarding", "not-forwarded"
OWNED = Owned(NAME, (CHAIN,), counters=(COUNTER,), exact=True)
_PRIORITY = -10


def group(closed: Set[str], config: PacketCheckConfig | None = None, *, translates: bool = False) -> ChainGroup:
    """Return the chain as it should be while these devices are closed, at the site with this configuration.

    ``translates``: see `arrivals.group`.
    """
    end: list[Expression] = [{"counter": COUNTER}, DROP]
    not_from_link = match(FROM_LINK["match"]["left"], FROM_LINK["match"]["right"], "!=")
    rules = [meant([not_from_link, TO_LINK, *end], "into links")]
    if config is not None:
        not_to_link = match(TO_LINK["match"]["left"], TO_LINK["match"]["right"], "!=")
        away = [FROM_LINK, not_to_link]
        for family, own in ((4, config.overlay4), (6, config.overlay6)) if translates else ():
            rules.append(meant([*away, match(translated(family, "reply"), own), ACCEPT], f"answers ipv{family}"))
        rules.append(meant([*away, *end], "out of links"))
    if closed:
        devices = _devices(closed)
        between = [match({"meta": {"key": key}}, devices) for key in ("iifname", "oifname")]
        rules.append(meant([match({"meta": {"key": "nfproto"}}, "ipv6"), *between, *end], "closed devices"))
    return ChainGroup((base(CHAIN, "filter", "forward", _PRIORITY, rules),), counters=(COUNTER,))


def _devices(names: Set[str]) -> Any:
    """Return a set of devices as nft prints it: one alone without the set."""
    ordered = sorted(names)
    return ordered[0] if len(ordered) == 1 else {"set": ordered}
