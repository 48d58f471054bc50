/* The life of a flow, and who may do what to it at the same time as others.
 *
 * A flow is three elements: the placement under its forward key K, the forward entry under K, and the reply entry under the
 * answer's key, which is the hold on the NAT port (KIND_LOCAL has none). Elements are recycled at once: a pointer may lead to
 * another flow's element a moment after its lookup, and K may have a new flow. So:
 *
 * 1. Every flow has a generation, in the upper half of both state words, made of its placement's placed_at. A state word is
 *    changed by an exchange of the whole word (state_change()), so a change meets the flow that was looked up, or nobody. What
 *    a word is judged by is read after it, and its two entries must name each other (flow_other()).
 * 2. Say first, then look: what a packet says is in its own direction's word before the other's is read. Of two FINs at the
 *    same moment at least one sees both.
 * 3. Ended once: who sets ENDING in the forward word gives the count back, then sets ENDED, in the forward word first. Nobody
 *    deletes the flow between the two, so the placement is this flow's.
 * 4. Freed last, by one: who sets TAKEN in the reply word (of KIND_LOCAL: in the forward word) may delete the flow, take its
 *    port over or revive it. The forward entry goes first, then the placement, which opens K for a new flow, then the port.
 * 5. A flow is made in the reverse order: the placement is inserted (one processor gets K), then the reply entry (one gets the
 *    port), then the forward entry.
 *
 * Programs of older versions, for the moment that both are attached, know TAKEN and ENDED in the reply word and the exchange
 * of a placement's word; their flows have generation 0, which is not checked. */
#ifndef SKEDGE_NAT_FLOW_CONNTRACK_H
#define SKEDGE_NAT_FLOW_CONNTRACK_H

#define STATE_TRIES 6 /* a word gains a few bits in its life, so an exchange can fail a few times only */

INLINE void address_copy(__u32 *to, const __u32 *from)
{
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
}

/* The key of the packets that answer what @flow rewrites. */
INLINE void flow_reply_key(const struct nat_flow *flow, __u32 protocol, struct nat_key *key)
{
    address_copy(key->from, flow->to);
    address_copy(key->to, flow->from);
    key->from_port = flow->to_port;
    key->to_port = flow->from_port;
    key->protocol = protocol;
}

/* Whether @flow is the other direction of packets with this key. */
INLINE int flow_answers(const struct nat_flow *flow, const struct nat_key *key)
{
    __u32 differs = (__u32)(flow->to_port ^ key->from_port) | (__u32)(flow->from_port ^ key->to_port);

    for (int i = 0; i < 4; i++)
        differs |= (flow->to[i] ^ key->from[i]) | (flow->from[i] ^ key->to[i]);
    return !differs;
}

INLINE __u64 state_read(const struct nat_flow *flow)
{
    return *(const volatile __u64 *)&flow->state;
}

INLINE int generations_differ(__u64 state, __u64 other)
{
    return (state ^ other) >> FLOW_GENERATION_SHIFT != 0;
}

/* The generation of the flow that has this placement, where a state word has it. Never 0. */
INLINE __u64 flow_generation(const struct placement *placement)
{
    return (placement->placed_at | 1) << FLOW_GENERATION_SHIFT;
}

INLINE int placement_is_of(const struct placement *placement, __u64 state)
{
    return !(state >> FLOW_GENERATION_SHIFT) || !generations_differ(flow_generation(placement), state);
}

/* Set bits in the word of the flow whose state was @state. Returns the word as it is then; 0 when the flow is gone, or any
 * of the bits @unless is set. */
INLINE __u64 state_change(struct nat_flow *flow, __u64 state, __u64 bits, __u64 unless)
{
    __u64 is = state_read(flow), was, wrong;

#pragma clang loop unroll(disable)
    for (int i = 0; i < STATE_TRIES; i++) {
        /* One branch for both questions: this is in some thirty places, and the verifier walks all tries in each. */
        wrong = (is ^ state) >> FLOW_GENERATION_SHIFT | (is & unless);
        OPAQUE(wrong);
        if (wrong)
            return 0;
        was = __sync_val_compare_and_swap(&flow->state, is, is | bits);
        if (was == is)
            return is | bits;
        is = was;
    }
    return 0;
}

