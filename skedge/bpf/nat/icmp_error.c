/* An ICMP error about a packet that this host translated: take it to who sent the original, as an error about that.
 * Path MTU discovery lives on it. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>
#include <bcc/helpers.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/store.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "nat/flow/types.h"
#include "nat/flow/packet.h"
#include "nat/flow/conntrack.h"
#include "nat/flow/tcp_track.h"
#include "nat/flow/forward.h"
#include "nat/admission/stack_checks.h"

#define QUOTED_PORTS 8 /* of the quoted transport header: the least that a router quotes */

struct quote {
    __u8 ip[IP6_LENGTH + FRAGMENT_HEADER + QUOTED_PORTS];
};

/* Whether a fragment over IPv6 is quoted: it has a header more. */
INLINE int quote_is_fragment6(const struct quote *q, int v6)
{
    return v6 && q->ip[6] == NEXT_FRAGMENT;
}

INLINE __u32 quote_ports_at(const struct quote *q, int v6)
{
    return quote_is_fragment6(q, v6) ? IP6_LENGTH + FRAGMENT_HEADER : v6 ? IP6_LENGTH : IP4_LENGTH;
}

/* A checksum when what it covers changes by @diff (as a sum) and a pair of ports. */
INLINE __u16 checksum_update(__u16 check, __u32 diff, __u32 old_ports, __u32 new_ports)
{
    __u64 sum = (__u16)~check;

    sum += (__u64)diff + (__u32)~old_ports + new_ports;
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

INLINE __u32 flow_ports(const struct nat_flow *flow, int back)
{
    return back ? flow->to_port | (__u32)flow->from_port << 16 : flow->from_port | (__u32)flow->to_port << 16;
}

/* The key of the flow that the quoted packet is an answer in: whoever sent it is where the error goes. */
INLINE int quote_key(const struct quote *q, int v6, struct nat_key *key)
{
    const __u8 *l4 = q->ip + quote_ports_at(q, v6);

    if (v6) {
        if (q->ip[0] >> 4 != 6)
            return -1;
        key->protocol = q->ip[6];
        if (quote_is_fragment6(q, v6)) {
            if (q->ip[IP6_LENGTH + 2] | (q->ip[IP6_LENGTH + 3] & 0xf8))
                return -1;
            key->protocol = q->ip[IP6_LENGTH];
        }
        address_copy(key->to, (__u32 *)(q->ip + 8));
        address_copy(key->from, (__u32 *)(q->ip + 24));
    } else {
        if (q->ip[0] != 0x45 || ((q->ip[6] & 0x1f) | q->ip[7]))
            return -1;
        key->protocol = q->ip[9];
        key->to[0] = key->to[1] = key->from[0] = key->from[1] = 0;
        key->to[2] = key->from[2] = MAPPED_PREFIX;
        key->to[3] = *(__u32 *)(q->ip + 12);
        key->from[3] = *(__u32 *)(q->ip + 16);
    }
    if (key->protocol != IPPROTO_TCP && key->protocol != IPPROTO_UDP)
        return -1;
    key->to_port = *(__u16 *)l4;
    key->from_port = *(__u16 *)(l4 + 2);
    return 0;
}

/* Make the quoted packet the one that the receiver had sent. The sum of its addresses changes as in any packet of the
 * flow, so the same difference serves. */
INLINE void quote_translate(struct quote *q, int v6, const struct nat_key *key, const struct nat_flow *flow)
{
    __u8 *l4 = q->ip + quote_ports_at(q, v6);
    __u32 old_ports = key->from_port | (__u32)key->to_port << 16;

    if (v6) {
        address_copy((__u32 *)(q->ip + 8), flow->to);
        address_copy((__u32 *)(q->ip + 24), flow->from);
    } else {
        *(__u16 *)(q->ip + 10) = checksum_update(*(__u16 *)(q->ip + 10), flow->sum, 0xffffffff, 0xffffffff);
        *(__u32 *)(q->ip + 12) = flow->to[3];
        *(__u32 *)(q->ip + 16) = flow->from[3];
    }
    *(__u32 *)l4 = flow_ports(flow, 1);
    if (key->protocol == IPPROTO_UDP && *(__u16 *)(l4 + 6))
        *(__u16 *)(l4 + 6) = checksum_update(*(__u16 *)(l4 + 6), flow->sum, old_ports, flow_ports(flow, 0));
}

/* Whether the error says which host of the way a packet came to, which is what its sender wants to know (traceroute): a
 * site, not a router of some LAN. Any other error comes from the address that the packet was sent to. */
INLINE int error_names_host(struct __sk_buff *skb, const struct lan_packet *p)
{
    __u8 type = 0;

    return CB_GET(skb, CB_DENY) == 1 && !bpf_skb_load_bytes(skb, p->l4, &type, 1) && type == (p->v6 ? 3 : 11);
}

/* Whether a site on the way says that there is none, as in icmp_is_of_transit(): that would end a client's connect. */
INLINE int error_is_of_transit(struct __sk_buff *skb, const struct lan_packet *p, const struct nat_key *quoted)
{
    __u8 said[2] = {};

    if (!CB_GET(skb, CB_DENY) || quoted->protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, p->l4, said, sizeof(said)))
        return 0;
    if (quoted->from[0] == p->key.from[0] && quoted->from[1] == p->key.from[1] && quoted->from[2] == p->key.from[2] &&
        quoted->from[3] == p->key.from[3])
        return 0;
    if (p->v6)
        return said[0] == 1 && (said[1] == 0 || said[1] == 3);
    return said[0] == 3 && said[1] <= 1;
}

