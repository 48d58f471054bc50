/* Codes of skedge/core/reasons.py that the packet programs give; a test compares the two. */
#ifndef SKEDGE_LINK_REASONS_H
#define SKEDGE_LINK_REASONS_H

#define TABLE_FULL 3
#define NOT_PUBLISHED 20
#define NO_SOCKET 21
#define NOT_OVERLAY 22
#define NOT_NEIGHBOUR 23
#define MALFORMED 24
#define FRAGMENT 25
#define WORKLOAD_CLOSED 26
#define WRONG_TUNNEL_PEER 27
#define HOP_LIMIT 28
#define NO_ROUTE 29
#define TOO_BIG 30
#define OVERLAPPING_PREFIX 55

#define REASON_MASK 0xff
#define SILENT 0xff    /* dropped, and no news: nobody did anything wrong */
#define TO_NAT 0x200   /* not a verdict: the packet belongs to a flow of the LAN, or makes one */
#define TO_NAT_ERROR 0x201 /* the same, of an ICMP error that quotes no socket of this host */
#define TO_TOO_BIG 0x202   /* the same, of one that is too big for the way ahead, and whose sender the kernel cannot tell */
#define REFUSED 0x100  /* counted but passed on: no socket is there, so the stack itself refuses (RST, port unreachable) */

#endif
