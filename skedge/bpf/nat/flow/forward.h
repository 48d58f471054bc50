/* Forwarding of a flow's packets: the way ahead, the rewriting, and the redirection past the host's stack. */
#ifndef SKEDGE_NAT_FLOW_FORWARD_H
#define SKEDGE_NAT_FLOW_FORWARD_H

#include "common/send_to_lo.h"

#define MSS_KIND 2
#define OPTIONS_MAX 40
#define TCP_OPTIONS 20
#define PAUSE_NS 150000000ull /* less than any time-out after which a segment is sent again */

/* bcc declares it without its flags. */
static long (*redirect_neigh)(__u32 device, struct bpf_redir_neigh *next, int size, __u64 flags) =
    (void *)BPF_FUNC_redirect_neigh;

/* Since Linux 6.10: routes are looked up by the mark that lies where the answer's link-layer addresses will. */
#define FIB_BY_MARK (1u << 5)
#define ERR_INVALID 22

/* Return the route to where the flow's packets go, for a packet with this mark (0: none). Looked up as from our own device
 * (lo): so the host is no router for its LAN, and neither rp_filter of a LAN device nor the FORWARD chain matters. */
INLINE long route_lookup_marked(struct __sk_buff *skb, const struct nat_config *config, const struct lan_packet *p,
                                const struct nat_flow *flow, __u32 length, struct bpf_fib_lookup *fib, __u32 mark)
{
    long found;

    __builtin_memset(fib, 0, sizeof(*fib));
    fib->family = p->v6 ? AF_INET6_ : AF_INET_;
    fib->l4_protocol = p->key.protocol;
    fib->sport = flow->from_port;
    fib->dport = flow->to_port;
    fib->tot_len = length;
    fib->ifindex = config->device;
    if (p->v6) {
        fib->flowinfo = bpf_htonl((__u32)p->class << 20);
        address_copy(fib->ipv6_src, flow->from);
        address_copy(fib->ipv6_dst, flow->to);
    } else {
        fib->tos = p->class;
        fib->ipv4_src = flow->from[3];
        fib->ipv4_dst = flow->to[3];
    }
    if (mark) {
        __builtin_memcpy(fib->smac, &mark, sizeof(mark));
        found = bpf_fib_lookup(skb, fib, sizeof(*fib), FIB_BY_MARK);
        if (found != -ERR_INVALID)
            return found;
    }
    return bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
}

/* The same by the mark that the packet has: the host may have routes by it. */
INLINE long route_lookup(struct __sk_buff *skb, const struct nat_config *config, const struct lan_packet *p,
                         const struct nat_flow *flow, __u32 length, struct bpf_fib_lookup *fib)
{
    return route_lookup_marked(skb, config, p, flow, length, fib, skb->mark);
}

/* Return where the TCP option for the segment size is, as an offset in the packet; 0 where there is none. */
INLINE __u32 mss_lookup(struct __sk_buff *skb, const struct lan_packet *p)
{
    __u64 at = 0, end, over;
    __u8 byte = 0, option[2];

    if (bpf_skb_load_bytes(skb, p->l4 + 12, &byte, 1))
        return 0;
    end = (byte >> 4) * 4 - TCP_OPTIONS;
    for (int i = 0; i < OPTIONS_MAX / 2; i++) {
        /* No comparison, of which the verifier would learn something: it walks the options once and not once a way. */
        over = (end - at - 4) >> 63 | (OPTIONS_MAX - end) >> 63;
        OPAQUE(over);
        if (over || bpf_skb_load_bytes(skb, p->l4 + TCP_OPTIONS + at, option, 2))
            return 0;
        if (option[0] == MSS_KIND)
            return option[1] == 4 ? p->l4 + TCP_OPTIONS + at : 0;
        if (!option[0] || (option[0] != 1 && option[1] < 2))
            return 0;
        at += option[0] == 1 ? 1 : option[1];
        BLUR(skb, at);
        at &= 63;
    }
    return 0;
}

/* Make the segment size of a SYN fit @mtu. At an odd offset the bytes have changed places in the checksum. */
INLINE int mss_clamp(struct __sk_buff *skb, const struct lan_packet *p, __u32 mtu)
{
    __u32 at = mss_lookup(skb, p), largest = mtu - (p->v6 ? IP6_LENGTH : IP4_LENGTH) - TCP_OPTIONS;
    __u16 old, new;

    if (!at || mtu < 576 || bpf_skb_load_bytes(skb, at + 2, &old, sizeof(old)) || bpf_ntohs(old) <= largest)
        return 0;
    new = bpf_htons(largest);
    if (bpf_skb_store_bytes(skb, at + 2, &new, sizeof(new), 0))
        return REASON_MALFORMED;
    if ((at - p->l4) & 1) {
        old = __builtin_bswap16(old);
        new = __builtin_bswap16(new);
    }
    return bpf_l4_csum_replace(skb, p->l4 + 16, old, new, 2) ? REASON_MALFORMED : 0;
}

