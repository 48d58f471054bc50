/* How a flow comes into being: a NAT port, and an entry for each direction. */
#ifndef SKEDGE_NAT_FLOW_PORT_ALLOC_H
#define SKEDGE_NAT_FLOW_PORT_ALLOC_H

#include "nat/flow/scratch.h"

#define PORT_TRIES 64
#define PASSIVE_TRIES 48 /* until here, ports that the workload may have in TIME_WAIT are left alone */
#define RESTING_TRIES 24 /* until here, ports of connections that were reset a moment ago */
#define PASSIVE_TRIES_REMOTE 4 /* other sites' hosts take such a port, at about the cost of as many tries */

/* A placement of nothing. */
BPF_ARRAY(nat_nothing, struct placement, 1);

/* What an exchange of all addresses of a packet changes in a checksum. The prefixes of mapped addresses are equal. */
INLINE __u32 flow_checksum_diff(struct nat_key *key, struct nat_flow *flow)
{
    return (__u32)bpf_csum_diff((void *)key->from, 32, (void *)flow->from, 32, 0);
}

/* Whether the flow comes from this site's own address for NAT, which has all the ports. */
INLINE int flow_is_from_nat_address(const struct nat_addresses *nat, const struct nat_flow *flow)
{
    const __u32 *from = flow->from;

    if (!from[0])
        return nat->own4 && from[3] == nat->own4;
    return !((nat->own6[0] ^ from[0]) | (nat->own6[1] ^ from[1]) | (nat->own6[2] ^ from[2]) | (nat->own6[3] ^ from[3]));
}

#define TRY_ANOTHER 0x100ull
#define PORT_HELD 0x101ull
#define RESET_RESTS_NS 2000000000ull /* so long after a reset the next packet would show that it was none */

/* Whether a port may not be taken over, as its flow lives, or is better left alone: the workload may have it in TIME_WAIT (not
 * asked with @passive), or it was reset a moment ago, or still has packets (not asked with @resting). No branch: the verifier
 * walks all tries. */
INLINE __u64 port_is_spared(const struct nat_flow *old, __u64 state, __u64 now, __u64 passive, __u64 resting)
{
    __u64 spared = (~state & FLOW_ENDED) | (state & FLOW_TAKEN) | (state & FLOW_PASSIVE & (passive - 1));
    __u64 rests = (now - old->seen - RESET_RESTS_NS) >> 63;

    OPAQUE(rests);
    spared |= state & FLOW_RESET & (resting - 1) & (0 - rests);
    OPAQUE(spared);
    return spared;
}

/* The NAT ports that a flow may have. */
struct port_range {
    __u32 low;
    __u32 size;
};

INLINE void port_range_choose(const struct nat_config *config, const struct nat_flow *flow, struct port_range *range)
{
    __u32 zero = 0;
    struct nat_addresses *nat = nat_addresses_v1.lookup(&zero);

    range->low = config->low;
    range->size = (__u32)config->high - config->low + 1;
    if (nat && flow_is_from_nat_address(nat, flow)) {
        range->low = nat->low;
        range->size = (__u32)nat->high - nat->low + 1;
    }
}

/* Put the reply entry under one port (@own: the client's) that is free, or take hold of that of a flow which has ended. The
 * port becomes flow.from_port. Returns 0, PORT_HELD with the state of what is held, TRY_ANOTHER or REASON_TABLE_FULL. */
INLINE __u64 port_try(const struct port_range *range, struct scratch *m, int own, __u64 passive, __u64 resting,
                      __u64 *state)
{
    struct nat_flow *old;
    __u64 is;

    m->flow.from_port = own ? m->reply.to_port : bpf_htons(range->low + bpf_get_prandom_u32() % range->size);
    m->answer.to_port = m->flow.from_port;
    if (!nat_flows_v1.insert(&m->answer, &m->reply))
        return 0;
    old = nat_flows_v1.lookup(&m->answer);
    if (!old)
        return REASON_TABLE_FULL;
    is = *state = state_read(old);
    /* One exchange, and not as many as state_change() tries: a port that another processor is at is not the only one. */
    if (port_is_spared(old, is, m->reply.seen, passive, resting) ||
        __sync_val_compare_and_swap(&old->state, is, is | FLOW_TAKEN) != is)
        return TRY_ANOTHER;
    if (nat_flows_v1.lookup(&m->answer) == old)
        return PORT_HELD;
    __sync_fetch_and_and(&old->state, ~FLOW_TAKEN); /* its memory was another flow's already, which is left as it was */
    return TRY_ANOTHER;
}

