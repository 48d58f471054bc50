/* Limits, flags and penalties of the connect-time programs; each with the reason for its value. */
#ifndef SKEDGE_COMMON_LIMITS_H
#define SKEDGE_COMMON_LIMITS_H

#define MAX_SERVICES 1024
#define MAX_WORKLOADS 256
/* Size classes of a service: the scan has a fixed length, so a small service must not pay for a large one. */
#define CLASS_SMALL 8
#define CLASS_MEDIUM 32

#define MAX_LISTENERS 16384
#define LISTENER_PRESERVES_SRC 1u /* struct listener.flags: preserves LAN clients' addresses to other sites */
#define MAX_PREFIXES 4096
#define SCHEDULE_SIZE 128 /* turns of a listener that shares its connections out by weight; a power of two */
#define MEMBER_WORDS 16   /* MAX_SERVICES bits */
#define MAX_AFFINITIES 65536 /* clients with affinity, about 7 MiB; the least recently placed one is evicted first */
#define PORT_WORDS 2048 /* 65536 bits for TCP, then 65536 for UDP, in 64-bit words */
#define NAME_SIZE 64
#define IDLE_AT_LEAST_NS 1000000ull /* no sweep ends a flow of a socket that was idle for less */
/* Of 64 bits, with each placement of a socket: for its source (site and client), a lease, the boot of the site, its order
 * and flags, and as many again. The UDP flows of a socket take no larger piece of memory for them. */
#define SPARE_WORDS 8
#define UDP_FLOWS 8 /* listeners that one unconnected UDP socket may talk to at the same time */

/* The pick log is a debugging aid: the loader sizes it (a power of two), one entry when it is off. */
#ifndef PICK_LOG_ENTRIES
#define PICK_LOG_ENTRIES 1
#endif

/* struct slot.flags; a socket needs a set of them, a slot that misses one is out for it. */
#define SLOT_USED 0x01u  /* in the service's table (else: free, or retired and still counted) */
#define SLOT_IN 0x02u    /* may be chosen */
#define SLOT_T4 0x04u    /* has an IPv4 target */
#define SLOT_T6 0x08u    /* has an IPv6 target */
#define SLOT_ANY 0x10u   /* has a target of either family */
#define SLOT_OWN_SITE 0x20u /* a workload of this site */
#define SLOT_OWN_SITE_BIT 5
#define SLOT_OFF_HOST 0x40u /* of this site, but at an address that is not this host's: a LAN machine, a container */
#define SLOT_PRESERVES_SRC_BIT 7
#define SLOT_PRESERVES_SRC 0x80u /* of another site, which preserves the source address of this site's LAN clients */
#define SLOT_OUT_SHIFT 8 /* bits 8..15: the Reason code why it is out */
#define ENTRY_DRAINED_BIT 0x20 /* of those codes, only REASON_ENTRY_DRAINED has it */

/* Added to the path cost, so that the one comparison ranks usable < suspended < out and keeps the exact order within
 * each. Path costs stay below 2^24 and open/capacity below 2^27; (2^30 * capacity 2^16) * capacity 2^16 < 2^63. */
#define SUSPENDED_SHIFT 28
#define OUT_SHIFT 29
#define COST_SUSPENDED (1ull << SUSPENDED_SHIFT)
#define COST_OUT (1ull << OUT_SHIFT)
#define COST_NOBODY (1ull << 30)

/* `last` of a slot that was never chosen is its rank by name (0..255); choice numbers follow from here. */
#define FIRST_CHOICE 256

/* struct staged_slot.apply: which fields the apply program takes over. */
#define APPLY_CONTROL 0x1u
#define APPLY_OTHERS 0x2u
#define APPLY_RESET 0x4u  /* a new workload in this slot: its counters start at 0 */
#define APPLY_RESUME 0x8u /* a good health probe ends the suspension */
#define APPLY_DELTA 0x10u /* reconciliation corrects the count of open connections */
#define APPLY_NAT 0x20u   /* and the number of those that hold a NAT port, by staged_slot.rank, which is signed then */

/* The placement word: 0 is "nothing placed", so one 64-bit exchange takes the placement away exactly once. */
#define PLACED_VALID (1ull << 63)
#define PLACED_SERVICE_SHIFT 8
#define PLACED_GENERATION_SHIFT 32
#define PLACED_NAT (1ull << 31) /* holds a NAT port towards the workload */
#define PLACED_LAN (1ull << 30) /* at a workload of this site, off this host */
#define PLACED_PRESERVES_SRC (1ull << 29) /* at another site, with the client's address preserved: no NAT port */
#define PLACED_ROUND_SHIFT 18 /* the last recount that has seen it, see placement/recount.h */
#define PLACED_ROUND (0xffull << PLACED_ROUND_SHIFT)
#define GENERATION_MASK 0x7fffffffu

#define BOUND_MARK 0x2b64u /* SO_MARK of sockets that are placed by their packets on lo, see socket/bound.h */
#define ROUTELESS_MARK 0x2b65u /* skb->mark of such a packet that has been sent round to lose its route over lo */
#define OWN_MARK 0x736bu /* SO_MARK of skedge's own sockets, which are never placed */

/* struct affinity_key.service: of a listener that shares out, beside those of the service alone. */
#define AFFINITY_SHARED 0x80000000u
#define NANOSECONDS 1000000000ull

/* Kernel numbers that no UAPI header in use here gives. */
#define AF_INET_ 2
#define AF_INET6_ 10
#define PROTO_TCP 6
#define PROTO_UDP 17
#define ERR_CONNREFUSED 111
#define ERR_CONNABORTED 103
#define ERR_TIMEDOUT 110
#define STATE_SYN_SENT 2
#define STATE_CLOSE 7
#define BINDADDR_LOCK 4 /* sk_userlocks: bind(2) gave the source address */

/* Offsets in the running kernel's struct sock, found in its BTF by the loader. */
#ifndef OFF_V6ONLY_BYTE
#error "the loader defines OFF_V6ONLY_*, OFF_USERLOCKS_*, OFF_SK_ERR, OFF_TOTAL_RETRANS, OFF_CB_FLAGS and OFF_RCV_SADDR6"
#endif

#include "common/verifier.h"

#define MAPPED_PREFIX 0xffff0000u /* third word of ::ffff:a.b.c.d on a little-endian machine */

#endif
