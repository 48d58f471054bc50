/* tc ingress of lo: the answers of this host's own sockets to clients of the LAN that reach them by NAT (KIND_LOOP), and
 * what the host's own rules were asked about. */
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
#include "nat/flow/ask.h"

#define IS_FRAGMENT 2

/* Everything on lo comes through here: whether it is to a NAT port or address must be known at once. Fragments
 * do not tell. */
INLINE int packet_is_to_nat(struct __sk_buff *skb, const struct nat_config *config)
{
    const __u8 *ip = (const __u8 *)(long)skb->data + ETH_LENGTH, *end = (const __u8 *)(long)skb->data_end;

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
    if (ip + IP6_LENGTH + 4 > end)
        return 0;
    return address_is_nat6((const __u32 *)(ip + 24)) || nat_config_has_port(config, *(__u16 *)(ip + IP6_LENGTH + 2));
}

int lan_loop(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct lan_packet p;
    struct nat_flow *flow;
    __u64 state;
    int to_nat;

    if (skb->priority == ASKING) {
        nat_programs_v1.call(skb, NAT_ASKED);
        return TC_ACT_SHOT;
    }
    if (!config || !config->device)
        return TC_ACT_UNSPEC;
    to_nat = packet_is_to_nat(skb, config);
    if (!to_nat)
        return TC_ACT_UNSPEC;
    if (to_nat == IS_FRAGMENT) {
        skb->cb[CB_LINK] = ETH_LENGTH;
        skb->cb[CB_DENY] = FROM_LOOPBACK;
        nat_programs_v1.call(skb, NAT_ODD);
        return TC_ACT_UNSPEC;
    }
    if (lan_packet_parse(skb, &p, ETH_LENGTH))
        return TC_ACT_UNSPEC;
    flow = nat_flows_v1.lookup(&p.key);
    if (!flow)
        return TC_ACT_UNSPEC;
    state = flow->state;
    return state & FLOW_REPLY && KIND_OF(state) == KIND_LOOP ? flow_carry(skb, config, &p, flow) : TC_ACT_UNSPEC;
}
