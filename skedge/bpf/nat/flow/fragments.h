/* Fragments of a flow's datagrams: where each goes, and what becomes of it. */
#ifndef SKEDGE_NAT_FLOW_FRAGMENTS_H
#define SKEDGE_NAT_FLOW_FRAGMENTS_H

#include "common/fragments.h"
#include "nat/flow/cut.h"

INLINE void lan_fragment_key_fill(const struct lan_packet *p, const struct fragment *f, struct fragment_key *key)
{
    if (p->v6) {
        address_copy(key->from.word, p->key.from);
        address_copy(key->to.word, p->key.to);
    } else {
        key->from.word[0] = p->key.from[3];
        key->to.word[0] = p->key.to[3];
    }
    key->id = f->id;
    key->protocol = f->protocol;
    key->v6 = p->v6;
}

/* Read the ports of a first fragment; the packet is that datagram's from here on. */
INLINE int fragment_parse_ports(struct __sk_buff *skb, struct lan_packet *p, const struct fragment *f)
{
    __u16 ports[2];

    if (bpf_skb_load_bytes(skb, f->l4, ports, sizeof(ports)))
        return -1;
    p->key.from_port = ports[0];
    p->key.to_port = ports[1];
    return 0;
}

/* Take what a fragment says as what the packet says. */
INLINE void fragment_take(struct lan_packet *p, const struct fragment *f)
{
    p->key.protocol = f->protocol;
    p->l4 = f->l4;
    p->length = f->l4 - p->l3 + f->size;
    p->next = NEXT_FRAGMENT;
}

/* Remember that the datagram's other fragments go as the flow of this packet does. Returns 0, or why they may not. */
INLINE int flow_way_store(const struct lan_packet *p, const struct fragment *f, __u32 room)
{
    struct fragment_way way = {.how = FRAGMENT_FLOW, .from_port = p->key.from_port, .to_port = p->key.to_port};
    struct fragment_key key = {};
    int reason = 0;

    lan_fragment_key_fill(p, f, &key);
    if (room)
        reason = fragment_admit(&key, f, &way, room);
    if (!reason)
        fragment_way_store(&key, f, &way);
    return reason;
}

/* Change the addresses and the hop limit of a fragment that has no transport header. */
INLINE int fragment_translate(struct __sk_buff *skb, const struct lan_packet *p, const struct nat_flow *flow)
{
    __u8 *ip, *end;
    __u32 sum;

    if (p->v6)
        csum_update(skb, checksum_diff6(flow->sum));
    ip = (__u8 *)(long)skb->data + (p->l3 & 15);
    end = (__u8 *)(long)skb->data_end;
    if (p->v6) {
        if (ip + IP6_LENGTH > end)
            return REASON_MALFORMED;
        ip[7] = p->hops - 1;
        address_copy((__u32 *)(ip + 8), flow->from);
        address_copy((__u32 *)(ip + 24), flow->to);
        return 0;
    }
    if (ip + IP4_LENGTH > end)
        return REASON_MALFORMED;
    sum = (__u16)~*(__u16 *)(ip + 10) + (flow->sum & 0xffff) + (flow->sum >> 16) + (__u16)~bpf_htons(0x100);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    *(__u16 *)(ip + 10) = ~sum;
    ip[8] = p->hops - 1;
    *(__u32 *)(ip + 12) = flow->from[3];
    *(__u32 *)(ip + 16) = flow->to[3];
    return 0;
}

INLINE int piece_translate(struct __sk_buff *skb, const struct lan_packet *p, const struct fragment *f,
                           const struct nat_flow *flow)
{
    return f->at ? fragment_translate(skb, p, flow) : packet_translate(skb, p, flow);
}

/* Whether a piece may be cut up here: over IPv4 without DF, and where its sender is a socket of this host. */
INLINE int piece_may_be_cut(const struct lan_packet *p, const struct nat_flow *flow)
{
    return !p->whole || (flow->state & FLOW_REPLY && KIND_OF(flow->state) == KIND_LOOP);
}

/* Tell the sender of a first fragment the size that fits; the others of the datagram are just dropped. */
INLINE int piece_is_too_big(struct __sk_buff *skb, const struct lan_packet *p, const struct fragment *f, __u32 mtu)
{
    if (!f->at) {
        CB_SET(skb, CB_LINK, p->l3);
        CB_SET(skb, CB_MTU, mtu);
        nat_programs_v1.call(skb, NAT_TOO_BIG);
    }
    return packet_refuse(REASON_TOO_BIG);
}

INLINE __u32 packet_identification4(struct __sk_buff *skb, const struct lan_packet *p)
{
    __u16 id = 0;

    bpf_skb_load_bytes(skb, p->l3 + 4, &id, sizeof(id));
    return bpf_ntohs(id);
}

/* Forward a piece of a datagram (@whole: all of it, to be cut up) as its flow goes. Returns the verdict. */
INLINE int piece_forward(struct __sk_buff *skb, const struct nat_config *config, struct lan_packet *p,
                         struct fragment *f, const struct nat_flow *flow, int whole)
{
    struct bpf_fib_lookup fib;
    long found;

    if (flow_goes_over_lo(flow->state))
        return piece_translate(skb, p, f, flow) ? packet_refuse(REASON_MALFORMED)
                                                : skb_send_to_lo(skb, p->l3, config->device);
    if (packet_is_cut(skb)) {
        if (cut_front(skb, p, f, whole))
            return packet_refuse(REASON_MALFORMED);
        whole = 0;
    }
    if (p->hops <= 1)
        return f->at ? packet_refuse(REASON_HOP_LIMIT) : packet_expire(skb, p, flow->state, 0);
    found = route_lookup(skb, config, p, flow, p->length, &fib);
    if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        if (!piece_may_be_cut(p, flow))
            return piece_is_too_big(skb, p, f, fib.mtu_result);
        if (packet_cut(skb, p, f, fib.mtu_result, whole))
            return packet_refuse(REASON_TOO_BIG);
        if (whole)
            flow_way_store(p, f, 0);
        found = route_lookup(skb, config, p, flow, p->length, &fib);
    }
    if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
        return packet_refuse(REASON_NO_ROUTE);
    if (piece_translate(skb, p, f, flow))
        return packet_refuse(REASON_MALFORMED);
    return packet_send(skb, p, &fib);
}

/* Store that a piece of the flow came by. */
INLINE void piece_track(struct nat_flow *flow)
{
    flow->seen = bpf_ktime_get_coarse_ns();
    if (!(flow->state & FLOW_ACK))
        __sync_fetch_and_or(&flow->state, FLOW_ACK);
}

/* Return the flow of a datagram, or of its first fragment, that a program of flows found too big for the way ahead; 0 where
 * it cannot be cut. */
INLINE struct nat_flow *datagram_to_cut(struct __sk_buff *skb, struct lan_packet *p, struct fragment *f, int whole)
{
    if (whole) {
        f->protocol = p->key.protocol;
        f->l4 = p->l4;
        f->size = p->length - (p->l4 - p->l3);
        if (!p->v6)
            f->id = packet_identification4(skb, p);
    } else {
        if (fragment_load(skb, p->l3, p->v6, f) || f->at || fragment_parse_ports(skb, p, f))
            return 0;
        fragment_take(p, f);
    }
    return f->protocol == IPPROTO_UDP ? nat_flows_v1.lookup(&p->key) : 0;
}

#endif
