/* The life of a flow: its two directions, the TCP state, the end. */
#ifndef SKEDGE_LAN_FLOW_H
#define SKEDGE_LAN_FLOW_H

#define TCP_FIN 0x01
#define TCP_TURNS (TCP_FIN | TCP_SYN | TCP_RST)

INLINE void copy_address(__u32 *to, const __u32 *from)
{
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
}

/* The key of the packets that answer what @flow rewrites. */
INLINE void answer_key(const struct nat_flow *flow, __u32 protocol, struct nat_key *key)
{
    copy_address(key->from, flow->to);
    copy_address(key->to, flow->from);
    key->from_port = flow->to_port;
    key->to_port = flow->from_port;
    key->protocol = protocol;
}

/* Give the placement of a flow back. @key is the forward direction's. */
INLINE void release_flow(struct nat_key *key, int refused)
{
    struct placement *placement = nat_placements_v1.lookup(key);

    if (placement)
        release(placement, refused);
}

INLINE void end_both(struct nat_flow *flow, struct nat_flow *other)
{
    __sync_fetch_and_or(&flow->state, FLOW_ENDED);
    if (other)
        __sync_fetch_and_or(&other->state, FLOW_ENDED);
}

/* A SYN, FIN or RST of one direction: keep it, and end the flow at the first RST or the second FIN. A RST that answers
 * the SYN is a refusal, as at connect time. A client that resets before its SYN was answered does not end the flow: the
 * workload remembers an old connection of this port (TIME_WAIT) and spoke of that one, which the reset ends; the SYN that
 * the client sends again must come by the same port. */
INLINE void track(struct nat_key *key, struct nat_flow *flow, __u8 tcp_flags)
{
    __u64 said = flow->state | (tcp_flags & TCP_TURNS), other_said;
    struct nat_flow *other;
    struct nat_key answer;
    int refused;

    answer_key(flow, key->protocol, &answer);
    other = nat_flows_v1.lookup(&answer);
    other_said = other ? other->state : 0;
    if ((tcp_flags & TCP_RST) && !(said & FLOW_REPLY) && other && !(other_said & FLOW_SYN))
        return;
    if ((said & FLOW_FIN) && (said & FLOW_REPLY) && !(other_said & FLOW_FIN))
        said |= FLOW_PASSIVE;
    __sync_fetch_and_or(&flow->state, said & (TCP_TURNS | FLOW_PASSIVE));
    if (!(said & FLOW_RST) && !((said & FLOW_FIN) && (other_said & FLOW_FIN)))
        return;
    if (said & FLOW_ENDED)
        return;
    end_both(flow, other);
    refused = (said & FLOW_REPLY) && (said & FLOW_RST) && !(said & FLOW_SYN);
    release_flow(said & FLOW_REPLY ? &answer : key, refused);
}

/* Take hold of a flow by its reply entry: whoever succeeds, and nobody else, may take the flow away. */
INLINE int claim(struct nat_flow *reply)
{
    __u64 state = reply->state;

    return !(state & FLOW_TAKEN) && __sync_val_compare_and_swap(&reply->state, state, state | FLOW_TAKEN) == state;
}

/* Take a flow away, with all of its entries. @key is the forward direction's. Returns -1 when another processor is
 * about to. */
INLINE int forget(struct nat_key *key, struct nat_flow *flow, int refused)
{
    struct nat_flow *reply;
    struct nat_key answer;

    if (KIND_OF(flow->state) != KIND_LOCAL) {
        answer_key(flow, key->protocol, &answer);
        reply = nat_flows_v1.lookup(&answer);
        if (reply && !claim(reply))
            return -1;
        nat_flows_v1.delete(&answer);
    }
    release_flow(key, refused);
    nat_flows_v1.delete(key);
    nat_placements_v1.delete(key);
    return 0;
}

#endif
