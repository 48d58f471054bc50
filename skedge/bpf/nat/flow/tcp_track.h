/* What the packets of a TCP connection say of its life. A flow ends at the second FIN, or at a reset that its receiver may
 * believe: the programs do not follow every number, but the workload's packets leave theirs in the reply entry about once a
 * tick, which tells nearly all forged resets. One that is forged well enough ends the flow for the programs only: its port
 * rests, and the next packet of the side that is said to have reset revives the flow and counts it again. */
#ifndef SKEDGE_NAT_FLOW_TCP_TRACK_H
#define SKEDGE_NAT_FLOW_TCP_TRACK_H

#include "nat/flow/complaints.h"

#define TCP_FIN 0x01
#define TCP_TURNS (TCP_FIN | TCP_SYN | TCP_RST)
/* A reset's number may be ahead of what was stored by all that is on its way: the largest window in use, and what a fast link
 * carries in a tick. */
#define RESET_AHEAD (1u << 26)
#define RESET_BEHIND (1u << 22)

INLINE int tcp_numbers_load(struct __sk_buff *skb, const struct lan_packet *p, __u32 *sequence, __u32 *acknowledged)
{
    __u32 both[2];

    if (bpf_skb_load_bytes(skb, p->l4 + 4, both, sizeof(both)))
        return -1;
    *sequence = bpf_ntohl(both[0]);
    *acknowledged = bpf_ntohl(both[1]);
    return 0;
}

/* The sequence number that a SYN's receiver waits for next, 0 where it cannot be read (never else). */
INLINE __u32 tcp_number_next(struct __sk_buff *skb, const struct lan_packet *p)
{
    __u32 sequence, acknowledged;

    if (tcp_numbers_load(skb, p, &sequence, &acknowledged))
        return 0;
    return sequence + 1 ? sequence + 1 : 1;
}

INLINE int tcp_number_is_near(__u32 number, __u32 stored)
{
    return number - stored + RESET_BEHIND <= RESET_AHEAD + RESET_BEHIND;
}

/* Keep the numbers of the workload's packet: by an exchange with what was there before the word was read, as the element may
 * be another flow's by now. */
INLINE void flow_store_numbers(struct __sk_buff *skb, const struct lan_packet *p, struct nat_flow *flow)
{
    __u64 old = *(volatile __u64 *)&flow->placed;
    __u32 sequence, acknowledged;

    if ((p->tcp_flags & (TCP_ACK | TCP_RST)) != TCP_ACK || !(state_read(flow) & FLOW_REPLY) || !old ||
        tcp_numbers_load(skb, p, &sequence, &acknowledged))
        return;
    __sync_val_compare_and_swap(&flow->placed, old, (__u64)sequence << 32 | acknowledged);
}

/* A client's packet after a pause: sent again, or the first one after all was acknowledged. Either way its number is that of
 * the first byte that is not, which the workload's packets need not have told: they are looked at once a tick. */
INLINE void flow_store_unanswered(struct __sk_buff *skb, const struct lan_packet *p, const struct nat_flow *flow)
{
    struct nat_flow *reply;
    struct nat_key answer;
    __u32 sequence, acknowledged;
    __u64 state = state_read(flow), old;

    if ((p->tcp_flags & (TCP_ACK | TCP_TURNS)) != TCP_ACK || (state & FLOW_REPLY) || KIND_OF(state) != KIND_REMOTE)
        return;
    reply = flow_other(&p->key, flow, state, &answer);
    old = reply ? *(volatile __u64 *)&reply->placed : 0;
    if (old && !tcp_numbers_load(skb, p, &sequence, &acknowledged))
        __sync_val_compare_and_swap(&reply->placed, old, old >> 32 << 32 | sequence);
}

/* Keep the number of a SYN that is not answered yet: the client may have begun anew. */
INLINE void flow_store_syn(struct __sk_buff *skb, const struct lan_packet *p, struct nat_flow *reply, __u64 said)
{
    __u64 old = *(volatile __u64 *)&reply->placed, state = state_read(reply);

    if (old && !generations_differ(state, said) && !(state & FLOW_SYN))
        __sync_val_compare_and_swap(&reply->placed, old, (__u64)tcp_number_next(skb, p));
}

/* Whether the receiver of a reset may believe it. @said: of the sender's direction. Before the workload's SYN its reset must
 * acknowledge the client's. */
INLINE int reset_is_plausible(struct __sk_buff *skb, const struct lan_packet *p, const struct nat_flow *reply, __u64 said)
{
    __u64 stored = *(const volatile __u64 *)&reply->placed;
    __u32 sequence, acknowledged;

    if (!stored) /* of an older version's flow nothing is known */
        return 1;
    if (tcp_numbers_load(skb, p, &sequence, &acknowledged))
        return 0;
    if (!(said & FLOW_REPLY))
        return tcp_number_is_near(sequence, (__u32)stored);
    return said & FLOW_SYN ? tcp_number_is_near(sequence, stored >> 32) : tcp_number_is_near(acknowledged, (__u32)stored);
}

