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
#include "nat/types.h"
#include "nat/packet.h"
#include "nat/conntrack.h"
#include "nat/forward.h"
#include "nat/port_alloc.h"
#include "nat/sk_assign.h"

/* Take back what was reserved and counted. */
INLINE int give_up(struct __sk_buff *skb, struct lan_packet *p, int kind, int reason)
{
    release_flow(&p->key, 0);
    nat_placements_v1.delete(&p->key);
    if (reason == REASON_NO_ROUTE || kind == KIND_OVERLAY)
        return refuse_packet(reason);
    return refuse(skb, p, reason);
}

/* Say where the placement leads. Returns 0, or the reason why there is none. */
INLINE int choose(const struct config *site, const struct lan_packet *p, struct making *m)
{
    struct placement *placement = nat_placements_v1.lookup(&m->key);

    if (!placement)
        return REASON_TABLE_FULL;
    if (!m->flow.placed)
        return placement->reason;
    copy_address(m->flow.to, placement->target);
    m->flow.to_port = placement->target_port;
    if (m->flow.placed & PLACED_KEPT) {
        copy_address(m->flow.from, p->key.from);
        m->kept = 1;
        m->kind = KIND_REMOTE;
        return 0;
    }
    own_overlay(site, p->v6, &m->flow);
    m->kind = !(m->flow.placed & PLACED_NAT) ? KIND_LOOP : m->flow.placed & PLACED_LAN ? KIND_LAN : KIND_REMOTE;
    return 0;
}

int lan_begin(struct __sk_buff *skb)
{
    struct making *making = made_before();
    struct lan_packet p;
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct config *site = config_v1.lookup(&zero);
    int reason = 0, verdict;

    if (!config || !site || !making || lan_parse(skb, &p, skb->cb[CB_LINK] & 15))
        return TC_ACT_SHOT;
    if (making->kind != KIND_OVERLAY)
        reason = choose(site, &p, making);
    if (!reason && making->kind == KIND_LOOP && p.key.protocol == IPPROTO_TCP) {
        verdict = deliver(skb, &p, &making->flow);
        if (verdict != NOT_ASSIGNABLE)
            return verdict;
    }
    if (!reason && (making->kind == KIND_LAN || making->kind == KIND_OVERLAY))
        reason = find_lan_source(making->flow.to, &making->flow);
    if (!reason)
        reason = make_flow(config, &p.key, making);
    if (reason)
        return give_up(skb, &p, making->kind, reason);
    return forward(skb, config, &p, &making->flow);
}
