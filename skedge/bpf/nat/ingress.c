/* tc ingress of every LAN device: finds the packets of flows and of listeners among all that the host gets.
 * One program for devices with an Ethernet header, one for those without (WireGuard, TUN). */
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
#include "nat/flow/attempt.h"

/* Go on in another program; only when it is not loaded does the call return. */
INLINE int program_call(struct __sk_buff *skb, int link_header, int program, int otherwise)
{
    CB_SET(skb, CB_LINK, link_header);
    CB_SET(skb, CB_DENY, 0);
    nat_programs_v1.call(skb, program);
    return otherwise;
}

/* A packet of a flow. The first SYN after the end of a connection makes a new one; so does a datagram whose workload
 * is gone, and a SYN sent again that had no answer where another workload may have one. */
INLINE int flow_ingress(struct __sk_buff *skb, int link_header, const struct nat_config *config, struct lan_packet *p,
                        struct nat_flow *flow)
{
    __u64 state = flow->state;
    int fresh = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;

    if (!(state & FLOW_REPLY)) {
        if (fresh && ((state & FLOW_ENDED) || attempt_judge(&p->key, flow)))
            return program_call(skb, link_header, NAT_OPEN, TC_ACT_SHOT);
        if (fresh && !(state & (FLOW_ACK | FLOW_AGAIN)))
            state_change(flow, state, FLOW_AGAIN, 0);
        if (p->key.protocol == IPPROTO_UDP && flow->placed && !placement_goes_on(flow->placed))
            return program_call(skb, link_header, NAT_OPEN, TC_ACT_SHOT);
        if (KIND_OF(state) == KIND_LOCAL) {
            if (p->tcp_flags & TCP_RST) {
                flow_track_assigned(skb, p, flow);
                return TC_ACT_UNSPEC;
            }
            return program_call(skb, link_header, NAT_OPEN, TC_ACT_SHOT);
        }
    }
    return flow_carry(skb, config, p, flow);
}

INLINE int lan_packet_ingress(struct __sk_buff *skb, int link_header)
{
    struct lan_packet p;
    __u32 zero = 0;
    struct link_config *link = link_config_v2.lookup(&zero);
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct nat_flow *flow;
    int odd, listened;

    if (skb->pkt_type != PACKET_HOST || !config || !config->device || !link || !link->mask4.word[0])
        return TC_ACT_UNSPEC;
    if (vlan_tag_is_foreign(skb))
        return TC_ACT_UNSPEC;
    odd = lan_packet_parse(skb, &p, link_header);
    if (odd == REASON_MALFORMED ||
        (odd == NOT_OURS && skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6)))
        return TC_ACT_UNSPEC;
    /* The overlay is not the LAN's: neither may its sites' addresses be claimed there nor be reached from there. */
    if (nat_address_is_site(link, p.key.from, p.v6))
        return packet_refuse(REASON_CLAIMED);
    if (nat_address_is_site(link, p.key.to, p.v6))
        return packet_refuse(REASON_NOT_OVERLAY);
    if (odd == ODD)
        return program_call(skb, link_header, NAT_ODD, TC_ACT_UNSPEC);
    if (odd && lan_packet_is_icmp(&p))
        return program_call(skb, link_header, NAT_ERROR, TC_ACT_UNSPEC);
    if (odd)
        return TC_ACT_UNSPEC;
    listened = port_is_listened(&p.key);
    if (!listened && !nat_config_has_port(config, p.key.to_port))
        return TC_ACT_UNSPEC;
    flow = nat_flows_v1.lookup(&p.key);
    if (flow)
        return flow_ingress(skb, link_header, config, &p, flow);
    if (!listened)
        return packet_is_martian(&p) ? packet_refuse(REASON_MARTIAN) : TC_ACT_UNSPEC;
    if (p.key.protocol == IPPROTO_TCP && (p.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
        return TC_ACT_UNSPEC; /* the host's own socket has it, or the stack refuses it */
    return listener_lookup(&p.key) ? program_call(skb, link_header, NAT_OPEN, TC_ACT_SHOT) : TC_ACT_UNSPEC;
}

int lan_ingress(struct __sk_buff *skb)
{
    return lan_packet_ingress(skb, ETH_LENGTH);
}

int lan_ingress_l3(struct __sk_buff *skb)
{
    return lan_packet_ingress(skb, 0);
}