/* A SYN, FIN or RST of one direction: say it, and end the flow at the first RST or the second FIN. A RST that answers the SYN
 * is a refusal, as at connect time. A client that resets before its SYN was answered does not end the flow: the workload has
 * an old connection of this port in TIME_WAIT and spoke of that one, which the reset ends; the SYN that the client sends
 * again must come by the same port. */
INLINE void flow_track(struct __sk_buff *skb, struct lan_packet *p, struct nat_flow *flow)
{
    __u64 said = state_read(flow), bits = p->tcp_flags & TCP_TURNS, heard;
    struct nat_flow *other, *reply;
    struct nat_key answer;
    int refused;

    other = flow_other(&p->key, flow, said, &answer);
    if (!other)
        return;
    reply = said & FLOW_REPLY ? flow : other;
    heard = state_read(other);
    if (bits & TCP_RST) {
        if ((!(said & FLOW_REPLY) && !(heard & FLOW_SYN)) || !reset_is_plausible(skb, p, reply, said))
            return;
    } else if (bits & TCP_SYN) {
        if (said & FLOW_REPLY) {
            flow_store_numbers(skb, p, flow);
            workload_answered(other->placed);
        } else {
            flow_store_syn(skb, p, reply, said);
        }
    }
    if (((said | bits) & FLOW_FIN) && (said & FLOW_REPLY) && !(heard & FLOW_FIN))
        bits |= FLOW_PASSIVE;
    said = state_change(flow, said, bits, 0);
    heard = state_read(other);
    if (!said || generations_differ(said, heard) || !((said & FLOW_RST) || (said & heard & FLOW_FIN)))
        return;
    refused = (said & FLOW_REPLY) && (said & FLOW_RST) && !((said & FLOW_SYN) | (heard & FLOW_ACK)) &&
              workload_refuses(&answer, other->placed);
    if (!(said & FLOW_REPLY))
        answer = p->key; /* of the forward direction, either way */
    flow_end(&answer, said & FLOW_REPLY ? other : flow, said, reply, said & FLOW_RST ? FLOW_RESET : 0, refused);
}

/* A reset of a client whose connection is on its way to a socket of this host. */
INLINE void flow_track_assigned(struct __sk_buff *skb, struct lan_packet *p, struct nat_flow *flow)
{
    struct placement *placement = nat_placements_v1.lookup(&p->key);
    __u64 said = state_read(flow);
    __u32 sequence, acknowledged, next = flow->sum;

    if (!placement || !placement_is_of(placement, said) || tcp_numbers_load(skb, p, &sequence, &acknowledged))
        return;
    if ((said >> FLOW_GENERATION_SHIFT) && !tcp_number_is_near(sequence, next))
        return;
    said = state_change(flow, said, FLOW_RST, 0);
    if (said)
        flow_end(&p->key, flow, said, 0, FLOW_RESET, 0);
}

/* Take back the end of a flow by a reset that was none. The caller holds it. @key is the forward direction's. */
INLINE void flow_count_again(struct nat_key *key, struct nat_flow *forward, __u64 state)
{
    struct placement *placement = nat_placements_v1.lookup(key);
    __u64 word = 0;

    if (placement && placement_is_of(placement, state) && forward->placed)
        word = workload_count_again(forward->placed);
    if (word)
        __sync_lock_test_and_set(&placement->placed, word);
}

/* A packet of the side that is said to have reset: it has not. */
INLINE void flow_revive(struct lan_packet *p, struct nat_flow *flow, __u64 state)
{
    struct nat_flow *other, *forward, *reply;
    struct nat_key answer;

    other = flow_other(&p->key, flow, state, &answer);
    if (!other || (state & state_read(other) & FLOW_FIN))
        return;
    forward = state & FLOW_REPLY ? other : flow;
    reply = state & FLOW_REPLY ? flow : other;
    if (!state_change(reply, state, FLOW_TAKEN, FLOW_TAKEN))
        return;
    if (state_read(forward) & FLOW_ENDED) {
        if (!(state & FLOW_REPLY))
            answer = p->key;
        flow_count_again(&answer, forward, state);
        __sync_fetch_and_and(&reply->state, ~(FLOW_ENDED | FLOW_RESET | FLOW_RST));
        __sync_fetch_and_and(&forward->state, ~(FLOW_ENDED | FLOW_ENDING | FLOW_RESET | FLOW_RST));
    }
    __sync_fetch_and_and(&reply->state, ~FLOW_TAKEN);
}

/* The first packet after a direction's SYN, or one of a flow that has ended. */
INLINE void flow_goes_on(struct lan_packet *p, struct nat_flow *flow)
{
    __u64 state = state_read(flow);

    if (!(state & FLOW_ACK))
        state_change(flow, state, FLOW_ACK, 0);
    if ((state & (FLOW_ENDED | FLOW_RST)) == (FLOW_ENDED | FLOW_RST) && p->key.protocol == IPPROTO_TCP)
        flow_revive(p, flow, state);
}

#endif
