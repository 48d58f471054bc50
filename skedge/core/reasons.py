"""The closed list of reasons for every "no".

The same words appear in metrics, CLI, logs and receipts (docs/architecture.md). The code is what the eBPF programs
store and count: ``bpf/common/reasons.h`` is generated from this list (``skedge/loader/compiling/reasons_header.py``).
"""

from __future__ import annotations

from enum import IntEnum, unique

MAX_REASONS = 128  # places in every array that is indexed by a code, in the programs too; a code is smaller


@unique
class Reason(IntEnum):
    """Why something was refused, skipped, suspended, denied or dropped: (code, word, sentence).

    A member is its code, so NONE is false; printed, it is its word.
    """

    word: str
    sentence: str

    def __new__(cls, code: int, word: str, sentence: str) -> Reason:
        """Make a member; its value is the code."""
        made = int.__new__(cls, code)
        made._value_, made.word, made.sentence = code, word, sentence
        return made

    NONE = (0, "none", "nothing is wrong")
    # placement: a whole connect is refused
    NO_WORKLOAD = (1, "no-workload", "no site offers a healthy workload of this service")
    SOURCE_BOUND = (2, "source-bound", "the socket is bound to an address that cannot leave this site")
    TABLE_FULL = (3, "table-full", "the placement store has no room")
    SOURCE_LIMIT = (4, "source-limit", "more new flows a second than one machine or site may open")
    HALF_OPEN = (5, "half-open", "an unfinished flow that made room for newer ones")
    # placement: one candidate is out
    UNHEALTHY = (10, "unhealthy", "its site's health check fails")
    DRAINED = (11, "drained", "the workload or its site is drained")
    UNREACHABLE = (12, "unreachable", "no path to its site")
    SUSPENDED = (13, "suspended", "refused or did not answer a connect from here; waiting for a good probe")
    NO_PORT = (14, "no-port", "this site has no source port left towards it")
    NO_FAMILY = (15, "no-family", "not reachable over the client's address family")
    # placement: another than the cheapest was chosen
    AFFINITY = (16, "affinity", "kept at the workload that the same client had before")
    ENGINE = (17, "engine", "the engine ipvs serves no loopback address, and no other machine of the LAN")
    PUBLISHED_BY_DNAT = (
        18,
        "published-by-dnat",
        "the host's own DNAT leads its port to where this site does not deliver",
    )
    # default deny on link devices
    NOT_PUBLISHED = (20, "not-published", "a new connection to something that is not a published endpoint")
    NO_SOCKET = (21, "no-socket", "a packet of no open connection")
    NOT_OVERLAY = (22, "not-overlay", "source or destination is outside the overlay")
    NOT_NEIGHBOUR = (23, "not-neighbour", "link-local traffic that is not control or probe")
    MALFORMED = (24, "malformed", "a packet that cannot be parsed")
    FRAGMENT = (25, "fragment", "a fragment, refused on purpose")
    WORKLOAD_CLOSED = (26, "workload-closed", "the endpoint is published but nothing listens behind it")
    WRONG_TUNNEL_PEER = (27, "wrong-tunnel-peer", "a tunnel packet from other than the neighbour's address")
    # forwarding of flows
    HOP_LIMIT = (28, "hop-limit", "a packet that has passed too many hosts")
    NO_ROUTE = (29, "no-route", "the host has no route towards it, or no address to send from")
    TOO_BIG = (30, "too-big", "a packet larger than the way ahead takes; its sender is told where it may be")
    NOT_FORWARDED = (31, "not-forwarded", "a packet of the host's own networks that would have gone into a link, or on")
    # who may send what to whom
    HOST_ADDRESS = (32, "host-address", "a packet from a link to an address of this host that is not the overlay's")
    WRONG_PATH = (33, "wrong-path", "a packet from a link over which its sender cannot be reached")
    CLAIMED = (34, "claimed", "a packet with the address of a site that came by another device than a link")
    MARTIAN = (35, "martian", "an address that no packet from the wire can have, such as one of loopback")
    HOST_FIREWALL = (36, "host-firewall", "a new connection of the LAN that the host's own input rules refuse")
    REVERSE_PATH = (37, "reverse-path", "the way back to the sender leaves by another device, and rp_filter is strict")
    # fragments
    EARLY_FRAGMENT = (38, "early-fragment", "a fragment that came before the first one of its datagram")
    BAD_FRAGMENT = (39, "bad-fragment", "a fragment that is too small, or overlaps the first one of its datagram")
    # what may end a connect
    TRANSIT_ERROR = (53, "transit-error", "a site on the way says that there is none: that is for the map to say")
    # control plane
    BAD_SIGNATURE = (40, "bad-signature", "a record whose signature or certificate does not verify")
    BAD_FRAME = (41, "bad-frame", "a control frame that cannot be decoded or is too large")
    WRONG_PEER = (42, "wrong-peer", "the peer's certificate names another site")
    DUPLICATE_SITE = (43, "duplicate-site", "two hosts with different keys use one site name")
    REVOKED = (44, "revoked", "the certificate is on the revocation list")
    EXPIRED = (45, "expired", "the certificate is not valid now")
    RATE_LIMITED = (46, "rate-limited", "more than its share of messages")
    STALE = (47, "stale", "an older version than the one held")
    NO_ANSWER = (48, "no-answer", "the neighbour's controller does not answer")
    DUPLICATE_ADDRESS = (49, "duplicate-address", "two sites claim one overlay address")
    DATABASE_FULL = (50, "database-full", "the link-state database has no room for another site")
    OVERLAPPING_PREFIX = (
        55,
        "overlapping-prefix",
        "a LAN prefix that overlaps another network, so it is not used here",
    )
    # placement: a whole connect is refused. Of the reasons why a candidate is out, the only one with the bit 32: the
    # programs look for it in what all candidates have together (bpf/placement/pick.h)
    ENTRY_DRAINED = (56, "entry-drained", "this site is drained with its listeners: it takes no new connections")
    # links
    PROBE_LOST = (60, "probe-lost", "the far end does not answer probes")
    NO_CARRIER = (61, "no-carrier", "the device is down")
    ONE_WAY = (62, "one-way", "only one end says that the link is up")
    NOT_CONFIGURED = (63, "not-configured", "the far end has not (yet) this link")
    OVERLOAD = (64, "overload", "the site is not used for transit")
    NOT_SENT = (65, "not-sent", "this host itself refuses to send the probes")
    TCP_DROPPED = (66, "tcp-dropped", "the far end answers probes, but no TCP connection over the link")
    TCP_PROHIBITED = (67, "tcp-prohibited", "a firewall answers TCP connections over the link: prohibited")
    # connections that were ended
    SITE_RESTARTED = (80, "site-restarted", "its site lost all connections with its power, and is back without them")
    WITHDRAWN = (81, "withdrawn", "its workload was taken back, and nothing else would have told its client")

    def __str__(self) -> str:
        return self.word

    @property
    def code(self) -> int:
        """The number that the programs store."""
        return self.value

    @classmethod
    def of_code(cls, code: int) -> Reason:
        """Return the reason stored by a program. Raises KeyError when the code is unknown."""
        return _BY_CODE[code]


_BY_CODE = {reason.code: reason for reason in Reason}