/* Return the flow's other direction, 0 where there is none (any more). @key, @state: of @flow, and @state was read after @flow
 * was looked up. The key of the other is left in @answer. */
INLINE struct nat_flow *flow_other(const struct nat_key *key, const struct nat_flow *flow, __u64 state,
                                   struct nat_key *answer)
{
    struct nat_flow *other;

    flow_reply_key(flow, key->protocol, answer);
    other = nat_flows_v1.lookup(answer);
    if (!other || !flow_answers(other, key) || generations_differ(state_read(other), state))
        return 0;
    return other;
}

/* End a flow: give the count back, and say so. @key is the forward direction's, @state its word; @reply is 0 for KIND_LOCAL.
 * @how: 0 or FLOW_RESET. Returns -1 when another processor has ended it, or is about to. */
INLINE int flow_end(struct nat_key *key, struct nat_flow *forward, __u64 state, struct nat_flow *reply, __u64 how,
                    int refused)
{
    struct placement *placement;

    if (!state_change(forward, state, FLOW_ENDING, FLOW_ENDING | FLOW_ENDED))
        return -1;
    placement = nat_placements_v1.lookup(key);
    if (placement && placement_is_of(placement, state))
        placement_release(placement, refused);
    state_change(forward, state, FLOW_ENDED | how, 0);
    if (reply)
        state_change(reply, state, FLOW_ENDED | how, 0);
    return 0;
}

/* Put the forward entry in its place. Returns 0, REASON_TABLE_FULL, or -1 when the placement was taken away meanwhile, as
 * the machine stood still for so long that this looked like a flow that nobody goes on making (nat/iterate.c). */
INLINE int flow_insert(struct nat_key *key, struct nat_flow *flow)
{
    struct placement *placement = nat_placements_v1.lookup(key);
    __u64 at;

    if (!placement)
        return -1;
    at = *(volatile __u64 *)&placement->placed_at;
    if (nat_flows_v1.insert(key, flow))
        return REASON_TABLE_FULL;
    if (placement_is_of(placement, flow->state) && __sync_val_compare_and_swap(&placement->placed_at, at, at) == at)
        return 0;
    nat_flows_v1.delete(key);
    return -1;
}

/* Take back what was reserved and counted for a flow that does not come to be. @state has its generation. */
INLINE void flow_abolish(struct nat_key *key, __u64 state, int refused)
{
    struct placement *placement = nat_placements_v1.lookup(key);

    if (!placement || !placement_is_of(placement, state))
        return;
    placement_release(placement, refused);
    nat_placements_v1.delete(key);
}

/* Delete forward entry and placement of a flow that the caller holds (TAKEN); @state has its generation. A count that is
 * still there is an older version's. */
INLINE void flow_delete_held(struct nat_key *key, __u64 state)
{
    struct placement *placement = nat_placements_v1.lookup(key);

    if (placement && !placement_is_of(placement, state))
        return;
    if (placement)
        placement_release(placement, 0);
    nat_flows_v1.delete(key);
    nat_placements_v1.delete(key);
}

/* Delete a flow, with all of its entries. @key is the forward direction's, @state its word as it was judged by. Returns -1
 * when it is not there any more, or another processor is at it. */
INLINE int flow_delete(struct nat_key *key, struct nat_flow *flow, __u64 state, int refused)
{
    struct placement *placement = nat_placements_v1.lookup(key);
    struct nat_flow *reply = 0, *held = flow;
    struct nat_key answer;
    __u64 is;

    if (placement && !placement_is_of(placement, state))
        return -1;
    if (KIND_OF(state) != KIND_LOCAL) {
        reply = flow_other(key, flow, state, &answer);
        if (reply)
            held = reply;
    }
    if (!state_change(held, state, FLOW_TAKEN, FLOW_TAKEN))
        return -1;
    is = state_read(flow);
    if (!(is & FLOW_ENDED) && flow_end(key, flow, state, 0, 0, refused)) {
        __sync_fetch_and_and(&held->state, ~FLOW_TAKEN);
        return -1;
    }
    flow_delete_held(key, state);
    if (reply)
        nat_flows_v1.delete(&answer);
    return 0;
}

#endif
