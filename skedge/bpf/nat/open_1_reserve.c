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
#include "nat/flow/types.h"
#include "common/lan_prefixes.h"
#include "nat/flow/packet.h"
#include "nat/flow/conntrack.h"
#include "nat/flow/tcp_track.h"
#include "nat/flow/forward.h"
#include "nat/flow/port_alloc.h"
#include "nat/flow/stack_checks.h"
#include "nat/flow/sk_assign.h"
#include "nat/flow/ask.h"

/* What there is already: 0 when nothing (any more), else a verdict. */
INLINE int flow_resume(struct __sk_buff *skb, struct nat_config *config, struct lan_packet *p, int *verdict)
{
    struct nat_flow *flow = nat_flows_v1.lookup(&p->key);
    int fresh = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    __u64 state;

    if (!flow)
        return 0;
    state = state_read(flow);
    if (KIND_OF(state) == KIND_LOCAL && (!fresh || !(state & FLOW_ENDED))) {
        *verdict = tcp_deliver_again(skb, p, flow);
        return 1;
    }
    *verdict = TC_ACT_SHOT; /* another processor is at it, or was first: the client sends again */
    if (p->key.protocol == IPPROTO_TCP ? !(state & FLOW_ENDED) : placement_goes_on(flow->placed))
        return 1;
    return flow_delete(&p->key, flow, state, 0);
}

/* Whether the client is in a LAN that this site announces, so that other sites find the way back to it. */
INLINE int client_is_announced(const struct lan_packet *p)
{
    struct prefix_key key = {.length = WHOLE_ADDRESS};

    address_copy(key.addr, p->key.from);
    return lan_prefixes_v1.lookup(&key) != 0;
}

/* Find the room of the flow, and ask for its placement. */
int lan_open(struct __sk_buff *skb)
{
    struct scratch *scratch = scratch_reset();
    struct lan_packet p;
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct placement *placement = 0;
    struct listener *listener;
    int reason, own, verdict = TC_ACT_SHOT;

    if (!config || !scratch || lan_packet_parse_first(skb, &p, skb->cb[CB_LINK] & 15))
        return TC_ACT_UNSPEC;
    own = skb->cb[CB_LINK] & CB_OWN;
    if (!own && packet_is_martian(&p))
        return packet_refuse(REASON_MARTIAN);
    if (flow_resume(skb, config, &p, &verdict))
        return verdict;
    listener = listener_lookup(&p.key);
    if (!listener || (!own && p.key.protocol == IPPROTO_UDP && udp_socket_asked(skb, &p)))
        return TC_ACT_UNSPEC;
    if (!own && !host_rules_accepted(skb)) {
        reason = client_check(skb, config, &p);
        if (reason) {
            drop_count(reason);
            /* The stack has the same filter, and the device may be only the lower one of the right one. */
            return reason == REASON_REVERSE_PATH ? TC_ACT_UNSPEC : TC_ACT_SHOT;
        }
        if (host_rules_are_honoured())
            return host_rules_ask(skb, &p);
    }
    reason = flow_reserve(&p.key, &placement);
    if (reason < 0 || (!reason && !placement))
        return TC_ACT_SHOT;
    if (reason || !placement)
        return connection_refuse(skb, &p, reason);
    scratch->key = p.key;
    address_copy(placement->listener, p.key.to);
    placement->listener_port = p.key.to_port;
    placement->protocol = p.key.protocol;
    placement->need = SLOT_IN | (p.v6 ? SLOT_T6 : SLOT_T4);
    placement->prefer6 = p.v6;
    placement->preserves_src = !own && (listener->flags & LISTENER_PRESERVES_SRC) && client_is_announced(&p);
    address_copy(scratch->client.client, p.key.from);
    scratch->has_affinity = listener->affinity_s;
    scratch->service = listener_choose_service(listener, &scratch->client, placement);
    nat_programs_v1.call(skb, NAT_PLACE);
    return TC_ACT_SHOT;
}
