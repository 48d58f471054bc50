/* What the checks of a link's packets return beside 0 (it may pass) and the code of a reason (it is dropped). */
#ifndef SKEDGE_LINK_VERDICTS_H
#define SKEDGE_LINK_VERDICTS_H

#define REASON_MASK 0xff
#define SILENT 0xff    /* dropped, and no news: nobody did anything wrong */
#define REFUSED 0x100  /* counted but passed on: no socket is there, so the stack itself refuses (RST, port unreachable) */
#define TO_NAT 0x200   /* not a verdict: the packet belongs to a flow of the LAN, or makes one */
#define TO_NAT_ERROR 0x201 /* the same, of an ICMP error that quotes no socket of this host */
#define TO_ERROR 0x203	   /* the same, of an ICMP error: what it quotes tells */
#define TO_TOO_BIG 0x202   /* the same, of one that goes no further (too big, too many hosts), and whose sender the kernel cannot tell */
#define TO_FRAGMENT 0x204  /* the same, of a fragment */
#define TO_LO 0x205	   /* the same, of one that only lo takes */

_Static_assert(MAX_REASONS <= SILENT, "a reason looks like SILENT, or has bits beyond REASON_MASK");

#endif
