/* tc ingress of lo: the answers of this host's own sockets to clients of the LAN that reach them by NAT (KIND_LOOP); what
 * the host's own rules were asked about; and what sockets of this host send that are bound (socket/bound.h). */
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
#include "nat/admission/ask.h"
#include "nat/flow/sk_assign.h"

#define IS_FRAGMENT 2

/* Everything on lo comes through here: whether it is to a NAT port or address must be known at once. Fragments
 * do not tell. */
INLINE int packet_is_to_nat(struct __sk_buff *skb, const struct nat_config *config)
{
    const __u8 *ip = (const __u8 *)(long)skb->data + ETH_LENGTH, *end = (const __u8 *)(long)skb->data_end;
    const __u8 *ports = ip + IP6_LENGTH;

    if (ip + IP4_LENGTH > end)
        return 0;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (*(__u16 *)(ip + 6) & bpf_htons(0x3fff))
            return IS_FRAGMENT;
        if (ip + IP4_LENGTH + 4 > end)
            return 0;
        return address_is_nat4(*(__u32 *)(ip + 16)) || nat_config_has_port(config, *(__u16 *)(ip + IP4_LENGTH + 2));
    }
    if (ip[6] == NEXT_FRAGMENT)
        return IS_FRAGMENT;
    if (ip[6] == NEXT_HOP_BY_HOP)
        ports += JUMBO_HEADER;
    if (ports + 4 > end)
        return 0;
    return address_is_nat6((const __u32 *)(ip + 24)) || nat_config_has_port(config, *(__u16 *)(ports + 2));
}

/* Whether a datagram is to a port that some UDP listener has. */
INLINE int datagram_is_to_listener(struct __sk_buff *skb)
{
    const __u8 *ip = (const __u8 *)(long)skb->data + ETH_LENGTH, *end = (const __u8 *)(long)skb->data_end;
    struct nat_key key = {.protocol = IPPROTO_UDP};

    if (ip + IP4_LENGTH + UDP_LENGTH > end)
        return 0;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (ip[0] != 0x45 || ip[9] != IPPROTO_UDP)
            return 0;
        key.to_port = *(__u16 *)(ip + IP4_LENGTH + 2);
        return port_is_listened(&key);
    }
    if (ip + IP6_LENGTH + UDP_LENGTH > end || ip[6] != IPPROTO_UDP)
        return 0;
    key.to_port = *(__u16 *)(ip + IP6_LENGTH + 2);
    return port_is_listened(&key);
}

/* Whether the UDP socket that a packet is from has been left to its packets. */
INLINE int udp_socket_is_bound(struct __sk_buff *skb, const struct lan_packet *p)
{
    struct placement *placement;
    struct bpf_sock_tuple t = {};
    struct bpf_sock *sk;
    __u32 size;
    int bound;

    size = tuple_fill_back(&t, p);
    sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
    if (!sk)
        return 0;
    placement = placement_lookup(sk);
    bound = placement && !placement->placed && placement->reason == REASON_SOURCE_BOUND;
    bpf_sk_release(sk);
    return bound;
}

/* Whether a packet that a bound socket of this host may have sent begins a flow. */
INLINE int packet_is_opening(struct __sk_buff *skb, const struct lan_packet *p)
{
    if (p->key.protocol == IPPROTO_TCP ? (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN
                                       : !udp_socket_is_bound(skb, p))
        return 0;
    return listener_lookup(&p->key) != 0;
}

/* Whether the packet may be one that is led as from the LAN: 0, or what it is (CB_OWN, CB_ROUTED). */
INLINE int packet_is_own(struct __sk_buff *skb)
{
    if (skb->mark == ROUTELESS_MARK) {
        skb->mark = 0;
        return CB_OWN;
    }
    if (skb->mark == BOUND_MARK) {
        skb->mark = 0;
        return CB_OWN | CB_ROUTED;
    }
    return datagram_is_to_listener(skb) ? CB_OWN | CB_ROUTED : 0;
}

int lan_loop(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct lan_packet p;
    struct nat_flow *flow;
    __u64 state, link_header;
    int to_nat, parsed, own = 0;

    if (skb->priority == ASKING) {
        nat_programs_v1.call(skb, NAT_ASKED);
        return TC_ACT_SHOT;
    }
    if (!config || !config->device)
        return TC_ACT_UNSPEC;
    to_nat = packet_is_to_nat(skb, config);
    if (to_nat == IS_FRAGMENT) {
        CB_SET(skb, CB_LINK, ETH_LENGTH);
        CB_SET(skb, CB_DENY, FROM_LOOPBACK);
        nat_programs_v1.call(skb, NAT_ODD);
        return TC_ACT_UNSPEC;
    }
    if (!to_nat) {
        own = packet_is_own(skb);
        if (!own)
            return TC_ACT_UNSPEC;
    }
    parsed = !lan_packet_parse(skb, &p, ETH_LENGTH);
    flow = parsed ? nat_flows_v1.lookup(&p.key) : 0;
    state = flow ? flow->state : 0;
    if (!to_nat || !(state & FLOW_REPLY) || KIND_OF(state) != KIND_LOOP) {
        if (to_nat)
            own = packet_is_own(skb);
        if (!parsed || !own || !port_is_listened(&p.key))
            return TC_ACT_UNSPEC;
    }
    link_header = ETH_LENGTH | own;
    BLUR(skb, link_header);
    if (!flow)
        return packet_is_opening(skb, &p) ? program_call(skb, link_header, NAT_OPEN, TC_ACT_SHOT) : TC_ACT_UNSPEC;
    CB_SET(skb, CB_LINK, link_header);
    return flow_ingress(skb, link_header, config, &p, flow);
}