/* Take the port over that is held. Returns 0 or REASON_TABLE_FULL. */
INLINE int port_take_over(struct scratch *m, __u64 state)
{
    struct nat_flow *old = nat_flows_v1.lookup(&m->answer);

    if (old) { /* nobody else deletes it */
        flow_reply_key(old, m->answer.protocol, &m->ended);
        flow_delete_held(&m->ended, state);
    }
    if (!nat_flows_v1.update(&m->answer, &m->reply))
        return 0;
    nat_flows_v1.delete(&m->answer);
    return REASON_TABLE_FULL;
}

/* Find a port; with the client's address its port is preserved, unless it has that in use to the same workload by another
 * listener. Returns 0, REASON_NO_PORT or REASON_TABLE_FULL. The result of a try is hidden from the compiler: Linux 6.1
 * refuses the loop that it would make of it otherwise ("back-edge"). The verifier walks what is in the loop once for each try. */
INLINE int port_allocate(const struct nat_config *config, struct scratch *m)
{
    __u64 spared = m->kind == KIND_REMOTE ? PASSIVE_TRIES_REMOTE : PASSIVE_TRIES;
    struct port_range range;
    __u64 result = TRY_ANOTHER, state = 0, passive;

    port_range_choose(config, &m->flow, &range);
    BLUR(config, spared);
#pragma clang loop unroll(disable)
    for (__u64 i = 0; i < PORT_TRIES; i++) {
        passive = (spared - 1 - i) >> 63; /* no comparison, of which the verifier would learn something of the number */
        OPAQUE(passive);
        result = port_try(&range, m, m->preserves_src && !i, passive, i >= RESTING_TRIES, &state);
        OPAQUE(result);
        if (result != TRY_ANOTHER)
            break;
    }
    if (result == PORT_HELD)
        return port_take_over(m, state);
    return result == TRY_ANOTHER ? REASON_NO_PORT : result;
}

/* Make the flow of packets like @key; the scratch has its generation. Returns 0, the reason why not, or -1 when its placement
 * was taken away. */
INLINE int flow_create(const struct nat_config *config, struct nat_key *key, struct scratch *m)
{
    __u64 kind = m->kind;
    int reason;

    m->flow.seen = m->reply.seen = bpf_ktime_get_coarse_ns();
    m->reply.state = m->flow.state | kind << FLOW_KIND_SHIFT | FLOW_REPLY;
    m->flow.state |= kind << FLOW_KIND_SHIFT | (key->protocol == IPPROTO_TCP ? FLOW_SYN : 0);
    address_copy(m->reply.from, key->to);
    address_copy(m->reply.to, key->from);
    m->reply.from_port = key->to_port;
    m->reply.to_port = key->from_port;
    flow_reply_key(&m->flow, key->protocol, &m->answer);
    m->reply.sum = flow_checksum_diff(&m->answer, &m->reply);
    m->flow.sum = flow_checksum_diff(key, &m->flow);
    reason = port_allocate(config, m);
    if (reason)
        return reason;
    reason = flow_insert(key, &m->flow);
    if (reason)
        nat_flows_v1.delete(&m->answer);
    return reason;
}

/* Reserve the flow's place, before anything is counted: only one processor gets it. Returns 0 with the room for the
 * placement in *room, or the reason why there is none, or -1 while another processor makes this very flow. */
INLINE int flow_reserve(struct nat_key *key, struct placement **room)
{
    __u32 zero = 0;
    struct placement *nothing = nat_nothing.lookup(&zero);

    if (!nothing)
        return REASON_TABLE_FULL;
    if (nat_placements_v1.insert(key, nothing))
        return nat_placements_v1.lookup(key) ? -1 : REASON_TABLE_FULL;
    *room = nat_placements_v1.lookup(key);
    if (!*room)
        return -1;
    (*room)->placed_at = (*room)->seen = bpf_ktime_get_ns();
    return 0;
}

/* This host's own address that a workload of this site sees as its client. */
INLINE int lan_source_lookup(const __u32 *target, struct nat_flow *flow)
{
    struct nat_address to = {};
    struct nat_address *from;

    address_copy(to.word, target);
    from = nat_sources_v1.lookup(&to);
    if (!from)
        return REASON_NO_ROUTE;
    address_copy(flow->from, from->word);
    return 0;
}

/* What the workload sees as its client: this site's address for NAT where there is one (@far: and all sites know it),
 * else its overlay address. */
INLINE void flow_set_overlay_source(const struct config *config, int v6, int far, struct nat_flow *flow)
{
    __u32 zero = 0;
    struct nat_addresses *nat = nat_addresses_v1.lookup(&zero);
    int known = nat && (!far || nat->flags & NAT_TOWARDS_SITES);

    if (v6) {
        address_copy(flow->from, config->overlay6);
        if (known && nat->own6[0])
            address_copy(flow->from, nat->own6);
    } else {
        flow->from[0] = flow->from[1] = 0;
        flow->from[2] = MAPPED_PREFIX;
        flow->from[3] = known && nat->own4 ? nat->own4 : config->overlay4;
    }
}

#endif
