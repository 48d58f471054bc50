/* Generated from skedge/core/reasons.py by python -m skedge.loader.compiling.reasons_header */
#ifndef SKEDGE_REASONS_H
#define SKEDGE_REASONS_H

#define MAX_REASONS 128 /* places in every array that is indexed by a reason */

enum {
    REASON_NONE = 0, /* nothing is wrong */
    REASON_NO_WORKLOAD = 1, /* no site offers a healthy workload of this service */
    REASON_SOURCE_BOUND = 2, /* the socket is bound to an address that cannot leave this site */
    REASON_TABLE_FULL = 3, /* the placement store has no room */
    REASON_SOURCE_LIMIT = 4, /* more new flows a second than one machine or site may open */
    REASON_HALF_OPEN = 5, /* an unfinished flow that made room for newer ones */
    REASON_UNHEALTHY = 10, /* its site's health check fails */
    REASON_DRAINED = 11, /* the workload or its site is drained */
    REASON_UNREACHABLE = 12, /* no path to its site */
    REASON_SUSPENDED = 13, /* refused or did not answer a connect from here; waiting for a good probe */
    REASON_NO_PORT = 14, /* this site has no source port left towards it */
    REASON_NO_FAMILY = 15, /* not reachable over the client's address family */
    REASON_AFFINITY = 16, /* kept at the workload that the same client had before */
    REASON_ENGINE = 17, /* the engine ipvs serves no loopback address, and no other machine of the LAN */
    REASON_PUBLISHED_BY_DNAT = 18, /* the host's own DNAT leads its port to where this site does not deliver */
    REASON_NOT_PUBLISHED = 20, /* a new connection to something that is not a published endpoint */
    REASON_NO_SOCKET = 21, /* a packet of no open connection */
    REASON_NOT_OVERLAY = 22, /* source or destination is outside the overlay */
    REASON_NOT_NEIGHBOUR = 23, /* link-local traffic that is not control or probe */
    REASON_MALFORMED = 24, /* a packet that cannot be parsed */
    REASON_FRAGMENT = 25, /* a fragment, refused on purpose */
    REASON_WORKLOAD_CLOSED = 26, /* the endpoint is published but nothing listens behind it */
    REASON_WRONG_TUNNEL_PEER = 27, /* a tunnel packet from other than the neighbour's address */
    REASON_HOP_LIMIT = 28, /* a packet that has passed too many hosts */
    REASON_NO_ROUTE = 29, /* the host has no route towards it, or no address to send from */
    REASON_TOO_BIG = 30, /* a packet larger than the way ahead takes; its sender is told where it may be */
    REASON_NOT_FORWARDED = 31, /* a packet of the host's own networks that would have gone into a link, or on */
    REASON_HOST_ADDRESS = 32, /* a packet from a link to an address of this host that is not the overlay's */
    REASON_WRONG_PATH = 33, /* a packet from a link over which its sender cannot be reached */
    REASON_CLAIMED = 34, /* a packet with the address of a site that came by another device than a link */
    REASON_MARTIAN = 35, /* an address that no packet from the wire can have, such as one of loopback */
    REASON_HOST_FIREWALL = 36, /* a new connection of the LAN that the host's own input rules refuse */
    REASON_REVERSE_PATH = 37, /* the way back to the sender leaves by another device, and rp_filter is strict */
    REASON_EARLY_FRAGMENT = 38, /* a fragment that came before the first one of its datagram */
    REASON_BAD_FRAGMENT = 39, /* a fragment that is too small, or overlaps the first one of its datagram */
    REASON_BAD_SIGNATURE = 40, /* a record whose signature or certificate does not verify */
    REASON_BAD_FRAME = 41, /* a control frame that cannot be decoded or is too large */
    REASON_WRONG_PEER = 42, /* the peer's certificate names another site */
    REASON_DUPLICATE_SITE = 43, /* two hosts with different keys use one site name */
    REASON_REVOKED = 44, /* the certificate is on the revocation list */
    REASON_EXPIRED = 45, /* the certificate is not valid now */
    REASON_RATE_LIMITED = 46, /* more than its share of messages */
    REASON_STALE = 47, /* an older version than the one held */
    REASON_NO_ANSWER = 48, /* the neighbour's controller does not answer */
    REASON_DUPLICATE_ADDRESS = 49, /* two sites claim one overlay address */
    REASON_DATABASE_FULL = 50, /* the link-state database has no room for another site */
    REASON_TRANSIT_ERROR = 53, /* a site on the way says that there is none: that is for the map to say */
    REASON_OVERLAPPING_PREFIX = 55, /* a LAN prefix that overlaps another network, so it is not used here */
    REASON_ENTRY_DRAINED = 56, /* this site is drained with its listeners: it takes no new connections */
    REASON_PROBE_LOST = 60, /* the far end does not answer probes */
    REASON_NO_CARRIER = 61, /* the device is down */
    REASON_ONE_WAY = 62, /* only one end says that the link is up */
    REASON_NOT_CONFIGURED = 63, /* the far end has not (yet) this link */
    REASON_OVERLOAD = 64, /* the site is not used for transit */
    REASON_NOT_SENT = 65, /* this host itself refuses to send the probes */
    REASON_TCP_DROPPED = 66, /* the far end answers probes, but no TCP connection over the link */
    REASON_TCP_PROHIBITED = 67, /* a firewall answers TCP connections over the link: prohibited */
    REASON_SITE_RESTARTED = 80, /* its site lost all connections with its power, and is back without them */
    REASON_WITHDRAWN = 81, /* its workload was taken back, and nothing else would have told its client */
    REASONS_END
};

_Static_assert(REASONS_END <= MAX_REASONS, "a reason has no place in the arrays of counters");

#endif
