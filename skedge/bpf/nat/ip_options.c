/* Packets with IPv4 options, IPv6 extension headers, or IPv4's addresses in an IPv6 header: refused where they are for a
 * listener or a flow, as on link devices, and left alone otherwise. So are fragments of TCP, whose segments fit. Those of
 * datagrams go the way of their flow; those that name no flow of ours are left alone, unless they come over a link. */
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
#include "nat/flow/forward.h"
#include "nat/flow/fragments.h"

#define HEADERS_MAX 6

/* Find protocol and transport header behind IPv4 options. Returns 0 for none, else the reason to refuse it. */
INLINE int options_skip4(struct __sk_buff *skb, struct lan_packet *p)
{
    __u8 ip[IP4_LENGTH];

    if (bpf_skb_load_bytes(skb, p->l3, ip, sizeof(ip)) || (ip[0] & 15) < 5 || ((ip[6] & 0x1f) | ip[7]))
        return 0;
    p->l4 = p->l3 + (ip[0] & 15) * 4;
    return ip[6] & 0x20 ? REASON_FRAGMENT : REASON_MALFORMED;
}

/* The same behind IPv6 extension headers. */
INLINE int options_skip6(struct __sk_buff *skb, struct lan_packet *p)
{
    __u32 at = p->l4, next = p->key.protocol;
    int reason = REASON_MALFORMED;
    __u8 head[4];

    for (int i = 0; i < HEADERS_MAX; i++) {
        if (next != NEXT_HOP_BY_HOP && next != NEXT_ROUTING && next != NEXT_DESTINATION && next != NEXT_FRAGMENT)
            break;
        if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
            return 0;
        if (next == NEXT_FRAGMENT) {
            if (head[2] | (head[3] & 0xf8))
                return 0;
            reason = REASON_FRAGMENT;
            at += 8;
        } else {
            at += ((__u32)head[1] + 1) * 8;
        }
        at &= 0xffff;
        next = head[0];
    }
    p->l4 = at;
    p->key.protocol = next;
    return reason;
}

/* Go on with the first fragment of a flow that is to be made, or made anew. */
INLINE int fragment_open(struct __sk_buff *skb, int over_link)
{
    if (over_link)
        nat_programs_v1.call(skb, NAT_OVERLAY);
    else
        nat_programs_v1.call(skb, NAT_OPEN);
    return TC_ACT_SHOT;
}

/* The first fragment of a datagram. Returns the flow that it goes on in, 0 where *verdict says what becomes of it. */
INLINE struct nat_flow *fragment_first(struct __sk_buff *skb, struct lan_packet *p, struct fragment *f,
                                       struct fragment_key *key, __u32 from, int *verdict)
{
    int over_link = from == 1, ours, reason;
    struct fragment_way other = {.how = FRAGMENT_PASSES};
    struct nat_flow *flow = nat_flows_v1.lookup(&p->key);

    if (from == FROM_LOOPBACK)
        ours = flow && flow->state & FLOW_REPLY && KIND_OF(flow->state) == KIND_LOOP;
    else
        ours = over_link || flow || (port_is_listened(&p->key) && listener_lookup(&p->key));
    if (!ours) {
        fragment_way_store(key, f, &other);
        *verdict = TC_ACT_UNSPEC;
        return 0;
    }
    if (!packet_is_cut(skb)) {
        reason = flow_way_store(p, f, over_link ? FRAGMENT_ROOM_SITE : FRAGMENT_ROOM_CLIENT);
        if (reason) {
            *verdict = packet_refuse(reason);
            return 0;
        }
    }
    if (over_link || !flow || (!(flow->state & FLOW_REPLY) && flow->placed && !placement_goes_on(flow->placed))) {
        *verdict = fragment_open(skb, over_link);
        return 0;
    }
    return flow;
}

/* One of the others; the same. */
INLINE struct nat_flow *fragment_later(struct __sk_buff *skb, struct lan_packet *p, struct fragment *f,
                                       struct fragment_key *key, __u32 from, int *verdict)
{
    __u32 zero = 0;
    struct link_config *link = link_config_v2.lookup(&zero);
    struct fragment_way *way;
    struct nat_flow *flow;
    int over_link = from == 1, reason;

