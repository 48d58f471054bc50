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
#include "nat/admission/stack_checks.h"
#include "nat/flow/sk_assign.h"
#include "nat/admission/ask.h"
#include "nat/flow/attempt.h"
#include "nat/admission/limits.h"
#include "nat/admission/multipath.h"

/* Whether a socket of this host has sent the packet. Read each time: what is kept of it, the verifier tells ways apart by. */
INLINE int packet_is_own_sockets(const struct __sk_buff *skb)
{
    return CB_GET(skb, CB_LINK) & CB_OWN;
}

/* A packet of a handshake with a socket of this host. Returns what becomes of the attempt, with the verdict on the packet
 * where it stays. */
INLINE int handshake_resume(struct __sk_buff *skb, struct lan_packet *p, struct nat_flow *flow, int fresh, int *verdict)
{
    int state = tcp_socket_state(skb, p), judged;

    *verdict = TC_ACT_UNSPEC;
    if (state && state != STATE_LISTEN)
        return ATTEMPT_STAYS; /* the listener has answered */
    judged = fresh ? attempt_judge(&p->key, flow) : ATTEMPT_STAYS;
    if (judged == ATTEMPT_STAYS && tcp_assign(skb, p, flow) && fresh)
        return ATTEMPT_REFUSED; /* it is gone */
    return judged;
}

/* What there is already. Returns what becomes of an attempt that is there, ATTEMPT_STAYS with a verdict, or
 * NOTHING_THERE (any more). */
INLINE int flow_resume(struct __sk_buff *skb, struct lan_packet *p, struct nat_flow *flow, int *verdict)
{
    int fresh = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    __u64 state = state_read(flow);

    if (KIND_OF(state) == KIND_LOCAL && (!fresh || !(state & FLOW_ENDED)))
        return handshake_resume(skb, p, flow, fresh, verdict);
    *verdict = TC_ACT_SHOT; /* another processor is at it, or was first: the client sends again */
    if (p->key.protocol == IPPROTO_TCP && !(state & FLOW_ENDED))
        return fresh ? attempt_judge(&p->key, flow) : ATTEMPT_STAYS;
    if (p->key.protocol == IPPROTO_UDP && placement_goes_on(flow->placed))
        return ATTEMPT_STAYS;
    return flow_delete(&p->key, flow, state, 0) ? ATTEMPT_STAYS : NOTHING_THERE;
}

/* Take hold of an attempt that is placed anew, in the service that it is in while the listener has that. What it counts
 * goes to the pick, in flow.placed; or it is given back, with the blame. Returns 0 when another processor was first. */
INLINE struct placement *attempt_renew(struct nat_key *key, struct nat_flow *flow, int judged, struct listener *listener,
                                       struct scratch *m)
{
    struct placement *placement = nat_placements_v1.lookup(key);
    int handed = KIND_OF(flow->state) == KIND_LOCAL, refused;
    __u64 word = placement ? attempt_withdraw(key, flow, placement) : 0;

    if (!word)
        return 0;
    refused = judged == ATTEMPT_REFUSED || (judged == ATTEMPT_FAILED && !handed && workload_complain(key, word, 0));
    m->service = (word >> PLACED_SERVICE_SHIFT) & (MAX_SERVICES - 1);
    placement->affinity = 0;
    m->flow.placed = word;
    if (!refused && listener_has_service(listener, m->service))
        return placement;
    workload_uncount(word, refused);
    m->flow.placed = 0;
    if (!listener_has_service(listener, m->service))
        m->service = listener_next_service(listener);
    return placement;
}

/* Whether the client is in a LAN that this site announces, so that other sites find the way back to it. */
INLINE int client_is_announced(const struct lan_packet *p)
{
    struct prefix_key key = {.length = WHOLE_ADDRESS};

    address_copy(key.addr, p->key.from);
    return lan_prefixes_v1.lookup(&key) != 0;
}