/* The smallest MTU that a connection meets at this host: that of the route ahead (told by a lookup of a packet that
 * nothing carries), and that of the device which the answers leave by. */
INLINE __u32 route_mtu(struct __sk_buff *skb, const struct nat_config *config, const struct lan_packet *p,
                       const struct nat_flow *flow)
{
    struct bpf_fib_lookup fib;
    __u32 behind = 0;

    if (route_lookup(skb, config, p, flow, 0xffff, &fib) != BPF_FIB_LKUP_RET_FRAG_NEEDED)
        return 0;
    bpf_check_mtu(skb, 0, &behind, 0, 0);
    return behind && behind < fib.mtu_result ? behind : fib.mtu_result;
}

/* How the sum over a whole IPv6 packet, where a device has made one (CHECKSUM_COMPLETE), differs from what the kernel
 * takes it for after an address changed: the changes of address and transport checksum cancel out, as there is no
 * checksum in the IPv6 header; and the hop limit falls. */
INLINE __u32 checksum_diff6(__u32 addresses)
{
    return checksum_sum(addresses, (__u32)~0x100);
}

/* Change addresses and ports, the hop limit, and all checksums by the difference. */
INLINE int packet_translate(struct __sk_buff *skb, const struct lan_packet *p, const struct nat_flow *flow)
{
    __u32 sum_at = p->l4 + (p->key.protocol == IPPROTO_TCP ? 16 : 6), sum;
    __u64 zero_is_none = p->key.protocol == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;
    __u32 old_ports = p->key.from_port | (__u32)p->key.to_port << 16;
    __u32 new_ports = flow->from_port | (__u32)flow->to_port << 16;
    __u8 *ip, *end, *ports;

    if (bpf_l4_csum_replace(skb, sum_at, 0, flow->sum, zero_is_none | BPF_F_PSEUDO_HDR))
        return REASON_MALFORMED;
    if (bpf_l4_csum_replace(skb, sum_at, old_ports, new_ports, zero_is_none | 4))
        return REASON_MALFORMED;
    packet_sum_update(skb, p->v6, zero_is_none && datagram_is_unsummed(skb, sum_at), checksum_diff6(flow->sum),
                      checksum_sum(~old_ports, new_ports));
    ip = (__u8 *)(long)skb->data + (p->l3 & 15);
    end = (__u8 *)(long)skb->data_end;
    if (p->v6) {
        ports = ip + IP6_LENGTH;
        if (lan_packet_is_longer6(p))
            ports += FRAGMENT_HEADER;
        if (ports + 4 > end)
            return REASON_MALFORMED;
        ip[7] = p->hops - 1;
        address_copy((__u32 *)(ip + 8), flow->from);
        address_copy((__u32 *)(ip + 24), flow->to);
        *(__u32 *)ports = new_ports;
        return 0;
    }
    if (ip + IP4_LENGTH + 4 > end)
        return REASON_MALFORMED;
    sum = (__u16)~*(__u16 *)(ip + 10) + (flow->sum & 0xffff) + (flow->sum >> 16) + (__u16)~bpf_htons(0x100);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    *(__u16 *)(ip + 10) = ~sum;
    ip[8] = p->hops - 1;
    *(__u32 *)(ip + 12) = flow->from[3];
    *(__u32 *)(ip + 16) = flow->to[3];
    *(__u32 *)(ip + IP4_LENGTH) = new_ports;
    return 0;
}

/* Give the packet the link-layer addresses that it will leave with. The kernel writes them, too, but leaves those that
 * the packet had in the sum over it (CHECKSUM_COMPLETE), which a receiver behind a veth looks at. */
INLINE void packet_address_next(struct __sk_buff *skb, const struct bpf_fib_lookup *fib)
{
    __u8 *to = (__u8 *)(long)skb->data, *end = (__u8 *)(long)skb->data_end;

    if (to + ETH_LENGTH > end)
        return;
    __builtin_memcpy(to, fib->dmac, sizeof(fib->dmac));
    __builtin_memcpy(to + sizeof(fib->dmac), fib->smac, sizeof(fib->smac));
}