/* Put the translated quote and the flow's addresses into the packet. Returns 0 or REASON_MALFORMED. */
INLINE int icmp_rewrite(struct __sk_buff *skb, const struct lan_packet *p, struct quote *old, struct quote *new,
                        const struct nat_flow *flow)
{
    __u32 at = p->l4 + 8, size = quote_ports_at(old, p->v6) + QUOTED_PORTS, diff;
    struct nat_flow addresses;
    struct nat_key outer = p->key;

    if (p->v6) /* what is not quoted is 0 in both */
        diff = (__u32)bpf_csum_diff((void *)old, sizeof(*old), (void *)new, sizeof(*new), 0);
    else
        diff = (__u32)bpf_csum_diff((void *)old, IP4_LENGTH + QUOTED_PORTS, (void *)new, IP4_LENGTH + QUOTED_PORTS, 0);
    if (bpf_l4_csum_replace(skb, p->l4 + 2, 0, diff, 0) || bpf_skb_store_bytes(skb, at, new, size, 0))
        return REASON_MALFORMED;
    address_copy(addresses.from, error_names_host(skb, p) ? outer.from : flow->from);
    address_copy(addresses.to, flow->to);
    diff = (__u32)bpf_csum_diff((void *)outer.from, 32, (void *)addresses.from, 32, 0);
    if (p->v6) {
        if (bpf_l4_csum_replace(skb, p->l4 + 2, 0, diff, BPF_F_PSEUDO_HDR))
            return REASON_MALFORMED;
        packet_sum_update(skb, 1, 0, diff, 0);
        return bpf_skb_store_bytes(skb, p->l3 + 8, addresses.from, 32, 0) ? REASON_MALFORMED : 0;
    }
    if (bpf_l3_csum_replace(skb, p->l3 + 10, 0, diff, 0) ||
        bpf_skb_store_bytes(skb, p->l3 + 12, &addresses.from[3], 4, 0))
        return REASON_MALFORMED;
    return bpf_skb_store_bytes(skb, p->l3 + 16, &addresses.to[3], 4, 0) ? REASON_MALFORMED : 0;
}

INLINE int icmp_is_error(struct __sk_buff *skb, const struct lan_packet *p)
{
    __u8 type = 0;

    if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
        return 0;
    return p->v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

INLINE int quote_load(struct __sk_buff *skb, const struct lan_packet *p, struct quote *q)
{
    if (p->v6 && bpf_skb_load_bytes(skb, p->l4 + 8, q, IP6_LENGTH + QUOTED_PORTS))
        return -1;
    if (quote_is_fragment6(q, p->v6))
        return bpf_skb_load_bytes(skb, p->l4 + 8, q, sizeof(*q));
    if (p->v6)
        return 0;
    return bpf_skb_load_bytes(skb, p->l4 + 8, q, IP4_LENGTH + QUOTED_PORTS);
}

/* Find the flow of the error. Returns 0 where there is none (or a socket of this host gets it from the stack). */
INLINE struct nat_flow *quote_lookup_flow(struct __sk_buff *skb, const struct lan_packet *p, struct quote *q,
                                          struct nat_key *key)
{
    struct nat_flow *flow;

    if (!lan_packet_is_icmp(p) || !icmp_is_error(skb, p) || quote_load(skb, p, q) || quote_key(q, p->v6, key))
        return 0;
    if (key->to[0] != p->key.to[0] || key->to[1] != p->key.to[1] || key->to[2] != p->key.to[2] ||
        key->to[3] != p->key.to[3])
        return 0;
    flow = nat_flows_v1.lookup(key);
    return flow && KIND_OF(flow->state) != KIND_LOCAL ? flow : 0;
}

/* Whether an error from a link may be about the packet that it quotes: one that went over links, not within the LAN. */
INLINE int quote_is_of_overlay(const struct lan_packet *p, const struct nat_key *key)
{
    __u32 zero = 0;
    struct link_config *link = link_config_v2.lookup(&zero);

    return link && (nat_address_in_overlay(link, key->from, p->v6) || nat_address_in_overlay(link, key->to, p->v6));
}

int lan_error(struct __sk_buff *skb)
{
    struct quote old = {}, new;
    struct lan_packet p;
    struct nat_key key = {};
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct bpf_fib_lookup fib;
    struct nat_flow *flow;
    long found;

    if (!config || lan_packet_parse(skb, &p, CB_GET(skb, CB_LINK) & 15) != NOT_OURS)
        return TC_ACT_UNSPEC;
    flow = quote_lookup_flow(skb, &p, &old, &key);
    if (!flow || packet_is_martian(&p) || (CB_GET(skb, CB_DENY) && !quote_is_of_overlay(&p, &key)))
        return CB_GET(skb, CB_DENY) ? packet_refuse(REASON_NO_SOCKET) : TC_ACT_UNSPEC;
    if (error_is_of_transit(skb, &p, &key))
        return packet_refuse(REASON_TRANSIT_ERROR);
    new = old;
    quote_translate(&new, p.v6, &key, flow);
    if (flow_goes_over_lo(flow->state))
        return icmp_rewrite(skb, &p, &old, &new, flow) ? packet_refuse(REASON_MALFORMED)
                                                       : skb_send_to_lo(skb, p.l3, config->device);
    found = route_lookup(skb, config, &p, flow, 0, &fib);
    if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
        return packet_refuse(REASON_NO_ROUTE);
    if (icmp_rewrite(skb, &p, &old, &new, flow))
        return packet_refuse(REASON_MALFORMED);
    return packet_send(skb, &p, &fib);
}
