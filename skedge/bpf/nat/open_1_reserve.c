/* A packet to a listener that has no flow (any more): reserve the place of one. */
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
#include "placement/listener.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "nat/types.h"
#include "common/lan_prefixes.h"
#include "nat/packet.h"
#include "nat/conntrack.h"
#include "nat/forward.h"
#include "nat/port_alloc.h"
#include "nat/sk_assign.h"

/* What there is already: 0 when nothing (any more), else a verdict. */
INLINE int take_up(struct __sk_buff *skb, struct nat_config *config, struct lan_packet *p, int *verdict)
{
    struct nat_flow *flow = nat_flows_v1.lookup(&p->key);

    if (!flow)
        return 0;
    if (KIND_OF(flow->state) == KIND_LOCAL && !(flow->state & FLOW_ENDED)) {
        *verdict = deliver_again(skb, p, flow);
        return 1;
    }
    *verdict = TC_ACT_SHOT; /* another processor is at it, or was first: the client sends again */
    if (p->key.protocol == IPPROTO_TCP ? !(flow->state & FLOW_ENDED) : goes_on(flow->placed))
        return 1;
    return forget(&p->key, flow, 0);
}

/* Whether the client is in a LAN that this site announces, so that other sites find the way back to it. */
INLINE int is_announced(const struct lan_packet *p)
{
    struct prefix_key key = {.length = WHOLE_ADDRESS};

    copy_address(key.addr, p->key.from);
    return lan_prefixes_v1.lookup(&key) != 0;
}

/* Find the room of the flow, and ask for its placement. */
int lan_open(struct __sk_buff *skb)
{
    struct making *making = make_room();
    struct lan_packet p;
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct placement *placement = 0;
    struct listener *listener;
    int reason, verdict = TC_ACT_SHOT;

    if (!config || !making || lan_parse(skb, &p, skb->cb[CB_LINK] & 15))
        return TC_ACT_UNSPEC;
    if (take_up(skb, config, &p, &verdict))
        return verdict;
    listener = find_listener(&p.key);
    if (!listener)
        return TC_ACT_UNSPEC;
    if (!answerable(skb, config, &p))
        return refuse_packet(REASON_NO_ROUTE);
    reason = reserve(&p.key, &placement);
    if (reason < 0 || (!reason && !placement))
        return TC_ACT_SHOT;
    if (reason || !placement)
        return refuse(skb, &p, reason);
    making->key = p.key;
    copy_address(placement->listener, p.key.to);
    placement->listener_port = p.key.to_port;
    placement->protocol = p.key.protocol;
    placement->need = SLOT_IN | (p.v6 ? SLOT_T6 : SLOT_T4);
    placement->prefer6 = p.v6;
    placement->keeps = (listener->flags & KEEPS_CLIENT) && is_announced(&p);
    copy_address(making->client.client, p.key.from);
    making->keeps = listener->affinity_s;
    making->service = aim(listener, &making->client, placement);
    nat_programs_v1.call(skb, NAT_PLACE);
    return TC_ACT_SHOT;
}
