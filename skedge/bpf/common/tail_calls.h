/* How the packet programs of LAN devices and link devices call one another, and the configuration of NAT. */
#ifndef SKEDGE_COMMON_TAIL_CALLS_H
#define SKEDGE_COMMON_TAIL_CALLS_H

#ifndef INLINE
#define INLINE static __attribute__((always_inline)) inline
#endif

/* Written by the controller only; times in ns. */
struct nat_config {
    __u32 device;     /* the interface that routes are looked up as from; its forwarding flag is set, others' need not be */
    __u16 low;        /* NAT ports, host byte order */
    __u16 high;
    __u64 syn;        /* idle time-outs */
    __u64 established;
    __u64 fin;
    __u64 closed;
    __u64 udp;
    __u32 source_rate; /* new flows a second of one source, and flows that may be half open; 0: as in nat/admission/limits.h */
    __u32 half_open;
    __u64 spare;
};

BPF_TABLE_PINNED("array", __u32, struct nat_config, nat_config_v1, 1, PIN_DIR "/nat_config_v1");

#define NAT_TOWARDS_SITES 1 /* all sites know the way back to these addresses */

/* Overlay addresses of this site that no socket uses, all 0 where there are none: flows to other sites (where they know
 * them) and to sockets of this host come from them, with any of the ports, so that they end at no small number. */
struct nat_addresses {
    __u32 own4;
    __u32 flags;
    __u32 own6[4];
    __u16 low; /* HBO */
    __u16 high;
    __u32 spare;
    __u64 udp_stream; /* ns without a packet after which a UDP flow ends that was more than one exchange */
    __u64 spares[4];
};

BPF_TABLE_PINNED("array", __u32, struct nat_addresses, nat_addresses_v1, 1, PIN_DIR "/nat_addresses_v1");

/* Whether an address, as it lies in the packet, is this site's own for NAT. */
INLINE int address_is_nat4(__u32 address)
{
    __u32 zero = 0;
    struct nat_addresses *nat = nat_addresses_v1.lookup(&zero);

    return nat && address && nat->own4 == address;
}

INLINE int address_is_nat6(const __u32 *word)
{
    __u32 zero = 0;
    struct nat_addresses *nat = nat_addresses_v1.lookup(&zero);

    return nat && word[0] && !((nat->own6[0] ^ word[0]) | (nat->own6[1] ^ word[1]) | (nat->own6[2] ^ word[2]) |
                               (nat->own6[3] ^ word[3]));
}

/* Whether a port (NBO) is one of those that NAT uses at the overlay address. */
INLINE int nat_config_has_port(const struct nat_config *config, __u16 port)
{
    port = bpf_ntohs(port);
    return port >= config->low && port <= config->high;
}

/* The parts that are called from one another; each is one program. */
#define NAT_OPEN 0    /* a packet to a listener that has no flow (any more) */
#define NAT_OVERLAY 1 /* from a link device: to a NAT port, or to an endpoint off this host */
#define NAT_ERROR 2   /* an ICMP error about a flow */
#define NAT_TOO_BIG 3 /* a packet that is too big for the way ahead, or has passed too many hosts */
#define NAT_ODD 4     /* options, extension headers, fragments */
#define NAT_PLACE 5   /* the first packet of a flow that is to be placed */
#define NAT_BEGIN 6   /* the first packet of a flow whose workload is chosen */
#define NAT_ASKED 7   /* the first packet of a flow that the host's own rules have let through */
#define NAT_PROGRAMS 8
BPF_TABLE_PINNED("prog", __u32, __u32, nat_programs_v1, NAT_PROGRAMS, PIN_DIR "/nat_programs_v1");

#define CB_OWN 32      /* beside the length in skb->cb[CB_LINK]: the packet is a socket's of this host */
#define CB_ROUTED 64   /* and has the route with it that it came over lo by */

/* Reading and writing skb->cb. In assembly: a compiler may keep a pointer to a field that it needs twice (LLVM 19 does), and
 * the verifier refuses a pointer into the context. */
#define CB_PLACE(index) "i"(__builtin_offsetof(struct __sk_buff, cb) + 4 * (index))
#define CB_GET(skb, index) \
    ({ \
        __u64 cb_value; \
        asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(cb_value) : "r"(skb), CB_PLACE(index)); \
        (__u32)cb_value; \
    })
#define CB_SET(skb, index, value) \
    asm volatile("*(u32 *)(%0 + %1) = %2" : : "r"(skb), CB_PLACE(index), "r"((__u64)(value)) : "memory")

/* Between the programs, in skb->cb: the length of the link-layer header, the MTU of the way ahead, and whether the
 * packet came from a link device (where what belongs to nobody is dropped), or FROM_*. */
#define CB_LINK 0
#define CB_MTU 1
#define MTU_NONE 0 /* the packet may go no further, whatever its size */
#define CB_DENY 2
#define FROM_TOO_BIG 2 /* to NAT_ODD: cut it up */
#define FROM_LOOPBACK 4 /* to NAT_ODD: only answers of this host's own sockets are ours */

#endif
