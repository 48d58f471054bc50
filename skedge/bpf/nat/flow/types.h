/* The flow table of packet-time NAT: structs and pinned maps. dataplane/ebpf/lan/layout_flow.py mirrors the layouts; a test
 * compares them. Addresses are those of placement/types.h: network byte order, IPv4 as ::ffff:a.b.c.d. */
#ifndef SKEDGE_NAT_FLOW_TYPES_H
#define SKEDGE_NAT_FLOW_TYPES_H

#include "common/tail_calls.h"

/* A flow has one entry for each direction. The loader sizes the tables as the site is configured, and says how many
 * attempts may be half open. */
#define NAT_FLOWS 262144
#ifndef NAT_HALF_OPEN_MAX
#define NAT_HALF_OPEN_MAX (NAT_FLOWS / 8)
#endif

/* A packet as it is seen on the wire, in one direction of a flow. */
struct nat_key {
    __u32 from[4];
    __u32 to[4];
    __u16 from_port; /* NBO */
    __u16 to_port;
    __u32 protocol;
};

/* What becomes of it. The other direction's key is these addresses and ports exchanged. One cache line. */
struct nat_flow {
    __u32 from[4];
    __u32 to[4];
    __u16 from_port; /* NBO */
    __u16 to_port;
    __u32 sum;    /* how the addresses change a checksum; KIND_LOCAL: the sequence number that follows the SYN */
    __u64 seen;   /* last packet, ns since boot (coarse) */
    __u64 state;  /* FLOW_*; changed by atomic operations only */
    __u64 placed; /* forward: a copy of the placement word, to look the workload up by; 0: none. Reply, TCP: the workload's
                   * sequence number (upper half) and what it has acknowledged, see nat/flow/tcp_track.h; 0: not known */
};

/* nat_flow.state: what packets of this direction have said, and what the flow is. Its discipline: nat/flow/conntrack.h. */
#define FLOW_FIN 0x01ull
#define FLOW_SYN 0x02ull
#define FLOW_RST 0x04ull
#define FLOW_ACK 0x10ull        /* it goes on after the handshake */
#define FLOW_REPLY 0x100ull     /* this is the workload's direction */
#define FLOW_ENDED 0x200ull     /* the connection is over, the count given back; the entry waits for late packets */
#define FLOW_PASSIVE 0x400ull   /* reply: the workload closed first, and has the connection in TIME_WAIT */
#define FLOW_TAKEN 0x800ull     /* the one who set it alone deletes the flow, takes its port over or revives it */
#define FLOW_AGAIN 0x1000ull    /* the client sent its SYN again, and had no answer before */
#define FLOW_ENDING 0x100000ull /* forward: the one who set it gives the count back */
#define FLOW_RESET 0x200000ull  /* it ended by a reset, so its port rests for a while */
#define FLOW_OWN 0x800000ull    /* the client is a socket of this host: what is for it goes over lo */
#define FLOW_KIND_SHIFT 16
#define FLOW_GENERATION_SHIFT 32 /* the upper half tells a flow from others that have or had its key or memory */
#define KIND_LOCAL 1ull   /* to a socket of this host, which gets the SYN as it is */
#define KIND_LOOP 5ull    /* the same by NAT over lo: UDP, and what cannot be assigned (SO_REUSEPORT before Linux 6.6) */
#define KIND_REMOTE 2ull  /* to another site's endpoint */
#define KIND_LAN 3ull     /* to a LAN machine or container of this site */
#define KIND_OVERLAY 4ull /* from another site to one of our endpoints that is a LAN machine or container */
#define KIND_OF(state) ((state) >> FLOW_KIND_SHIFT & 0xf)

/* An address of a workload off this host -> this host's address on the way to it. */
struct nat_address {
    __u32 word[4];
};

/* What the iterator writes of each flow. */
struct nat_record {
    struct nat_key key;
    struct nat_flow forward;
    struct nat_flow reply;
    struct placement_record placed;
};

BPF_TABLE_PINNED("hash", struct nat_key, struct nat_flow, nat_flows_v1, NAT_FLOWS * 2, PIN_DIR "/nat_flows_v1",
                 BPF_F_NO_PREALLOC);
/* forward key -> what the flow was placed on. There as long as the flow is, so it also counts the flows. */
BPF_TABLE_PINNED("hash", struct nat_key, struct placement, nat_placements_v1, NAT_FLOWS, PIN_DIR "/nat_placements_v1",
                 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct nat_address, struct nat_address, nat_sources_v1, 16384, PIN_DIR "/nat_sources_v1",
                 BPF_F_NO_PREALLOC);

#endif
