/* On lo: the copy of a flow's first packet that the host's own input rules let through, see nat/admission/ask.h. It is made
 * what it was when it came from the LAN, and opens the flow: a socket of this host gets it from here. */
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
#include "nat/admission/ask.h"

#define IP4_FLAGS 6
#define IP4_HOPS 8
#define IP4_SUM 10
#define IP6_HOPS 7

/* Change one byte of the IPv4 header that is the upper half of a word of its checksum. */
INLINE int byte_restore4(struct __sk_buff *skb, __u32 l3, __u32 offset, __u8 was, __u8 is)
{
    return bpf_l3_csum_replace(skb, l3 + IP4_SUM, was, is, 2) || bpf_skb_store_bytes(skb, l3 + offset, &is, 1, 0);
}

/* The copy has lost its link-layer addresses and one hop, and over IPv4 must not be fragmented. */
INLINE int packet_restore(struct __sk_buff *skb, const struct lan_packet *p, const struct asked *asked)
{
    if (bpf_skb_store_bytes(skb, 0, asked->macs, MACS, 0))
        return -1;
    if (p->v6)
        return bpf_skb_store_bytes(skb, p->l3 + IP6_HOPS, &asked->hops, 1, 0);
    if (p->whole && !asked->whole && byte_restore4(skb, p->l3, IP4_FLAGS, IP4_DONT_FRAGMENT, 0))
        return -1;
    return byte_restore4(skb, p->l3, IP4_HOPS, p->hops, asked->hops);
}

/* Whether another packet that was asked about has made the flow meanwhile. */
INLINE int flow_is_there(struct nat_key *key)
{
    struct nat_flow *flow = nat_flows_v1.lookup(key);

    if (!flow || (flow->state & FLOW_ENDED) || KIND_OF(flow->state) == KIND_LOCAL)
        return 0;
    return key->protocol == IPPROTO_TCP || placement_goes_on(flow->placed);
}

int lan_asked(struct __sk_buff *skb)
{
    struct lan_packet p;
    struct asked *asked;

    skb->priority = 0;
    if (lan_packet_parse(skb, &p, ETH_LENGTH))
        return TC_ACT_SHOT;
    asked = nat_asked_v1.lookup(&p.key);
    if (!asked || bpf_ktime_get_ns() - asked->at > ASK_NS || packet_restore(skb, &p, asked))
        return TC_ACT_SHOT;
    host_rules_count(HOST_RULES_ACCEPTED);
    CB_SET(skb, CB_LINK, ETH_LENGTH | CB_ACCEPTED);
    CB_SET(skb, CB_DENY, 0);
    CB_SET(skb, CB_HOME, asked->device);
    if (flow_is_there(&p.key))
        return packet_send_home(skb);
    nat_programs_v1.call(skb, NAT_OPEN);
    return TC_ACT_SHOT;
}