    *verdict = TC_ACT_UNSPEC;
    way = fragment_way_lookup(key, packet_is_cut(skb) ? DATAGRAM_LARGEST : f->at, &reason);
    if (!way) {
        if (over_link || reason == REASON_BAD_FRAGMENT)
            *verdict = packet_refuse(reason);
        return 0;
    }
    p->key.from_port = way->from_port;
    p->key.to_port = way->to_port;
    flow = way->how == FRAGMENT_FLOW ? nat_flows_v1.lookup(&p->key) : 0;
    if (!flow) {
        if (over_link && link)
            *verdict = packet_without_flow(skb, link, p, 0);
        return 0;
    }
    if (!packet_is_cut(skb)) {
        reason = fragment_admit(key, f, way, over_link ? FRAGMENT_ROOM_SITE : FRAGMENT_ROOM_CLIENT);
        if (reason) {
            *verdict = packet_refuse(reason);
            return 0;
        }
    }
    return flow;
}

/* A fragment of a datagram; the same. @reason: what is wrong with it. */
INLINE struct nat_flow *fragment_ingress(struct __sk_buff *skb, struct lan_packet *p, struct fragment *f, __u32 from,
                                         int reason, int *verdict)
{
    struct fragment_key key = {};
    struct nat_flow *flow = 0;

    if (reason) {
        *verdict = from == 1 ? packet_refuse(reason) : TC_ACT_UNSPEC;
        return 0;
    }
    fragment_take(p, f);
    lan_fragment_key_fill(p, f, &key);
    if (f->at)
        flow = fragment_later(skb, p, f, &key, from, verdict);
    else if (fragment_parse_ports(skb, p, f))
        *verdict = packet_refuse(REASON_MALFORMED);
    else
        flow = fragment_first(skb, p, f, &key, from, verdict);
    if (flow)
        piece_track(flow);
    return flow;
}

/* What is odd otherwise. */
INLINE int options_ingress(struct __sk_buff *skb, const struct nat_config *config, struct lan_packet *p, __u32 from)
{
    __u16 ports[2];
    int reason = p->v6 ? options_skip6(skb, p) : options_skip4(skb, p);

    if (reason && lan_packet_is_mapped(p))
        reason = REASON_MARTIAN;
    if (from == 1)
        return packet_refuse(reason ? reason : REASON_FRAGMENT);
    if (!reason || (p->key.protocol != IPPROTO_TCP && p->key.protocol != IPPROTO_UDP))
        return TC_ACT_UNSPEC;
    if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
        return TC_ACT_UNSPEC;
    p->key.from_port = ports[0];
    p->key.to_port = ports[1];
    if (port_is_listened(&p->key) && listener_lookup(&p->key))
        return packet_refuse(reason);
    return nat_config_has_port(config, p->key.to_port) && nat_flows_v1.lookup(&p->key) ? packet_refuse(reason)
                                                                                       : TC_ACT_UNSPEC;
}

/* What a packet says, in memory that the verifier knows nothing of: it would walk what cuts a datagram once for each kind of
 * packet and each way that leads there. */
struct odd_packet {
    struct lan_packet p;
    struct fragment f;
};
BPF_PERCPU_ARRAY(nat_odd, struct odd_packet, 1);

int lan_odd(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct odd_packet *odd = nat_odd.lookup(&zero);
    __u32 from = CB_GET(skb, CB_DENY);
    struct nat_flow *flow;
    int parsed, reason, verdict, whole = 0;

    if (!config || !odd)
        return TC_ACT_UNSPEC;
    __builtin_memset(&odd->f, 0, sizeof(odd->f));
    parsed = lan_packet_parse(skb, &odd->p, CB_GET(skb, CB_LINK) & 15);
    if (from == FROM_TOO_BIG && (!parsed || parsed == ODD)) {
        whole = !parsed;
        flow = datagram_to_cut(skb, &odd->p, &odd->f, whole);
        if (!flow)
            return packet_refuse(REASON_TOO_BIG);
    } else {
        if (parsed != ODD)
            return TC_ACT_UNSPEC;
        reason = fragment_load(skb, odd->p.l3, odd->p.v6, &odd->f);
        if (reason == REASON_MALFORMED || odd->f.protocol != IPPROTO_UDP || lan_packet_is_mapped(&odd->p))
            return options_ingress(skb, config, &odd->p, from);
        flow = fragment_ingress(skb, &odd->p, &odd->f, from, reason, &verdict);
        if (!flow)
            return verdict;
    }
    return piece_forward(skb, config, &odd->p, &odd->f, flow, whole);
}
