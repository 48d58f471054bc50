/* Codes of skedge/core/reasons.py that the packet programs give; a test compares the two. */
#ifndef SKEDGE_LINK_REASONS_H
#define SKEDGE_LINK_REASONS_H

#define NOT_PUBLISHED 20
#define NO_SOCKET 21
#define NOT_OVERLAY 22
#define NOT_NEIGHBOUR 23
#define MALFORMED 24
#define FRAGMENT 25
#define WORKLOAD_CLOSED 26
#define WRONG_TUNNEL_PEER 27

#define REASON_MASK 0xff
#define SILENT 0xff    /* dropped, and no news: nobody did anything wrong */
#define REFUSED 0x100  /* counted but passed on: no socket is there, so the stack itself refuses (RST, port unreachable) */

#endif