/* Why a packet may not begin a flow: 0, or the verdict on it in *verdict. */
INLINE int flow_is_refused(struct __sk_buff *skb, const struct nat_config *config, struct lan_packet *p, int *verdict)
{
    int reason = client_check(skb, config, p), state;

    if (reason) {
        drop_count(reason);
        /* The stack has the same filter, and the device may be only the lower one of the right one. */
        *verdict = reason == REASON_REVERSE_PATH ? TC_ACT_UNSPEC : TC_ACT_SHOT;
        return 1;
    }
    if (!source_may_open(config, p->key.from)) {
        *verdict = packet_refuse(REASON_SOURCE_LIMIT);
        return 1;
    }
    lan_packet_blur(skb, p);
    if (p->key.protocol != IPPROTO_TCP)
        return 0;
    /* The client comes back by the port of a connection that a socket of this host still has: that answers it. */
    state = tcp_socket_state(skb, p);
    if (state && state != STATE_LISTEN && state != STATE_TIME_WAIT) {
        *verdict = TC_ACT_UNSPEC;
        return 1;
    }
    if (tcp_joins(skb, p)) {
        *verdict = connection_refuse(skb, p, REASON_NO_SOCKET);
        return 1;
    }
    return 0;
}

/* Reserve the place of a new flow. Returns its placement, or 0 with a verdict. */
INLINE struct placement *flow_begin(struct __sk_buff *skb, const struct nat_config *config, struct lan_packet *p,
                                    struct scratch *m, int *verdict)
{
    struct placement *placement = 0;
    int reason;

    *verdict = TC_ACT_SHOT;
    /* One that the host's own rules let through was here before; one of a socket of this host is not theirs. */
    if (!host_rules_accepted(skb) && !packet_is_own_sockets(skb)) {
        if (flow_is_refused(skb, config, p, verdict))
            return 0;
        if (host_rules_are_honoured()) {
            *verdict = host_rules_ask(skb, p);
            return 0;
        }
    }
    lan_packet_blur(skb, p);
    reason = flow_reserve(&p->key, &placement);
    if (reason > 0) {
        *verdict = connection_refuse(skb, p, reason);
        return 0;
    }
    if (placement)
        half_open_enter(config, &p->key, placement, &m->ended);
    return placement;
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
    struct nat_flow *flow;
    int verdict = TC_ACT_SHOT;
    __u64 judged = NOTHING_THERE;

    if (!config || !scratch || lan_packet_parse_first(skb, &p, CB_GET(skb, CB_LINK) & 15))
        return TC_ACT_UNSPEC;
    if (!packet_is_own_sockets(skb) && packet_is_martian(&p))
        return packet_refuse(REASON_MARTIAN);
    flow = nat_flows_v1.lookup(&p.key);
    if (flow)
        judged = flow_resume(skb, &p, flow, &verdict);
    if (judged == ATTEMPT_STAYS)
        return verdict;
    BLUR(skb, judged);
    lan_packet_blur(skb, &p);
    listener = listener_lookup(&p.key);
    if (!listener || (!packet_is_own_sockets(skb) && p.key.protocol == IPPROTO_UDP && udp_socket_asked(skb, &p)))
        return judged == NOTHING_THERE ? TC_ACT_UNSPEC : TC_ACT_SHOT;
    address_copy(scratch->client.client, p.key.from);
    scratch->has_affinity = listener->affinity_s;
    if (flow && judged != NOTHING_THERE) {
        placement = attempt_renew(&p.key, flow, judged, listener, scratch);
    } else {
        placement = flow_begin(skb, config, &p, scratch, &verdict);
        if (placement)
            scratch->service = listener_choose_service(listener, &scratch->client, placement);
    }
    /* Parsed anew, what was known of the packet is no matter to the verifier here: else it walks the rest once for each kind
     * of packet and way that leads here. */
    if (!placement || lan_packet_parse_first(skb, &p, CB_GET(skb, CB_LINK) & 15))
        return verdict;
    scratch->key = p.key;
    address_copy(placement->listener, p.key.to);
    placement->listener_port = p.key.to_port;
    placement->protocol = p.key.protocol;
    placement->need = SLOT_IN | (p.v6 ? SLOT_T6 : SLOT_T4);
    placement->prefer6 = p.v6;
    placement->preserves_src =
        !packet_is_own_sockets(skb) && (listener->flags & LISTENER_PRESERVES_SRC) && client_is_announced(&p);
    nat_programs_v1.call(skb, NAT_PLACE);
    return TC_ACT_SHOT;
}