/* Send the packet to the next hop. Without a link-layer header (WireGuard, TUN) it first gets room for one: the kernel
 * takes it off again, and refuses packets that never had one. */
INLINE int packet_send(struct __sk_buff *skb, const struct lan_packet *p, const struct bpf_fib_lookup *fib)
{
    struct bpf_redir_neigh next = {.nh_family = fib->family};

    address_copy(next.ipv6_nh, fib->ipv6_dst);
    if (!p->l3 && bpf_skb_change_head(skb, ETH_LENGTH, 0))
        return TC_ACT_SHOT;
    packet_address_next(skb, fib);
    return redirect_neigh(fib->ifindex, &next, sizeof(next), 0);
}

/* A packet that waits for its neighbour's address is sent by the route that it has with it, which is over lo: so it first
 * goes round there once more, without. */
INLINE int packet_send_round(struct __sk_buff *skb, const struct nat_config *config)
{
    skb->mark = ROUTELESS_MARK;
    return bpf_redirect(config->device, BPF_F_INGRESS);
}

/* Whether packets of this direction come over a link. */
INLINE int flow_comes_over_link(__u64 state)
{
    return KIND_OF(state) == (state & FLOW_REPLY ? KIND_REMOTE : KIND_OVERLAY);
}

/* A packet of a flow (@state: of its direction) that may go no further: its sender is told, as a router does. @flags: what
 * is to stay of skb->cb[CB_LINK]; nothing may where this program alone has seen the packet, as others leave something there. */
INLINE int packet_expire(struct __sk_buff *skb, const struct lan_packet *p, __u64 state, __u32 flags)
{
    CB_SET(skb, CB_LINK, p->l3 | flags);
    CB_SET(skb, CB_MTU, MTU_NONE);
    CB_SET(skb, CB_DENY, flow_comes_over_link(state) ? 1 : 0);
    nat_programs_v1.call(skb, NAT_TOO_BIG);
    return packet_refuse(REASON_HOP_LIMIT);
}

/* Whether packets of this direction are for a socket of this host. */
INLINE int flow_goes_over_lo(__u64 state)
{
    return state & FLOW_REPLY ? (state & FLOW_OWN) != 0 : KIND_OF(state) == KIND_LOOP;
}

/* Forward one packet of a flow. Returns the verdict. */
INLINE int flow_forward(struct __sk_buff *skb, const struct nat_config *config, const struct lan_packet *p,
                        const struct nat_flow *flow)
{
    struct bpf_fib_lookup fib;
    long found;

    if (flow_goes_over_lo(flow->state))
        return packet_translate(skb, p, flow) ? packet_refuse(REASON_MALFORMED) : skb_send_to_lo(skb, p->l3, config->device);
    if (p->hops <= 1)
        return packet_expire(skb, p, flow->state, 0);
    found = route_lookup(skb, config, p, flow, p->length, &fib);
    if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        CB_SET(skb, CB_LINK, p->l3);
        CB_SET(skb, CB_MTU, fib.mtu_result);
        nat_programs_v1.call(skb, NAT_TOO_BIG);
        return packet_refuse(REASON_TOO_BIG);
    }
    if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
        return packet_refuse(REASON_NO_ROUTE);
    if (found == BPF_FIB_LKUP_RET_NO_NEIGH && (flow->state & FLOW_OWN) && CB_GET(skb, CB_LINK) & CB_ROUTED)
        return packet_send_round(skb, config);
    if ((p->tcp_flags & TCP_SYN) && mss_clamp(skb, p, route_mtu(skb, config, p, flow)))
        return packet_refuse(REASON_MALFORMED);
    if (packet_translate(skb, p, flow))
        return packet_refuse(REASON_MALFORMED);
    return packet_send(skb, p, &fib);
}

/* Forward a packet of a flow that exists, and store what it says about the connection. */
INLINE int flow_carry(struct __sk_buff *skb, const struct nat_config *config, struct lan_packet *p,
                      struct nat_flow *flow)
{
    __u64 now = bpf_ktime_get_coarse_ns(), before = flow->seen;

    if (before != now) {
        flow->seen = now;
        flow_store_numbers(skb, p, flow);
        if (now - before > PAUSE_NS)
            flow_store_unanswered(skb, p, flow);
    }
    if (p->tcp_flags & TCP_TURNS)
        flow_track(skb, p, flow);
    else if ((flow->state & (FLOW_ACK | FLOW_ENDED)) != FLOW_ACK)
        flow_goes_on(p, flow);
    return flow_forward(skb, config, p, flow);
}

#endif
