"""Why a link is down or a last resort, and what to look at: one sentence for `skedge status` (pure)."""

from __future__ import annotations

import errno
import os

from skedge.core.api.shown import LinkRow
from skedge.core.reasons import Reason
from skedge.core.transports import Transport

FRESH_S = 180.0  # a WireGuard session ends when it is not renewed for so long
_REFUSED = {
    errno.EPERM: "the host's own rules refuse our probes on {device}; look at the output chains of `nft list ruleset` "
    "(or iptables) and at `ip xfrm policy`",
    errno.EACCES: "a route or a rule prohibits our probes on {device}; look at `ip -6 route get {device}` and at the "
    "output chains of `nft list ruleset`",
    errno.ENOBUFS: "the host throws away what is sent into {device}; look at chains of `nft list ruleset` with hook "
    "egress, at `tc -s qdisc show dev {device}` and at `tc filter show dev {device} egress`",
    errno.ENOKEY: "WireGuard has no session with {to} on {device}; look at `wg show {device}`",
    errno.EDESTADDRREQ: "WireGuard does not know where {to} is, which has to call here; look at `wg show {device}`",
    errno.ENETDOWN: "{device} is down; look at `ip link show {device}`",
    errno.ENODEV: "{device} is gone; look at `ip link` and the log of skedged",
    errno.ENETUNREACH: "{device} has no IPv6 route; look at `ip -6 address show dev {device}`",
    errno.EADDRNOTAVAIL: "{device} lost its link-local address; look at `ip -6 address show dev {device}`",
}
_TCP = {
    Reason.TCP_DROPPED.word: "{to} answers probes, but no TCP connection over {device}",
    Reason.TCP_PROHIBITED.word: "{to} answers probes, but a firewall prohibits TCP connections over {device}",
}
LAST_RESORT = frozenset(_TCP)
_SENTENCES = {reason.word: reason.sentence for reason in Reason}


def cause(row: LinkRow) -> str:
    """Return why the link is down."""
    if row.reason == Reason.NOT_SENT.word and row.unsent_errno:
        said = os.strerror(row.unsent_errno)
        known = _REFUSED.get(row.unsent_errno, "the host cannot send our probes on {device}")
        return f"{known.format(device=row.device, to=row.to)} ({said})"
    if row.transport == Transport.WIREGUARD and not (row.handshake_s or FRESH_S) < FRESH_S:
        return _no_handshake(row)
    return _SENTENCES.get(row.reason, row.reason)


def last_resort(row: LinkRow) -> str:
    """Return why the link, which is up, is used only where no other path is."""
    what = _TCP[row.reason].format(device=row.device, to=row.to)
    return f"{what}; look at the firewalls of both hosts. The link is used only where no other path is"


def _no_handshake(row: LinkRow) -> str:
    where = f"at {row.endpoint}" if row.endpoint else "which has to call this site"
    return (
        f"no WireGuard handshake with {row.to} {where}; open the UDP port there, or, where a key is not the right one, "
        "run deploy.yml for both sites"
    )
