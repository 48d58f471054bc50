/* The first packet of a flow whose workload is chosen: hand it to the socket here, or give the flow its port and its
 * entries and send the packet on. */
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
#include "nat/flow/port_alloc.h"
#include "nat/flow/sk_assign.h"
#include "nat/admission/ask.h"

/* Take back what was reserved and counted. */
INLINE int flow_abandon(struct __sk_buff *skb, struct lan_packet *p, const struct scratch *m, int reason)
{
    flow_abolish(&p->key, m->flow.state, 0);
    if (reason == REASON_HOP_LIMIT)
        return packet_expire(skb, p, (__u64)m->kind << FLOW_KIND_SHIFT, CB_GET(skb, CB_LINK) & CB_ACCEPTED);
    if (reason == REASON_NO_ROUTE || m->kind == KIND_OVERLAY)
        return packet_refuse(reason);
    return connection_refuse(skb, p, reason);
}

/* Say where the placement leads. Returns 0, or the reason why there is none. */
INLINE int flow_set_target(const struct config *site, const struct lan_packet *p, struct scratch *m)
{
    struct placement *placement = nat_placements_v1.lookup(&m->key);

    if (!placement)
        return REASON_TABLE_FULL;
    if (!m->flow.placed)
        return placement->reason;
    address_copy(m->flow.to, placement->target);
    m->flow.to_port = placement->target_port;
    if (m->flow.placed & PLACED_PRESERVES_SRC) {
        address_copy(m->flow.from, p->key.from);
        m->preserves_src = 1;
        m->kind = KIND_REMOTE;
        return 0;
    }
    m->kind = !(m->flow.placed & PLACED_NAT) ? KIND_LOOP : m->flow.placed & PLACED_LAN ? KIND_LAN : KIND_REMOTE;
    flow_set_overlay_source(site, p->v6, m->kind == KIND_REMOTE, &m->flow);
    return 0;
}

/* Deliver the packet to a socket here, or say from where to where the flow leads. Returns NOT_ASSIGNABLE when the flow is to
 * be created, or the verdict on the packet. */
INLINE int flow_direct(struct __sk_buff *skb, const struct config *site, struct scratch *m)
{
    struct placement *placement;
    struct lan_packet p;
    int reason = 0, verdict;

    if (lan_packet_parse_first(skb, &p, CB_GET(skb, CB_LINK) & 15))
        return TC_ACT_SHOT;
    placement = nat_placements_v1.lookup(&p.key);
    if (!placement)
        return TC_ACT_SHOT;
    m->key = p.key;
    m->flow.state = flow_generation(placement);
    if (p.key.protocol == IPPROTO_TCP)
        m->reply.placed = tcp_number_next(skb, &p);
    if (m->kind != KIND_OVERLAY)
        reason = flow_set_target(site, &p, m);
    if (!reason && m->kind == KIND_LOOP && p.key.protocol == IPPROTO_TCP) {
        verdict = tcp_deliver(skb, &p, &m->flow);
        if (verdict != NOT_ASSIGNABLE)
            return verdict;
    }
    if (!reason && (m->kind == KIND_LAN || m->kind == KIND_OVERLAY))
        reason = lan_source_lookup(m->flow.to, &m->flow);
    if (CB_GET(skb, CB_LINK) & CB_OWN)
        m->flow.state |= FLOW_OWN;
    if (!reason && p.hops <= 1 && m->kind != KIND_LOOP)
        reason = REASON_HOP_LIMIT;
    return reason ? flow_abandon(skb, &p, m, reason) : NOT_ASSIGNABLE;
}

/* In two turns, the second of which finds the flow's generation in the scratch and knows nothing of the packet: the verifier
 * walks the loop over the ports once for each way that leads there, and has not the patience for all that the first has. */
int lan_begin(struct __sk_buff *skb)
{
    struct scratch *scratch = scratch_lookup();
    struct lan_packet p;
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct config *site = config_v1.lookup(&zero);
    int reason, verdict;

    if (!config || !site || !scratch)
        return TC_ACT_SHOT;
    if (!scratch->flow.state) {
        verdict = flow_direct(skb, site, scratch);
        if (verdict != NOT_ASSIGNABLE)
            return verdict;
        nat_programs_v1.call(skb, NAT_BEGIN);
        return TC_ACT_SHOT;
    }
    reason = flow_create(config, &scratch->key, scratch);
    if (reason < 0 || lan_packet_parse_first(skb, &p, CB_GET(skb, CB_LINK) & 15))
        return TC_ACT_SHOT;
    if (reason)
        return flow_abandon(skb, &p, scratch, reason);
    if (host_rules_accepted(skb))
        return packet_send_home(skb);
    return flow_forward(skb, config, &p, &scratch->flow);
}
